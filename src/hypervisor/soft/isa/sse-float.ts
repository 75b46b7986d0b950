/**
 * SSE floating-point arithmetic: add, sub, mul, div, sqrt, min, max, compares, rounding, the horizontal ones and the
 * approximations (SDM vol. 2). How results come about is told in sse-float-format.
 */
import { Mxcsr } from "../fpu/control.js";
import type { Use } from "../fpu/define.js";
import { O } from "../vcpu-state.js";
import { type F64, I32, type Int, type V128 } from "../wasm/expr.js";
import type { FuncRef, FunctionBuilder } from "../wasm/module.js";
import { selectVector, shuffleLanes, v, ZERO } from "../wasm/simd.js";
import type { Definition, InstrContext } from "./context.js";
import { type Arithmetic, arithmeticLane } from "./sse-float-exact.js";
import {
  allHaveExponents,
  allPlain,
  allResultsNormal,
  allTrue,
  callSoft,
  constantBits,
  type FloatFormat,
  fastOrSlow,
  fastOrSlowScalar,
  floatBinary,
  floatCompare,
  hasExponent,
  inexactIsFree,
  isOrdered,
  type LaneFunction,
  laneBits,
  notDenormal,
  resultIsNormal,
  roundsNatively,
  type Scalar,
  scalarLane,
  scalarSource,
  slowPacked,
  slowScalar,
  slowVector,
  splatBits,
  withLaneBits,
} from "./sse-float-format.js";
import { mergeLow } from "./sse-moves.js";
import { imm8, readSource } from "./vector-operands.js";

type Binary = Exclude<Arithmetic, "sqrt">;

const softMinMax =
  (format: FloatFormat, name: "min" | "max"): LaneFunction =>
  (f, use, cpu, mxcsr, a, b) =>
    callSoft(f, use(format.soft[name] as never) as FuncRef, cpu, a, b, mxcsr);

/** ADDSS … DIVSD. */
export function scalarArithmetic(format: FloatFormat, name: Binary): Definition {
  const slow = slowScalar(format, name, arithmeticLane(format, name));
  return (x) => {
    x.requireSse();
    const { f } = x;
    const b = scalarSource(x, format);
    const old = x.readVector(0);
    const a = scalarLane(f, format, old);
    const fast = f.let(floatBinary(name, a.value, b.value));
    const ok = roundsNatively(x.field32(O.mxcsr))
      .and(hasExponent(format, a.bits))
      .and(hasExponent(format, b.bits))
      .and(resultIsNormal(format, f.let(fast.bits() as Int)));
    x.writeVector(0, fastOrSlowScalar(x, format, old, ok, fast, slow, a.bits, b.bits));
  };
}

/** a op b in all lanes, by native arithmetic where that is right. */
function packed(
  x: InstrContext,
  format: FloatFormat,
  name: Binary,
  a: V128,
  b: V128,
  slow: ReturnType<typeof slowPacked>,
  slowA = a,
  slowB = b,
): V128 {
  const { f } = x;
  const fast = f.let(v(`${format.shape}.${name}`, a, b));
  const ok = roundsNatively(x.field32(O.mxcsr)).and(
    allTrue(
      format,
      v(
        "v128.and",
        v("v128.and", allHaveExponents(format, a), allHaveExponents(format, b)),
        allResultsNormal(format, fast),
      ),
    ),
  );
  return fastOrSlow(x, ok, fast, slow, slowA, slowB);
}

/** ADDPS … DIVPD. */
export function packedArithmetic(format: FloatFormat, name: Binary): Definition {
  const slow = slowPacked(format, name, arithmeticLane(format, name));
  return (x) => {
    x.requireSse();
    const b = readSource(x, 1);
    x.writeVector(0, packed(x, format, name, x.readVector(0), b, slow));
  };
}

const lanesOf = (format: FloatFormat, a: V128, b: V128, lanes: readonly number[]): V128 =>
  shuffleLanes(format.size, a, b, lanes);

/** HADDPS, HADDPD, HSUBPS, HSUBPD: even lanes op odd lanes, of a, then of b. */
export function horizontal(format: FloatFormat, name: "add" | "sub"): Definition {
  const slow = slowPacked(format, name, arithmeticLane(format, name));
  const lanes = Array.from({ length: format.lanes }, (_, i) => 2 * i);
  return (x) => {
    x.requireSse();
    const { f } = x;
    const b = readSource(x, 1);
    const a = x.readVector(0);
    const even = f.let(lanesOf(format, a, b, lanes));
    const odd = f.let(
      lanesOf(
        format,
        a,
        b,
        lanes.map((n) => n + 1),
      ),
    );
    x.writeVector(0, packed(x, format, name, even, odd, slow));
  };
}

/** ADDSUBPS, ADDSUBPD: subtract in even lanes, add in odd ones. */
export function addSubtract(format: FloatFormat): Definition {
  const slow = slowPacked(format, "addsub", (f, use, cpu, mxcsr, a, b, lane) =>
    arithmeticLane(format, lane % 2 === 0 ? "sub" : "add")(f, use, cpu, mxcsr, a, b, lane),
  );
  const evenSigns = splatBits(format, format.sign);
  return (x) => {
    x.requireSse();
    const { f } = x;
    const b = readSource(x, 1);
    const a = x.readVector(0);
    const signs = lanesOf(
      format,
      evenSigns,
      ZERO,
      Array.from({ length: format.lanes }, (_, i) => (i % 2 === 0 ? 0 : format.lanes)),
    );
    const flipped = f.let(v("v128.xor", b, signs));
    x.writeVector(0, packed(x, format, "add", a, flipped, slow, a, b));
  };
}

// --- square root ---

export function scalarSquareRoot(format: FloatFormat): Definition {
  const slow = slowScalar(format, "sqrt", arithmeticLane(format, "sqrt"));
  return (x) => {
    x.requireSse();
    const { f } = x;
    const { bits, value } = scalarSource(x, format);
    const fast = f.let((value as F64).unary("sqrt"));
    const ok = roundsNatively(x.field32(O.mxcsr))
      .and(hasExponent(format, bits))
      .and(resultIsNormal(format, f.let(fast.bits())));
    x.writeVector(0, fastOrSlowScalar(x, format, x.readVector(0), ok, fast, slow, bits, bits));
  };
}

export function packedSquareRoot(format: FloatFormat): Definition {
  const slow = slowPacked(format, "sqrt", arithmeticLane(format, "sqrt"));
  return (x) => {
    x.requireSse();
    const { f } = x;
    const a = readSource(x, 1);
    const fast = f.let(v(`${format.shape}.sqrt`, a));
    const normal = v("v128.and", allHaveExponents(format, a), allResultsNormal(format, fast));
    const ok = roundsNatively(x.field32(O.mxcsr)).and(allTrue(format, normal));
    x.writeVector(0, fastOrSlow(x, ok, fast, slow, a, a));
  };
}

// --- minimum and maximum: the source where the two are equal (as zeros are) or one is a NaN ---

/** Neither NaN nor denormal. */
const isPlain = (format: FloatFormat, { bits, value }: Scalar): I32 =>
  notDenormal(format, bits).and(isOrdered(value));

export function scalarMinMax(format: FloatFormat, name: "min" | "max"): Definition {
  const slow = slowScalar(format, name, softMinMax(format, name));
  return (x) => {
    x.requireSse();
    const { f } = x;
    const source = readSource(x, 1);
    const b = scalarLane(f, format, source);
    const old = x.readVector(0);
    const a = scalarLane(f, format, old);
    // pmin(b, a) is a < b ? a : b.
    const fast = mergeLow(old, f.let(v(`${format.shape}.p${name}`, source, old)), format.size);
    const ok = isPlain(format, a).and(isPlain(format, b));
    x.writeVector(0, fastOrSlowScalar(x, format, old, ok, fast, slow, a.bits, b.bits));
  };
}

export function packedMinMax(format: FloatFormat, name: "min" | "max"): Definition {
  const slow = slowPacked(format, name, softMinMax(format, name));
  return (x) => {
    x.requireSse();
    const { f } = x;
    const b = readSource(x, 1);
    const a = x.readVector(0);
    const fast = f.let(v(`${format.shape}.p${name}`, b, a));
    const ok = allTrue(format, v("v128.and", allPlain(format, a, f), allPlain(format, b, f)));
    x.writeVector(0, fastOrSlow(x, ok, fast, slow, a, b));
  };
}

// --- compares ---

const PREDICATE = 7;
const PREDICATE_NOT = 4;

/** CMPPS, CMPPD, CMPSS, CMPSD: predicates 0–7 (SDM vol. 2, CMPPD, table 3-1). Nothing is unordered on the fast path. */
function nativeCompare(format: FloatFormat, a: V128, b: V128, imm: I32): V128 {
  const { shape } = format;
  const positive = selectVector(
    imm.and(2),
    selectVector(imm.and(1), ZERO, v(`${shape}.le`, a, b)),
    selectVector(imm.and(1), v(`${shape}.lt`, a, b), v(`${shape}.eq`, a, b)),
  );
  const negation = v("i32x4.splat", imm.and(PREDICATE_NOT).eqz().sub(1));
  return v("v128.xor", positive, negation);
}

function softCompare(format: FloatFormat): ReturnType<typeof slowVector> {
  return slowVector(`cmp_${format.shape}`, (f, use, cpu, mxcsr, a, b, imm) => {
    let result: V128 = ZERO;
    for (let n = 0; n < format.lanes; n++) {
      const truth = compareLane(f, use, format, cpu, mxcsr, a, b, imm, n);
      result = f.let(withLaneBits(format, result, n, truth));
    }
    return result;
  });
}
function compareLane(
  f: FunctionBuilder,
  use: Use,
  format: FloatFormat,
  cpu: I32,
  mxcsr: I32,
  a: V128,
  b: V128,
  imm: I32,
  n: number,
): Int {
  const g = use(format.soft.cmp as never) as FuncRef;
  const truth = callSoft(f, g, cpu, laneBits(format, a, n), laneBits(format, b, n), mxcsr, imm) as I32;
  return format.type === "i64" ? truth.toI64S() : truth;
}

export function packedCompare(format: FloatFormat): Definition {
  const slow = softCompare(format);
  return (x) => {
    x.requireSse();
    const { f } = x;
    const b = readSource(x, 1);
    const a = x.readVector(0);
    const imm = f.let(imm8(x).and(PREDICATE));
    const ok = allTrue(format, v("v128.and", allPlain(format, a, f), allPlain(format, b, f)));
    x.writeVector(0, fastOrSlow(x, ok, nativeCompare(format, a, b, imm), slow, a, b, imm));
  };
}

export function scalarCompare(format: FloatFormat): Definition {
  const slow = slowVector(`cmp_${format.shape}_scalar`, (f, use, cpu, mxcsr, a, b, imm) =>
    withLaneBits(format, a, 0, compareLane(f, use, format, cpu, mxcsr, a, b, imm, 0)),
  );
  return (x) => {
    x.requireSse();
    const { f } = x;
    const b = readSource(x, 1);
    const a = x.readVector(0);
    const imm = f.let(imm8(x).and(PREDICATE));
    const ok = isPlain(format, scalarLane(f, format, a)).and(isPlain(format, scalarLane(f, format, b)));
    const truth = laneBits(format, nativeCompare(format, a, b, imm), 0);
    x.writeVector(0, fastOrSlow(x, ok, withLaneBits(format, a, 0, truth), slow, a, b, imm));
  };
}

/** Of fpu/sse-float `compare`. */
const Relation = { EQUAL: 0, LESS: 1, GREATER: 2, UNORDERED: 3 } as const;

/** COMISS, COMISD (a quiet NaN is invalid too) and UCOMISS, UCOMISD: ZF, PF, CF by the relation; OF, SF, AF clear. */
export function orderedCompare(format: FloatFormat, signaling: boolean): Definition {
  const slow = slowScalarToInt(format, signaling ? "comi" : "ucomi", (f, use, cpu, mxcsr, a, b) =>
    callSoft(f, use(format.soft.compare as never) as FuncRef, cpu, a, b, mxcsr, I32.const(signaling ? 1 : 0)),
  );
  return (x) => {
    x.requireSse();
    const { f } = x;
    const b = scalarSource(x, format);
    const a = scalarLane(f, format, x.readVector(0));
    const less = f.let(floatCompare("lt", a.value, b.value));
    const greater = f.let(floatCompare("gt", a.value, b.value));
    const equal = floatCompare("eq", a.value, b.value);
    const ok = notDenormal(format, a.bits).and(notDenormal(format, b.bits)).and(less.or(greater).or(equal));
    const relation = fastOrSlow(x, ok, less.or(greater.shl(1)), slow, a.bits, b.bits);
    const unordered = f.let(relation.eq(Relation.UNORDERED));
    x.setFlags({
      cf: relation.and(1),
      of: I32.const(0),
      af: I32.const(0),
      // ZF for equal and unordered: relations 0 and 3, whose bits agree.
      zero: relation.xor(relation.shrU(1)).and(1).toI64U(),
      // PF for unordered: a zero byte has even parity, and bit 63 stays clear.
      signParity: unordered.xor(1).toI64U(),
    });
  };
}

const slowScalarToInt = (
  format: FloatFormat,
  name: string,
  compute: LaneFunction,
): ReturnType<typeof slowScalar> => ({
  ...slowScalar(format, name, compute),
  result: "i32",
});

// --- ROUNDPS, ROUNDPD, ROUNDSS, ROUNDSD (SDM vol. 2, ROUNDPD, table 4-18) ---

const RoundImmediate = { RC: 3, USE_MXCSR: 4, NO_PRECISION: 8 } as const;
const ROUNDING_OPS = ["nearest", "floor", "ceil", "trunc"] as const;

function softRound(format: FloatFormat, scalar: boolean): ReturnType<typeof slowVector> {
  const name = `round_${format.shape}${scalar ? "_scalar" : ""}`;
  return slowVector(name, (f, use, cpu, mxcsr, a, b, imm) => {
    const g = use(format.soft.round as never) as FuncRef;
    let result = scalar ? a : ZERO;
    for (let n = 0; n < (scalar ? 1 : format.lanes); n++) {
      const bits = callSoft(f, g, cpu, laneBits(format, b, n), mxcsr, imm);
      result = f.let(withLaneBits(format, result, n, bits));
    }
    return result;
  });
}

export function round(format: FloatFormat, scalar: boolean): Definition {
  const slow = softRound(format, scalar);
  return (x) => {
    x.requireSse();
    const { f } = x;
    const b = readSource(x, 1);
    const a = x.readVector(0);
    const imm = imm8(x);
    const mxcsr = x.field32(O.mxcsr);
    const rounding = mxcsr
      .shrU(Mxcsr.RC_SHIFT)
      .select(imm.and(RoundImmediate.USE_MXCSR), imm)
      .and(RoundImmediate.RC);
    const rounded = f.local("v128");
    const cases = ROUNDING_OPS.map((op) => () => f.set(rounded, v(`${format.shape}.${op}`, b)));
    f.switch(rounding, cases.slice(0, 3), cases[3]);
    const exact = v(`${format.shape}.eq`, rounded.get, b);
    const precise = imm.and(RoundImmediate.NO_PRECISION).or(inexactIsFree(mxcsr));
    let ok: I32;
    let fast: V128;
    if (scalar) {
      const isExact = laneBits(format, exact, 0).ne(constantBits(format, 0n));
      ok = isPlain(format, scalarLane(f, format, b)).and(precise.ne(0).or(isExact));
      fast = mergeLow(a, rounded.get, format.size);
    } else {
      ok = allTrue(format, allPlain(format, b, f)).and(precise.ne(0).or(allTrue(format, exact)));
      fast = rounded.get;
    }
    x.writeVector(0, fastOrSlow(x, ok, fast, slow, a, b, imm));
  };
}
