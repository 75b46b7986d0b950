/**
 * Pages of guest RAM that the host side wrote: KVM's own dirty log has only the guest's writes. A bit a page of the memories,
 * in shared memory.
 */
import type { GuestMemory } from "../../memory/guest-memory.js";
import { WASM_MEMORY_LIMIT } from "../../memory/shared-memory.js";
import type { StateAllocator } from "../../memory/state-allocator.js";

const PAGE = 4096;
/** The machine's memory, and so many further ones at most. */
const MEMORIES = 33;
const BITMAP_BYTES = (MEMORIES * WASM_MEMORY_LIMIT) / PAGE / 8;

export class DirtyPages {
  /** Bytes that it takes from the allocator. */
  static readonly bytes = BITMAP_BYTES + PAGE;
  readonly #words: Int32Array;

  /** `logging`: whether writes are to be remembered. */
  constructor(allocator: StateAllocator, guestMemory: GuestMemory, logging: () => boolean) {
    const address = allocator.bytes(BITMAP_BYTES, "kvm.dirty-pages", PAGE);
    this.#words = allocator.memory.i32.subarray(address >>> 2, (address + BITMAP_BYTES) >>> 2);
    guestMemory.onWrite((offset, length) => {
      if (length > 0 && logging()) this.mark(offset, length);
    });
  }

  /** `length` bytes at `offset` (of `globalOffset`) were written. */
  mark(offset: number, length: number): void {
    const last = Math.floor((offset + length - 1) / PAGE);
    for (let page = Math.floor(offset / PAGE); page <= last; page++) {
      Atomics.or(this.#words, page >>> 5, 1 << (page & 31));
    }
  }

  /** Add the pages of `size` bytes at `offset` (of `globalOffset`) to `log`, a bit a page, and forget them. */
  take(offset: number, size: number, log: Uint8Array): void {
    const first = offset / PAGE;
    const pages = size / PAGE;
    for (let i = 0; i < pages; i++) {
      const page = first + i;
      if (this.#words[page >>> 5] === 0) {
        i += 31 - (page & 31);
        continue;
      }
      const bit = 1 << (page & 31);
      if ((Atomics.and(this.#words, page >>> 5, ~bit) & bit) !== 0) log[i >>> 3] |= 1 << (i & 7);
    }
  }

  /** Forget the pages of `size` bytes at `offset`. */
  clear(offset: number, size: number): void {
    this.take(offset, size, new Uint8Array(Math.ceil(size / PAGE / 8)));
  }
}
