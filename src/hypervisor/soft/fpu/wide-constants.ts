/** Constants of the transcendental functions to 128 bits, computed when the module loads. */

/** Bits worked with, beyond those given out. */
const GUARD = 64n;
const BITS = 128n;
const PRECISION = BITS + GUARD;
const ONE = 1n << PRECISION;

/** atan(p / q) by its series; p < q. */
function atanSeries(p: bigint, q: bigint): bigint {
  let power = (ONE * p) / q;
  let sum = 0n;
  for (let n = 1n; power !== 0n; n += 2n) {
    sum += (n & 2n) === 0n ? power / n : -(power / n);
    power = (power * p * p) / (q * q);
  }
  return sum;
}

/** ln 2 = 2 atanh(1/3). */
function ln2(): bigint {
  let power = ONE / 3n;
  let sum = 0n;
  for (let n = 1n; power !== 0n; n += 2n) {
    sum += power / n;
    power /= 9n;
  }
  return 2n * sum;
}

/** π by Machin's formula: 16 atan(1/5) − 4 atan(1/239). */
const PI = 16n * atanSeries(1n, 5n) - 4n * atanSeries(1n, 239n);
const LN2 = ln2();

/** `value` (with PRECISION fraction bits) with `bits` fraction bits, rounded down. */
const fixed = (value: bigint, bits: bigint): bigint => value >> (PRECISION - bits);

/** Fixed-point numbers with 128 fraction bits (Q0.128) and with two bits before the point (Q2.126). */
export const PI_Q2 = fixed(PI, 126n);
export const HALF_PI_Q2 = fixed(PI / 2n, 126n);
export const QUARTER_PI_Q0 = fixed(PI / 4n, 128n);
export const LN2_Q0 = fixed(LN2, 128n);

/**
 * π as the x87 reduces arguments: 66 significant bits (SDM vol. 1, 8.3.8), here π/2 in units of 2^−65.
 */
export const HALF_PI_66 = fixed(PI, 64n);

/** atan(k / 8), k = 0–8. */
export const ATAN_EIGHTHS_Q0: readonly bigint[] = Array.from({ length: 9 }, (_, k) =>
  k === 8 ? QUARTER_PI_Q0 : fixed(atanSeries(BigInt(k), 8n), 128n),
);

function factorial(n: number): bigint {
  let product = 1n;
  for (let i = 2n; i <= BigInt(n); i++) product *= i;
  return product;
}

/** 1/3!, 1/5!, 1/7! …: sin r = r − r·z·(1/3! − z·(1/5! − …)), z = r². */
export const SIN_Q0: readonly bigint[] = Array.from(
  { length: 14 },
  (_, i) => (1n << BITS) / factorial(2 * i + 3),
);
/** 1/2!, 1/4! …: cos r = 1 − z·(1/2! − z·(1/4! − …)). */
export const COS_Q0: readonly bigint[] = Array.from(
  { length: 14 },
  (_, i) => (1n << BITS) / factorial(2 * i + 2),
);
/** 1/3, 1/5 …: atan t = t − t·z·(1/3 − z·(1/5 − …)). */
export const ATAN_Q0: readonly bigint[] = Array.from(
  { length: 15 },
  (_, i) => (1n << BITS) / BigInt(2 * i + 3),
);
/** (2 / ln 2) / (2i + 1) in Q2.126: log2((1 + s) / (1 − s)) = s·(c0 + z·(c1 + …)), z = s². */
export const LOG2_Q2: readonly bigint[] = Array.from({ length: 27 }, (_, i) =>
  fixed((2n * ONE * ONE) / LN2 / BigInt(2 * i + 1), 126n),
);
/** 1 / (i + 1)! in Q1.127: e^w − 1 = w·(c0 + w·(c1 + …)). */
export const EXPM1_Q1: readonly bigint[] = Array.from(
  { length: 28 },
  (_, i) => (1n << 127n) / factorial(i + 1),
);
