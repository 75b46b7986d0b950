/**
 * The in-hypervisor interrupt controllers and timers of the `soft` provider: what KVM_CREATE_IRQCHIP and
 * KVM_CREATE_PIT2 make. A local APIC a vCPU, an IOAPIC, two 8259As, an 8254, and the routes between them.
 *
 * A vCPU's thread, told by `CpuSignals.interrupt`, asks `hasInterrupt` when the CPU can take an interrupt, takes it with
 * `acknowledge`, and asks again until the answer is false. In HLT it may sleep until `timerDeadline` and then call
 * `expireTimer`. All accesses of the guest come on the vCPU's own thread, with its number.
 *
 * Locks, by class, and what may be taken inside: "pit" and "lapic" take "timers"; "ioapic", "pic" and "irq-routing" take
 * nothing. Interrupts are handed on after the lock is released, so no two of them are ever held together, and
 * `CpuSignals` are called with none held.
 */
import { Layout } from "../../../memory/layout.js";
import type { SharedMemory } from "../../../memory/shared-memory.js";
import type { StateAllocator } from "../../../memory/state-allocator.js";
import type { Timers } from "../../../memory/timers.js";
import type { CpuSignals, NanosecondClock, TscOffsets } from "./cpu-signals.js";
import { InterruptBus } from "./interrupt-bus.js";
import { Ioapic } from "./ioapic.js";
import { LocalApic } from "./lapic.js";
import {
  isLapicMsr,
  lapicClaims,
  readLapicMmio,
  readLapicMsr,
  writeLapicMmio,
  writeLapicMsr,
} from "./lapic-access.js";
import { getLapicPage, setLapicPage } from "./lapic-page.js";
import { PicPair, PicPort } from "./pic.js";
import { PIT_GSI, Pit, PitPort } from "./pit.js";
import { IrqRouting } from "./routing.js";

const IRQCHIP_STATE = new Layout("irqchip", {
  /** Counts lowest-priority arbitrations, so that equals take turns. */
  arbitrationTurn: "u32",
});

export interface IrqChipOptions {
  /** MAXPHYADDR, as CPUID says it. */
  readonly physicalAddressBits: number;
}

export class IrqChip {
  readonly bus: InterruptBus;
  readonly lapics: readonly LocalApic[];
  readonly ioapic: Ioapic;
  readonly pic: PicPair;
  readonly pit: Pit;
  readonly routing: IrqRouting;
  readonly #signals: CpuSignals;

  /** Every thread constructs it over the same memory; the thread that makes the machine then calls `reset`. */
  constructor(
    memory: SharedMemory,
    allocator: StateAllocator,
    timers: Timers,
    clock: NanosecondClock,
    vcpus: number,
    signals: CpuSignals,
    tsc: TscOffsets,
    options: IrqChipOptions,
  ) {
    this.#signals = signals;
    const state = allocator.alloc(IRQCHIP_STATE, "irqchip");
    const turn = state.address + IRQCHIP_STATE.offset.arbitrationTurn;
    this.bus = new InterruptBus(memory.i32, turn, signals, (vector) => this.ioapic.eoi(vector));
    this.ioapic = new Ioapic(memory, allocator, this.bus);
    this.pic = new PicPair(memory, allocator, (rising) => this.#picIntr(rising));
    this.routing = new IrqRouting(memory, allocator, this.pic, this.ioapic, this.bus);
    this.pit = new Pit(memory, allocator, timers, clock, (level) => this.routing.setIrqLine(PIT_GSI, level));
    const common = { bus: this.bus, signals, timers, clock, tsc, ...options };
    for (let vcpu = 0; vcpu < vcpus; vcpu++) {
      this.bus.lapics.push(new LocalApic(memory, allocator, { vcpu, ...common }));
    }
    this.lapics = this.bus.lapics;
  }

  /** Power-up state of everything, and the default routes. */
  reset(): void {
    this.pic.reset();
    this.ioapic.reset();
    this.pit.reset();
    this.routing.reset();
    for (const lapic of this.lapics) lapic.reset();
  }

  /** INIT of a vCPU; on its own thread. */
  resetVcpu(vcpu: number): void {
    this.lapics[vcpu].init();
  }

  /** INTR of the 8259s is high: to LINT0 of every local APIC. */
  #picIntr(rising: boolean): void {
    for (const lapic of this.lapics) {
      if (lapic.acceptsExtInt) this.#signals.interrupt(lapic.vcpu);
      else if (rising) lapic.pulseLint(0);
    }
  }

  // What a vCPU's thread asks between instructions

  /** Whether an interrupt can be delivered to the vCPU, RFLAGS.IF left aside. */
  hasInterrupt(vcpu: number): boolean {
    const lapic = this.lapics[vcpu];
    return lapic.hasInterrupt() || (this.pic.output && lapic.acceptsExtInt);
  }

  /** Take the interrupt: its vector, or -1 where there is none any more. The 8259s' come first, as in KVM. */
  acknowledge(vcpu: number): number {
    const lapic = this.lapics[vcpu];
    if (this.pic.output && lapic.acceptsExtInt) return this.pic.acknowledge();
    return lapic.acknowledge();
  }

  /** When the vCPU's APIC timer expires, in clock nanoseconds, or Infinity: no need to sleep past it. */
  timerDeadline(vcpu: number): number {
    return this.lapics[vcpu].timer.deadline;
  }

  /** Deliver the vCPU's APIC timer interrupt if it is due, without waiting for the timer thread. Any thread. */
  expireTimer(vcpu: number): void {
    this.lapics[vcpu].timer.expire();
  }

  /** The vCPU's TSC offset changed. */
  tscChanged(vcpu: number): void {
    this.lapics[vcpu].timer.tscChanged();
  }

  // Memory-mapped registers

  /** Whether the address belongs to the vCPU's local APIC or to the IOAPIC. */
  claimsMmio(vcpu: number, address: number): boolean {
    return lapicClaims(this.lapics[vcpu], address) || this.ioapic.claims(address);
  }

  /** `size` 1 to 8 bytes, of which no more than four are there: the others read as zero. */
  readMmio(vcpu: number, address: number, size: number): number {
    const lapic = this.lapics[vcpu];
    if (lapicClaims(lapic, address)) return readLapicMmio(lapic, address, size);
    return this.ioapic.readMmio(address, size);
  }

  writeMmio(vcpu: number, address: number, size: number, value: number): void {
    const lapic = this.lapics[vcpu];
    if (lapicClaims(lapic, address)) writeLapicMmio(lapic, address, size, value);
    else this.ioapic.writeMmio(address, value);
  }

  // Ports

  claimsPort(port: number): boolean {
    switch (port) {
      case PicPort.MASTER_COMMAND:
      case PicPort.MASTER_DATA:
      case PicPort.SLAVE_COMMAND:
      case PicPort.SLAVE_DATA:
      case PicPort.ELCR_MASTER:
      case PicPort.ELCR_SLAVE:
      case PitPort.SYSTEM_CONTROL:
        return true;
      default:
        return port >= PitPort.COUNTER_0 && port <= PitPort.CONTROL;
    }
  }

  /** The devices are 8 bits wide: a wider access is split, and ports that are none of theirs read as ones. */
  readPort(port: number, size: number): number {
    let value = 0;
    for (let i = 0; i < size; i++) value |= this.#readByte(port + i) << (8 * i);
    return value >>> 0;
  }

  #readByte(port: number): number {
    if (!this.claimsPort(port)) return 0xff;
    return isPit(port) ? this.pit.readPort(port) : this.pic.readPort(port);
  }

  writePort(port: number, size: number, value: number): void {
    for (let i = 0; i < size; i++) {
      const byte = (value >>> (8 * i)) & 0xff;
      if (!this.claimsPort(port + i)) continue;
      if (isPit(port + i)) this.pit.writePort(port + i, byte);
      else this.pic.writePort(port + i, byte);
    }
  }

  // MSRs and CR8

  /** IA32_APIC_BASE, IA32_TSC_DEADLINE and the x2APIC's. */
  claimsMsr(index: number): boolean {
    return isLapicMsr(index);
  }

  /** Undefined is #GP(0). */
  readMsr(vcpu: number, index: number): bigint | undefined {
    return readLapicMsr(this.lapics[vcpu], index);
  }

  /** False is #GP(0). */
  writeMsr(vcpu: number, index: number, value: bigint): boolean {
    return writeLapicMsr(this.lapics[vcpu], index, value);
  }

  /** IA32_APIC_BASE. Its EN is also CPUID.01H:EDX.APIC. */
  getApicBase(vcpu: number): bigint {
    return this.lapics[vcpu].base;
  }

  /** The host sets IA32_APIC_BASE (KVM_SET_SREGS): any valid state from any other. False: no valid state. */
  setApicBase(vcpu: number, value: bigint): boolean {
    return this.lapics[vcpu].setBase(value);
  }

  getCr8(vcpu: number): number {
    return this.lapics[vcpu].cr8;
  }

  setCr8(vcpu: number, value: number): void {
    this.lapics[vcpu].cr8 = value;
  }

  /** KVM_GET_LAPIC: 1 KiB. */
  getLapic(vcpu: number): Uint8Array {
    return getLapicPage(this.lapics[vcpu]);
  }

  /** KVM_SET_LAPIC, after `setApicBase`. Throws `RangeError` where the page is not 1 KiB. */
  setLapic(vcpu: number, page: Uint8Array): void {
    setLapicPage(this.lapics[vcpu], page);
  }
}

function isPit(port: number): boolean {
  return (port >= PitPort.COUNTER_0 && port <= PitPort.CONTROL) || port === PitPort.SYSTEM_CONTROL;
}
