/**
 * Single and double precision for the SSE definitions: formats, lanes as bits, and the two ways to compute.
 *
 * wasm's own operations round to nearest, raise no flags and leave NaN payloads open. So a definition computes with them and
 * checks that nothing can differ: no NaN, no denormal operand, no overflow or tiny result, rounding to nearest, and
 * the precision exception already recorded and masked. Where the check fails it calls a `slow` function, which
 * computes with soft float (fpu/sse-float), records the exceptions in MXCSR and leaves those that are not masked in
 * state.fpFlags; `faultUnmasked` raises them before anything is written (SDM vol. 1, 11.5).
 */
import { FpFlag, Mxcsr } from "../fpu/control.js";
import { mxcsrCommit, SF32, SF64 } from "../fpu/sse-float.js";
import { Cr4, O, Vector } from "../vcpu-state.js";
import { type Expr, type F32, type F64, I32, I64, type Int, load32, V128 } from "../wasm/expr.js";
import type { FuncRef, FunctionBuilder } from "../wasm/module.js";
import {
  dwords,
  lane,
  lane64,
  laneF32,
  laneF64,
  qwords,
  test,
  v,
  withLane,
  withLane64,
  withLaneF32,
  withLaneF64,
  ZERO,
} from "../wasm/simd.js";
import type { InstrContext, SharedFunction } from "./context.js";
import { sharedFunction, type Use } from "./shared-function.js";

export interface FloatFormat {
  readonly shape: "f32x4" | "f64x2";
  readonly ints: "i32x4" | "i64x2";
  readonly type: "i32" | "i64";
  readonly size: 4 | 8;
  readonly lanes: 4 | 2;
  readonly fractionBits: number;
  /** The exponent field's bits. */
  readonly exponent: bigint;
  readonly sign: bigint;
  readonly soft: typeof SF32 | typeof SF64;
}

export const SINGLE: FloatFormat = {
  shape: "f32x4",
  ints: "i32x4",
  type: "i32",
  size: 4,
  lanes: 4,
  fractionBits: 23,
  exponent: 0x7f800000n,
  sign: 1n << 31n,
  soft: SF32,
};
export const DOUBLE: FloatFormat = {
  shape: "f64x2",
  ints: "i64x2",
  type: "i64",
  size: 8,
  lanes: 2,
  fractionBits: 52,
  exponent: 0x7ff0000000000000n,
  sign: 1n << 63n,
  soft: SF64,
};

// --- values as bits ---

export const constantBits = ({ type }: FloatFormat, value: bigint): Int =>
  type === "i32" ? I32.const(Number(BigInt.asIntN(32, value))) : I64.const(value);
export const splatBits = ({ type }: FloatFormat, value: bigint): V128 =>
  type === "i32" ? dwords(Number(value)) : qwords(value);
export const laneBits = ({ type }: FloatFormat, a: V128, n: number): Int =>
  type === "i32" ? lane("i32x4", a, n) : lane64(a, n);
export const withLaneBits = (format: FloatFormat, a: V128, n: number, value: Int): V128 =>
  format.type === "i32" ? withLane("i32x4", a, n, value as I32) : withLane64(a, n, value as I64);
export const asFloat = (bits: Int): F32 | F64 => (bits instanceof I32 ? bits.asF32() : (bits as I64).asF64());
const laneFloat = ({ type }: FloatFormat, a: V128, n: number): F32 | F64 =>
  type === "i32" ? laneF32(a, n) : laneF64(a, n);

const withLaneFloat = ({ type }: FloatFormat, a: V128, n: number, value: F32 | F64): V128 =>
  type === "i32" ? withLaneF32(a, n, value as F32) : withLaneF64(a, n, value as F64);

type FloatBinaryOp = Parameters<F32["binary"]>[0];
type FloatCompareOp = Parameters<F32["compare"]>[0];
/** The wasm operation on two numbers of one format. */
export const floatBinary = (op: FloatBinaryOp, a: F32 | F64, b: F32 | F64): F32 | F64 =>
  (a as F64).binary(op, b as F64);
export const floatCompare = (op: FloatCompareOp, a: F32 | F64, b: F32 | F64): I32 =>
  (a as F64).compare(op, b as F64);

/** A number as bits, for checks, and as what native arithmetic takes: on its own, so that it need not wait for the bits. */
export interface Scalar {
  readonly bits: Int;
  readonly value: F32 | F64;
}

export const scalarLane = (f: FunctionBuilder, format: FloatFormat, a: V128): Scalar => ({
  bits: f.let(laneBits(format, a, 0)),
  value: f.let(laneFloat(format, a, 0)),
});

/** Source operand 1: a register's low lane, or memory of the format's size. */
export function scalarSource(x: InstrContext, format: FloatFormat): Scalar {
  if (x.operands[1].kind === "reg") return scalarLane(x.f, format, x.readVector(1));
  const bits = x.read(1);
  return { bits, value: x.f.let(asFloat(bits)) };
}

// --- checks: 0 or not 0 ---

const NATIVE_ROUNDING = Mxcsr.RC | FpFlag.PE | (FpFlag.PE << Mxcsr.MASK_SHIFT);
/** Rounding as wasm rounds, and an inexact result changes nothing. */
export const roundsNatively = (mxcsr: I32): I32 =>
  mxcsr.and(NATIVE_ROUNDING).eq(FpFlag.PE | (FpFlag.PE << Mxcsr.MASK_SHIFT));
/** The same where rounding is not up to MXCSR. */
export const inexactIsFree = (mxcsr: I32): I32 =>
  mxcsr.and(FpFlag.PE | (FpFlag.PE << Mxcsr.MASK_SHIFT)).eq(FpFlag.PE | (FpFlag.PE << Mxcsr.MASK_SHIFT));

/** Twice the least normal number, as an exponent field: a result from here on was not tiny before rounding. */
const clearOfTiny = ({ fractionBits }: FloatFormat): bigint => 2n << BigInt(fractionBits);

/** A finite result, clear of the tiny ones. */
export const resultIsNormal = (format: FloatFormat, bits: Int): I32 =>
  bits
    .and(constantBits(format, format.exponent))
    .sub(constantBits(format, clearOfTiny(format)))
    .ltU(constantBits(format, format.exponent - clearOfTiny(format)));
/** Neither zero nor denormal. */
export const hasExponent = (format: FloatFormat, bits: Int): I32 =>
  bits.and(constantBits(format, format.exponent)).ne(constantBits(format, 0n));
/** Anything but a denormal number: where twice the bits, less one, wraps around or has an exponent. */
export const notDenormal = (format: FloatFormat, bits: Int): I32 =>
  bits
    .shl(constantBits(format, 1n))
    .sub(constantBits(format, 1n))
    .geU(constantBits(format, clearOfTiny(format) - 1n));
export const isOrdered = (a: F32 | F64): I32 => floatCompare("eq", a, a);

/** Neither NaN nor denormal. */
export const isPlain = (format: FloatFormat, { bits, value }: Scalar): I32 =>
  notDenormal(format, bits).and(isOrdered(value));

/** The same for all lanes of vectors; `lanes` bit i: lane i counts. */
export const allResultsNormal = (format: FloatFormat, r: V128): V128 => {
  // Unsigned below by signed comparison, as i64x2 has no other: both sides moved by the sign bit.
  const moved = v(
    `${format.ints}.sub`,
    v("v128.and", r, splatBits(format, format.exponent)),
    splatBits(format, clearOfTiny(format) + format.sign),
  );
  const limit = BigInt.asUintN(8 * format.size, format.exponent - clearOfTiny(format) + format.sign);
  return v(`${format.ints}.lt_s`, moved, splatBits(format, limit));
};
export const allHaveExponents = (format: FloatFormat, a: V128): V128 =>
  v(`${format.ints}.ne`, v("v128.and", a, splatBits(format, format.exponent)), ZERO);
/** Neither NaN nor denormal, in all lanes. */
export const allPlain = (format: FloatFormat, a: V128, f: FunctionBuilder): V128 => {
  const magnitude = f.let(v("v128.and", a, splatBits(format, format.sign - 1n)));
  const least = splatBits(format, 1n << BigInt(format.fractionBits));
  const notSmall = v(`${format.ints}.ge_s`, magnitude, least);
  const zero = v(`${format.ints}.eq`, magnitude, ZERO);
  const notNan = v(`${format.ints}.le_s`, magnitude, splatBits(format, format.exponent));
  return v("v128.and", v("v128.or", notSmall, zero), notNan);
};
export const allTrue = (format: FloatFormat, a: V128): I32 => test(`${format.ints}.all_true`, a);

// --- slow functions ---

/** Calls a shared function whose parameter types follow a format. */
export const callSoft = (f: FunctionBuilder, g: FuncRef, ...args: readonly Expr[]): Int =>
  f.call(g as unknown as FuncRef<readonly [], "i32">, ...(args as unknown as [])) as Int;

export type Soft = SharedFunction;
/** What a slow function computes for one lane. */
export type LaneFunction = (
  f: FunctionBuilder,
  use: Use,
  cpu: I32,
  mxcsr: I32,
  a: Int,
  b: Int,
  lane: number,
) => Int;

/** A native result, and whether it is right where MXCSR rounds natively: for operands that the inline check is too strict for. */
export interface Quick<E extends Expr> {
  readonly result: E;
  readonly ok: I32;
}

/** Clear fpFlags before, record them after; what must be raised is left in fpFlags. */
function recording(
  f: FunctionBuilder,
  use: Use,
  cpu: I32,
  compute: (mxcsr: I32) => Expr,
  quick?: () => Quick<Expr>,
): void {
  f.store32(cpu, I32.const(0), O.fpFlags);
  const mxcsr = f.let(load32(cpu, O.mxcsr));
  if (quick !== undefined) {
    const { result, ok } = quick();
    f.if(roundsNatively(mxcsr).and(ok), () => f.return(result));
  }
  const result = f.let(compute(mxcsr));
  f.store32(cpu, f.call(use(mxcsrCommit), cpu), O.fpFlags);
  f.return(result);
}

/** (cpu, a, b) → bits, for scalars. */
export const slowScalar = (
  format: FloatFormat,
  name: string,
  compute: LaneFunction,
  quick?: (f: FunctionBuilder, a: Int, b: Int) => Quick<Int>,
): Soft =>
  sharedFunction(
    `sse_${name}_${format.shape}_scalar`,
    ["i32", format.type, format.type],
    format.type,
    (f, use, cpu, a: Int, b: Int) =>
      recording(
        f,
        use,
        cpu,
        (mxcsr) => compute(f, use, cpu, mxcsr, a, b, 0),
        quick && (() => quick(f, a, b)),
      ),
  ) as unknown as Soft;

/** (cpu, a, b) → v128, lane by lane. */
export const slowPacked = (
  format: FloatFormat,
  name: string,
  compute: LaneFunction,
  quick?: (f: FunctionBuilder, a: V128, b: V128) => Quick<V128>,
): Soft =>
  sharedFunction(
    `sse_${name}_${format.shape}`,
    ["i32", "v128", "v128"] as const,
    "v128",
    (f, use, cpu, a, b) => {
      const lanes = (mxcsr: I32) => {
        let result: V128 = ZERO;
        for (let n = 0; n < format.lanes; n++) {
          const bits = compute(
            f,
            use,
            cpu,
            mxcsr,
            f.let(laneBits(format, a, n)),
            f.let(laneBits(format, b, n)),
            n,
          );
          result = f.let(withLaneBits(format, result, n, bits));
        }
        return result;
      };
      recording(f, use, cpu, lanes, quick && (() => quick(f, a, b)));
    },
  ) as unknown as Soft;

/** (cpu, a, b, immediate) → v128, for what works on whole vectors. */
export const slowVector = (
  name: string,
  compute: (f: FunctionBuilder, use: Use, cpu: I32, mxcsr: I32, a: V128, b: V128, imm: I32) => V128,
): Soft =>
  sharedFunction(`sse_${name}`, ["i32", "v128", "v128", "i32"] as const, "v128", (f, use, cpu, a, b, imm) =>
    recording(f, use, cpu, (mxcsr) => compute(f, use, cpu, mxcsr, a, b, imm)),
  ) as unknown as Soft;

/**
 * After a slow function: #XM for an exception that is not masked, or #UD where the system has not said that it handles
 * #XM (SDM vol. 3A, 2.5, CR4.OSXMMEXCPT).
 */
export function faultUnmasked(x: InstrContext): void {
  const unmasked = x.field32(O.fpFlags);
  const handled = x.field32(O.cr4).and(Cr4.OSXMMEXCPT);
  x.faultIf(handled.select(unmasked, 0), Vector.XM);
  x.faultIf(unmasked, Vector.UD);
}

/** `fast` where `ok`, else the slow function's result. The result is safe to write. */
export function fastOrSlow<E extends Expr>(
  x: InstrContext,
  ok: I32,
  fast: E,
  slow: Soft,
  ...args: readonly Expr[]
): E {
  const { f } = x;
  const result = f.temporary(fast.type);
  f.if(
    ok,
    () => f.set(result, fast as never),
    () => {
      f.set(result, callSoft(f, x.shared(slow) as FuncRef, x.cpu, ...args) as never);
      faultUnmasked(x);
    },
  );
  return result.get as unknown as E;
}

/** `old` with its low lane replaced by a scalar's result: `fast` where `ok`, else the slow function's bits. */
export function fastOrSlowScalar(
  x: InstrContext,
  format: FloatFormat,
  old: V128,
  ok: I32,
  fast: F32 | F64 | V128,
  slow: Soft,
  ...args: readonly Expr[]
): V128 {
  const { f } = x;
  const result = f.temporary("v128");
  const lane = fast instanceof V128 ? fast : withLaneFloat(format, old, 0, fast);
  if (ok.constant !== undefined && ok.constant !== 0n) return lane;
  f.if(
    ok,
    () => f.set(result, lane),
    () => {
      const bits = callSoft(f, x.shared(slow) as FuncRef, x.cpu, ...args);
      f.set(result, withLaneBits(format, old, 0, bits));
      faultUnmasked(x);
    },
  );
  return result.get;
}
