/**
 * CPUID where KVM has no hardware virtualization under it and the software CPU steps in for what KVM's instruction emulator does
 * not know: the guest gets no feature that the software CPU has not.
 */
import type { CpuidEntry } from "../seam.js";
import { softCpuid } from "../soft/system/cpuid.js";

const REGISTERS = ["eax", "ebx", "ecx", "edx"] as const;
type Register = (typeof REGISTERS)[number];

/** Words that are sets of features, by leaf and index. */
const FEATURE_WORDS: readonly { fn: number; index: number; registers: readonly Register[] }[] = [
  { fn: 0x1, index: 0, registers: ["ecx", "edx"] },
  { fn: 0x7, index: 0, registers: ["ebx", "ecx", "edx"] },
  { fn: 0x80000001, index: 0, registers: ["ecx", "edx"] },
];

/** Leaves of features that the software CPU has none of: leaf 7's further words, XSAVE, trace, tiles, AVX10. */
const ABSENT_LEAVES = [0xd, 0x14, 0x19, 0x1d, 0x1e, 0x24];

const LEAF_1 = 0x1;
/** Bits of leaf 1's ECX that are KVM's own and no instructions: x2APIC, TSC-deadline, hypervisor. */
const KEPT_LEAF_1_ECX = (1 << 21) | (1 << 24) | (1 << 31);
/** Leaf 7, EAX: the highest index. */
const LEAF_7 = 0x7;

export function softSubset(offered: readonly CpuidEntry[]): CpuidEntry[] {
  const soft = softCpuid(0, 1);
  return offered
    .filter(({ function: fn, index }) => !ABSENT_LEAVES.includes(fn) && !(fn === LEAF_7 && index > 0))
    .map((entry) => {
      const words = FEATURE_WORDS.find(({ fn, index }) => fn === entry.function && index === entry.index);
      if (words === undefined) return entry;
      const has = soft.find(({ function: fn, index }) => fn === entry.function && index === entry.index);
      const result = { ...entry };
      for (const register of words.registers) {
        const kept = entry.function === LEAF_1 && register === "ecx" ? KEPT_LEAF_1_ECX : 0;
        result[register] = (entry[register] & ((has?.[register] ?? 0) | kept)) >>> 0;
      }
      if (entry.function === LEAF_7) result.eax = 0;
      return result;
    });
}
