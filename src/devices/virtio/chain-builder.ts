/** From descriptors, which a driver wrote and may be writing still, to checked chains. */
import type { GuestMemory, GuestPhysical } from "../../memory/guest-memory.js";
import { type SharedMemory, WASM_MEMORY_LIMIT } from "../../memory/shared-memory.js";
import { Chain } from "./buffers.js";
import { VirtioError } from "./constants.js";
import { wide } from "./ring.js";

/** Descriptor flags, VIRTIO 2.7.5 and 2.8.13. */
export const DescriptorFlag = { NEXT: 1, WRITE: 2, INDIRECT: 4 } as const;
export const DESCRIPTOR_SIZE = 16;

/**
 * Descriptors in an indirect table that are followed. A chain is not to be longer than its queue (VIRTIO 2.7.5.3.1), which drivers
 * do not always keep to; what counts is that there is a bound.
 */
const MAX_INDIRECT = 1024;
const TWO_32 = 2 ** 32;

/** A range of guest RAM, in the memory that holds it. */
export interface Area {
  readonly memory: SharedMemory;
  /** Byte offset there. */
  readonly at: number;
  /** As `GuestMemory.locate` has it. */
  readonly location: number;
}

/** Collects the descriptors of one chain, which come in order. */
export class ChainBuilder {
  #chain: Chain;

  constructor(readonly memory: GuestMemory) {
    this.#chain = new Chain(memory);
  }

  start(): Chain {
    this.#chain = new Chain(this.memory);
    return this.#chain;
  }

  /** Add the buffer of a descriptor. Throws `VirtioError`. */
  add(address: number, length: number, flags: number): void {
    const { readable, writable } = this.#chain;
    const write = (flags & DescriptorFlag.WRITE) !== 0;
    // VIRTIO 2.6.4.2: device-readable buffers come first.
    if (!write && writable.length > 0)
      throw new VirtioError("a device-readable buffer after a device-writable one");
    if (length === 0) return;
    // VIRTIO 2.7.5.2: a chain has at most 2^32 bytes.
    if (readable.length + writable.length + length > TWO_32)
      throw new VirtioError("a chain of more than 4 GiB");
    (write ? writable : readable).add(this.#locate(address, length, "a buffer"), length);
  }

  /** A range that the driver named. Throws `VirtioError` where it is no RAM. */
  area(address: number, length: number, what: string): Area {
    const location = this.#locate(address, length, what);
    return { memory: this.memory.memoryAt(location), at: location % WASM_MEMORY_LIMIT, location };
  }

  /** A part of the ring, where the driver's registers have it. Throws `VirtioError` where that is no place for it. */
  ringArea(address: Uint32Array, bytes: number, align: number, what: string): Area {
    const at = wide(address);
    if (at % align !== 0) throw new VirtioError(`${what} not aligned to ${align}`);
    return this.area(at, bytes, what);
  }

  #locate(address: number, length: number, what: string): number {
    if (!this.memory.contains(address, length)) {
      throw new VirtioError(`${what} outside of RAM: 0x${address.toString(16)}, ${length} bytes`);
    }
    return this.memory.locate(address as GuestPhysical, length);
  }

  /**
   * Checks a descriptor that points to a table of descriptors (VIRTIO 2.7.5.3, 2.8.7) and returns how many it has.
   */
  indirectCount(length: number, flags: number, negotiated: boolean): number {
    if (!negotiated) throw new VirtioError("an indirect descriptor without INDIRECT_DESC");
    if ((flags & DescriptorFlag.NEXT) !== 0) throw new VirtioError("an indirect descriptor with NEXT");
    const count = length / DESCRIPTOR_SIZE;
    if (!Number.isInteger(count) || count === 0) {
      throw new VirtioError(`an indirect table of ${length} bytes`);
    }
    if (count > MAX_INDIRECT) throw new VirtioError(`an indirect table of ${count} descriptors`);
    return count;
  }
}
