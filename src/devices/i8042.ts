/**
 * The PS/2 keyboard and auxiliary device controller (IBM, "Personal System/2 Hardware Interface Technical Reference", Keyboard and
 * Auxiliary Device Controller; "IBM" below), with a keyboard and a mouse.
 *
 * | port | offset | read | write |
 * | --- | --- | --- | --- |
 * | 0x60 | 0 | output buffer | input buffer: data |
 * | 0x64 | 4 | status | input buffer: command |
 *
 * Everything takes no time: the input buffer is always empty again, and a device's next byte is in the output buffer as
 * soon as that is free. No firmware runs, so reset leaves what firmware would: tested, keyboard on and translated.
 */
import { array, Layout, type ViewOf } from "../memory/layout.js";
import { Mutex } from "../memory/mutex.js";
import type { StateAllocator } from "../memory/state-allocator.js";
import type { AccessSize, BusDevice } from "./bus.js";
import type { InterruptLine } from "./interrupt-line.js";
import { Ps2Keyboard } from "./ps2-keyboard.js";
import { Ps2Mouse } from "./ps2-mouse.js";
import { RELEASE, translate } from "./scancodes.js";

/** The two ports, each one byte; register them with their offset as `deviceOffset`. */
export const I8042_PORTS = [
  { port: 0x60, offset: 0 },
  { port: 0x64, offset: 4 },
] as const;
export const KEYBOARD_IRQ = 1;
export const MOUSE_IRQ = 12;

const COMMAND_PORT = 4;

/** Status register (IBM, "Status Register"). Bit 1, input buffer full, is never seen set. */
const Status = {
  OUTPUT_FULL: 0x01,
  SYSTEM: 0x04,
  COMMAND: 0x08,
  /** The keyboard lock is open. */
  NOT_INHIBITED: 0x10,
  AUX_OUTPUT: 0x20,
} as const;

/** Command byte (IBM, "Controller Command Byte"), the first byte of the controller's RAM. */
const CommandByte = {
  KEYBOARD_INTERRUPT: 0x01,
  AUX_INTERRUPT: 0x02,
  SYSTEM: 0x04,
  KEYBOARD_OFF: 0x10,
  AUX_OFF: 0x20,
  TRANSLATE: 0x40,
  RESERVED: 0x80,
} as const;

/** What PC firmware leaves. */
const FIRMWARE_COMMAND_BYTE =
  CommandByte.KEYBOARD_INTERRUPT | CommandByte.SYSTEM | CommandByte.AUX_OFF | CommandByte.TRANSLATE;

/** Controller commands, port 0x64. */
const Command = {
  READ_RAM_FIRST: 0x20,
  READ_RAM_LAST: 0x3f,
  WRITE_RAM_FIRST: 0x60,
  WRITE_RAM_LAST: 0x7f,
  TEST_PASSWORD: 0xa4,
  AUX_DISABLE: 0xa7,
  AUX_ENABLE: 0xa8,
  AUX_TEST: 0xa9,
  SELF_TEST: 0xaa,
  KEYBOARD_TEST: 0xab,
  KEYBOARD_DISABLE: 0xad,
  KEYBOARD_ENABLE: 0xae,
  READ_INPUT_PORT: 0xc0,
  READ_OUTPUT_PORT: 0xd0,
  WRITE_OUTPUT_PORT: 0xd1,
  WRITE_KEYBOARD_OUTPUT: 0xd2,
  WRITE_AUX_OUTPUT: 0xd3,
  WRITE_AUX: 0xd4,
  /** Not IBM's, but every clone's. */
  A20_OFF: 0xdd,
  A20_ON: 0xdf,
  READ_TEST_INPUTS: 0xe0,
  PULSE_FIRST: 0xf0,
} as const;

const SELF_TEST_PASSED = 0x55;
const INTERFACE_TEST_PASSED = 0x00;
const NO_PASSWORD = 0xf1;
/** Bit 7: the keyboard is not locked. */
const INPUT_PORT = 0x80;
/** Both clock lines are high. */
const TEST_INPUTS = 0x03;

/** Output port. The CPU has no A20 gate: the bit is stored. */
const OutputPort = {
  /** Low resets the processor. */
  NOT_RESET: 0x01,
  A20: 0x02,
  KEYBOARD_FULL: 0x10,
  AUX_FULL: 0x20,
  CLOCK_AND_DATA: 0xc0,
} as const;

const RAM_SIZE = 32;

const I8042_STATE = new Layout("i8042", {
  lock: "u32",
  /** The command whose data byte comes next on port 0x60, or 0. */
  pending: "u8",
  output: "u8",
  /** Of `Status`: the bits that are state. */
  status: "u8",
  a20: "u8",
  /** Translation has seen the release prefix. */
  release: "u8",
  keyboardInterrupt: "u8",
  auxInterrupt: "u8",
  ram: array("u8", RAM_SIZE),
});

export interface I8042Options {
  /** IRQ1. */
  readonly keyboardIrq: InterruptLine;
  /** IRQ12. */
  readonly mouseIrq: InterruptLine;
  /** The guest pulsed the processor's reset line. Called with no lock held, on the vCPU's thread. */
  readonly onReset: () => void;
}

export class I8042 implements BusDevice {
  readonly #state: ViewOf<typeof I8042_STATE>;
  readonly #ram: Uint8Array;
  readonly #lock: Mutex;
  readonly #keyboard: Ps2Keyboard;
  readonly #mouse: Ps2Mouse;
  readonly #options: I8042Options;

  constructor(allocator: StateAllocator, options: I8042Options) {
    this.#state = allocator.alloc(I8042_STATE, "i8042");
    this.#ram = this.#state.ram;
    this.#lock = new Mutex("i8042", allocator.memory, this.#state.address + I8042_STATE.offset.lock);
    this.#keyboard = new Ps2Keyboard(allocator, "i8042.keyboard");
    this.#mouse = new Ps2Mouse(allocator, "i8042.mouse");
    this.#options = options;
  }

  /** First values. */
  reset(): void {
    this.#lock.lock();
    const state = this.#state;
    state.pending = 0;
    state.output = 0;
    state.status = Status.NOT_INHIBITED;
    state.a20 = 1;
    state.release = 0;
    this.#ram.fill(0);
    this.#ram[0] = FIRMWARE_COMMAND_BYTE;
    this.#keyboard.reset();
    this.#mouse.reset();
    this.#updateInterrupts();
    this.#lock.unlock();
  }

  /** The keyboard's keys. Any thread. */
  readonly keyboard = {
    /** Press and let go keys: codes of scan code set 2. False where the guest does not take them (`Ps2Keyboard.press`). */
    press: (codes: readonly number[]): boolean =>
      this.#lock.with(() => {
        const taken = this.#keyboard.press(codes);
        this.#fillOutput();
        return taken;
      }),
  };

  read(offset: number, _size: AccessSize): number {
    this.#lock.lock();
    const value = offset === COMMAND_PORT ? this.#readStatus() : this.#readOutput();
    this.#lock.unlock();
    return value;
  }

  write(offset: number, _size: AccessSize, value: number): void {
    this.#lock.lock();
    const resets = offset === COMMAND_PORT ? this.#writeCommand(value & 0xff) : this.#writeData(value & 0xff);
    this.#fillOutput();
    this.#updateInterrupts();
    this.#lock.unlock();
    if (resets) this.#options.onReset();
  }

  #readStatus(): number {
    const system = (this.#ram[0] & CommandByte.SYSTEM) !== 0 ? Status.SYSTEM : 0;
    return this.#state.status | system;
  }

  /** An empty output buffer gives its last byte again. */
  #readOutput(): number {
    const value = this.#state.output;
    this.#state.status &= ~(Status.OUTPUT_FULL | Status.AUX_OUTPUT);
    // The lines go down between two bytes, so that the next one is an edge.
    this.#updateInterrupts();
    this.#fillOutput();
    return value;
  }

  /** Put a byte into the output buffer; one that was not read is lost, as IBM warns. */
  #put(byte: number, aux = false): void {
    const state = this.#state;
    state.status &= ~(Status.OUTPUT_FULL | Status.AUX_OUTPUT);
    this.#updateInterrupts();
    state.output = byte;
    state.status |= aux ? Status.OUTPUT_FULL | Status.AUX_OUTPUT : Status.OUTPUT_FULL;
    this.#updateInterrupts();
  }

  /** Take the next byte of a device that is not held back, if the output buffer is free. */
  #fillOutput(): void {
    const state = this.#state;
    while ((state.status & Status.OUTPUT_FULL) === 0) {
      if ((this.#ram[0] & CommandByte.KEYBOARD_OFF) === 0 && this.#keyboard.ready) {
        this.#takeFromKeyboard(this.#keyboard.take());
      } else if ((this.#ram[0] & CommandByte.AUX_OFF) === 0 && this.#mouse.ready) {
        this.#put(this.#mouse.take(), true);
      } else return;
    }
  }

  #takeFromKeyboard(byte: number): void {
    const state = this.#state;
    if ((this.#ram[0] & CommandByte.TRANSLATE) === 0) this.#put(byte);
    else if (byte === RELEASE) state.release = 1;
    else {
      this.#put(translate(byte) | (state.release !== 0 ? 0x80 : 0));
      state.release = 0;
    }
  }

  /** Port 0x60. Whether the processor is reset. */
  #writeData(value: number): boolean {
    const state = this.#state;
    const command = state.pending;
    state.pending = 0;
    state.status &= ~Status.COMMAND;
    switch (command) {
      case 0:
        // Sending to a device turns its interface on.
        this.#ram[0] &= ~CommandByte.KEYBOARD_OFF;
        this.#keyboard.receive(value);
        return false;
      case Command.WRITE_OUTPUT_PORT:
        state.a20 = (value & OutputPort.A20) !== 0 ? 1 : 0;
        return (value & OutputPort.NOT_RESET) === 0;
      case Command.WRITE_KEYBOARD_OUTPUT:
        this.#put(value);
        return false;
      case Command.WRITE_AUX_OUTPUT:
        this.#put(value, true);
        return false;
      case Command.WRITE_AUX:
        this.#ram[0] &= ~CommandByte.AUX_OFF;
        this.#mouse.receive(value);
        return false;
      case Command.WRITE_RAM_FIRST:
        this.#ram[0] = value & ~CommandByte.RESERVED;
        return false;
      default:
        this.#ram[command - Command.WRITE_RAM_FIRST] = value;
        return false;
    }
  }

  /** Port 0x64. Whether the processor is reset. Commands that the controller does not have do nothing. */
  #writeCommand(command: number): boolean {
    const state = this.#state;
    state.pending = 0;
    state.status |= Status.COMMAND;
    if (command >= Command.PULSE_FIRST) {
      // The low four bits choose the output port's lines that do not go low; line 0 is the processor's reset.
      return (command & OutputPort.NOT_RESET) === 0;
    }
    if (command >= Command.READ_RAM_FIRST && command <= Command.READ_RAM_LAST) {
      this.#put(this.#ram[command - Command.READ_RAM_FIRST]);
      return false;
    }
    if (command >= Command.WRITE_RAM_FIRST && command <= Command.WRITE_RAM_LAST) {
      state.pending = command;
      return false;
    }
    switch (command) {
      case Command.WRITE_OUTPUT_PORT:
      case Command.WRITE_KEYBOARD_OUTPUT:
      case Command.WRITE_AUX_OUTPUT:
      case Command.WRITE_AUX:
        state.pending = command;
        break;
      case Command.TEST_PASSWORD:
        this.#put(NO_PASSWORD);
        break;
      case Command.AUX_DISABLE:
        this.#ram[0] |= CommandByte.AUX_OFF;
        break;
      case Command.AUX_ENABLE:
        this.#ram[0] &= ~CommandByte.AUX_OFF;
        break;
      case Command.KEYBOARD_DISABLE:
        this.#ram[0] |= CommandByte.KEYBOARD_OFF;
        break;
      case Command.KEYBOARD_ENABLE:
        this.#ram[0] &= ~CommandByte.KEYBOARD_OFF;
        break;
      case Command.SELF_TEST:
        this.#ram[0] |= CommandByte.SYSTEM;
        this.#put(SELF_TEST_PASSED);
        break;
      case Command.AUX_TEST:
      case Command.KEYBOARD_TEST:
        this.#put(INTERFACE_TEST_PASSED);
        break;
      case Command.READ_INPUT_PORT:
        this.#put(INPUT_PORT);
        break;
      case Command.READ_OUTPUT_PORT:
        this.#put(this.#outputPort());
        break;
      case Command.A20_OFF:
      case Command.A20_ON:
        state.a20 = command === Command.A20_ON ? 1 : 0;
        break;
      case Command.READ_TEST_INPUTS:
        this.#put(TEST_INPUTS);
        break;
    }
    return false;
  }

  #outputPort(): number {
    const { status, a20 } = this.#state;
    let value = OutputPort.NOT_RESET | OutputPort.CLOCK_AND_DATA | (a20 !== 0 ? OutputPort.A20 : 0);
    if ((status & Status.OUTPUT_FULL) !== 0) {
      value |= (status & Status.AUX_OUTPUT) !== 0 ? OutputPort.AUX_FULL : OutputPort.KEYBOARD_FULL;
    }
    return value;
  }

  #updateInterrupts(): void {
    const state = this.#state;
    const full = (state.status & Status.OUTPUT_FULL) !== 0;
    const aux = (state.status & Status.AUX_OUTPUT) !== 0;
    const keyboard = full && !aux && (this.#ram[0] & CommandByte.KEYBOARD_INTERRUPT) !== 0 ? 1 : 0;
    const mouse = full && aux && (this.#ram[0] & CommandByte.AUX_INTERRUPT) !== 0 ? 1 : 0;
    if (keyboard !== state.keyboardInterrupt) {
      state.keyboardInterrupt = keyboard;
      this.#options.keyboardIrq.set(keyboard !== 0);
    }
    if (mouse !== state.auxInterrupt) {
      state.auxInterrupt = mouse;
      this.#options.mouseIrq.set(mouse !== 0);
    }
  }
}
