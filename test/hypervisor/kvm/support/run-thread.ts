/** Worker: runs vCPU 0 and posts each reason; before the first run it posts −1. */
import { parentPort, workerData } from "node:worker_threads";
import { attachMachine, type MachineData } from "./attach-machine.js";

const { machine, rounds = 1 } = workerData as { machine: MachineData; rounds?: number };
const { vcpu } = attachMachine(machine);
parentPort?.postMessage(-1);
for (let i = 0; i < rounds; i++) parentPort?.postMessage(vcpu.run());
