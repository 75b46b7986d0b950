/**
 * The local APIC of one vCPU (SDM vol. 3A, chapter 11 "Advanced Programmable Interrupt Controller"; chapter 10 in
 * editions before 2023): modes, interrupt acceptance, priorities, IPIs. The registers are listed in lapic-registers.ts
 * and reached through lapic-access.ts; the timer is lapic-timer.ts.
 *
 * Threads: `accept`, `matches`, `ppr`, `pulseLint` and the getters may be used from any thread, all else from the
 * vCPU's own thread, or while the vCPU does not run.
 */
import { Mutex } from "../../../memory/mutex.js";
import type { SharedMemory } from "../../../memory/shared-memory.js";
import type { StateAllocator } from "../../../memory/state-allocator.js";
import type { Timers } from "../../../memory/timers.js";
import type { CpuSignals, NanosecondClock, TscOffsets } from "./cpu-signals.js";
import { BROADCAST, DeliveryMode, type InterruptBus, Shorthand } from "./interrupt-bus.js";
import {
  APIC_BASE_RESERVED,
  ApicBase,
  DFR_FLAT,
  Esr,
  FIRST_LEGAL_VECTOR,
  Icr,
  LVT_ENTRIES,
  Lvt,
  SVR_WRITABLE,
  Svr,
  VECTOR_WORDS,
  x2apicLogicalId,
} from "./lapic-registers.js";
import { ApicMode, LAPIC_STATE, type LapicState } from "./lapic-state.js";
import { LapicTimer } from "./lapic-timer.js";
import { VectorBits } from "./vector-bits.js";

const PAGE_MASK = 0xfffn;

/** Indices of LVT entries. */
const LVT_TIMER = 0;
const LVT_LINT0 = 3;
const LVT_ERROR = 5;

/** LINT pins, for `pulseLint`. */
export type LintPin = 0 | 1;

export interface LapicConfig {
  readonly vcpu: number;
  readonly bus: InterruptBus;
  readonly signals: CpuSignals;
  readonly timers: Timers;
  readonly clock: NanosecondClock;
  readonly tsc: TscOffsets;
  /** MAXPHYADDR: higher bits of IA32_APIC_BASE are reserved. */
  readonly physicalAddressBits: number;
}

export class LocalApic {
  readonly vcpu: number;
  readonly timer: LapicTimer;
  // For the other lapic-*.ts files:
  readonly state: LapicState;
  readonly irr: VectorBits;
  readonly isr: VectorBits;
  readonly #words: Int32Array;
  readonly #tmr: number;
  readonly #esrPending: number;
  readonly #bus: InterruptBus;
  readonly #signals: CpuSignals;
  readonly #baseReserved: bigint;

  constructor(memory: SharedMemory, allocator: StateAllocator, config: LapicConfig) {
    this.vcpu = config.vcpu;
    this.#bus = config.bus;
    this.#signals = config.signals;
    this.#baseReserved = APIC_BASE_RESERVED | ~((1n << BigInt(config.physicalAddressBits)) - 1n);
    this.state = allocator.alloc(LAPIC_STATE, `lapic${config.vcpu}`);
    this.#words = memory.i32;
    const { address } = this.state;
    const { offset } = LAPIC_STATE;
    const index = (field: keyof typeof offset) => (address + offset[field]) >>> 2;
    this.irr = new VectorBits(memory.i32, index("irr"), index("irrSummary"));
    this.isr = new VectorBits(memory.i32, index("isr"), index("isrSummary"));
    this.#tmr = index("tmr");
    this.#esrPending = index("esrPending");
    this.timer = new LapicTimer(
      config.vcpu,
      this.state,
      new Mutex("lapic", memory, address + offset.lock),
      config.timers,
      config.clock,
      config.tsc,
      () => this.#deliverLocal(LVT_TIMER),
    );
  }

  // Reset

  /** Power-up state (SDM vol. 3A, 11.4.7.1). vCPU 0 is the bootstrap processor. */
  reset(): void {
    const state = this.state;
    state.mode = ApicMode.XAPIC;
    state.bsp = this.vcpu === 0 ? 1 : 0;
    state.page = ApicBase.DEFAULT_ADDRESS;
    state.id = this.vcpu & 0xff;
    this.#resetRegisters();
  }

  /** INIT: as at power-up, but ID and IA32_APIC_BASE stay (SDM vol. 3A, 11.4.7.3 and 11.12.5.1). */
  init(): void {
    this.#resetRegisters();
  }

  #resetRegisters(): void {
    const state = this.state;
    state.tpr = 0;
    state.ldr = 0;
    state.dfr = DFR_FLAT;
    state.svr = Svr.RESET;
    state.esr = 0;
    state.icrLow = 0;
    state.icrHigh = 0;
    state.timerDivide = 0;
    Atomics.store(this.#words, this.#esrPending, 0);
    this.irr.clearAll();
    this.isr.clearAll();
    for (let word = 0; word < VECTOR_WORDS; word++) this.setTmrWord(word, 0);
    this.timer.writeLvt(Lvt.MASKED);
    this.timer.stop();
    for (let i = 1; i < LVT_ENTRIES.length; i++) state.lvt[i] = Lvt.MASKED;
    // There is no firmware that would set up virtual wire mode (MultiProcessor Specification 1.4, 3.6.2.2): the
    // bootstrap processor takes the 8259s' interrupts from the start, as KVM has it too.
    if (state.bsp !== 0) state.lvt[LVT_LINT0] = DeliveryMode.EXTINT << Icr.DELIVERY_MODE_SHIFT;
  }

  // Modes

  /** Globally enabled: CPUID.01H:EDX.APIC shows it too. */
  get enabled(): boolean {
    return this.state.mode !== ApicMode.DISABLED;
  }

  get x2apic(): boolean {
    return this.state.mode === ApicMode.X2APIC;
  }

  /** Accepts fixed interrupts. */
  get softwareEnabled(): boolean {
    return this.state.mode !== ApicMode.DISABLED && (this.state.svr & Svr.ENABLE) !== 0;
  }

  /** IA32_APIC_BASE. */
  get base(): bigint {
    const { mode, bsp, page } = this.state;
    let flags = bsp !== 0 ? ApicBase.BSP : 0;
    if (mode !== ApicMode.DISABLED) flags |= ApicBase.ENABLE;
    if (mode === ApicMode.X2APIC) flags |= ApicBase.X2APIC;
    return BigInt(page) | BigInt(flags);
  }

  /** WRMSR of IA32_APIC_BASE: false is #GP (SDM vol. 3A, 11.12.5, "x2APIC State Transitions"). */
  writeBase(value: bigint): boolean {
    if ((value & this.#baseReserved) !== 0n) return false;
    const next = modeOf(value);
    const { mode } = this.state;
    if (next === undefined) return false;
    if (mode === ApicMode.DISABLED && next === ApicMode.X2APIC) return false;
    if (mode === ApicMode.X2APIC && next === ApicMode.XAPIC) return false;
    this.#setBase(value, next);
    return true;
  }

  /** The host sets IA32_APIC_BASE: any valid state from any other. False: no valid state. */
  setBase(value: bigint): boolean {
    const next = modeOf(value);
    if (next === undefined || (value & this.#baseReserved) !== 0n) return false;
    this.#setBase(value, next);
    return true;
  }

  #setBase(value: bigint, next: number): void {
    const state = this.state;
    const before = state.mode;
    state.page = Number(value & ~PAGE_MASK);
    state.bsp = (value & BigInt(ApicBase.BSP)) !== 0n ? 1 : 0;
    state.mode = next;
    if (next !== before) {
      state.id = next === ApicMode.X2APIC ? this.vcpu : this.vcpu & 0xff;
      // Enabling it again starts from the power-up state (SDM vol. 3A, 11.4.3). CR8 keeps its value all along.
      if (next === ApicMode.DISABLED) {
        const { tpr } = state;
        this.#resetRegisters();
        state.tpr = tpr;
      }
    }
    // A disabled APIC passes the 8259s' interrupts through.
    this.signal();
  }

  // What the CPU asks between instructions

  /** Whether an interrupt is pending that the processor priority lets through. */
  hasInterrupt(): boolean {
    if (this.irr.empty) return false;
    return this.#deliverable() >= 0;
  }

  /** Take the highest pending interrupt: it goes from IRR to ISR. Its vector, or -1 where `hasInterrupt` is false. */
  acknowledge(): number {
    const vector = this.#deliverable();
    if (vector < 0) return -1;
    this.irr.clear(vector);
    this.isr.set(vector);
    return vector;
  }

  #deliverable(): number {
    const vector = this.irr.highest();
    return vector >= 0 && this.enabled && vector >>> 4 > this.ppr() >>> 4 ? vector : -1;
  }

  /** Whether the 8259s' INTR reaches the CPU: LINT0 in ExtINT mode, or the APIC disabled (SDM vol. 3A, 11.5.1). */
  get acceptsExtInt(): boolean {
    if (this.state.mode === ApicMode.DISABLED) return true;
    const lvt = this.state.lvt[LVT_LINT0];
    return (lvt & Lvt.MASKED) === 0 && lvtMode(lvt) === DeliveryMode.EXTINT;
  }

  /** CR8: bits 7:4 of the TPR (SDM vol. 3A, 11.8.6). */
  get cr8(): number {
    return (this.state.tpr >>> 4) & 0xf;
  }
  set cr8(value: number) {
    this.writeTpr((value & 0xf) << 4);
  }

  // Messages from the bus and the pins

  /** Whether a message with this destination is for this APIC (SDM vol. 3A, 11.6.2). */
  matches(destination: number, logical: boolean): boolean {
    const { mode, id } = this.state;
    if (mode === ApicMode.DISABLED) return false;
    if (destination === BROADCAST) return true;
    if (!logical) return destination === id;
    if (mode === ApicMode.X2APIC) {
      const ldr = x2apicLogicalId(id);
      return ldr >>> 16 === destination >>> 16 && (ldr & destination & 0xffff) !== 0;
    }
    if (destination > 0xff) return false;
    const ldr = this.state.ldr >>> 24;
    if (this.state.dfr === DFR_FLAT) return (ldr & destination) !== 0;
    // Cluster model: the cluster in bits 7:4, with 15 for all of them.
    const cluster = destination >>> 4;
    return (cluster === ldr >>> 4 || cluster === 0xf) && (ldr & destination & 0xf) !== 0;
  }

  /** A fixed interrupt: false where it is not accepted. */
  accept(vector: number, level: boolean): boolean {
    if (!this.softwareEnabled) return false;
    if (vector < FIRST_LEGAL_VECTOR) {
      this.error(Esr.RECEIVE_ILLEGAL_VECTOR);
      return false;
    }
    const word = this.#tmr + (vector >>> 5);
    const bit = 1 << (vector & 31);
    if (level) Atomics.or(this.#words, word, bit);
    else Atomics.and(this.#words, word, ~bit);
    this.irr.set(vector);
    this.signal();
    return true;
  }

  /** A rising edge on LINT0 or LINT1. */
  pulseLint(pin: LintPin): void {
    if (this.enabled) this.#deliverLocal(LVT_LINT0 + pin);
  }

  /** Deliver what an LVT entry says (SDM vol. 3A, 11.5.1). */
  #deliverLocal(index: number): void {
    const lvt = this.state.lvt[index];
    if ((lvt & Lvt.MASKED) !== 0) return;
    // Timer and error entries have no delivery mode: the field is zero, and that is Fixed.
    switch (lvtMode(lvt)) {
      case DeliveryMode.FIXED:
        // A pin's level cannot be seen again after the EOI: LINT pins are taken as edges.
        this.accept(lvt & Lvt.VECTOR, false);
        break;
      case DeliveryMode.NMI:
        this.#signals.nmi(this.vcpu);
        break;
      case DeliveryMode.INIT:
        this.#signals.init(this.vcpu);
        break;
      case DeliveryMode.EXTINT:
        this.signal();
        break;
    }
  }

  /** Note an error for the ESR, and deliver the error interrupt. */
  error(bit: number): void {
    const before = Atomics.or(this.#words, this.#esrPending, bit);
    const lvt = this.state.lvt[LVT_ERROR];
    // An error entry with an illegal vector must not report itself for ever.
    if ((before & bit) === 0 && (lvt & Lvt.VECTOR) >= FIRST_LEGAL_VECTOR) this.#deliverLocal(LVT_ERROR);
  }

  // Registers with behaviour

  /** Processor priority (SDM vol. 3A, 11.8.3.1): the higher of the TPR and the class of the interrupt in service. */
  ppr(): number {
    const { tpr } = this.state;
    const inService = this.isr.empty ? 0 : Math.max(0, this.isr.highest());
    return tpr >>> 4 >= inService >>> 4 ? tpr : inService & 0xf0;
  }

  writeTpr(value: number): void {
    this.state.tpr = value;
    this.#recheck();
  }

  #recheck(): void {
    if (!this.irr.empty) this.signal();
  }

  /** Have the vCPU look for interrupts. */
  signal(): void {
    this.#signals.interrupt(this.vcpu);
  }

  tmrWord(index: number): number {
    return Atomics.load(this.#words, this.#tmr + index) >>> 0;
  }

  setTmrWord(index: number, value: number): void {
    Atomics.store(this.#words, this.#tmr + index, value);
  }

  /** A write of the ESR makes the errors since the last write readable (SDM vol. 3A, 11.5.3). */
  latchErrors(): void {
    this.state.esr = Atomics.exchange(this.#words, this.#esrPending, 0);
  }

  /** End of interrupt (SDM vol. 3A, 11.8.5). */
  eoi(): void {
    const vector = this.isr.highest();
    if (vector < 0) return;
    this.isr.clear(vector);
    const level = (this.tmrWord(vector >>> 5) >>> (vector & 31)) & 1;
    if (level === 1 && (this.state.svr & Svr.SUPPRESS_EOI_BROADCAST) === 0) this.#bus.broadcastEoi(vector);
    this.#recheck();
  }

  writeSvr(value: number): void {
    const state = this.state;
    state.svr = value & SVR_WRITABLE;
    if ((value & Svr.ENABLE) !== 0) return;
    // Software disable masks all LVT entries, and they stay masked (SDM vol. 3A, 11.4.7.2).
    this.timer.writeLvt(state.lvt[LVT_TIMER] | Lvt.MASKED);
    for (let i = 1; i < LVT_ENTRIES.length; i++) state.lvt[i] |= Lvt.MASKED;
  }

  writeLvt(index: number, value: number): void {
    const { writable } = LVT_ENTRIES[index];
    const masked = (this.state.svr & Svr.ENABLE) === 0 ? Lvt.MASKED : 0;
    const lvt = (value & writable) | masked;
    if (index === LVT_TIMER) {
      this.timer.writeLvt(lvt);
      return;
    }
    this.state.lvt[index] = lvt;
    // The 8259s may have waited for LINT0 to be opened.
    if (index === LVT_LINT0 && this.acceptsExtInt) this.signal();
  }

  /** Send the IPI of an ICR (SDM vol. 3A, 11.6.1). `destination`: in the form of the bus. */
  sendIpi(low: number, destination: number): void {
    const mode = (low >>> Icr.DELIVERY_MODE_SHIFT) & 7;
    const vector = low & Icr.VECTOR;
    const fixed = mode === DeliveryMode.FIXED || mode === DeliveryMode.LOWEST_PRIORITY;
    if (fixed && vector < FIRST_LEGAL_VECTOR) {
      this.error(Esr.SEND_ILLEGAL_VECTOR);
      return;
    }
    // INIT level de-assert is not supported since the Pentium 4: it has no effect.
    if (mode === DeliveryMode.INIT && (low & Icr.LEVEL) !== 0 && (low & Icr.ASSERT) === 0) return;
    // An ICR has no ExtINT. The trigger mode counts for INIT only: all other IPIs are edges.
    if (mode === DeliveryMode.EXTINT) return;
    const message = { destination, logical: (low & Icr.LOGICAL) !== 0, mode, vector, level: false };
    const shorthand = (low >>> Icr.SHORTHAND_SHIFT) & 3;
    if (shorthand === Shorthand.NONE) this.#bus.deliver(message);
    else this.#bus.deliverShorthand(this.vcpu, shorthand, { ...message, destination: BROADCAST });
  }
}

/** The mode that IA32_APIC_BASE asks for; undefined for the invalid EXTD without EN. */
function modeOf(base: bigint): number | undefined {
  const enable = (base & BigInt(ApicBase.ENABLE)) !== 0n;
  const extended = (base & BigInt(ApicBase.X2APIC)) !== 0n;
  if (extended && !enable) return undefined;
  if (!enable) return ApicMode.DISABLED;
  return extended ? ApicMode.X2APIC : ApicMode.XAPIC;
}

function lvtMode(lvt: number): number {
  return (lvt & Lvt.DELIVERY_MODE) >>> Icr.DELIVERY_MODE_SHIFT;
}
