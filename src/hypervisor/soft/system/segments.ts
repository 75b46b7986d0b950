/** Segment registers and descriptor tables (SDM vol. 3A, 3.4, 3.5 and 5). */

import type { GuestAccess } from "../mmu/access.js";
import { Access, AccessKind, Seg, type VcpuState, Vector } from "../vcpu-state.js";
import { GuestFault, gp } from "./fault.js";
import { isLongModeActive, isProtected, isRealStyle } from "./mode.js";

/** A descriptor as two doublewords, and where it was found. */
export interface Descriptor {
  readonly low: number;
  readonly high: number;
  readonly address: bigint;
}

/** System descriptor types (SDM vol. 3A, table 3-2). */
export const SystemType = {
  TSS16: 1,
  LDT: 2,
  TSS16_BUSY: 3,
  CALL_GATE16: 4,
  TASK_GATE: 5,
  INTERRUPT_GATE16: 6,
  TRAP_GATE16: 7,
  TSS: 9,
  TSS_BUSY: 11,
  CALL_GATE: 12,
  INTERRUPT_GATE: 14,
  TRAP_GATE: 15,
} as const;

/** Type bits in the last doubleword of a 16-byte descriptor: they have to be zero (SDM vol. 3A, 5.8.3.1). */
const UPPER_TYPE = 0x1f00;

export const descriptorAccess = (high: number) => (high >>> 8) & 0xf0ff;
export const descriptorDpl = (high: number) => (high >>> 13) & 3;
export const descriptorType = (high: number) => (high >>> 8) & 0xf;
export const isPresent = (high: number) => (high & (1 << 15)) !== 0;
export const isSystem = (high: number) => (high & (1 << 12)) === 0;
export const isCode = (high: number) => !isSystem(high) && (high & (1 << 11)) !== 0;
export const isConforming = (high: number) => (high & (1 << 10)) !== 0;

export function descriptorLimit({ low, high }: Descriptor): number {
  const limit = (low & 0xffff) | (high & 0xf0000);
  return (high & (1 << 23)) !== 0 ? ((limit << 12) | 0xfff) >>> 0 : limit;
}

export function descriptorBase({ low, high }: Descriptor): number {
  return ((low >>> 16) | ((high & 0xff) << 16) | (high & 0xff000000)) >>> 0;
}

export class Segments {
  constructor(
    readonly s: VcpuState,
    readonly access: GuestAccess,
  ) {}

  /** The descriptor of a selector that is not null; `vector`(selector | ext) where it lies outside of its table. */
  descriptor(selector: number, vector: number = Vector.GP, ext = 0): Descriptor {
    const { s } = this;
    const local = (selector & 4) !== 0;
    const index = selector & 0xfff8;
    const limit = local ? s.segLimit[Seg.LDTR] : s.gdtrLimit;
    if ((local && (s.segAccess[Seg.LDTR] & Access.UNUSABLE) !== 0) || index + 7 > limit) {
      throw new GuestFault(vector, (selector & 0xfffc) | ext);
    }
    const base = local ? s.segBase[Seg.LDTR] : s.gdtrBase;
    const address = this.wrap(base + BigInt(index));
    const value = this.access.read64(address, AccessKind.IMPLICIT);
    return { low: Number(value & 0xffffffffn), high: Number(value >> 32n), address };
  }

  /** A linear address as wide as the mode has them. */
  wrap(address: bigint): bigint {
    return isLongModeActive(this.s) ? BigInt.asUintN(64, address) : address & 0xffffffffn;
  }

  /** Base bits 32–63 of a 16-byte system descriptor. */
  upperBase({ address }: Descriptor): bigint {
    return BigInt(this.access.read32(address + 8n, AccessKind.IMPLICIT));
  }

  /** Set the accessed bit of a code or data descriptor in its table. */
  markAccessed(descriptor: Descriptor): void {
    if ((descriptor.high & (1 << 8)) === 0) {
      const byte = BigInt(((descriptor.high >>> 8) & 0xff) | 1);
      this.access.write(descriptor.address + 5n, 1, byte, AccessKind.IMPLICIT);
    }
  }

  /** Fill the hidden part of `seg` from a descriptor. */
  set(seg: Seg, selector: number, descriptor: Descriptor): void {
    const { s } = this;
    s.segSelector[seg] = selector;
    s.segBase[seg] = BigInt(descriptorBase(descriptor));
    s.segLimit[seg] = descriptorLimit(descriptor);
    s.segAccess[seg] = descriptorAccess(descriptor.high) | (seg <= Seg.GS ? Access.ACCESSED : 0);
  }

  setNull(seg: Seg, selector: number): void {
    const { s } = this;
    s.segSelector[seg] = selector;
    s.segAccess[seg] = Access.UNUSABLE | (seg === Seg.SS ? (selector & 3) << Access.DPL_SHIFT : 0);
    s.segLimit[seg] = 0;
    s.segBase[seg] = 0n;
  }

  /** As real and virtual-8086 mode load a segment register; limit and rights stay in real mode (SDM vol. 3B, 21.1.1). */
  setReal(seg: Seg, selector: number, virtual: boolean): void {
    const { s } = this;
    s.segSelector[seg] = selector;
    s.segBase[seg] = BigInt(selector << 4);
    const data = Access.P | Access.S | Access.WRITABLE | Access.ACCESSED;
    if (virtual) {
      s.segLimit[seg] = 0xffff;
      s.segAccess[seg] = data | Access.DPL;
    } else if ((s.segAccess[seg] & Access.UNUSABLE) !== 0) {
      s.segLimit[seg] = 0xffff;
      s.segAccess[seg] = data;
    }
  }

  /** Linear address of `bytes` at `offset` of `seg` outside 64-bit mode, as segmentLinear in cold/runtime checks it. */
  linear(seg: Seg, offset: bigint, bytes: number, write: boolean): bigint {
    const { s } = this;
    const access = s.segAccess[seg];
    const limit = BigInt(s.segLimit[seg]);
    const last = offset + BigInt(bytes - 1);
    const code = (access & Access.CODE) !== 0;
    const allowed = write
      ? !code && (access & Access.WRITABLE) !== 0
      : !code || (access & Access.READABLE) !== 0;
    const down = !code && (access & Access.EXPAND_DOWN) !== 0;
    const top = (access & Access.DB) !== 0 ? 0xffff_ffffn : 0xffffn;
    if (
      (access & Access.UNUSABLE) !== 0 ||
      (!allowed && isProtected(s)) ||
      (down ? offset <= limit || last > top : last > limit)
    ) {
      throw new GuestFault(seg === Seg.SS ? Vector.SS : Vector.GP, 0);
    }
    return (s.segBase[seg] + offset) & 0xffff_ffffn;
  }

  /** MOV and POP to DS, ES, FS, GS and SS, and far pointer loads (SDM vol. 2, MOV). */
  load(seg: Seg, selector: number): void {
    const { s } = this;
    if (isRealStyle(s)) {
      this.setReal(seg, selector, (s.eflags & (1 << 17)) !== 0);
      return;
    }
    const rpl = selector & 3;
    if ((selector & 0xfffc) === 0) {
      if (seg === Seg.SS) {
        // A null SS is for 64-bit code below CPL 3 only, and its RPL is the CPL.
        if (!isLongModeActive(s) || (s.segAccess[Seg.CS] & Access.L) === 0 || s.cpl === 3 || rpl !== s.cpl)
          throw gp(0);
      }
      const base = s.segBase[seg];
      this.setNull(seg, selector);
      // AMD keeps FS and GS bases on a null load; Intel clears them. Clear.
      if (seg === Seg.SS) s.segBase[seg] = base;
      return;
    }
    const error = selector & 0xfffc;
    const descriptor = this.descriptor(selector);
    const { high } = descriptor;
    const dpl = descriptorDpl(high);
    if (seg === Seg.SS) {
      const writable = !isSystem(high) && !isCode(high) && (high & (1 << 9)) !== 0;
      if (rpl !== s.cpl || !writable || dpl !== s.cpl) throw gp(error);
      if (!isPresent(high)) throw new GuestFault(Vector.SS, error);
    } else {
      const readable = !isSystem(high) && (!isCode(high) || (high & (1 << 9)) !== 0);
      const checked = !isCode(high) || !isConforming(high);
      if (!readable || (checked && (rpl > dpl || s.cpl > dpl))) throw gp(error);
      if (!isPresent(high)) throw new GuestFault(Vector.NP, error);
    }
    this.markAccessed(descriptor);
    this.set(seg, selector, descriptor);
  }

  /** Data segments that the new CPL may not use become null (SDM vol. 2, RET, IRET). */
  dropPrivilegedData(): void {
    const { s } = this;
    for (const seg of [Seg.ES, Seg.DS, Seg.FS, Seg.GS]) {
      const access = s.segAccess[seg];
      if ((access & Access.UNUSABLE) !== 0) continue;
      const conforming = (access & (Access.CODE | Access.CONFORMING)) === (Access.CODE | Access.CONFORMING);
      if (conforming || (access & Access.DPL) >> Access.DPL_SHIFT >= s.cpl) continue;
      // The base stays: in 64-bit mode that of FS and GS counts all the same.
      s.segSelector[seg] = 0;
      s.segAccess[seg] |= Access.UNUSABLE;
    }
  }

  /** LLDT. */
  loadLdt(selector: number): void {
    if ((selector & 0xfffc) === 0) {
      this.setNull(Seg.LDTR, selector);
      return;
    }
    const descriptor = this.systemDescriptor(selector, [SystemType.LDT]);
    if (!isPresent(descriptor.high)) throw new GuestFault(Vector.NP, selector & 0xfffc);
    const base = this.systemBase(selector, descriptor);
    this.set(Seg.LDTR, selector, descriptor);
    this.s.segBase[Seg.LDTR] = base;
  }

  /** LTR. */
  loadTaskRegister(selector: number): void {
    if ((selector & 0xfffc) === 0) throw gp(0);
    const types = isLongModeActive(this.s) ? [SystemType.TSS] : [SystemType.TSS, SystemType.TSS16];
    const descriptor = this.systemDescriptor(selector, types);
    if (!isPresent(descriptor.high)) throw new GuestFault(Vector.NP, selector & 0xfffc);
    const base = this.systemBase(selector, descriptor);
    const busy = descriptor.high | (1 << 9);
    this.access.write(descriptor.address + 4n, 4, BigInt(busy >>> 0), AccessKind.IMPLICIT);
    this.set(Seg.TR, selector, { ...descriptor, high: busy });
    this.s.segBase[Seg.TR] = base;
  }

  systemDescriptor(selector: number, types: readonly number[]): Descriptor {
    if ((selector & 4) !== 0) throw gp(selector & 0xfffc);
    const descriptor = this.descriptor(selector);
    if (!isSystem(descriptor.high) || !types.includes(descriptorType(descriptor.high)))
      throw gp(selector & 0xfffc);
    return descriptor;
  }

  /** Base of an LDT or TSS: 64 bits of it in IA-32e mode, where its descriptor has 16 bytes (SDM vol. 3A, 8.2.3). */
  systemBase(selector: number, descriptor: Descriptor): bigint {
    const low = BigInt(descriptorBase(descriptor));
    if (!isLongModeActive(this.s)) return low;
    this.checkUpperHalf(selector, descriptor);
    const base = (this.upperBase(descriptor) << 32n) | low;
    if (BigInt.asUintN(64, BigInt.asIntN(48, base)) !== base) throw gp(selector & 0xfffc);
    return base;
  }

  /** #GP(selector) where the second half of a 16-byte descriptor lies beyond its table, or has type bits set. */
  checkUpperHalf(selector: number, descriptor: Descriptor): void {
    const { s } = this;
    const limit = (selector & 4) !== 0 ? s.segLimit[Seg.LDTR] : s.gdtrLimit;
    const outside = (selector & 0xfff8) + 15 > limit;
    if (outside || (this.access.read32(descriptor.address + 12n, AccessKind.IMPLICIT) & UPPER_TYPE) !== 0)
      throw gp(selector & 0xfffc);
  }
}
