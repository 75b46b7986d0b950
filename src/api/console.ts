/** The guest's console as a stream: reading gives what the guest prints, writing is typing. */
import { Duplex } from "node:stream";
import type { ByteRing } from "../memory/byte-ring.js";

/** Where a machine's bytes go and come from, as long as it lives. */
export interface ConsoleEnds {
  readonly output: ByteRing;
  readonly input: ByteRing;
  /** To be called after `input` got more bytes. */
  readonly inputArrived: () => void;
  /** Sends a break behind the bytes of `input`; resolves when it is on the line. */
  readonly sendBreak: () => Promise<void>;
}

/** How often a writer looks whether the guest took some of its input. */
const INPUT_POLL_MILLISECONDS = 2;
const WAIT_MILLISECONDS = 1000;

/**
 * As with a child process's standard output, somebody has to read (or `resume()`): a guest whose console nobody reads
 * waits once 64 KiB have gathered, like one with a serial line that is held.
 */
export class GuestConsole extends Duplex {
  #ends: ConsoleEnds | undefined;
  readonly #taps = new Set<(bytes: Uint8Array) => void>();
  #wanted: (() => void) | undefined;
  readonly #watch: (bytes: Uint8Array) => void;

  /** `watch` sees all output before it is read. */
  constructor(watch: (bytes: Uint8Array) => void) {
    super({ allowHalfOpen: true, decodeStrings: true });
    this.#watch = watch;
  }

  /**
   * Carry the bytes of a machine until `ended` resolves, then what is left of them. From `ending` on nobody is waited
   * for: bytes not read by then stay in the stream's buffer.
   */
  async carry(ends: ConsoleEnds, ending: Promise<unknown>, ended: Promise<unknown>): Promise<void> {
    this.#ends = ends;
    const { output } = ends;
    let hurry = false;
    let over = false;
    void ending.then(() => {
      hurry = true;
      this.#wanted?.();
    });
    void ended.then(() => {
      over = true;
      output.wakeReader();
    });
    for (;;) {
      const wasOver = over;
      const bytes = output.read();
      if (bytes.length > 0) {
        this.#watch(bytes);
        for (const tap of this.#taps) tap(bytes);
        if (!this.push(bytes) && !hurry) await this.#untilWanted();
      } else if (wasOver) break;
      else await output.readable(WAIT_MILLISECONDS);
    }
    this.#ends = undefined;
  }

  /** No machine will come any more: readers see the end. */
  finish(): void {
    this.push(null);
  }

  /** Have `tap` see all further output at the pace of whoever reads the console; the result ends it. */
  tap(tap: (bytes: Uint8Array) => void): () => void {
    this.#taps.add(tap);
    return () => this.#taps.delete(tap);
  }

  /**
   * Send a break and right behind it `bytes`, as one hits Break on a serial terminal. Rejects where the machine does not
   * get to it, or has ended.
   */
  async sendBreak(bytes: Uint8Array): Promise<void> {
    const ends = this.#ends;
    if (ends === undefined) throw new Error("the machine has ended");
    // What is typed meanwhile comes after it.
    this.cork();
    try {
      await ends.sendBreak();
      if (ends.input.write(bytes) < bytes.length) throw new Error("the guest does not read its console");
      ends.inputArrived();
    } finally {
      this.uncork();
    }
  }

  #untilWanted(): Promise<void> {
    return new Promise((resolve) => {
      this.#wanted = resolve;
    });
  }

  override _read(): void {
    this.#wanted?.();
    this.#wanted = undefined;
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    const ends = this.#ends;
    // Nobody is at the other end of the line: what is typed is lost.
    if (ends === undefined) {
      done();
      return;
    }
    const written = ends.input.write(chunk);
    if (written > 0) ends.inputArrived();
    if (written === chunk.length) done();
    else setTimeout(() => this._write(chunk.subarray(written), _encoding, done), INPUT_POLL_MILLISECONDS);
  }

  override _final(done: (error?: Error | null) => void): void {
    done();
  }
}
