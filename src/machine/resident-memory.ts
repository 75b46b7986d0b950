/** How much of a guest's RAM the host has given pages to: mincore(2) over the memory slots. */
import koffi from "koffi";
import type { Board } from "./board.js";

const PAGE = 4096;
/** Bit 0 of a byte of the vector: the page is resident. */
const RESIDENT = 1;

const mincore = koffi.load(null).func("int mincore(void *, size_t, void *)");

/** Bytes; undefined where the host does not say. */
export function residentRam({ guestMemory }: Board): number | undefined {
  let pages = 0;
  for (const slot of guestMemory.slots) {
    const { offset, size } = slot;
    const vector = new Uint8Array(size / PAGE);
    const start = koffi.address(guestMemory.memoryOf(slot).u8);
    if (mincore(start + BigInt(offset), size, vector) !== 0) return undefined;
    for (const page of vector) pages += page & RESIDENT;
  }
  return pages * PAGE;
}
