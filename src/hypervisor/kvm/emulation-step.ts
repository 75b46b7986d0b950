/**
 * Where KVM's instruction emulator gives up (KVM_INTERNAL_ERROR_EMULATION), the software CPU does that one instruction: the
 * vCPU's state goes over in the seam's register groups, one instruction is single-stepped, the state comes back.
 */
import type { Clock } from "../../memory/clock.js";
import { GuestMemory } from "../../memory/guest-memory.js";
import type { SharedMemory } from "../../memory/shared-memory.js";
import { StateAllocator } from "../../memory/state-allocator.js";
import { Timers } from "../../memory/timers.js";
import { ExitReason, MpState, type Vcpu, type VmExit } from "../seam.js";
import { IrqChip } from "../soft/irqchip/irqchip.js";
import { SoftVm } from "../soft/provider.js";
import { Msr } from "../soft/system/msrs.js";
import { Kvm } from "./abi/constants.js";
import * as abi from "./abi/structs.js";
import { writeFpu } from "./fpu-image.js";
import * as registers from "./registers.js";
import { CODE_ARENA_BYTES, type StepArena } from "./step-arena.js";
import type { EmulationFallback } from "./vcpu.js";

/** Registers that instructions use or change, beside those of the other groups. */
const MSRS = [
  Msr.SYSENTER_CS,
  Msr.SYSENTER_ESP,
  Msr.SYSENTER_EIP,
  Msr.STAR,
  Msr.LSTAR,
  Msr.CSTAR,
  Msr.FMASK,
  Msr.KERNEL_GS_BASE,
  Msr.TSC_AUX,
] as const;

/** The instruction reaches what only KVM has: it cannot be stepped. */
class NotHere extends Error {}

/** Stands where the software CPU has its interrupt controllers: those of this machine are KVM's. */
class AbsentIrqChip extends IrqChip {
  override hasInterrupt(): boolean {
    return false;
  }
  override readMmio(): number {
    throw new NotHere();
  }
  override writeMmio(): void {
    throw new NotHere();
  }
  override readPort(): number {
    throw new NotHere();
  }
  override writePort(): void {
    throw new NotHere();
  }
  override readMsr(): bigint {
    throw new NotHere();
  }
  override writeMsr(): boolean {
    throw new NotHere();
  }
}

export class EmulationStep implements EmulationFallback {
  readonly #vm: SoftVm;
  readonly #soft: Vcpu;
  /** What the software CPU got, to bring back no more than what changed. */
  #before: Groups | undefined;

  constructor(
    readonly vcpu: Vcpu,
    memory: SharedMemory,
    readonly guestMemory: GuestMemory,
    clock: Clock,
    { start, end, physMap }: StepArena,
  ) {
    const allocator = new StateAllocator(memory, start, end);
    // The software CPU reaches one memory: what lies in others is no RAM to it, and `step` refuses to go there.
    const own = guestMemory.slots.filter((slot) => (slot.memory ?? 0) === 0);
    this.#vm = new SoftVm(
      memory,
      allocator,
      // Another than the machine's: it keeps no decoded code and need not hear of the devices' writes.
      new GuestMemory(memory, own),
      new Timers(memory, allocator, clock),
      clock,
      {
        cpus: 1,
        tier: "cold",
        create: true,
        parts: { codeArenaBytes: CODE_ARENA_BYTES, physMap, IrqChip: AbsentIrqChip },
      },
    );
    for (const slot of own) this.#vm.setMemorySlot(slot);
    this.#soft = this.#vm.vcpu(0);
    this.#soft.setCpuid(vcpu.getCpuid());
    this.#soft.setGuestDebug({ enable: true, singleStep: true, useSoftwareBreakpoints: false });
  }

  get exit(): VmExit {
    return this.#soft.exit;
  }

  get active(): boolean {
    return this.#before !== undefined;
  }

  step(): ExitReason | undefined {
    const before = this.#before ?? this.#load();
    const resumed = this.#before !== undefined;
    this.#before = before;
    try {
      const reason = resumed && this.#answered() ? ExitReason.DEBUG : this.#soft.run();
      switch (reason) {
        case ExitReason.DEBUG:
          return this.#done(before);
        case ExitReason.MMIO:
          if (this.guestMemory.contains(this.exit.address, 1)) throw new NotHere();
          return reason;
        case ExitReason.IO:
          // A write asks for no answer: the instruction is over, or stands before its next element.
          if (this.exit.isWrite) this.#done(before);
          return reason;
        default:
          this.#before = undefined;
          return reason;
      }
    } catch (error) {
      if (!(error instanceof NotHere)) throw error;
      this.#before = undefined;
      this.exit.reason = ExitReason.INTERNAL_ERROR;
      this.exit.detail = Kvm.KVM_INTERNAL_ERROR_EMULATION;
      return ExitReason.INTERNAL_ERROR;
    }
  }

  /** Take the machine's answer; whether that ended the instruction. */
  #answered(): boolean {
    // Reading the registers completes an IN.
    this.#soft.getRegs();
    const { ioPending, mmioCount } = this.#vm.places[0].state;
    return ioPending === 0 && mmioCount === 0;
  }

  #done(before: Groups): undefined {
    this.#before = undefined;
    this.#store(before);
  }

  #load(): Groups {
    const soft = this.#soft;
    const groups = read(this.vcpu);
    soft.setMpState(MpState.RUNNABLE);
    soft.setSregs(groups.sregs);
    soft.setRegs(groups.regs);
    soft.setFpu(groups.fpu);
    soft.setMsrs(groups.msrs);
    soft.setDebugRegs(groups.debugRegs);
    soft.setEvents(groups.events);
    return groups;
  }

  #store(before: Groups): void {
    const { vcpu } = this;
    const after = read(this.#soft);
    // APIC base and CR8 are KVM's.
    after.sregs.apicBase = before.sregs.apicBase;
    after.sregs.cr8 = before.sregs.cr8;
    vcpu.setRegs(after.regs);
    if (differ(sregsBytes(before), sregsBytes(after))) vcpu.setSregs(after.sregs);
    if (differ(fpuBytes(before), fpuBytes(after))) vcpu.setFpu(after.fpu);
    const changed = after.msrs.filter(({ index, data }) =>
      before.msrs.some((msr) => msr.index === index && msr.data !== data),
    );
    if (changed.length > 0) vcpu.setMsrs(changed);
    if (after.debugRegs.dr6 !== before.debugRegs.dr6 || after.debugRegs.dr7 !== before.debugRegs.dr7) {
      vcpu.setDebugRegs(after.debugRegs);
    }
    const { interrupt, nmi } = before.events;
    if (
      after.events.interrupt.shadow !== interrupt.shadow ||
      (after.events.nmi.masked && !nmi.masked) ||
      (!after.events.nmi.masked && nmi.masked)
    ) {
      vcpu.setEvents({
        ...before.events,
        interrupt: { ...interrupt, shadow: after.events.interrupt.shadow },
        nmi: { ...nmi, masked: after.events.nmi.masked },
      });
    }
    if (this.#soft.getMpState() === MpState.HALTED) vcpu.setMpState(MpState.HALTED);
  }
}

type Groups = ReturnType<typeof read>;

function read(vcpu: Vcpu) {
  return {
    regs: vcpu.getRegs(),
    sregs: vcpu.getSregs(),
    fpu: vcpu.getFpu(),
    msrs: vcpu.getMsrs(MSRS),
    debugRegs: vcpu.getDebugRegs(),
    events: vcpu.getEvents(),
  };
}

const sregsBytes = ({ sregs }: Groups) => abi.kvm_sregs.encode(registers.sregsTo(sregs));
const fpuBytes = ({ fpu }: Groups) => {
  const area = new Uint8Array(abi.kvm_xsave.size);
  writeFpu(area, fpu);
  return area;
};
const differ = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) !== 0;
