/** The guest's page tables for one linear address (SDM vol. 3A, chapter 4), followed in memory: no rights, no side effects. */
import { type GuestMemory, gpa } from "../memory/guest-memory.js";
import type { Sregs } from "./seam.js";

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

/** A level of the walk. */
export interface WalkStep {
  readonly name: string;
  readonly index: bigint;
  /** The entry's guest-physical address, and how many bytes it has. */
  readonly address: bigint;
  readonly size: 4 | 8;
  /** Undefined where there is no RAM. */
  readonly entry: bigint | undefined;
  /** Where this entry maps the address to; undefined where it does not. */
  readonly physical: bigint | undefined;
}

export const pagingIsOn = (sregs: Sregs) => (sregs.cr0 & CR0_PG) !== 0n;

/** Where paging is on: the steps, up to the one that maps the address or that it ends at. */
export function* walkSteps(
  guestMemory: GuestMemory,
  sregs: Sregs,
  linear: bigint,
): Generator<WalkStep, void, undefined> {
  const format = pagingFormat(sregs);
  const size = format.entrySize;
  let table = format.root;
  for (const level of format.levels) {
    const index = (linear >> level.shift) & ((1n << level.bits) - 1n);
    const address = table + index * BigInt(size);
    const step = { name: level.name, index, address, size };
    if (!guestMemory.contains(Number(address), size)) {
      yield { ...step, entry: undefined, physical: undefined };
      return;
    }
    const at = gpa(Number(address));
    const entry = size === 8 ? guestMemory.readU64(at) : BigInt(guestMemory.readU32(at));
    const present = (entry & ENTRY_PRESENT) !== 0n;
    const next = entry & (size === 8 ? ADDRESS_64 : ADDRESS_32);
    const last = level.shift === 12n || (level.large && (entry & ENTRY_PAGE_SIZE) !== 0n);
    yield {
      ...step,
      entry,
      physical: present && last ? physical(entry, next, linear, level, format) : undefined,
    };
    if (!present || last) return;
    table = next;
  }
}

/** Guest-physical address of `linear`; undefined where it is not mapped. */
export function translateLinear(guestMemory: GuestMemory, sregs: Sregs, linear: bigint): number | undefined {
  if (!pagingIsOn(sregs)) return Number(BigInt.asUintN(32, linear));
  if ((sregs.efer & EFER_LMA) === 0n) linear = BigInt.asUintN(32, linear);
  else if (!isCanonical(linear, sregs)) return undefined;
  let found: bigint | undefined;
  for (const { physical } of walkSteps(guestMemory, sregs, linear)) found = physical;
  return found === undefined ? undefined : Number(found);
}

/** SDM vol. 1, 3.3.7.1. */
function isCanonical(linear: bigint, { cr4 }: Sregs): boolean {
  const width = (cr4 & CR4_LA57) !== 0n ? 57 : 48;
  return BigInt.asUintN(64, BigInt.asIntN(width, linear)) === BigInt.asUintN(64, linear);
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
