/** The host's end of a console port. */
import type { ByteRing } from "../../memory/byte-ring.js";

export interface PortStream {
  /** Somebody is there. */
  readonly connected: boolean;
  /** Bytes that wait for the guest. */
  readonly length: number;
  /** Take out up to `limit` of them. */
  read(limit: number): Uint8Array;
  /** Bytes of the guest; how many were taken is returned. */
  write(bytes: Uint8Array): number;
  /** Call back once when `write` may take more. */
  whenWritable(then: () => void): void;
  /** The guest opened or closed its end. */
  guestOpened?(open: boolean): void;
}

/** How long a wait for room in a ring lasts before it is looked at again. */
const WAIT_MILLISECONDS = 1000;

/** The machine's console: rings that the main thread empties and fills. */
export class RingStream implements PortStream {
  readonly connected = true;
  #waiting = false;

  constructor(
    readonly output: ByteRing,
    readonly input: ByteRing,
  ) {}

  get length(): number {
    return this.input.length;
  }

  read(limit: number): Uint8Array {
    return this.input.read(limit);
  }

  /** A ring whose reader left takes everything. */
  write(bytes: Uint8Array): number {
    return this.output.isClosed ? bytes.length : this.output.write(bytes);
  }

  whenWritable(then: () => void): void {
    if (this.#waiting) return;
    this.#waiting = true;
    void this.output.writable(WAIT_MILLISECONDS).then(() => {
      this.#waiting = false;
      then();
    });
  }
}
