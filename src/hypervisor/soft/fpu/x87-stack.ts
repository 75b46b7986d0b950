/**
 * The x87 register stack and status word (SDM vol. 1, 8.1 and 8.5): reading and writing stack registers, and the end of
 * an instruction, which records exceptions and finds out whether an unmasked one keeps the result from being written.
 *
 * An instruction clears fpFlags, computes, and ends with `x87Set`, `x87Push` or `x87Commit`.
 */

import { sharedFunction } from "../isa/shared-function.js";
import { O } from "../vcpu-state.js";
import { type I32, type I64, load16U, load32, load64 } from "../wasm/expr.js";
import type { FunctionBuilder } from "../wasm/module.js";
import { Fcw, FpFlag, raise } from "./control.js";
import { i32, i64 } from "./define.js";
import { INDEFINITE_M, INDEFINITE_SE, Operand, setExponent } from "./f80.js";

/** Status word (SDM vol. 1, figure 8-4). */
export const Fsw = {
  EXCEPTIONS: 0x3f,
  SF: 1 << 6,
  ES: 1 << 7,
  C0: 1 << 8,
  C1: 1 << 9,
  C2: 1 << 10,
  TOP_SHIFT: 11,
  TOP: 7 << 11,
  C3: 1 << 14,
  B: 1 << 15,
} as const;
export const CONDITION_CODES = Fsw.C0 | Fsw.C1 | Fsw.C2 | Fsw.C3;

/** Exceptions that, unmasked, keep an instruction from writing its result (SDM vol. 1, 8.7). */
export const BEFORE_COMPUTING = FpFlag.IE | FpFlag.DE | FpFlag.ZE;
/** The same where the result goes to memory. */
export const BEFORE_STORING = BEFORE_COMPUTING | FpFlag.OE | FpFlag.UE;

/** Physical number of ST(i). */
export const physical = (cpu: I32, i: I32 | number): I32 => load32(cpu, O.ftop).add(i).and(7);

/** Address whose O.fpr-relative slot is register `phys`: use with offset O.fpr (fraction) and O.fpr + 8 (exponent). */
export const slot = (cpu: I32, phys: I32): I32 => cpu.add(phys.shl(4));

export interface StackOperand {
  readonly m: I64;
  readonly se: I32;
}

/** ST(i), flagged Operand.EMPTY where it is empty. */
export function readSt(f: FunctionBuilder, cpu: I32, i: I32 | number): StackOperand {
  const phys = f.let(physical(cpu, i));
  const at = f.let(slot(cpu, phys));
  const empty = load32(cpu, O.ftag).shrU(phys).and(1).xor(1).mul(Operand.EMPTY);
  return { m: f.let(load64(at, O.fpr)), se: f.let(load16U(at, O.fpr + 8).or(empty)) };
}

/**
 * Record fpFlags in the status word and clear C1, or set it as fpFlags says. Gives the exceptions among `blocking` that
 * are unmasked. Where one of those that come before computing is unmasked, only those are recorded.
 */
export const x87Commit = sharedFunction("x87_commit", ["i32", "i32"], "i32", (f, _use, cpu, blocking) => {
  const flags = f.local("i32");
  f.set(flags, load32(cpu, O.fpFlags));
  const fsw = f.let(load32(cpu, O.fsw).and(~FpFlag.C1));
  f.if(flags.get.eqz(), () => {
    f.store32(cpu, fsw, O.fsw);
    f.return(i32(0));
  });
  const masks = f.let(load32(cpu, O.fcw).and(Fcw.MASKS));
  const masked = () => flags.get.and(masks.not()).and(Fsw.EXCEPTIONS);
  f.if(masked().and(BEFORE_COMPUTING), () => {
    // A stack fault's C1 stays, a rounding's does not.
    const c1 = flags.get.and(FpFlag.SF).shl(3).and(flags.get);
    f.set(flags, flags.get.and(BEFORE_COMPUTING | FpFlag.SF).or(c1));
  });
  const unmasked = f.let(masked());
  f.store32(cpu, fsw.or(flags.get), O.fsw);
  f.if(unmasked, () => {
    f.store32(cpu, load32(cpu, O.fsw).or(Fsw.ES | Fsw.B), O.fsw);
    f.store32(cpu, i32(1), O.fpuPending);
  });
  f.return(unmasked.and(blocking));
});

/** Write m, fpExp to ST(i) and end; non-zero where an unmasked exception kept it from being written. */
export const x87Set = sharedFunction("x87_set", ["i32", "i32", "i64"], "i32", (f, use, cpu, i, m) => {
  const blocked = f.let(f.call(use(x87Commit), cpu, i32(BEFORE_COMPUTING)));
  f.if(blocked, () => f.return(blocked));
  const phys = f.let(physical(cpu, i));
  const at = f.let(slot(cpu, phys));
  f.store64(at, m, O.fpr);
  f.store16(at, load32(cpu, O.fpExp), O.fpr + 8);
  f.store32(cpu, load32(cpu, O.ftag).or(i32(1).shl(phys)), O.ftag);
  f.return(i32(0));
});

/**
 * Push m, fpExp and end; a stack overflow pushes the default NaN (SDM vol. 1, 8.5.1.1). An underflow found before comes
 * first. Non-zero as `x87Set`, though a denormal operand does not keep it from being pushed.
 */
export const x87Push = sharedFunction("x87_push", ["i32", "i64"], "i32", (f, use, cpu, value) => {
  const m = f.local("i64");
  f.set(m, value);
  const top = f.let(physical(cpu, -1));
  const full = load32(cpu, O.ftag).shrU(top).and(1);
  f.if(full.and(load32(cpu, O.fpFlags).and(FpFlag.SF).eqz()), () => {
    f.store32(cpu, i32(FpFlag.IE | FpFlag.SF | FpFlag.C1), O.fpFlags);
    f.set(m, i64(INDEFINITE_M));
    setExponent(f, cpu, i32(INDEFINITE_SE));
  });
  const blocked = f.let(f.call(use(x87Commit), cpu, i32(FpFlag.IE)));
  f.if(blocked, () => f.return(blocked));
  const at = f.let(slot(cpu, top));
  f.store64(at, m.get, O.fpr);
  f.store16(at, load32(cpu, O.fpExp), O.fpr + 8);
  f.store32(cpu, load32(cpu, O.ftag).or(i32(1).shl(top)), O.ftag);
  f.store32(cpu, top, O.ftop);
  f.return(i32(0));
});

/** Mark ST(0) empty and increment TOP. */
export function popStack(f: FunctionBuilder, cpu: I32): void {
  const top = f.let(load32(cpu, O.ftop));
  f.store32(cpu, load32(cpu, O.ftag).and(i32(1).shl(top).not()), O.ftag);
  f.store32(cpu, top.add(1).and(7), O.ftop);
}

/** The state's fcw, once. */
export const fcwOf = (cpu: I32): I32 => load32(cpu, O.fcw);

/** An operand that is empty is a stack underflow; gives 1 where it was one, after raising it. */
export function raiseIfEmpty(f: FunctionBuilder, cpu: I32, se: I32): I32 {
  const empty = f.let(se.and(Operand.EMPTY));
  f.if(empty, () => raise(f, cpu, FpFlag.IE | FpFlag.SF));
  return empty;
}

/** Set the condition codes, C1 aside. */
export function setCodes(f: FunctionBuilder, cpu: I32, codes: I32): void {
  f.store32(
    cpu,
    load32(cpu, O.fsw)
      .and(~(Fsw.C0 | Fsw.C2 | Fsw.C3))
      .or(codes),
    O.fsw,
  );
}

/**
 * End an instruction with two results: the first to ST(0), then the second pushed; non-zero as `x87Set`. That the stack
 * has room has been checked.
 */
export const x87SetTwo = sharedFunction(
  "x87_set_two",
  ["i32", "i64", "i32", "i64", "i32"],
  "i32",
  (f, use, cpu, m0, se0, m1, se1) => {
    const blocked = f.let(f.call(use(x87Commit), cpu, i32(BEFORE_COMPUTING)));
    f.if(blocked, () => f.return(blocked));
    const top = f.let(physical(cpu, 0));
    const next = f.let(physical(cpu, -1));
    f.store64(slot(cpu, top), m0, O.fpr);
    f.store16(slot(cpu, top), se0, O.fpr + 8);
    f.store64(slot(cpu, next), m1, O.fpr);
    f.store16(slot(cpu, next), se1, O.fpr + 8);
    f.store32(cpu, load32(cpu, O.ftag).or(i32(1).shl(top)).or(i32(1).shl(next)), O.ftag);
    f.store32(cpu, next, O.ftop);
    f.return(i32(0));
  },
);

/** Where there is no room to push: a stack overflow, unless `se`, the operand, is empty. Gives 1 where there is none. */
export function raiseIfFull(f: FunctionBuilder, cpu: I32, se: I32): I32 {
  const full = load32(cpu, O.ftag).shrU(physical(cpu, -1)).and(1);
  const overflow = f.let(full.and(se.and(Operand.EMPTY).eqz()));
  f.if(overflow, () => f.store32(cpu, i32(FpFlag.IE | FpFlag.SF | FpFlag.C1), O.fpFlags));
  return overflow;
}
