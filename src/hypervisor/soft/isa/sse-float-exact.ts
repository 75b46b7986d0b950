/**
 * Between a definition's inline check (sse-float-format) and soft float: zero operands, and programs whose results have all
 * been exact so far, so that MXCSR.PE is still clear. Native arithmetic serves them too, where exactness can be shown.
 */
import { Mxcsr } from "../fpu/control.js";
import { F32, type F64, type I32, type I64, type Int } from "../wasm/expr.js";
import type { FuncRef, FunctionBuilder } from "../wasm/module.js";
import { sharedFunction } from "./shared-function.js";
import {
  asFloat,
  callSoft,
  constantBits,
  DOUBLE,
  type FloatFormat,
  floatBinary,
  floatCompare,
  type LaneFunction,
  notDenormal,
  resultIsNormal,
  roundsNatively,
  SINGLE,
  type Soft,
} from "./sse-float-format.js";

export type Arithmetic = "add" | "sub" | "mul" | "div" | "sqrt";

type Num = F32 | F64;
const sub = (a: Num, b: Num) => floatBinary("sub", a, b);
const equal = (a: Num, b: Num) => floatCompare("eq", a, b);
const double = (a: Num): F64 => (a instanceof F32 ? a.toF64() : a);

/** Whether r = a + b without an error (Knuth, TAOCP vol. 2, 4.2.2, theorem B: the error of a sum is itself a number). */
function sumIsExact(f: FunctionBuilder, a: Num, b: Num, r: Num): I32 {
  const bPart = f.let(sub(r, a));
  const aPart = f.let(sub(r, bPart));
  return equal(a, aPart).and(equal(b, bPart));
}

/** Whether r = a · b without an error: in double precision where that holds all products, else by counting significant bits. */
function productIsExact(format: FloatFormat, aBits: Int, bBits: Int, a: Num, b: Num, r: Num): I32 {
  if (format.type === "i32") return equal(floatBinary("mul", double(a), double(b)), double(r));
  const significand = format.fractionBits + 1;
  // The lowest fraction bit set, or the integer bit above the fraction.
  const zeros = (bits: Int): I64 =>
    (bits as I64).or(constantBits(format, 1n << BigInt(format.fractionBits))).ctz() as I64;
  const enough = zeros(aBits).add(zeros(bBits)).geU(significand);
  return enough.and(equal(floatBinary("mul", a, b), r));
}

/** (cpu, a, b, mxcsr) → bits; for sqrt, b is a. */
function exactOrSoft(format: FloatFormat, name: Arithmetic): Soft {
  const { type } = format;
  return sharedFunction(
    `sse_${name}_${format.shape}_lane`,
    ["i32", type, type, "i32"] as const,
    type,
    (f, use, cpu, aBits: Int, bBits: Int, mxcsr) => {
      const a = asFloat(aBits);
      const b = asFloat(bBits);
      const r = f.let(name === "sqrt" ? (a as F64).unary("sqrt") : floatBinary(name, a, b));
      const rBits = f.let(r.bits() as Int);
      const isZero = (bits: Int) => bits.shl(constantBits(format, 1n)).eq(constantBits(format, 0n));
      /** Whether a zero result comes from zeros, or from numbers that cancel. */
      const trueZero: Record<Arithmetic, () => I32> = {
        add: () => isZero(rBits),
        sub: () => isZero(rBits),
        mul: () => isZero(rBits).and(isZero(aBits).or(isZero(bBits))),
        div: () => isZero(rBits).and(isZero(aBits)),
        sqrt: () => isZero(rBits),
      };
      const isExact: Record<Arithmetic, () => I32> = {
        add: () => sumIsExact(f, a, b, r),
        sub: () => sumIsExact(f, a, (b as F64).unary("neg"), r),
        mul: () => productIsExact(format, aBits, bBits, a, b, r),
        div: () => productIsExact(format, rBits, bBits, r, b, a),
        sqrt: () => productIsExact(format, rBits, rBits, r, r, a),
      };
      const mayBeNative = mxcsr
        .and(Mxcsr.RC)
        .eqz()
        .and(notDenormal(format, aBits))
        .and(notDenormal(format, bBits));
      f.if(mayBeNative, () => {
        f.if(trueZero[name](), () => f.return(rBits));
        f.if(resultIsNormal(format, rBits), () => {
          f.if(roundsNatively(mxcsr), () => f.return(rBits));
          f.if(isExact[name](), () => f.return(rBits));
        });
      });
      const operands = name === "sqrt" ? [aBits] : [aBits, bBits];
      f.return(callSoft(f, use(format.soft[name] as never) as FuncRef, cpu, ...operands, mxcsr));
    },
  ) as unknown as Soft;
}

const NAMES: readonly Arithmetic[] = ["add", "sub", "mul", "div", "sqrt"];
const lanes = (format: FloatFormat): Record<Arithmetic, LaneFunction> =>
  Object.fromEntries(
    NAMES.map((name): [Arithmetic, LaneFunction] => {
      const g = exactOrSoft(format, name);
      return [name, (f, use, cpu, mxcsr, a, b) => callSoft(f, use(g) as FuncRef, cpu, a, b, mxcsr)];
    }),
  ) as Record<Arithmetic, LaneFunction>;
const LANES = { f32x4: lanes(SINGLE), f64x2: lanes(DOUBLE) };

/** What a slow function does for a lane of `name`. */
export const arithmeticLane = (format: FloatFormat, name: Arithmetic): LaneFunction =>
  LANES[format.shape][name];
