/**
 * A vCPU's thread at work: run the guest, serve its exits here (DESIGN, 2), until the machine has ended.
 * Exits are those of KVM_RUN (Linux, Documentation/virt/kvm/api.rst, 5).
 */
import type { MmioBus, PortBus } from "../devices/bus.js";
import { ExitReason, type Vcpu, type VmExit } from "../hypervisor/seam.js";
import type { GuestMemory } from "../memory/guest-memory.js";
import type { DebugFlags } from "./config.js";
import { EndReason } from "./exit-status.js";
import { type Lifecycle, Phase } from "./lifecycle.js";
import { registerDump } from "./register-dump.js";
import type { VcpuMonitor } from "./vcpu-monitor.js";

/** `kvm_run.system_event.type`. */
const SYSTEM_EVENT_SHUTDOWN = 1;
const SYSTEM_EVENT_RESET = 2;

/** `kvm_run.internal.suberror`, KVM_INTERNAL_ERROR_*. */
const INTERNAL_ERRORS: Readonly<Record<number, string>> = {
  1: "an instruction that could not be emulated",
  2: "a simultaneous exception",
  3: "an exit during event delivery",
  4: "an unexpected exit reason",
};

/** How long a vCPU sleeps that halted where only another thread can wake it. */
const HALT_POLL_MILLISECONDS = 10;

/** What serves the guest's port and memory-mapped accesses. */
export interface ExitBuses {
  readonly ports: Pick<PortBus, "serveIo">;
  readonly mmio: Pick<MmioBus, "serveMmio">;
}

/** What the guest wrote to ports without exits. */
export interface Gathered {
  readonly port: number;
  serve(serveIo: (write: VmExit) => void, ended: () => boolean): void;
  written(): void;
}

export interface RunnerOptions {
  readonly vcpu: Vcpu;
  readonly monitor: VcpuMonitor;
  readonly lifecycle: Lifecycle;
  readonly guestMemory: GuestMemory;
  readonly buses: ExitBuses;
  readonly output: Gathered;
  readonly debug: DebugFlags;
  readonly trace: (line: string) => void;
}

/** Resolves when the machine has ended. */
export async function runVcpu(options: RunnerOptions): Promise<void> {
  const { vcpu, debug } = options;
  if (debug.singleStep) {
    vcpu.setGuestDebug({ enable: true, singleStep: true, useSoftwareBreakpoints: false });
  }
  while (!run(options)) {
    const { detail } = vcpu.exit;
    if (!((await vcpu.recover?.()) ?? false)) crash(options, internalError(detail));
  }
}

function crash({ vcpu, lifecycle, guestMemory }: RunnerOptions, what: string): void {
  lifecycle.end({
    reason: EndReason.CRASH,
    message: `vCPU ${vcpu.id}: ${what}`,
    detail: dump(vcpu, guestMemory),
  });
}

function internalError(suberror: number): string {
  return `internal error: ${INTERNAL_ERRORS[suberror] ?? `suberror ${suberror}`}`;
}

/** Returns true when the machine has ended, false at an internal error. */
function run(options: RunnerOptions): boolean {
  const { vcpu, monitor, lifecycle, buses, output, debug, trace } = options;
  const { exit } = vcpu;
  const serveIo = (access: VmExit) => buses.ports.serveIo(access);
  const ended = () => lifecycle.ended;
  for (;;) {
    const phase = lifecycle.phase;
    if (phase === Phase.ENDED) return true;
    if (phase !== Phase.RUNNING) {
      lifecycle.waitUntilRunning();
      continue;
    }
    const reason = vcpu.run();
    monitor.count(reason);
    output.serve(serveIo, ended);
    switch (reason) {
      case ExitReason.IO:
        buses.ports.serveIo(exit);
        if (exit.port === output.port && exit.isWrite) output.written();
        break;
      case ExitReason.MMIO:
        buses.mmio.serveMmio(exit);
        break;
      case ExitReason.INTR:
        lifecycle.onAttention();
        break;
      case ExitReason.HLT:
        lifecycle.sleep(HALT_POLL_MILLISECONDS);
        break;
      case ExitReason.DEBUG:
        if (debug.singleStep) trace(`step: vcpu ${vcpu.id} pc ${exit.debug.pc.toString(16)}`);
        break;
      case ExitReason.SHUTDOWN:
        crash(options, "triple fault");
        break;
      case ExitReason.SYSTEM_EVENT:
        if (exit.detail === SYSTEM_EVENT_SHUTDOWN) lifecycle.end({ reason: EndReason.POWEROFF });
        else if (exit.detail === SYSTEM_EVENT_RESET) lifecycle.end({ reason: EndReason.REBOOT });
        else crash(options, `system event ${exit.detail}`);
        break;
      case ExitReason.INTERNAL_ERROR:
        return false;
      case ExitReason.FAIL_ENTRY:
        crash(options, `the processor refused to enter the guest, reason 0x${exit.detail.toString(16)}`);
        break;
      default:
        crash(options, `unexpected exit ${exit.reason}, reason 0x${exit.detail.toString(16)}`);
    }
  }
}

/** A crash is reported even where its state cannot be had. */
function dump(vcpu: Vcpu, guestMemory: GuestMemory): string {
  try {
    return registerDump(vcpu, guestMemory);
  } catch (error) {
    return `no registers: ${(error as Error).message}`;
  }
}
