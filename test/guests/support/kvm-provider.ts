/** KVM as a provider for guests, in one thread, with a second thread that watches over it. */
import { Worker } from "node:worker_threads";
import { makeMachine } from "../../hypervisor/kvm/support/kvm-machine.js";
import { RAM_BYTES } from "./environment.js";
import { onQemu } from "./limits.js";
import type { Provider } from "./machine.js";

/** A guest that runs longer than this hangs. On QEMU making the software CPU that steps in takes most of it. */
const LIMIT_MILLISECONDS = onQemu ? 60_000 : 5000;

/** QEMU's nested processor takes a TSS for one only while it is marked available. */
const TSS_BUSY = 2;

/** Words that the watchdog shares: beats, whether a guest runs, stop. */
export const Watch = { BEATS: 0, RUNNING: 1, STOP: 2 } as const;

export interface KvmProvider extends Provider {
  close(): void;
}

export function kvmProvider(cpus = 1): KvmProvider {
  const machine = makeMachine({ cpus, ram: [[0, RAM_BYTES]] });
  const { vm } = machine;
  for (let id = 0; id < cpus; id++) vm.vcpu(id).setCpuid(vm.supportedCpuid());
  const words = new Int32Array(new SharedArrayBuffer(12));
  const worker = new Worker(new URL("./kvm-watchdog.js", import.meta.url), {
    workerData: { machine: machine.data, words: words.buffer, limit: LIMIT_MILLISECONDS },
  });
  worker.unref();
  const beat = (index: number, value: number) => {
    Atomics.store(words, index, value);
    Atomics.add(words, Watch.BEATS, 1);
    Atomics.notify(words, Watch.BEATS);
  };
  return {
    name: "kvm",
    vm,
    memory: machine.guestMemory,
    vcpu: vm.vcpu(0),
    adjust(sregs) {
      if (onQemu) sregs.tr.type &= ~TSS_BUSY;
    },
    watched(run) {
      beat(Watch.RUNNING, 1);
      try {
        return run();
      } finally {
        Atomics.store(words, Watch.RUNNING, 0);
      }
    },
    close() {
      beat(Watch.STOP, 1);
      void worker.terminate().then(() => vm.close());
    },
  };
}
