/** Worker: runs one vCPU and serves its exits. */
import { parentPort, workerData } from "node:worker_threads";
import { traceLine } from "./log.js";
import { enterThread, RUNNING, type ThreadData } from "./thread-data.js";
import { runVcpu } from "./vcpu-runner.js";

const data = workerData as ThreadData;

await enterThread(`vcpu-${data.id}`, data, (board) => {
  const { lifecycle, clock, guestMemory, output } = board;
  const vcpu = board.vm.vcpu(data.id);
  if (data.id === 0) {
    lifecycle.firstRun = clock.now();
    parentPort?.postMessage(RUNNING);
  }
  const { debug } = data.config;
  runVcpu({ vcpu, lifecycle, guestMemory, buses: board, output, debug, trace: traceLine });
});
