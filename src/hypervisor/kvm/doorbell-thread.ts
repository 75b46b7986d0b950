/** Worker: turns eventfds that the kernel signals into the words that the machine's threads wait on. */
import { workerData } from "node:worker_threads";
import { SharedMemory } from "../../memory/shared-memory.js";
import { type DoorbellThreadData, ringDoorbells } from "./doorbells.js";

const { memory, address } = workerData as DoorbellThreadData;
ringDoorbells(new SharedMemory(memory), address);
