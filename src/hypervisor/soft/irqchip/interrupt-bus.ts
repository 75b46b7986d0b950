/**
 * Interrupt messages between IOAPIC, MSIs and local APICs: destination matching, arbitration and delivery
 * (SDM vol. 3A, 11.6.2 "Determining IPI Destination" and 11.12.10; 11.11 for MSIs).
 */
import type { CpuSignals } from "./cpu-signals.js";
import type { LocalApic } from "./lapic.js";

/** Delivery modes, three bits, the same in ICR, LVT, IOAPIC entries and MSI data. 3 is reserved. */
export const DeliveryMode = {
  FIXED: 0,
  LOWEST_PRIORITY: 1,
  SMI: 2,
  NMI: 4,
  INIT: 5,
  /** In an ICR only. */
  STARTUP: 6,
  /** Not in an ICR. */
  EXTINT: 7,
} as const;

/** What a reserved delivery mode of a device's message becomes: it delivers nothing. */
const RESERVED = 3;

/** The delivery mode field of IOAPIC entries and MSIs: a start-up message is reserved there. */
export function deviceDeliveryMode(field: number): number {
  return field === DeliveryMode.STARTUP ? RESERVED : field;
}

/** Destination shorthands of the ICR. */
export const Shorthand = { NONE: 0, SELF: 1, ALL: 2, OTHERS: 3 } as const;

/** Every local APIC, in either destination mode. */
export const BROADCAST = 0xffffffff;
const XAPIC_BROADCAST = 0xff;

/** The 8-bit destination field of xAPIC ICRs, IOAPIC entries and MSIs: all ones is the broadcast there. */
export function destination8(field: number): number {
  return field === XAPIC_BROADCAST ? BROADCAST : field;
}

export interface InterruptMessage {
  /** APIC ID or logical destination, or `BROADCAST`. */
  readonly destination: number;
  readonly logical: boolean;
  /** A value of `DeliveryMode`, or a reserved one, which delivers nothing. */
  readonly mode: number;
  readonly vector: number;
  /** Level-triggered: its EOI goes back to the IOAPICs. */
  readonly level: boolean;
  /** MSI redirection hint: deliver to one of the destinations only. */
  readonly redirect?: boolean;
}

export class InterruptBus {
  /** By vCPU; filled by the `IrqChip`. */
  readonly lapics: LocalApic[] = [];
  readonly #signals: CpuSignals;
  readonly #eoi: (vector: number) => void;
  readonly #words: Int32Array;
  readonly #turn: number;

  /**
   * `turn`: address of a u32 in shared memory, for taking turns between equals.
   * `eoi`: the IOAPICs' side of an EOI broadcast.
   */
  constructor(words: Int32Array, turn: number, signals: CpuSignals, eoi: (vector: number) => void) {
    this.#words = words;
    this.#turn = turn >>> 2;
    this.#signals = signals;
    this.#eoi = eoi;
  }

  /** Deliver to all APICs that match; how many accepted it is returned. */
  deliver(message: InterruptMessage): number {
    if (message.mode === DeliveryMode.LOWEST_PRIORITY || message.redirect === true) {
      return this.#deliverToOne(message);
    }
    let accepted = 0;
    for (const lapic of this.lapics) {
      if (lapic.matches(message.destination, message.logical) && this.#accept(lapic, message)) accepted++;
    }
    return accepted;
  }

  /** An IPI with a destination shorthand. */
  deliverShorthand(sender: number, shorthand: number, message: InterruptMessage): number {
    if (shorthand === Shorthand.SELF) return this.#accept(this.lapics[sender], message) ? 1 : 0;
    if (message.mode === DeliveryMode.LOWEST_PRIORITY) {
      return this.#deliverToOne(message, shorthand === Shorthand.OTHERS ? sender : -1);
    }
    let accepted = 0;
    for (const lapic of this.lapics) {
      if (shorthand === Shorthand.OTHERS && lapic.vcpu === sender) continue;
      if (this.#accept(lapic, message)) accepted++;
    }
    return accepted;
  }

  /** EOI of a level-triggered interrupt: to all IOAPICs (SDM vol. 3A, 11.8.5). */
  broadcastEoi(vector: number): void {
    this.#eoi(vector);
  }

  /** The APIC with the lowest processor priority takes it (SDM vol. 3A, 11.6.2.4); equals take turns. */
  #deliverToOne(message: InterruptMessage, except = -1): number {
    const count = this.lapics.length;
    const start = (Atomics.add(this.#words, this.#turn, 1) >>> 0) % count;
    let best: LocalApic | undefined;
    let lowest = Number.POSITIVE_INFINITY;
    for (let i = 0; i < count; i++) {
      const lapic = this.lapics[(start + i) % count];
      if (lapic.vcpu === except || !lapic.softwareEnabled) continue;
      if (!lapic.matches(message.destination, message.logical)) continue;
      const priority = lapic.ppr();
      if (priority < lowest) {
        lowest = priority;
        best = lapic;
      }
    }
    return best !== undefined && this.#accept(best, message) ? 1 : 0;
  }

  #accept(lapic: LocalApic, message: InterruptMessage): boolean {
    if (!lapic.enabled) return false;
    switch (message.mode) {
      case DeliveryMode.FIXED:
      case DeliveryMode.LOWEST_PRIORITY:
        return lapic.accept(message.vector, message.level);
      case DeliveryMode.NMI:
        this.#signals.nmi(lapic.vcpu);
        return true;
      case DeliveryMode.INIT:
        this.#signals.init(lapic.vcpu);
        return true;
      case DeliveryMode.STARTUP:
        this.#signals.sipi(lapic.vcpu, message.vector);
        return true;
      default:
        // There is no SMM, and the 8259s are wired to LINT0 only, so no ExtINT comes this way.
        return false;
    }
  }
}
