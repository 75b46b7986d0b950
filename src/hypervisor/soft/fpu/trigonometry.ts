/**
 * Sine, cosine and tangent of unpacked numbers below 2^63 (SDM vol. 1, 8.3.8 and 8.3.10). Arguments are reduced exactly,
 * by a π of 66 bits; what is left is at most π/4, and is worked on to more than 110 bits.
 */

import { sharedFunction } from "../isa/shared-function.js";
import { O } from "../vcpu-state.js";
import { type I32, load32 } from "../wasm/expr.js";
import { i32, i64, normalize, wide } from "./define.js";
import { BIAS80 } from "./round.js";
import { type Pair, WideMath } from "./wide.js";
import { COS_Q0, HALF_PI_66, SIN_Q0 } from "./wide-constants.js";

/** x of a number with this unbiased exponent and sign. */
export const xOf = (exponent: I32, sign: I32 | number = 0): I32 => exponent.add(BIAS80).shl(1).or(sign);
/** Unbiased exponent of x. */
export const exponentOf = (x: I32): I32 => x.shrS(1).sub(BIAS80);

/** The square of wide r (below 1) in Q0.128. */
export function square(w: WideMath, r: Pair, exponent: I32): Pair {
  // r = hi:lo / 2^128 · 2^(exponent + 1)
  return w.shiftRight(w.mul(r, r), exponent.add(1).mul(-2));
}

/** sin r for r ≤ π/4, r not zero: (cpu, hi, lo, x). The result is never exact, and is below r. */
const sinCore = sharedFunction(
  "fp_sin_core",
  ["i32", "i64", "i64", "i32"],
  "i64",
  (f, use, cpu, hi, lo, x) => {
    const w = new WideMath(f, use, cpu);
    const r = { hi, lo };
    const z = square(w, r, f.let(exponentOf(x)));
    const t = w.mul(z, w.alternating(z, SIN_Q0));
    const less = w.add(w.mul(r, t), w.constant(1n));
    const result = w.normalized(w.sub(r, less));
    w.return(result, x.sub(result.shift.shl(1)));
  },
);

/** cos r: as sinCore; x's sign does not matter. */
const cosCore = sharedFunction(
  "fp_cos_core",
  ["i32", "i64", "i64", "i32"],
  "i64",
  (f, use, cpu, hi, lo, x) => {
    const w = new WideMath(f, use, cpu);
    const z = square(w, { hi, lo }, f.let(exponentOf(x)));
    const less = w.mul(z, w.alternating(z, COS_Q0));
    // 1 − less, in [0.7, 1): at least the last bit below 1.
    const result = w.sub(w.constant(0n), w.select(w.isZero(less), w.constant(1n), less));
    w.return(result, xOf(i32(-1)));
  },
);

/**
 * Reduce m, x by multiples of π/2: r, at most π/4, as a wide number with the sign that r has beside x's own; the multiple
 * modulo 4 goes to the state's fpExp.
 */
const reduce = sharedFunction("fp_trig_reduce", ["i32", "i64", "i32"], "i64", (f, use, cpu, m, x) => {
  const w = new WideMath(f, use, cpu);
  const e = f.let(exponentOf(x));
  f.store32(cpu, i32(0), O.fpExp);
  f.if(e.ltS(-1), () => w.return({ hi: m, lo: i64(0) }, x.and(~1)));
  // In units of 2^−65, |x| is m << (e + 2): divide by π/2 bit by bit.
  const modulus = w.constant(HALF_PI_66);
  const rest = wide(f);
  const multiple = f.local("i32");
  const count = f.local("i32");
  f.set(rest.lo, m);
  f.set(count, e.add(2));
  f.loop((start) => {
    f.set(rest.hi, rest.hi.get.shl(1).or(rest.lo.get.shrU(63)));
    f.set(rest.lo, rest.lo.get.shl(1));
    f.set(multiple, multiple.get.shl(1));
    f.if(w.atLeast({ hi: rest.hi.get, lo: rest.lo.get }, modulus), () => {
      const less = w.sub({ hi: rest.hi.get, lo: rest.lo.get }, modulus);
      f.set(rest.hi, less.hi);
      f.set(rest.lo, less.lo);
      f.set(multiple, multiple.get.add(1));
    });
    f.set(count, count.get.sub(1));
    f.brIf(start, count.get);
  });
  const sign = f.local("i32");
  const other = w.sub(modulus, { hi: rest.hi.get, lo: rest.lo.get });
  f.if(w.atLeast({ hi: rest.hi.get, lo: rest.lo.get }, other), () => {
    f.set(rest.hi, other.hi);
    f.set(rest.lo, other.lo);
    f.set(sign, i32(1));
    f.set(multiple, multiple.get.add(1));
  });
  f.store32(cpu, multiple.get.and(3), O.fpExp);
  // The modulus is odd and longer than m: no multiple of it is m << n, so rest is not zero.
  const shift = normalize(f, rest);
  w.return({ hi: rest.hi.get, lo: rest.lo.get }, xOf(i32(127 - 65).sub(shift), sign.get));
});

/** Where sin and cos of a reduced argument come from, by the multiple of π/2: which core, and its sign. */
function trigonometric(name: string, phase: number) {
  return sharedFunction(name, ["i32", "i64", "i32"], "i64", (f, use, cpu, m, x) => {
    const w = new WideMath(f, use, cpu);
    const r = w.float(use(reduce), cpu, m, x);
    // cos x = sin(x + π/2)
    const quadrant = f.let(load32(cpu, O.fpExp).add(phase));
    const rSign = r.x.and(1);
    // The sign of x itself turns the sine's and not the cosine's.
    const xSign = phase === 0 ? x.and(1) : i32(0);
    const half = quadrant.shrU(1).and(1);
    const result = f.local("i64");
    const sign = f.local("i32");
    f.if(
      quadrant.and(1),
      () => {
        f.set(sign, half.xor(xSign));
        f.set(result, f.call(use(cosCore), cpu, r.hi, r.lo, r.x));
      },
      () => {
        f.set(sign, half.xor(xSign).xor(rSign));
        f.set(result, f.call(use(sinCore), cpu, r.hi, r.lo, r.x.and(~1)));
      },
    );
    f.store32(cpu, load32(cpu, O.fpX).and(~1).or(sign.get), O.fpX);
    f.return(result.get);
  });
}

/** (cpu, m, x), m not zero, x below 2^63. */
export const fpSin = trigonometric("fp_sin", 0);
export const fpCos = trigonometric("fp_cos", 1);

/** Unbiased exponent below which a function's second term is below half of the last place. */
export const TINY = -40;

export const fpTan = sharedFunction("fp_tan", ["i32", "i64", "i32"], "i64", (f, use, cpu, m, x) => {
  const w = new WideMath(f, use, cpu);
  // Here r³/3 is far below the last place: just above r.
  f.if(exponentOf(x).ltS(TINY), () => w.return({ hi: m, lo: i64(1) }, x));
  const s = w.float(use(fpSin), cpu, m, x);
  const c = w.float(use(fpCos), cpu, m, x);
  // Quotient in [1/2, 1) · 2^exponent.
  const big = w.atLeast(s, c);
  const n = w.shiftRight(s, big);
  const q = w.div(n, c);
  const exponent = exponentOf(s.x).sub(exponentOf(c.x)).sub(1).add(big);
  w.return({ hi: q.hi, lo: q.lo.or(1) }, f.let(xOf(exponent, s.x.xor(c.x).and(1))));
});
