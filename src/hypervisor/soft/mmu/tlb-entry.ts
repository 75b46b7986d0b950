/** Where in the direct-mapped TLBs a page's entry is: expressions that all translated code shares. */
import { DTLB_ENTRIES, Dtlb, FTLB_ENTRIES, Ftlb } from "../vcpu-state.js";
import type { I32, I64 } from "../wasm/expr.js";

const PAGE_SHIFT = 12;

function entryOf(tlb: I32, linear: I64, entries: number, size: number): I32 {
  // The page number's low bits times the size, with one shift.
  return tlb.add(
    linear
      .shrU(PAGE_SHIFT - Math.log2(size))
      .toI32()
      .and((entries - 1) * size),
  );
}

/** Entry for `linear` of the data TLB at address `tlb`. */
export const dataTlbEntry = (tlb: I32, linear: I64): I32 => entryOf(tlb, linear, DTLB_ENTRIES, Dtlb.size);

/** Entry for `linear` of the fetch TLB at address `tlb`. */
export const fetchTlbEntry = (tlb: I32, linear: I64): I32 => entryOf(tlb, linear, FTLB_ENTRIES, Ftlb.size);
