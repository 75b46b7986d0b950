/**
 * Operands of the vector instructions, and makers of definitions for the shapes that most of them have. Legacy SSE
 * instructions ask 16-byte memory operands to be aligned (SDM vol. 2, 2.4, exceptions type 4); those few that do not read
 * theirs themselves.
 */
import { I32, type I64, type V128 } from "../wasm/expr.js";
import type { FunctionBuilder } from "../wasm/module.js";
import { fromInt } from "../wasm/simd.js";
import type { Definition, InstrContext } from "./context.js";
import { enterMmx, readMmx, requireMmx, writeMmx } from "./mmx.js";

/** What an instruction computes from its destination's old value and its source. */
export type VectorBinary = (a: V128, b: V128, f: FunctionBuilder) => V128;
export type VectorUnary = (a: V128, f: FunctionBuilder) => V128;

/** Operand `i`, a register or memory of 16 aligned bytes or of fewer bytes, which come zero-extended. */
export function readSource(x: InstrContext, i: number): V128 {
  const { kind, size } = x.operands[i];
  if (kind === "reg" || size === 16) return x.readVector(i, true);
  return x.f.let(fromInt(x.read(i)));
}

/** The 8-bit immediate, zero-extended. */
export const imm8 = (x: InstrContext): I32 => x.f.let(x.immediate().toI32().and(0xff));

/** dst = f(dst, src). */
export const binary =
  (compute: VectorBinary): Definition =>
  (x) => {
    x.requireSse();
    const b = readSource(x, 1);
    x.writeVector(0, compute(x.readVector(0), b, x.f));
  };

/** dst = f(src). */
export const unary =
  (compute: VectorUnary): Definition =>
  (x) => {
    x.requireSse();
    x.writeVector(0, compute(readSource(x, 1), x.f));
  };

/** dst = f(dst, src, imm8). */
export const binaryImmediate =
  (compute: (a: V128, b: V128, imm: I32, f: FunctionBuilder) => V128): Definition =>
  (x) => {
    x.requireSse();
    const b = readSource(x, 1);
    x.writeVector(0, compute(x.readVector(0), b, imm8(x), x.f));
  };

/** dst = f(src, imm8). */
export const unaryImmediate =
  (compute: (a: V128, imm: I32, f: FunctionBuilder) => V128): Definition =>
  (x) => {
    x.requireSse();
    const a = readSource(x, 1);
    x.writeVector(0, compute(a, imm8(x), x.f));
  };

/** The same shapes on MMX registers: 8 bytes, as the low half of a vector whose high half is not written back. */
export const mmxBinary =
  (compute: VectorBinary): Definition =>
  (x) => {
    requireMmx(x);
    const b = readMmx(x, 1);
    const result = compute(readMmx(x, 0), b, x.f);
    enterMmx(x);
    writeMmx(x, 0, result);
  };

export const mmxUnary =
  (compute: VectorUnary): Definition =>
  (x) => {
    requireMmx(x);
    const result = compute(readMmx(x, 1), x.f);
    enterMmx(x);
    writeMmx(x, 0, result);
  };

export const mmxBinaryImmediate =
  (compute: (a: V128, b: V128, imm: I32, f: FunctionBuilder) => V128): Definition =>
  (x) => {
    requireMmx(x);
    const b = readMmx(x, 1);
    const result = compute(readMmx(x, 0), b, imm8(x), x.f);
    enterMmx(x);
    writeMmx(x, 0, result);
  };

/** `value` or, where it is larger, `limit`, both unsigned. */
export function atMost(f: FunctionBuilder, value: I64, limit: number): I32 {
  const fixed = f.let(value);
  return f.let(fixed.toI32().select(fixed.leU(limit), I32.const(limit)));
}
