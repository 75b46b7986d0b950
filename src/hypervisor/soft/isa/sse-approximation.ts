/**
 * RCPPS, RCPSS, RSQRTPS, RSQRTSS. Processors differ in their results; all promise a relative error of at most 1.5 · 2^-12 and
 * raise no exceptions (SDM vol. 2, RCPPS). These are rounded to nearest, better than that, whatever MXCSR says.
 */
import type { V128 } from "../wasm/expr.js";
import type { FunctionBuilder } from "../wasm/module.js";
import { dwords, v } from "../wasm/simd.js";
import type { Definition } from "./context.js";
import { mergeLow } from "./sse-moves.js";
import { readSource } from "./vector-operands.js";

const EXPONENT = dwords(0x7f800000);
const SIGN = dwords(0x80000000);
const QUIET = dwords(0x00400000);
const DEFAULT_NAN = dwords(0xffc00000);
const ONE = dwords(0x3f800000);
const ZERO = dwords(0);

/** Denormal numbers become zeros of their sign, as operands and as results. */
const flush = (a: V128): V128 =>
  v("v128.andnot", a, v("v128.andnot", v("i32x4.eq", v("v128.and", a, EXPONENT), ZERO), SIGN));

const quietNan = (source: V128, result: V128): V128 =>
  v("v128.bitselect", v("v128.or", source, QUIET), result, v("f32x4.ne", source, source));

export const reciprocal = (a: V128, f: FunctionBuilder): V128 => {
  const result = f.let(v("f32x4.div", ONE, flush(a)));
  return quietNan(a, flush(result));
};

export const reciprocalSquareRoot = (a: V128, f: FunctionBuilder): V128 => {
  const operand = f.let(flush(a));
  const root = v("f32x4.div", ONE, v("f32x4.sqrt", operand));
  const result = v("v128.bitselect", DEFAULT_NAN, root, v("f32x4.lt", operand, ZERO));
  return quietNan(a, result);
};

export const scalarApproximation =
  (compute: typeof reciprocal): Definition =>
  (x) => {
    x.requireSse();
    const b = readSource(x, 1);
    const result = x.f.let(compute(b, x.f));
    x.writeVector(0, mergeLow(x.readVector(0), result, 4));
  };
