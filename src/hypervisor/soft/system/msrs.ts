/** Model-specific registers (SDM vol. 4, chapter 2), as a table of those that are plain storage, and the rest. */

import type { IrqChip } from "../irqchip/irqchip.js";
import { KvmClock } from "../irqchip/kvmclock.js";
import { MAX_PHYSICAL_BITS } from "../mmu/walk.js";
import { Cr0, Efer, Seg, type VcpuState } from "../vcpu-state.js";
import { cr0Of } from "./mode.js";

export const Msr = {
  TSC: 0x10,
  PLATFORM_ID: 0x17,
  APIC_BASE: 0x1b,
  SMI_COUNT: 0x34,
  TSC_ADJUST: 0x3b,
  SPEC_CTRL: 0x48,
  PRED_CMD: 0x49,
  MICROCODE: 0x8b,
  PLATFORM_INFO: 0xce,
  MTRR_CAP: 0xfe,
  ARCH_CAPABILITIES: 0x10a,
  MISC_FEATURES: 0x140,
  SYSENTER_CS: 0x174,
  SYSENTER_ESP: 0x175,
  SYSENTER_EIP: 0x176,
  MCG_CAP: 0x179,
  MCG_STATUS: 0x17a,
  MISC_ENABLE: 0x1a0,
  MTRR_PHYS_BASE0: 0x200,
  MTRR_PHYS_LAST: 0x20f,
  MTRR_FIX64K: 0x250,
  PAT: 0x277,
  MTRR_DEF_TYPE: 0x2ff,
  TSC_DEADLINE: 0x6e0,
  EFER: 0xc0000080,
  STAR: 0xc0000081,
  LSTAR: 0xc0000082,
  CSTAR: 0xc0000083,
  FMASK: 0xc0000084,
  FS_BASE: 0xc0000100,
  GS_BASE: 0xc0000101,
  KERNEL_GS_BASE: 0xc0000102,
  TSC_AUX: 0xc0000103,
} as const;

/** MTRRs of fixed ranges, in the order in which they are stored. */
const MTRR_FIXED = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
const VARIABLE_MTRRS = 8;
/** IA32_MTRRCAP: 8 variable ranges, fixed ranges, write-combining. */
const MTRR_CAP_VALUE = BigInt(VARIABLE_MTRRS | (1 << 8) | (1 << 10));

/**
 * IA32_ARCH_CAPABILITIES: this CPU does not speculate. RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO,
 * IF_PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO.
 */
const ARCH_CAPABILITIES_VALUE = [0, 1, 3, 4, 5, 6, 8, 13, 14, 15, 20, 24, 26, 27, 62].reduce(
  (value, bit) => value | (1n << BigInt(bit)),
  0n,
);
/** IA32_SPEC_CTRL: IBRS, STIBP, SSBD and BHI_DIS_S, all without effect here. */
const SPEC_CTRL_WRITABLE = 7n | (1n << 10n);
/** The microcode revision that software reads in the high half of IA32_BIOS_SIGN_ID. */
const MICROCODE_VALUE = 0x1dn << 32n;
/** IA32_MISC_ENABLE as reset leaves it: fast strings; BTS and PEBS unavailable. */
const MISC_ENABLE_RESET = 1n | (1n << 11n) | (1n << 12n);

const isCanonical = (value: bigint) => BigInt.asUintN(64, BigInt.asIntN(48, value)) === value;
const isMemoryType = (type: bigint) =>
  type === 0n || type === 1n || type === 4n || type === 5n || type === 6n;

/** IA32_MTRR_PHYSBASEn and IA32_MTRR_PHYSMASKn without reserved bits (SDM vol. 3A, 12.11.2.3). */
const isMtrrBase = (value: bigint) =>
  value >> BigInt(MAX_PHYSICAL_BITS) === 0n && (value & 0xf00n) === 0n && isMemoryType(value & 0xffn);
const isMtrrMask = (value: bigint) => value >> BigInt(MAX_PHYSICAL_BITS) === 0n && (value & 0x7ffn) === 0n;

type Field =
  | "sysenterCs"
  | "sysenterEsp"
  | "sysenterEip"
  | "pat"
  | "star"
  | "lstar"
  | "cstar"
  | "fmask"
  | "kernelGsBase"
  | "tscAux"
  | "mtrrDefType"
  | "miscEnable"
  | "mcgStatus"
  | "specCtrl";

interface StoredMsr {
  readonly field: Field;
  /** Whether a value may be written; any where left out. */
  readonly valid?: (value: bigint) => boolean;
}

/** Eight PAT entries: types 0, 1, 4–7 each (SDM vol. 3A, 12.12.2). */
function validPat(value: bigint): boolean {
  for (let i = 0n; i < 8n; i++) {
    const type = (value >> (8n * i)) & 0xffn;
    if (type > 7n || type === 2n || type === 3n) return false;
  }
  return true;
}

const STORED: ReadonlyMap<number, StoredMsr> = new Map<number, StoredMsr>([
  [Msr.SYSENTER_CS, { field: "sysenterCs" }],
  [Msr.SYSENTER_ESP, { field: "sysenterEsp", valid: isCanonical }],
  [Msr.SYSENTER_EIP, { field: "sysenterEip", valid: isCanonical }],
  [Msr.PAT, { field: "pat", valid: validPat }],
  [Msr.STAR, { field: "star" }],
  [Msr.LSTAR, { field: "lstar", valid: isCanonical }],
  [Msr.CSTAR, { field: "cstar", valid: isCanonical }],
  [Msr.FMASK, { field: "fmask", valid: (v) => v >> 32n === 0n }],
  [Msr.KERNEL_GS_BASE, { field: "kernelGsBase", valid: isCanonical }],
  [Msr.TSC_AUX, { field: "tscAux", valid: (v) => v >> 32n === 0n }],
  [
    Msr.MTRR_DEF_TYPE,
    { field: "mtrrDefType", valid: (v) => (v & ~0xcffn) === 0n && isMemoryType(v & 0xffn) },
  ],
  [Msr.MISC_ENABLE, { field: "miscEnable" }],
  [Msr.MCG_STATUS, { field: "mcgStatus" }],
  [Msr.SPEC_CTRL, { field: "specCtrl", valid: (v) => (v & ~SPEC_CTRL_WRITABLE) === 0n }],
]);

/** Read-only or without effect: value read, and whether writing is allowed (and ignored). */
const FIXED: ReadonlyMap<number, readonly [value: bigint, writable: boolean]> = new Map([
  [Msr.PLATFORM_ID, [0n, false]],
  [Msr.SMI_COUNT, [0n, false]],
  [Msr.MICROCODE, [MICROCODE_VALUE, true]],
  [Msr.PLATFORM_INFO, [0n, false]],
  [Msr.MTRR_CAP, [MTRR_CAP_VALUE, false]],
  [Msr.ARCH_CAPABILITIES, [ARCH_CAPABILITIES_VALUE, false]],
  [Msr.MISC_FEATURES, [0n, true]],
  [Msr.MCG_CAP, [0n, false]],
] as const);

const EFER_WRITABLE = BigInt(Efer.SCE | Efer.LME | Efer.NXE);

export class Msrs {
  constructor(
    readonly s: VcpuState,
    readonly id: number,
    readonly irqchip: IrqChip,
    readonly kvmClock: KvmClock,
    /** TSC without the vCPU's offset. */
    readonly ticks: () => bigint,
    /** EFER.NXE or a segment base changed what translated addresses and TLB entries rest on. */
    readonly onPagingChange: () => void,
    /** The TSC offset changed. */
    readonly onTscChange: () => void,
  ) {}

  reset(): void {
    this.s.miscEnable = MISC_ENABLE_RESET;
    this.s.pat = 0x0007040600070406n;
    this.s.mtrrDefType = 0n;
    this.s.mtrrFixed.fill(0n);
    this.s.mtrrVariable.fill(0n);
  }

  /** Undefined: #GP(0). `index` is unsigned. */
  read(index: number): bigint | undefined {
    const { s } = this;
    if (this.irqchip.claimsMsr(index)) return this.irqchip.readMsr(this.id, index);
    const stored = STORED.get(index);
    if (stored !== undefined) return s[stored.field];
    const fixed = FIXED.get(index);
    if (fixed !== undefined) return fixed[0];
    if (KvmClock.claimsMsr(index)) return this.kvmClock.readMsr(this.id, index);
    switch (index) {
      case Msr.TSC:
        return BigInt.asUintN(64, this.ticks() + s.tscOffset);
      case Msr.TSC_ADJUST:
        return s.tscAdjust;
      case Msr.EFER:
        return s.efer;
      case Msr.FS_BASE:
        return s.segBase[Seg.FS];
      case Msr.GS_BASE:
        return s.segBase[Seg.GS];
    }
    const fixedRange = MTRR_FIXED.indexOf(index);
    if (fixedRange >= 0) return s.mtrrFixed[fixedRange];
    if (index >= Msr.MTRR_PHYS_BASE0 && index <= Msr.MTRR_PHYS_LAST)
      return s.mtrrVariable[index - Msr.MTRR_PHYS_BASE0];
    return undefined;
  }

  /** False: #GP(0). */
  write(index: number, value: bigint): boolean {
    const { s } = this;
    if (this.irqchip.claimsMsr(index)) return this.irqchip.writeMsr(this.id, index, value);
    const stored = STORED.get(index);
    if (stored !== undefined) {
      if (stored.valid?.(value) === false) return false;
      s[stored.field] = value;
      return true;
    }
    const fixed = FIXED.get(index);
    if (fixed !== undefined) return fixed[1];
    if (KvmClock.claimsMsr(index)) {
      this.kvmClock.writeMsr(this.id, index, value);
      return true;
    }
    switch (index) {
      case Msr.TSC:
        return this.#moveTsc(value - BigInt.asUintN(64, this.ticks() + s.tscOffset));
      case Msr.TSC_ADJUST:
        return this.#moveTsc(value - s.tscAdjust);
      case Msr.PRED_CMD:
        return value <= 1n;
      case Msr.EFER:
        return this.writeEfer(value);
      case Msr.FS_BASE:
      case Msr.GS_BASE:
        if (!isCanonical(value)) return false;
        s.segBase[index === Msr.FS_BASE ? Seg.FS : Seg.GS] = value;
        return true;
    }
    const fixedRange = MTRR_FIXED.indexOf(index);
    if (fixedRange >= 0) {
      for (let i = 0n; i < 64n; i += 8n) if (!isMemoryType((value >> i) & 0xffn)) return false;
      s.mtrrFixed[fixedRange] = value;
      return true;
    }
    if (index >= Msr.MTRR_PHYS_BASE0 && index <= Msr.MTRR_PHYS_LAST) {
      // Bases at even numbers, masks at odd ones.
      if (!((index & 1) === 0 ? isMtrrBase(value) : isMtrrMask(value))) return false;
      s.mtrrVariable[index - Msr.MTRR_PHYS_BASE0] = value;
      return true;
    }
    return false;
  }

  #moveTsc(delta: bigint): boolean {
    const { s } = this;
    s.tscOffset = BigInt.asUintN(64, s.tscOffset + delta);
    s.tscAdjust = BigInt.asUintN(64, s.tscAdjust + delta);
    this.onTscChange();
    return true;
  }

  /** SDM vol. 3A, 2.2.1; LME cannot change while paging is on (vol. 3A, 4.1.2). */
  writeEfer(value: bigint): boolean {
    const { s } = this;
    const lma = BigInt(Efer.LMA);
    if ((value & ~(EFER_WRITABLE | lma)) !== 0n) return false;
    const changed = (value ^ s.efer) & EFER_WRITABLE;
    if ((changed & BigInt(Efer.LME)) !== 0n && (cr0Of(s) & Cr0.PG) !== 0) return false;
    s.efer = (value & EFER_WRITABLE) | (s.efer & lma);
    if ((changed & BigInt(Efer.NXE)) !== 0n) this.onPagingChange();
    return true;
  }
}
