/**
 * Which vCPUs have decoded code of a guest-physical page (owners), and which may have it in their TLB for writing (writers): a
 * word a page. The rules that keep decoded code true while others write:
 *
 * 1. No entry for writing while there is an owner. Who fills one sets its writer bit first, and looks at the owners in the same
 *    word (cold/runtime, claimWrites).
 * 2. Who is about to decode sets its owner bit, and then waits until each writer has dropped its entry and is past the
 *    instruction that may still use it (coherence.ts). Only then does it read the page's bytes.
 * 3. Who writes without such an entry, a vCPU on the slow path or a device, looks at the owners after the write, a full fence between
 *    the two, and tells each owner what was written. So either the owner reads the new bytes, or it is told.
 *
 * An owner that was told drops what it has before its next entry to guest code, and leaves at its next branch: before any
 * serializing instruction, which is what SDM vol. 3A, 9.1.3 asks for.
 */
import type { SharedMemory } from "../../../memory/shared-memory.js";
import { PAGE_SHARING_OFFSET, PageSharing } from "../vcpu-state.js";

export class PageSharingMap {
  readonly #first: number;

  /** `physMap`: address of the map from guest-physical pages. */
  constructor(
    readonly memory: SharedMemory,
    physMap: number,
  ) {
    this.#first = (physMap + PAGE_SHARING_OFFSET) >>> 2;
  }

  /** vCPU `id` is going to decode from `page`: the other vCPUs that may have a TLB entry for writing to it, by bit. */
  own(page: number, id: number): number {
    const before = Atomics.or(this.memory.u32, this.#first + page, 1 << id);
    return (before >>> PageSharing.WRITER_SHIFT) & ~(1 << id);
  }

  /** The writers in the bit set `ids` have dropped their entries. To be called by an owner. */
  writersGone(page: number, ids: number): void {
    Atomics.and(this.memory.u32, this.#first + page, ~(ids << PageSharing.WRITER_SHIFT));
  }

  disown(page: number, id: number): void {
    Atomics.and(this.memory.u32, this.#first + page, ~(1 << id));
  }

  /** The owners, by bit, as they are after all stores that this thread has made: a full fence. */
  ownersAfterStores(page: number): number {
    return Atomics.or(this.memory.u32, this.#first + page, 0) & PageSharing.OWNERS;
  }
}
