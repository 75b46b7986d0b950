/** Where in guest RAM the parts of a boot go: the image where it asks to be, the rest where nothing is yet. */
import type { GuestMemory } from "../memory/guest-memory.js";
import { formatSize } from "./boot-error.js";
import { type E820Entry, E820Type } from "./e820.js";

const PAGE_SIZE = 4096;
const MIB = 2 ** 20;
/** Not handed out: the real-mode interrupt vectors and BIOS data area, which kernels look at. */
const FIRST_FREE = 0x1000;

interface Range {
  readonly start: number;
  readonly end: number;
}

export class Placement {
  readonly #ram: readonly Range[];
  #taken: Range[] = [];

  /** `64 MiB of memory`, for messages; the machine's size as it was asked for, the hole below 1 MiB included. */
  readonly memorySize: string;

  constructor(memory: GuestMemory, e820: readonly E820Entry[]) {
    this.memorySize = `${formatSize(Math.ceil(memory.ramSize / MIB) * MIB)} of memory`;
    this.#ram = e820
      .filter((entry) => entry.type === E820Type.RAM)
      .map((entry) => ({ start: entry.address, end: entry.address + entry.size }));
  }

  /** Whether the range is RAM that nothing has been put into. */
  isFree(start: number, size: number): boolean {
    const end = start + size;
    return (
      this.#ram.some((range) => start >= range.start && end <= range.end) &&
      !this.#taken.some((range) => start < range.end && end > range.start)
    );
  }

  /** Takes a range; false where it is not free. */
  take(start: number, size: number): boolean {
    if (!this.isFree(start, size)) return false;
    if (size > 0) this.#taken.push({ start, end: start + size });
    return true;
  }

  /** Why a range of the kernel could not be taken, for messages. */
  whyNot(start: number, size: number): string {
    const end = start + size;
    if (end > this.#ram.reduce((most, range) => Math.max(most, range.end), 0)) {
      return `too large for ${this.memorySize}: the kernel reaches up to ${formatSize(end)}`;
    }
    const where = `0x${start.toString(16)}–0x${(end - 1).toString(16)}`;
    const overlaps = this.#taken.some((range) => start < range.end && end > range.start);
    return overlaps
      ? `broken kernel: two parts of it at ${where}`
      : `the kernel wants to be at ${where}, which is not RAM`;
  }

  /** Takes the lowest free range of `size` bytes from `min` that ends at or below `max`; undefined if there is none. */
  takeLow(size: number, align: number = PAGE_SIZE, min = FIRST_FREE, max = 2 ** 32): number | undefined {
    for (const gap of this.#gaps()) {
      const start = Math.ceil(Math.max(gap.start, min) / align) * align;
      if (start + size <= Math.min(gap.end, max) && this.take(start, size)) return start;
    }
    return undefined;
  }

  /** Takes the highest free range, likewise. */
  takeHigh(size: number, align: number = PAGE_SIZE, min = FIRST_FREE, max = 2 ** 32): number | undefined {
    for (const gap of this.#gaps().reverse()) {
      const start = Math.floor((Math.min(gap.end, max) - size) / align) * align;
      if (start >= Math.max(gap.start, min) && this.take(start, size)) return start;
    }
    return undefined;
  }

  /** What is free, in ascending order. */
  #gaps(): Range[] {
    const taken = this.#taken.sort((a, b) => a.start - b.start);
    const gaps: Range[] = [];
    for (const range of this.#ram) {
      let start = range.start;
      for (const part of taken) {
        if (part.end <= start || part.start >= range.end) continue;
        if (part.start > start) gaps.push({ start, end: part.start });
        start = part.end;
      }
      if (start < range.end) gaps.push({ start, end: range.end });
    }
    return gaps.sort((a, b) => a.start - b.start);
  }
}
