/** Worker: kicks the vCPUs of a guest that takes too long, whichever machine of the process runs it. */
import { type MessagePort, receiveMessageOnPort, workerData } from "node:worker_threads";
import { attachMachine, type MachineData } from "../../hypervisor/kvm/support/attach-machine.js";
import { Watch } from "./watch.js";

const { machines, words, limit } = workerData as {
  machines: MessagePort;
  words: SharedArrayBuffer;
  limit: number;
};
const shared = new Int32Array(words);
const known: MachineData[] = [];
for (;;) {
  const seen = Atomics.load(shared, Watch.BEATS);
  if (Atomics.wait(shared, Watch.BEATS, seen, limit) !== "timed-out") continue;
  const running = Atomics.load(shared, Watch.RUNNING);
  if (running === Watch.NOTHING || Atomics.load(shared, Watch.BEATS) !== seen) continue;
  for (let got = receiveMessageOnPort(machines); got !== undefined; got = receiveMessageOnPort(machines)) {
    known.push(got.message as MachineData);
  }
  const data = known[running];
  const { vm } = attachMachine(data);
  for (let id = 0; id < data.cpus; id++) vm.vcpu(id).kick();
}
