/** A vCPU's CPUID leaves in shared memory: any thread sets them, the vCPU's own reads them. */
import type { SharedMemory } from "../../../memory/shared-memory.js";
import type { StateAllocator } from "../../../memory/state-allocator.js";
import type { CpuidEntry } from "../../seam.js";

const MAX_ENTRIES = 256;
/** Words of an entry: function, index, whether the index counts, EAX, EBX, ECX, EDX, and one unused. */
const ENTRY_WORDS = 8;

/** EAX, EBX, ECX and EDX of a CPUID leaf. */
export type CpuidResult = readonly [eax: number, ebx: number, ecx: number, edx: number];
const ZERO: CpuidResult = [0, 0, 0, 0];

export class CpuidTable {
  /** Bytes that it takes from the allocator. */
  static readonly bytes = 4 * ENTRY_WORDS * (MAX_ENTRIES + 1);
  /** The count, then the entries. */
  readonly #words: Uint32Array;

  constructor(memory: SharedMemory, allocator: StateAllocator, name: string) {
    const address = allocator.bytes(CpuidTable.bytes, name);
    this.#words = memory.u32.subarray(address >>> 2, (address + CpuidTable.bytes) >>> 2);
  }

  /** Replaces all leaves. Throws `RangeError` for more than 256. */
  set(entries: readonly CpuidEntry[]): void {
    if (entries.length > MAX_ENTRIES) throw new RangeError(`more than ${MAX_ENTRIES} CPUID leaves`);
    entries.forEach((e, i) => {
      const values = [e.function, e.index, e.significantIndex ? 1 : 0, e.eax, e.ebx, e.ecx, e.edx, 0];
      this.#words.set(values, ENTRY_WORDS * (i + 1));
    });
    Atomics.store(this.#words, 0, entries.length);
  }

  get(): CpuidEntry[] {
    return Array.from({ length: this.#words[0] }, (_, i) => {
      const at = ENTRY_WORDS * (i + 1);
      const [fn, index, significant, eax, ebx, ecx, edx] = this.#words.subarray(at, at + ENTRY_WORDS);
      return { function: fn, index, significantIndex: significant !== 0, eax, ebx, ecx, edx };
    });
  }

  /** Place of the entry for `fn`, `index`; 0: none, −1: the leaf exists, the index does not. */
  #find(fn: number, index: number): number {
    const words = this.#words;
    let known = 0;
    for (let i = words[0]; i > 0; i--) {
      const at = ENTRY_WORDS * i;
      if (words[at] !== fn) continue;
      if (words[at + 2] === 0 || words[at + 1] === index) return at;
      known = -1;
    }
    return known;
  }

  /** CPUID's answer: a leaf beyond the highest gives the highest basic one's (SDM vol. 2, CPUID). */
  lookUp(fn: number, index: number): CpuidResult {
    const words = this.#words;
    let at = this.#find(fn, index);
    if (at === 0 && this.#beyond(fn)) {
      const basic = this.#find(0, 0);
      at = basic > 0 ? this.#find(words[basic + 3], index) : 0;
    }
    return at > 0 ? [words[at + 3], words[at + 4], words[at + 5], words[at + 6]] : ZERO;
  }

  #beyond(fn: number): boolean {
    if (fn >= 0x40000000 && fn < 0x50000000) return false;
    const at = this.#find(fn >= 0x80000000 ? 0x80000000 : 0, 0);
    return at <= 0 || fn > this.#words[at + 3];
  }
}
