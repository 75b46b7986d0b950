/**
 * The transcendental instructions (SDM vol. 1, 8.3.7–8.3.10; vol. 2, under their names): special operands, then
 * trigonometry, arctangent and logarithm. Results have the full precision and are rounded as RC says; all but those the
 * manual gives for special operands count as inexact.
 */

import { sharedFunction, type Use } from "../isa/shared-function.js";
import { O } from "../vcpu-state.js";
import { type I32, type I64, load32, load64 } from "../wasm/expr.js";
import type { FunctionBuilder } from "../wasm/module.js";
import { fpAngle } from "./arctangent.js";
import { controlOfFcw, EXACT_F80, FpFlag, raise, Target, withTarget } from "./control.js";
import { isInfinite } from "./core.js";
import { i32, i64, multiply64, wide } from "./define.js";
import { f80Nan, INDEFINITE_M, INDEFINITE_SE, needsNanResult, setExponent, unpack80 } from "./f80.js";
import { fpExp2Minus1, fpLog2, fpLog2Plus1 } from "./logarithm.js";
import { BIAS80, round, Special, special, TOP_BIT } from "./round.js";
import { exponentOf, fpCos, fpSin, fpTan, xOf } from "./trigonometry.js";
import { Fsw, fcwOf, popStack, raiseIfFull, readSt, x87Commit, x87Set, x87SetTwo } from "./x87-stack.js";

const FULL = i32(EXACT_F80);
/** Arguments of this exponent and above are out of range (SDM vol. 1, 8.1.3.2, C2). */
const RANGE = 63;

/** The rounding control, for a result of full precision. */
const controlOf = (f: FunctionBuilder, cpu: I32): I32 =>
  f.let(withTarget(controlOfFcw(fcwOf(cpu)), Target.F80));

function setC2(f: FunctionBuilder, cpu: I32, on: boolean): void {
  const rest = load32(cpu, O.fsw).and(~Fsw.C2);
  f.store32(cpu, on ? rest.or(Fsw.C2) : rest, O.fsw);
}

/** The wide number just computed, rounded: fraction, and fpExp. */
function rounded(f: FunctionBuilder, use: Use, cpu: I32, hi: I64): I64 {
  const high = f.let(hi);
  const m = f.call(use(round), cpu, load32(cpu, O.fpX), high, load64(cpu, O.fpLow), controlOf(f, cpu));
  const result = f.let(m);
  raise(f, cpu, FpFlag.PE);
  return result;
}

const specialValue = (
  f: FunctionBuilder,
  use: Use,
  cpu: I32,
  kind: number | I32,
  sign: number | I32,
): I64 => {
  const of = (v: number | I32) => (typeof v === "number" ? i32(v) : v);
  return f.let(f.call(use(special), cpu, of(kind), of(sign), FULL));
};

const ONE_M = i64(TOP_BIT);

type Kernel = typeof fpSin;

/** Sine or cosine of ST(0): `atZero` is its value for ±0, where undefined the operand. */
function sineOrCosine(name: string, kernel: Kernel, one: boolean) {
  return sharedFunction(name, ["i32"], "i32", (f, use, cpu) => {
    const a = readSt(f, cpu, 0);
    const m = f.local("i64");
    setC2(f, cpu, false);
    f.block((done) => {
      f.if(needsNanResult(a.m, a.se), () => {
        f.set(m, f.call(use(f80Nan), cpu, a.m, a.se, a.m, a.se));
        f.br(done);
      });
      const u = unpack80(f, a.m, a.se);
      f.if(isInfinite(u.x), () => {
        raise(f, cpu, FpFlag.IE);
        f.set(m, specialValue(f, use, cpu, Special.NAN, 1));
        f.br(done);
      });
      f.if(u.m.eqz(), () => {
        setExponent(f, cpu, one ? i32(BIAS80) : a.se);
        f.set(m, one ? ONE_M : i64(0));
        f.br(done);
      });
      f.if(exponentOf(u.x).geS(RANGE), () => {
        setC2(f, cpu, true);
        f.returnCall(use(x87Commit), cpu, i32(0));
      });
      raise(f, cpu, u.denormal);
      f.set(m, rounded(f, use, cpu, f.call(use(kernel), cpu, u.m, u.x)));
    });
    f.returnCall(use(x87Set), cpu, i32(0), m.get);
  });
}

export const x87Sin = sineOrCosine("x87_sin", fpSin, false);
export const x87Cos = sineOrCosine("x87_cos", fpCos, true);

/**
 * FSINCOS and FPTAN: ST(0) becomes the first result, the second is pushed; `second` undefined: 1.0.
 */
function twoResults(name: string, first: Kernel, second: Kernel | undefined) {
  return sharedFunction(name, ["i32"], "i32", (f, use, cpu) => {
    const a = readSt(f, cpu, 0);
    const m0 = f.local("i64");
    const se0 = f.local("i32");
    const m1 = f.local("i64");
    const se1 = f.local("i32");
    const both = (m: I64, se: I32) => {
      f.set(m0, m);
      f.set(se0, se);
      f.set(m1, m0.get);
      f.set(se1, se0.get);
    };
    setC2(f, cpu, false);
    f.block((done) => {
      f.if(raiseIfFull(f, cpu, a.se), () => {
        both(i64(INDEFINITE_M), i32(INDEFINITE_SE));
        f.br(done);
      });
      f.if(needsNanResult(a.m, a.se), () => {
        both(f.call(use(f80Nan), cpu, a.m, a.se, a.m, a.se), load32(cpu, O.fpExp));
        f.br(done);
      });
      const u = unpack80(f, a.m, a.se);
      f.if(isInfinite(u.x), () => {
        raise(f, cpu, FpFlag.IE);
        both(i64(INDEFINITE_M), i32(INDEFINITE_SE));
        f.br(done);
      });
      f.set(m1, ONE_M);
      f.set(se1, i32(BIAS80));
      f.if(u.m.eqz(), () => {
        f.set(se0, a.se);
        f.br(done);
      });
      f.if(exponentOf(u.x).geS(RANGE), () => {
        setC2(f, cpu, true);
        f.returnCall(use(x87Commit), cpu, i32(0));
      });
      raise(f, cpu, u.denormal);
      f.set(m0, rounded(f, use, cpu, f.call(use(first), cpu, u.m, u.x)));
      f.set(se0, load32(cpu, O.fpExp));
      if (second !== undefined) {
        // C1 is about the first result.
        const flags = f.let(load32(cpu, O.fpFlags));
        f.set(m1, rounded(f, use, cpu, f.call(use(second), cpu, u.m, u.x)));
        f.set(se1, load32(cpu, O.fpExp));
        f.store32(cpu, flags, O.fpFlags);
      }
    });
    f.returnCall(use(x87SetTwo), cpu, m0.get, se0.get, m1.get, se1.get);
  });
}

export const x87SinCos = twoResults("x87_sincos", fpSin, fpCos);
export const x87Tan = twoResults("x87_tan", fpTan, undefined);

/** F2XM1. Beyond ±1 the result is undefined; processors give the operand. */
export const x87Exp2Minus1 = sharedFunction("x87_2xm1", ["i32"], "i32", (f, use, cpu) => {
  const a = readSt(f, cpu, 0);
  const m = f.local("i64");
  f.block((done) => {
    f.if(needsNanResult(a.m, a.se), () => {
      f.set(m, f.call(use(f80Nan), cpu, a.m, a.se, a.m, a.se));
      f.br(done);
    });
    const u = unpack80(f, a.m, a.se);
    const negative = u.x.and(1);
    const e = f.let(exponentOf(u.x));
    f.set(m, a.m);
    setExponent(f, cpu, a.se);
    f.if(u.m.eqz(), () => f.br(done));
    f.if(isInfinite(u.x), () => {
      f.if(negative, () => setExponent(f, cpu, i32(0x8000 | BIAS80)));
      f.br(done);
    });
    f.if(e.geS(0), () => {
      raise(f, cpu, FpFlag.PE);
      // 2 − 1 = 1, 1/2 − 1 = −1/2.
      f.if(a.m.eq(i64(TOP_BIT)).and(e.eqz()).and(negative), () =>
        setExponent(f, cpu, i32(0x8000 | (BIAS80 - 1))),
      );
      f.br(done);
    });
    raise(f, cpu, u.denormal);
    f.set(m, rounded(f, use, cpu, f.call(use(fpExp2Minus1), cpu, u.m, u.x)));
  });
  f.returnCall(use(x87Set), cpu, i32(0), m.get);
});

interface TwoOperands {
  /** ST(0) and ST(1), unpacked. */
  readonly x: ReturnType<typeof unpack80>;
  readonly y: ReturnType<typeof unpack80>;
  /** ST(0) as it is. */
  readonly raw: { m: I64; se: I32 };
  /** Set the result to a special value and end. */
  special(kind: number, sign: I32, flags?: I32 | number): void;
  invalid(): void;
  /** End with fraction and fpExp. */
  done(m: I64): void;
}

/** An instruction that replaces ST(1) by a function of ST(0) and ST(1), and pops. */
function popping(name: string, write: (f: FunctionBuilder, use: Use, cpu: I32, o: TwoOperands) => void) {
  return sharedFunction(name, ["i32"], "i32", (f, use, cpu) => {
    const st0 = readSt(f, cpu, 0);
    const st1 = readSt(f, cpu, 1);
    const m = f.local("i64");
    f.block((end) => {
      const done = (value: I64) => {
        f.set(m, value);
        f.br(end);
      };
      f.if(needsNanResult(st0.m, st0.se).or(needsNanResult(st1.m, st1.se)), () =>
        done(f.call(use(f80Nan), cpu, st0.m, st0.se, st1.m, st1.se)),
      );
      write(f, use, cpu, {
        x: unpack80(f, st0.m, st0.se),
        y: unpack80(f, st1.m, st1.se),
        raw: st0,
        done,
        special: (kind, sign, flags = 0) => {
          raise(f, cpu, flags);
          done(specialValue(f, use, cpu, kind, sign));
        },
        invalid: () => {
          raise(f, cpu, FpFlag.IE);
          done(specialValue(f, use, cpu, Special.NAN, 1));
        },
      });
    });
    const blocked = f.let(f.call(use(x87Set), cpu, i32(1), m.get));
    f.if(blocked.eqz(), () => popStack(f, cpu));
    f.return(blocked);
  });
}

/** y times the wide number just computed, rounded; `exact` where its lowest bit says so. */
function timesWide(f: FunctionBuilder, use: Use, cpu: I32, y: TwoOperands["y"], hi: I64): I64 {
  const high = f.let(hi);
  const low = f.let(load64(cpu, O.fpLow));
  const x = f.let(load32(cpu, O.fpX));
  const product = wide(f);
  const part = wide(f);
  multiply64(f, product, y.m, high);
  multiply64(f, part, y.m, low);
  f.set(product.lo, product.lo.get.add(part.hi.get));
  f.set(product.hi, product.hi.get.add(product.lo.get.ltU(part.hi.get).toI64U()));
  f.set(product.lo, product.lo.get.or(part.lo.get.ne(0).toI64U()));
  const shift = f.let(product.hi.get.clz());
  f.if(shift.ne(0), () => {
    f.set(product.hi, product.hi.get.shl(1).or(product.lo.get.shrU(63)));
    f.set(product.lo, product.lo.get.shl(1));
  });
  const exponent = exponentOf(x).add(exponentOf(y.x)).add(1).sub(shift.toI32());
  const sign = x.xor(y.x).and(1);
  f.store64(cpu, product.lo.get, O.fpLow);
  f.store32(cpu, xOf(exponent, sign), O.fpX);
  const m = rounded(f, use, cpu, product.hi.get);
  // A tiny result counts as inexact even where it is exact.
  f.if(load32(cpu, O.fpExp).and(0x7fff).eqz(), () => raise(f, cpu, FpFlag.UE));
  return m;
}

const isOne = (u: TwoOperands["x"]): I32 => u.m.eq(i64(TOP_BIT)).and(u.x.shrS(1).eq(BIAS80));

/** FYL2X (SDM vol. 2, table 3-59). */
export const x87Yl2x = popping("x87_yl2x", (f, use, cpu, { x, y, special, invalid, done }) => {
  const ySign = y.x.and(1);
  f.if(x.m.eqz(), () => {
    f.if(y.m.eqz(), invalid);
    f.if(isInfinite(y.x), () => special(Special.INFINITY, ySign.xor(1)));
    special(Special.INFINITY, ySign.xor(1), FpFlag.ZE);
  });
  f.if(x.x.and(1), invalid);
  f.if(isInfinite(x.x), () => {
    f.if(y.m.eqz(), invalid);
    special(Special.INFINITY, ySign, y.denormal);
  });
  const below = f.let(exponentOf(x.x).shrU(31));
  f.if(isInfinite(y.x), () => {
    f.if(isOne(x), invalid);
    special(Special.INFINITY, ySign.xor(below), x.denormal);
  });
  raise(f, cpu, x.denormal.or(y.denormal));
  f.if(y.m.eqz().or(isOne(x)), () => special(Special.ZERO, ySign.xor(below)));
  done(timesWide(f, use, cpu, y, f.call(use(fpLog2), cpu, x.m, i64(0), x.x)));
});

/**
 * FYL2XP1 (SDM vol. 2, table 3-60). Outside ±(1 − √2/2) the result is undefined; processors give y · log2(1 + x) above −1 and
 * the operand from there on.
 */
export const x87Yl2xp1 = popping("x87_yl2xp1", (f, use, cpu, { x, y, raw, special, invalid, done }) => {
  const sign = f.let(x.x.xor(y.x).and(1));
  f.if(isInfinite(x.x), () => {
    f.if(x.x.and(1).or(y.m.eqz()), invalid);
    special(Special.INFINITY, sign, y.denormal);
  });
  f.if(isInfinite(y.x), () => {
    f.if(x.m.eqz(), invalid);
    special(Special.INFINITY, sign, x.denormal);
  });
  raise(f, cpu, x.denormal.or(y.denormal));
  f.if(x.m.eqz().or(y.m.eqz()), () => special(Special.ZERO, sign));
  f.if(x.x.and(1).and(exponentOf(x.x).geS(0)), () => {
    raise(f, cpu, FpFlag.PE);
    setExponent(f, cpu, raw.se);
    done(raw.m);
  });
  done(timesWide(f, use, cpu, y, f.call(use(fpLog2Plus1), cpu, x.m, x.x)));
});

/** FPATAN (SDM vol. 2, table 3-30). */
export const x87Atan = popping("x87_atan", (f, use, cpu, { x, y, special, done }) => {
  const sign = f.let(y.x.and(1));
  const left = f.let(x.x.and(1));
  raise(f, cpu, x.denormal.or(y.denormal));
  const farRight = isInfinite(x.x).and(isInfinite(y.x).eqz());
  f.if(left.eqz().and(y.m.eqz().or(farRight)), () => special(Special.ZERO, sign));
  // A finite coordinate beside an infinite one counts as zero.
  const xFinite = f.let(isInfinite(x.x).eqz());
  const yFinite = f.let(isInfinite(y.x).eqz());
  const ym = f.let(y.m.select(xFinite.or(yFinite.eqz()), i64(0)));
  const xm = f.let(x.m.select(yFinite.or(xFinite.eqz()), i64(0)));
  const hi = f.let(f.call(use(fpAngle), cpu, ym, y.x, xm, x.x, left));
  f.store32(cpu, load32(cpu, O.fpX).and(~1).or(sign), O.fpX);
  done(rounded(f, use, cpu, hi));
});
