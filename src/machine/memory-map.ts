/**
 * Where things are: in the guest's physical address space, and in the machine's one linear memory.
 *
 * Guest-physical (x86):
 *   0x0000_0000  RAM
 *   0x000A_0000  hole (VGA memory on a PC)
 *   0x000C_0000  RAM; 0xE0000–0xFFFFF holds the firmware tables
 *   ≤ 0xC000_0000  end of low RAM; the PCI MMIO window begins
 *   0xE000_0000  ECAM, 256 buses
 *   0xFEC0_0000  IOAPIC; 0xFEE0_0000 local APIC (both in the hypervisor)
 *   0x1_0000_0000  the rest of RAM
 *
 * Linear memory: an unused first page, the machine's state, the provider's arena, then guest RAM: low RAM as it is in the
 * guest (with the hole's pages never touched), high RAM right behind.
 *
 * RAM that does not fit (only KVM takes so much) is in further memories, one for each 4 GiB of guest-physical addresses from
 * 4 GiB on. The last 64 KiB of each are a hole in the guest's RAM, so that nothing which is contiguous there lies in two memories.
 */

import { gpa, type MemorySlot } from "../memory/guest-memory.js";
import { alignUp } from "../memory/layout.js";
import { WASM_MEMORY_LIMIT, WASM_PAGE_SIZE } from "../memory/shared-memory.js";

const KIB = 2 ** 10;
const MIB = 2 ** 20;

/** A PC's video memory: no RAM there (DESIGN, 3). */
export const LEGACY_HOLE_START = 0xa0000;
export const LEGACY_HOLE_END = 0xc0000;
/** RAM below 4 GiB ends here at the latest. */
export const LOW_RAM_LIMIT = 0xc000_0000;
export const PCI_WINDOW_START = 0xc000_0000;
export const PCI_WINDOW_END = 0xe000_0000;
export const ECAM_START = 0xe000_0000;
export const ECAM_END = 0xf000_0000;
/** RAM that does not fit below `LOW_RAM_LIMIT` goes on here. */
export const HIGH_RAM_START = 2 ** 32;

/** Address 0 of the linear memory is nobody's, so that a zero address is a recognizable mistake. */
const STATE_START = 4 * KIB;
/** Room for the state of all devices, rings and locks, and the page before it. */
const DEVICE_STATE_BYTES = 16 * MIB;
/** What a provider can count on for its arena. */
export const MAX_PROVIDER_ARENA_BYTES = 496 * MIB;

const PAGE = 4 * KIB;

/** RAM up to 1 MiB, and room for a small kernel. What a kernel really needs is checked when it is loaded. */
export const MIN_RAM_BYTES = 4 * MIB;
/** What fits into the linear memory. */
export const MAX_RAM_BYTES = WASM_MEMORY_LIMIT - DEVICE_STATE_BYTES - MAX_PROVIDER_ARENA_BYTES;

/** RAM in each of the further memories, and how many of them there may be. */
const FURTHER_MEMORY_BYTES = WASM_MEMORY_LIMIT - 64 * KIB;
const MAX_FURTHER_MEMORIES = 32;
/** What a machine may have on KVM. */
export const MAX_KVM_RAM_BYTES = LOW_RAM_LIMIT + MAX_FURTHER_MEMORIES * FURTHER_MEMORY_BYTES;

export interface LinearPlan {
  /** Machine state and provider arena: [stateStart, stateEnd). */
  readonly stateStart: number;
  readonly stateEnd: number;
  /** Where guest-physical address 0 is. */
  readonly ramOffset: number;
  /** Bytes of the whole memory. */
  readonly total: number;
  /** Bytes of each further memory. */
  readonly further: readonly number[];
}

/** Bytes that are left for a provider's arena beside `ramBytes` of RAM. */
export function arenaRoom(ramBytes: number): number {
  return WASM_MEMORY_LIMIT - DEVICE_STATE_BYTES - alignUp(ramBytes, WASM_PAGE_SIZE);
}

/** Lay out the linear memory. `ramBytes` and `arenaBytes` in bytes. */
export function planLinearMemory(ramBytes: number, arenaBytes: number): LinearPlan {
  const stateEnd = alignUp(DEVICE_STATE_BYTES + arenaBytes, WASM_PAGE_SIZE);
  const here = ramBytes > MAX_RAM_BYTES ? LOW_RAM_LIMIT : ramBytes;
  const total = alignUp(stateEnd + alignUp(here, PAGE), WASM_PAGE_SIZE);
  if (total > WASM_MEMORY_LIMIT) throw new RangeError(`machine of ${total} bytes passes 4 GiB`);
  const further: number[] = [];
  for (let rest = ramBytes - here; rest > 0; rest -= FURTHER_MEMORY_BYTES) {
    further.push(Math.min(rest, FURTHER_MEMORY_BYTES));
  }
  if (further.length > MAX_FURTHER_MEMORIES) throw new RangeError(`${ramBytes} bytes of RAM are too much`);
  return { stateStart: STATE_START, stateEnd, ramOffset: stateEnd, total, further };
}

/** The memory slots of `ramBytes` of RAM in memories as `plan` has them. */
export function ramSlots(
  ramBytes: number,
  { ramOffset, further }: Pick<LinearPlan, "ramOffset" | "further">,
): MemorySlot[] {
  // What is no whole page at the end stays unused.
  const lowEnd = Math.min(ramBytes - (ramBytes % PAGE), LOW_RAM_LIMIT);
  const ranges: [start: number, size: number, offset: number, memory: number][] = [
    [0, LEGACY_HOLE_START, ramOffset, 0],
    [LEGACY_HOLE_END, lowEnd - LEGACY_HOLE_END, ramOffset + LEGACY_HOLE_END, 0],
  ];
  for (const [i, size] of further.entries()) {
    ranges.push([HIGH_RAM_START + i * WASM_MEMORY_LIMIT, size - (size % PAGE), 0, i + 1]);
  }
  if (further.length === 0 && ramBytes >= lowEnd + PAGE) {
    ranges.push([HIGH_RAM_START, ramBytes - (ramBytes % PAGE) - lowEnd, ramOffset + lowEnd, 0]);
  }
  return ranges.map(([start, size, offset, memory], slot) => ({
    slot,
    guestPhysical: gpa(start),
    size,
    memory,
    offset,
    readonly: false,
    logDirty: false,
  }));
}

/** `512 MiB`, or with decimals where it is no whole number. */
export function formatMiB(bytes: number): string {
  const mib = bytes / MIB;
  return `${Number.isInteger(mib) ? mib : mib.toFixed(2)} MiB`;
}
