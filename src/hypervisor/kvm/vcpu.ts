/**
 * A vCPU of KVM: the run loop, and the register groups (api.rst, 4.10 and on). Run by one thread; other threads may hold
 * the same vCPU for `kick` and `nmi`, and for its registers while it stands still.
 */
import type { GuestMemory } from "../../memory/guest-memory.js";
import type { SharedMemory } from "../../memory/shared-memory.js";
import { translateLinear } from "../page-walk.js";
import {
  type CpuidEntry,
  type DebugRegs,
  ExitReason,
  type Fpu,
  type GuestDebug,
  type MpState,
  type Msr,
  type Regs,
  type Sregs,
  type Vcpu,
  type VcpuEvents,
  type VmExit,
} from "../seam.js";
import type { CpuidTable } from "../soft/system/cpuid-table.js";
import { Exit, Kvm } from "./abi/constants.js";
import { Ioctl } from "./abi/ioctls.js";
import {
  decodeList,
  encodeList,
  type Fields,
  type InputOf,
  type Struct,
  type ValueOf,
} from "./abi/struct.js";
import * as abi from "./abi/structs.js";
import { KvmExit } from "./exit.js";
import { readFpu, writeFpu } from "./fpu-image.js";
import {
  blockSignal,
  Errno,
  errno,
  gettid,
  HostError,
  ioctl,
  ioctlPointer,
  KERNEL_SIGSET_BYTES,
  memoryAt,
  rawIoctl,
  signalThread,
  takeSignal,
} from "./host.js";
import * as registers from "./registers.js";
import { KVM_VCPU, type KvmVcpuState, Pending } from "./state.js";

const { KVM_RUN } = Ioctl;
/**
 * The signal that gets a thread out of KVM_RUN. It is blocked everywhere but inside KVM_RUN, so that it needs no handler; and
 * where it is not blocked it is ignored, so that it does no harm to a thread that is no vCPU's any more.
 */
const SIGURG = 23;

const XCR0 = 0;
/** KVM_MAX_CPUID_ENTRIES. */
const MAX_CPUID_ENTRIES = 256;

/** What a vCPU needs of its VM. */
export interface VcpuHost {
  readonly memory: SharedMemory;
  readonly guestMemory: GuestMemory;
  readonly mappingSize: number;
  /** Bytes of a vCPU's XSAVE area. */
  readonly xsaveSize: number;
  /** What was set, by vCPU: KVM may tell of something else. */
  readonly cpuids: readonly CpuidTable[];
  /** Whether the software CPU may go on for longer than an instruction. */
  readonly batches: boolean;
  /** Make vCPU `id`'s batch end, if there is one. */
  endBatch(id: number): void;
}

/** What KVM is to do next: say which interrupt is due, do one instruction as well, or go on alone. */
export type KvmTurn = "interrupts" | "instruction" | "all";

/** Goes on where KVM's own instruction emulator gave up (emulation-step.ts). */
export interface EmulationFallback {
  /** The exit that `step` returned. */
  readonly exit: VmExit;
  /** Do the instruction that KVM stopped at; an exit in its course, or undefined once it is done. */
  step(): ExitReason | undefined;
  /** Whether an exit of `step` waits for its answer. */
  readonly active: boolean;
  /**
   * Go on on the software CPU until something needs KVM, or `endBatch`: an exit, which a further call takes the answer of, or what KVM
   * is to do.
   */
  batch(): ExitReason | KvmTurn;
  /** The batch had an exit. */
  readonly inBatch: boolean;
}

export class KvmVcpu implements Vcpu {
  readonly exit: KvmExit;
  readonly #state: KvmVcpuState;
  readonly #fd: number;
  readonly #words: Int32Array;
  readonly #kicked: number;
  readonly #nmi: number;
  readonly #tid: number;
  readonly #pending: number;
  /** This thread runs the vCPU. */
  #entered = false;
  #fallback: EmulationFallback | undefined;
  /** KVM could not do an instruction. */
  #failed = false;
  /** The fallback is needed, and not loaded. */
  #stuck = false;
  /** Completing an instruction of the fallback made another exit, which `run` has to return. */
  #queued = false;
  /** The software CPU runs the guest for as long as it can. */
  #batches = false;
  /** The machine debugs the guest. */
  #debugged = false;
  /** KVM does an instruction at a time, as the software CPU does all others. */
  #stepping = false;

  constructor(
    readonly vm: VcpuHost,
    readonly id: number,
    state: KvmVcpuState,
    readonly loadFallback: () => Promise<(vcpu: KvmVcpu) => EmulationFallback>,
    /** What `loadFallback` gives, where it is loaded already. */
    readonly makeFallback?: (vcpu: KvmVcpu) => EmulationFallback,
  ) {
    this.#state = state;
    this.#fd = state.fd;
    this.exit = new KvmExit(memoryAt(state.mapping, vm.mappingSize));
    this.#words = vm.memory.i32;
    this.#kicked = (state.address + KVM_VCPU.offset.kicked) >>> 2;
    this.#nmi = (state.address + KVM_VCPU.offset.nmi) >>> 2;
    this.#tid = (state.address + KVM_VCPU.offset.tid) >>> 2;
    this.#pending = (state.address + KVM_VCPU.offset.pending) >>> 2;
  }

  /** Instructions that the software CPU did because KVM could not. */
  get steps(): number {
    return this.#state.steps;
  }

  // --- running ---

  async recover(): Promise<boolean> {
    if (!this.#stuck) return false;
    const make = await this.loadFallback();
    this.#fallback ??= make(this);
    this.#stuck = false;
    return true;
  }

  run(): ExitReason {
    if (!this.#entered) this.#enter();
    const { exit } = this;
    const words = this.#words;
    if (words[this.#pending] === Pending.EXIT) return this.#returned();
    if (this.#queued) {
      this.#queued = false;
      return exit.reason;
    }
    if (this.#failed || (this.#fallback?.active === true && !this.#fallback.inBatch)) {
      const reason = this.#step();
      if (reason !== undefined) return reason;
    }
    let again = false;
    for (;;) {
      if (this.#batches && !this.#debugged && !again) {
        const turn = this.#softwareTurn();
        if (turn !== undefined) return turn;
      }
      again = false;
      if (rawIoctl(this.#fd, KVM_RUN, 0) === 0) {
        const reason = this.#returned();
        if (reason === ExitReason.DEBUG && this.#stepping) {
          // What the instruction asks for (kvmclock's page), KVM does when it enters the guest next.
          again = true;
          this.#interruptNext();
          continue;
        }
        if (reason !== ExitReason.INTERNAL_ERROR || exit.detail !== Kvm.KVM_INTERNAL_ERROR_EMULATION) {
          return reason;
        }
        this.#failed = true;
        if (!this.#hasFallback()) return this.#lacksFallback();
        const stepped = this.#step();
        if (stepped !== undefined) return stepped;
      } else {
        const error = errno();
        words[this.#pending] = Pending.NONE;
        if (error !== Errno.EINTR && error !== Errno.EAGAIN) throw new HostError("KVM_RUN", error);
        if (this.#interrupted()) {
          exit.reason = ExitReason.INTR;
          return ExitReason.INTR;
        }
      }
    }
  }

  /** KVM_RUN returned with an exit. */
  #returned(): ExitReason {
    const reason = this.exit.update();
    const answered = reason === ExitReason.IO || reason === ExitReason.MMIO;
    this.#words[this.#pending] = answered ? Pending.ANSWER : Pending.NONE;
    return reason;
  }

  /** KVM_RUN was interrupted; true where `kick` did it. */
  #interrupted(): boolean {
    // In this order: whoever kicks from here on makes the next KVM_RUN return.
    this.exit.immediateExit = false;
    while (takeSignal(SIGURG));
    if (Atomics.exchange(this.#words, this.#nmi, 0) !== 0) this.#queueNmi();
    return Atomics.exchange(this.#words, this.#kicked, 0) !== 0;
  }

  #hasFallback(): boolean {
    this.#fallback ??= this.makeFallback?.(this);
    return this.#fallback !== undefined;
  }

  /** The fallback has to be loaded: `recover`. */
  #lacksFallback(): ExitReason {
    this.#stuck = true;
    this.exit.reason = ExitReason.INTERNAL_ERROR;
    this.exit.detail = Kvm.KVM_INTERNAL_ERROR_EMULATION;
    return ExitReason.INTERNAL_ERROR;
  }

  /** Go on with the instruction that KVM could not do. */
  #step(): ExitReason | undefined {
    if (this.#failed) this.#state.steps++;
    this.#failed = false;
    const reason = this.#fallback?.step();
    if (reason !== undefined) this.exit.copy(this.#fallback!.exit);
    return reason;
  }

  /** The software CPU runs the guest for as long as it can; KVM comes next, but for an exit. */
  #softwareTurn(): ExitReason | undefined {
    if (!this.#hasFallback()) return this.#lacksFallback();
    const fallback = this.#fallback as EmulationFallback;
    const first = !fallback.inBatch;
    const next = fallback.batch();
    if (first && next !== "all") this.#state.batches++;
    if (typeof next === "number") {
      this.exit.copy(fallback.exit);
      return next;
    }
    if (this.#words[this.#pending] === Pending.EXIT) return this.#returned();
    const stepping = next !== "all";
    if (stepping !== this.#stepping) this.#setStepping(stepping);
    if (next === "interrupts") this.#interruptNext();
    return undefined;
  }

  /** The next KVM_RUN ends with the interrupt taken that is due, and before the guest's next instruction. */
  #interruptNext(): void {
    signalThread(Atomics.load(this.#words, this.#tid), SIGURG);
  }

  /** Whether KVM_RUN ends after an instruction. */
  #setStepping(on: boolean): void {
    this.#stepping = on;
    this.#debug({ enable: on, singleStep: on, useSoftwareBreakpoints: false });
  }

  /** `kick` was called, and `run` did not return for it yet. */
  get kicked(): boolean {
    return Atomics.load(this.#words, this.#kicked) !== 0;
  }

  /** The last exit's instruction is done, and made no other. */
  get settled(): boolean {
    return this.#words[this.#pending] === Pending.NONE && !this.#queued;
  }

  /** This thread is the one that runs the vCPU from now on. */
  #enter(): void {
    this.#entered = true;
    const before = blockSignal(SIGURG);
    before[(SIGURG - 1) >> 3] &= ~(1 << ((SIGURG - 1) & 7));
    const { kvm_signal_mask } = abi;
    const mask = new Uint8Array(kvm_signal_mask.size + KERNEL_SIGSET_BYTES);
    mask.set(kvm_signal_mask.encode({ len: KERNEL_SIGSET_BYTES }));
    mask.set(before, kvm_signal_mask.size);
    ioctlPointer(this.#fd, Ioctl.KVM_SET_SIGNAL_MASK, mask, "KVM_SET_SIGNAL_MASK");
    Atomics.store(this.#words, this.#tid, gettid());
    this.#batches = this.vm.batches;
  }

  kick(): void {
    Atomics.store(this.#words, this.#kicked, 1);
    this.vm.endBatch(this.id);
    this.#interrupt();
  }

  /** Make the current or the next KVM_RUN return. */
  #interrupt(): void {
    this.exit.immediateExit = true;
    const tid = Atomics.load(this.#words, this.#tid);
    if (tid !== 0) signalThread(tid, SIGURG);
  }

  nmi(): void {
    if (this.#entered || Atomics.load(this.#words, this.#tid) === 0) this.#queueNmi();
    else {
      // The ioctl would wait for KVM_RUN to end: the vCPU's own thread makes it.
      Atomics.store(this.#words, this.#nmi, 1);
      this.vm.endBatch(this.id);
      this.#interrupt();
    }
  }

  #queueNmi(): void {
    ioctl(this.#fd, Ioctl.KVM_NMI, 0, "KVM_NMI");
  }

  /** Finish the instruction of the last exit: only then its registers are whole (api.rst, 5, KVM_EXIT_MMIO). */
  #complete(): void {
    if (this.#fallback?.active === true && !this.#queued) {
      this.#queued = this.#step() !== undefined;
    }
    if (this.#words[this.#pending] !== Pending.ANSWER) return;
    const { exit } = this;
    exit.immediateExit = true;
    const again = rawIoctl(this.#fd, KVM_RUN, 0) === 0;
    exit.immediateExit = false;
    const asked = Atomics.load(this.#words, this.#kicked) | Atomics.load(this.#words, this.#nmi);
    if (asked !== 0) exit.immediateExit = true;
    const stepped = this.#stepping && this.exit.kvmReason === Exit.KVM_EXIT_DEBUG;
    this.#words[this.#pending] = again && !stepped ? Pending.EXIT : Pending.NONE;
  }

  // --- register groups ---

  #get<F extends Fields>(request: keyof typeof Ioctl, struct: Struct<F>): ValueOf<Struct<F>> {
    this.#complete();
    const buffer = new Uint8Array(struct.size);
    ioctlPointer(this.#fd, Ioctl[request], buffer, request);
    return struct.decode(buffer);
  }

  #set<F extends Fields>(request: keyof typeof Ioctl, struct: Struct<F>, value: InputOf<Struct<F>>): void {
    this.#complete();
    ioctlPointer(this.#fd, Ioctl[request], struct.encode(value), request);
  }

  getRegs(): Regs {
    return this.#get("KVM_GET_REGS", abi.kvm_regs);
  }
  setRegs(regs: Regs): void {
    this.#set("KVM_SET_REGS", abi.kvm_regs, regs);
  }
  getSregs(): Sregs {
    return registers.sregsFrom(this.#get("KVM_GET_SREGS", abi.kvm_sregs));
  }
  setSregs(sregs: Sregs): void {
    this.#set("KVM_SET_SREGS", abi.kvm_sregs, registers.sregsTo(sregs));
  }
  getFpu(): Fpu {
    return readFpu(this.getXsave());
  }
  setFpu(fpu: Fpu): void {
    const area = this.getXsave();
    writeFpu(area, fpu);
    this.setXsave(area);
  }

  /** The XSAVE area in its standard form (SDM vol. 1, 13.4): 4 KiB, or more where the guest may have larger states. */
  getXsave(): Uint8Array {
    this.#complete();
    const { xsaveSize } = this.vm;
    const area = new Uint8Array(xsaveSize);
    const request = xsaveSize > abi.kvm_xsave.size ? "KVM_GET_XSAVE2" : "KVM_GET_XSAVE";
    ioctlPointer(this.#fd, Ioctl[request], area, request);
    return area;
  }
  setXsave(area: Uint8Array): void {
    this.#complete();
    const copy = new Uint8Array(this.vm.xsaveSize);
    copy.set(area.subarray(0, copy.length));
    ioctlPointer(this.#fd, Ioctl.KVM_SET_XSAVE, copy, "KVM_SET_XSAVE");
  }
  getXcr0(): bigint {
    const { nr_xcrs, xcrs } = this.#get("KVM_GET_XCRS", abi.kvm_xcrs);
    return xcrs.slice(0, nr_xcrs).find(({ xcr }) => xcr === XCR0)?.value ?? 1n;
  }
  setXcr0(value: bigint): void {
    this.#set("KVM_SET_XCRS", abi.kvm_xcrs, { nr_xcrs: 1, xcrs: [{ xcr: XCR0, value }] });
  }

  getMsrs(indices: readonly number[]): Msr[] {
    this.#complete();
    const result: Msr[] = [];
    // KVM stops at the first that it does not have.
    for (let next = 0; next < indices.length; ) {
      const wanted = indices.slice(next).map((index) => ({ index: index >>> 0 }));
      const list = encodeList(abi.kvm_msrs, { nmsrs: wanted.length }, abi.kvm_msr_entry, wanted);
      const count = ioctlPointer(this.#fd, Ioctl.KVM_GET_MSRS, list, "KVM_GET_MSRS");
      for (const { index, data } of decodeList(abi.kvm_msrs, list, abi.kvm_msr_entry, count)) {
        result.push({ index, data });
      }
      next += count + 1;
    }
    return result;
  }
  setMsrs(msrs: readonly Msr[]): void {
    const count = this.#writeMsrs(msrs);
    if (count === msrs.length) return;
    const { index, data } = msrs[count];
    throw new RangeError(
      `MSR 0x${(index >>> 0).toString(16)} cannot be 0x${BigInt.asUintN(64, data).toString(16)}`,
    );
  }
  /** False where KVM does not take the value. */
  trySetMsr(msr: Msr): boolean {
    return this.#writeMsrs([msr]) === 1;
  }
  /** How many of them KVM took. */
  #writeMsrs(msrs: readonly Msr[]): number {
    this.#complete();
    const entries = msrs.map(({ index, data }) => ({ index: index >>> 0, data: BigInt.asUintN(64, data) }));
    const list = encodeList(abi.kvm_msrs, { nmsrs: entries.length }, abi.kvm_msr_entry, entries);
    return ioctlPointer(this.#fd, Ioctl.KVM_SET_MSRS, list, "KVM_SET_MSRS");
  }

  getLapic(): Uint8Array {
    return this.#get("KVM_GET_LAPIC", abi.kvm_lapic_state).regs;
  }
  setLapic(page: Uint8Array): void {
    this.#set("KVM_SET_LAPIC", abi.kvm_lapic_state, { regs: page });
  }
  getEvents(): VcpuEvents {
    return registers.eventsFrom(this.#get("KVM_GET_VCPU_EVENTS", abi.kvm_vcpu_events));
  }
  setEvents(events: VcpuEvents): void {
    const before = this.#get("KVM_GET_VCPU_EVENTS", abi.kvm_vcpu_events);
    this.#set("KVM_SET_VCPU_EVENTS", abi.kvm_vcpu_events, registers.eventsTo(events, before));
  }
  getMpState(): MpState {
    return this.#get("KVM_GET_MP_STATE", abi.kvm_mp_state).mp_state as MpState;
  }
  setMpState(state: MpState): void {
    this.#set("KVM_SET_MP_STATE", abi.kvm_mp_state, { mp_state: state });
  }
  getDebugRegs(): DebugRegs {
    return registers.debugRegsFrom(this.#get("KVM_GET_DEBUGREGS", abi.kvm_debugregs));
  }
  setDebugRegs(values: DebugRegs): void {
    this.#set("KVM_SET_DEBUGREGS", abi.kvm_debugregs, values);
  }
  setCpuid(entries: readonly CpuidEntry[]): void {
    const list = entries.map(registers.cpuidTo);
    const argument = encodeList(abi.kvm_cpuid2, { nent: list.length }, abi.kvm_cpuid_entry2, list);
    ioctlPointer(this.#fd, Ioctl.KVM_SET_CPUID2, argument, "KVM_SET_CPUID2");
    this.vm.cpuids[this.id].set(entries);
  }
  getCpuid(): CpuidEntry[] {
    return readCpuid(this.#fd, "KVM_GET_CPUID2");
  }
  setGuestDebug(debug: GuestDebug): void {
    this.#debugged = debug.enable;
    this.#stepping = false;
    this.#debug(debug);
  }
  #debug(debug: GuestDebug): void {
    this.#set("KVM_SET_GUEST_DEBUG", abi.kvm_guest_debug, registers.guestDebugTo(debug));
  }
  /** KVM_TRANSLATE asks for the rights of the supervisor under SMAP, and marks entries accessed: this does not. */
  translate(linear: bigint): number | undefined {
    return translateLinear(this.vm.guestMemory, this.getSregs(), linear);
  }
  getStats(): Record<string, number> {
    return { emulationSteps: this.steps, emulationBatches: this.#state.batches };
  }
}

/** A list of CPUID entries that KVM fills. */
export function readCpuid(fd: number, request: "KVM_GET_CPUID2" | "KVM_GET_SUPPORTED_CPUID"): CpuidEntry[] {
  const { kvm_cpuid2, kvm_cpuid_entry2 } = abi;
  const list = new Uint8Array(kvm_cpuid2.size + MAX_CPUID_ENTRIES * kvm_cpuid_entry2.size);
  list.set(kvm_cpuid2.encode({ nent: MAX_CPUID_ENTRIES }));
  ioctlPointer(fd, Ioctl[request], list, request);
  const { nent } = kvm_cpuid2.decode(list);
  return decodeList(kvm_cpuid2, list, kvm_cpuid_entry2, nent).map(registers.cpuidFrom);
}
