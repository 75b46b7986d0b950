/** Values worth trying: the corners of every data type, mixed with random ones. */
import { FX_SIZE, Fx, initialFx, type Random } from "./cpu-case.js";

const M64 = (1n << 64n) - 1n;

const INTEGER_CORNERS = [
  0n,
  1n,
  2n,
  0x7fn,
  0x80n,
  0xffn,
  0x7fffn,
  0x8000n,
  0xffffn,
  0x7fffffffn,
  0x80000000n,
  0xffffffffn,
  0x7fffffffffffffffn,
  0x8000000000000000n,
  M64,
  M64 - 1n,
  0x5555555555555555n,
  0xaaaaaaaaaaaaaaaan,
  0x0f0f0f0f0f0f0f0fn,
] as const;

/** A 64-bit integer. */
export function integer(random: Random): bigint {
  switch (random.below(8)) {
    case 0:
    case 1:
      return random.pick(INTEGER_CORNERS);
    case 2:
      return 1n << BigInt(random.below(64));
    case 3:
      return ((1n << BigInt(random.below(64))) - 1n) & M64;
    case 4:
      return BigInt(random.below(256));
    case 5:
      return BigInt.asUintN(64, BigInt(random.u32() | 0));
    default:
      return random.u64();
  }
}

/** Bit patterns of 32-bit floats: zeros, denormals, limits, infinities, NaNs quiet and signalling, rounding cases. */
const F32_CORNERS = [
  0x00000000, 0x00000001, 0x007fffff, 0x00800000, 0x00800001, 0x7f7fffff, 0x7f800000, 0x7fc00000, 0x7f800001,
  0x7fffffff, 0x7fa12345, 0x7fd54321, 0x3f800000, 0x3f800001, 0x3f7fffff, 0x3f000000, 0x3fc00000, 0x40200000,
  0x4b000000, 0x4b7fffff, 0x4b800000, 0x4effffff, 0x4f000000, 0x4f800000, 0x5effffff, 0x5f000000, 0x34000000,
  0x33800000, 0x00400000, 0x1f800000, 0x20000000, 0x5f7fffff,
] as const;

export function float32(random: Random): number {
  switch (random.below(4)) {
    case 0:
      return (random.pick(F32_CORNERS) | (random.chance(0.5) ? 0x80000000 : 0)) >>> 0;
    case 1:
      return random.u32();
    case 2:
      // Magnitudes near 1, few bits set: sums and products that round in interesting ways.
      return (((random.u32() & 0x807f0000) | ((120 + random.below(16)) << 23) | random.below(4)) >>> 0) >>> 0;
    default:
      return ((random.u32() & 0x807fffff) | ((96 + random.below(64)) << 23)) >>> 0;
  }
}

const F64_CORNERS = [
  0x0000000000000000n,
  0x0000000000000001n,
  0x000fffffffffffffn,
  0x0010000000000000n,
  0x0010000000000001n,
  0x7fefffffffffffffn,
  0x7ff0000000000000n,
  0x7ff8000000000000n,
  0x7ff0000000000001n,
  0x7fffffffffffffffn,
  0x7ff4567812345678n,
  0x7ffc567812345678n,
  0x3ff0000000000000n,
  0x3ff0000000000001n,
  0x3fefffffffffffffn,
  0x3fe0000000000000n,
  0x3ff8000000000000n,
  0x4004000000000000n,
  0x4330000000000000n,
  0x4340000000000000n,
  0x41dfffffffc00000n,
  0x41dfffffffe00000n,
  0x41e0000000000000n,
  0x41e0000000200000n,
  0x43dfffffffffffffn,
  0x43e0000000000000n,
  0x43f0000000000000n,
  // Around the limits of 32-bit floats, for conversions.
  0x47efffffe0000000n,
  0x47efffffefffffffn,
  0x47effffff0000000n,
  0x3810000000000000n,
  0x380fffffffffffffn,
  0x36a0000000000000n,
  0x3690000000000000n,
] as const;

export function float64(random: Random): bigint {
  switch (random.below(4)) {
    case 0:
      return random.pick(F64_CORNERS) | (random.chance(0.5) ? 1n << 63n : 0n);
    case 1:
      return random.u64();
    case 2:
      return (
        (random.u64() & 0x800fc00000000000n) |
        (BigInt(1016 + random.below(16)) << 52n) |
        BigInt(random.below(4))
      );
    default:
      return (random.u64() & 0x800fffffffffffffn) | (BigInt(960 + random.below(128)) << 52n);
  }
}

/** Sign and exponent, and significand with its explicit integer bit, of 80-bit floats (SDM vol. 1, 4.2.2 and table 4-3). */
const F80_CORNERS: readonly (readonly [number, bigint])[] = [
  [0, 0n],
  [0, 1n],
  [0, 0x7fffffffffffffffn],
  [0, 0x8000000000000000n], // pseudo-denormal
  [1, 0x8000000000000000n],
  [1, 0x7000000000000000n], // unnormal
  [0x3fff, 0n], // unnormal zero
  [0x3fff, 0x8000000000000000n],
  [0x3fff, 0x8000000000000001n],
  [0x3ffe, 0xffffffffffffffffn],
  [0x3fff, 0xc000000000000000n],
  [0x4000, 0xa000000000000000n],
  [0x4000, 0xc90fdaa22168c235n], // pi
  [0x3ffe, 0x8000000000000000n],
  [0x401d, 0xfffffffe00000000n],
  [0x401e, 0x8000000000000000n],
  [0x403d, 0xfffffffffffffffen],
  [0x403e, 0x8000000000000000n],
  [0x400d, 0xfffe000000000000n],
  [0x400e, 0x8000000000000000n],
  [0x7ffe, 0xffffffffffffffffn],
  [0x7fff, 0x8000000000000000n],
  [0x7fff, 0xc000000000000000n],
  [0x7fff, 0x8000000000000001n],
  [0x7fff, 0xa123456789abcdefn],
  [0x7fff, 0xffffffffffffffffn],
  [0x7fff, 0x0000000000000000n], // pseudo-infinity
  [0x7fff, 0x4000000000000000n], // pseudo-NaN
  // Around the limits of the smaller formats.
  [0x3fff + 1023, 0xfffffffffffff800n],
  [0x3fff + 1023, 0xfffffffffffffc00n],
  [0x3fff - 1022, 0x8000000000000000n],
  [0x3fff - 1074, 0x8000000000000000n],
  [0x3fff - 1075, 0x8000000000000001n],
  [0x3fff + 127, 0xffffff0000000000n],
  [0x3fff + 127, 0xffffff8000000000n],
  [0x3fff - 126, 0x8000000000000000n],
  [0x3fff - 149, 0x8000000000000000n],
];

/** Ten bytes. */
export function float80(random: Random): Uint8Array {
  const out = new Uint8Array(10);
  const view = new DataView(out.buffer);
  let exponent: number;
  let significand: bigint;
  switch (random.below(6)) {
    case 0:
    case 1:
      [exponent, significand] = random.pick(F80_CORNERS);
      break;
    case 2:
      exponent = random.below(0x8000);
      significand = random.u64();
      break;
    case 3:
      // Small integers and halves.
      exponent = 0x3fff + random.below(16);
      significand = (1n << 63n) | (BigInt(random.u32()) << 47n);
      break;
    case 4:
      // A value that a double holds exactly.
      exponent = 0x3fff - 60 + random.below(120);
      significand = (1n << 63n) | (random.u64() & 0x7ffffffffffff800n);
      break;
    default:
      exponent = 0x3fff - 40 + random.below(110);
      significand = (1n << 63n) | random.u64();
  }
  view.setBigUint64(0, BigInt.asUintN(64, significand), true);
  view.setUint16(8, exponent | (random.chance(0.4) ? 0x8000 : 0), true);
  return out;
}

/** Packed decimal, 18 digits and a sign, for FBLD; now and then with digits that are none. */
export function packedDecimal(random: Random): Uint8Array {
  const valid = random.chance(0.95);
  return Uint8Array.from({ length: 10 }, (_, i) => {
    if (i === 9) return random.chance(0.5) ? 0x80 : 0;
    return valid ? (random.below(10) << 4) | random.below(10) : random.u32();
  });
}

export type VectorKind = "integer" | "f32" | "f64";

/** Sixteen bytes of one kind of elements, or of any. */
export function vector(random: Random, kind?: VectorKind): Uint8Array {
  const out = new Uint8Array(16);
  const view = new DataView(out.buffer);
  switch (kind ?? random.pick(["integer", "f32", "f64"] as const)) {
    case "f32":
      for (let i = 0; i < 4; i++) view.setUint32(4 * i, float32(random), true);
      break;
    case "f64":
      for (let i = 0; i < 2; i++) view.setBigUint64(8 * i, float64(random), true);
      break;
    case "integer": {
      const width = random.pick([1, 2, 4, 8] as const);
      for (let at = 0; at < 16; at += width) {
        const value = integer(random);
        // A full-width corner means the corner of the element's width: shift some values down.
        const shifted = random.chance(0.5) ? value >> BigInt(64 - 8 * width) : value;
        for (let i = 0; i < width; i++) out[at + i] = Number((shifted >> BigInt(8 * i)) & 0xffn);
      }
    }
  }
  return out;
}

const MXCSR_MASKS = 0x1f80;
const FCW_MASKS = 0x3f;
const FSW_ES = 0x80;
const FSW_B = 0x8000;

/** MXCSR: any rounding mode, FTZ, DAZ, flags; mostly with every exception masked (SDM vol. 1, 10.2.3). */
export function mxcsr(random: Random): number {
  let value = MXCSR_MASKS;
  if (random.chance(0.5)) value |= random.below(4) << 13;
  if (random.chance(0.2)) value |= 1 << 15;
  if (random.chance(0.2)) value |= 1 << 6;
  if (random.chance(0.3)) value |= random.below(64);
  if (random.chance(0.15)) value &= ~(random.below(64) << 7);
  return value;
}

/** Precision control has three values; 1 is reserved (SDM vol. 1, table 8-2). */
const PRECISIONS = [0, 2, 3] as const;

export interface FxOptions {
  vectors?: VectorKind | undefined;
  /** MMX values in the eight registers in place of x87 ones. */
  mmx?: boolean;
}

/** An FXSAVE image: every x87, MMX and SSE register set to something worth trying. */
export function fxImage(random: Random, options: FxOptions = {}): Uint8Array {
  const fx = initialFx();
  const view = new DataView(fx.buffer, 0, FX_SIZE);
  let fcw = 0x37f;
  if (random.chance(0.5)) fcw = (random.pick(PRECISIONS) << 8) | (random.below(4) << 10) | 0x40 | FCW_MASKS;
  if (random.chance(0.15)) fcw &= ~random.below(64);
  let fsw = (random.below(8) << 11) | (random.u32() & 0x4700);
  if (random.chance(0.3)) fsw |= random.below(128) & (random.chance(0.1) ? 0x7f : fcw | 0x40);
  if ((fsw & ~fcw & FCW_MASKS) !== 0) fsw |= FSW_ES | FSW_B;
  view.setUint16(Fx.FCW, fcw, true);
  view.setUint16(Fx.FSW, fsw, true);
  fx[Fx.FTW] = random.chance(0.6) ? 0xff : random.u32() & 0xff;
  for (let i = 0; i < 8; i++) {
    if (options.mmx === true && random.chance(0.8)) {
      fx.set(vector(random, "integer").subarray(0, 8), Fx.ST + 16 * i);
      view.setUint16(Fx.ST + 16 * i + 8, 0xffff, true);
    } else {
      fx.set(float80(random), Fx.ST + 16 * i);
    }
  }
  view.setUint32(Fx.MXCSR, mxcsr(random), true);
  for (let i = 0; i < 16; i++) fx.set(vector(random, options.vectors), Fx.XMM + 16 * i);
  return fx;
}
