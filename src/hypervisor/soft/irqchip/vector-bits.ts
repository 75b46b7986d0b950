/**
 * 256 bits, one a vector, in shared memory: an IRR or ISR. Any thread may set a bit; only the vCPU's own thread clears
 * bits and asks for the highest.
 *
 * A summary word has a bit for each of the eight words that may be non-zero, so that the common question
 * "is anything there?" is one load.
 */
import { VECTOR_WORDS } from "./lapic-registers.js";

export class VectorBits {
  /** `first` and `summary` are indices of 32-bit words in `words`. */
  constructor(
    readonly words: Int32Array,
    readonly first: number,
    readonly summary: number,
  ) {}

  get empty(): boolean {
    return Atomics.load(this.words, this.summary) === 0;
  }

  set(vector: number): void {
    const word = vector >>> 5;
    // The bit first: whoever sees the summary must find it.
    Atomics.or(this.words, this.first + word, 1 << (vector & 31));
    Atomics.or(this.words, this.summary, 1 << word);
  }

  clear(vector: number): void {
    const word = vector >>> 5;
    const bit = 1 << (vector & 31);
    const before = Atomics.and(this.words, this.first + word, ~bit);
    if ((before & ~bit) !== 0) return;
    Atomics.and(this.words, this.summary, ~(1 << word));
    // Another thread may have set a bit of this word before its summary bit was taken away.
    if (Atomics.load(this.words, this.first + word) !== 0) Atomics.or(this.words, this.summary, 1 << word);
  }

  has(vector: number): boolean {
    return ((Atomics.load(this.words, this.first + (vector >>> 5)) >>> (vector & 31)) & 1) === 1;
  }

  /** The highest vector whose bit is set, or -1. */
  highest(): number {
    let summary = Atomics.load(this.words, this.summary);
    while (summary !== 0) {
      const word = 31 - Math.clz32(summary);
      const bits = Atomics.load(this.words, this.first + word);
      if (bits !== 0) return word * 32 + 31 - Math.clz32(bits);
      summary &= ~(1 << word);
    }
    return -1;
  }

  word(index: number): number {
    return Atomics.load(this.words, this.first + index) >>> 0;
  }

  setWord(index: number, value: number): void {
    Atomics.store(this.words, this.first + index, value);
    if (value !== 0) Atomics.or(this.words, this.summary, 1 << index);
    else Atomics.and(this.words, this.summary, ~(1 << index));
  }

  clearAll(): void {
    for (let index = 0; index < VECTOR_WORDS; index++) this.setWord(index, 0);
  }
}
