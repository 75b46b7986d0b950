/** Gives pages of guest RAM back to the host: they read as zeros from then on and take no memory until they are written. */
import koffi from "koffi";
import type { GuestMemory } from "../../memory/guest-memory.js";

/** <sys/mman.h>; wasm memories are private anonymous mappings, of which it drops the contents. */
const MADV_DONTNEED = 4;

type Madvise = (address: bigint, length: number, advice: number) => number;
let madvise: Madvise | undefined;

/** `offset` and `length` in bytes of the shared memory, multiples of the host's page size. */
export function releasePages(memory: GuestMemory, offset: number, length: number): void {
  const { u8 } = memory.memory;
  madvise ??= koffi.load(null).func("int madvise(uintptr_t, size_t, int)") as Madvise;
  // Where the host cannot, the contents still go.
  if (madvise(koffi.address(u8) + BigInt(offset), length, MADV_DONTNEED) !== 0)
    u8.fill(0, offset, offset + length);
  memory.marked(offset, length);
}
