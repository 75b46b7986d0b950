/**
 * The 16550A UART: National Semiconductor, "PC16550D Universal Asynchronous Receiver/Transmitter with FIFOs", June 1995
 * ("DS" below, with its section), wired as in the PC: OUT2 gates the interrupt.
 *
 * | offset | DLAB | read | write |
 * | --- | --- | --- | --- |
 * | 0 | 0 | RBR, receiver buffer | THR, transmitter holding |
 * | 0 | 1 | DLL, divisor latch low | DLL |
 * | 1 | 0 | IER, interrupt enable | IER |
 * | 1 | 1 | DLM, divisor latch high | DLM |
 * | 2 | | IIR, interrupt identification | FCR, FIFO control |
 * | 3 | | LCR, line control | LCR |
 * | 4 | | MCR, modem control | MCR |
 * | 5 | | LSR, line status | factory test, ignored |
 * | 6 | | MSR, modem status | ignored |
 * | 7 | | SCR, scratch | SCR |
 *
 * The line has no bit rate: a character is sent as soon as it is written, so the transmitter is always empty, and the time of
 * four characters after which the receiver FIFO's timeout is indicated has passed once the other side has nothing more.
 * Characters have 8 bits whatever LCR says.
 *
 * The other side honours RTS: its bytes wait in the input ring while the guest holds RTS off. That is why nothing typed ahead is
 * lost in a boot, where drivers reset the FIFOs several times before they open the port. A guest that never wrote MCR
 * does not use the modem lines at all; it gets its bytes when it reads LSR.
 */
import type { ByteRing } from "../memory/byte-ring.js";
import { array, Layout, type ViewOf } from "../memory/layout.js";
import { Mutex } from "../memory/mutex.js";
import type { StateAllocator } from "../memory/state-allocator.js";
import type { AccessSize, BusDevice } from "./bus.js";
import type { InterruptLine } from "./interrupt-line.js";
import {
  CONNECTED,
  DELTA_SHIFT,
  Fcr,
  Ier,
  Iir,
  LCR_DLAB,
  Lsr,
  loopedLines,
  Mcr,
  ModemLine,
  MSR_DELTAS,
  MSR_LINES,
  Register,
  TRIGGER_LEVELS,
} from "./serial-registers.js";

/** Ports a UART takes. */
export const UART_SIZE = 8;

/** Where the PC has its serial ports (I/O base, ISA interrupt). */
export const COM_PORTS = [
  { name: "com1", base: 0x3f8, irq: 4 },
  { name: "com2", base: 0x2f8, irq: 3 },
  { name: "com3", base: 0x3e8, irq: 4 },
  { name: "com4", base: 0x2e8, irq: 3 },
] as const;

const FIFO_SIZE = 16;

const UART = new Layout("uart", {
  lock: "u32",
  /** Bytes of the input ring that come before the received break, where `breakPending`. */
  breakAfter: "u32",
  breakPending: "u8",
  interrupt: "u8",
  ier: "u8",
  fcr: "u8",
  lcr: "u8",
  mcr: "u8",
  msr: "u8",
  scr: "u8",
  dll: "u8",
  dlm: "u8",
  overrun: "u8",
  /** The THR-empty interrupt is to be indicated (DS 8.11). */
  thrInterrupt: "u8",
  mcrWritten: "u8",
  /** The modem's side of its lines, bits as in MSR. */
  modemLines: "u8",
  /** What RBR held last. */
  rbr: "u8",
  rxHead: "u8",
  rxCount: "u8",
  rxData: array("u8", FIFO_SIZE),
  /** Error bits of each character, as in LSR. */
  rxErrors: array("u8", FIFO_SIZE),
});

export interface UartOptions {
  /** The interrupt output behind OUT2. */
  readonly irq: InterruptLine;
  /** Where sent bytes go; without it they are lost. The UART is its only writer. */
  readonly output?: ByteRing | undefined;
  /** Wraps the sleep of a vCPU's thread until `output` is read, which may be for ever. */
  readonly whileWaiting?: ((sleep: () => void) => void) | undefined;
  /** Where received bytes come from. The UART is its only reader. */
  readonly input?: ByteRing | undefined;
  /**
   * Have `poll` called in a while: the receiver is empty, and more bytes wait. Without it they are there at once. A driver's
   * interrupt handler would never find the receiver empty then, as long as somebody types without end; Linux's gives up after
   * a number of rounds, and because the line stays up no edge would ever tell it of more.
   */
  readonly pollLater?: (() => void) | undefined;
}

export class Uart implements BusDevice {
  readonly #state: ViewOf<typeof UART>;
  readonly #rxData: Uint8Array;
  readonly #rxErrors: Uint8Array;
  readonly #lock: Mutex;
  readonly #irq: InterruptLine;
  readonly #output: ByteRing | undefined;
  readonly #input: ByteRing | undefined;
  readonly #pollLater: (() => void) | undefined;
  readonly #whileWaiting: (sleep: () => void) => void;

  constructor(allocator: StateAllocator, name: string, options: UartOptions) {
    this.#state = allocator.alloc(UART, name);
    this.#rxData = this.#state.rxData;
    this.#rxErrors = this.#state.rxErrors;
    this.#lock = new Mutex("uart", allocator.memory, this.#state.address + UART.offset.lock);
    this.#irq = options.irq;
    this.#output = options.output;
    this.#input = options.input;
    this.#pollLater = options.pollLater;
    this.#whileWaiting = options.whileWaiting ?? ((sleep) => sleep());
  }

  /** Master reset (DS table I). `modemLines`: what the other side has on, of `ModemLine`. The rings keep their bytes. */
  reset(modemLines: number = CONNECTED): void {
    this.#lock.lock();
    const state = this.#state;
    state.breakPending = 0;
    state.ier = 0;
    state.fcr = 0;
    state.lcr = 0;
    state.mcr = 0;
    state.mcrWritten = 0;
    state.scr = 0;
    state.dll = 0;
    state.dlm = 0;
    state.rbr = 0;
    state.thrInterrupt = 0;
    state.overrun = 0;
    state.modemLines = modemLines & MSR_LINES;
    state.msr = state.modemLines;
    this.#clearReceiver();
    this.#updateInterrupt();
    this.#lock.unlock();
  }

  /** Take over what came into the input ring. To be called after every push into it, on any thread. */
  poll(): void {
    this.#lock.lock();
    this.#receive();
    this.#updateInterrupt();
    this.#lock.unlock();
  }

  /** The other side sends a break (DS 8.4, BI), behind the bytes that are in the input ring now. Any thread. */
  receiveBreak(): void {
    this.#lock.lock();
    this.#state.breakPending = 1;
    this.#state.breakAfter = this.#input?.length ?? 0;
    this.#receive();
    this.#updateInterrupt();
    this.#lock.unlock();
  }

  /** The other side sets its modem lines: of `ModemLine`. Any thread. */
  setModemLines(lines: number): void {
    this.#lock.lock();
    this.#state.modemLines = lines & MSR_LINES;
    this.#updateModemStatus();
    this.#updateInterrupt();
    this.#lock.unlock();
  }

  read(offset: number, _size: AccessSize): number {
    this.#lock.lock();
    const value = this.#readRegister(offset & 7);
    this.#updateInterrupt();
    this.#lock.unlock();
    return value;
  }

  write(offset: number, _size: AccessSize, value: number): void {
    if ((offset & 7) === Register.DATA) {
      this.#writeData(value & 0xff);
      return;
    }
    this.#lock.lock();
    this.#writeRegister(offset & 7, value & 0xff);
    this.#updateInterrupt();
    this.#lock.unlock();
  }

  #readRegister(register: number): number {
    const state = this.#state;
    const dlab = (state.lcr & LCR_DLAB) !== 0;
    switch (register) {
      case Register.DATA:
        return dlab ? state.dll : this.#takeCharacter();
      case Register.IER:
        return dlab ? state.dlm : state.ier;
      case Register.IIR: {
        const id = this.#interruptId();
        // DS table IV: reading IIR resets the THR-empty interrupt if that is what it shows.
        if (id === Iir.THR_EMPTY) state.thrInterrupt = 0;
        return (state.fcr & Fcr.ENABLE) !== 0 ? id | Iir.FIFOS_ENABLED : id;
      }
      case Register.LCR:
        return state.lcr;
      case Register.MCR:
        return state.mcr;
      case Register.LSR: {
        if (state.mcrWritten === 0) this.#receive(true);
        const value = this.#lineStatus();
        // DS 8.4: reading LSR resets the error indicators.
        state.overrun = 0;
        this.#rxErrors[state.rxHead] = 0;
        return value;
      }
      case Register.MSR: {
        const value = state.msr;
        state.msr &= MSR_LINES;
        return value;
      }
      default:
        return state.scr;
    }
  }

  #writeRegister(register: number, value: number): void {
    const state = this.#state;
    switch (register) {
      case Register.IER:
        if ((state.lcr & LCR_DLAB) !== 0) {
          state.dlm = value;
          break;
        }
        // The holding register is empty at all times: enabling its interrupt indicates it at once.
        if ((value & ~state.ier & Ier.THR_EMPTY) !== 0) state.thrInterrupt = 1;
        state.ier = value & Ier.ALL;
        break;
      case Register.IIR:
        this.#controlFifos(value);
        break;
      case Register.LCR:
        state.lcr = value;
        break;
      case Register.MCR:
        state.mcr = value & Mcr.ALL;
        state.mcrWritten = 1;
        this.#updateModemStatus();
        this.#receive();
        break;
      case Register.SCR:
        state.scr = value;
        break;
      // DS 8.4: writing LSR is for factory testing. MSR has nothing to write.
    }
  }

  /** FCR, DS 8.5. */
  #controlFifos(value: number): void {
    const state = this.#state;
    const enable = value & Fcr.ENABLE;
    if (enable !== (state.fcr & Fcr.ENABLE)) {
      this.#clearReceiver();
      // DS 8.11: the first transmitter interrupt after changing FCR0 is immediate.
      state.thrInterrupt = 1;
    }
    // Without FCR0 in the same write the other bits are not programmed.
    if (enable === 0) state.fcr = 0;
    else {
      state.fcr = value & (Fcr.ENABLE | Fcr.DMA_MODE | Fcr.TRIGGER);
      if ((value & Fcr.RESET_RX) !== 0) this.#clearReceiver();
    }
    this.#receive();
  }

  /** THR or DLL. Waits, with no lock held, while the output ring is full. */
  #writeData(value: number): void {
    for (;;) {
      this.#lock.lock();
      const done = this.#tryWriteData(value);
      if (done) this.#updateInterrupt();
      this.#lock.unlock();
      if (done) return;
      this.#whileWaiting(() => this.#output?.waitForSpace());
    }
  }

  #tryWriteData(value: number): boolean {
    const state = this.#state;
    if ((state.lcr & LCR_DLAB) !== 0) {
      state.dll = value;
      return true;
    }
    const output = this.#output;
    if ((state.mcr & Mcr.LOOP) !== 0) this.#putCharacter(value, 0);
    else if (output !== undefined && !output.isClosed && !output.writeByte(value)) return false;
    // DS 8.11: writing resets the interrupt, the character's going out raises it. Both have to be seen: an edge-triggered
    // interrupt controller would miss the second one if the level just stayed.
    state.thrInterrupt = 0;
    this.#updateInterrupt();
    state.thrInterrupt = 1;
    return true;
  }

  /** Move bytes from the input ring into the receiver as far as it has room. */
  #receive(polled = false): void {
    const state = this.#state;
    const input = this.#input;
    // DS 8.8: in loopback SIN is disconnected, and RTS is off as the other side sees it.
    if ((state.mcr & Mcr.LOOP) !== 0) return;
    const mayReceive = (state.mcr & Mcr.RTS) !== 0 || (polled && state.mcrWritten === 0);
    if (!mayReceive) return;
    while (state.rxCount < this.#depth()) {
      if (state.breakPending !== 0 && state.breakAfter === 0) {
        state.breakPending = 0;
        // DS 8.4, BI: a break is loaded as one character of zeros.
        this.#putCharacter(0, Lsr.BREAK);
        continue;
      }
      const byte = input === undefined ? -1 : input.readByte();
      if (byte < 0) return;
      if (state.breakPending !== 0) state.breakAfter--;
      this.#putCharacter(byte, 0);
    }
  }

  /** 16450 mode has the one RBR. */
  #depth(): number {
    return (this.#state.fcr & Fcr.ENABLE) !== 0 ? FIFO_SIZE : 1;
  }

  #putCharacter(value: number, errors: number): void {
    const state = this.#state;
    if (state.rxCount === this.#depth()) {
      // DS 8.4, OE: the FIFO keeps what it has, and the new character is lost; a lone RBR is overwritten.
      state.overrun = 1;
      if ((state.fcr & Fcr.ENABLE) !== 0) return;
      state.rxCount = 0;
    }
    const at = (state.rxHead + state.rxCount) % FIFO_SIZE;
    this.#rxData[at] = value;
    this.#rxErrors[at] = errors;
    state.rxCount++;
  }

  /** RBR. */
  #takeCharacter(): number {
    const state = this.#state;
    if (state.rxCount > 0) {
      state.rbr = this.#rxData[state.rxHead];
      this.#rxErrors[state.rxHead] = 0;
      state.rxHead = (state.rxHead + 1) % FIFO_SIZE;
      state.rxCount--;
      if (this.#pollLater === undefined) this.#receive();
      else if (state.rxCount === 0 && this.#moreComes()) this.#pollLater();
    }
    return state.rbr;
  }

  /** Whether the other side has something on the line. */
  #moreComes(): boolean {
    return this.#state.breakPending !== 0 || (this.#input !== undefined && this.#input.length > 0);
  }

  #clearReceiver(): void {
    this.#state.rxHead = 0;
    this.#state.rxCount = 0;
    this.#rxErrors.fill(0);
  }

  /** LSR, DS 8.4. Errors are those of the character at the top of the FIFO. */
  #lineStatus(): number {
    const state = this.#state;
    let value = Lsr.THR_EMPTY | Lsr.TX_EMPTY | this.#rxErrors[state.rxHead];
    if (state.rxCount > 0) value |= Lsr.DATA_READY;
    if (state.overrun !== 0) value |= Lsr.OVERRUN;
    if ((state.fcr & Fcr.ENABLE) !== 0 && this.#anyError()) value |= Lsr.FIFO_ERROR;
    return value;
  }

  #anyError(): boolean {
    for (let i = 0; i < FIFO_SIZE; i++) if (this.#rxErrors[i] !== 0) return true;
    return false;
  }

  /** MSR, DS 8.9: note which lines changed. */
  #updateModemStatus(): void {
    const state = this.#state;
    const lines = (state.mcr & Mcr.LOOP) !== 0 ? loopedLines(state.mcr) : state.modemLines;
    let changed = (state.msr ^ lines) & MSR_LINES;
    // TERI is the trailing edge only: the ring indicator went off.
    if ((lines & ModemLine.RI) !== 0) changed &= ~ModemLine.RI;
    state.msr = lines | (state.msr & MSR_DELTAS) | (changed >>> DELTA_SHIFT);
  }

  /** The interrupt of highest priority among the enabled ones, DS 8.6 and table IV. */
  #interruptId(): number {
    const state = this.#state;
    const { ier } = state;
    if ((ier & Ier.LINE_STATUS) !== 0 && (state.overrun | this.#rxErrors[state.rxHead]) !== 0) {
      return Iir.LINE_STATUS;
    }
    if ((ier & Ier.RX_DATA) !== 0 && state.rxCount > 0) {
      const trigger = (state.fcr & Fcr.ENABLE) !== 0 ? TRIGGER_LEVELS[state.fcr >>> Fcr.TRIGGER_SHIFT] : 1;
      return state.rxCount >= trigger ? Iir.RX_DATA : Iir.RX_TIMEOUT;
    }
    if ((ier & Ier.THR_EMPTY) !== 0 && state.thrInterrupt !== 0) return Iir.THR_EMPTY;
    if ((ier & Ier.MODEM_STATUS) !== 0 && (state.msr & MSR_DELTAS) !== 0) return Iir.MODEM_STATUS;
    return Iir.NONE;
  }

  #updateInterrupt(): void {
    const state = this.#state;
    // The PC's gate is the OUT2 bit even in loopback, where the pin itself is off: DS 8.8 has interrupts fully
    // operational in diagnostic mode, and PC chip sets with the UART inside follow that.
    const level = (state.mcr & Mcr.OUT2) !== 0 && this.#interruptId() !== Iir.NONE ? 1 : 0;
    if (level === state.interrupt) return;
    state.interrupt = level;
    this.#irq.set(level !== 0);
  }
}
