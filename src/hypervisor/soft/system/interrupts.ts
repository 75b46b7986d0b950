/** Delivery of interrupts and exceptions through IDT and IVT (SDM vol. 3A, 6.10–6.15; vol. 3B, 21.1.4). */

import type { GuestAccess } from "../mmu/access.js";
import {
  AccessKind,
  Cr0,
  Eflags,
  FAULT_NO_ERROR_CODE,
  Gpr,
  Seg,
  type VcpuState,
  Vector,
} from "../vcpu-state.js";
import { GuestFault, gp } from "./fault.js";
import { cr0Of, isLongModeActive, isProtected, isVirtual8086, readEflags } from "./mode.js";
import {
  type Descriptor,
  descriptorDpl,
  descriptorLimit,
  isCode,
  isConforming,
  isPresent,
  type Segments,
  SystemType,
} from "./segments.js";
import { TransferStack } from "./stack.js";
import type { Transfers } from "./transfers.js";

/** Where an interrupt comes from: it decides about privilege checks, the EXT bit and what a fault in delivery becomes. */
export const EventKind = { EXTERNAL: 0, EXCEPTION: 1, SOFTWARE: 2, PRIVILEGED_SOFTWARE: 3 } as const;
export type EventKind = (typeof EventKind)[keyof typeof EventKind];

const IDT_BIT = 2;
const EXT_BIT = 1;
const L_BIT = 1 << 21;
const D_BIT = 1 << 22;

export class Interrupts {
  /** Events delivered so far: who runs an instruction can see whether it ended in one. */
  delivered = 0;

  constructor(
    readonly s: VcpuState,
    readonly access: GuestAccess,
    readonly segments: Segments,
    readonly transfers: Transfers,
  ) {}

  /** Deliver `vector`; RIP is what the handler returns to. Throws `GuestFault` where delivery itself faults. */
  deliver(vector: number, kind: EventKind, errorCode = FAULT_NO_ERROR_CODE): void {
    const { s } = this;
    if (!isProtected(s)) this.#deliverReal(vector);
    else if (isLongModeActive(s)) this.#deliverLong(vector, kind, errorCode);
    else this.#deliverProtected(vector, kind, errorCode);
    this.delivered++;
  }

  #deliverReal(vector: number): void {
    const { s, access } = this;
    if (vector * 4 + 3 > s.idtrLimit) throw gp(0);
    const entry = access.read32(this.segments.wrap(s.idtrBase + BigInt(vector * 4)), AccessKind.IMPLICIT);
    if ((entry & 0xffff) > s.segLimit[Seg.CS]) throw gp(0);
    const stack = TransferStack.current(s, access);
    stack.push(2, BigInt(readEflags(s)));
    stack.push(2, BigInt(s.segSelector[Seg.CS]));
    stack.push(2, s.rip);
    s.gpr[Gpr.RSP] = stack.pointer;
    s.eflags &= ~(Eflags.IF | Eflags.TF | Eflags.AC | Eflags.RF);
    this.segments.setReal(Seg.CS, entry >>> 16, false);
    s.rip = BigInt(entry & 0xffff);
  }

  #checkGate(gate: Descriptor, types: readonly number[], vector: number, kind: EventKind): void {
    const ext = kind === EventKind.SOFTWARE ? 0 : EXT_BIT;
    const error = vector * 8 + IDT_BIT + ext;
    const type = (gate.high >>> 8) & 0x1f;
    if (!types.includes(type)) throw gp(error);
    if (kind === EventKind.SOFTWARE && descriptorDpl(gate.high) < this.s.cpl) throw gp(error);
    if (!isPresent(gate.high)) throw new GuestFault(Vector.NP, error);
  }

  #target(selector: number, ext: number): Descriptor {
    if ((selector & 0xfffc) === 0) throw gp(ext);
    const target = this.segments.descriptor(selector, Vector.GP, ext);
    const { high } = target;
    const error = (selector & 0xfffc) | ext;
    const long = isLongModeActive(this.s);
    if (!isCode(high) || descriptorDpl(high) > this.s.cpl || (long && (high & (L_BIT | D_BIT)) !== L_BIT))
      throw gp(error);
    if (!isPresent(high)) throw new GuestFault(Vector.NP, error);
    return target;
  }

  #deliverLong(vector: number, kind: EventKind, errorCode: number): void {
    const { s, access, segments } = this;
    const ext = kind === EventKind.SOFTWARE ? 0 : EXT_BIT;
    if (vector * 16 + 15 > s.idtrLimit) throw gp(vector * 8 + IDT_BIT + ext);
    const address = s.idtrBase + BigInt(vector * 16);
    const first = access.read64(address, AccessKind.IMPLICIT);
    const gate: Descriptor = { low: Number(first & 0xffff_ffffn), high: Number(first >> 32n), address };
    this.#checkGate(gate, [SystemType.INTERRUPT_GATE, SystemType.TRAP_GATE], vector, kind);
    const selector = gate.low >>> 16;
    const target = this.#target(selector, ext);
    const upper = BigInt(access.read32(address + 8n, AccessKind.IMPLICIT));
    const rip = (upper << 32n) | BigInt(((gate.high & 0xffff0000) | (gate.low & 0xffff)) >>> 0);
    const conforming = isConforming(target.high);
    const newCpl = conforming ? s.cpl : descriptorDpl(target.high);
    const changes = newCpl < s.cpl;
    const ist = gate.high & 7;
    let pointer = s.gpr[Gpr.RSP];
    if (ist !== 0 || changes) {
      const offset = ist !== 0 ? 28 + 8 * ist : 4 + 8 * newCpl;
      if (offset + 7 > s.segLimit[Seg.TR])
        throw new GuestFault(Vector.TS, (s.segSelector[Seg.TR] & 0xfffc) | ext);
      pointer = access.read64(s.segBase[Seg.TR] + BigInt(offset), AccessKind.IMPLICIT);
    }
    const user = newCpl === 3 ? AccessKind.USER : AccessKind.IMPLICIT;
    const stack = TransferStack.flat(access, pointer & ~0xfn & 0xffff_ffff_ffff_ffffn, ext, user);
    stack.push(8, BigInt(s.segSelector[Seg.SS]));
    stack.push(8, s.gpr[Gpr.RSP]);
    stack.push(8, BigInt(readEflags(s)));
    stack.push(8, BigInt(s.segSelector[Seg.CS]));
    stack.push(8, s.rip);
    if (errorCode !== FAULT_NO_ERROR_CODE) stack.push(8, BigInt(errorCode));
    if (BigInt.asUintN(64, BigInt.asIntN(48, rip)) !== rip) throw gp(ext);
    segments.markAccessed(target);
    segments.set(Seg.CS, (selector & 0xfffc) | newCpl, target);
    s.cpl = newCpl;
    if (changes) segments.setNull(Seg.SS, newCpl);
    s.gpr[Gpr.RSP] = stack.pointer;
    s.rip = rip;
    this.#clearFlags(gate);
  }

  #clearFlags(gate: Descriptor): void {
    const trap = (gate.high & (1 << 8)) !== 0;
    this.s.eflags &= ~(Eflags.TF | Eflags.NT | Eflags.RF | Eflags.VM | (trap ? 0 : Eflags.IF));
  }

  #deliverProtected(vector: number, kind: EventKind, errorCode: number): void {
    const { s, access, segments } = this;
    const ext = kind === EventKind.SOFTWARE ? 0 : EXT_BIT;
    if (vector * 8 + 7 > s.idtrLimit) throw gp(vector * 8 + IDT_BIT + ext);
    const address = segments.wrap(s.idtrBase + BigInt(vector * 8));
    const value = access.read64(address, AccessKind.IMPLICIT);
    const gate: Descriptor = { low: Number(value & 0xffff_ffffn), high: Number(value >> 32n), address };
    this.#checkGate(
      gate,
      [SystemType.INTERRUPT_GATE, SystemType.TRAP_GATE, SystemType.INTERRUPT_GATE16, SystemType.TRAP_GATE16],
      vector,
      kind,
    );
    const wide = (gate.high & (1 << 11)) !== 0;
    const bytes = wide ? 4 : 2;
    const selector = gate.low >>> 16;
    const target = this.#target(selector, ext);
    const rip = BigInt(((wide ? gate.high & 0xffff0000 : 0) | (gate.low & 0xffff)) >>> 0);
    const conforming = isConforming(target.high);
    const newCpl = conforming ? s.cpl : descriptorDpl(target.high);
    const virtual = isVirtual8086(s);
    if (virtual && newCpl !== 0) throw gp((selector & 0xfffc) | ext);
    const flags = readEflags(s);
    const inner = newCpl < s.cpl ? this.transfers.innerStack(newCpl, ext) : undefined;
    const stack = inner?.stack ?? TransferStack.current(s, access);
    if (virtual) {
      for (const seg of [Seg.GS, Seg.FS, Seg.DS, Seg.ES]) stack.push(bytes, BigInt(s.segSelector[seg]));
    }
    if (inner !== undefined) {
      stack.push(bytes, BigInt(s.segSelector[Seg.SS]));
      stack.push(bytes, s.gpr[Gpr.RSP]);
    }
    stack.push(bytes, BigInt(flags));
    stack.push(bytes, BigInt(s.segSelector[Seg.CS]));
    stack.push(bytes, s.rip);
    if (errorCode !== FAULT_NO_ERROR_CODE) stack.push(bytes, BigInt(errorCode));
    if (rip > BigInt(descriptorLimit(target))) throw gp(ext);
    segments.markAccessed(target);
    segments.set(Seg.CS, (selector & 0xfffc) | newCpl, target);
    s.cpl = newCpl;
    this.#clearFlags(gate);
    if (virtual) for (const seg of [Seg.GS, Seg.FS, Seg.DS, Seg.ES]) segments.setNull(seg, 0);
    inner?.commit();
    s.gpr[Gpr.RSP] = stack.pointer;
    s.rip = rip;
  }
}

/** Vectors whose fault during the delivery of another makes a double fault (SDM vol. 3A, table 6-5). */
const CONTRIBUTORY: ReadonlySet<number> = new Set([Vector.DE, Vector.TS, Vector.NP, Vector.SS, Vector.GP]);

/** What follows when `second` comes up while `first` was being delivered. */
export function combineFaults(first: number, second: number): "double" | "shutdown" | "serial" {
  if (first === Vector.DF) return CONTRIBUTORY.has(second) || second === Vector.PF ? "shutdown" : "serial";
  const contributory = CONTRIBUTORY.has(first) && CONTRIBUTORY.has(second);
  const pageFault = first === Vector.PF && (CONTRIBUTORY.has(second) || second === Vector.PF);
  return contributory || pageFault ? "double" : "serial";
}

/** Vectors that push an error code. */
export const HAS_ERROR_CODE: ReadonlySet<number> = new Set([
  Vector.DF,
  Vector.TS,
  Vector.NP,
  Vector.SS,
  Vector.GP,
  Vector.PF,
  Vector.AC,
]);

/** Real mode pushes no error codes. */
export const pushesErrorCode = (s: VcpuState) => (cr0Of(s) & Cr0.PE) !== 0;
