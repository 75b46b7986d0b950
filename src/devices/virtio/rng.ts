/** The entropy device: VIRTIO 5.4. One queue of buffers to fill; the bytes are the host kernel's. */
import { randomFillSync } from "node:crypto";
import type { AccessSize } from "../bus.js";
import { DeviceId } from "./constants.js";
import type { DeviceType } from "./device.js";
import type { Queue } from "./queue.js";

/** Bytes given a request at most: 5.4.6.2 asks for one at least, and a guest that wants more asks again. */
const MAX_BYTES = 4096;

export class RngDevice implements DeviceType {
  readonly id = DeviceId.ENTROPY;
  readonly kind = "rng";
  readonly legacy = true;
  readonly features: readonly number[] = [];
  readonly queueSizes: readonly number[] = [64];
  readonly configSize = 0;
  readonly #bytes = new Uint8Array(MAX_BYTES);

  readConfig(_offset: number, _size: AccessSize): number {
    return 0;
  }

  writeConfig(): void {}

  reset(): void {}

  serve(queue: Queue): boolean {
    return queue.each(({ writable }) => {
      const bytes = this.#bytes.subarray(0, Math.min(MAX_BYTES, writable.length));
      randomFillSync(bytes);
      return writable.copyFrom(bytes);
    });
  }
}
