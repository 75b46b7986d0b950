/**
 * Where KVM's instruction emulator gives up (KVM_INTERNAL_ERROR_EMULATION), the software CPU does that one instruction: the
 * vCPU's state goes over in the seam's register groups, one instruction is single-stepped, the state comes back.
 *
 * Batches: a KVM without hardware virtualization (kvm_pvm) emulates all of the guest's kernel, a hundred times slower than the
 * software CPU, and does CPUID and SYSCALL of user mode in the processor's way, not the guest's. There the software CPU goes on, until an
 * instruction needs KVM, or KVM is to say which interrupts are due. Then KVM has its turn (`KvmTurn`), and the next batch begins.
 */
import { isDeepStrictEqual } from "node:util";
import { Clock } from "../../memory/clock.js";
import { GuestMemory, type MemorySlot } from "../../memory/guest-memory.js";
import type { SharedMemory } from "../../memory/shared-memory.js";
import { StateAllocator } from "../../memory/state-allocator.js";
import { Timers } from "../../memory/timers.js";
import { type CpuidEntry, ExitReason, MpState, type Vcpu, type VcpuEvents, type VmExit } from "../seam.js";
import { SoftVm } from "../soft/provider.js";
import { Msr } from "../soft/system/msrs.js";
import type { SystemOperation } from "../soft/system/operation-names.js";
import type { SoftVcpu } from "../soft/vcpu.js";
import { Eflags, Request, Vector } from "../soft/vcpu-state.js";
import { Kvm } from "./abi/constants.js";
import * as abi from "./abi/structs.js";
import { AbsentIrqChip, MSRS, NotHere } from "./absent-irqchip.js";
import { writeFpu } from "./fpu-image.js";
import * as registers from "./registers.js";
import { BATCH_LIMIT, forgetRequests, type StepArena } from "./step-arena.js";
import type { EmulationFallback, KvmTurn, KvmVcpu } from "./vcpu.js";

/** Operations that a batch leaves to KVM, beside those that reach its interrupt controllers. */
const KVMS_OPERATIONS: ReadonlySet<SystemOperation> = new Set([
  "ins",
  "outs",
  "vmcall",
  "rdpmc",
  "monitor",
  "mwait",
]);

/** L0 to G3 of DR7: breakpoints. */
const DR7_ENABLED = 0xffn;
/** The interrupt controllers' timers are no part of the machine's: nothing runs them. */
const TIMERS_BYTES = 64 << 10;

/** Ticks as KVM's TSC makes them. Slower by a thousandth, more than the host's clock is ever steered: never ahead of KVM's. */
class TscClock extends Clock {
  readonly #ticks: number;

  constructor(epoch: bigint, tscKhz: number) {
    super(epoch);
    this.#ticks = (tscKhz / 1e6) * 0.999;
  }
  override now(): number {
    return Math.floor(super.now() * this.#ticks);
  }
}

/** What the stand-in needs of the VM. */
export interface StepHost {
  readonly tscKhz: number;
  /** What the guest is to find in CPUID. */
  cpuid(): CpuidEntry[];
  /** Whether writes to ports may be doorbells. */
  readonly portDoorbells: boolean;
  /** A slot logs dirty pages. */
  readonly logging: boolean;
  /** Pages of the slot were written. */
  wrote(slot: MemorySlot, pages: Uint8Array): void;
  /** The guest's page tables may have been written, unseen by KVM: it forgets what it made of them. */
  dropShadows(): void;
  /** A batch begins or ends; one that goes on is ended after `BATCH_LIMIT`. */
  batch(on: boolean): void;
}

export class EmulationStep implements EmulationFallback {
  readonly #vm: SoftVm;
  readonly #soft: SoftVcpu;
  readonly #slots: readonly MemorySlot[];
  #logging = false;
  readonly #machineClock: Clock;
  #inBatch = false;
  #batchEnd = 0;
  /** What the software CPU got, to bring back no more than what changed. */
  #before: Groups | undefined;

  constructor(
    readonly vcpu: KvmVcpu,
    readonly memory: SharedMemory,
    readonly guestMemory: GuestMemory,
    machineClock: Clock,
    readonly arena: StepArena,
    readonly host: StepHost,
  ) {
    const { start, end, physMap, codeBytes } = arena;
    const clock = new TscClock(machineClock.epoch, host.tscKhz);
    const allocator = new StateAllocator(memory, start, end - TIMERS_BYTES);
    const timers = new Timers(memory, new StateAllocator(memory, end - TIMERS_BYTES, end), clock);
    // The software CPU reaches one memory: what lies in others is no RAM to it, and `step` refuses to go there.
    const own = guestMemory.slots.filter((slot) => (slot.memory ?? 0) === 0);
    this.#vm = new SoftVm(
      memory,
      allocator,
      // Another than the machine's: it keeps no decoded code and need not hear of the devices' writes.
      new GuestMemory(memory, own),
      timers,
      clock,
      {
        cpus: 1,
        tier: "cold",
        create: true,
        parts: {
          codeArenaBytes: codeBytes,
          physMap,
          IrqChip: AbsentIrqChip,
          bounds: {
            operation: (name) => {
              if (!this.#irqchip.inBatch) return;
              if (KVMS_OPERATIONS.has(name) || (name === "out" && host.portDoorbells)) throw new NotHere();
            },
            // In the kernel all others depend on which MSRs and features KVM has: it says.
            exception: (vector) => {
              const { cpl } = this.#vm.places[0].state;
              if (this.#irqchip.inBatch && cpl === 0 && vector !== Vector.PF) throw new NotHere();
            },
          },
        },
      },
    );
    this.#irqchip.vcpu = vcpu;
    this.#machineClock = machineClock;
    this.#slots = own;
    for (const slot of own) this.#vm.setMemorySlot({ ...slot, logDirty: false });
    this.#soft = this.#vm.vcpu(0);
    if (this.#vm.places[0].state.address !== start) throw new Error("the software CPU's state is elsewhere");
    this.#soft.setCpuid(host.cpuid());
    this.#setStepping(true);
  }

  get #irqchip(): AbsentIrqChip {
    return this.#vm.irqchip as AbsentIrqChip;
  }

  #setStepping(on: boolean): void {
    this.#soft.setGuestDebug({ enable: on, singleStep: on, useSoftwareBreakpoints: false });
  }

  get exit(): VmExit {
    return this.#soft.exit;
  }

  get active(): boolean {
    return this.#before !== undefined;
  }

  get inBatch(): boolean {
    return this.#inBatch;
  }

  step(): ExitReason | undefined {
    if (this.#inBatch && this.#before !== undefined) {
      // The instruction is done once it has its answer.
      this.#answered();
      this.#endBatch(this.#before);
      return undefined;
    }
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

  batch(): ExitReason | KvmTurn {
    const { vcpu } = this;
    const now = this.#machineClock.now();
    if (!this.#inBatch) {
      const before = read(vcpu);
      if (!vcpu.settled) return "instruction";
      if (isDebugged(before)) return "all";
      if (vcpu.getMpState() !== MpState.RUNNABLE) return "instruction";
      this.#beginBatch(before, now);
    }
    const before = this.#before as Groups;
    this.#before = undefined;
    this.#irqchip.inBatch = true;
    let turn: KvmTurn = "interrupts";
    try {
      // In this order: whoever kicks from here on ends the batch.
      if (!vcpu.kicked && now < this.#batchEnd) {
        const reason = this.#soft.run();
        if (reason === ExitReason.IO) {
          this.#before = before;
          return reason;
        }
        if (reason === ExitReason.MMIO) this.#soft.cancelAccess();
        if (reason !== ExitReason.INTR) turn = "instruction";
      }
    } catch (error) {
      if (!(error instanceof NotHere)) throw error;
      turn = "instruction";
    } finally {
      this.#irqchip.inBatch = false;
    }
    this.#endBatch(before);
    // KVM cannot stop after an instruction of user mode. It is one that exits.
    return turn === "instruction" && this.#vm.places[0].state.cpl !== 0 ? "all" : turn;
  }

  #beginBatch(before: Groups, now: number): void {
    this.#loadGroups(before);
    const { state } = this.#vm.places[0];
    const [{ data: tsc }] = this.vcpu.getMsrs([Msr.TSC]);
    state.tscOffset = BigInt.asUintN(64, tsc - BigInt(this.#vm.clock.now()));
    this.#setStepping(false);
    this.#vm.request(0, Request.FLUSH_CODE | Request.TLB_FLUSH);
    this.#inBatch = true;
    this.#before = before;
    this.#batchEnd = now + BATCH_LIMIT;
    this.host.batch(true);
  }

  #endBatch(before: Groups): void {
    this.host.batch(false);
    this.#inBatch = false;
    this.#setStepping(true);
    this.#done(before);
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
    this.host.dropShadows();
  }

  #load(): Groups {
    const groups = read(this.vcpu);
    this.#loadGroups(groups);
    return groups;
  }

  #loadGroups(groups: Groups): void {
    const soft = this.#soft;
    this.#log();
    forgetRequests(this.memory.i32, this.arena);
    soft.setMpState(MpState.RUNNABLE);
    soft.setSregs(groups.sregs);
    soft.setRegs(groups.regs);
    soft.setFpu(groups.fpu);
    soft.setMsrs(groups.msrs);
    soft.setDebugRegs(groups.debugRegs);
    const { nmi } = groups.events;
    // What KVM was about to deliver is delivered here.
    soft.setEvents({ ...groups.events, nmi: { ...nmi, pending: nmi.pending || nmi.injected } });
  }

  /** Log dirty pages where KVM does. */
  #log(): void {
    if (this.#logging === this.host.logging) return;
    this.#logging = this.host.logging;
    for (const slot of this.#slots) this.#vm.setMemorySlot({ ...slot, logDirty: this.#logging });
  }

  #store(before: Groups): void {
    const { vcpu } = this;
    if (this.#logging) for (const slot of this.#slots) this.host.wrote(slot, this.#vm.getDirtyLog(slot.slot));
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
    if (!isDeepStrictEqual(after.debugRegs, before.debugRegs)) vcpu.setDebugRegs(after.debugRegs);
    if (eventsDiffer(before.events, after.events)) vcpu.setEvents(after.events);
    if (this.#soft.getMpState() === MpState.HALTED) vcpu.setMpState(MpState.HALTED);
  }
}

type Groups = ReturnType<typeof read>;

/** The guest single-steps or has breakpoints. */
function isDebugged({ regs, debugRegs }: Groups): boolean {
  return (regs.rflags & BigInt(Eflags.TF)) !== 0n || (debugRegs.dr7 & DR7_ENABLED) !== 0n;
}

function eventsDiffer(before: VcpuEvents, after: VcpuEvents): boolean {
  const delivered = before.exception.injected || before.interrupt.injected;
  return (
    delivered ||
    after.exception.injected ||
    after.interrupt.shadow !== before.interrupt.shadow ||
    !isDeepStrictEqual(after.nmi, before.nmi)
  );
}

function read(vcpu: Vcpu) {
  // First: where an exception is pending, KVM sets CR2 or DR6 only now (kvm_vcpu_ioctl_x86_get_vcpu_events).
  const events = vcpu.getEvents();
  return {
    regs: vcpu.getRegs(),
    sregs: vcpu.getSregs(),
    fpu: vcpu.getFpu(),
    msrs: vcpu.getMsrs(MSRS),
    debugRegs: vcpu.getDebugRegs(),
    events,
  };
}

const sregsBytes = ({ sregs }: Groups) => abi.kvm_sregs.encode(registers.sregsTo(sregs));
const fpuBytes = ({ fpu }: Groups) => {
  const area = new Uint8Array(abi.kvm_xsave.size);
  writeFpu(area, fpu);
  return area;
};
const differ = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) !== 0;
