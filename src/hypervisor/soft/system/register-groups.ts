/** The vCPU's state in KVM's register groups, and what reset and INIT make of it (SDM vol. 3A, table 10-1). */
import type { SharedMemory } from "../../../memory/shared-memory.js";
import type { Fpu, Regs, Segment, Sregs } from "../../seam.js";
import { Fsw } from "../fpu/x87-stack.js";
import { Access, Cr0, Seg, type VcpuState } from "../vcpu-state.js";
import { DR6_FIXED, DR7_FIXED } from "./control.js";
import { readEflags, writeEflags } from "./mode.js";

/** Names of `struct kvm_regs` by register number. */
const GPR_NAMES = [
  "rax",
  "rcx",
  "rdx",
  "rbx",
  "rsp",
  "rbp",
  "rsi",
  "rdi",
  "r8",
  "r9",
  "r10",
  "r11",
  "r12",
  "r13",
  "r14",
  "r15",
] as const;

export function getRegs(s: VcpuState): Regs {
  const regs = { rip: s.rip, rflags: BigInt(readEflags(s)) } as Regs;
  GPR_NAMES.forEach((name, i) => {
    regs[name] = s.gpr[i];
  });
  return regs;
}

export function setRegs(s: VcpuState, regs: Regs): void {
  GPR_NAMES.forEach((name, i) => {
    s.gpr[i] = regs[name];
  });
  s.rip = regs.rip;
  writeEflags(s, Number(regs.rflags & 0xffff_ffffn));
}

const SEGMENT_NAMES = [
  ["cs", Seg.CS],
  ["ds", Seg.DS],
  ["es", Seg.ES],
  ["fs", Seg.FS],
  ["gs", Seg.GS],
  ["ss", Seg.SS],
  ["tr", Seg.TR],
  ["ldt", Seg.LDTR],
] as const;

function getSegment(s: VcpuState, seg: Seg): Segment {
  const access = s.segAccess[seg];
  const bit = (mask: number) => ((access & mask) !== 0 ? 1 : 0);
  return {
    base: s.segBase[seg],
    limit: s.segLimit[seg],
    selector: s.segSelector[seg],
    type: access & Access.TYPE,
    present: bit(Access.P),
    dpl: (access & Access.DPL) >> Access.DPL_SHIFT,
    db: bit(Access.DB),
    s: bit(Access.S),
    l: bit(Access.L),
    g: bit(Access.G),
    avl: bit(Access.AVL),
    unusable: bit(Access.UNUSABLE),
  };
}

function setSegment(s: VcpuState, seg: Seg, value: Segment): void {
  const bit = (flag: number, mask: number) => (flag !== 0 ? mask : 0);
  s.segBase[seg] = value.base;
  s.segLimit[seg] = value.limit;
  s.segSelector[seg] = value.selector & 0xffff;
  s.segAccess[seg] =
    (value.type & Access.TYPE) |
    bit(value.s, Access.S) |
    ((value.dpl & 3) << Access.DPL_SHIFT) |
    bit(value.present, Access.P) |
    bit(value.avl, Access.AVL) |
    bit(value.l, Access.L) |
    bit(value.db, Access.DB) |
    bit(value.g, Access.G) |
    bit(value.unusable, Access.UNUSABLE);
}

export function getSregs(s: VcpuState, apic: { cr8: bigint; apicBase: bigint }): Sregs {
  const sregs = {
    gdt: { base: s.gdtrBase, limit: s.gdtrLimit },
    idt: { base: s.idtrBase, limit: s.idtrLimit },
    cr0: s.cr0,
    cr2: s.cr2,
    cr3: s.cr3,
    cr4: s.cr4,
    efer: s.efer,
    ...apic,
  } as Sregs;
  for (const [name, seg] of SEGMENT_NAMES) sregs[name] = getSegment(s, seg);
  return sregs;
}

export function setSregs(s: VcpuState, sregs: Sregs): void {
  for (const [name, seg] of SEGMENT_NAMES) setSegment(s, seg, sregs[name]);
  s.gdtrBase = sregs.gdt.base;
  s.gdtrLimit = sregs.gdt.limit;
  s.idtrBase = sregs.idt.base;
  s.idtrLimit = sregs.idt.limit;
  s.cr0 = sregs.cr0 | BigInt(Cr0.ET);
  s.cr2 = sregs.cr2;
  s.cr3 = sregs.cr3;
  s.cr4 = sregs.cr4;
  s.efer = sregs.efer;
  s.cpl = (Number(sregs.cr0 & 1n) & Cr0.PE) !== 0 ? sregs.ss.dpl & 3 : 0;
}

export function getFpu(s: VcpuState, memory: SharedMemory): Fpu {
  const fpr = new Uint8Array(128);
  for (let i = 0; i < 8; i++) {
    const at = s.fpr.byteOffset + 16 * ((s.ftop + i) & 7);
    fpr.set(memory.u8.subarray(at, at + 10), 16 * i);
  }
  const xmm = memory.u8.slice(s.xmm.byteOffset, s.xmm.byteOffset + 256);
  return {
    fpr,
    fcw: s.fcw,
    fsw: s.fsw | (s.ftop << 11),
    ftwx: s.ftag,
    lastOpcode: s.fop,
    lastIp: s.fip,
    lastDp: s.fdp,
    xmm: new Uint8Array(xmm),
    mxcsr: s.mxcsr,
  };
}

export function setFpu(s: VcpuState, memory: SharedMemory, fpu: Fpu): void {
  s.ftop = (fpu.fsw >> 11) & 7;
  s.fsw = fpu.fsw & ~(7 << 11);
  s.fcw = fpu.fcw;
  s.ftag = fpu.ftwx & 0xff;
  s.fpuPending = (fpu.fsw & ~fpu.fcw & Fsw.EXCEPTIONS) !== 0 ? 1 : 0;
  s.fop = fpu.lastOpcode;
  s.fip = fpu.lastIp;
  s.fdp = fpu.lastDp;
  s.mxcsr = fpu.mxcsr;
  for (let i = 0; i < 8; i++) {
    memory.u8.set(fpu.fpr.subarray(16 * i, 16 * i + 16), s.fpr.byteOffset + 16 * ((s.ftop + i) & 7));
  }
  memory.u8.set(fpu.xmm.subarray(0, 256), s.xmm.byteOffset);
}

const REAL_DATA = Access.P | Access.S | Access.WRITABLE | Access.ACCESSED;
const REAL_CODE = REAL_DATA | Access.CODE;

/** No instruction is there: bits 0 and 63 of a canonical address differ in one of its ends only. */
export const NO_RIP = 1n << 62n;

/** What INIT sets; FPU, MSRs and the TSC keep their values. */
export function resetAfterInit(s: VcpuState): void {
  s.gpr.fill(0n);
  s.gpr[2] = 0x600n;
  s.rip = 0xfff0n;
  writeEflags(s, 2);
  for (let seg = 0; seg < 8; seg++) {
    s.segSelector[seg] = 0;
    s.segBase[seg] = 0n;
    s.segLimit[seg] = 0xffff;
    s.segAccess[seg] = seg === Seg.LDTR ? Access.P | 2 : seg === Seg.TR ? Access.P | 11 : REAL_DATA;
  }
  s.segSelector[Seg.CS] = 0xf000;
  s.segBase[Seg.CS] = 0xffff0000n;
  s.segAccess[Seg.CS] = REAL_CODE;
  s.gdtrBase = s.idtrBase = 0n;
  s.gdtrLimit = s.idtrLimit = 0xffff;
  s.cr0 = (s.cr0 & BigInt(Cr0.NW | Cr0.CD)) | BigInt(Cr0.ET);
  s.cr2 = s.cr3 = s.cr4 = s.cr8 = s.efer = 0n;
  s.cpl = 0;
  s.dr.fill(0n);
  s.dr[6] = DR6_FIXED;
  s.dr[7] = DR7_FIXED;
  s.watchpoints = 0;
  s.pendingDebug = 0;
  s.stiRip = NO_RIP;
  s.shadow = 0;
  s.nmiMasked = 0;
  s.ioPending = 0;
  s.mmioCount = 0;
}

export function resetRegisters(s: VcpuState): void {
  s.cr0 = BigInt(Cr0.NW | Cr0.CD);
  resetAfterInit(s);
  s.fcw = 0x40;
  s.fsw = 0;
  s.ftop = 0;
  s.fpuPending = 0;
  // Empty, unlike the data sheet's 5555h tag word, is what FNINIT makes and what software relies on.
  s.ftag = 0;
  s.mxcsr = 0x1f80;
  s.xcr0 = 1n;
  s.pat = 0x0007040600070406n;
  s.miscEnable = 1n | (1n << 11n) | (1n << 12n);
}
