/**
 * The two cascaded 8259A interrupt controllers of a PC: Intel 8259A data sheet (order 231468), with the edge/level
 * control registers of the PIIX3 (82371SB data sheet, 2.5 "ELCR").
 *
 *     port        write                                      read
 *     0x20, 0xA0  ICW1 (bit 4), OCW2 (bits 4:3 = 00),        IRR or ISR, as OCW3 chose, or the poll word
 *                 OCW3 (bits 4:3 = 01)
 *     0x21, 0xA1  ICW2, ICW3, ICW4 after ICW1; else OCW1     IMR
 *     0x4D0       ELCR of the master: bit n makes input n level-triggered (not 0, 1, 2)
 *     0x4D1       ELCR of the slave (not 0, 5: IRQ 8 and 13)
 *
 * The slave hangs on the master's input 2; the master's INTR goes to every LINT0.
 */
import { Layout, type View, type ViewOf } from "../../../memory/layout.js";
import { Mutex } from "../../../memory/mutex.js";
import type { SharedMemory } from "../../../memory/shared-memory.js";
import type { StateAllocator } from "../../../memory/state-allocator.js";

export const PicPort = {
  MASTER_COMMAND: 0x20,
  MASTER_DATA: 0x21,
  SLAVE_COMMAND: 0xa0,
  SLAVE_DATA: 0xa1,
  ELCR_MASTER: 0x4d0,
  ELCR_SLAVE: 0x4d1,
} as const;

const CASCADE_INPUT = 2;
/** The input whose vector is given when no request is there at INTA (data sheet, "IR7"). */
const SPURIOUS_INPUT = 7;

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

const I8259_FIELDS = {
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
} as const;
const I8259_STATE = new Layout("i8259", I8259_FIELDS);

const PIC_STATE = new Layout("pic", {
  lock: "u32",
  /** 1: INTR is high. Read without the lock. */
  output: "u32",
});

/** One 8259A. All calls with the pair's lock held. */
class I8259 {
  constructor(
    readonly state: View<typeof I8259_FIELDS>,
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

/** Both 8259As. Any thread. */
export class PicPair {
  readonly #state: ViewOf<typeof PIC_STATE>;
  readonly #lock: Mutex;
  readonly #words: Int32Array;
  readonly #outputWord: number;
  readonly #master: I8259;
  readonly #slave: I8259;
  readonly #intr: (rising: boolean) => void;

  /** `intr`: INTR went high (`rising`), or is high still after an INTA. Called without the lock. */
  constructor(memory: SharedMemory, allocator: StateAllocator, intr: (rising: boolean) => void) {
    this.#state = allocator.alloc(PIC_STATE, "pic");
    this.#lock = new Mutex("pic", memory, this.#state.address + PIC_STATE.offset.lock);
    this.#words = memory.i32;
    this.#outputWord = (this.#state.address + PIC_STATE.offset.output) >>> 2;
    this.#master = new I8259(allocator.alloc(I8259_STATE, "pic.master"), 0xf8, CASCADE_INPUT);
    this.#slave = new I8259(allocator.alloc(I8259_STATE, "pic.slave"), 0xde, -1);
    this.#intr = intr;
  }

  reset(): void {
    this.#master.reset();
    this.#slave.reset();
    Atomics.store(this.#words, this.#outputWord, 0);
  }

  /** The level of INTR. */
  get output(): boolean {
    return Atomics.load(this.#words, this.#outputWord) !== 0;
  }

  /** IRQ 0 to 15; IRQ 2 is the cascade and not there. */
  setIrq(irq: number, level: boolean): void {
    if (irq === CASCADE_INPUT) return;
    this.#change(() => (irq < 8 ? this.#master : this.#slave).setLine(irq & 7, level));
  }

  /**
   * The INTA cycle: the vector. Where the request has gone away it is that of input 7, and nothing is in service then
   * (data sheet, "Interrupt Sequence").
   */
  acknowledge(): number {
    const master = this.#master;
    const slave = this.#slave;
    const vector = this.#change(() => {
      const input = master.pending();
      if (input < 0) return master.vector(SPURIOUS_INPUT);
      master.acknowledge(input);
      if (input !== CASCADE_INPUT || !master.hasSlave) return master.vector(input);
      const slaveInput = slave.pending();
      if (slaveInput < 0) return slave.vector(SPURIOUS_INPUT);
      slave.acknowledge(slaveInput);
      return slave.vector(slaveInput);
    });
    // With automatic EOI there may be another request at once.
    if (this.output) this.#intr(false);
    return vector;
  }

  readPort(port: number): number {
    switch (port) {
      case PicPort.MASTER_COMMAND:
        return this.#change(() => this.#master.readCommand());
      case PicPort.MASTER_DATA:
        return this.#change(() => this.#master.readData());
      case PicPort.SLAVE_COMMAND:
        return this.#change(() => this.#slave.readCommand());
      case PicPort.SLAVE_DATA:
        return this.#change(() => this.#slave.readData());
      case PicPort.ELCR_MASTER:
        return this.#master.state.elcr;
      default:
        return this.#slave.state.elcr;
    }
  }

  writePort(port: number, value: number): void {
    const master = this.#master;
    const slave = this.#slave;
    this.#change(() => {
      switch (port) {
        case PicPort.MASTER_COMMAND:
          master.writeCommand(value);
          break;
        case PicPort.MASTER_DATA:
          master.writeData(value);
          break;
        case PicPort.SLAVE_COMMAND:
          slave.writeCommand(value);
          break;
        case PicPort.SLAVE_DATA:
          slave.writeData(value);
          break;
        case PicPort.ELCR_MASTER:
          master.state.elcr = value & master.elcrMask;
          break;
        case PicPort.ELCR_SLAVE:
          slave.state.elcr = value & slave.elcrMask;
          break;
      }
    });
  }

  /** Run `body` under the lock, then carry the slave's INT to the master and the master's to INTR. */
  #change<T>(body: () => T): T {
    this.#lock.lock();
    const result = body();
    this.#master.setLine(CASCADE_INPUT, this.#slave.pending() >= 0);
    const after = this.#master.pending() >= 0;
    const before = Atomics.exchange(this.#words, this.#outputWord, after ? 1 : 0) !== 0;
    this.#lock.unlock();
    if (after && !before) this.#intr(true);
    return result;
  }
}
