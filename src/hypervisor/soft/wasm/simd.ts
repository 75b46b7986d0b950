/**
 * The WebAssembly vector instructions by name (core specification 2.0, 5.4.8), and typed helpers over them. As with all
 * expressions, an operand that is used twice goes through `FunctionBuilder.let` first.
 */
import type { ByteWriter } from "./bytes.js";
import { type Emit, type F32, type F64, type I32, type I64, type Int, V128 } from "./expr.js";

/** Instructions that give a vector and have no immediate. */
export const VECTOR = {
  "i8x16.swizzle": 14,
  "i8x16.splat": 15,
  "i16x8.splat": 16,
  "i32x4.splat": 17,
  "i64x2.splat": 18,
  "f32x4.splat": 19,
  "f64x2.splat": 20,
  "i8x16.eq": 35,
  "i8x16.ne": 36,
  "i8x16.lt_s": 37,
  "i8x16.lt_u": 38,
  "i8x16.gt_s": 39,
  "i8x16.gt_u": 40,
  "i8x16.le_s": 41,
  "i8x16.le_u": 42,
  "i8x16.ge_s": 43,
  "i8x16.ge_u": 44,
  "i16x8.eq": 45,
  "i16x8.ne": 46,
  "i16x8.lt_s": 47,
  "i16x8.lt_u": 48,
  "i16x8.gt_s": 49,
  "i16x8.gt_u": 50,
  "i16x8.le_s": 51,
  "i16x8.le_u": 52,
  "i16x8.ge_s": 53,
  "i16x8.ge_u": 54,
  "i32x4.eq": 55,
  "i32x4.ne": 56,
  "i32x4.lt_s": 57,
  "i32x4.lt_u": 58,
  "i32x4.gt_s": 59,
  "i32x4.gt_u": 60,
  "i32x4.le_s": 61,
  "i32x4.le_u": 62,
  "i32x4.ge_s": 63,
  "i32x4.ge_u": 64,
  "f32x4.eq": 65,
  "f32x4.ne": 66,
  "f32x4.lt": 67,
  "f32x4.gt": 68,
  "f32x4.le": 69,
  "f32x4.ge": 70,
  "f64x2.eq": 71,
  "f64x2.ne": 72,
  "f64x2.lt": 73,
  "f64x2.gt": 74,
  "f64x2.le": 75,
  "f64x2.ge": 76,
  "v128.not": 77,
  "v128.and": 78,
  /** a and not b. */
  "v128.andnot": 79,
  "v128.or": 80,
  "v128.xor": 81,
  /** Bits of a where c is 1, of b where it is 0. */
  "v128.bitselect": 82,
  "f32x4.demote_f64x2_zero": 94,
  "f64x2.promote_low_f32x4": 95,
  "i8x16.abs": 96,
  "i8x16.neg": 97,
  "i8x16.popcnt": 98,
  "i8x16.narrow_i16x8_s": 101,
  "i8x16.narrow_i16x8_u": 102,
  "f32x4.ceil": 103,
  "f32x4.floor": 104,
  "f32x4.trunc": 105,
  "f32x4.nearest": 106,
  "i8x16.shl": 107,
  "i8x16.shr_s": 108,
  "i8x16.shr_u": 109,
  "i8x16.add": 110,
  "i8x16.add_sat_s": 111,
  "i8x16.add_sat_u": 112,
  "i8x16.sub": 113,
  "i8x16.sub_sat_s": 114,
  "i8x16.sub_sat_u": 115,
  "f64x2.ceil": 116,
  "f64x2.floor": 117,
  "i8x16.min_s": 118,
  "i8x16.min_u": 119,
  "i8x16.max_s": 120,
  "i8x16.max_u": 121,
  "f64x2.trunc": 122,
  "i8x16.avgr_u": 123,
  "i16x8.extadd_pairwise_i8x16_s": 124,
  "i16x8.extadd_pairwise_i8x16_u": 125,
  "i32x4.extadd_pairwise_i16x8_s": 126,
  "i32x4.extadd_pairwise_i16x8_u": 127,
  "i16x8.abs": 128,
  "i16x8.neg": 129,
  "i16x8.q15mulr_sat_s": 130,
  "i16x8.narrow_i32x4_s": 133,
  "i16x8.narrow_i32x4_u": 134,
  "i16x8.extend_low_i8x16_s": 135,
  "i16x8.extend_high_i8x16_s": 136,
  "i16x8.extend_low_i8x16_u": 137,
  "i16x8.extend_high_i8x16_u": 138,
  "i16x8.shl": 139,
  "i16x8.shr_s": 140,
  "i16x8.shr_u": 141,
  "i16x8.add": 142,
  "i16x8.add_sat_s": 143,
  "i16x8.add_sat_u": 144,
  "i16x8.sub": 145,
  "i16x8.sub_sat_s": 146,
  "i16x8.sub_sat_u": 147,
  "f64x2.nearest": 148,
  "i16x8.mul": 149,
  "i16x8.min_s": 150,
  "i16x8.min_u": 151,
  "i16x8.max_s": 152,
  "i16x8.max_u": 153,
  "i16x8.avgr_u": 155,
  "i16x8.extmul_low_i8x16_s": 156,
  "i16x8.extmul_high_i8x16_s": 157,
  "i16x8.extmul_low_i8x16_u": 158,
  "i16x8.extmul_high_i8x16_u": 159,
  "i32x4.abs": 160,
  "i32x4.neg": 161,
  "i32x4.extend_low_i16x8_s": 167,
  "i32x4.extend_high_i16x8_s": 168,
  "i32x4.extend_low_i16x8_u": 169,
  "i32x4.extend_high_i16x8_u": 170,
  "i32x4.shl": 171,
  "i32x4.shr_s": 172,
  "i32x4.shr_u": 173,
  "i32x4.add": 174,
  "i32x4.sub": 177,
  "i32x4.mul": 181,
  "i32x4.min_s": 182,
  "i32x4.min_u": 183,
  "i32x4.max_s": 184,
  "i32x4.max_u": 185,
  "i32x4.dot_i16x8_s": 186,
  "i32x4.extmul_low_i16x8_s": 188,
  "i32x4.extmul_high_i16x8_s": 189,
  "i32x4.extmul_low_i16x8_u": 190,
  "i32x4.extmul_high_i16x8_u": 191,
  "i64x2.abs": 192,
  "i64x2.neg": 193,
  "i64x2.extend_low_i32x4_s": 199,
  "i64x2.extend_high_i32x4_s": 200,
  "i64x2.extend_low_i32x4_u": 201,
  "i64x2.extend_high_i32x4_u": 202,
  "i64x2.shl": 203,
  "i64x2.shr_s": 204,
  "i64x2.shr_u": 205,
  "i64x2.add": 206,
  "i64x2.sub": 209,
  "i64x2.mul": 213,
  "i64x2.eq": 214,
  "i64x2.ne": 215,
  "i64x2.lt_s": 216,
  "i64x2.gt_s": 217,
  "i64x2.le_s": 218,
  "i64x2.ge_s": 219,
  "i64x2.extmul_low_i32x4_s": 220,
  "i64x2.extmul_high_i32x4_s": 221,
  "i64x2.extmul_low_i32x4_u": 222,
  "i64x2.extmul_high_i32x4_u": 223,
  "f32x4.abs": 224,
  "f32x4.neg": 225,
  "f32x4.sqrt": 227,
  "f32x4.add": 228,
  "f32x4.sub": 229,
  "f32x4.mul": 230,
  "f32x4.div": 231,
  "f32x4.min": 232,
  "f32x4.max": 233,
  /** b < a ? b : a, bit for bit. */
  "f32x4.pmin": 234,
  /** a < b ? b : a, bit for bit. */
  "f32x4.pmax": 235,
  "f64x2.abs": 236,
  "f64x2.neg": 237,
  "f64x2.sqrt": 239,
  "f64x2.add": 240,
  "f64x2.sub": 241,
  "f64x2.mul": 242,
  "f64x2.div": 243,
  "f64x2.min": 244,
  "f64x2.max": 245,
  "f64x2.pmin": 246,
  "f64x2.pmax": 247,
  "i32x4.trunc_sat_f32x4_s": 248,
  "i32x4.trunc_sat_f32x4_u": 249,
  "f32x4.convert_i32x4_s": 250,
  "f32x4.convert_i32x4_u": 251,
  "i32x4.trunc_sat_f64x2_s_zero": 252,
  "i32x4.trunc_sat_f64x2_u_zero": 253,
  "f64x2.convert_low_i32x4_s": 254,
  "f64x2.convert_low_i32x4_u": 255,
} as const;
export type VectorOp = keyof typeof VECTOR;

/** Instructions from a vector to an i32 without an immediate. */
const TEST = {
  "v128.any_true": 83,
  "i8x16.all_true": 99,
  "i8x16.bitmask": 100,
  "i16x8.all_true": 131,
  "i16x8.bitmask": 132,
  "i32x4.all_true": 163,
  "i32x4.bitmask": 164,
  "i64x2.all_true": 195,
  "i64x2.bitmask": 196,
} as const;
export type VectorTest = keyof typeof TEST;

const EXTRACT_I32 = { "i8x16.s": 21, i8x16: 22, "i16x8.s": 24, i16x8: 25, i32x4: 27 } as const;
const REPLACE_I32 = { i8x16: 23, i16x8: 26, i32x4: 28 } as const;
const CODE = {
  load: 0,
  shuffle: 13,
  extractI64: 29,
  replaceI64: 30,
  extractF32: 31,
  replaceF32: 32,
  extractF64: 33,
  replaceF64: 34,
  store64Lane: 91,
  load64Zero: 93,
} as const;

/** The vector instruction `name` on its operands; a shift's count is an i32. */
export const v = (name: VectorOp, ...operands: readonly (V128 | I32 | I64 | F32 | F64)[]): V128 =>
  V128.op(VECTOR[name], operands);

export const test = (name: VectorTest, a: V128): I32 => V128.toI32(TEST[name], [a]);

/** Bytes of the concatenation of a (0–15) and b (16–31). */
export const shuffle = (a: V128, b: V128, lanes: readonly number[]): V128 =>
  V128.op(CODE.shuffle, [a, b], lanes);

/** `shuffle` by lanes of `width` bytes. */
export const shuffleLanes = (width: 2 | 4 | 8, a: V128, b: V128, lanes: readonly number[]): V128 =>
  shuffle(
    a,
    b,
    lanes.flatMap((lane) => Array.from({ length: width }, (_, i) => lane * width + i)),
  );

/** Lane `n`, zero-extended (sign-extended for the names in `.s`). */
export const lane = (shape: keyof typeof EXTRACT_I32, a: V128, n: number): I32 =>
  V128.toI32(EXTRACT_I32[shape], [a], [n]);
export const lane64 = (a: V128, n: number): I64 => V128.toI64(CODE.extractI64, [a], [n]);
export const laneF32 = (a: V128, n: number): F32 => V128.toF32(CODE.extractF32, [a], [n]);
export const laneF64 = (a: V128, n: number): F64 => V128.toF64(CODE.extractF64, [a], [n]);

/** `a` with lane `n` replaced by the low bits of `value`. */
export const withLane = (shape: keyof typeof REPLACE_I32, a: V128, n: number, value: I32): V128 =>
  V128.op(REPLACE_I32[shape], [a, value], [n]);
export const withLane64 = (a: V128, n: number, value: I64): V128 => V128.op(CODE.replaceI64, [a, value], [n]);
export const withLaneF32 = (a: V128, n: number, value: F32): V128 =>
  V128.op(CODE.replaceF32, [a, value], [n]);
export const withLaneF64 = (a: V128, n: number, value: F64): V128 =>
  V128.op(CODE.replaceF64, [a, value], [n]);

// --- constants; a short list repeats to fill the vector ---

const fill = (bytes: Uint8Array): V128 =>
  V128.const(Uint8Array.from({ length: 16 }, (_, i) => bytes[i % bytes.length]));
export const bytes = (...lanes: readonly number[]): V128 => fill(Uint8Array.from(lanes));
export const words = (...lanes: readonly number[]): V128 =>
  fill(new Uint8Array(Uint16Array.from(lanes).buffer));
export const dwords = (...lanes: readonly number[]): V128 =>
  fill(new Uint8Array(Uint32Array.from(lanes).buffer));
export const qwords = (...lanes: readonly bigint[]): V128 =>
  fill(new Uint8Array(BigUint64Array.from(lanes).buffer));

export const ZERO = bytes(0);
/** Byte i holds i. */
export const IOTA = bytes(...Array.from({ length: 16 }, (_, i) => i));

/** `value` in the low lane and zeros above. */
export const fromI32 = (value: I32): V128 => withLane("i32x4", ZERO, 0, value);
export const fromI64 = (value: I64): V128 => withLane64(ZERO, 0, value);
/** An integer of up to 8 bytes in the low bits and zeros above. */
export const fromInt = (value: Int): V128 =>
  value.type === "i64" ? fromI64(value.toI64U()) : fromI32(value.toI32());

/** `ifTrue` where the condition is not zero, else `ifFalse`. */
export const selectVector = (condition: I32, ifTrue: V128, ifFalse: V128): V128 =>
  new V128((w) => {
    ifTrue.emit(w);
    ifFalse.emit(w);
    condition.emit(w);
    w.u8(0x1b);
  });

// --- memory ---

function memoryOperand(w: ByteWriter, code: number, offset: number): void {
  w.u8(0xfd);
  w.leb(code);
  w.leb(0);
  w.leb(offset);
}

/** 8 bytes, zero-extended. */
export const load64Zero = (address: I32, offset = 0): V128 =>
  new V128((w) => {
    address.emit(w);
    memoryOperand(w, CODE.load64Zero, offset);
  });

/** Stores the low 8 bytes. */
export const store64 =
  (address: I32, value: V128, offset = 0): Emit =>
  (w) => {
    address.emit(w);
    value.emit(w);
    memoryOperand(w, CODE.store64Lane, offset);
    w.u8(0);
  };
