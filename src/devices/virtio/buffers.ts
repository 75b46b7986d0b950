/**
 * The memory that one request hands over: the parts that the device reads and those that it writes, each a list of
 * ranges of guest RAM. All were checked when they came off the ring.
 */
import type { GuestMemory } from "../../memory/guest-memory.js";
import { WASM_MEMORY_LIMIT } from "../../memory/shared-memory.js";

/** One direction of a request. Offsets count through the ranges as if they were one. */
export class BufferList {
  /** Where the ranges are, as `GuestMemory.locate` counts. */
  readonly offsets: number[] = [];
  readonly lengths: number[] = [];
  /** Bytes in all. */
  length = 0;

  constructor(readonly memory: GuestMemory) {}

  /** Add `length` bytes at `offset` (of `GuestMemory.locate`); ranges that touch become one. */
  add(offset: number, length: number): void {
    if (length === 0) return;
    const last = this.offsets.length - 1;
    if (last >= 0 && this.offsets[last] + this.lengths[last] === offset) this.lengths[last] += length;
    else {
      this.offsets.push(offset);
      this.lengths.push(length);
    }
    this.length += length;
  }

  /** Copy from `at` on into `target`; how many bytes there were is returned. */
  copyTo(target: Uint8Array, at = 0): number {
    let done = 0;
    this.#each(at, target.length, (offset, length) => {
      target.set(this.#view(offset, length), done);
      done += length;
    });
    return done;
  }

  /** Copy `source` to `at`; how many bytes fit is returned. */
  copyFrom(source: Uint8Array, at = 0): number {
    let done = 0;
    this.#each(at, source.length, (offset, length) => {
      this.#view(offset, length).set(source.subarray(done, done + length));
      this.memory.marked(offset, length);
      done += length;
    });
    return done;
  }

  /** Set up to `length` bytes from `at` on to `value`. */
  fill(value: number, at: number, length: number): void {
    this.#each(at, length, (start, size) => {
      this.#view(start, size).fill(value);
      this.memory.marked(start, size);
    });
  }

  /** Views of guest memory for up to `length` bytes from `at` on. Say `written` after writing through them. */
  views(at: number, length: number): Uint8Array[] {
    const views: Uint8Array[] = [];
    this.#each(at, length, (offset, size) => views.push(this.#view(offset, size)));
    return views;
  }

  /** The bytes of `views(at, length)` were written. */
  written(at: number, length: number): void {
    this.#each(at, length, (offset, size) => this.memory.marked(offset, size));
  }

  #view(location: number, length: number): Uint8Array {
    const offset = location % WASM_MEMORY_LIMIT;
    return this.memory.memoryAt(location).u8.subarray(offset, offset + length);
  }

  #each(at: number, length: number, body: (offset: number, length: number) => void): void {
    let skip = at;
    let rest = length;
    for (let i = 0; i < this.offsets.length && rest > 0; i++) {
      const size = this.lengths[i];
      if (skip >= size) {
        skip -= size;
        continue;
      }
      const part = Math.min(size - skip, rest);
      body(this.offsets[i] + skip, part);
      rest -= part;
      skip = 0;
    }
  }
}

/** A request: a descriptor chain (VIRTIO 2.6). */
export class Chain {
  /** What names the chain on the used ring: its head (split) or buffer ID (packed). */
  id = 0;
  /** Ring entries that it takes (packed). */
  entries = 1;
  /** What the device reads; it comes first in the chain. */
  readonly readable: BufferList;
  /** What the device writes. */
  readonly writable: BufferList;

  constructor(memory: GuestMemory) {
    this.readable = new BufferList(memory);
    this.writable = new BufferList(memory);
  }
}
