/**
 * One 8259A programmable interrupt controller (Intel 8259A data sheet, order 231468): the priority resolver, its modes
 * and its command words. How two of them make a PC's: pic.ts.
 */
import { Layout, type ViewOf } from "../../../memory/layout.js";

/** ICW1 (data sheet, "Initialization Command Words"). LTIM (bit 3) is replaced by the ELCRs, as in the PIIX3. */
const Icw1 = { SELECT: 0x10, SINGLE: 0x02, NEEDS_ICW4: 0x01 } as const;
const Icw4 = { AUTO_EOI: 0x02, SPECIAL_FULLY_NESTED: 0x10 } as const;
const ICW2_VECTOR_MASK = 0xf8;

/** OCW2: R, SL and EOI in bits 7:5 and the level in bits 2:0. */
const Ocw2 = {
  CLEAR_ROTATE_IN_AUTO_EOI: 0,
  EOI: 1,
  NO_OPERATION: 2,
  SPECIFIC_EOI: 3,
  SET_ROTATE_IN_AUTO_EOI: 4,
  ROTATE_ON_EOI: 5,
  SET_PRIORITY: 6,
  ROTATE_ON_SPECIFIC_EOI: 7,
} as const;
const OCW3_SELECT = 0x08;
const Ocw3 = {
  READ_ISR: 0x01,
  READ_SELECT: 0x02,
  POLL: 0x04,
  SPECIAL_MASK: 0x20,
  SPECIAL_MASK_SELECT: 0x40,
} as const;

/** Poll word: a request is there, its input in bits 2:0. */
const POLL_REQUEST = 0x80;

const NO_PRIORITY = 8;

/** What the next write to the data port is. */
const Init = { READY: 0, ICW2: 1, ICW3: 2, ICW4: 3 } as const;

export const I8259_STATE = new Layout("i8259", {
  /** Bit n: input n is high. */
  lines: "u32",
  /** Edges seen on edge-triggered inputs and not acknowledged. */
  edges: "u32",
  elcr: "u32",
  imr: "u32",
  isr: "u32",
  /** The input with the lowest priority. */
  lowest: "u32",
  icw1: "u32",
  icw2: "u32",
  icw3: "u32",
  icw4: "u32",
  init: "u32",
  readIsr: "u32",
  poll: "u32",
  specialMask: "u32",
  rotateInAutoEoi: "u32",
});

/** One 8259A. All calls with the pair's lock held. */
export class I8259 {
  constructor(
    readonly state: ViewOf<typeof I8259_STATE>,
    /** ELCR bits that can be set. */
    readonly elcrMask: number,
    /** The input that carries the slave's INT, or -1. */
    readonly cascade: number,
  ) {}

  /** The chip has no reset input. Without firmware that would have set it up, everything is masked. */
  reset(): void {
    const { state } = this;
    state.lines = 0;
    state.elcr = 0;
    state.icw2 = 0;
    state.icw3 = 0;
    state.icw4 = 0;
    this.#initialize(0);
    state.imr = 0xff;
    state.init = Init.READY;
  }

  setLine(input: number, level: boolean): void {
    const { state } = this;
    const bit = 1 << input;
    if (!level) state.lines &= ~bit;
    else {
      // The latch keeps an edge until INTA or ICW1. (A real input has to stay high until INTA; one whose device
      // pulses it from a program, as KVM_IRQ_LINE lets it, does not.)
      if ((state.lines & bit) === 0) state.edges |= bit;
      state.lines |= bit;
    }
  }

  /** The IRR: latched edges, and the level of level-triggered inputs. The slave's INT acts as a level. */
  get irr(): number {
    const { edges, lines, elcr } = this.state;
    const levels = this.cascade >= 0 ? elcr | (1 << this.cascade) : elcr;
    return (edges & ~levels) | (lines & levels);
  }

  /** The best priority among `bits`, 0 the highest, or `NO_PRIORITY`. */
  #priority(bits: number): number {
    if (bits === 0) return NO_PRIORITY;
    const { lowest } = this.state;
    let priority = 0;
    while ((bits & (1 << ((lowest + 1 + priority) & 7))) === 0) priority++;
    return priority;
  }

  #input(priority: number): number {
    return (this.state.lowest + 1 + priority) & 7;
  }

  /** The input that would be acknowledged now, or -1: INT is high where there is one. */
  pending(): number {
    const { imr, isr, specialMask, icw4 } = this.state;
    const request = this.#priority(this.irr & ~imr);
    if (request === NO_PRIORITY) return -1;
    // Special mask mode: a level in service that is masked holds nothing back.
    const service = this.#priority(specialMask !== 0 ? isr & ~imr : isr);
    const input = this.#input(request);
    if (request < service) return input;
    // Special fully nested mode: the slave may interrupt again while one of its interrupts is in service.
    const nested = input === this.cascade && (icw4 & Icw4.SPECIAL_FULLY_NESTED) !== 0;
    return nested && request === service ? input : -1;
  }

  /** INTA or a poll of `input`. */
  acknowledge(input: number): void {
    const { state } = this;
    const bit = 1 << input;
    state.edges &= ~bit;
    if ((state.icw4 & Icw4.AUTO_EOI) === 0) state.isr |= bit;
    else if (state.rotateInAutoEoi !== 0) state.lowest = input;
  }

  vector(input: number): number {
    return this.state.icw2 | input;
  }

  get hasSlave(): boolean {
    return this.cascade >= 0 && (this.state.icw1 & Icw1.SINGLE) === 0;
  }

  readCommand(): number {
    return this.#poll() ?? (this.state.readIsr !== 0 ? this.state.isr : this.irr);
  }

  readData(): number {
    return this.#poll() ?? this.state.imr;
  }

  /** After the poll command the next read is an INTA that gives the poll word (data sheet, "Poll Command"). */
  #poll(): number | undefined {
    if (this.state.poll === 0) return undefined;
    this.state.poll = 0;
    const input = this.pending();
    if (input < 0) return 0;
    this.acknowledge(input);
    return POLL_REQUEST | input;
  }

  writeCommand(value: number): void {
    if ((value & Icw1.SELECT) !== 0) this.#initialize(value);
    else if ((value & OCW3_SELECT) !== 0) this.#writeOcw3(value);
    else this.#writeOcw2(value >>> 5, value & 7);
  }

  /** ICW1 (data sheet, "ICW1", a to f). Lines stay as they are: a high one needs a new edge. */
  #initialize(icw1: number): void {
    const { state } = this;
    state.icw1 = icw1;
    state.edges = 0;
    state.imr = 0;
    state.isr = 0;
    state.lowest = 7;
    state.readIsr = 0;
    state.poll = 0;
    state.specialMask = 0;
    state.rotateInAutoEoi = 0;
    if ((icw1 & Icw1.NEEDS_ICW4) === 0) state.icw4 = 0;
    state.init = Init.ICW2;
  }

  #writeOcw3(value: number): void {
    const { state } = this;
    state.poll = (value & Ocw3.POLL) !== 0 ? 1 : 0;
    if ((value & Ocw3.READ_SELECT) !== 0) state.readIsr = value & Ocw3.READ_ISR;
    if ((value & Ocw3.SPECIAL_MASK_SELECT) !== 0) {
      state.specialMask = (value & Ocw3.SPECIAL_MASK) !== 0 ? 1 : 0;
    }
  }

  #writeOcw2(command: number, level: number): void {
    const { state } = this;
    switch (command) {
      case Ocw2.EOI:
      case Ocw2.ROTATE_ON_EOI: {
        const input = this.#inService();
        if (input < 0) break;
        state.isr &= ~(1 << input);
        if (command === Ocw2.ROTATE_ON_EOI) state.lowest = input;
        break;
      }
      case Ocw2.SPECIFIC_EOI:
        state.isr &= ~(1 << level);
        break;
      case Ocw2.ROTATE_ON_SPECIFIC_EOI:
        state.isr &= ~(1 << level);
        state.lowest = level;
        break;
      case Ocw2.SET_PRIORITY:
        state.lowest = level;
        break;
      case Ocw2.SET_ROTATE_IN_AUTO_EOI:
        state.rotateInAutoEoi = 1;
        break;
      case Ocw2.CLEAR_ROTATE_IN_AUTO_EOI:
        state.rotateInAutoEoi = 0;
        break;
    }
  }

  /** What a non-specific EOI ends, or -1. It passes over masked levels in special mask mode. */
  #inService(): number {
    const { isr, imr, specialMask } = this.state;
    const priority = this.#priority(specialMask !== 0 ? isr & ~imr : isr);
    return priority === NO_PRIORITY ? -1 : this.#input(priority);
  }

  writeData(value: number): void {
    const { state } = this;
    const single = (state.icw1 & Icw1.SINGLE) !== 0;
    const last = (state.icw1 & Icw1.NEEDS_ICW4) !== 0 ? Init.ICW4 : Init.READY;
    switch (state.init) {
      case Init.READY:
        state.imr = value;
        break;
      case Init.ICW2:
        state.icw2 = value & ICW2_VECTOR_MASK;
        state.init = single ? last : Init.ICW3;
        break;
      case Init.ICW3:
        state.icw3 = value;
        state.init = last;
        break;
      case Init.ICW4:
        state.icw4 = value;
        state.init = Init.READY;
        break;
    }
  }
}
