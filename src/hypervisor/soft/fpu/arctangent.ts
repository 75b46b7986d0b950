/** Arctangent of a quotient of unpacked numbers, in the right quadrant: FPATAN (SDM vol. 2, FPATAN, table 3-30). */

import { sharedFunction } from "../isa/shared-function.js";
import { F64, type I32 } from "../wasm/expr.js";
import { i32, i64 } from "./define.js";
import { exponentOf, square, xOf } from "./trigonometry.js";
import { type Pair, WideMath } from "./wide.js";
import { ATAN_EIGHTHS_Q0, ATAN_Q0, HALF_PI_Q2, PI_Q2 } from "./wide-constants.js";

/** t − atan t, for t ≤ 1/16, t = hi:lo / 2^128 · 2^(exponent + 1), in units of t's last place. */
function lessThanArgument(w: WideMath, t: Pair, exponent: I32): Pair {
  const z = square(w, t, exponent);
  return w.mul(t, w.mul(z, w.alternating(z, ATAN_Q0)));
}

/** atan(a / b) for a ≤ b, both not zero: wide, never exact. (cpu, am, ax, bm, bx); signs do not matter. */
const firstOctant = sharedFunction(
  "fp_atan_octant",
  ["i32", "i64", "i32", "i64", "i32"],
  "i64",
  (f, use, cpu, am, ax, bm, bx) => {
    const w = new WideMath(f, use, cpu);
    const apart = f.let(exponentOf(bx).sub(exponentOf(ax)));
    // atan(a/b) = atan(k/8) + atan((8a − kb) / (8b + ka)) for the k that makes the last term least.
    const k = f.local("i32");
    f.if(apart.ltS(6), () => {
      const ratio = am.toF64U().binary("div", bm.toF64U());
      const eighth = ratio.binary("mul", F64.const(8)).binary("div", i32(1).shl(apart).toF64S());
      f.set(k, eighth.unary("nearest").truncSatI32());
    });
    f.if(k.get.eqz(), () => {
      const big = f.let(am.geU(bm));
      const n = w.shiftRight({ hi: am, lo: i64(0) }, big);
      const t = w.div(n, { hi: bm, lo: i64(0) });
      const exponent = f.let(big.sub(1).sub(apart));
      const less = w.add(lessThanArgument(w, t, exponent), w.constant(1n));
      const result = w.normalized(w.sub(t, less));
      w.return(result, xOf(exponent.sub(result.shift)));
    });
    // With room for 8b + kb: b = bm · 2^56; a is not below 2^−5 b.
    const at = (m: typeof am, shift: I32) => {
      const n = f.let(i32(56).sub(shift).toI64U());
      return { hi: f.let(m.shrU(i64(64).sub(n))), lo: f.let(m.shl(n)) };
    };
    const a = at(am, apart);
    const b = at(bm, i32(0));
    const times = (p: Pair, by: I32): Pair => {
      // by ≤ 8, and p.hi < 2^56
      const factor = f.let(by.toI64U());
      const low = f.let(p.lo.and(0xffffffff).mul(factor));
      const high = f.let(p.lo.shrU(32).mul(factor).add(low.shrU(32)));
      return {
        hi: f.let(p.hi.mul(factor).add(high.shrU(32))),
        lo: f.let(high.shl(32).or(low.and(i64(0xffffffff)))),
      };
    };
    const a8 = times(a, i32(8));
    const kb = times(b, k.get);
    const above = w.atLeast(a8, kb);
    const distance = w.select(above, w.sub(a8, kb), w.sub(kb, a8));
    const t = w.div(distance, w.add(times(b, i32(8)), times(a, k.get)));
    const step = w.sub(t, lessThanArgument(w, t, i32(-1)));
    const base = { hi: f.local("i64"), lo: f.local("i64") };
    f.switch(
      k.get,
      ATAN_EIGHTHS_Q0.map((value) => () => {
        const c = w.constant(value);
        f.set(base.hi, c.hi);
        f.set(base.lo, c.lo);
      }),
      () => f.unreachable(),
    );
    const c = { hi: base.hi.get, lo: base.lo.get };
    const result = w.normalized(w.select(above, w.add(c, step), w.sub(c, step)));
    w.return(result, xOf(i32(-1).sub(result.shift)));
  },
);

/**
 * The angle of the point (x, y), signs aside: atan(|y| / |x|), or π less that where `left` is 1. (cpu, ym, yx, xm, xx,
 * left); (0, 0) lies on the x axis; one of two infinities is as far as the other.
 */
export const fpAngle = sharedFunction(
  "fp_angle",
  ["i32", "i64", "i32", "i64", "i32", "i32"],
  "i64",
  (f, use, cpu, ym, yx, xm, xx, left) => {
    const w = new WideMath(f, use, cpu);
    const ey = f.let(yx.shrS(1));
    const ex = f.let(xx.shrS(1));
    const steep = f.let(
      ym.ne(0).and(
        xm
          .eqz()
          .or(ey.gtS(ex))
          .or(ey.eq(ex).and(ym.gtU(xm))),
      ),
    );
    // From the nearer axis: a ≤ b.
    const am = f.let(xm.select(steep, ym));
    const ax = f.let(xx.select(steep, yx));
    const bm = f.let(ym.select(steep, xm));
    const bx = f.let(yx.select(steep, xx));
    const angle = { hi: f.local("i64"), lo: f.local("i64"), x: f.local("i32") };
    f.set(angle.x, xOf(i32(-1)));
    f.if(am.ne(0), () => {
      const octant = w.float(use(firstOctant), cpu, am, ax, bm, bx);
      f.set(angle.hi, octant.hi);
      f.set(angle.lo, octant.lo.or(1));
      f.set(angle.x, octant.x);
    });
    const first: Pair = { hi: angle.hi.get, lo: angle.lo.get };
    f.if(steep.or(left).eqz(), () => w.return(first, angle.x.get));
    // π/2 ± angle, π − angle in Q2.126.
    const fixed = w.shiftRight(first, i32(1).sub(exponentOf(angle.x.get)));
    const axis = w.select(steep, w.constant(HALF_PI_Q2), w.constant(PI_Q2));
    const result = w.normalized(w.select(steep.and(left), w.add(axis, fixed), w.sub(axis, fixed)));
    w.return({ hi: result.hi, lo: f.let(result.lo.or(1)) }, xOf(i32(1).sub(result.shift)));
  },
);
