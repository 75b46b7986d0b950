/** SSE floating-point minimum, maximum and compares (SDM vol. 2). They do not round, and a NaN may be invalid. */

import { I32, type Int, type V128 } from "../wasm/expr.js";
import type { FuncRef, FunctionBuilder } from "../wasm/module.js";
import { selectVector, v, ZERO } from "../wasm/simd.js";
import type { Definition } from "./context.js";
import type { Use } from "./shared-function.js";
import {
  allPlain,
  allTrue,
  callSoft,
  type FloatFormat,
  fastOrSlow,
  fastOrSlowScalar,
  floatCompare,
  isPlain,
  type LaneFunction,
  laneBits,
  notDenormal,
  scalarLane,
  scalarSource,
  slowPacked,
  slowScalar,
  slowVector,
  withLaneBits,
} from "./sse-float-format.js";
import { mergeLow } from "./sse-moves.js";
import { imm8, readSource } from "./vector-operands.js";

// --- minimum and maximum: the source where the two are equal (as zeros are) or one is a NaN ---

const softMinMax =
  (format: FloatFormat, name: "min" | "max"): LaneFunction =>
  (f, use, cpu, mxcsr, a, b) =>
    callSoft(f, use(format.soft[name] as never) as FuncRef, cpu, a, b, mxcsr);

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
