/**
 * Worker: port exits of a guest on KVM, counted for a while, through all that the machine does for each: the vCPU's loop
 * (machine/vcpu-runner.ts), the port bus, a device.
 */
import { parentPort, workerData } from "node:worker_threads";
import koffi from "koffi";
import { MmioBus, PortBus } from "../src/devices/bus.js";
import { EndReason } from "../src/machine/exit-status.js";
import { Lifecycle } from "../src/machine/lifecycle.js";
import { VcpuMonitor } from "../src/machine/vcpu-monitor.js";
import { runVcpu } from "../src/machine/vcpu-runner.js";
import { SharedMemory } from "../src/memory/shared-memory.js";
import { StateAllocator } from "../src/memory/state-allocator.js";
import { makeMachine, startRealMode } from "../test/hypervisor/kvm/support/kvm-machine.js";

const { seconds } = workerData as { seconds: number };

const CLOCK_THREAD_CPUTIME_ID = 3;
const clockGettime = koffi.load(null).func("int clock_gettime(int, void *)");

/** Processor time of this thread in seconds, its share of the kernel's work included. */
function processorTime(): number {
  const time = new BigInt64Array(2);
  clockGettime(CLOCK_THREAD_CPUTIME_ID, time);
  return Number(time[0]) + Number(time[1]) / 1e9;
}

const machine = makeMachine();
// mov al, 0x41; out 0x80, al; jmp to the out
startRealMode(machine, "b041 e680 ebfc");
const state = SharedMemory.create(1 << 20);
const allocator = new StateAllocator(state, 64, 1 << 20);
const lifecycle = new Lifecycle(state, allocator);
const monitor = new VcpuMonitor(state, allocator, 0);

let exits = 0;
let sum = 0;
const from = performance.now();
const ports = new PortBus();
ports.register({
  owner: "counter",
  start: 0x80,
  size: 1,
  maxSize: 1,
  device: {
    read: () => 0,
    write(_offset, _size, value) {
      sum += value;
      if (++exits % 1000 === 0 && performance.now() - from >= 1000 * seconds) {
        lifecycle.end({ reason: EndReason.STOPPED });
      }
    },
  },
});
const none = { port: -1, serve() {}, written() {} };
lifecycle.setRunning(true);
const before = processorTime();
await runVcpu({
  vcpu: machine.vcpu,
  monitor,
  lifecycle,
  guestMemory: machine.guestMemory,
  buses: { ports, mmio: new MmioBus() },
  output: none,
  debug: { ioport: false, mmio: false, singleStep: false },
  trace() {},
});
const taken = processorTime() - before;
machine.vm.close();
if (sum !== exits * 0x41) throw new Error("the exits had wrong data");
parentPort?.postMessage({ exits, seconds: taken });
