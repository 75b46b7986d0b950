/** What follows from control registers, EFLAGS and segments: code mode, stack width, TLBs in use, FPU availability. */

import type { SharedMemory } from "../../../memory/shared-memory.js";
import {
  Access,
  CodeMode,
  Cr0,
  Cr4,
  DTLB_BYTES,
  DTLB_EMPTY_SET,
  Efer,
  Eflags,
  FpuTrap,
  FTLB_BYTES,
  FTLB_OFFSET,
  MmuMode,
  Seg,
  TLB_OFFSET,
  type VcpuState,
} from "../vcpu-state.js";

export const cr0Of = (s: VcpuState) => Number(s.cr0 & 0xffffffffn);
export const cr4Of = (s: VcpuState) => Number(s.cr4 & 0xffffffffn);
export const isProtected = (s: VcpuState) => (cr0Of(s) & Cr0.PE) !== 0;
export const isVirtual8086 = (s: VcpuState) => (s.eflags & Eflags.VM) !== 0;
export const isLongModeActive = (s: VcpuState) => (Number(s.efer & 0xffffn) & Efer.LMA) !== 0;
/** Real or virtual-8086 mode: segments are selector × 16. */
export const isRealStyle = (s: VcpuState) => !isProtected(s) || isVirtual8086(s);
export const ioplOf = (s: VcpuState) => (s.eflags >> 12) & 3;

/** Whether data accesses are checked for alignment (SDM vol. 3A, 6.15, interrupt 17). */
export const checksAlignment = (s: VcpuState) =>
  s.cpl === 3 && (s.eflags & Eflags.AC) !== 0 && (cr0Of(s) & Cr0.AM) !== 0;

/** To be called after any change of CR0, CR4, EFER, EFLAGS.AC/VM, CPL, CS, SS or DR7. */
export function updateMode(s: VcpuState, memory: SharedMemory): void {
  const cr0 = cr0Of(s);
  const cr4 = cr4Of(s);
  const csAccess = s.segAccess[Seg.CS];
  let mode: number = CodeMode.REAL16;
  if (isProtected(s) && !isVirtual8086(s)) {
    if (isLongModeActive(s) && (csAccess & Access.L) !== 0) mode = CodeMode.LONG64;
    else if ((csAccess & Access.DB) !== 0) mode = CodeMode.LEGACY32;
  }
  if (mode !== s.codeMode) {
    s.codeMode = mode;
    // Fetch TLB entries lead to code decoded in the old mode.
    const start = s.address + FTLB_OFFSET;
    memory.u8.fill(0xff, start, start + 2 * FTLB_BYTES);
  }
  s.spMask =
    mode === CodeMode.LONG64
      ? 0xffff_ffff_ffff_ffffn
      : (s.segAccess[Seg.SS] & Access.DB) !== 0
        ? 0xffff_ffffn
        : 0xffffn;
  const accessControl = (s.eflags & Eflags.AC) !== 0;
  const mmuMode =
    s.cpl === 3
      ? MmuMode.USER
      : (cr4 & Cr4.SMAP) !== 0 && !accessControl
        ? MmuMode.SUPERVISOR
        : MmuMode.SUPERVISOR_NO_SMAP;
  s.mmuMode = mmuMode;
  s.noFill = checksAlignment(s) || s.watchpoints !== 0 ? 1 : 0;
  const set = s.noFill !== 0 ? DTLB_EMPTY_SET : mmuMode;
  s.dtlb = s.address + TLB_OFFSET + set * DTLB_BYTES;
  s.ftlb = s.address + FTLB_OFFSET + (s.cpl === 3 ? 0 : FTLB_BYTES);
  const taskSwitched = (cr0 & Cr0.TS) !== 0;
  const emulated = (cr0 & Cr0.EM) !== 0;
  s.fpuTrap = emulated || taskSwitched ? FpuTrap.NM : FpuTrap.NONE;
  s.mmxTrap = emulated ? FpuTrap.UD : taskSwitched ? FpuTrap.NM : FpuTrap.NONE;
  s.sseTrap = emulated || (cr4 & Cr4.OSFXSR) === 0 ? FpuTrap.UD : taskSwitched ? FpuTrap.NM : FpuTrap.NONE;
}

const PARITY_ODD = Uint8Array.from({ length: 256 }, (_, byte) => {
  let bits = 0;
  for (let b = byte; b !== 0; b &= b - 1) bits++;
  return bits & 1;
});

/** All of EFLAGS. */
export function readEflags(s: VcpuState): number {
  let flags = s.eflags | Eflags.FIXED | s.flagC;
  if (PARITY_ODD[Number(s.flagS & 0xffn)] === 0) flags |= Eflags.PF;
  flags |= s.flagA & Eflags.AF;
  if (s.flagZ === 0n) flags |= Eflags.ZF;
  if (s.flagS >> 63n !== 0n) flags |= Eflags.SF;
  if (s.flagO !== 0) flags |= Eflags.OF;
  return flags;
}

const ARITHMETIC = Eflags.CF | Eflags.PF | Eflags.AF | Eflags.ZF | Eflags.SF | Eflags.OF;
const SYSTEM_FLAGS =
  Eflags.TF |
  Eflags.IF |
  Eflags.DF |
  Eflags.IOPL |
  Eflags.NT |
  Eflags.RF |
  Eflags.VM |
  Eflags.AC |
  Eflags.VIF |
  Eflags.VIP |
  Eflags.ID;

/** Set all of EFLAGS; the caller sees to `updateMode` where AC or VM may change. */
export function writeEflags(s: VcpuState, value: number): void {
  s.flagC = value & Eflags.CF;
  s.flagO = (value & Eflags.OF) !== 0 ? 1 : 0;
  s.flagA = value & Eflags.AF;
  s.flagZ = (value & Eflags.ZF) !== 0 ? 0n : 1n;
  s.flagS = ((value & Eflags.SF) !== 0 ? 1n << 63n : 0n) | ((value & Eflags.PF) !== 0 ? 0n : 1n);
  s.eflags = value & SYSTEM_FLAGS;
}

export { ARITHMETIC };
