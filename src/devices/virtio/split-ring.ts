/**
 * The split virtqueue, VIRTIO 2.7:
 *
 *   descriptor area  size × { address u64, length u32, flags u16, next u16 }, aligned to 16
 *   driver area      flags u16, index u16, size × head u16, used_event u16; "available ring", aligned to 2
 *   device area      flags u16, index u16, size × { id u32, length u32 }, avail_event u16; "used ring", aligned to 4
 *
 * The driver writes the first two at any time: each value is read once, and what is read is checked.
 */
import type { Chain } from "./buffers.js";
import { type Area, ChainBuilder, DESCRIPTOR_SIZE, DescriptorFlag } from "./chain-builder.js";
import { MAX_QUEUE_SIZE, VirtioError } from "./constants.js";
import { passes, type Ring, type RingOptions, type VirtqueueState } from "./ring.js";

/** Offsets in both rings. */
const INDEX = 2;
const ENTRIES = 4;
const USED_ENTRY_SIZE = 8;

const AVAIL_NO_INTERRUPT = 1;
const USED_NO_NOTIFY = 1;

const INDEX_MASK = 0xffff;
const TWO_32 = 2 ** 32;

export class SplitRing implements Ring {
  readonly #state: VirtqueueState;
  readonly #builder: ChainBuilder;
  readonly #indirect: boolean;
  readonly #eventIndex: boolean;
  readonly #size: number;
  readonly #descriptors: Area;
  readonly #available: Area;
  readonly #used: Area;
  readonly #usedBytes: number;

  /** Throws `VirtioError` where the areas are not where they can be. */
  constructor({ memory, state, features }: RingOptions) {
    this.#state = state;
    this.#builder = new ChainBuilder(memory);
    this.#indirect = features.indirect;
    this.#eventIndex = features.eventIndex;
    const { size } = state;
    // VIRTIO 2.7: the queue size is a power of 2.
    if (size < 1 || size > MAX_QUEUE_SIZE || (size & (size - 1)) !== 0) {
      throw new VirtioError(`a split queue of ${size} entries`);
    }
    this.#size = size;
    this.#usedBytes = ENTRIES + USED_ENTRY_SIZE * size + 2;
    this.#descriptors = this.#builder.ringArea(
      state.descriptors,
      DESCRIPTOR_SIZE * size,
      16,
      "descriptor area",
    );
    this.#available = this.#builder.ringArea(state.driver, ENTRIES + 2 * size + 2, 2, "driver area");
    this.#used = this.#builder.ringArea(state.device, this.#usedBytes, 4, "device area");
  }

  get #availableIndex(): number {
    const { memory, at } = this.#available;
    return Atomics.load(memory.u16, (at + INDEX) >>> 1);
  }

  pop(): Chain | undefined {
    const state = this.#state;
    const next = state.nextAvailable;
    const pending = (this.#availableIndex - next) & INDEX_MASK;
    if (pending === 0) return undefined;
    // More entries than the queue has cannot be available: the index was made up.
    if (pending > this.#size) throw new VirtioError(`available index ${pending} past the device's`);
    if (state.inFlight >= this.#size) throw new VirtioError("more requests than the queue has entries");
    const { memory, at } = this.#available;
    const head = memory.u16[(at + ENTRIES + 2 * (next & (this.#size - 1))) >>> 1];
    const chain = this.#walk(head);
    state.nextAvailable = (next + 1) & INDEX_MASK;
    state.inFlight++;
    return chain;
  }

  undoPop(_chain: Chain): void {
    this.#state.nextAvailable = (this.#state.nextAvailable - 1) & INDEX_MASK;
    this.#state.inFlight--;
  }

  #walk(head: number): Chain {
    const builder = this.#builder;
    const chain = builder.start();
    chain.id = head;
    let table = this.#descriptors;
    let count = this.#size;
    let index = head;
    let inTable = false;
    // VIRTIO 2.7.5.2: no loops, so no chain has more descriptors than its table.
    for (let seen = 0; ; seen++) {
      if (index >= count) throw new VirtioError(`descriptor ${index} of ${count}`);
      if (seen >= count) throw new VirtioError("a loop of descriptors");
      const { data } = table.memory;
      const at = table.at + DESCRIPTOR_SIZE * index;
      const address = data.getUint32(at + 4, true) * TWO_32 + data.getUint32(at, true);
      const length = data.getUint32(at + 8, true);
      const flags = data.getUint16(at + 12, true);
      const next = data.getUint16(at + 14, true);
      if ((flags & DescriptorFlag.INDIRECT) !== 0) {
        if (inTable) throw new VirtioError("an indirect table in an indirect table");
        count = builder.indirectCount(length, flags, this.#indirect);
        table = builder.area(address, length, "an indirect table");
        index = 0;
        inTable = true;
        seen = -1;
        continue;
      }
      builder.add(address, length, flags);
      if ((flags & DescriptorFlag.NEXT) === 0) return chain;
      index = next;
    }
  }

  push(chain: Chain, written: number): void {
    const { memory, at } = this.#used;
    const { u16, u32 } = memory;
    const state = this.#state;
    const used = state.nextUsed;
    const entry = (at + ENTRIES + USED_ENTRY_SIZE * (used & (this.#size - 1))) >>> 2;
    u32[entry] = chain.id;
    u32[entry + 1] = written;
    state.nextUsed = (used + 1) & INDEX_MASK;
    state.inFlight--;
    // VIRTIO 2.7.8.2: the entry before the index.
    Atomics.store(u16, (at + INDEX) >>> 1, state.nextUsed);
  }

  wantsInterrupt(): boolean {
    const state = this.#state;
    const after = state.nextUsed;
    const before = state.signalledUsed;
    if (after === before) return false;
    this.#builder.memory.marked(this.#used.location, this.#usedBytes);
    state.signalledUsed = after;
    const { memory, at } = this.#available;
    if (this.#eventIndex) {
      const usedEvent = (at + ENTRIES + 2 * this.#size) >>> 1;
      return passes(Atomics.load(memory.u16, usedEvent), after, before);
    }
    return (Atomics.load(memory.u16, at >>> 1) & AVAIL_NO_INTERRUPT) === 0;
  }

  disableNotifications(): void {
    // With event indices the old avail_event stays behind, so the driver is quiet anyway (VIRTIO 2.7.10).
    const { memory, at } = this.#used;
    if (!this.#eventIndex) Atomics.store(memory.u16, at >>> 1, USED_NO_NOTIFY);
  }

  enableNotifications(): boolean {
    const { memory, at } = this.#used;
    const next = this.#state.nextAvailable;
    if (this.#eventIndex) Atomics.store(memory.u16, (at + this.#usedBytes - 2) >>> 1, next);
    else Atomics.store(memory.u16, at >>> 1, 0);
    // Sequentially consistent with the store: either the driver sees the wish or its request is seen here.
    return this.#availableIndex !== next;
  }
}
