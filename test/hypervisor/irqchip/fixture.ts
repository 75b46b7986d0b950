/** An interrupt chip over its own memory, with a clock that the test sets and a record of the signals to the vCPUs. */

import { IrqChip } from "../../../src/hypervisor/soft/irqchip/irqchip.js";
import { ApicBase, LapicReg } from "../../../src/hypervisor/soft/irqchip/lapic-registers.js";
import { Clock } from "../../../src/memory/clock.js";
import { SharedMemory } from "../../../src/memory/shared-memory.js";
import { StateAllocator } from "../../../src/memory/state-allocator.js";
import { Timers } from "../../../src/memory/timers.js";

export class FakeClock extends Clock {
  time = 0;
  constructor() {
    super(0n);
  }
  override now(): number {
    return this.time;
  }
}

export const LAPIC_PAGE = 0xfee00000;
export const IOAPIC_PAGE = 0xfec00000;
export const MAX_PHYS_BITS = 40;

export class Fixture {
  readonly clock: FakeClock = new FakeClock();
  readonly memory: SharedMemory = SharedMemory.create(1 << 20);
  readonly timers: Timers;
  readonly chip: IrqChip;
  /** Signals since the last look, as "interrupt 0", "sipi 1 0x9a". */
  signals: string[] = [];
  readonly tscOffsets: bigint[];

  constructor(
    readonly vcpus = 1,
    over?: Fixture | SharedMemory,
  ) {
    this.tscOffsets = new Array<bigint>(vcpus).fill(0n);
    // Another thread's objects over the same state.
    if (over instanceof Fixture) {
      this.memory = over.memory;
      this.clock = over.clock;
    } else if (over !== undefined) this.memory = over;
    const allocator = new StateAllocator(this.memory, 64, this.memory.size);
    this.timers = new Timers(this.memory, allocator, this.clock);
    this.chip = new IrqChip(
      this.memory,
      allocator,
      this.timers,
      this.clock,
      vcpus,
      {
        interrupt: (vcpu) => this.signals.push(`interrupt ${vcpu}`),
        nmi: (vcpu) => this.signals.push(`nmi ${vcpu}`),
        init: (vcpu) => this.signals.push(`init ${vcpu}`),
        sipi: (vcpu, vector) => this.signals.push(`sipi ${vcpu} 0x${vector.toString(16)}`),
      },
      { tscOffset: (vcpu) => this.tscOffsets[vcpu] },
      { physicalAddressBits: MAX_PHYS_BITS },
    );
    if (over === undefined) {
      this.timers.reset();
      this.chip.reset();
    }
  }

  /** Signals since the last call. */
  take(): string[] {
    const { signals } = this;
    this.signals = [];
    return signals;
  }

  /** Let `nanoseconds` pass, running timers when they are due, as the timer thread does. */
  advance(nanoseconds: number): void {
    const end = this.clock.time + nanoseconds;
    for (;;) {
      const next = this.timers.expire();
      if (next > end) break;
      this.clock.time = Math.max(this.clock.time, next);
    }
    this.clock.time = end;
  }

  // xAPIC registers
  read(vcpu: number, offset: number): number {
    return this.chip.readMmio(vcpu, LAPIC_PAGE + offset, 4);
  }
  write(vcpu: number, offset: number, value: number): void {
    this.chip.writeMmio(vcpu, LAPIC_PAGE + offset, 4, value);
  }

  // x2APIC registers, by xAPIC offset
  readX2(vcpu: number, offset: number): bigint | undefined {
    return this.chip.readMsr(vcpu, 0x800 + offset / 16);
  }
  writeX2(vcpu: number, offset: number, value: bigint): boolean {
    return this.chip.writeMsr(vcpu, 0x800 + offset / 16, value);
  }

  enableX2apic(vcpu: number): void {
    const base = this.chip.readMsr(vcpu, 0x1b) as bigint;
    if (!this.chip.writeMsr(vcpu, 0x1b, base | BigInt(ApicBase.X2APIC))) throw new Error("no x2APIC");
  }

  /** Software-enable all local APICs, with spurious vector 0xFF. */
  enableAll(): void {
    for (let vcpu = 0; vcpu < this.vcpus; vcpu++) {
      if (this.chip.lapics[vcpu].x2apic) this.writeX2(vcpu, LapicReg.SVR, 0x1ffn);
      else this.write(vcpu, LapicReg.SVR, 0x1ff);
    }
  }

  // IOAPIC registers
  readIoapic(index: number): number {
    this.chip.writeMmio(0, IOAPIC_PAGE, 4, index);
    return this.chip.readMmio(0, IOAPIC_PAGE + 0x10, 4);
  }
  writeIoapic(index: number, value: number): void {
    this.chip.writeMmio(0, IOAPIC_PAGE, 4, index);
    this.chip.writeMmio(0, IOAPIC_PAGE + 0x10, 4, value);
  }
  /** Redirection entry: destination in bits 63:56. */
  redirect(pin: number, low: number, destination = 0): void {
    this.writeIoapic(0x11 + 2 * pin, destination << 24);
    this.writeIoapic(0x10 + 2 * pin, low);
  }

  /** All vectors deliverable to the vCPU now, each ended with an EOI before the next. */
  drain(vcpu: number): number[] {
    const vectors: number[] = [];
    while (this.chip.hasInterrupt(vcpu)) {
      vectors.push(this.chip.acknowledge(vcpu));
      this.chip.lapics[vcpu].eoi();
    }
    return vectors;
  }

  out(port: number, ...bytes: number[]): void {
    for (const byte of bytes) this.chip.writePort(port, 1, byte);
  }
  in(port: number): number {
    return this.chip.readPort(port, 1);
  }
}
