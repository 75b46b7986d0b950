/** Arithmetic flags of integer operations (SDM vol. 1, 3.4.3.1), and small helpers of integer definitions. */
import { I32, type I64, type Int } from "../wasm/expr.js";
import { type InstrContext, LaterFlags, type OperandSize } from "./context.js";

/** The low `size` bytes of `value`: 8- and 16-bit values live zero-extended in i32. */
export function truncate(value: Int, size: OperandSize): Int {
  if (size === 1) return value.and(0xff);
  if (size === 2) return value.and(0xffff);
  return value;
}

/** Zero-extended value of `size` bytes to the type that holds `to` bytes. */
export function resize(value: Int, to: OperandSize): Int {
  return truncate(to === 8 ? value.toI64U() : value.toI32(), to);
}

/** Value of `size` bytes, sign-extended to the type that holds it. */
export function signed(value: Int, size: OperandSize): Int {
  if (size === 1) return value.extend8S();
  if (size === 2) return value.extend16S();
  return value;
}

/** The sign bit, 0 or 1. */
export function signBit(value: Int, size: OperandSize): Int {
  const shifted = value.shrU(8 * size - 1);
  return size < 4 ? shifted.and(1) : shifted;
}

/** An integer constant of the type that holds `size` bytes. */
export function constant(size: OperandSize, value: number): Int {
  return size === 8 ? I64_ZERO.like(value) : I32.const(value);
}

import { I64 as I64Class } from "../wasm/expr.js";

const I64_ZERO: I64 = I64Class.const(0);

export function flagsAdd(x: InstrContext, a: Int, b: Int, r: Int, size = x.size): void {
  x.setFlags({
    cf: r.ltU(a),
    of: signBit(a.xor(r).and(b.xor(r)), size),
    af: a.xor(b).xor(r),
    result: r,
    later: { kind: LaterFlags.SUM, a, b, size },
  });
}

/** After a + b + carry. */
export function flagsAdc(x: InstrContext, a: Int, b: Int, r: Int, size = x.size): void {
  x.setFlags({
    cf: signBit(a.and(b).or(a.or(b).and(r.not())), size),
    of: signBit(a.xor(r).and(b.xor(r)), size),
    af: a.xor(b).xor(r),
    result: r,
    later: { kind: LaterFlags.SUM, a, b, size },
  });
}

export function flagsSub(x: InstrContext, a: Int, b: Int, r: Int, size = x.size): void {
  x.setFlags({
    cf: a.ltU(b),
    of: signBit(a.xor(b).and(a.xor(r)), size),
    af: a.xor(b).xor(r),
    result: r,
    compare: { a, b, size },
    later: { kind: LaterFlags.DIFFERENCE, a, b, size },
  });
}

/** After a − b − borrow. */
export function flagsSbb(x: InstrContext, a: Int, b: Int, r: Int, size = x.size): void {
  x.setFlags({
    cf: signBit(a.not().and(b).or(a.xor(b).not().and(r)), size),
    of: signBit(a.xor(b).and(a.xor(r)), size),
    af: a.xor(b).xor(r),
    result: r,
    later: { kind: LaterFlags.DIFFERENCE, a, b, size },
  });
}

export function flagsLogic(x: InstrContext, r: Int): void {
  const zero = I32.const(0);
  const later = { kind: LaterFlags.LOGIC, a: r, b: r, size: x.size };
  x.setFlags({ cf: zero, of: zero, af: zero, result: r, later });
}
