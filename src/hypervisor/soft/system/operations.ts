/**
 * The operations that instructions leave to TypeScript, by name (operation-names). Each runs with RIP at the next
 * instruction; a `GuestFault` it throws puts RIP back. Operand values come in `state.scratch`, in the order of the definition.
 */
import type { SharedMemory } from "../../../memory/shared-memory.js";
import type { GuestAccess } from "../mmu/access.js";
import {
  Access,
  CodeMode,
  Cr0,
  Efer,
  Eflags,
  FAULT_NO_ERROR_CODE,
  Gpr,
  gprOffset,
  Rec,
  Seg,
  Shadow,
  type VcpuState,
  Vector,
} from "../vcpu-state.js";
import type { ControlRegisters } from "./control.js";
import type { CpuidTable } from "./cpuid-table.js";
import { DR7_GD, Dr6 } from "./debug.js";
import { GuestFault, gp, ud } from "./fault.js";
import { fpuOperations } from "./fpu-operations.js";
import { EventKind, type Interrupts } from "./interrupts.js";
import {
  cr4Of,
  ioplOf,
  isLongModeActive,
  isProtected,
  isRealStyle,
  isVirtual8086,
  readEflags,
  updateMode,
  writeEflags,
} from "./mode.js";
import type { Msrs } from "./msrs.js";
import type { SystemOperation } from "./operation-names.js";
import type { PortIo } from "./port-io.js";
import {
  type Descriptor,
  descriptorDpl,
  descriptorLimit,
  descriptorType,
  isCode,
  isConforming,
  isSystem,
  type Segments,
  SystemType,
} from "./segments.js";
import { TransferStack } from "./stack.js";
import type { Transfers } from "./transfers.js";

/** Everything an operation works on. */
export interface OperationContext {
  readonly s: VcpuState;
  readonly memory: SharedMemory;
  readonly access: GuestAccess;
  readonly segments: Segments;
  readonly transfers: Transfers;
  readonly interrupts: Interrupts;
  readonly control: ControlRegisters;
  readonly msrs: Msrs;
  readonly ports: PortIo;
  readonly cpuid: CpuidTable;
  /** KVM_HC_KICK_CPU. */
  kick(apicId: number): void;
  /** Random bytes of the host. */
  random(bytes: number): bigint;
  /** Operand size in bytes, address size, REP (0 none, 1 REP, 2 REPNE) of the instruction. */
  size: number;
  addressSize: number;
  rep: number;
  /** RIP of the instruction itself. */
  startRip: bigint;
  /** The mode may have changed: EFLAGS, CPL or segments were set. */
  modeChanged(): void;
}

/** Value of register operand `i`'s number or state offset in the current record. */
export const recordField = (c: OperationContext, i: number) => c.memory.u16[(c.s.rec + Rec.r0 + 2 * i) >>> 1];

/** Set register operand `i` at the operand size, as x86 does: 4 bytes clear the upper half. */
export function setOperand(c: OperationContext, i: number, value: bigint, size = c.size): void {
  const at = c.s.address + recordField(c, i);
  const { data } = c.memory;
  if (size === 8) data.setBigUint64(at, BigInt.asUintN(64, value), true);
  else if (size === 4) data.setBigUint64(at, value & 0xffff_ffffn, true);
  else if (size === 2) data.setUint16(at, Number(value & 0xffffn), true);
  else data.setUint8(at, Number(value & 0xffn));
}

export function readGpr(s: VcpuState, n: number, size: number): bigint {
  return BigInt.asUintN(8 * size, s.gpr[n]);
}
export function writeGpr(s: VcpuState, n: number, value: bigint, size: number): void {
  if (size >= 4) s.gpr[n] = BigInt.asUintN(8 * size, value);
  else {
    const mask = (1n << BigInt(8 * size)) - 1n;
    s.gpr[n] = (s.gpr[n] & ~mask & 0xffff_ffff_ffff_ffffn) | (value & mask);
  }
}

const arg = (c: OperationContext, i: number) => c.s.scratch[i];
const argNumber = (c: OperationContext, i: number) => Number(c.s.scratch[i] & 0xffff_ffffn);
const selectorArg = (c: OperationContext, i: number) => Number(c.s.scratch[i] & 0xffffn);

/** Hypercalls and their answers (Linux, Documentation/virt/kvm/x86/hypercalls.rst; include/uapi/linux/kvm_para.h). */
const Hypercall = { KICK_CPU: 5 } as const;
const KVM_ENOSYS = -1000n;
const KVM_EPERM = -1n;

/** The hypercall in RAX; arguments in RBX, RCX, RDX and RSI. */
function hypercall(c: OperationContext): bigint {
  const { gpr, cpl } = c.s;
  if (cpl !== 0) return KVM_EPERM;
  switch (Number(gpr[Gpr.RAX] & 0xffff_ffffn)) {
    case Hypercall.KICK_CPU:
      c.kick(Number(gpr[Gpr.RCX] & 0xffff_ffffn));
      return 0n;
    default:
      return KVM_ENOSYS;
  }
}

function softwareInterrupt(c: OperationContext, vector: number, kind: EventKind): void {
  c.interrupts.deliver(vector, kind, FAULT_NO_ERROR_CODE);
  c.modeChanged();
}

/** LAR, LSL, VERR, VERW set ZF only. */
function setZf(s: VcpuState, value: boolean): void {
  s.flagZ = value ? 0n : 1n;
}

/** The descriptor of a selector if it may be looked at, undefined otherwise (no fault for a bad one). */
function visibleDescriptor(c: OperationContext, selector: number): Descriptor | undefined {
  if ((selector & 0xfffc) === 0) return undefined;
  let descriptor: Descriptor;
  try {
    descriptor = c.segments.descriptor(selector);
  } catch (fault) {
    if (fault instanceof GuestFault && fault.vector === Vector.GP) return undefined;
    throw fault;
  }
  const { high } = descriptor;
  if (isCode(high) && isConforming(high)) return descriptor;
  const dpl = descriptorDpl(high);
  return dpl < c.s.cpl || dpl < (selector & 3) ? undefined : descriptor;
}

const LAR_SYSTEM_TYPES = new Set<number>([1, 2, 3, 4, 5, 9, 11, 12]);
const LSL_SYSTEM_TYPES = new Set<number>([1, 2, 3, 9, 11]);
const LONG_SYSTEM_TYPES = new Set<number>([2, 9, 11, 12]);

function systemTypeAllowed(c: OperationContext, high: number, types: ReadonlySet<number>): boolean {
  const type = descriptorType(high);
  return types.has(type) && (!isLongModeActive(c.s) || LONG_SYSTEM_TYPES.has(type));
}

/** Flat segment as SYSCALL, SYSRET, SYSENTER and SYSEXIT set it. */
function setFlat(s: VcpuState, seg: Seg, selector: number, access: number): void {
  s.segSelector[seg] = selector;
  s.segBase[seg] = 0n;
  s.segLimit[seg] = 0xffffffff;
  s.segAccess[seg] = access | Access.P | Access.S | Access.G | Access.ACCESSED;
}
const flatCode = (dpl: number, long: boolean) =>
  Access.CODE | Access.READABLE | (dpl << Access.DPL_SHIFT) | (long ? Access.L : Access.DB);
const flatData = (dpl: number) => Access.WRITABLE | (dpl << Access.DPL_SHIFT) | Access.DB;

function setCpl(c: OperationContext, cpl: number): void {
  c.s.cpl = cpl;
  c.modeChanged();
}

/** SYSCALL and SYSRET trap by the flags that they load, not by those that they find (SDM vol. 2, SYSCALL, SYSRET). */
function singleStepByNewFlags(s: VcpuState): void {
  if ((s.eflags & Eflags.TF) !== 0) s.pendingDebug |= Dr6.BS;
}

/**
 * Also outside of 64-bit mode, as AMD's processors have it (AMD64 manual vol. 3, SYSCALL): to CSTAR from compatibility mode,
 * to STAR's low half in legacy mode. Intel's raise #UD there, on which no software is known to rest.
 */
function syscall(c: OperationContext): void {
  const { s } = c;
  if ((s.efer & BigInt(Efer.SCE)) === 0n || !isProtected(s)) throw ud();
  const base = Number((s.star >> 32n) & 0xffffn);
  const flags = readEflags(s) & ~Eflags.RF;
  const long = isLongModeActive(s);
  s.gpr[Gpr.RCX] = s.rip;
  if (long) {
    s.gpr[11] = BigInt(flags);
    s.rip = s.codeMode === CodeMode.LONG64 ? s.lstar : s.cstar;
    writeEflags(s, (flags & ~Number(s.fmask & 0xffff_ffffn)) | Eflags.FIXED);
  } else {
    s.rip = s.star & 0xffff_ffffn;
    writeEflags(s, flags & ~(Eflags.IF | Eflags.VM));
  }
  setFlat(s, Seg.CS, base & 0xfffc, flatCode(0, long));
  setFlat(s, Seg.SS, (base + 8) & 0xffff, flatData(0));
  singleStepByNewFlags(s);
  setCpl(c, 0);
}

function sysret(c: OperationContext): void {
  const { s } = c;
  if ((s.efer & BigInt(Efer.SCE)) === 0n || !isProtected(s)) throw ud();
  if (s.cpl !== 0) throw gp(0);
  const base = Number((s.star >> 48n) & 0xffffn);
  const long = c.size === 8;
  const target = s.gpr[Gpr.RCX];
  if (long && BigInt.asUintN(64, BigInt.asIntN(48, target)) !== target) throw gp(0);
  s.rip = long ? target : target & 0xffff_ffffn;
  if (isLongModeActive(s)) {
    writeEflags(s, (Number(s.gpr[11] & 0xffff_ffffn) & ~(Eflags.RF | Eflags.VM)) | Eflags.FIXED);
  } else writeEflags(s, readEflags(s) | Eflags.IF);
  setFlat(s, Seg.CS, ((long ? base + 16 : base) | 3) & 0xffff, flatCode(3, long));
  setFlat(s, Seg.SS, ((base + 8) | 3) & 0xffff, flatData(3));
  singleStepByNewFlags(s);
  setCpl(c, 3);
}

function sysenter(c: OperationContext): void {
  const { s } = c;
  const selector = Number(s.sysenterCs & 0xfffcn);
  if (!isProtected(s) || selector === 0) throw gp(0);
  const long = isLongModeActive(s);
  s.eflags &= ~(Eflags.VM | Eflags.IF | Eflags.RF);
  setFlat(s, Seg.CS, selector, flatCode(0, long));
  setFlat(s, Seg.SS, (selector + 8) & 0xffff, flatData(0));
  s.gpr[Gpr.RSP] = long ? s.sysenterEsp : s.sysenterEsp & 0xffff_ffffn;
  s.rip = long ? s.sysenterEip : s.sysenterEip & 0xffff_ffffn;
  setCpl(c, 0);
}

function sysexit(c: OperationContext): void {
  const { s } = c;
  const selector = Number(s.sysenterCs & 0xfffcn);
  if (!isProtected(s) || selector === 0 || s.cpl !== 0) throw gp(0);
  const long = c.size === 8;
  const [rip, rsp] = [s.gpr[Gpr.RDX], s.gpr[Gpr.RCX]];
  if (long) {
    for (const value of [rip, rsp]) if (BigInt.asUintN(64, BigInt.asIntN(48, value)) !== value) throw gp(0);
  }
  setFlat(s, Seg.CS, ((selector + (long ? 32 : 16)) | 3) & 0xffff, flatCode(3, long));
  setFlat(s, Seg.SS, ((selector + (long ? 40 : 24)) | 3) & 0xffff, flatData(3));
  s.gpr[Gpr.RSP] = long ? rsp : rsp & 0xffff_ffffn;
  s.rip = long ? rip : rip & 0xffff_ffffn;
  setCpl(c, 3);
}

/** INVPCID types (SDM vol. 2, INVPCID); without PCIDs all translations are of PCID 0. */
const InvpcidType = { ADDRESS: 0n, SINGLE: 1n, ALL_GLOBAL: 2n, ALL: 3n } as const;

function enter(c: OperationContext): void {
  const { s } = c;
  const immediate = arg(c, 0);
  const allocate = Number(immediate & 0xffffn);
  const level = Number((immediate >> 32n) & 0x1fn);
  const stack = TransferStack.current(s, c.access);
  const { size } = c;
  stack.push(size, readGpr(s, Gpr.RBP, size));
  const frame = stack.pointer;
  if (level > 0) {
    let bp = s.gpr[Gpr.RBP];
    for (let i = 1; i < level; i++) {
      bp = (bp & ~s.spMask & 0xffff_ffff_ffff_ffffn) | ((bp - BigInt(size)) & s.spMask);
      const link = new TransferStack(
        c.access,
        stack.base,
        stack.limit,
        stack.segAccess,
        stack.mask,
        bp,
        stack.kind,
        0,
        stack.aligned,
      );
      stack.push(size, link.pop(size));
    }
    stack.push(size, frame);
  }
  stack.skip(-allocate);
  // The new top has to be writable (SDM vol. 2, ENTER).
  stack.probeTop(size);
  writeGpr(s, Gpr.RBP, frame, size === 2 ? 2 : s.codeMode === CodeMode.LONG64 ? 8 : 4);
  s.gpr[Gpr.RSP] = stack.pointer;
}

function random(c: OperationContext): void {
  setOperand(c, 0, c.random(c.size));
  // CF: a number was there; the other flags are cleared (SDM vol. 2, RDRAND).
  const { s } = c;
  s.flagC = 1;
  s.flagO = 0;
  s.flagA = 0;
  s.flagZ = 1n;
  s.flagS = 1n;
}

export const OPERATIONS: Record<SystemOperation, (c: OperationContext) => void> = {
  hlt: (c) => {
    c.s.mpState = 3;
  },
  cpuid: (c) => {
    const { s } = c;
    const leaf = Number(s.gpr[Gpr.RAX] & 0xffff_ffffn);
    const [eax, ebx, ecx, edx] = c.cpuid.lookUp(leaf, Number(s.gpr[Gpr.RCX] & 0xffff_ffffn));
    let [outC, outD] = [ecx, edx];
    if (leaf === 1) {
      // OSXSAVE and APIC follow the machine's state.
      outC = (cr4Of(s) & (1 << 18)) !== 0 ? outC | (1 << 27) : outC & ~(1 << 27);
      if ((c.msrs.irqchip.getApicBase(c.msrs.id) & 0x800n) === 0n) outD &= ~(1 << 9);
    }
    s.gpr[Gpr.RAX] = BigInt(eax >>> 0);
    s.gpr[Gpr.RBX] = BigInt(ebx >>> 0);
    s.gpr[Gpr.RCX] = BigInt(outC >>> 0);
    s.gpr[Gpr.RDX] = BigInt(outD >>> 0);
  },
  rdmsr: (c) => {
    const value = c.msrs.read(Number(c.s.gpr[Gpr.RCX] & 0xffff_ffffn));
    if (value === undefined) throw gp(0);
    c.s.gpr[Gpr.RAX] = value & 0xffff_ffffn;
    c.s.gpr[Gpr.RDX] = value >> 32n;
  },
  wrmsr: (c) => {
    const { s } = c;
    const value = ((s.gpr[Gpr.RDX] & 0xffff_ffffn) << 32n) | (s.gpr[Gpr.RAX] & 0xffff_ffffn);
    if (!c.msrs.write(Number(s.gpr[Gpr.RCX] & 0xffff_ffffn), value)) throw gp(0);
  },
  movFromCr: (c) =>
    setOperand(c, 0, c.control.read(argNumber(c, 0)), c.s.codeMode === CodeMode.LONG64 ? 8 : 4),
  movToCr: (c) =>
    c.control.write(argNumber(c, 0), c.s.codeMode === CodeMode.LONG64 ? arg(c, 1) : arg(c, 1) & 0xffff_ffffn),
  movFromDr: (c) =>
    setOperand(c, 0, c.control.readDebug(argNumber(c, 0)), c.s.codeMode === CodeMode.LONG64 ? 8 : 4),
  movToDr: (c) =>
    c.control.writeDebug(
      argNumber(c, 0),
      c.s.codeMode === CodeMode.LONG64 ? arg(c, 1) : arg(c, 1) & 0xffff_ffffn,
    ),
  clts: (c) => {
    c.s.cr0 &= ~BigInt(Cr0.TS);
    updateMode(c.s, c.memory);
  },
  lmsw: (c) => {
    // PE can be set and not cleared (SDM vol. 2, LMSW).
    const low = (arg(c, 0) & 0xfn) | (c.s.cr0 & 1n);
    c.control.writeCr0((c.s.cr0 & ~0xfn) | low);
  },
  lgdt: (c) => {
    const base = arg(c, 1);
    if (isLongModeActive(c.s) && BigInt.asUintN(64, BigInt.asIntN(48, base)) !== base) throw gp(0);
    c.s.gdtrLimit = selectorArg(c, 0);
    c.s.gdtrBase = base;
  },
  lidt: (c) => {
    const base = arg(c, 1);
    if (isLongModeActive(c.s) && BigInt.asUintN(64, BigInt.asIntN(48, base)) !== base) throw gp(0);
    c.s.idtrLimit = selectorArg(c, 0);
    c.s.idtrBase = base;
  },
  lldt: (c) => c.segments.loadLdt(selectorArg(c, 0)),
  ltr: (c) => c.segments.loadTaskRegister(selectorArg(c, 0)),
  lar: (c) => {
    const descriptor = visibleDescriptor(c, selectorArg(c, 0));
    const ok =
      descriptor !== undefined &&
      (!isSystem(descriptor.high) || systemTypeAllowed(c, descriptor.high, LAR_SYSTEM_TYPES));
    if (ok)
      setOperand(
        c,
        0,
        BigInt((descriptor.high & 0x00f0ff00) >>> 0) & (c.size === 2 ? 0xff00n : 0xffff_ffffn),
      );
    setZf(c.s, ok);
  },
  lsl: (c) => {
    const descriptor = visibleDescriptor(c, selectorArg(c, 0));
    const ok =
      descriptor !== undefined &&
      (!isSystem(descriptor.high) || systemTypeAllowed(c, descriptor.high, LSL_SYSTEM_TYPES));
    if (ok) setOperand(c, 0, BigInt(descriptorLimit(descriptor)));
    setZf(c.s, ok);
  },
  verr: (c) => {
    const descriptor = visibleDescriptor(c, selectorArg(c, 0));
    const high = descriptor?.high ?? 0;
    setZf(c.s, descriptor !== undefined && !isSystem(high) && (!isCode(high) || (high & (1 << 9)) !== 0));
  },
  verw: (c) => {
    const descriptor = visibleDescriptor(c, selectorArg(c, 0));
    const high = descriptor?.high ?? 0;
    setZf(c.s, descriptor !== undefined && !isSystem(high) && !isCode(high) && (high & (1 << 9)) !== 0);
  },
  bound: (c) => {
    const bits = 8 * c.size;
    const [index, lower, upper] = [0, 1, 2].map((i) => BigInt.asIntN(bits, arg(c, i)));
    if (index < lower || index > upper) throw new GuestFault(Vector.BR);
  },
  arpl: () => {},
  invlpg: (c) => c.access.wasm.flushPage(c.s.address, BigInt.asIntN(64, arg(c, 0))),
  invpcid: (c) => {
    const [type, pcid, address] = [arg(c, 0), arg(c, 1), arg(c, 2)];
    if (type > InvpcidType.ALL || pcid >> 12n !== 0n) throw gp(0);
    if (type === InvpcidType.ADDRESS) c.access.wasm.flushPage(c.s.address, BigInt.asIntN(64, address));
    else if (type === InvpcidType.ALL_GLOBAL) c.access.wasm.flushTlb(c.s.address);
    else c.access.wasm.flushTlbNonGlobal(c.s.address);
  },
  writeBackCaches: () => {},
  loadSegment: (c) => {
    const seg = argNumber(c, 1) as Seg;
    c.segments.load(seg, selectorArg(c, 0));
    if (seg === Seg.SS) c.s.shadow = Shadow.STACK;
    c.modeChanged();
  },
  popSegment: (c) => {
    const seg = argNumber(c, 1) as Seg;
    const stack = TransferStack.current(c.s, c.access);
    stack.skip(c.size);
    c.segments.load(seg, selectorArg(c, 0));
    c.s.gpr[Gpr.RSP] = stack.pointer;
    if (seg === Seg.SS) c.s.shadow = Shadow.STACK;
    c.modeChanged();
  },
  loadFarPointer: (c) => {
    const offset = arg(c, 0);
    c.segments.load(argNumber(c, 2) as Seg, selectorArg(c, 1));
    setOperand(c, 0, offset);
    c.modeChanged();
  },
  farJump: (c) => {
    c.transfers.farJump(selectorArg(c, 1), arg(c, 0));
    c.modeChanged();
  },
  farCall: (c) => {
    c.transfers.farCall(selectorArg(c, 1), arg(c, 0), c.size, c.s.rip);
    c.modeChanged();
  },
  farReturn: (c) => {
    c.transfers.farReturn(c.size, Number(arg(c, 0) & 0xffffn));
    c.modeChanged();
  },
  interrupt: (c) => softwareInterrupt(c, Number(arg(c, 0) & 0xffn), EventKind.SOFTWARE),
  int3: (c) => softwareInterrupt(c, Vector.BP, EventKind.SOFTWARE),
  int1: (c) => {
    softwareInterrupt(c, Vector.DB, EventKind.PRIVILEGED_SOFTWARE);
    // What MOV SS has held back comes with it.
    if (c.s.pendingDebug !== 0) c.control.debug.takePending();
    c.s.dr[7] &= ~DR7_GD;
  },
  into: (c) => {
    if (c.s.flagO !== 0) softwareInterrupt(c, Vector.OF, EventKind.SOFTWARE);
  },
  iret: (c) => {
    c.transfers.iret(c.size);
    c.modeChanged();
  },
  sysenter,
  sysexit,
  syscall,
  sysret,
  flagsChanged: (c) => c.modeChanged(),
  in: (c) => c.ports.in(c, Number(arg(c, 0) & 0xffffn)),
  out: (c) => c.ports.out(c, Number(arg(c, 0) & 0xffffn)),
  ins: (c) => c.ports.ins(c),
  outs: (c) => c.ports.outs(c),
  enter,
  rdrand: random,
  rdseed: random,
  rdpmc: () => {
    throw gp(0);
  },
  monitor: () => {
    throw ud();
  },
  mwait: () => {
    throw ud();
  },
  vmcall: (c) => {
    if (!isProtected(c.s)) throw ud();
    c.s.gpr[Gpr.RAX] = BigInt.asUintN(64, hypercall(c));
  },
  ...fpuOperations,
};

export { gprOffset, ioplOf, isRealStyle, isVirtual8086, SystemType };
