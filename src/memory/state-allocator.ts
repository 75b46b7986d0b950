/**
 * Gives every record of shared state its address. Each thread of a machine runs the same allocations in the same order
 * over the same memory and so gets the same addresses; only the thread that creates the machine sets first values.
 */
import { alignUp, type Fields, type Layout, type View } from "./layout.js";
import type { SharedMemory } from "./shared-memory.js";

export interface StateRecord {
  readonly name: string;
  readonly layout: string;
  readonly address: number;
  readonly size: number;
}

/** Records start on cache lines, so that locks of different devices never share one. */
const CACHE_LINE = 64;

export class StateAllocator {
  #next: number;
  readonly #records: StateRecord[] = [];

  constructor(
    readonly memory: SharedMemory,
    start: number,
    readonly end: number,
  ) {
    this.#next = start;
  }

  /** Everything given out so far, in order: what a snapshot has to hold. */
  get records(): readonly StateRecord[] {
    return this.#records;
  }

  alloc<F extends Fields>(layout: Layout<F>, name: string): View<F> {
    return layout.view(
      this.memory,
      this.bytes(layout.size, name, Math.max(layout.align, CACHE_LINE), layout.name),
    );
  }

  /** Address of `size` bytes without a layout of fields (rings, tables). */
  bytes(size: number, name: string, align = CACHE_LINE, layout = "bytes"): number {
    const address = alignUp(this.#next, align);
    if (address + size > this.end)
      throw new RangeError(`machine state does not fit: ${name} needs ${size} bytes`);
    this.#next = address + size;
    this.#records.push({ name, layout, address, size });
    return address;
  }
}
