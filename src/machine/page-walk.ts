/** The walk of the guest's page tables for one linear address, as text, level by level (SDM vol. 3A, chapter 4). */
import { pagingIsOn, walkSteps } from "../hypervisor/page-walk.js";
import type { Sregs } from "../hypervisor/seam.js";
import type { GuestMemory } from "../memory/guest-memory.js";

const ENTRY_PRESENT = 1n;

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

/** A line a level; the last says what came of it. */
export function walkPageTables(guestMemory: GuestMemory, sregs: Sregs, linear: bigint): string[] {
  if (!pagingIsOn(sregs)) return ["paging is off"];
  const lines: string[] = [];
  for (const { name, index, address, size, entry, physical } of walkSteps(guestMemory, sregs, linear)) {
    const where = `${name.padEnd(5)} [${index.toString(16).padStart(3, "0")}] at ${address.toString(16)}`;
    if (entry === undefined) return [...lines, `${where}: outside of RAM`];
    lines.push(`${where}: ${entry.toString(16).padStart(size * 2, "0")} ${flags(entry)}`);
    if ((entry & ENTRY_PRESENT) === 0n) return [...lines, "not present"];
    if (physical !== undefined) return [...lines, `physical ${physical.toString(16)}`];
  }
  return lines;
}

function flags(entry: bigint): string {
  return FLAGS.filter(([bit]) => ((entry >> bit) & 1n) !== 0n)
    .map(([, name]) => name)
    .join(" ");
}
