/** The walk of the guest's page tables for one linear address, as text, level by level (SDM vol. 3A, chapter 4). */
import type { Sregs } from "../hypervisor/seam.js";
import { type GuestMemory, gpa } from "../memory/guest-memory.js";

const CR0_PG = 1n << 31n;
const CR4_PSE = 1n << 4n;
const CR4_PAE = 1n << 5n;
const CR4_LA57 = 1n << 12n;
const EFER_LMA = 1n << 10n;

const ENTRY_PRESENT = 1n << 0n;
const ENTRY_PAGE_SIZE = 1n << 7n;

/** Bits 51:12 of a 64-bit entry, bits 31:12 of a 32-bit one. */
const ADDRESS_64 = 0x000f_ffff_ffff_f000n;
const ADDRESS_32 = 0xffff_f000n;

/** Flag bits in the order in which they are printed (SDM vol. 3A, tables 4-15 to 4-20). */
const FLAGS: readonly (readonly [bit: bigint, name: string])[] = [
  [0n, "P"],
  [1n, "W"],
  [2n, "U"],
  [5n, "A"],
  [6n, "D"],
  [7n, "PS"],
  [8n, "G"],
  [63n, "NX"],
];

interface Level {
  readonly name: string;
  /** Lowest bit of the linear address that selects the entry, and how many bits. */
  readonly shift: bigint;
  readonly bits: bigint;
  /** Whether bit 7 of the entry may say that it maps a page itself. */
  readonly large: boolean;
}

interface Format {
  readonly entrySize: 4 | 8;
  readonly root: bigint;
  readonly levels: readonly Level[];
}

const LEVELS_64: readonly Level[] = [
  { name: "PML5E", shift: 48n, bits: 9n, large: false },
  { name: "PML4E", shift: 39n, bits: 9n, large: false },
  { name: "PDPTE", shift: 30n, bits: 9n, large: true },
  { name: "PDE", shift: 21n, bits: 9n, large: true },
  { name: "PTE", shift: 12n, bits: 9n, large: false },
];
const LEVELS_PAE: readonly Level[] = [
  { name: "PDPTE", shift: 30n, bits: 2n, large: false },
  { name: "PDE", shift: 21n, bits: 9n, large: true },
  { name: "PTE", shift: 12n, bits: 9n, large: false },
];

/** A line a level; the last says what came of it. */
export function walkPageTables(guestMemory: GuestMemory, sregs: Sregs, linear: bigint): string[] {
  if ((sregs.cr0 & CR0_PG) === 0n) return ["paging is off"];
  const format = pagingFormat(sregs);
  const lines: string[] = [];
  let table = format.root;
  for (const level of format.levels) {
    const index = (linear >> level.shift) & ((1n << level.bits) - 1n);
    const address = table + index * BigInt(format.entrySize);
    const where = `${level.name.padEnd(5)} [${index.toString(16).padStart(3, "0")}] at ${address.toString(16)}`;
    if (!guestMemory.contains(Number(address), format.entrySize)) {
      return [...lines, `${where}: outside of RAM`];
    }
    const entry =
      format.entrySize === 8
        ? guestMemory.readU64(gpa(Number(address)))
        : BigInt(guestMemory.readU32(gpa(Number(address))));
    lines.push(`${where}: ${entry.toString(16).padStart(format.entrySize * 2, "0")} ${flags(entry)}`);
    if ((entry & ENTRY_PRESENT) === 0n) return [...lines, "not present"];
    const next = entry & (format.entrySize === 8 ? ADDRESS_64 : ADDRESS_32);
    if (level.shift === 12n || (level.large && (entry & ENTRY_PAGE_SIZE) !== 0n)) {
      return [...lines, `physical ${physical(entry, next, linear, level, format).toString(16)}`];
    }
    table = next;
  }
  return lines;
}

function pagingFormat({ cr3, cr4, efer }: Sregs): Format {
  if ((efer & EFER_LMA) !== 0n) {
    const levels = (cr4 & CR4_LA57) !== 0n ? LEVELS_64 : LEVELS_64.slice(1);
    return { entrySize: 8, root: cr3 & ADDRESS_64, levels };
  }
  // With PAE, CR3 points at a table of four entries, aligned to 32 bytes (SDM vol. 3A, 4.4.1).
  if ((cr4 & CR4_PAE) !== 0n) return { entrySize: 8, root: cr3 & 0xffff_ffe0n, levels: LEVELS_PAE };
  const levels: readonly Level[] = [
    { name: "PDE", shift: 22n, bits: 10n, large: (cr4 & CR4_PSE) !== 0n },
    { name: "PTE", shift: 12n, bits: 10n, large: false },
  ];
  return { entrySize: 4, root: cr3 & ADDRESS_32, levels };
}

function physical(entry: bigint, next: bigint, linear: bigint, level: Level, format: Format): bigint {
  const mask = (1n << level.shift) - 1n;
  let frame = next & ~mask;
  // PSE-36: bits 20:13 of a 4 MiB entry are bits 39:32 of the address (SDM vol. 3A, table 4-4).
  if (format.entrySize === 4 && level.shift === 22n) frame |= ((entry >> 13n) & 0xffn) << 32n;
  return frame | (linear & mask);
}

function flags(entry: bigint): string {
  return FLAGS.filter(([bit]) => ((entry >> bit) & 1n) !== 0n)
    .map(([, name]) => name)
    .join(" ");
}
