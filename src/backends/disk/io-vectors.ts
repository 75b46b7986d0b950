/** `struct iovec`s (readv(2)) of views of shared memory, whose addresses in this process never change. */
import { addressOf } from "./host-calls.js";

/** IOV_MAX of Linux. */
export const MAX_VECTORS = 1024;

/** Words of an iovec: address and length, each two of 32 bits, low one first (x86-64). */
const VECTOR_WORDS = 4;
const TWO_32 = 2 ** 32;

/** Addresses of the first bytes of buffers: below 2^47, exact. */
const bases = new WeakMap<ArrayBufferLike, number>();

function baseOf(buffer: ArrayBufferLike): number {
  let base = bases.get(buffer);
  if (base === undefined) {
    base = Number(addressOf(buffer));
    bases.set(buffer, base);
  }
  return base;
}

export class IoVectors {
  /** Filled again and again: allocated once. */
  words = new Uint32Array(0);
  /** Bytes of all. */
  length = 0;

  /** The vectors of up to `MAX_VECTORS` views, which may be of different buffers. */
  fill(views: readonly Uint8Array[]): this {
    if (views.length * VECTOR_WORDS > this.words.length) {
      if (views.length > MAX_VECTORS) throw new RangeError(`${views.length} vectors`);
      this.words = new Uint32Array(MAX_VECTORS * VECTOR_WORDS);
    }
    const { words } = this;
    let buffer: ArrayBufferLike | undefined;
    let base = 0;
    let length = 0;
    let at = 0;
    for (const view of views) {
      if (view.buffer !== buffer) {
        buffer = view.buffer;
        base = baseOf(buffer);
      }
      const address = base + view.byteOffset;
      words[at] = address % TWO_32;
      words[at + 1] = address / TWO_32;
      words[at + 2] = view.length % TWO_32;
      words[at + 3] = view.length / TWO_32;
      length += view.length;
      at += VECTOR_WORDS;
    }
    this.length = length;
    return this;
  }
}

/** Goes through views as if they were one. */
export class ViewCursor {
  #index = 0;
  #from = 0;

  constructor(private readonly views: readonly Uint8Array[]) {}

  /** The next `length` bytes, which are there. */
  take(length: number): readonly Uint8Array[] {
    const { views } = this;
    const taken: Uint8Array[] = [];
    for (let rest = length; rest > 0; ) {
      const view = views[this.#index];
      const part = Math.min(rest, view.length - this.#from);
      taken.push(part === view.length ? view : view.subarray(this.#from, this.#from + part));
      rest -= part;
      this.#from += part;
      if (this.#from === view.length) {
        this.#index++;
        this.#from = 0;
      }
    }
    return taken;
  }
}

/** Bytes of all views. */
export function lengthOf(views: readonly Uint8Array[]): number {
  let length = 0;
  for (const view of views) length += view.length;
  return length;
}
