/**
 * CPUID for guests on KVM: what the host's KVM supports (KVM_GET_SUPPORTED_CPUID), with the topology of the machine in place of
 * the host's (SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E).
 */
import type { CpuidEntry } from "../seam.js";

const Leaf = {
  FEATURES: 0x1,
  CACHES: 0x4,
  TOPOLOGY: 0xb,
  TOPOLOGY_V2: 0x1f,
  EXTENDED_FEATURES: 0x80000001,
  SIZES: 0x80000008,
  AMD_CACHES: 0x8000001d,
  AMD_TOPOLOGY: 0x8000001e,
  AMD_TOPOLOGY_V2: 0x80000026,
} as const;

/** Leaf 1, ECX. */
const TSC_DEADLINE = 1 << 24;
const HYPERVISOR = 1 << 31;
/** Leaf 1, EDX: EBX[23:16] counts logical processors. */
const HTT = 1 << 28;
/** Leaf 0x80000001, ECX: several cores (CmpLegacy), and leaves 0x8000001D and 0x8000001E. */
const CMP_LEGACY = 1 << 1;
const TOPOLOGY_EXTENSIONS = 1 << 22;

/** Leaf 0xB: types of level. */
const LEVEL_SMT = 1;
const LEVEL_CORE = 2;

/** Leaf 4, EAX: what is left where cores per package and threads per cache are taken away. */
const CACHE_KIND = 0x3fff;
const CACHE_LEVEL_SHIFT = 5;
const CORES_SHIFT = 26;
const SHARING_SHIFT = 14;
const MAX_CORES_FIELD = 0x3f;

const LEVEL_OF_PACKAGE_CACHE = 3;

/** Bits of an APIC ID that number `cpus` processors. */
function idBits(cpus: number): number {
  return Math.ceil(Math.log2(cpus));
}

/**
 * The leaves of a machine of `cpus` vCPUs, each a core of one thread in one package. What differs between vCPUs (APIC IDs) is
 * that of vCPU 0. `tscDeadline`: KVM has the APIC timer's TSC-deadline mode, which KVM_GET_SUPPORTED_CPUID never tells.
 */
export function machineCpuid(
  supported: readonly CpuidEntry[],
  cpus: number,
  tscDeadline: boolean,
): CpuidEntry[] {
  const result = supported
    .filter(({ function: fn }) => !isRebuilt(fn))
    .map((entry) => adapt(entry, cpus, tscDeadline));
  if (supported.some(({ function: fn }) => fn === Leaf.TOPOLOGY)) result.push(...topology(cpus));
  return result;
}

/** Leaves that only tell of topology. */
function isRebuilt(fn: number): boolean {
  return (
    fn === Leaf.TOPOLOGY ||
    fn === Leaf.TOPOLOGY_V2 ||
    fn === Leaf.AMD_CACHES ||
    fn === Leaf.AMD_TOPOLOGY ||
    fn === Leaf.AMD_TOPOLOGY_V2
  );
}

function adapt(entry: CpuidEntry, cpus: number, tscDeadline: boolean): CpuidEntry {
  const { function: fn, eax, ebx, ecx, edx } = entry;
  const several = cpus > 1;
  switch (fn) {
    case Leaf.FEATURES:
      return {
        ...entry,
        ebx: ((ebx & 0xff00) | (Math.min(cpus, 0xff) << 16)) >>> 0,
        ecx: (ecx | HYPERVISOR | (tscDeadline ? TSC_DEADLINE : 0)) >>> 0,
        edx: (several ? edx | HTT : edx & ~HTT) >>> 0,
      };
    case Leaf.CACHES: {
      if ((eax & 0x1f) === 0) return entry;
      const shared = ((eax >> CACHE_LEVEL_SHIFT) & 7) >= LEVEL_OF_PACKAGE_CACHE;
      const sharing = shared ? Math.min(cpus - 1, 0xfff) : 0;
      const cores = Math.min((1 << idBits(cpus)) - 1, MAX_CORES_FIELD);
      return {
        ...entry,
        eax: ((eax & CACHE_KIND) | (sharing << SHARING_SHIFT) | (cores << CORES_SHIFT)) >>> 0,
      };
    }
    case Leaf.EXTENDED_FEATURES: {
      const cleared = ecx & ~(CMP_LEGACY | TOPOLOGY_EXTENSIONS);
      // CmpLegacy is an AMD bit; on an Intel CPU it is reserved. Who has the topology extensions is an AMD.
      const amd = (ecx & (CMP_LEGACY | TOPOLOGY_EXTENSIONS)) !== 0;
      return { ...entry, ecx: (amd && several ? cleared | CMP_LEGACY : cleared) >>> 0 };
    }
    case Leaf.SIZES:
      // ECX: NC, cores less one, and ApicIdSize; zero on Intel.
      return { ...entry, ecx: ecx === 0 ? 0 : Math.min(cpus - 1, 0xff) | (idBits(cpus) << 12) };
    default:
      return entry;
  }
}

function topology(cpus: number): CpuidEntry[] {
  const level = (index: number, type: number, shift: number, count: number): CpuidEntry => ({
    function: Leaf.TOPOLOGY,
    index,
    significantIndex: true,
    eax: shift,
    ebx: count,
    ecx: index | (type << 8),
    edx: 0,
  });
  return [level(0, LEVEL_SMT, 0, 1), level(1, LEVEL_CORE, idBits(cpus), cpus), level(2, 0, 0, 0)];
}
