/**
 * Shuffles, packs, blends, and moves between lanes and general registers. A field of the immediate that selects a lane
 * is turned into byte indices for `i8x16.swizzle` with vector arithmetic, as the immediate is data to the cold tier.
 */
import { I32, type I64, type V128 } from "../wasm/expr.js";
import type { FunctionBuilder } from "../wasm/module.js";
import {
  bytes,
  dwords,
  lane,
  lane64,
  qwords,
  selectVector,
  shuffle,
  shuffleLanes,
  test,
  type VectorOp,
  type VectorTest,
  v,
  words,
  ZERO,
} from "../wasm/simd.js";
import type { Definition } from "./context.js";
import { enterMmx, readMmx, requireMmx, writeMmx } from "./mmx.js";
import { imm8, readSource, type VectorBinary, type VectorUnary } from "./vector-operands.js";

// --- by a vector of indices ---

/** PSHUFB: a zero where bit 7 of the index is set; an index of 0x80 and more is out of swizzle's range. */
export const shuffleBytes: VectorBinary = (a, b) => v("i8x16.swizzle", a, v("v128.and", b, bytes(0x8f)));
export const mmxShuffleBytes: VectorBinary = (a, b) => v("i8x16.swizzle", a, v("v128.and", b, bytes(0x87)));

// --- by two-bit fields of the immediate ---

const SIX = I32.const(6);

/** Two-bit field k of the immediate, in the words where `place` holds k. */
const fields = (imm: I32, place: readonly number[]): V128 =>
  v(
    "v128.and",
    v(
      "i16x8.shr_u",
      v("i16x8.mul", v("i16x8.splat", imm), words(...place.map((k) => 1 << (6 - 2 * k)))),
      SIX,
    ),
    words(3),
  );
/** Bytes of doubleword `field` of a vector, for the fields of the immediate in order. */
const dwordIndices = (imm: I32): V128 =>
  v("i16x8.add", v("i16x8.mul", fields(imm, [0, 0, 1, 1, 2, 2, 3, 3]), words(0x0404)), words(0x0100, 0x0302));

/** PSHUFD. */
export const shuffleDwords = (a: V128, imm: I32): V128 => v("i8x16.swizzle", a, dwordIndices(imm));

/** SHUFPS: two lanes of a, then two of b. */
export const shuffleSingles = (a: V128, b: V128, imm: I32, f: FunctionBuilder): V128 => {
  const indices = f.let(dwordIndices(imm));
  return shuffleLanes(8, v("i8x16.swizzle", a, indices), v("i8x16.swizzle", b, indices), [0, 3]);
};

/** SHUFPD: bit 0 chooses the lane of a, bit 1 the lane of b. */
export const shuffleDoubles = (a: V128, b: V128, imm: I32): V128 =>
  shuffleLanes(
    8,
    selectVector(imm.and(1), shuffleLanes(8, a, a, [1, 1]), a),
    selectVector(imm.and(2), shuffleLanes(8, b, b, [1, 1]), b),
    [0, 2],
  );

const wordIndices = (imm: I32): V128 =>
  v("i16x8.add", v("i16x8.mul", fields(imm, [0, 1, 2, 3]), words(0x0202)), words(0x0100));

/** PSHUFLW, and PSHUFW on MMX registers. */
export const shuffleLowWords = (a: V128, imm: I32): V128 =>
  shuffleLanes(8, v("i8x16.swizzle", a, wordIndices(imm)), a, [0, 3]);
/** PSHUFHW. */
export const shuffleHighWords = (a: V128, imm: I32): V128 =>
  shuffleLanes(8, a, v("i8x16.swizzle", a, v("i16x8.add", wordIndices(imm), words(0x0808))), [0, 3]);

// --- by fixed patterns ---

/** Interleave the low or the high halves of a and b by lanes of `width` bytes: PUNPCK…, UNPCK…. */
export const interleave = (width: 1 | 2 | 4 | 8, half: "low" | "high", total = 16): VectorBinary => {
  const start = half === "low" ? 0 : total / 2;
  const lanes = Array.from({ length: 16 }, (_, i) => {
    const pair = Math.floor(i / (2 * width));
    const fromB = Math.floor(i / width) % 2;
    return ((start + pair * width + (i % width)) % 16) + 16 * fromB;
  });
  return (a, b) => shuffle(a, b, lanes);
};

/** Lanes of `width` bytes of a and b in a fixed order. */
export const fixedLanes =
  (width: 4 | 8, lanes: readonly number[]): VectorBinary =>
  (a, b) =>
    shuffleLanes(width, a, b, lanes);
export const fixedLanesUnary =
  (width: 4 | 8, lanes: readonly number[]): VectorUnary =>
  (a) =>
    shuffleLanes(width, a, a, lanes);

// --- blends ---

/** imm bit i set: lane i of b. */
const blend =
  (shape: "i16x8" | "i32x4" | "i64x2", bits: V128) =>
  (a: V128, b: V128, imm: I32): V128 => {
    const splat = shape === "i64x2" ? v("i64x2.splat", imm.toI64U()) : v(`${shape}.splat`, imm);
    return v("v128.bitselect", b, a, v(`${shape}.eq`, v("v128.and", splat, bits), bits));
  };
export const blendWords = blend("i16x8", words(1, 2, 4, 8, 16, 32, 64, 128));
export const blendSingles = blend("i32x4", dwords(1, 2, 4, 8));
export const blendDoubles = blend("i64x2", qwords(1n, 2n));

/** PBLENDVB, BLENDVPS, BLENDVPD: lanes of the source where the sign bit of XMM0's lane is set. */
export const blendVariable =
  (shape: "i8x16" | "i32x4" | "i64x2"): Definition =>
  (x) => {
    x.requireSse();
    const b = readSource(x, 1);
    x.writeVector(0, v("v128.bitselect", b, x.readVector(0), v(`${shape}.lt_s`, x.xmm(0), ZERO)));
  };

// --- lanes and general registers ---

type Shape = "i8x16" | "i16x8" | "i32x4" | "i64x2";
const LANES: Record<Shape, number> = { i8x16: 16, i16x8: 8, i32x4: 4, i64x2: 2 };
const LANE_NUMBERS: Record<Shape, V128> = {
  i8x16: bytes(...Array.from({ length: 16 }, (_, i) => i)),
  i16x8: words(0, 1, 2, 3, 4, 5, 6, 7),
  i32x4: dwords(0, 1, 2, 3),
  i64x2: qwords(0n, 1n),
};

/** The lane that the immediate selects (its upper bits are ignored), zero-extended. */
function laneByImmediate(shape: Shape, a: V128, imm: I32, lanes = LANES[shape]): I32 | I64 {
  const number = imm.and(lanes - 1);
  const width = 16 / LANES[shape];
  const start = v("i8x16.splat", width === 1 ? number : number.mul(width));
  const moved = v("i8x16.swizzle", a, v("i8x16.add", start, LANE_NUMBERS.i8x16));
  return shape === "i64x2" ? lane64(moved, 0) : lane(shape, moved, 0);
}

/** `a` with the lane that the immediate selects replaced. */
function withLaneByImmediate(shape: Shape, a: V128, imm: I32, value: I32 | I64, lanes = LANES[shape]): V128 {
  const number = imm.and(lanes - 1);
  const splat = (n: I32 | I64): V128 =>
    shape === "i64x2" ? v("i64x2.splat", n.toI64U()) : v(`${shape}.splat`, n.toI32());
  return v("v128.bitselect", splat(value), a, v(`${shape}.eq`, LANE_NUMBERS[shape], splat(number)));
}

/** PEXTRB, PEXTRW: the lane goes zero-extended to a register, in its own size to memory. */
export const extract =
  (shape: Shape): Definition =>
  (x) => {
    x.requireSse();
    x.write(0, laneByImmediate(shape, x.readVector(1), imm8(x)));
  };
/** PEXTRD, PEXTRQ. */
export const extractInteger: Definition = (x) => extract(shapeOfSize(x.operands[0].size))(x);
const shapeOfSize = (size: number): Shape => (size === 8 ? "i64x2" : "i32x4");
export const mmxExtractWord: Definition = (x) => {
  requireMmx(x);
  const value = laneByImmediate("i16x8", readMmx(x, 1), imm8(x), 4);
  enterMmx(x);
  x.write(0, value);
};

/** PINSRB, PINSRW. */
export const insert =
  (shape: Shape): Definition =>
  (x) => {
    x.requireSse();
    const value = x.read(1) as I32 | I64;
    x.writeVector(0, withLaneByImmediate(shape, x.readVector(0), imm8(x), value));
  };
/** PINSRD, PINSRQ. */
export const insertInteger: Definition = (x) => insert(shapeOfSize(x.operands[1].size))(x);
export const mmxInsertWord: Definition = (x) => {
  requireMmx(x);
  const value = x.read(1) as I32;
  const result = withLaneByImmediate("i16x8", readMmx(x, 0), imm8(x), value, 4);
  enterMmx(x);
  writeMmx(x, 0, result);
};

/** INSERTPS: imm 7:6 is the source's lane (of a register), 5:4 the destination's, 3:0 the lanes to clear (SDM vol. 2, INSERTPS). */
export const insertSingle: Definition = (x) => {
  x.requireSse();
  const imm = imm8(x);
  const value =
    x.operands[1].kind === "reg"
      ? laneByImmediate("i32x4", x.readVector(1), imm.shrU(6))
      : (x.read(1) as I32);
  const inserted = withLaneByImmediate("i32x4", x.readVector(0), imm.shrU(4), x.f.let(value));
  x.writeVector(0, blendSingles(inserted, ZERO, imm));
};

/** PMOVMSKB, MOVMSKPS, MOVMSKPD: the lanes' sign bits. */
export const signMask =
  (name: VectorTest): Definition =>
  (x) => {
    x.requireSse();
    x.write(0, test(name, x.readVector(1)));
  };
export const mmxSignMask: Definition = (x) => {
  requireMmx(x);
  const mask = test("i8x16.bitmask", readMmx(x, 1));
  enterMmx(x);
  x.write(0, mask);
};

// --- widening ---

/** PMOVSX…, PMOVZX…: the low lanes, through each width in turn. */
export const widen =
  (...names: readonly VectorOp[]): VectorUnary =>
  (a) =>
    names.reduce((value, name) => v(name, value), a);
