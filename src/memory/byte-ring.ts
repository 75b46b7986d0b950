/**
 * A ring of bytes in shared memory, one writing and one reading side, each on any thread: how a serial port's bytes
 * get from the vCPU that writes them to the thread that owns the terminal, and back.
 */
import { Layout, type ViewOf } from "./layout.js";
import { aboutToWait } from "./mutex.js";
import type { SharedMemory } from "./shared-memory.js";
import type { StateAllocator } from "./state-allocator.js";

const BYTE_RING = new Layout("byte-ring", { head: "u32", tail: "u32", capacity: "u32", closed: "u32" });

/** `head` and `tail` count bytes since the start, modulo 2^32; the capacity is a power of two. */
export class ByteRing {
  readonly #state: ViewOf<typeof BYTE_RING>;
  readonly #bytes: Uint8Array;
  readonly #words: Int32Array;
  readonly #head: number;
  readonly #tail: number;
  readonly #closed: number;

  constructor(
    memory: SharedMemory,
    state: ViewOf<typeof BYTE_RING>,
    bytes: number,
    readonly capacity: number,
  ) {
    this.#state = state;
    this.#bytes = memory.u8.subarray(bytes, bytes + capacity);
    this.#words = memory.i32;
    this.#head = (state.address + BYTE_RING.offset.head) >>> 2;
    this.#tail = (state.address + BYTE_RING.offset.tail) >>> 2;
    this.#closed = (state.address + BYTE_RING.offset.closed) >>> 2;
  }

  static allocate(allocator: StateAllocator, name: string, capacity: number): ByteRing {
    if ((capacity & (capacity - 1)) !== 0) throw new RangeError(`${name}: capacity is no power of two`);
    const state = allocator.alloc(BYTE_RING, name);
    const bytes = allocator.bytes(capacity, `${name}.bytes`);
    return new ByteRing(allocator.memory, state, bytes, capacity);
  }

  /** Bytes that can be read now. */
  get length(): number {
    return (Atomics.load(this.#words, this.#head) - Atomics.load(this.#words, this.#tail)) >>> 0;
  }

  get space(): number {
    return this.capacity - this.length;
  }

  /** Store as many bytes of `source` as fit; how many is returned. Wakes the reader. */
  write(source: Uint8Array): number {
    const count = Math.min(source.length, this.space);
    const head = Atomics.load(this.#words, this.#head) >>> 0;
    for (let i = 0; i < count; i++) this.#bytes[(head + i) & (this.capacity - 1)] = source[i];
    if (count > 0) {
      Atomics.store(this.#words, this.#head, (head + count) | 0);
      Atomics.notify(this.#words, this.#head);
    }
    return count;
  }

  /** Store one byte; false where the ring is full. Allocates nothing. Wakes the reader. */
  writeByte(byte: number): boolean {
    if (this.space === 0) return false;
    const head = Atomics.load(this.#words, this.#head);
    this.#bytes[head & (this.capacity - 1)] = byte;
    Atomics.store(this.#words, this.#head, (head + 1) | 0);
    Atomics.notify(this.#words, this.#head);
    return true;
  }

  /** Take out one byte, or -1 where there is none. Allocates nothing. Wakes a waiting writer. */
  readByte(): number {
    if (this.length === 0) return -1;
    const tail = Atomics.load(this.#words, this.#tail);
    const byte = this.#bytes[tail & (this.capacity - 1)];
    Atomics.store(this.#words, this.#tail, (tail + 1) | 0);
    Atomics.notify(this.#words, this.#tail);
    return byte;
  }

  /** Sleep until the reader has made room or closed the ring, or for `milliseconds`. No lock may be held. */
  waitForSpace(milliseconds = 100): void {
    const tail = Atomics.load(this.#words, this.#tail);
    if (this.space > 0 || this.isClosed) return;
    aboutToWait("byte ring");
    Atomics.wait(this.#words, this.#tail, tail, milliseconds);
  }

  /** Whether the reader said that it is gone. */
  get isClosed(): boolean {
    return Atomics.load(this.#words, this.#closed) !== 0;
  }

  /** Store all of `source`, waiting for the reader where the ring is full. False once the reader closed it. */
  writeAll(source: Uint8Array): boolean {
    let at = 0;
    while (at < source.length) {
      if (this.isClosed) return false;
      const written = this.write(source.subarray(at));
      at += written;
      if (written === 0) this.waitForSpace();
    }
    return true;
  }

  /** Take out up to `limit` bytes. Wakes a waiting writer. */
  read(limit = this.capacity): Uint8Array {
    const count = Math.min(limit, this.length);
    const tail = Atomics.load(this.#words, this.#tail) >>> 0;
    const result = new Uint8Array(count);
    for (let i = 0; i < count; i++) result[i] = this.#bytes[(tail + i) & (this.capacity - 1)];
    if (count > 0) {
      Atomics.store(this.#words, this.#tail, (tail + count) | 0);
      Atomics.notify(this.#words, this.#tail);
    }
    return result;
  }

  /** Resolves when there is something to read, or after `milliseconds`. For the main thread. */
  async readable(milliseconds = 1000): Promise<void> {
    const head = Atomics.load(this.#words, this.#head);
    if (this.length > 0) return;
    const result = Atomics.waitAsync(this.#words, this.#head, head, milliseconds);
    if (result.async) await result.value;
  }

  /** Resolves when there is room, or after `milliseconds`. For threads with an event loop. */
  async writable(milliseconds = 1000): Promise<void> {
    const tail = Atomics.load(this.#words, this.#tail);
    if (this.space > 0 || this.isClosed) return;
    const result = Atomics.waitAsync(this.#words, this.#tail, tail, milliseconds);
    if (result.async) await result.value;
  }

  /** Have `readable` resolve although nothing came. */
  wakeReader(): void {
    Atomics.notify(this.#words, this.#head);
  }

  /** The reader is gone: writers drop what they have instead of waiting. */
  close(): void {
    Atomics.store(this.#words, this.#closed, 1);
    Atomics.notify(this.#words, this.#tail);
  }

  get state(): ViewOf<typeof BYTE_RING> {
    return this.#state;
  }
}
