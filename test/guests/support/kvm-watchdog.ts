/** Worker: kicks the vCPUs of a guest that takes too long. */
import { workerData } from "node:worker_threads";
import { attachMachine, type MachineData } from "../../hypervisor/kvm/support/kvm-machine.js";
import { Watch } from "./kvm-provider.js";

const { machine, words, limit } = workerData as {
  machine: MachineData;
  words: SharedArrayBuffer;
  limit: number;
};
const { vm } = attachMachine(machine);
const shared = new Int32Array(words);
for (;;) {
  const seen = Atomics.load(shared, Watch.BEATS);
  const how = Atomics.wait(shared, Watch.BEATS, seen, limit);
  if (Atomics.load(shared, Watch.STOP) !== 0) break;
  if (how === "timed-out" && Atomics.load(shared, Watch.RUNNING) !== 0) {
    for (let id = 0; id < machine.cpus; id++) vm.vcpu(id).kick();
  }
}
