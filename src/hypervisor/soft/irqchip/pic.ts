/**
 * The two cascaded 8259A interrupt controllers of a PC (one 8259A: i8259.ts), with the edge/level control registers of
 * the PIIX3 (82371SB data sheet, 2.5 "ELCR").
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
import { Layout, type ViewOf } from "../../../memory/layout.js";
import { Mutex } from "../../../memory/mutex.js";
import type { SharedMemory } from "../../../memory/shared-memory.js";
import type { StateAllocator } from "../../../memory/state-allocator.js";
import { I8259, I8259_STATE } from "./i8259.js";

export const PicPort = {
  MASTER_COMMAND: 0x20,
  MASTER_DATA: 0x21,
  SLAVE_COMMAND: 0xa0,
  SLAVE_DATA: 0xa1,
  ELCR_MASTER: 0x4d0,
  ELCR_SLAVE: 0x4d1,
} as const;

const CASCADE_INPUT = 2;
/** The input whose vector is given when no request is there at INTA. */
const SPURIOUS_INPUT = 7;

/** IRQs 0 to 2, 8 and 13 are always edges. */
const ELCR_MASK_MASTER = 0xf8;
const ELCR_MASK_SLAVE = 0xde;

const PIC_STATE = new Layout("pic", {
  lock: "u32",
  /** 1: INTR is high. Read without the lock. */
  output: "u32",
});

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
    this.#master = new I8259(allocator.alloc(I8259_STATE, "pic.master"), ELCR_MASK_MASTER, CASCADE_INPUT);
    this.#slave = new I8259(allocator.alloc(I8259_STATE, "pic.slave"), ELCR_MASK_SLAVE, -1);
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
