/**
 * What the packed integer instructions compute: arithmetic, compares, logic (SDM vol. 2, chapter 4). `a` is the
 * destination's old value, `b` the source. All work lane by lane, so that MMX uses the low half of the same operations;
 * those that pair neighbours of both operands are made fit for MMX by `mmxPaired`.
 */

import { I32, I64, type V128 } from "../wasm/expr.js";
import type { FunctionBuilder } from "../wasm/module.js";
import {
  bytes,
  dwords,
  IOTA,
  qwords,
  shuffleLanes,
  test,
  type VectorOp,
  v,
  words,
  ZERO,
} from "../wasm/simd.js";
import type { Definition } from "./context.js";
import { readSource, type VectorBinary, type VectorUnary } from "./vector-operands.js";

/** One wasm instruction on (a, b). */
export const direct =
  (name: VectorOp): VectorBinary =>
  (a, b) =>
    v(name, a, b);
export const directUnary =
  (name: VectorOp): VectorUnary =>
  (a) =>
    v(name, a);

/** PANDN: not a, and b. */
export const andNot: VectorBinary = (a, b) => v("v128.andnot", b, a);

// --- multiplication ---

const EVEN_DWORDS = [0, 2, 0, 2];
const ODD_WORDS = [1, 3, 5, 7, 9, 11, 13, 15];
const EVEN_WORDS = [0, 2, 4, 6, 8, 10, 12, 14];

/** PMULHW, PMULHUW: the high words of the products. */
export const multiplyHigh =
  (sign: "s" | "u"): VectorBinary =>
  (a, b) =>
    shuffleLanes(
      2,
      v(`i32x4.extmul_low_i16x8_${sign}`, a, b),
      v(`i32x4.extmul_high_i16x8_${sign}`, a, b),
      ODD_WORDS,
    );

/** PMULUDQ, PMULDQ: products of the even doublewords. */
export const multiplyEven =
  (sign: "s" | "u"): VectorBinary =>
  (a, b) =>
    v(
      `i64x2.extmul_low_i32x4_${sign}`,
      shuffleLanes(4, a, a, EVEN_DWORDS),
      shuffleLanes(4, b, b, EVEN_DWORDS),
    );

const MOST_NEGATIVE_WORD = words(0x8000);

/** PMULHRSW. The wasm instruction saturates −1 × −1 to 0x7FFF, where x86 gives 0x8000. */
export const multiplyHighRounded: VectorBinary = (a, b) =>
  v(
    "v128.xor",
    v("i16x8.q15mulr_sat_s", a, b),
    v("v128.and", v("i16x8.eq", a, MOST_NEGATIVE_WORD), v("i16x8.eq", b, MOST_NEGATIVE_WORD)),
  );

const LOW_BYTES = words(0x00ff);
const EIGHT = I32.const(8);

/** PMADDUBSW: unsigned bytes of a times signed bytes of b, neighbours added with saturation. */
export const multiplyAddBytes: VectorBinary = (a, b) =>
  v(
    "i16x8.add_sat_s",
    v("i16x8.mul", v("v128.and", a, LOW_BYTES), v("i16x8.shr_s", v("i16x8.shl", b, EIGHT), EIGHT)),
    v("i16x8.mul", v("i16x8.shr_u", a, EIGHT), v("i16x8.shr_s", b, EIGHT)),
  );

// --- neighbours ---

/** PHADDW, PHADDSW, PHSUBW, PHSUBSW: even words op odd words, of a, then of b. */
export const horizontalWords =
  (name: VectorOp): VectorBinary =>
  (a, b) =>
    v(name, shuffleLanes(2, a, b, EVEN_WORDS), shuffleLanes(2, a, b, ODD_WORDS));
/** PHADDD, PHSUBD. */
export const horizontalDwords =
  (name: VectorOp): VectorBinary =>
  (a, b) =>
    v(name, shuffleLanes(4, a, b, [0, 2, 4, 6]), shuffleLanes(4, a, b, [1, 3, 5, 7]));

/** An operation whose result is a part from a, then a part from b: with both halves in one vector, the MMX result comes out low. */
export const mmxPaired =
  (compute: VectorBinary): VectorBinary =>
  (a, b, f) => {
    const both = f.let(shuffleLanes(8, a, b, [0, 2]));
    return compute(both, both, f);
  };

/** PSADBW: in each half, the sum of the bytes' absolute differences. */
export const sumOfDifferences: VectorBinary = (a, b, f) => {
  const differences = v("v128.or", v("i8x16.sub_sat_u", a, b), v("i8x16.sub_sat_u", b, a));
  const sums = f.let(v("i32x4.extadd_pairwise_i16x8_u", v("i16x8.extadd_pairwise_i8x16_u", differences)));
  return v("v128.and", v("i64x2.add", sums, v("i64x2.shr_u", sums, I32.const(32))), qwords(0xffffffffn));
};

/**
 * MPSADBW: eight sums of four absolute differences, between four bytes of b (imm bits 1:0 choose the doubleword) and
 * eleven bytes of a (from byte 0 or, by bit 2, byte 4).
 */
export const multipleSumsOfDifferences = (a: V128, b: V128, imm: I32, f: FunctionBuilder): V128 => {
  const start = imm.shrU(2).and(1).shl(2);
  const window = f.let(v("i8x16.swizzle", a, v("i8x16.add", IOTA, v("i8x16.splat", start))));
  const block = f.let(
    v("i8x16.swizzle", b, v("i8x16.add", bytes(0, 1, 2, 3), v("i8x16.splat", imm.and(3).shl(2)))),
  );
  // Sum j takes window bytes j … j+3; even sums come from the first four pairs of windows, odd ones from the next byte.
  const sums = (from: number): V128 => {
    const lanes = (first: number) =>
      Array.from({ length: 16 }, (_, i) => from + first + 2 * (i >> 2) + (i & 3));
    const part = f.let(v("i8x16.swizzle", window, bytes(...lanes(0))));
    const differences = v("v128.or", v("i8x16.sub_sat_u", part, block), v("i8x16.sub_sat_u", block, part));
    return f.let(v("i32x4.extadd_pairwise_i16x8_u", v("i16x8.extadd_pairwise_i8x16_u", differences)));
  };
  const even = sums(0);
  const odd = sums(1);
  return v("v128.or", even, v("i32x4.shl", odd, I32.const(16)));
};

/** PSIGNB, PSIGNW, PSIGND: a where b > 0, 0 where b = 0, −a where b < 0. */
export const applySign =
  (shape: "i8x16" | "i16x8" | "i32x4"): VectorBinary =>
  (a, b, f) => {
    const negative = f.let(v(`${shape}.lt_s`, b, ZERO));
    const signed = v(`${shape}.sub`, v("v128.xor", a, negative), negative);
    return v("v128.andnot", signed, v(`${shape}.eq`, b, ZERO));
  };

/** PHMINPOSUW: the smallest word, and the index of the first that holds it. */
export const minimumPosition: VectorUnary = (a, f) => {
  // The key of word i is (word << 16 | i): the smallest key is the answer. Word and index then swap places.
  const low = v(
    "v128.or",
    v("i32x4.shl", v("i32x4.extend_low_i16x8_u", a), I32.const(16)),
    dwords(0, 1, 2, 3),
  );
  const high = v(
    "v128.or",
    v("i32x4.shl", v("i32x4.extend_high_i16x8_u", a), I32.const(16)),
    dwords(4, 5, 6, 7),
  );
  const four = f.let(v("i32x4.min_u", low, high));
  const two = f.let(v("i32x4.min_u", four, shuffleLanes(4, four, four, [2, 3, 0, 1])));
  const one = v("i32x4.min_u", two, shuffleLanes(4, two, two, [1, 0, 3, 2]));
  return shuffleLanes(2, one, ZERO, [1, 0, 8, 8, 8, 8, 8, 8]);
};

// --- flags ---

/** PTEST: ZF if src and dst have no bit in common, CF if src has none outside dst. */
export const ptest: Definition = (x) => {
  x.requireSse();
  const b = readSource(x, 1);
  const a = x.readVector(0);
  x.setFlags({
    cf: test("v128.any_true", v("v128.andnot", b, a)).eqz(),
    of: I32.const(0),
    af: I32.const(0),
    zero: test("v128.any_true", v("v128.and", a, b)).toI64U(),
    // SF and PF are cleared: a low byte with one bit set has odd parity.
    signParity: I64.const(1),
  });
};
