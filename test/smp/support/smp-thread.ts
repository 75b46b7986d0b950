/** Worker of an SMP test: runs one vCPU until its program is done, or the machine's timers. */
import { parentPort, workerData } from "node:worker_threads";
import { ExitReason, type Vcpu } from "../../../src/hypervisor/seam.js";
import { DONE_PORT, FAULT_PORT } from "../../guests/support/asm.js";
import { makeVm, type SharedVmData } from "./shared-vm.js";

/** A program writes the number of the source line here that found something wrong. */
export const FAIL_PORT = 0xe8;

export interface SmpThreadData {
  readonly data: SharedVmData;
  /** Number of the vCPU, or "timers". */
  readonly role: number | "timers";
}

/** What a vCPU's thread tells at its end; `problem` is undefined where the program came to its own. */
export interface SmpReport {
  readonly problem: string | undefined;
  /** What was written to DONE_PORT. */
  readonly value: number;
  readonly debugExits: readonly DebugExit[];
}

type DebugExit = Vcpu["exit"]["debug"];

/** Debug exits that are kept to be told. */
const MAX_DEBUG_EXITS = 1000;
const BREAKPOINT = 3;
const RF = 1n << 16n;

function runVcpu(id: number, data: SharedVmData): SmpReport {
  const { vm, guestMemory } = makeVm(data, false);
  const vcpu = vm.vcpu(id);
  const { exit } = vcpu;
  const debugExits: DebugExit[] = [];
  const failed = (problem: string): SmpReport => ({
    problem: `vCPU ${id}: ${problem}`,
    value: 0,
    debugExits,
  });
  const where = () => `RIP 0x${vcpu.getRegs().rip.toString(16)}`;
  for (;;) {
    switch (vcpu.run()) {
      case ExitReason.IO: {
        if (!exit.isWrite) {
          exit.data.fill(0xff);
          break;
        }
        const value = new DataView(exit.data.buffer, exit.data.byteOffset).getUint32(0, true);
        if (exit.port === DONE_PORT) return { problem: undefined, value: value & 0xff, debugExits };
        if (exit.port === FAIL_PORT) return failed(`line ${value} of the program`);
        if (exit.port === FAULT_PORT) {
          const { rip, rsp } = vcpu.getRegs();
          const frame = [0, 1, 2].map((i) =>
            guestMemory.readU64((Number(rsp) + 8 * i) as never).toString(16),
          );
          return failed(`an exception, handler at 0x${rip.toString(16)}, frame ${frame.join(" ")}`);
        }
        break;
      }
      case ExitReason.DEBUG: {
        if (debugExits.length < MAX_DEBUG_EXITS) debugExits.push({ ...exit.debug });
        const regs = vcpu.getRegs();
        // Past INT3, where a NOP was; past an instruction breakpoint. After a data breakpoint RF does no harm.
        if (exit.debug.exception === BREAKPOINT) vcpu.setRegs({ ...regs, rip: regs.rip + 1n });
        else vcpu.setRegs({ ...regs, rflags: regs.rflags | RF });
        break;
      }
      case ExitReason.INTR:
        return failed(`not done in time, ${where()}`);
      case ExitReason.SHUTDOWN:
        return failed(`triple fault, ${where()}`);
      default:
        return failed(`exit ${exit.reason}, ${where()}`);
    }
  }
}

const { data, role } = workerData as SmpThreadData;
if (role === "timers") makeVm(data, false).timers.run();
else parentPort?.postMessage(runVcpu(role, data));
