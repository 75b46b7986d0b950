/** Worker: runs one vCPU and serves its exits. */
import { parentPort, workerData } from "node:worker_threads";
import { namedDevices } from "./cpu-profile.js";
import { traceLine } from "./log.js";
import { registerDump } from "./register-dump.js";
import { enterThread, RUNNING, type ThreadData } from "./thread-data.js";
import { wakePunctually } from "./timer-slack.js";
import { runVcpu } from "./vcpu-runner.js";

const data = workerData as ThreadData;

await enterThread(`vcpu-${data.id}`, data, async (board) => {
  const { lifecycle, clock, guestMemory, output } = board;
  wakePunctually();
  const vcpu = board.vm.vcpu(data.id);
  const monitor = board.monitors[data.id];
  // Before the first wait: a machine may be paused, and asked for a dump, before it ever ran.
  lifecycle.onAttention = () => monitor.answer(() => registerDump(vcpu, guestMemory));
  lifecycle.waitUntilRunning();
  if (data.id === 0) {
    lifecycle.firstRun = clock.now();
    parentPort?.postMessage(RUNNING);
  }
  const { debug } = data.config;
  try {
    await runVcpu({ vcpu, monitor, lifecycle, guestMemory, buses: board, output, debug, trace: traceLine });
  } finally {
    lifecycle.vcpuStopped();
    const profile = vcpu.profile?.();
    if (profile !== undefined) parentPort?.postMessage({ profile: namedDevices(profile, board) });
  }
});
