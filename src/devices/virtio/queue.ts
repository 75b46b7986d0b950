/** A virtqueue of a device (VIRTIO 2.6): its set-up by the driver, and requests off and onto its ring. */
import { alignUp } from "../../memory/layout.js";
import type { Chain } from "./buffers.js";
import { DESCRIPTOR_SIZE } from "./chain-builder.js";
import { Feature, NO_VECTOR } from "./constants.js";
import type { VirtioDevice } from "./device.js";
import { PackedRing } from "./packed-ring.js";
import { type Ring, type VirtqueueState, wide } from "./ring.js";
import { SplitRing } from "./split-ring.js";

/** Requests served in one go: then other queues and devices have their turn. */
const BATCH = 64;
/** The driver hears of answered requests after so many of them, or so many bytes, at the latest: some tens of microseconds. */
const INTERRUPT_REQUESTS = 16;
const INTERRUPT_BYTES = 64 << 10;

/** Unit of legacy queue addresses, and alignment of the device area (VIRTIO 2.7.2). */
const LEGACY_PAGE = 4096;

function setWide(words: Uint32Array, value: number): void {
  words[0] = value % 2 ** 32;
  words[1] = Math.floor(value / 2 ** 32);
}

export class Queue {
  #ring: Ring | undefined;
  #epoch = -1;

  constructor(
    readonly device: VirtioDevice,
    readonly state: VirtqueueState,
    readonly index: number,
    readonly maxSize: number,
  ) {}

  /** First values. Lock held. */
  reset(): void {
    const { state } = this;
    state.size = this.maxSize;
    state.enabled = 0;
    state.vector = NO_VECTOR;
    state.descriptors.fill(0);
    state.driver.fill(0);
    state.device.fill(0);
    state.nextAvailable = 0;
    state.nextUsed = 0;
    // VIRTIO 2.8.1: both counters start as 1.
    state.availableWrap = 1;
    state.usedWrap = 1;
    state.signalledUsed = 0;
    state.signalledWrap = 1;
    state.inFlight = 0;
  }

  /** The driver chooses how many entries it uses. Lock held; before the queue is enabled. */
  resize(entries: number): void {
    // VIRTIO 4.1.4.3.2: not more than there are. What else is wrong with it shows when the ring is made.
    if (entries <= this.maxSize) this.state.size = entries;
  }

  /** Legacy: the page number of the ring, 0 for none. */
  get legacyPage(): number {
    return this.enabled ? wide(this.state.descriptors) / LEGACY_PAGE : 0;
  }

  /**
   * Legacy: the driver places the ring, whose parts follow each other (VIRTIO 2.7.2: the device area starts on a page), or
   * takes it away.
   */
  setLegacyPage(page: number): void {
    this.device.locked(() => {
      const { state } = this;
      const descriptors = page * LEGACY_PAGE;
      const driver = descriptors + DESCRIPTOR_SIZE * state.size;
      const device = alignUp(driver + 2 * (3 + state.size), LEGACY_PAGE);
      setWide(state.descriptors, descriptors);
      setWide(state.driver, driver);
      setWide(state.device, device);
      state.nextAvailable = 0;
      state.nextUsed = 0;
      state.signalledUsed = 0;
      state.inFlight = 0;
      state.enabled = page === 0 ? 0 : 1;
      this.device.queueChanged();
    });
    if (this.device.live) this.device.io.ring();
  }

  get enabled(): boolean {
    return this.state.enabled !== 0;
  }

  /** The driver enables the queue; what it set up is checked when the queue is first served. */
  enable(): void {
    this.device.locked(() => {
      this.state.enabled = 1;
      this.device.queueChanged();
    });
    if (this.device.live) this.device.io.ring();
  }

  /** The driver takes the queue away (VIRTIO 4.2.2.2, QueueReady 0); it can set it up anew. */
  disable(): void {
    this.device.locked(() => {
      const { size } = this.state;
      this.reset();
      this.state.size = size;
      this.device.queueChanged();
    });
  }

  /** Throws `VirtioError`. */
  get #current(): Ring {
    const { device } = this;
    if (this.#ring === undefined || this.#epoch !== device.epoch) {
      const features = {
        indirect: device.has(Feature.INDIRECT_DESC),
        eventIndex: device.has(Feature.EVENT_IDX),
      };
      const options = { memory: device.memory, state: this.state, features };
      this.#ring = device.has(Feature.RING_PACKED) ? new PackedRing(options) : new SplitRing(options);
      this.#epoch = device.epoch;
    }
    return this.#ring;
  }

  /** The next request, or undefined, when the driver will notify of the next one. Throws `VirtioError`. */
  pop(): Chain | undefined {
    const ring = this.#current;
    return ring.pop() ?? (ring.enableNotifications() ? ring.pop() : undefined);
  }

  push(chain: Chain, written: number): void {
    this.#current.push(chain, written);
  }

  undoPop(chain: Chain): void {
    this.#current.undoPop(chain);
  }

  /** Interrupt the driver if it wants to hear of what was pushed. */
  flush(): void {
    this.#interrupt(this.#current);
  }

  /** Have `handle` answer each request, which returns the bytes written. True: there may be more. */
  each(handle: (chain: Chain) => number): boolean {
    const ring = this.#current;
    ring.disableNotifications();
    // Requests that came together are answered together: an interrupt costs the guest more than most requests do the device.
    let bytes = 0;
    try {
      for (let done = 0; done < BATCH; ) {
        const chain = ring.pop();
        if (chain !== undefined) {
          ring.push(chain, handle(chain));
          done++;
          bytes += chain.readable.length + chain.writable.length;
          if (bytes < INTERRUPT_BYTES && done % INTERRUPT_REQUESTS !== 0) continue;
          bytes = 0;
          this.#interrupt(ring);
        } else {
          this.#interrupt(ring);
          if (!ring.enableNotifications()) return false;
          ring.disableNotifications();
        }
      }
      return true;
    } finally {
      // What was answered before one that breaks the rules, too.
      this.#interrupt(ring);
    }
  }

  #interrupt(ring: Ring): void {
    if (ring.wantsInterrupt()) this.device.interrupts.queue(this.index);
  }
}
