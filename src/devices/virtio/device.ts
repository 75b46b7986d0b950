/**
 * What every virtio device has, whatever its type and transport: status, features, queues, configuration generation
 * (VIRTIO 2 and 3). Transports (pci.ts, mmio.ts) call it on vCPU threads, device types (blk.ts …) serve its queues on the
 * Worker that the device belongs to.
 */
import type { GuestMemory } from "../../memory/guest-memory.js";
import { array, Layout, type ViewOf } from "../../memory/layout.js";
import { Mutex } from "../../memory/mutex.js";
import type { StateAllocator } from "../../memory/state-allocator.js";
import type { AccessSize } from "../bus.js";
import { Feature, featureWords, Status, VirtioError } from "./constants.js";
import { Queue } from "./queue.js";
import { VIRTQUEUE } from "./ring.js";

/** A type of device: VIRTIO 5. One object in each thread, over the same state. */
export interface DeviceType {
  readonly id: number;
  /** `blk`, `console` …; names its lock class, too. */
  readonly kind: string;
  /** The feature bits of the type that it offers, those of `constants.ts` excepted. */
  readonly features: readonly number[];
  /** Most entries of each queue: powers of 2. */
  readonly queueSizes: readonly number[];
  /** Whether drivers of before VIRTIO 1.0 know the type. */
  readonly legacy: boolean;
  /** Bytes of the device configuration. */
  readonly configSize: number;

  /** `size` bytes of the configuration at `offset`, inside of `configSize`. Any vCPU's thread, device lock held. */
  readConfig(offset: number, size: AccessSize): number;
  writeConfig(offset: number, size: AccessSize, value: number): void;
  /** The driver reset the device. Any thread, device lock held. */
  reset(): void;
  /**
   * Look at what the host wants of the device, and whether its driver is still the same, before its queues are served. On the
   * device's own thread, lock held.
   */
  poll?(device: VirtioDevice): void;
  /** Serve queue `index`. On the device's own thread, lock held. True: there is more to do. Throws `VirtioError`. */
  serve(queue: Queue, index: number): boolean;
}

/** How interrupts leave the device: the transport's part. Any thread, device lock held. */
export interface Interrupts {
  queue(index: number): void;
  config(): void;
}

/** Wakes the Worker that serves the device. Any thread. */
export interface IoThread {
  ring(): void;
  /** Byte offset of the u32 that is incremented and notified. */
  readonly word: number;
}

const VIRTIO_DEVICE = new Layout("virtio-device", {
  lock: "u32",
  status: "u32",
  driverFeatures: array("u32", 2),
  configGeneration: "u32",
  /** The driver uses the interface of before VIRTIO 1.0: no VERSION_1, no FEATURES_OK. */
  legacy: "u32",
  /** How often the driver reset the device. */
  resets: "u32",
  /** Incremented at each reset and at each change of a queue's set-up: rings made before are no longer good. */
  epoch: "u32",
});

export interface VirtioDeviceOptions {
  readonly name: string;
  readonly type: DeviceType;
  readonly memory: GuestMemory;
  readonly io: IoThread;
  /** Whether the packed ring is offered. */
  readonly packed?: boolean;
  /** Told, in one line, what a driver did wrong. */
  readonly complain?: ((text: string) => void) | undefined;
}

export class VirtioDevice {
  readonly name: string;
  readonly type: DeviceType;
  readonly io: IoThread;
  readonly queues: readonly Queue[];
  readonly #options: VirtioDeviceOptions;
  readonly #state: ViewOf<typeof VIRTIO_DEVICE>;
  readonly #driverFeatures: Uint32Array;
  readonly #words: Int32Array;
  readonly #statusWord: number;
  readonly #lock: Mutex;
  /** Set by the transport. */
  interrupts: Interrupts = { queue: () => undefined, config: () => undefined };
  /** Whether the transport lets the device access guest memory now. Set by the transport. */
  mayAccessMemory: () => boolean = () => true;

  constructor(allocator: StateAllocator, options: VirtioDeviceOptions) {
    this.#options = options;
    this.name = options.name;
    this.type = options.type;
    this.io = options.io;
    this.#state = allocator.alloc(VIRTIO_DEVICE, options.name);
    this.#driverFeatures = this.#state.driverFeatures;
    this.#words = allocator.memory.i32;
    const { address } = this.#state;
    this.#statusWord = (address + VIRTIO_DEVICE.offset.status) >>> 2;
    const lockAt = address + VIRTIO_DEVICE.offset.lock;
    this.#lock = new Mutex(`virtio-${options.type.kind}`, allocator.memory, lockAt);
    this.queues = options.type.queueSizes.map(
      (maxSize, i) => new Queue(this, allocator.alloc(VIRTQUEUE, `${options.name}.queue${i}`), i, maxSize),
    );
  }

  get memory(): GuestMemory {
    return this.#options.memory;
  }

  /** How often the device was reset: what belonged to an earlier driver is to be forgotten when it changes. */
  get resets(): number {
    return this.#state.resets;
  }

  get epoch(): number {
    return this.#state.epoch;
  }

  /** Run `body` with the device's lock held. */
  locked<T>(body: () => T): T {
    return this.#lock.with(body);
  }

  /** First values. */
  reset(): void {
    this.locked(() => this.#reset());
  }

  // --- status, VIRTIO 2.1 and 3.1.1 ---

  get status(): number {
    return Atomics.load(this.#words, this.#statusWord);
  }

  #setStatus(value: number): void {
    Atomics.store(this.#words, this.#statusWord, value);
  }

  /** Whether queues are to be served. */
  get live(): boolean {
    const { status } = this;
    // 3.1.2: legacy drivers used devices before they said DRIVER_OK.
    const ready = this.legacy ? Status.DRIVER | Status.DRIVER_OK : Status.DRIVER_OK;
    return (status & ready) !== 0 && (status & Status.NEEDS_RESET) === 0;
  }

  get legacy(): boolean {
    return this.#state.legacy !== 0;
  }

  /** The driver came by the legacy interface; until the next reset. */
  useLegacy(): void {
    this.#state.legacy = 1;
  }

  /** The driver writes the status; 0 resets the device (2.4), which has stopped when this returns. */
  writeStatus(value: number): void {
    const served = this.live;
    this.locked(() => {
      if (value === 0) {
        this.#reset();
        return;
      }
      const before = this.status;
      // 2.1.1: the driver clears no bit, short of a reset.
      let next = (before | value) & 0xff & ~Status.NEEDS_RESET;
      // 2.1.2, 2.2.2: FEATURES_OK stays clear for a set of features that is no good.
      if (!this.legacy && (before & Status.FEATURES_OK) === 0 && !this.#featuresAcceptable()) {
        next &= ~Status.FEATURES_OK;
      }
      // 2.1.2: the device does nothing before DRIVER_OK, for which the driver needs FEATURES_OK (3.1.1, step 8).
      if (!this.legacy && (next & Status.FEATURES_OK) === 0) next &= ~Status.DRIVER_OK;
      this.#setStatus(next | (before & Status.NEEDS_RESET));
    });
    if (this.live || served) this.io.ring();
  }

  #reset(): void {
    const state = this.#state;
    this.#setStatus(0);
    this.#driverFeatures.fill(0);
    state.legacy = 0;
    state.resets = (state.resets + 1) >>> 0;
    state.epoch = (state.epoch + 1) >>> 0;
    for (const queue of this.queues) queue.reset();
    this.type.reset();
  }

  /** 2.1.2: DEVICE_NEEDS_RESET, and a configuration interrupt once the driver is there. Lock held. */
  needsReset(error: Error): void {
    this.#options.complain?.(`${this.name}: the guest's driver: ${error.message}`);
    const { status } = this;
    this.#setStatus(status | Status.NEEDS_RESET);
    if ((status & Status.DRIVER_OK) !== 0) this.interrupts.config();
  }

  // --- features, VIRTIO 2.2 ---

  /** The offered features, two words. */
  get #offered(): readonly number[] {
    const { INDIRECT_DESC, EVENT_IDX, VERSION_1, RING_PACKED } = Feature;
    const general = [INDIRECT_DESC, EVENT_IDX, VERSION_1, ...(this.#options.packed ? [RING_PACKED] : [])];
    return featureWords([...this.type.features, ...general]);
  }

  /** A 32-bit word of the offered features; past the second one there is nothing. */
  deviceFeatures(select: number): number {
    return this.#offered[select] ?? 0;
  }

  /** What a legacy driver is offered. */
  get legacyFeatures(): number {
    const { ANY_LAYOUT, INDIRECT_DESC, EVENT_IDX } = Feature;
    return featureWords([...this.type.features, ANY_LAYOUT, INDIRECT_DESC, EVENT_IDX])[0];
  }

  driverFeatures(select: number): number {
    return this.#driverFeatures[select] ?? 0;
  }

  setDriverFeatures(select: number, value: number): void {
    this.locked(() => {
      // 2.2.1: after FEATURES_OK no feature is accepted any more.
      if (select > 1 || (this.status & Status.FEATURES_OK) !== 0) return;
      // Legacy drivers have no FEATURES_OK: what was not offered does not count.
      this.#driverFeatures[select] = this.legacy ? value & this.legacyFeatures : value;
    });
  }

  /** Whether the driver accepted feature `bit`. Only a subset of the offered ones gets past FEATURES_OK. */
  has(bit: number): boolean {
    return ((this.#driverFeatures[bit >>> 5] >>> (bit & 31)) & 1) !== 0;
  }

  /** 2.2.1 and 6.1: a subset of what is offered, VERSION_1 among it. */
  #featuresAcceptable(): boolean {
    const subset = this.#offered.every((word, i) => (this.#driverFeatures[i] & ~word) === 0);
    return subset && this.has(Feature.VERSION_1);
  }

  // --- configuration, VIRTIO 2.5 ---

  get configGeneration(): number {
    return this.#state.configGeneration;
  }

  /** The device changed its configuration: a new generation (2.5.3), and an interrupt. Lock held. */
  configChanged(): void {
    this.#state.configGeneration = (this.#state.configGeneration + 1) >>> 0;
    if (this.live) this.interrupts.config();
  }

  /** What is past the configuration reads as zero. */
  readConfig(offset: number, size: AccessSize): number {
    return this.locked(() => {
      if (offset + size <= this.type.configSize) return this.type.readConfig(offset, size);
      let value = 0;
      for (let i = size - 1; i >= 0; i--) {
        value = (value << 8) | (offset + i < this.type.configSize ? this.type.readConfig(offset + i, 1) : 0);
      }
      return value >>> 0;
    });
  }

  writeConfig(offset: number, size: AccessSize, value: number): void {
    if (offset + size > this.type.configSize) return;
    this.locked(() => this.type.writeConfig(offset, size, value));
    if (this.live) this.io.ring();
  }

  // --- queues ---

  /** Rings that were made before are no longer good. Lock held. */
  queueChanged(): void {
    this.#state.epoch = (this.#state.epoch + 1) >>> 0;
  }

  /** Serve all queues once; true where there is more to do. On the device's own thread. */
  serve(): boolean {
    if (!this.live && this.type.poll === undefined) return false;
    return this.locked(() => {
      if (!this.mayAccessMemory()) return false;
      let more = false;
      this.type.poll?.(this);
      for (const [index, queue] of this.queues.entries()) {
        // Serving one queue may have been the end of it.
        if (!this.live) return false;
        if (!queue.enabled) continue;
        try {
          if (this.type.serve(queue, index)) more = true;
          queue.flush();
        } catch (error) {
          if (!(error instanceof VirtioError)) throw error;
          this.needsReset(error);
          return false;
        }
      }
      return more;
    });
  }
}
