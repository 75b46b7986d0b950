/**
 * The packed virtqueue, VIRTIO 2.8:
 *
 *   descriptor area  size × { address u64, length u32, id u16, flags u16 }, aligned to 16; both sides write it
 *   driver area      event suppression of the driver: { offset and wrap u16, flags u16 }, aligned to 4
 *   device area      event suppression of the device
 *
 * An entry is available when its AVAIL bit is the driver's wrap counter and its USED bit is not.
 */
import type { Chain } from "./buffers.js";
import { type Area, ChainBuilder, DESCRIPTOR_SIZE, DescriptorFlag } from "./chain-builder.js";
import { MAX_QUEUE_SIZE, VirtioError } from "./constants.js";
import { passes, type Ring, type RingOptions, type VirtqueueState } from "./ring.js";

const AVAIL = 1 << 7;
const USED = 1 << 15;

const EVENT_SIZE = 4;
/** Flags of event suppression, VIRTIO 2.8.10. */
const EventFlag = { ENABLE: 0, DISABLE: 1, DESCRIPTOR: 2 } as const;
const EVENT_FLAG_MASK = 3;
const EVENT_OFFSET_MASK = 0x7fff;
const EVENT_WRAP_SHIFT = 15;

const TWO_32 = 2 ** 32;

export class PackedRing implements Ring {
  readonly #state: VirtqueueState;
  readonly #builder: ChainBuilder;
  readonly #indirect: boolean;
  readonly #eventIndex: boolean;
  readonly #size: number;
  readonly #ring: Area;
  readonly #driverEvent: Area;
  readonly #deviceEvent: Area;

  /** Throws `VirtioError` where the areas are not where they can be. */
  constructor({ memory, state, features }: RingOptions) {
    this.#state = state;
    this.#builder = new ChainBuilder(memory);
    this.#indirect = features.indirect;
    this.#eventIndex = features.eventIndex;
    const { size } = state;
    // VIRTIO 2.8.10.1: any size up to 2^15.
    if (size < 1 || size > MAX_QUEUE_SIZE) throw new VirtioError(`a packed queue of ${size} entries`);
    this.#size = size;
    this.#ring = this.#builder.ringArea(state.descriptors, DESCRIPTOR_SIZE * size, 16, "descriptor area");
    this.#driverEvent = this.#builder.ringArea(state.driver, EVENT_SIZE, 4, "driver area");
    this.#deviceEvent = this.#builder.ringArea(state.device, EVENT_SIZE, 4, "device area");
  }

  /** Flags of the entry at `position`. */
  #flags(position: number): number {
    const { memory, at } = this.#ring;
    return Atomics.load(memory.u16, ((at + DESCRIPTOR_SIZE * position) >>> 1) + 7);
  }

  #isAvailable(flags: number, wrap: number): boolean {
    const avail = (flags & AVAIL) !== 0 ? 1 : 0;
    const used = (flags & USED) !== 0 ? 1 : 0;
    return avail === wrap && used !== wrap;
  }

  pop(): Chain | undefined {
    const { u16, u32 } = this.#ring.memory;
    const state = this.#state;
    const size = this.#size;
    let position = state.nextAvailable;
    let wrap = state.availableWrap;
    let flags = this.#flags(position);
    if (!this.#isAvailable(flags, wrap)) return undefined;
    const chain = this.#builder.start();
    // VIRTIO 2.8.6: a chain's entries follow each other on the ring; the last one has the ID.
    for (let entries = 1; ; entries++) {
      const at = this.#ring.at + DESCRIPTOR_SIZE * position;
      const address = u32[(at >>> 2) + 1] * TWO_32 + u32[at >>> 2];
      const length = u32[(at >>> 2) + 2];
      const id = u16[(at >>> 1) + 6];
      if ((flags & DescriptorFlag.INDIRECT) !== 0) {
        // VIRTIO 2.8.7: no chain beside the table.
        if (entries > 1) throw new VirtioError("an indirect descriptor in a chain");
        this.#walkTable(address, length, flags);
      } else this.#builder.add(address, length, flags);
      position++;
      if (position === size) {
        position = 0;
        wrap ^= 1;
      }
      if ((flags & DescriptorFlag.NEXT) === 0) {
        chain.id = id;
        chain.entries = entries;
        break;
      }
      // Entries of requests in flight belong to the device: a chain that runs into them was made up.
      if (entries + state.inFlight >= size) throw new VirtioError("a chain longer than its queue");
      flags = this.#flags(position);
    }
    if (state.inFlight + chain.entries > size)
      throw new VirtioError("more requests than the queue has entries");
    state.inFlight += chain.entries;
    state.nextAvailable = position;
    state.availableWrap = wrap;
    return chain;
  }

  undoPop(chain: Chain): void {
    const state = this.#state;
    state.inFlight -= chain.entries;
    let position = state.nextAvailable - chain.entries;
    if (position < 0) {
      position += this.#size;
      state.availableWrap ^= 1;
    }
    state.nextAvailable = position;
  }

  /** VIRTIO 2.8.7: all entries of the table, in order; only their WRITE flag counts. */
  #walkTable(address: number, length: number, flags: number): void {
    const builder = this.#builder;
    const count = builder.indirectCount(length, flags, this.#indirect);
    const { memory, at: table } = builder.area(address, length, "an indirect table");
    const { data } = memory;
    for (let i = 0; i < count; i++) {
      const at = table + DESCRIPTOR_SIZE * i;
      const buffer = data.getUint32(at + 4, true) * TWO_32 + data.getUint32(at, true);
      builder.add(buffer, data.getUint32(at + 8, true), data.getUint16(at + 14, true) & DescriptorFlag.WRITE);
    }
  }

  push(chain: Chain, written: number): void {
    const { u16, u32 } = this.#ring.memory;
    const state = this.#state;
    const position = state.nextUsed;
    const at = this.#ring.at + DESCRIPTOR_SIZE * position;
    u32[(at >>> 2) + 2] = written;
    u16[(at >>> 1) + 6] = chain.id;
    const wrap = state.usedWrap !== 0 ? AVAIL | USED : 0;
    // VIRTIO 2.8.4: WRITE says that the length counts written bytes.
    const write = chain.writable.length > 0 ? DescriptorFlag.WRITE : 0;
    Atomics.store(u16, (at >>> 1) + 7, wrap | write);
    state.inFlight -= chain.entries;
    const next = position + chain.entries;
    if (next >= this.#size) {
      state.nextUsed = next - this.#size;
      state.usedWrap ^= 1;
    } else state.nextUsed = next;
  }

  wantsInterrupt(): boolean {
    const state = this.#state;
    const size = this.#size;
    const after = state.nextUsed;
    if (after === state.signalledUsed && state.usedWrap === state.signalledWrap) return false;
    // Positions before a wrap count from below zero.
    const before = state.signalledUsed - (state.signalledWrap !== state.usedWrap ? size : 0);
    this.#builder.memory.marked(this.#ring.location, DESCRIPTOR_SIZE * size);
    state.signalledUsed = after;
    state.signalledWrap = state.usedWrap;
    const event = Atomics.load(this.#driverEvent.memory.u32, this.#driverEvent.at >>> 2);
    const flags = (event >>> 16) & EVENT_FLAG_MASK;
    if (flags === EventFlag.DISABLE) return false;
    if (flags !== EventFlag.DESCRIPTOR || !this.#eventIndex) return true;
    const wrap = (event >>> EVENT_WRAP_SHIFT) & 1;
    const offset = (event & EVENT_OFFSET_MASK) - (wrap !== state.usedWrap ? size : 0);
    return passes(offset, after, before);
  }

  #setEvent(flags: number, offsetAndWrap: number): void {
    const { memory, at, location } = this.#deviceEvent;
    Atomics.store(memory.u32, at >>> 2, (flags << 16) | offsetAndWrap);
    this.#builder.memory.marked(location, EVENT_SIZE);
  }

  disableNotifications(): void {
    this.#setEvent(EventFlag.DISABLE, 0);
  }

  enableNotifications(): boolean {
    const state = this.#state;
    const position = state.nextAvailable;
    if (this.#eventIndex) {
      this.#setEvent(EventFlag.DESCRIPTOR, position | (state.availableWrap << EVENT_WRAP_SHIFT));
    } else this.#setEvent(EventFlag.ENABLE, 0);
    return this.#isAvailable(this.#flags(position), state.availableWrap);
  }
}
