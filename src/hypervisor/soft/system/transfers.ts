/**
 * Far control transfers: JMP, CALL, RET and IRET between segments and privilege levels, call gates (SDM vol. 3A, 5.8; vol. 2,
 * the instructions' pages). Hardware task switches are not done: a transfer to a TSS or task gate raises #GP.
 */

import type { GuestAccess } from "../mmu/access.js";
import { AccessKind, CodeMode, Eflags, Gpr, Seg, type VcpuState, Vector } from "../vcpu-state.js";
import { GuestFault, gp } from "./fault.js";
import {
  ioplOf,
  isLongModeActive,
  isProtected,
  isRealStyle,
  isVirtual8086,
  readEflags,
  writeEflags,
} from "./mode.js";
import {
  type Descriptor,
  descriptorDpl,
  descriptorLimit,
  descriptorType,
  isCode,
  isConforming,
  isPresent,
  isSystem,
  type Segments,
  SystemType,
} from "./segments.js";
import { TransferStack } from "./stack.js";

const L_BIT = 1 << 21;
const D_BIT = 1 << 22;

export class Transfers {
  constructor(
    readonly s: VcpuState,
    readonly access: GuestAccess,
    readonly segments: Segments,
  ) {}

  /** RIP `target` in code segment `descriptor`, checked against limit or canonical form. */
  #checkedRip(target: bigint, descriptor: Descriptor): bigint {
    if (isLongModeActive(this.s) && (descriptor.high & L_BIT) !== 0) {
      if (BigInt.asUintN(64, BigInt.asIntN(48, target)) !== target) throw gp(0);
      return target;
    }
    if (target > BigInt(descriptorLimit(descriptor))) throw gp(0);
    return target;
  }

  #setCs(selector: number, descriptor: Descriptor, cpl: number): void {
    this.segments.markAccessed(descriptor);
    this.segments.set(Seg.CS, (selector & 0xfffc) | cpl, descriptor);
    this.s.cpl = cpl;
  }

  /** A code segment's L and D together are reserved in IA-32e mode. */
  #checkWidth(descriptor: Descriptor, selector: number): void {
    const both = L_BIT | D_BIT;
    if (isLongModeActive(this.s) && (descriptor.high & both) === both) throw gp(selector & 0xfffc);
  }

  #realTransfer(selector: number, offset: bigint): void {
    if (offset > BigInt(this.s.segLimit[Seg.CS])) throw gp(0);
    this.segments.setReal(Seg.CS, selector, isVirtual8086(this.s));
    this.s.rip = offset;
  }

  /** Checks common to JMP and CALL to a code segment without a gate; the CPL stays. */
  #checkDirect(descriptor: Descriptor, selector: number): void {
    const { s } = this;
    const error = selector & 0xfffc;
    const dpl = descriptorDpl(descriptor.high);
    if (isConforming(descriptor.high) ? dpl > s.cpl : (selector & 3) > s.cpl || dpl !== s.cpl)
      throw gp(error);
    if (!isPresent(descriptor.high)) throw new GuestFault(Vector.NP, error);
    this.#checkWidth(descriptor, selector);
  }

  farJump(selector: number, offset: bigint): void {
    const { s, segments } = this;
    if (isRealStyle(s)) {
      this.#realTransfer(selector, offset);
      return;
    }
    if ((selector & 0xfffc) === 0) throw gp(0);
    const descriptor = segments.descriptor(selector);
    if (!isSystem(descriptor.high)) {
      if (!isCode(descriptor.high)) throw gp(selector & 0xfffc);
      this.#checkDirect(descriptor, selector);
      const rip = this.#checkedRip(offset, descriptor);
      this.#setCs(selector, descriptor, s.cpl);
      s.rip = rip;
      return;
    }
    const gate = this.#callGate(descriptor, selector);
    const target = this.#gateTarget(gate);
    const dpl = descriptorDpl(target.high);
    if (isConforming(target.high) ? dpl > s.cpl : dpl !== s.cpl) throw gp(gate.selector & 0xfffc);
    if (!isPresent(target.high)) throw new GuestFault(Vector.NP, gate.selector & 0xfffc);
    const rip = this.#checkedRip(gate.offset, target);
    this.#setCs(gate.selector, target, s.cpl);
    s.rip = rip;
  }

  /** Offset, selector and parameters of a call gate, with its own checks. */
  #callGate(descriptor: Descriptor, selector: number) {
    const { s, segments } = this;
    const long = isLongModeActive(s);
    const type = descriptorType(descriptor.high);
    const valid = type === SystemType.CALL_GATE || (!long && type === SystemType.CALL_GATE16);
    const error = selector & 0xfffc;
    if (!valid) throw gp(error);
    const dpl = descriptorDpl(descriptor.high);
    if (dpl < s.cpl || dpl < (selector & 3)) throw gp(error);
    if (!isPresent(descriptor.high)) throw new GuestFault(Vector.NP, error);
    let offset = BigInt(((descriptor.high & 0xffff0000) | (descriptor.low & 0xffff)) >>> 0);
    if (type === SystemType.CALL_GATE16) offset &= 0xffffn;
    if (long) {
      segments.checkUpperHalf(selector, descriptor);
      offset |= segments.upperBase(descriptor) << 32n;
    }
    return {
      offset,
      selector: descriptor.low >>> 16,
      count: descriptor.high & 0x1f,
      bytes: long ? 8 : type === SystemType.CALL_GATE ? 4 : 2,
    };
  }

  #gateTarget(gate: { selector: number }): Descriptor {
    if ((gate.selector & 0xfffc) === 0) throw gp(0);
    const target = this.segments.descriptor(gate.selector);
    const error = gate.selector & 0xfffc;
    if (!isCode(target.high) || descriptorDpl(target.high) > this.s.cpl) throw gp(error);
    if (isLongModeActive(this.s) && ((target.high & L_BIT) === 0 || (target.high & D_BIT) !== 0))
      throw gp(error);
    return target;
  }

  farCall(selector: number, offset: bigint, bytes: number, returnRip: bigint): void {
    const { s, segments } = this;
    const stack = TransferStack.current(s, this.access);
    const pushReturn = (on: TransferStack, width: number) => {
      on.push(width, BigInt(s.segSelector[Seg.CS]));
      on.push(width, returnRip);
    };
    if (isRealStyle(s)) {
      if (offset > BigInt(s.segLimit[Seg.CS])) throw gp(0);
      pushReturn(stack, bytes);
      s.gpr[Gpr.RSP] = stack.pointer;
      this.#realTransfer(selector, offset);
      return;
    }
    if ((selector & 0xfffc) === 0) throw gp(0);
    const descriptor = segments.descriptor(selector);
    if (!isSystem(descriptor.high)) {
      if (!isCode(descriptor.high)) throw gp(selector & 0xfffc);
      this.#checkDirect(descriptor, selector);
      const rip = this.#checkedRip(offset, descriptor);
      pushReturn(stack, bytes);
      this.#setCs(selector, descriptor, s.cpl);
      s.gpr[Gpr.RSP] = stack.pointer;
      s.rip = rip;
      return;
    }
    const gate = this.#callGate(descriptor, selector);
    const target = this.#gateTarget(gate);
    if (!isPresent(target.high)) throw new GuestFault(Vector.NP, gate.selector & 0xfffc);
    const dpl = descriptorDpl(target.high);
    const rip = this.#checkedRip(gate.offset, target);
    if (isConforming(target.high) || dpl === s.cpl) {
      pushReturn(stack, gate.bytes);
      this.#setCs(gate.selector, target, s.cpl);
      s.gpr[Gpr.RSP] = stack.pointer;
      s.rip = rip;
      return;
    }
    this.#callInner(gate, target, dpl, stack, returnRip, rip);
  }

  /** Through a gate to a more privileged level: a new stack, parameters copied. */
  #callInner(
    gate: { selector: number; count: number; bytes: number },
    target: Descriptor,
    dpl: number,
    old: TransferStack,
    returnRip: bigint,
    rip: bigint,
  ): void {
    const { s } = this;
    const inner = this.innerStack(dpl);
    const { bytes } = gate;
    const oldSp = s.gpr[Gpr.RSP];
    const oldSs = s.segSelector[Seg.SS];
    inner.stack.push(bytes, BigInt(oldSs));
    inner.stack.push(bytes, oldSp);
    if (bytes !== 8) {
      const parameters: bigint[] = [];
      for (let i = 0; i < gate.count; i++) parameters.push(old.pop(bytes));
      for (const value of parameters.reverse()) inner.stack.push(bytes, value);
    }
    inner.stack.push(bytes, BigInt(s.segSelector[Seg.CS]));
    inner.stack.push(bytes, returnRip);
    this.#setCs(gate.selector, target, dpl);
    inner.commit();
    s.gpr[Gpr.RSP] = inner.stack.pointer;
    s.rip = rip;
  }

  /** The stack that the TSS holds for privilege level `dpl`; `commit` loads SS. `ext` is set in error codes. */
  innerStack(dpl: number, ext = 0): { stack: TransferStack; commit: () => void } {
    const { s, segments, access } = this;
    const tss = s.segBase[Seg.TR];
    const tssError = (s.segSelector[Seg.TR] & 0xfffc) | ext;
    if (isLongModeActive(s)) {
      const offset = 4 + 8 * dpl;
      if (offset + 7 > s.segLimit[Seg.TR]) throw new GuestFault(Vector.TS, tssError);
      const pointer = access.read64(tss + BigInt(offset), AccessKind.IMPLICIT);
      return { stack: TransferStack.flat(access, pointer), commit: () => segments.setNull(Seg.SS, dpl) };
    }
    const wide = (s.segAccess[Seg.TR] & 8) !== 0;
    const offset = wide ? 4 + 8 * dpl : 2 + 4 * dpl;
    if (offset + (wide ? 5 : 3) > s.segLimit[Seg.TR]) throw new GuestFault(Vector.TS, tssError);
    const at = segments.wrap(tss + BigInt(offset));
    const pointer = wide ? access.read32(at, AccessKind.IMPLICIT) : access.read16(at, AccessKind.IMPLICIT);
    const selector = access.read16(at + (wide ? 4n : 2n), AccessKind.IMPLICIT);
    const error = (selector & 0xfffc) | ext;
    if ((selector & 0xfffc) === 0) throw new GuestFault(Vector.TS, ext);
    const descriptor = segments.descriptor(selector, Vector.TS, ext);
    const { high } = descriptor;
    const writable = !isSystem(high) && !isCode(high) && (high & (1 << 9)) !== 0;
    if ((selector & 3) !== dpl || descriptorDpl(high) !== dpl || !writable)
      throw new GuestFault(Vector.TS, error);
    if (!isPresent(high)) throw new GuestFault(Vector.SS, error);
    return {
      stack: TransferStack.inner(access, descriptor, pointer, error),
      commit: () => {
        segments.markAccessed(descriptor);
        segments.set(Seg.SS, selector, descriptor);
      },
    };
  }

  farReturn(bytes: number, release: number): void {
    const { s } = this;
    const stack = TransferStack.current(s, this.access);
    const rip = stack.pop(bytes);
    const selector = Number(stack.pop(bytes) & 0xffffn);
    if (isRealStyle(s)) {
      if (rip > BigInt(s.segLimit[Seg.CS])) throw gp(0);
      stack.skip(release);
      s.gpr[Gpr.RSP] = stack.pointer;
      this.#realTransfer(selector, rip);
      return;
    }
    stack.skip(release);
    this.#returnTo(selector, rip, bytes, stack, release);
  }

  /** The rest of RET and IRET in protected mode: to the same level, or out to another one with its own stack. */
  #returnTo(
    selector: number,
    target: bigint,
    bytes: number,
    stack: TransferStack,
    release: number,
    alwaysStack = false,
  ): void {
    const { s, segments } = this;
    if ((selector & 0xfffc) === 0) throw gp(0);
    const error = selector & 0xfffc;
    const descriptor = segments.descriptor(selector);
    const rpl = selector & 3;
    const dpl = descriptorDpl(descriptor.high);
    if (!isCode(descriptor.high) || rpl < s.cpl) throw gp(error);
    if (isConforming(descriptor.high) ? dpl > rpl : dpl !== rpl) throw gp(error);
    this.#checkWidth(descriptor, selector);
    if (!isPresent(descriptor.high)) throw new GuestFault(Vector.NP, error);
    const rip = this.#checkedRip(target, descriptor);
    if (rpl === s.cpl && !alwaysStack) {
      this.#setCs(selector, descriptor, rpl);
      s.gpr[Gpr.RSP] = stack.pointer;
      s.rip = rip;
      return;
    }
    const sp = stack.pop(bytes);
    const ss = Number(stack.pop(bytes) & 0xffffn);
    const to64 = isLongModeActive(s) && (descriptor.high & L_BIT) !== 0;
    const outer = rpl !== s.cpl;
    let ssDescriptor: Descriptor | undefined;
    if ((ss & 0xfffc) === 0) {
      // A null SS is what 64-bit code below CPL 3 may return to.
      if (!to64 || rpl === 3 || (ss & 3) !== rpl) throw gp(0);
    } else {
      ssDescriptor = segments.descriptor(ss);
      const { high } = ssDescriptor;
      const writable = !isSystem(high) && !isCode(high) && (high & (1 << 9)) !== 0;
      if ((ss & 3) !== rpl || !writable || descriptorDpl(high) !== rpl) throw gp(ss & 0xfffc);
      if (!isPresent(high)) throw new GuestFault(Vector.SS, ss & 0xfffc);
    }
    this.#setCs(selector, descriptor, rpl);
    if (ssDescriptor === undefined) segments.setNull(Seg.SS, ss);
    else {
      segments.markAccessed(ssDescriptor);
      segments.set(Seg.SS, ss, ssDescriptor);
    }
    const bigStack = to64 || ssDescriptor === undefined || (ssDescriptor.high & D_BIT) !== 0;
    const mask = to64 ? 0xffff_ffff_ffff_ffffn : bigStack ? 0xffff_ffffn : 0xffffn;
    const released = sp + BigInt(release);
    s.gpr[Gpr.RSP] = bigStack
      ? released & mask
      : (s.gpr[Gpr.RSP] & ~0xffffn & 0xffff_ffff_ffff_ffffn) | (released & 0xffffn);
    s.rip = rip;
    if (outer) segments.dropPrivilegedData();
  }

  iret(bytes: number): void {
    const { s } = this;
    s.nmiMasked = 0;
    const stack = TransferStack.current(s, this.access);
    if (isVirtual8086(s) && ioplOf(s) < 3) throw gp(0);
    if (isProtected(s) && !isVirtual8086(s) && (s.eflags & Eflags.NT) !== 0) throw gp(0);
    const rip = stack.pop(bytes);
    const selector = Number(stack.pop(bytes) & 0xffffn);
    const flags = Number(stack.pop(bytes) & 0xffff_ffffn);
    const old = readEflags(s);
    if (isRealStyle(s)) {
      if (rip > BigInt(s.segLimit[Seg.CS])) throw gp(0);
      const keep = Eflags.VM | Eflags.VIF | Eflags.VIP | (isVirtual8086(s) ? Eflags.IOPL : 0);
      this.#realTransfer(selector, rip);
      s.gpr[Gpr.RSP] = stack.pointer;
      writeEflags(s, mergeFlags(old, flags, ~keep, bytes));
      return;
    }
    if ((flags & Eflags.VM) !== 0 && s.cpl === 0 && bytes === 4 && !isLongModeActive(s)) {
      this.#iretToVirtual(rip, selector, flags, stack);
      return;
    }
    const cpl = s.cpl;
    let mask = ~(Eflags.VM | Eflags.VIF | Eflags.VIP);
    if (cpl > 0) mask &= ~Eflags.IOPL;
    else mask |= Eflags.VIF | Eflags.VIP;
    if (cpl > ioplOf(s)) mask &= ~Eflags.IF;
    this.#returnTo(selector, rip, bytes, stack, 0, s.codeMode === CodeMode.LONG64);
    writeEflags(s, mergeFlags(old, flags, mask, bytes));
  }

  #iretToVirtual(rip: bigint, cs: number, flags: number, stack: TransferStack): void {
    const { s, segments } = this;
    const values = Array.from({ length: 6 }, () => Number(stack.pop(4) & 0xffff_ffffn));
    if (rip > 0xffffn) throw gp(0);
    writeEflags(s, flags);
    s.cpl = 3;
    const [sp, ss, es, ds, fs, gs] = values;
    segments.setReal(Seg.CS, cs, true);
    for (const [seg, selector] of [
      [Seg.SS, ss],
      [Seg.ES, es],
      [Seg.DS, ds],
      [Seg.FS, fs],
      [Seg.GS, gs],
    ] as const) {
      segments.setReal(seg, selector & 0xffff, true);
    }
    s.gpr[Gpr.RSP] = BigInt(sp);
    s.rip = rip;
  }
}

/** EFLAGS after a return: the bits of `mask` from `value` (16 bits of it for 16-bit returns), the rest from `old`. */
function mergeFlags(old: number, value: number, mask: number, bytes: number): number {
  const taken = bytes === 2 ? mask & 0xffff : mask;
  return (old & ~taken) | (value & taken);
}
