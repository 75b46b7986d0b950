/**
 * A PS/2 keyboard, as the keyboard controller sees it (IBM, "Personal System/2 Hardware Interface Technical Reference",
 * Keyboards (101- and 102-key): commands from the system and to the system). It has scan code sets 2 and 1.
 *
 * Its owner, the controller, holds the lock around every call.
 */
import { array, Layout, type ViewOf } from "../memory/layout.js";
import type { StateAllocator } from "../memory/state-allocator.js";
import { Ps2Queue, queueSize } from "./ps2-queue.js";
import { translateKeys } from "./scancodes.js";

/** From the system. */
const Command = {
  SET_LEDS: 0xed,
  ECHO: 0xee,
  SCAN_CODE_SET: 0xf0,
  READ_ID: 0xf2,
  SET_TYPEMATIC: 0xf3,
  ENABLE: 0xf4,
  DEFAULT_DISABLE: 0xf5,
  SET_DEFAULT: 0xf6,
  ALL_KEYS_FIRST: 0xf7,
  ALL_KEYS_LAST: 0xfa,
  KEY_TYPE_FIRST: 0xfb,
  KEY_TYPE_LAST: 0xfd,
  RESEND: 0xfe,
  RESET: 0xff,
} as const;

/** To the system. */
const ACK = 0xfa;
const RESEND = 0xfe;
const TEST_PASSED = 0xaa;
const ID = [0xab, 0x83] as const;

/** Typematic rate 10.9 a second after 500 ms. */
const DEFAULT_TYPEMATIC = 0x2b;
const DEFAULT_SCAN_CODE_SET = 2;

/** Bytes of keys that a keyboard keeps; answers have room of their own behind them. */
const KEY_CAPACITY = 16;
const CAPACITY = 2 * KEY_CAPACITY;

const KEYBOARD = new Layout("ps2-keyboard", {
  scanning: "u8",
  scanCodeSet: "u8",
  leds: "u8",
  typematic: "u8",
  /** The command whose argument comes next, or 0. */
  pending: "u8",
  lastSent: "u8",
  queue: array("u8", queueSize(CAPACITY)),
});

export class Ps2Keyboard {
  readonly #state: ViewOf<typeof KEYBOARD>;
  readonly #queue: Ps2Queue;

  constructor(allocator: StateAllocator, name: string) {
    this.#state = allocator.alloc(KEYBOARD, name);
    this.#queue = new Ps2Queue(this.#state.queue);
  }

  /** As after power-on and its self-test, whose result the firmware has taken. */
  reset(): void {
    this.#state.lastSent = 0;
    this.#setDefaults();
  }

  /** Whether there is a byte to send. */
  get ready(): boolean {
    return this.#queue.length > 0;
  }

  /** LEDs that are on: bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock. */
  get leds(): number {
    return this.#state.leds;
  }

  /** The next byte to the controller; only while `ready`. */
  take(): number {
    const byte = this.#queue.take();
    this.#state.lastSent = byte;
    return byte;
  }

  /**
   * Keys go down and up: codes of set 2. False, and nothing happens, where the system has turned scanning off or has not fetched
   * earlier keys.
   */
  press(codes: readonly number[]): boolean {
    const bytes = this.#state.scanCodeSet === 1 ? translateKeys(codes) : codes;
    if (this.#state.scanning === 0 || this.#queue.length + bytes.length > KEY_CAPACITY) return false;
    for (const byte of bytes) this.#queue.push(byte);
    return true;
  }

  /** A byte from the system. */
  receive(byte: number): void {
    const state = this.#state;
    const pending = state.pending;
    state.pending = 0;
    if (pending !== 0 && this.#argument(pending, byte)) return;
    switch (byte) {
      case Command.SET_LEDS:
      case Command.SCAN_CODE_SET:
      case Command.SET_TYPEMATIC:
        state.pending = byte;
        this.#send(ACK);
        break;
      case Command.ECHO:
        this.#send(Command.ECHO);
        break;
      case Command.READ_ID:
        this.#send(ACK, ...ID);
        break;
      case Command.ENABLE:
        this.#queue.clear();
        state.scanning = 1;
        this.#send(ACK);
        break;
      case Command.DEFAULT_DISABLE:
        this.#setDefaults();
        state.scanning = 0;
        this.#send(ACK);
        break;
      case Command.SET_DEFAULT:
        this.#setDefaults();
        this.#send(ACK);
        break;
      case Command.RESEND:
        this.#send(state.lastSent);
        break;
      case Command.RESET:
        this.#setDefaults();
        this.#send(ACK, TEST_PASSED);
        break;
      default:
        this.#keyTypes(byte);
    }
  }

  /** The argument of an earlier command. False where the byte is none, but a command itself. */
  #argument(command: number, byte: number): boolean {
    const state = this.#state;
    switch (command) {
      case Command.SET_LEDS:
        state.leds = byte & 7;
        break;
      case Command.SET_TYPEMATIC:
        state.typematic = byte & 0x7f;
        break;
      case Command.SCAN_CODE_SET:
        if (byte === 0) {
          this.#send(ACK, state.scanCodeSet);
          return true;
        }
        if (byte !== 1 && byte !== 2) {
          this.#send(RESEND);
          return true;
        }
        state.scanCodeSet = byte;
        break;
      default:
        // Set key type takes codes until the next command.
        if (byte >= Command.SET_LEDS) return false;
        state.pending = command;
    }
    this.#send(ACK);
    return true;
  }

  /** The commands that say which keys repeat and are released: they are for set 3, and accepted without effect. */
  #keyTypes(byte: number): void {
    if (byte >= Command.KEY_TYPE_FIRST && byte <= Command.KEY_TYPE_LAST) this.#state.pending = byte;
    const known = byte >= Command.ALL_KEYS_FIRST && byte <= Command.KEY_TYPE_LAST;
    this.#send(known ? ACK : RESEND);
  }

  #setDefaults(): void {
    const state = this.#state;
    this.#queue.clear();
    state.scanning = 1;
    state.scanCodeSet = DEFAULT_SCAN_CODE_SET;
    state.leds = 0;
    state.typematic = DEFAULT_TYPEMATIC;
    state.pending = 0;
  }

  #send(...bytes: number[]): void {
    for (const byte of bytes) this.#queue.push(byte);
  }
}
