/** KVM as a provider for guests, in one thread, with a second thread that watches over all machines of the process. */
import { MessageChannel, Worker } from "node:worker_threads";
import { makeMachine } from "../../hypervisor/kvm/support/kvm-machine.js";
import { RAM_BYTES } from "./environment.js";
import { onQemu } from "./limits.js";
import type { Provider } from "./machine.js";
import { Watch } from "./watch.js";

/** A guest that runs longer than this hangs. On QEMU making the software CPU that steps in takes most of it. */
const LIMIT_MILLISECONDS = onQemu ? 30_000 : 5000;

export interface KvmProvider extends Provider {
  close(): void;
}

interface Watchdog {
  readonly words: Int32Array;
  readonly machines: MessageChannel["port1"];
  count: number;
}

let watchdog: Watchdog | undefined;

function startWatchdog(): Watchdog {
  const words = new Int32Array(new SharedArrayBuffer(8)).fill(Watch.NOTHING, Watch.RUNNING);
  const { port1, port2 } = new MessageChannel();
  const worker = new Worker(new URL("./kvm-watchdog.js", import.meta.url), {
    workerData: { machines: port2, words: words.buffer, limit: LIMIT_MILLISECONDS },
    transferList: [port2],
  });
  worker.unref();
  port1.unref();
  return { words, machines: port1, count: 0 };
}

export function kvmProvider(cpus = 1): KvmProvider {
  const machine = makeMachine({ cpus, ram: [[0, RAM_BYTES]] });
  const { vm } = machine;
  for (let id = 0; id < cpus; id++) vm.vcpu(id).setCpuid(vm.supportedCpuid());
  watchdog ??= startWatchdog();
  const { words, machines } = watchdog;
  const number = watchdog.count++;
  machines.postMessage(machine.data);
  return {
    name: "kvm",
    vm,
    memory: machine.guestMemory,
    vcpu: vm.vcpu(0),
    watched(run) {
      Atomics.store(words, Watch.RUNNING, number);
      Atomics.add(words, Watch.BEATS, 1);
      Atomics.notify(words, Watch.BEATS);
      try {
        return run();
      } finally {
        Atomics.store(words, Watch.RUNNING, Watch.NOTHING);
      }
    },
    close() {
      // The watchdog sleeps, and nothing of this machine runs any more.
      vm.close();
    },
  };
}
