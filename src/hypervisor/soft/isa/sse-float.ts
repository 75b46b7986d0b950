/**
 * SSE floating-point arithmetic: add, sub, mul, div, sqrt, and the horizontal ones (SDM vol. 2). How results come about is
 * told in sse-float-format.
 */
import { O } from "../vcpu-state.js";
import type { F64, I32, Int, V128 } from "../wasm/expr.js";
import type { FunctionBuilder } from "../wasm/module.js";
import { shuffleLanes, v, ZERO } from "../wasm/simd.js";
import type { Definition, InstrContext } from "./context.js";
import { type Arithmetic, arithmeticLane } from "./sse-float-exact.js";
import {
  allHaveExponents,
  allPlain,
  allResultsNormal,
  allTrue,
  asFloat,
  constantBits,
  type FloatFormat,
  fastOrSlow,
  fastOrSlowScalar,
  floatBinary,
  hasExponent,
  laneBits,
  notDenormal,
  type Quick,
  resultIsNormal,
  roundsNatively,
  scalarLane,
  scalarSource,
  slowPacked,
  slowScalar,
  splatBits,
  withLaneBits,
} from "./sse-float-format.js";
import { readSource } from "./vector-operands.js";

type Binary = Exclude<Arithmetic, "sqrt">;

/** Where zero operands make a zero result; otherwise one is tiny, but for that of a sum, which is exact. */
function zeroResult<T>(
  name: Binary,
  isZero: { a: T; b: T; r: T },
  and: (a: T, b: T) => T,
  or: (a: T, b: T) => T,
): T {
  const { a, b, r } = isZero;
  if (name === "add" || name === "sub") return r;
  return and(r, name === "mul" ? or(a, b) : a);
}

/**
 * Lanes of a op b, which is r, that are exact for sure, so that MXCSR.PE stays as it is. Of sums: the error is itself a number
 * (Knuth, TAOCP vol. 2, 4.2.2, theorem B). Of products: the significands are short enough together.
 */
function exactLanes(
  f: FunctionBuilder,
  format: FloatFormat,
  name: Binary,
  a: V128,
  b: V128,
  r: V128,
): V128 | undefined {
  const { shape, ints, fractionBits } = format;
  const equal = (p: V128, q: V128) => v(`${shape}.eq`, p, q);
  if (name === "div") return undefined;
  if (name === "mul") {
    const [half, rest] = [fractionBits >> 1, (fractionBits >> 1) + 1];
    const low = (lanes: V128, bits: number) =>
      v("v128.and", lanes, splatBits(format, (1n << BigInt(bits)) - 1n));
    return v(`${ints}.eq`, v("v128.or", low(a, half), low(b, rest)), ZERO);
  }
  const bPart = f.let(v(`${shape}.sub`, r, a));
  const aPart = v(`${shape}.sub`, r, bPart);
  const b1 = name === "add" ? b : v(`${shape}.neg`, b);
  return v("v128.and", equal(a, aPart), equal(b1, bPart));
}

/** MXCSR lets the results be as they are: it rounds natively, or they are `exact`, where that is worth a look. */
function acceptsResult(x: InstrContext, exact: () => I32 | undefined): I32 {
  const native = roundsNatively(x.field32(O.mxcsr));
  const known = x.exactSoFar ? exact() : undefined;
  return known === undefined ? native : native.or(known);
}

const quickScalar =
  (format: FloatFormat, name: Binary) =>
  (f: FunctionBuilder, a: Int, b: Int): Quick<Int> => {
    const result = f.let(floatBinary(name, asFloat(a), asFloat(b)).bits() as Int);
    const zero = (bits: Int) => bits.shl(constantBits(format, 1n)).eqz();
    const zeros = zeroResult(
      name,
      { a: zero(a), b: zero(b), r: zero(result) },
      (p, q) => p.and(q),
      (p, q) => p.or(q),
    );
    const plain = notDenormal(format, a).and(notDenormal(format, b));
    return { result, ok: plain.and(resultIsNormal(format, result).or(zeros)) };
  };

const quickPacked =
  (format: FloatFormat, name: Binary) =>
  (f: FunctionBuilder, a: V128, b: V128): Quick<V128> => {
    const result = f.let(v(`${format.shape}.${name}`, a, b));
    const zero = (lanes: V128) => v(`${format.shape}.eq`, lanes, ZERO);
    const zeros = zeroResult(
      name,
      { a: zero(a), b: zero(b), r: zero(result) },
      (p, q) => v("v128.and", p, q),
      (p, q) => v("v128.or", p, q),
    );
    const plain = v("v128.and", allPlain(format, a, f), allPlain(format, b, f));
    const normal = allResultsNormal(format, result);
    return { result, ok: allTrue(format, v("v128.and", plain, v("v128.or", normal, zeros))) };
  };

/** ADDSS … DIVSD. */
export function scalarArithmetic(format: FloatFormat, name: Binary): Definition {
  const slow = slowScalar(format, name, arithmeticLane(format, name), quickScalar(format, name));
  return (x) => {
    x.requireSse();
    const { f } = x;
    const b = scalarSource(x, format);
    const old = x.readVector(0);
    const a = scalarLane(f, format, old);
    const fast = f.let(floatBinary(name, a.value, b.value));
    const exact = () => {
      const [bLane, rLane] = [b.bits, fast.bits() as Int].map((bits) =>
        f.let(withLaneBits(format, ZERO, 0, bits)),
      );
      const lanes = exactLanes(f, format, name, old, bLane, rLane);
      return lanes && laneBits(format, lanes, 0).ne(constantBits(format, 0n));
    };
    const ok = acceptsResult(x, exact)
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
  const exact = () => {
    const lanes = exactLanes(f, format, name, a, b, fast);
    return lanes && allTrue(format, lanes);
  };
  const ok = acceptsResult(x, exact).and(
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
  const slow = slowPacked(format, name, arithmeticLane(format, name), quickPacked(format, name));
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
  const slow = slowPacked(format, name, arithmeticLane(format, name), quickPacked(format, name));
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
