/**
 * Conversions between integers, single and double precision (SDM vol. 2, CVT…). As in sse-float-format, wasm's own
 * conversions serve where they are sure to agree. An integer that does not fit gives the integer indefinite value,
 * 0x80…, and is invalid; wasm's saturating truncation gives an extreme value or 0 there, which the checks find.
 */
import { MXCSR_RC_ZERO } from "../fpu/control.js";
import { SF32, SF64 } from "../fpu/sse-float.js";
import { O } from "../vcpu-state.js";
import { type F32, type F64, I32, I64, type Int, type V128 } from "../wasm/expr.js";
import type { FuncRef } from "../wasm/module.js";
import {
  dwords,
  lane,
  lane64,
  shuffleLanes,
  test,
  type VectorOp,
  v,
  withLane,
  withLane64,
  ZERO,
} from "../wasm/simd.js";
import type { Definition, InstrContext } from "./context.js";
import { enterMmx, readMmx, requireMmx, writeMmx } from "./mmx.js";
import {
  allPlain,
  allResultsNormal,
  allTrue,
  callSoft,
  DOUBLE,
  type FloatFormat,
  fastOrSlow,
  fastOrSlowScalar,
  floatCompare,
  inexactIsFree,
  isOrdered,
  laneBits,
  notDenormal,
  resultIsNormal,
  roundsNatively,
  SINGLE,
  scalarSource,
  slowScalar,
  slowVector,
} from "./sse-float-format.js";
import { readSource, type VectorUnary } from "./vector-operands.js";

type Width = "i32" | "i64";

/** The slow function of a scalar conversion: (cpu, a, a) → result. */
const slowConversion = (format: FloatFormat, name: string, g: object, result: Width, truncate = false) => ({
  ...slowScalar(format, name, (f, use, cpu, mxcsr, a) =>
    callSoft(f, use(g as never) as FuncRef, cpu, a, truncate ? mxcsr.or(MXCSR_RC_ZERO) : mxcsr),
  ),
  result,
});

// --- to integers ---

/** 0 where a truncation may have saturated. */
const notExtreme = (value: Int, width: Width): Int =>
  width === "i32"
    ? (value as I32).add(I32.const(0x80000000)).add(1).gtU(1)
    : (value as I64)
        .add(I64.const(1n << 63n))
        .add(1)
        .gtU(1);

/** CVTSS2SI, CVTSD2SI, CVTTSS2SI, CVTTSD2SI to a general register. */
export function scalarToInteger(format: FloatFormat, truncate: boolean): Definition {
  const name = truncate ? "cvtt" : "cvt";
  const slow = {
    i32: slowConversion(format, `${name}_i32`, format.soft.toI32, "i32", truncate),
    i64: slowConversion(format, `${name}_i64`, format.soft.toI64, "i64", truncate),
  };
  return (x) => {
    x.requireSse();
    const { f } = x;
    const width: Width = x.operands[0].size === 8 ? "i64" : "i32";
    const { bits, value } = scalarSource(x, format);
    const whole = truncate ? (value as F64) : (value as F64).unary("nearest");
    const fast = f.let<Int>(width === "i64" ? whole.truncSatI64() : whole.truncSatI32());
    const mxcsr = x.field32(O.mxcsr);
    const free = truncate ? inexactIsFree(mxcsr) : roundsNatively(mxcsr);
    const exact = floatCompare("eq", integerToFloat(format, fast), value);
    const ok = notExtreme(fast, width)
      .toI32()
      .and(exact.or(free.and(isOrdered(value))));
    x.write(0, fastOrSlow(x, ok, fast, slow[width], bits, bits));
  };
}

const integerToFloat = (format: FloatFormat, value: Int): F32 | F64 => {
  const integer = value as I32 | I64;
  return format.type === "i32" ? integer.toF32S() : integer.toF64S();
};

/** Packed to 32-bit integers: `lanes` of them, zeros above. */
function packedToIntegers(format: FloatFormat, truncate: boolean) {
  const { shape, lanes } = format;
  const slow = slowVector(`${truncate ? "cvtt" : "cvt"}_${shape}`, (f, use, cpu, mxcsr, a) => {
    const g = use(format.soft.toI32 as never) as FuncRef;
    const control = f.let(truncate ? mxcsr.or(MXCSR_RC_ZERO) : mxcsr);
    let result: V128 = ZERO;
    for (let n = 0; n < lanes; n++) {
      const value = callSoft(f, g, cpu, laneBits(format, a, n), control) as I32;
      result = f.let(withLane("i32x4", result, n, value));
    }
    return result;
  });
  const convert: VectorOp =
    format.type === "i32" ? "i32x4.trunc_sat_f32x4_s" : "i32x4.trunc_sat_f64x2_s_zero";
  return (x: InstrContext, a: V128): V128 => {
    const { f } = x;
    const fast = f.let(v(convert, truncate ? a : v(`${shape}.nearest`, a)));
    const mxcsr = x.field32(O.mxcsr);
    const free = truncate ? inexactIsFree(mxcsr) : roundsNatively(mxcsr);
    // Extreme lanes: those equal to 0x7FFFFFFF or 0x80000000.
    const extreme = v(
      "v128.or",
      v("i32x4.eq", fast, dwords(0x7fffffff)),
      v("i32x4.eq", fast, dwords(0x80000000)),
    );
    const ordered = allTrue(format, v(`${shape}.eq`, a, a));
    const ok = free.and(ordered).and(test("v128.any_true", extreme).eqz());
    return fastOrSlow(x, ok, fast, slow, a, a, I32.const(0));
  };
}

/** CVTPS2DQ, CVTTPS2DQ, CVTPD2DQ, CVTTPD2DQ. */
export function packedToDwords(format: FloatFormat, truncate: boolean): Definition {
  const convert = packedToIntegers(format, truncate);
  return (x) => {
    x.requireSse();
    x.writeVector(0, convert(x, readSource(x, 1)));
  };
}

/** Packed singles of which only the low two are converted: the others must not raise anything. */
const lowTwo = (format: FloatFormat, a: V128): V128 =>
  format.lanes === 2 ? a : withLane64(a, 1, I64.const(0));

/** CVTPS2PI, CVTTPS2PI, CVTPD2PI, CVTTPD2PI. */
export function packedToMmx(format: FloatFormat, truncate: boolean): Definition {
  const convert = packedToIntegers(format, truncate);
  return (x) => {
    x.requireSse();
    requireMmx(x);
    const source = x.f.let(lowTwo(format, readSource(x, 1)));
    // Also where the conversion then raises an exception that is not masked, as processors do.
    enterMmx(x);
    const result = convert(x, source);
    writeMmx(x, 0, result);
  };
}

// --- from integers ---

/** 0 where an integer may not be represented exactly: beyond ± 2^(fraction bits + 1). */
const representable = (format: FloatFormat, value: Int): I32 => {
  const limit = 1n << BigInt(format.fractionBits + 1);
  return value instanceof I64
    ? value.add(I64.const(limit)).leU(I64.const(2n * limit))
    : (value as I32).add(I32.const(Number(limit))).leU(I32.const(Number(2n * limit)));
};

/** CVTSI2SS, CVTSI2SD. */
export function integerToScalar(format: FloatFormat): Definition {
  const slow = {
    i32: slowFromInteger(format, SF32.fromI32, "i32"),
    i64: slowFromInteger(format, format.soft.fromI64, "i64"),
  };
  return (x) => {
    x.requireSse();
    const { f } = x;
    const value = x.read(1);
    const old = x.readVector(0);
    const fast = f.let(integerToFloat(format, value));
    const ok =
      format.type === "i64" && value.type === "i32"
        ? I32.const(1)
        : roundsNatively(x.field32(O.mxcsr)).or(representable(format, value));
    x.writeVector(0, fastOrSlowScalar(x, format, old, ok, fast, slow[value.type], value, value));
  };
}
const slowFromInteger = (format: FloatFormat, g: object, width: Width) => ({
  ...slowScalar({ ...format, type: width }, `from_${format.type}_${width}`, (f, use, cpu, mxcsr, a) =>
    callSoft(f, use(g as never) as FuncRef, cpu, a, mxcsr),
  ),
  result: format.type,
});

const slowSingles = slowVector("from_i32x4", (f, use, cpu, mxcsr, a) => {
  const g = use(SF32.fromI32);
  let result: V128 = ZERO;
  for (let n = 0; n < SINGLE.lanes; n++) {
    result = f.let(withLane("i32x4", result, n, f.call(g, cpu, lane("i32x4", a, n), mxcsr)));
  }
  return result;
});
const EXACT_LIMIT = 1 << (SINGLE.fractionBits + 1);
function toSingles(x: InstrContext, a: V128): V128 {
  const small = v("i32x4.le_u", v("i32x4.add", a, dwords(EXACT_LIMIT)), dwords(2 * EXACT_LIMIT));
  const ok = roundsNatively(x.field32(O.mxcsr)).or(test("i32x4.all_true", small));
  const fast = x.f.let(v("f32x4.convert_i32x4_s", a));
  return fastOrSlow(x, ok, fast, slowSingles, a, a, I32.const(0));
}

/** CVTDQ2PS. */
export const dwordsToSingles: Definition = (x) => {
  x.requireSse();
  x.writeVector(0, toSingles(x, readSource(x, 1)));
};

/** CVTDQ2PD, always exact. */
export const dwordsToDoubles: VectorUnary = (a) => v("f64x2.convert_low_i32x4_s", a);

/**
 * The source of CVTPI2PS and CVTPI2PD. With a memory operand the x87 unit is left alone: SDM vol. 2 says so for CVTPI2PD, and
 * processors do it for both.
 */
function mmxSource(x: InstrContext): V128 {
  if (x.operands[1].kind === "mem") return readMmx(x, 1);
  requireMmx(x);
  const source = readMmx(x, 1);
  enterMmx(x);
  return source;
}
/** CVTPI2PS: the upper half of the register stays. */
export const mmxToSingles: Definition = (x) => {
  x.requireSse();
  const result = toSingles(x, mmxSource(x));
  x.writeVector(0, shuffleLanes(8, result, x.readVector(0), [0, 3]));
};
/** CVTPI2PD: always exact. */
export const mmxToDoubles: Definition = (x) => {
  x.requireSse();
  const source = mmxSource(x);
  x.writeVector(0, dwordsToDoubles(source, x.f));
};

// --- between the formats ---

const slowWiden = slowConversion(SINGLE, "to_f64", SF32.toF64, "i64");
/** CVTSS2SD: exact but for NaNs and denormal numbers. */
export const singleToDouble: Definition = (x) => {
  x.requireSse();
  const { f } = x;
  const { bits, value } = scalarSource(x, SINGLE);
  const fast = f.let((value as F32).toF64());
  const ok = notDenormal(SINGLE, bits).and(isOrdered(value));
  x.writeVector(0, fastOrSlowScalar(x, DOUBLE, x.readVector(0), ok, fast, slowWiden, bits, bits));
};

const slowNarrow = slowConversion(DOUBLE, "to_f32", SF64.toF32, "i32");
/** CVTSD2SS. */
export const doubleToSingle: Definition = (x) => {
  x.requireSse();
  const { f } = x;
  const { bits, value } = scalarSource(x, DOUBLE);
  const fast = f.let((value as F64).toF32());
  const isZero = (bits as I64).shl(1).eqz();
  const isNormal = resultIsNormal(SINGLE, f.let(fast.bits()));
  const ok = roundsNatively(x.field32(O.mxcsr)).and(isNormal).or(isZero);
  x.writeVector(0, fastOrSlowScalar(x, SINGLE, x.readVector(0), ok, fast, slowNarrow, bits, bits));
};

const slowWidenPacked = slowVector("f32x4_to_f64", (f, use, cpu, mxcsr, a) => {
  const g = use(SF32.toF64);
  const low = f.let(f.call(g, cpu, lane("i32x4", a, 0), mxcsr));
  const high = f.call(g, cpu, lane("i32x4", a, 1), mxcsr);
  return withLane64(withLane64(ZERO, 0, low), 1, high);
});
/** CVTPS2PD: the low two singles. */
export const singlesToDoubles: Definition = (x) => {
  x.requireSse();
  const { f } = x;
  const a = f.let(lowTwo(SINGLE, readSource(x, 1)));
  const ok = allTrue(SINGLE, allPlain(SINGLE, a, f));
  const fast = v("f64x2.promote_low_f32x4", a);
  x.writeVector(0, fastOrSlow(x, ok, fast, slowWidenPacked, a, a, I32.const(0)));
};

const slowNarrowPacked = slowVector("f64x2_to_f32", (f, use, cpu, mxcsr, a) => {
  const g = use(SF64.toF32);
  const low = f.let(f.call(g, cpu, lane64(a, 0), mxcsr));
  const high = f.call(g, cpu, lane64(a, 1), mxcsr);
  return withLane("i32x4", withLane("i32x4", ZERO, 0, low), 1, high);
});
/** CVTPD2PS: two singles and zeros above. */
export const doublesToSingles: Definition = (x) => {
  x.requireSse();
  const { f } = x;
  const a = readSource(x, 1);
  const fast = f.let(v("f32x4.demote_f64x2_zero", a));
  // The two zeros above are not normal numbers: let them count as such.
  const normal = allResultsNormal(SINGLE, shuffleLanes(8, fast, fast, [0, 0]));
  const ok = roundsNatively(x.field32(O.mxcsr)).and(allTrue(SINGLE, normal));
  x.writeVector(0, fastOrSlow(x, ok, fast, slowNarrowPacked, a, a, I32.const(0)));
};
