/** Stacks during control transfers: pushes and pops in a given width, on the current stack or one being switched to. */
import type { GuestAccess } from "../mmu/access.js";
import { Access, AccessKind, CodeMode, Gpr, Seg, type VcpuState, Vector } from "../vcpu-state.js";
import { GuestFault } from "./fault.js";
import { checksAlignment } from "./mode.js";
import type { Descriptor } from "./segments.js";
import { descriptorBase, descriptorLimit } from "./segments.js";

/** A stack being pushed to or popped from; registers change only at `commit`. */
export class TransferStack {
  constructor(
    readonly access: GuestAccess,
    readonly base: bigint,
    readonly limit: number,
    readonly segAccess: number,
    readonly mask: bigint,
    public pointer: bigint,
    readonly kind: number,
    /** Error code of #SS: the selector of a stack being switched to, else 0. */
    readonly errorCode: number,
    /** Whether a misaligned access is #AC. */
    readonly aligned = false,
  ) {}

  static current(s: VcpuState, access: GuestAccess): TransferStack {
    const long = s.codeMode === CodeMode.LONG64;
    return new TransferStack(
      access,
      long ? 0n : s.segBase[Seg.SS],
      long ? -1 : s.segLimit[Seg.SS],
      s.segAccess[Seg.SS],
      s.spMask,
      s.gpr[Gpr.RSP],
      s.cpl === 3 ? AccessKind.USER : 0,
      0,
      checksAlignment(s),
    );
  }

  /** The 64-bit mode stack at `pointer`, by default used by a supervisor; `errorCode` for #SS. */
  static flat(
    access: GuestAccess,
    pointer: bigint,
    errorCode = 0,
    kind: number = AccessKind.IMPLICIT,
  ): TransferStack {
    return new TransferStack(access, 0n, -1, 0, 0xffff_ffff_ffff_ffffn, pointer, kind, errorCode);
  }

  /** A legacy stack of the privilege level that the transfer goes to. */
  static inner(
    access: GuestAccess,
    descriptor: Descriptor,
    pointer: number,
    errorCode: number,
  ): TransferStack {
    const big = (descriptor.high & (1 << 22)) !== 0;
    return new TransferStack(
      access,
      BigInt(descriptorBase(descriptor)),
      descriptorLimit(descriptor),
      (descriptor.high >>> 8) & 0xf0ff,
      big ? 0xffff_ffffn : 0xffffn,
      BigInt(pointer >>> 0),
      AccessKind.IMPLICIT,
      errorCode,
    );
  }

  #linear(pointer: bigint, bytes: number): bigint {
    const linear = this.#checked(pointer, bytes);
    if (this.aligned && (linear & BigInt(bytes - 1)) !== 0n) throw new GuestFault(Vector.AC, 0);
    return linear;
  }

  #checked(pointer: bigint, bytes: number): bigint {
    if (this.limit < 0) {
      if (BigInt.asUintN(64, BigInt.asIntN(48, pointer)) !== pointer)
        throw new GuestFault(Vector.SS, this.errorCode);
      return pointer;
    }
    const offset = Number(pointer & this.mask);
    const limit = this.limit >>> 0;
    const last = offset + bytes - 1;
    const down = (this.segAccess & Access.EXPAND_DOWN) !== 0 && (this.segAccess & Access.CODE) === 0;
    const upper = (this.segAccess & Access.DB) !== 0 ? 0xffffffff : 0xffff;
    if (down ? offset <= limit || last > upper : last > limit)
      throw new GuestFault(Vector.SS, this.errorCode);
    return (this.base + BigInt(offset)) & 0xffff_ffffn;
  }

  /** The pointer `delta` further, in the stack's width. */
  #moved(delta: number): bigint {
    const { mask, pointer } = this;
    return (pointer & ~mask & 0xffff_ffff_ffff_ffffn) | ((pointer + BigInt(delta)) & mask);
  }

  push(bytes: number, value: bigint): void {
    const next = this.#moved(-bytes);
    this.access.write(this.#linear(next, bytes), bytes, BigInt.asUintN(8 * bytes, value), this.kind);
    this.pointer = next;
  }

  pop(bytes: number): bigint {
    const value = this.access.readSized(this.#linear(this.pointer, bytes), bytes, this.kind);
    this.pointer = this.#moved(bytes);
    return value;
  }

  /** Fault where the `bytes` at the top could not be written. */
  probeTop(bytes: number): void {
    this.access.probeWrite(this.#linear(this.pointer, bytes), bytes);
  }

  skip(bytes: number): void {
    this.pointer = this.#moved(bytes);
  }
}
