/**
 * CPUID of the software CPU, as a table: the x86-64-v2 level, and what spares a guest calibration and work-arounds (SDM
 * vol. 2, CPUID; Linux, Documentation/virt/kvm/x86/cpuid.rst for 0x40000000).
 */
import type { CpuidEntry } from "../../seam.js";
import { MAX_PHYSICAL_BITS } from "../mmu/walk.js";

/** Sets the bits of `names` in a feature word declared as name → bit. */
function bits<T extends Record<string, number>>(word: T, ...names: (keyof T)[]): number {
  return names.reduce((value, name) => (value | (1 << word[name])) >>> 0, 0);
}

const LEAF1_EDX = {
  FPU: 0,
  VME: 1,
  DE: 2,
  PSE: 3,
  TSC: 4,
  MSR: 5,
  PAE: 6,
  MCE: 7,
  CX8: 8,
  APIC: 9,
  SEP: 11,
  MTRR: 12,
  PGE: 13,
  MCA: 14,
  CMOV: 15,
  PAT: 16,
  PSE36: 17,
  CLFSH: 19,
  MMX: 23,
  FXSR: 24,
  SSE: 25,
  SSE2: 26,
  SS: 27,
};
const LEAF1_ECX = {
  SSE3: 0,
  PCLMULQDQ: 1,
  MONITOR: 3,
  SSSE3: 9,
  CX16: 13,
  PCID: 17,
  SSE41: 19,
  SSE42: 20,
  X2APIC: 21,
  MOVBE: 22,
  POPCNT: 23,
  TSC_DEADLINE: 24,
  AES: 25,
  XSAVE: 26,
  OSXSAVE: 27,
  AVX: 28,
  RDRAND: 30,
  HYPERVISOR: 31,
};
const LEAF7_EBX = { FSGSBASE: 0, TSC_ADJUST: 1, SMEP: 7, ERMS: 9, INVPCID: 10, RDSEED: 18, SMAP: 20 };
const LEAF7_ECX = { UMIP: 2, RDPID: 22 };
/** Subleaf 2. */
const LEAF7_2_EDX = { BHI_CTRL: 4 };
const LEAF7_EDX = {
  FSRM: 4,
  SERIALIZE: 14,
  MD_CLEAR: 10,
  SPEC_CTRL: 26,
  STIBP: 27,
  ARCH_CAPABILITIES: 29,
  SSBD: 31,
};
const EXTENDED1_EDX = { SYSCALL: 11, NX: 20, PAGE1GB: 26, RDTSCP: 27, LM: 29 };
const EXTENDED1_ECX = { LAHF: 0 };
const ADVANCED_POWER_EDX = { INVARIANT_TSC: 8 };
/** KVM_FEATURE_*. */
const KVM_FEATURES = {
  CLOCKSOURCE: 0,
  NOP_IO_DELAY: 1,
  CLOCKSOURCE2: 3,
  PV_UNHALT: 7,
  CLOCKSOURCE_STABLE_BIT: 24,
};

/** Family 6, model 26, stepping 3: of the generation whose instruction set is x86-64-v2. */
const SIGNATURE = 0x000106a3;
const BRAND = "NLKT software CPU";
const CLFLUSH_UNITS = 8;
export const TSC_HZ = 1_000_000_000;

/** Four characters as CPUID returns them in a register. */
function word(text: string, at: number): number {
  let value = 0;
  for (let i = 0; i < 4; i++) value |= (text.charCodeAt(at + i) || 0) << (8 * i);
  return value >>> 0;
}

function leaf(fn: number, eax: number, ebx: number, ecx: number, edx: number, index?: number): CpuidEntry {
  return { function: fn >>> 0, index: index ?? 0, significantIndex: index !== undefined, eax, ebx, ecx, edx };
}

const VENDOR = "GenuineIntel";
const KVM_SIGNATURE = "KVMKVMKVM\0\0\0";

/**
 * The leaves for vCPU `id` of `count`. `lessCores`: the host has fewer cores, so that the guest's spin locks had better sleep
 * (KVM_FEATURE_PV_UNHALT); where each vCPU has a core, that would only make each unlock slower.
 */
export function softCpuid(id: number, count: number, { lessCores = false } = {}): CpuidEntry[] {
  const brand = BRAND.padEnd(48, "\0");
  const logical = Math.min(count, 255);
  const idBits = Math.ceil(Math.log2(Math.max(count, 1)));
  return [
    leaf(0, 0x16, word(VENDOR, 0), word(VENDOR, 8), word(VENDOR, 4)),
    leaf(
      1,
      SIGNATURE,
      ((id & 0xff) << 24) | (logical << 16) | (CLFLUSH_UNITS << 8),
      bits(
        LEAF1_ECX,
        "SSE3",
        "PCLMULQDQ",
        "SSSE3",
        "CX16",
        "SSE41",
        "SSE42",
        "X2APIC",
        "POPCNT",
        "TSC_DEADLINE",
        "AES",
        "RDRAND",
        "HYPERVISOR",
      ),
      bits(
        LEAF1_EDX,
        "FPU",
        "DE",
        "PSE",
        "TSC",
        "MSR",
        "PAE",
        "MCE",
        "CX8",
        "APIC",
        "SEP",
        "MTRR",
        "PGE",
        "MCA",
        "CMOV",
        "PAT",
        "PSE36",
        "CLFSH",
        "MMX",
        "FXSR",
        "SSE",
        "SSE2",
      ),
    ),
    leaf(2, 0x00feff01, 0, 0, 0),
    // Deterministic cache parameters: 32 KiB L1 data and instruction, 1 MiB L2, as plain caches of one core each.
    leaf(4, 0x00000121, 0x01c0003f, 63, 0, 0),
    leaf(4, 0x00000122, 0x01c0003f, 63, 0, 1),
    leaf(4, 0x00000143, 0x03c0003f, 1023, 0, 2),
    leaf(4, 0, 0, 0, 0, 3),
    leaf(5, 0, 0, 0, 0),
    leaf(6, 1 << 2, 0, 0, 0),
    leaf(
      7,
      2,
      bits(LEAF7_EBX, "FSGSBASE", "TSC_ADJUST", "SMEP", "ERMS", "INVPCID", "RDSEED", "SMAP"),
      bits(LEAF7_ECX, "UMIP", "RDPID"),
      bits(LEAF7_EDX, "FSRM", "SERIALIZE", "MD_CLEAR", "SPEC_CTRL", "STIBP", "ARCH_CAPABILITIES", "SSBD"),
      0,
    ),
    leaf(7, 0, 0, 0, 0, 1),
    // Linux takes every guest for open to branch history injection. Without this it clears the history with a loop of some
    // 150 instructions at each system call.
    leaf(7, 0, 0, 0, bits(LEAF7_2_EDX, "BHI_CTRL"), 2),
    leaf(0xa, 0, 0, 0, 0),
    // Extended topology: one thread a core, `count` cores a package.
    leaf(0xb, 0, 1, 0x100, id, 0),
    leaf(0xb, idBits, count, 0x201, id, 1),
    leaf(0xb, 0, 0, 2, id, 2),
    // TSC = crystal × 1/1, crystal at 1 GHz.
    leaf(0x15, 1, 1, TSC_HZ, 0),
    leaf(0x16, 1000, 1000, 100, 0),
    leaf(0x40000000, 0x40000001, word(KVM_SIGNATURE, 0), word(KVM_SIGNATURE, 4), word(KVM_SIGNATURE, 8)),
    leaf(
      0x40000001,
      bits(
        KVM_FEATURES,
        "CLOCKSOURCE",
        "NOP_IO_DELAY",
        "CLOCKSOURCE2",
        "CLOCKSOURCE_STABLE_BIT",
        ...(lessCores ? (["PV_UNHALT"] as const) : []),
      ),
      0,
      0,
      0,
    ),
    leaf(0x80000000, 0x80000008, 0, 0, 0),
    leaf(
      0x80000001,
      0,
      0,
      bits(EXTENDED1_ECX, "LAHF"),
      bits(EXTENDED1_EDX, "SYSCALL", "NX", "PAGE1GB", "RDTSCP", "LM"),
    ),
    ...[0, 1, 2].map((i) =>
      leaf(
        0x80000002 + i,
        word(brand, 16 * i),
        word(brand, 16 * i + 4),
        word(brand, 16 * i + 8),
        word(brand, 16 * i + 12),
      ),
    ),
    leaf(0x80000006, 0, 0, 0x04006040, 0),
    leaf(0x80000007, 0, 0, 0, bits(ADVANCED_POWER_EDX, "INVARIANT_TSC")),
    leaf(0x80000008, (48 << 8) | MAX_PHYSICAL_BITS, 0, 0, 0),
  ];
}
