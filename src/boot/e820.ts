/**
 * The map of guest-physical memory that a kernel is given: the answer of the PC BIOS call INT 15h, AX=E820h
 * (ACPI 6.5, 15.1), made from the machine's memory slots.
 */
import type { GuestMemory } from "../memory/guest-memory.js";

/** Address range types (ACPI 6.5, table 15.4). */
export const E820Type = {
  RAM: 1,
  RESERVED: 2,
  ACPI: 3,
  NVS: 4,
} as const;
export type E820Type = (typeof E820Type)[keyof typeof E820Type];

export interface E820Entry {
  readonly address: number;
  readonly size: number;
  readonly type: E820Type;
}

interface Range {
  readonly start: number;
  readonly end: number;
}

/** What a PC firmware keeps for itself below 640 KiB, its extended BIOS data area. */
const EBDA: Range = { start: 0x9fc00, end: 0xa0000 };
/** Not to be used as RAM though some of it is: video memory and option ROMs of a PC, then the firmware's tables. */
const LEGACY: Range = { start: 0xa0000, end: 0x100000 };
const FIRMWARE_TABLES: Range = { start: 0xe0000, end: 0x100000 };
/** Linux uses ECAM only where the firmware says that the range is reserved (PCI Firmware 3.3, 4.1.2). */
const ECAM: Range = { start: 0xe0000000, end: 0xf0000000 };

/** The E820 map of `memory`, in ascending order, without overlaps. */
export function e820Map(memory: GuestMemory): E820Entry[] {
  let ram = merge(
    memory.slots
      .filter((slot) => !slot.readonly && slot.size > 0)
      .map((slot) => ({ start: slot.guestPhysical, end: slot.guestPhysical + slot.size })),
  );
  for (const hole of [EBDA, LEGACY, ECAM]) ram = ram.flatMap((range) => subtract(range, hole));
  const reserved = [EBDA, FIRMWARE_TABLES, ECAM];
  return [
    ...ram.map((range) => entry(range, E820Type.RAM)),
    ...reserved.map((range) => entry(range, E820Type.RESERVED)),
  ].sort((a, b) => a.address - b.address);
}

function entry(range: Range, type: E820Type): E820Entry {
  return { address: range.start, size: range.end - range.start, type };
}

function merge(ranges: Range[]): Range[] {
  const merged: Range[] = [];
  for (const range of ranges.sort((a, b) => a.start - b.start)) {
    const last = merged.at(-1);
    if (last !== undefined && range.start <= last.end) {
      merged[merged.length - 1] = { start: last.start, end: Math.max(last.end, range.end) };
    } else {
      merged.push(range);
    }
  }
  return merged;
}

function subtract(range: Range, hole: Range): Range[] {
  if (hole.end <= range.start || hole.start >= range.end) return [range];
  return [
    { start: range.start, end: hole.start },
    { start: hole.end, end: range.end },
  ].filter(({ start, end }) => start < end);
}
