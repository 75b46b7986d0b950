/**
 * A PS/2 mouse that nobody moves, as the keyboard controller sees it (IBM, "Personal System/2 Mouse Technical Reference":
 * modes and commands). It answers every command; its state reports are all of a mouse at rest.
 *
 * Its owner, the controller, holds the lock around every call.
 */
import { array, Layout, type ViewOf } from "../memory/layout.js";
import type { StateAllocator } from "../memory/state-allocator.js";
import { Ps2Queue, queueSize } from "./ps2-queue.js";

/** From the system. */
const Command = {
  SCALING_1_1: 0xe6,
  SCALING_2_1: 0xe7,
  SET_RESOLUTION: 0xe8,
  STATUS_REQUEST: 0xe9,
  STREAM_MODE: 0xea,
  READ_DATA: 0xeb,
  RESET_WRAP_MODE: 0xec,
  WRAP_MODE: 0xee,
  REMOTE_MODE: 0xf0,
  READ_ID: 0xf2,
  SET_SAMPLE_RATE: 0xf3,
  ENABLE: 0xf4,
  DISABLE: 0xf5,
  SET_DEFAULT: 0xf6,
  RESEND: 0xfe,
  RESET: 0xff,
} as const;

/** To the system. */
const ACK = 0xfa;
const RESEND = 0xfe;
const ERROR = 0xfc;
const TEST_PASSED = 0xaa;
const STANDARD_MOUSE = 0x00;
/** No movement, no button; bit 3 is always one. */
const AT_REST = [0x08, 0x00, 0x00] as const;

const SAMPLE_RATES: readonly number[] = [10, 20, 40, 60, 80, 100, 200];
const MAX_RESOLUTION = 3;
const DEFAULT_SAMPLE_RATE = 100;
/** 4 counts a millimetre. */
const DEFAULT_RESOLUTION = 2;

/** Status byte 1. */
const Status = { SCALING_2_1: 0x10, ENABLED: 0x20, REMOTE: 0x40 } as const;

const CAPACITY = 16;

const MOUSE = new Layout("ps2-mouse", {
  /** Of `Status`: what the first status byte shows. */
  status: "u8",
  resolution: "u8",
  sampleRate: "u8",
  wrap: "u8",
  /** The command whose argument comes next, or 0. */
  pending: "u8",
  /** Whether the last byte was answered with RESEND. */
  failed: "u8",
  lastSent: "u8",
  queue: array("u8", queueSize(CAPACITY)),
});

export class Ps2Mouse {
  readonly #state: ViewOf<typeof MOUSE>;
  readonly #queue: Ps2Queue;

  constructor(allocator: StateAllocator, name: string) {
    this.#state = allocator.alloc(MOUSE, name);
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

  /** The next byte to the controller; only while `ready`. */
  take(): number {
    const byte = this.#queue.take();
    this.#state.lastSent = byte;
    return byte;
  }

  /** A byte from the system. */
  receive(byte: number): void {
    const state = this.#state;
    if (state.wrap !== 0 && byte !== Command.RESET && byte !== Command.RESET_WRAP_MODE) {
      this.#send(byte);
      return;
    }
    const pending = state.pending;
    state.pending = 0;
    const good = pending !== 0 ? this.#argument(pending, byte) : this.#command(byte);
    // A second bad byte in a row is answered with an error (Mouse Technical Reference, "Resend").
    if (!good) this.#send(state.failed !== 0 ? ERROR : RESEND);
    state.failed = good ? 0 : 1;
  }

  #argument(command: number, byte: number): boolean {
    if (command === Command.SET_RESOLUTION) {
      if (byte > MAX_RESOLUTION) return false;
      this.#state.resolution = byte;
    } else {
      if (!SAMPLE_RATES.includes(byte)) return false;
      this.#state.sampleRate = byte;
    }
    this.#send(ACK);
    return true;
  }

  #command(byte: number): boolean {
    const state = this.#state;
    switch (byte) {
      case Command.RESET:
        this.#setDefaults();
        this.#send(ACK, TEST_PASSED, STANDARD_MOUSE);
        return true;
      case Command.RESEND:
        this.#send(state.lastSent);
        return true;
      case Command.SET_DEFAULT:
        this.#setDefaults();
        break;
      case Command.DISABLE:
        state.status &= ~Status.ENABLED;
        break;
      case Command.ENABLE:
        state.status |= Status.ENABLED;
        break;
      case Command.SET_RESOLUTION:
      case Command.SET_SAMPLE_RATE:
        state.pending = byte;
        break;
      case Command.READ_ID:
        this.#send(ACK, STANDARD_MOUSE);
        return true;
      case Command.REMOTE_MODE:
        state.status |= Status.REMOTE;
        break;
      case Command.STREAM_MODE:
        state.status &= ~Status.REMOTE;
        break;
      case Command.WRAP_MODE:
        state.wrap = 1;
        break;
      case Command.RESET_WRAP_MODE:
        state.wrap = 0;
        break;
      case Command.READ_DATA:
        this.#send(ACK, ...AT_REST);
        return true;
      case Command.STATUS_REQUEST:
        this.#send(ACK, state.status, state.resolution, state.sampleRate);
        return true;
      case Command.SCALING_1_1:
        state.status &= ~Status.SCALING_2_1;
        break;
      case Command.SCALING_2_1:
        state.status |= Status.SCALING_2_1;
        break;
      default:
        return false;
    }
    this.#send(ACK);
    return true;
  }

  #setDefaults(): void {
    const state = this.#state;
    this.#queue.clear();
    state.status = 0;
    state.resolution = DEFAULT_RESOLUTION;
    state.sampleRate = DEFAULT_SAMPLE_RATE;
    state.wrap = 0;
    state.pending = 0;
    state.failed = 0;
  }

  #send(...bytes: number[]): void {
    for (const byte of bytes) this.#queue.push(byte);
  }
}
