/** Worker of io-threads.test.ts: is at a request until it is told to leave. */
import { workerData } from "node:worker_threads";
import { machineParts } from "./busy-machine.js";

const { memory, busy, leave } = workerData as { memory: WebAssembly.Memory; busy: number; leave: number };
const { lifecycle, threads, words } = machineParts(memory);
threads.whileRunning(lifecycle, () => {
  Atomics.store(words, busy, 1);
  Atomics.notify(words, busy);
  Atomics.wait(words, leave, 0);
  return false;
});
