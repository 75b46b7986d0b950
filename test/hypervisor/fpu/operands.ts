/** Operands that provoke the corners of floating point, and a small repeatable generator. */

/** xorshift32 (Marsaglia, "Xorshift RNGs", 2003). */
export class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed | 0 || 1;
  }
  u32(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return x >>> 0;
  }
  below(n: number): number {
    return this.u32() % n;
  }
  u64(): bigint {
    return (BigInt(this.u32()) << 32n) | BigInt(this.u32());
  }
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)];
  }
}

export interface FloatShape {
  readonly exponentBits: number;
  readonly fractionBits: number;
}
export const SHAPE32: FloatShape = { exponentBits: 8, fractionBits: 23 };
export const SHAPE64: FloatShape = { exponentBits: 11, fractionBits: 52 };

/** Fractions of few ones, many ones, or random: what makes ties and carries. */
export function randomFraction(r: Random, bits: number): bigint {
  const all = (1n << BigInt(bits)) - 1n;
  switch (r.below(6)) {
    case 0:
      return 0n;
    case 1:
      return all;
    case 2:
      return 1n << BigInt(r.below(bits));
    case 3:
      return all ^ (1n << BigInt(r.below(bits)));
    case 4:
      return (all << BigInt(r.below(bits))) & all;
    default:
      return r.u64() & all;
  }
}

/** A number of an IEEE format: all classes, exponents near each other often enough for sums to meet. */
export function randomFloat(r: Random, shape: FloatShape): bigint {
  const { exponentBits, fractionBits } = shape;
  const max = (1 << exponentBits) - 1;
  const bias = max >> 1;
  const exponent = [
    () => 0,
    () => max,
    () => r.below(max + 1),
    () => bias + r.below(8) - 4,
    () => bias + r.below(2 * fractionBits) - fractionBits,
    () => 1 + r.below(3),
    () => max - 1 - r.below(3),
    () => (bias >> 1) + r.below(6),
    () => bias + (bias >> 1) + r.below(6),
  ][r.below(9)]();
  const sign = BigInt(r.below(2));
  return (
    (sign << BigInt(exponentBits + fractionBits)) |
    (BigInt(exponent) << BigInt(fractionBits)) |
    randomFraction(r, fractionBits)
  );
}

/** A number near `a`: where comparison, cancellation and rounding are close calls. */
export function nearFloat(r: Random, a: bigint, shape: FloatShape): bigint {
  const bits = BigInt(shape.exponentBits + shape.fractionBits + 1);
  const flip = BigInt(r.below(2)) << (bits - 1n);
  return BigInt.asUintN(Number(bits), (a ^ flip) + BigInt(r.below(5) - 2));
}

/** An 80-bit number of every class, unsupported ones too. */
export function randomF80(r: Random): { m: bigint; se: number } {
  const top = 1n << 63n;
  const sign = r.below(2) << 15;
  const fraction = () => randomFraction(r, 63);
  const near = () => 0x3fff + r.below(140) - 70;
  const any = () => 1 + r.below(0x7ffe);
  switch (r.below(14)) {
    case 0:
      return { m: 0n, se: sign };
    case 1:
      return { m: fraction(), se: sign };
    case 2:
      return { m: top | fraction(), se: sign | 0x7fff };
    case 3:
      return { m: top, se: sign | 0x7fff };
    case 4:
      return { m: fraction(), se: sign | [0x7fff, 0x3fff + r.below(64), any()][r.below(3)] };
    case 5:
      return { m: top | fraction(), se: sign | [0, 1, 2, r.below(70)][r.below(4)] };
    case 6:
      return { m: top | fraction(), se: sign | (0x7ffe - r.below(4)) };
    case 7:
      return { m: top | fraction(), se: sign | any() };
    case 8:
      return { m: top | fraction(), se: sign | (0x3fff + r.below(8) - 4) };
    case 9:
      // In the range of f64 and f32 limits
      return {
        m: top | fraction(),
        se: sign | (r.pick([15361, 17406, 16257, 16510, 16383 - 1074, 16383 - 149]) + r.below(5) - 2),
      };
    case 10:
      // Half an integer, or one
      return {
        m: top | ((r.u64() << BigInt(r.below(63))) & (top - 1n)),
        se: sign | (0x3fff + r.below(66)),
      };
    default:
      return { m: top | (fraction() & ~0x3ffn), se: sign | near() };
  }
}
