/**
 * Packed shifts. The count is the low 64 bits of a register or memory operand, or the immediate; a count past the lane's
 * width gives zeros, or copies of the sign for PSRA (SDM vol. 2, PSLLW and following). wasm takes its count modulo the width.
 */
import type { I32, I64, V128 } from "../wasm/expr.js";
import type { FunctionBuilder } from "../wasm/module.js";
import { IOTA, lane64, selectVector, shuffleLanes, v, ZERO } from "../wasm/simd.js";
import type { Definition } from "./context.js";
import { enterMmx, readMmx, requireMmx, writeMmx } from "./mmx.js";
import { atMost, readSource, type VectorBinary } from "./vector-operands.js";

type Shape = "i16x8" | "i32x4" | "i64x2";
type Direction = "shl" | "shr_u" | "shr_s";
const WIDTH: Record<Shape, number> = { i16x8: 16, i32x4: 32, i64x2: 64 };

function shift(shape: Shape, direction: Direction, a: V128, count: I64, f: FunctionBuilder): V128 {
  const width = WIDTH[shape];
  const fixed = f.let(count);
  if (direction === "shr_s") return v(`${shape}.shr_s`, a, atMost(f, fixed, width - 1));
  return selectVector(fixed.ltU(width), v(`${shape}.${direction}`, a, fixed.toI32()), ZERO);
}

/** Count in operand 1. */
export const shiftByVector =
  (shape: Shape, direction: Direction): VectorBinary =>
  (a, b, f) =>
    shift(shape, direction, a, lane64(b, 0), f);

/** Count in the immediate; operand 0 is the only register. */
export const shiftByImmediate =
  (shape: Shape, direction: Direction): Definition =>
  (x) => {
    x.requireSse();
    x.writeVector(0, shift(shape, direction, x.readVector(0), x.immediate().and(0xff), x.f));
  };
export const mmxShiftByImmediate =
  (shape: Shape, direction: Direction): Definition =>
  (x) => {
    requireMmx(x);
    const result = shift(shape, direction, readMmx(x, 0), x.immediate().and(0xff), x.f);
    enterMmx(x);
    writeMmx(x, 0, result);
  };

// Whole-register byte shifts: swizzle gives 0 for an index past 15, and a negative index is one.

const indexPlus = (offset: I32): V128 => v("i8x16.add", IOTA, v("i8x16.splat", offset));

/** PSLLDQ, PSRLDQ. */
export const shiftBytes =
  (direction: "left" | "right"): Definition =>
  (x) => {
    x.requireSse();
    const count = atMost(x.f, x.immediate().and(0xff), 16);
    const offset = direction === "left" ? count.neg() : count;
    x.writeVector(0, v("i8x16.swizzle", x.readVector(0), indexPlus(offset)));
  };

/** PALIGNR: 16 bytes at byte imm of the 32-byte value a:b. */
export const alignRight: Definition = (x) => {
  x.requireSse();
  const b = readSource(x, 1);
  const offset = atMost(x.f, x.immediate().and(0xff), 32);
  const low = v("i8x16.swizzle", b, indexPlus(offset));
  const high = v("i8x16.swizzle", x.readVector(0), indexPlus(offset.sub(16)));
  x.writeVector(0, v("v128.or", low, high));
};

/** The same with 8 bytes at byte imm of a 16-byte value. */
export const mmxAlignRight: Definition = (x) => {
  requireMmx(x);
  const both = shuffleLanes(8, readMmx(x, 1), readMmx(x, 0), [0, 2]);
  const offset = atMost(x.f, x.immediate().and(0xff), 16);
  const result = v("i8x16.swizzle", both, indexPlus(offset));
  enterMmx(x);
  writeMmx(x, 0, result);
};
