/** The machine's console as the host's end of a console port. */
import type { PortStream } from "../../backends/streams.js";
import type { ByteRing } from "../../memory/byte-ring.js";

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
