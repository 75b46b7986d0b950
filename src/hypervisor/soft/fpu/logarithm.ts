/** Base-2 logarithm and exponential of unpacked numbers: FYL2X, FYL2XP1 and F2XM1 (SDM vol. 1, 8.3.9). */

import { sharedFunction } from "../isa/shared-function.js";
import type { I32 } from "../wasm/expr.js";
import { i32, i64 } from "./define.js";
import { exponentOf, square, xOf } from "./trigonometry.js";
import { type Pair, WideMath } from "./wide.js";
import { EXPM1_Q1, LN2_Q0, LOG2_Q2 } from "./wide-constants.js";

/** 2 atanh(n / d) / ln 2 for n / d ≤ 1/5, n not zero: wide, of `sign`. n and d are fixed-point numbers of one scale. */
function logOfRatio(w: WideMath, n: Pair, d: Pair, nOverD: I32, sign: I32): void {
  const { f } = w;
  const top = w.normalized(n);
  const bottom = w.normalized(d);
  const big = w.atLeast(top, bottom);
  const s = w.div(w.shiftRight(top, big), bottom);
  // s = quotient / 2^128 · 2^(exponent + 1)
  const exponent = f.let(nOverD.add(bottom.shift).sub(top.shift).add(big).sub(1));
  const z = square(w, s, exponent);
  const product = w.normalized(w.mul(s, w.series(z, LOG2_Q2)));
  // The series has two bits before the point.
  w.return({ hi: product.hi, lo: f.let(product.lo.or(1)) }, xOf(exponent.add(2).sub(product.shift), sign));
}

/**
 * log2 of the wide number (cpu, hi, lo, x), which is positive: wide; zero is hi = lo = 0; exact where it is an integer,
 * else the lowest bit is set.
 */
export const fpLog2 = sharedFunction(
  "fp_log2",
  ["i32", "i64", "i64", "i32"],
  "i64",
  (f, use, cpu, hi, lo, x) => {
    const w = new WideMath(f, use, cpu);
    // m in [3/4, 3/2), in units of 2^−126.
    const upper = f.let(hi.geU(i64(3n << 62n)));
    const exponent = f.let(exponentOf(x).add(upper));
    const m = w.shiftRight({ hi, lo }, upper.add(1));
    const fraction = w.float(use(logOfFraction), cpu, m.hi, m.lo);
    f.if(exponent.eqz(), () => w.return(fraction, fraction.x));
    // exponent + fraction in Q16.112.
    const negative = f.let(exponent.shrU(31));
    const magnitude = exponent.neg().select(negative, exponent);
    const integer: Pair = { hi: f.let(magnitude.toI64U().shl(48)), lo: i64(0) };
    const part = w.shiftRight(fraction, i32(15).sub(exponentOf(fraction.x)));
    const same = negative.eq(fraction.x.and(1));
    const sum = w.normalized(w.select(same, w.add(integer, part), w.sub(integer, part)));
    w.return(sum, xOf(i32(15).sub(sum.shift), negative));
  },
);

/** log2 of m in [3/4, 3/2), in units of 2^−126. */
const logOfFraction = sharedFunction(
  "fp_log2_fraction",
  ["i32", "i64", "i64"],
  "i64",
  (f, use, cpu, hi, lo) => {
    const w = new WideMath(f, use, cpu);
    const m = { hi, lo };
    const one = w.constant(1n << 126n);
    const above = w.atLeast(m, one);
    const n = w.select(above, w.sub(m, one), w.sub(one, m));
    f.if(w.isZero(n), () => w.return(n, xOf(i32(0))));
    logOfRatio(w, n, w.add(m, one), i32(0), above.xor(1));
  },
);

/** log2(1 + m) for unpacked m, x above −1 and not zero: wide, never zero. */
export const fpLog2Plus1 = sharedFunction(
  "fp_log2_plus1",
  ["i32", "i64", "i32"],
  "i64",
  (f, use, cpu, m, x) => {
    const w = new WideMath(f, use, cpu);
    const e = f.let(exponentOf(x));
    const negative = f.let(x.and(1));
    f.if(e.ltS(-2), () => {
      // log2((1 + s)/(1 − s)) with s = m / (2 + m): m keeps its own scale, 2 + m is in units of 2^−125.
      const fixed = w.shiftRight({ hi: m, lo: i64(0) }, i32(2).sub(e));
      const two = w.constant(1n << 126n);
      const d = w.select(negative, w.sub(two, fixed), w.add(two, fixed));
      logOfRatio(w, { hi: m, lo: i64(0) }, d, f.let(e.sub(2)), negative);
    });
    // 1 + m as a wide number: in m's own scale where m is large,
    f.if(e.gtS(61), () => {
      const unit = w.shiftRight(w.constant(1n << 126n), e);
      const total = w.normalized(w.add({ hi: f.let(m.shrU(1)), lo: f.let(m.shl(63)) }, unit));
      f.returnCall(use(fpLog2), cpu, total.hi, total.lo, f.let(xOf(e.add(1).sub(total.shift))));
    });
    // else in units of 2^−65: m · 2^(e + 2), and 1 = 2^65.
    const place = f.let(e.add(2).toI64U());
    const value: Pair = { hi: f.let(m.shrU(1).shrU(i64(63).sub(place))), lo: f.let(m.shl(place)) };
    const unit: Pair = { hi: i64(2), lo: i64(0) };
    const total = w.normalized(w.select(negative, w.sub(unit, value), w.add(unit, value)));
    f.returnCall(use(fpLog2), cpu, total.hi, total.lo, f.let(xOf(i32(62).sub(total.shift))));
  },
);

/** 2^m − 1 for unpacked m, x of magnitude below 1, not zero: wide, never exact. */
export const fpExp2Minus1 = sharedFunction(
  "fp_exp2_minus1",
  ["i32", "i64", "i32"],
  "i64",
  (f, use, cpu, m, x) => {
    const w = new WideMath(f, use, cpu);
    const negative = f.let(x.and(1));
    // v = |m| ln 2, wide; in Q0.128 for the series.
    const product = w.normalized(w.mul({ hi: m, lo: i64(0) }, w.constant(LN2_Q0)));
    const e = f.let(exponentOf(x).sub(product.shift));
    const v = w.shiftRight(product, e.add(1).neg());
    const sum = { hi: f.local("i64"), lo: f.local("i64") };
    const setSum = (p: Pair) => {
      f.set(sum.hi, p.hi);
      f.set(sum.lo, p.lo);
    };
    f.if(
      negative,
      () => setSum(w.alternating(v, EXPM1_Q1)),
      () => setSum(w.series(v, EXPM1_Q1)),
    );
    const result = w.normalized(w.mul(product, { hi: sum.hi.get, lo: sum.lo.get }));
    // The series has one bit before the point.
    w.return({ hi: result.hi, lo: f.let(result.lo.or(1)) }, f.let(xOf(e.add(1).sub(result.shift), negative)));
  },
);
