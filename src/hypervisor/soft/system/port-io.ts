/**
 * IN, OUT, INS and OUTS (SDM vol. 1, chapter 19): permission, the in-hypervisor devices, and exits for all others.
 */
import type { IrqChip } from "../irqchip/irqchip.js";
import type { GuestAccess } from "../mmu/access.js";
import { AccessKind, CodeMode, Eflags, Gpr, Leave, Seg, type VcpuState } from "../vcpu-state.js";
import type { DebugUnit } from "./debug.js";
import { gp } from "./fault.js";
import { ioplOf, isLongModeActive, isProtected, isVirtual8086 } from "./mode.js";
import { type OperationContext, readGpr, recordField, writeGpr } from "./operations.js";
import type { Segments } from "./segments.js";

/** Values of `state.ioPending`: what the next run does with the answer to a port read. */
export const IoPending = { NONE: 0, IN: 1, INS: 2, INS_READY: 3 } as const;

export interface PortExit {
  port: number;
  size: number;
  isWrite: boolean;
  value: number;
}

export class PortIo {
  #pending: PortExit | undefined;

  constructor(
    readonly s: VcpuState,
    readonly access: GuestAccess,
    readonly irqchip: IrqChip,
    readonly segments: Segments,
    readonly debug: DebugUnit,
  ) {}

  /** The access of the last operation that the machine has to serve. */
  takePending(): PortExit | undefined {
    const pending = this.#pending;
    this.#pending = undefined;
    return pending;
  }

  /** The I/O permission bit map of the TSS (SDM vol. 1, 19.5.2). */
  #checkPermission(port: number, size: number): void {
    const { s } = this;
    if (!isProtected(s) || (!isVirtual8086(s) && s.cpl <= ioplOf(s))) return;
    const wide = (s.segAccess[Seg.TR] & 0x8) !== 0 || isLongModeActive(s);
    const limit = s.segLimit[Seg.TR];
    if (!wide || limit < 103) throw gp(0);
    const map = this.access.read16(s.segBase[Seg.TR] + 102n, AccessKind.IMPLICIT);
    const at = map + (port >>> 3);
    if (at + 1 > limit) throw gp(0);
    const bits = this.access.read16(s.segBase[Seg.TR] + BigInt(at), AccessKind.IMPLICIT);
    if (((bits >> (port & 7)) & ((1 << size) - 1)) !== 0) throw gp(0);
  }

  in(c: OperationContext, port: number): void {
    this.#checkPermission(port, c.size);
    this.debug.io(port, c.size);
    if (this.irqchip.claimsPort(port)) {
      writeGpr(this.s, Gpr.RAX, BigInt(this.irqchip.readPort(port, c.size)), c.size);
      return;
    }
    this.s.ioPending = IoPending.IN;
    this.s.ioData = c.size;
    this.#pending = { port, size: c.size, isWrite: false, value: 0 };
  }

  /** `in`'s second half. */
  completeIn(value: number): void {
    writeGpr(this.s, Gpr.RAX, BigInt(value), this.s.ioData);
    this.s.ioPending = IoPending.NONE;
  }

  #write(port: number, size: number, value: number): void {
    if (this.irqchip.claimsPort(port)) this.irqchip.writePort(port, size, value);
    else this.#pending = { port, size, isWrite: true, value };
  }

  out(c: OperationContext, port: number): void {
    this.#checkPermission(port, c.size);
    this.debug.io(port, c.size);
    this.#write(port, c.size, Number(readGpr(this.s, Gpr.RAX, c.size)));
  }

  #linear(c: OperationContext, seg: Seg, register: number, write: boolean): bigint {
    const { s } = this;
    const offset = readGpr(s, register, c.addressSize);
    if (s.codeMode === CodeMode.LONG64) {
      const base = seg === Seg.FS || seg === Seg.GS ? s.segBase[seg] : 0n;
      return BigInt.asUintN(64, base + offset);
    }
    return this.segments.linear(seg, offset, c.size, write);
  }

  /** One element is done: move the index register, count down; RIP stays where another is to come. */
  #advance(c: OperationContext, register: number): void {
    const { s } = this;
    const step = BigInt((s.eflags & Eflags.DF) !== 0 ? -c.size : c.size);
    writeGpr(s, register, readGpr(s, register, c.addressSize) + step, c.addressSize);
    if (c.rep === 0) return;
    const count = readGpr(s, Gpr.RCX, c.addressSize) - 1n;
    writeGpr(s, Gpr.RCX, count, c.addressSize);
    if (count === 0n) return;
    s.rip = c.startRip;
    s.leave = Leave.REPEAT;
  }

  ins(c: OperationContext): void {
    const { s } = this;
    const port = Number(readGpr(s, Gpr.RDX, 2));
    // Asked for even where there is nothing to move.
    this.#checkPermission(port, c.size);
    if (c.rep !== 0 && readGpr(s, Gpr.RCX, c.addressSize) === 0n) return;
    this.debug.io(port, c.size);
    const address = this.#linear(c, Seg.ES, Gpr.RDI, true);
    let value: number;
    if (s.ioPending === IoPending.INS_READY) value = s.ioData;
    else if (this.irqchip.claimsPort(port)) value = this.irqchip.readPort(port, c.size);
    else {
      // Before the port is read, so that a page fault does not lose what was read.
      this.access.probeWrite(address, c.size);
      s.ioPending = IoPending.INS;
      s.rip = c.startRip;
      this.#pending = { port, size: c.size, isWrite: false, value: 0 };
      return;
    }
    this.access.store(address, c.size, BigInt(value));
    // Only now: the store may have had to wait for the machine, and INS is run again after that.
    s.ioPending = IoPending.NONE;
    this.#advance(c, Gpr.RDI);
  }

  outs(c: OperationContext): void {
    const { s } = this;
    const port = Number(readGpr(s, Gpr.RDX, 2));
    this.#checkPermission(port, c.size);
    if (c.rep !== 0 && readGpr(s, Gpr.RCX, c.addressSize) === 0n) return;
    const value = this.access.load(this.#linear(c, recordField(c, 2) as Seg, Gpr.RSI, false), c.size);
    this.debug.io(port, c.size);
    this.#advance(c, Gpr.RSI);
    this.#write(port, c.size, Number(value));
  }
}
