/**
 * The I/O APIC: Intel 82093AA data sheet (order 290566), with the EOI register of version 0x20 (Intel ICH data sheets,
 * "Advanced Programmable Interrupt Controller: EOIR").
 *
 * Memory-mapped, at 0xFEC00000 (data sheet 3.1):
 *
 *     0x00  IOREGSEL  index of the register that IOWIN shows
 *     0x10  IOWIN     the register
 *     0x40  EOI       wo: end of interrupt for the vector in bits 7:0
 *
 * Behind the window (3.2):
 *
 *     0x00       IOAPICID   rw  ID in bits 27:24
 *     0x01       IOAPICVER  ro  version, highest entry in bits 23:16
 *     0x02       IOAPICARB  ro  arbitration ID in bits 27:24
 *     0x10+2n    entry n, bits 31:0
 *     0x11+2n    entry n, bits 63:32: destination in bits 31:24
 *
 * A pin is either asserted or not: what voltage that is on the wire is settled between device and pin, so the polarity
 * bit is stored and has no effect (KVM does the same).
 */
import { array, Layout, type ViewOf } from "../../../memory/layout.js";
import { Mutex } from "../../../memory/mutex.js";
import type { SharedMemory } from "../../../memory/shared-memory.js";
import type { StateAllocator } from "../../../memory/state-allocator.js";
import {
  destination8,
  deviceDeliveryMode,
  type InterruptBus,
  type InterruptMessage,
} from "./interrupt-bus.js";

export const IOAPIC_ADDRESS = 0xfec00000;
export const IOAPIC_SIZE = 0x1000;
export const IOAPIC_PINS = 24;

const IOREGSEL = 0x00;
const IOWIN = 0x10;
const EOI = 0x40;

const IoapicReg = { ID: 0, VERSION: 1, ARBITRATION: 2, REDIRECTION: 0x10 } as const;

const VERSION = 0x20 | ((IOAPIC_PINS - 1) << 16);
const ID_MASK = 0x0f000000;

/** Redirection table entry, bits 31:0 (data sheet 3.2.4). */
export const Redirection = {
  VECTOR: 0xff,
  DELIVERY_MODE_SHIFT: 8,
  LOGICAL: 1 << 11,
  DELIVERY_STATUS: 1 << 12,
  ACTIVE_LOW: 1 << 13,
  REMOTE_IRR: 1 << 14,
  LEVEL: 1 << 15,
  MASKED: 1 << 16,
} as const;
/** All but delivery status and remote IRR, which are read-only. */
const ENTRY_WRITABLE = 0x1ffff & ~(Redirection.DELIVERY_STATUS | Redirection.REMOTE_IRR);

const DESTINATION_SHIFT = 24;

const IOAPIC_STATE = new Layout("ioapic", {
  lock: "u32",
  select: "u32",
  id: "u32",
  /** Bit n: pin n is asserted. */
  lines: "u32",
  low: array("u32", IOAPIC_PINS),
  high: array("u32", IOAPIC_PINS),
});

export class Ioapic {
  readonly #state: ViewOf<typeof IOAPIC_STATE>;
  readonly #lock: Mutex;
  readonly #bus: InterruptBus;

  constructor(memory: SharedMemory, allocator: StateAllocator, bus: InterruptBus) {
    this.#state = allocator.alloc(IOAPIC_STATE, "ioapic");
    this.#lock = new Mutex("ioapic", memory, this.#state.address + IOAPIC_STATE.offset.lock);
    this.#bus = bus;
  }

  /** Data sheet 3.2: ID 0, all entries masked. */
  reset(): void {
    const state = this.#state;
    state.select = 0;
    state.id = 0;
    state.lines = 0;
    state.low.fill(Redirection.MASKED);
    state.high.fill(0);
  }

  claims(address: number): boolean {
    return address >= IOAPIC_ADDRESS && address < IOAPIC_ADDRESS + IOAPIC_SIZE;
  }

  /** Assert or release a pin. Any thread. */
  setPin(pin: number, level: boolean): void {
    const state = this.#state;
    const bit = 1 << pin;
    this.#lock.lock();
    const before = state.lines & bit;
    state.lines = level ? state.lines | bit : state.lines & ~bit;
    let sends = false;
    if (level) {
      const low = state.low[pin];
      // An edge on a masked pin is lost (data sheet 3.2.4, "Interrupt Mask"), a level is seen when the mask goes.
      sends = (low & Redirection.LEVEL) !== 0 ? this.#latchLevel(pin) : before === 0 && !isMasked(low);
    }
    const message = sends ? this.#message(pin) : undefined;
    this.#lock.unlock();
    if (message !== undefined) this.#send(pin, message);
  }

  /**
   * If level-triggered `pin` has to send its message, mark it as sent: the remote IRR stays set until the EOI, and holds
   * back all further messages.
   */
  #latchLevel(pin: number): boolean {
    const low = this.#state.low[pin];
    const asserted = ((this.#state.lines >>> pin) & 1) === 1;
    if (!asserted || isMasked(low) || (low & Redirection.LEVEL) === 0) return false;
    if ((low & Redirection.REMOTE_IRR) !== 0) return false;
    this.#state.low[pin] = low | Redirection.REMOTE_IRR;
    return true;
  }

  #message(pin: number): InterruptMessage {
    const low = this.#state.low[pin];
    return {
      destination: destination8(this.#state.high[pin] >>> DESTINATION_SHIFT),
      logical: (low & Redirection.LOGICAL) !== 0,
      mode: deviceDeliveryMode((low >>> Redirection.DELIVERY_MODE_SHIFT) & 7),
      vector: low & Redirection.VECTOR,
      level: (low & Redirection.LEVEL) !== 0,
    };
  }

  /** Without the lock: the local APICs signal their vCPUs. */
  #send(pin: number, message: InterruptMessage): void {
    if (this.#bus.deliver(message) > 0 || !message.level) return;
    // Nobody took it, so nobody will send an EOI for it.
    this.#lock.with(() => {
      this.#state.low[pin] &= ~Redirection.REMOTE_IRR;
    });
  }

  /** EOI for `vector`, from a local APIC or the EOI register: lines that are still asserted interrupt again. */
  eoi(vector: number): void {
    const state = this.#state;
    const pins: number[] = [];
    const messages: InterruptMessage[] = [];
    this.#lock.lock();
    for (let pin = 0; pin < IOAPIC_PINS; pin++) {
      const low = state.low[pin];
      if ((low & Redirection.VECTOR) !== vector || (low & Redirection.REMOTE_IRR) === 0) continue;
      state.low[pin] = low & ~Redirection.REMOTE_IRR;
      if (!this.#latchLevel(pin)) continue;
      pins.push(pin);
      messages.push(this.#message(pin));
    }
    this.#lock.unlock();
    for (let i = 0; i < pins.length; i++) this.#send(pins[i], messages[i]);
  }

  /** Registers are 32 bits wide; a smaller read gives the low bytes. */
  readMmio(address: number, size: number): number {
    const value = this.#lock.with(() => {
      switch (address - IOAPIC_ADDRESS) {
        case IOREGSEL:
          return this.#state.select;
        case IOWIN:
          return this.#readWindow();
        default:
          return 0;
      }
    });
    return size >= 4 ? value : value & ((1 << (8 * size)) - 1);
  }

  #readWindow(): number {
    const { select, id, low, high } = this.#state;
    switch (select) {
      case IoapicReg.ID:
      case IoapicReg.ARBITRATION:
        return id;
      case IoapicReg.VERSION:
        return VERSION;
    }
    const entry = (select - IoapicReg.REDIRECTION) >> 1;
    if (entry < 0 || entry >= IOAPIC_PINS) return 0;
    return (select & 1) === 0 ? low[entry] : high[entry];
  }

  writeMmio(address: number, value: number): void {
    switch (address - IOAPIC_ADDRESS) {
      case IOREGSEL:
        this.#lock.with(() => {
          this.#state.select = value & 0xff;
        });
        break;
      case IOWIN:
        this.#writeWindow(value >>> 0);
        break;
      case EOI:
        this.eoi(value & Redirection.VECTOR);
        break;
    }
  }

  #writeWindow(value: number): void {
    const state = this.#state;
    let pin = -1;
    let message: InterruptMessage | undefined;
    this.#lock.lock();
    const { select } = state;
    if (select === IoapicReg.ID) state.id = value & ID_MASK;
    const entry = (select - IoapicReg.REDIRECTION) >> 1;
    if (entry >= 0 && entry < IOAPIC_PINS) {
      if ((select & 1) === 1) {
        state.high[entry] = (value & 0xff000000) >>> 0;
      } else {
        // As an edge-triggered entry has no remote IRR, going through edge is how an OS forces an EOI.
        const kept = (value & Redirection.LEVEL) !== 0 ? state.low[entry] & Redirection.REMOTE_IRR : 0;
        state.low[entry] = (value & ENTRY_WRITABLE) | kept;
        if (this.#latchLevel(entry)) {
          pin = entry;
          message = this.#message(entry);
        }
      }
    }
    this.#lock.unlock();
    if (message !== undefined) this.#send(pin, message);
  }
}

function isMasked(low: number): boolean {
  return (low & Redirection.MASKED) !== 0;
}
