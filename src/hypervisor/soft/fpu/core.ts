/**
 * Arithmetic on unpacked numbers: the exact result, then `round`. NaNs and denormal operands are dealt with before, by
 * the format's own functions (sse-float, f80).
 *
 * An unpacked number is m (64 bits) and x = exponent · 2 + sign: (−1)^sign · m / 2^63 · 2^(exponent − 16383), the top bit
 * of m set; zero has m = 0; infinity has the exponent INFINITE.
 */

import { sharedFunction, type Use } from "../isa/shared-function.js";
import { F64, type I32, type I64 } from "../wasm/expr.js";
import type { FunctionBuilder } from "../wasm/module.js";
import { FpFlag, Rounding, raise, roundingOf } from "./control.js";
import { i32, i64, multiply64, normalize, shiftRightSticky, wide } from "./define.js";
import { BIAS80, INFINITE, round, Special, special, TOP_BIT } from "./round.js";

export const isInfinite = (x: I32): I32 => x.shrS(1).eq(INFINITE);

export function returnSpecial(
  f: FunctionBuilder,
  use: Use,
  cpu: I32,
  kind: number,
  sign: I32 | number,
  control: I32,
) {
  f.returnCall(use(special), cpu, i32(kind), typeof sign === "number" ? i32(sign) : sign, control);
}

function returnInvalid(f: FunctionBuilder, use: Use, cpu: I32, control: I32) {
  raise(f, cpu, FpFlag.IE);
  returnSpecial(f, use, cpu, Special.NAN, 1, control);
}

const BINARY = ["i32", "i64", "i32", "i64", "i32", "i32"] as const;

/** Sum of two numbers of which one is zero or infinite. */
const addSpecial = sharedFunction("fp_add_special", BINARY, "i64", (f, use, cpu, am, ax, bm, bx, control) => {
  const signA = f.let(ax.and(1));
  const signB = f.let(bx.and(1));
  f.if(isInfinite(ax), () => {
    f.if(isInfinite(bx).and(signA.ne(signB)), () => returnInvalid(f, use, cpu, control));
    returnSpecial(f, use, cpu, Special.INFINITY, signA, control);
  });
  f.if(isInfinite(bx), () => returnSpecial(f, use, cpu, Special.INFINITY, signB, control));
  f.if(am.or(bm).eqz(), () => {
    // SDM vol. 1, 4.8.3.1: −0 where both are, or where they differ and rounding is down.
    const down = roundingOf(control).eq(Rounding.DOWN);
    returnSpecial(f, use, cpu, Special.ZERO, signA.and(signB).or(signA.or(signB).and(down)), control);
  });
  f.if(am.eqz(), () => f.returnCall(use(round), cpu, bx, bm, i64(0), control));
  f.returnCall(use(round), cpu, ax, am, i64(0), control);
});

export const coreAdd = sharedFunction("fp_add", BINARY, "i64", (f, use, cpu, am, ax, bm, bx, control) => {
  f.if(am.eqz().or(bm.eqz()).or(isInfinite(ax)).or(isInfinite(bx)), () =>
    f.returnCall(use(addSpecial), cpu, am, ax, bm, bx, control),
  );
  const big = f.local("i64");
  const bigX = f.local("i32");
  const small = wide(f);
  const smallX = f.local("i32");
  f.set(big, am);
  f.set(bigX, ax);
  f.set(small.hi, bm);
  f.set(smallX, bx);
  const ea = f.let(ax.shrS(1));
  const eb = f.let(bx.shrS(1));
  f.if(ea.ltS(eb).or(ea.eq(eb).and(am.ltU(bm))), () => {
    f.set(big, bm);
    f.set(bigX, bx);
    f.set(small.hi, am);
    f.set(smallX, ax);
  });
  f.set(small.lo, i64(0));
  shiftRightSticky(f, small, f.let(bigX.get.shrS(1).sub(smallX.get.shrS(1))));
  const sum = wide(f);
  f.if(
    ax.xor(bx).and(1).eqz(),
    () => {
      f.set(sum.hi, big.get.add(small.hi.get));
      f.set(sum.lo, small.lo.get);
      f.if(sum.hi.get.ltU(big.get), () => {
        f.set(sum.lo, sum.lo.get.shrU(1).or(sum.lo.get.and(1)).or(sum.hi.get.shl(63)));
        f.set(sum.hi, sum.hi.get.shrU(1).or(i64(TOP_BIT)));
        f.set(bigX, bigX.get.add(2));
      });
    },
    () => {
      f.set(sum.lo, small.lo.get.neg());
      f.set(sum.hi, big.get.sub(small.hi.get).sub(small.lo.get.ne(0).toI64U()));
      f.if(sum.hi.get.geS(0), () => {
        f.if(sum.hi.get.or(sum.lo.get).eqz(), () =>
          returnSpecial(f, use, cpu, Special.ZERO, roundingOf(control).eq(Rounding.DOWN), control),
        );
        const shift = normalize(f, sum);
        f.set(bigX, bigX.get.sub(shift.shl(1)));
      });
    },
  );
  f.returnCall(use(round), cpu, bigX.get, sum.hi.get, sum.lo.get, control);
});

export const coreMul = sharedFunction("fp_mul", BINARY, "i64", (f, use, cpu, am, ax, bm, bx, control) => {
  const sign = f.let(ax.xor(bx).and(1));
  const zero = am.eqz().or(bm.eqz());
  f.if(zero.or(isInfinite(ax)).or(isInfinite(bx)), () => {
    f.if(isInfinite(ax).or(isInfinite(bx)), () => {
      f.if(zero, () => returnInvalid(f, use, cpu, control));
      returnSpecial(f, use, cpu, Special.INFINITY, sign, control);
    });
    returnSpecial(f, use, cpu, Special.ZERO, sign, control);
  });
  const product = wide(f);
  multiply64(f, product, am, bm);
  const e = f.local("i32");
  f.set(
    e,
    ax
      .shrS(1)
      .add(bx.shrS(1))
      .sub(BIAS80 - 1),
  );
  f.if(product.hi.get.geS(0), () => {
    f.set(product.hi, product.hi.get.shl(1).or(product.lo.get.shrU(63)));
    f.set(product.lo, product.lo.get.shl(1));
    f.set(e, e.get.sub(1));
  });
  f.returnCall(use(round), cpu, e.get.shl(1).or(sign), product.hi.get, product.lo.get, control);
});

/**
 * Divide (hi:lo) by d, d's top bit set, hi < d: sets `quotient` and `rest`. Two digits in base 2^32 (Knuth, The Art of
 * Computer Programming vol. 2, 4.3.1, algorithm D).
 */
export function divide128(f: FunctionBuilder, hi: I64, lo: I64, d: I64): { quotient: I64; rest: I64 } {
  const low = i64(0xffffffff);
  const dH = f.let(d.shrU(32));
  const dL = f.let(d.and(low));
  const quotient = f.local("i64");
  const rest = f.local("i64");
  f.set(rest, hi);
  const digit = (next: I64, first: boolean): void => {
    const q = f.local("i64");
    const r = f.local("i64");
    f.set(q, rest.get.divU(dH));
    f.set(r, rest.get.sub(q.get.mul(dH)));
    const tooBig = () =>
      q.get
        .shrU(32)
        .ne(0)
        .or(q.get.mul(dL).gtU(r.get.shl(32).or(next)));
    for (let twice = 0; twice < 2; twice++) {
      f.if(r.get.shrU(32).eqz().and(tooBig()), () => {
        f.set(q, q.get.sub(1));
        f.set(r, r.get.add(dH));
      });
    }
    f.set(rest, rest.get.shl(32).or(next).sub(q.get.mul(d)));
    f.set(quotient, first ? q.get.shl(32) : quotient.get.or(q.get));
  };
  digit(f.let(lo.shrU(32)), true);
  digit(f.let(lo.and(low)), false);
  return { quotient: quotient.get, rest: rest.get };
}

export const coreDiv = sharedFunction("fp_div", BINARY, "i64", (f, use, cpu, am, ax, bm, bx, control) => {
  const sign = f.let(ax.xor(bx).and(1));
  f.if(isInfinite(ax), () => {
    f.if(isInfinite(bx), () => returnInvalid(f, use, cpu, control));
    returnSpecial(f, use, cpu, Special.INFINITY, sign, control);
  });
  f.if(isInfinite(bx), () => returnSpecial(f, use, cpu, Special.ZERO, sign, control));
  f.if(bm.eqz(), () => {
    f.if(am.eqz(), () => returnInvalid(f, use, cpu, control));
    raise(f, cpu, FpFlag.ZE);
    returnSpecial(f, use, cpu, Special.INFINITY, sign, control);
  });
  f.if(am.eqz(), () => returnSpecial(f, use, cpu, Special.ZERO, sign, control));
  const n = wide(f);
  const e = f.local("i32");
  f.set(
    e,
    ax
      .shrS(1)
      .sub(bx.shrS(1))
      .add(BIAS80 - 1),
  );
  f.set(n.hi, am);
  f.set(n.lo, i64(0));
  f.if(am.geU(bm), () => {
    f.set(n.hi, am.shrU(1));
    f.set(n.lo, am.shl(63));
    f.set(e, e.get.add(1));
  });
  const { quotient, rest } = divide128(f, n.hi.get, n.lo.get, bm);
  // The next bit is 1 where 2·rest ≥ divisor; what is left after it makes the rest of the sticky part.
  const other = f.let(bm.sub(rest));
  const lo = i64(TOP_BIT)
    .select(rest.geU(other), 0)
    .or(rest.ne(0).and(rest.ne(other)).toI64U());
  f.returnCall(use(round), cpu, e.get.shl(1).or(sign), quotient, lo, control);
});

export const coreSqrt = sharedFunction(
  "fp_sqrt",
  ["i32", "i64", "i32", "i32"],
  "i64",
  (f, use, cpu, m, x, control) => {
    f.if(m.eqz(), () => returnSpecial(f, use, cpu, Special.ZERO, x.and(1), control));
    f.if(x.and(1), () => returnInvalid(f, use, cpu, control));
    f.if(isInfinite(x), () => returnSpecial(f, use, cpu, Special.INFINITY, 0, control));
    // v = hi:lo in [2^126, 2^128), with an even exponent; its root has 64 bits.
    const unbiased = f.let(x.shrS(1).sub(BIAS80));
    const v = wide(f);
    f.set(v.hi, m);
    f.set(v.lo, i64(0));
    f.if(unbiased.and(1).eqz(), () => {
      f.set(v.hi, m.shrU(1));
      f.set(v.lo, m.shl(63));
    });
    // f64 root of v.hi, then one Newton step: good to 1 in the last place; then corrected.
    const guess = f.local("i64");
    const dividend = f.local("i64");
    f.set(dividend, v.hi.get);
    f.set(
      guess,
      v.hi.get
        .toF64U()
        .unary("sqrt")
        .binary("mul", F64.const(2 ** 31))
        .truncSatI64()
        .shl(1),
    );
    f.if(guess.get.leU(v.hi.get), () => {
      // The root is above v.hi, as it is below 2^64; the division needs a divisor above its high part.
      f.set(guess, v.hi.get.add(1));
      f.if(guess.get.eqz(), () => {
        f.set(guess, i64(-1));
        f.set(dividend, i64(-2));
      });
    });
    const { quotient } = divide128(f, dividend.get, v.lo.get, guess.get);
    // (guess + quotient) / 2 without overflow.
    const root = f.local("i64");
    f.set(root, guess.get.and(quotient).add(guess.get.xor(quotient).shrU(1)));
    const square = wide(f);
    const rest = wide(f);
    const setRest = () => {
      multiply64(f, square, root.get, root.get);
      f.set(rest.lo, v.lo.get.sub(square.lo.get));
      f.set(rest.hi, v.hi.get.sub(square.hi.get).sub(v.lo.get.ltU(square.lo.get).toI64U()));
    };
    setRest();
    f.loop((again) => {
      f.if(rest.hi.get.ltS(0), () => {
        f.set(root, root.get.sub(1));
        setRest();
        f.br(again);
      });
    });
    // rest > 2·root: the root is too small.
    f.loop((again) => {
      const tooSmall = f.let(
        rest.hi.get.gtS(1).or(
          rest.hi.get
            .shl(63)
            .or(rest.lo.get.shrU(1))
            .gtU(root.get)
            .or(
              // rest / 2 = root and rest is odd
              rest.hi.get.shl(63).or(rest.lo.get.shrU(1)).eq(root.get).and(rest.lo.get.toI32().and(1)),
            ),
        ),
      );
      f.if(tooSmall, () => {
        f.set(root, root.get.add(1));
        setRest();
        f.br(again);
      });
    });
    // The next bit: (root + 1/2)² = root² + root + 1/4, so it is 1 where rest > root. It is never exactly half.
    const half = rest.hi.get.ne(0).or(rest.lo.get.gtU(root.get));
    const lo = i64(TOP_BIT).select(half, 0).or(rest.hi.get.or(rest.lo.get).ne(0).toI64U());
    const e = f.let(unbiased.shrS(1).add(BIAS80));
    f.returnCall(use(round), cpu, e.shl(1), root.get, lo, control);
  },
);

export const Relation = { EQUAL: 0, LESS: 1, GREATER: 2, UNORDERED: 3 } as const;

/** `Relation` of two numbers. */
export const coreCompare = sharedFunction(
  "fp_compare",
  ["i64", "i32", "i64", "i32"],
  "i32",
  (f, _use, am, ax, bm, bx) => {
    f.if(am.or(bm).eqz(), () => f.return(i32(Relation.EQUAL)));
    const negative = f.local("i32");
    // Where signs differ, or one is zero, the sign of a, or of minus b, decides.
    f.if(
      am.eqz(),
      () => f.set(negative, bx.and(1).xor(1)),
      () => {
        f.set(negative, ax.and(1));
        f.if(bm.ne(0).and(ax.xor(bx).and(1).eqz()), () => {
          const ea = f.let(ax.shrS(1));
          const eb = f.let(bx.shrS(1));
          f.if(ea.eq(eb).and(am.eq(bm)), () => f.return(i32(Relation.EQUAL)));
          const smaller = ea.ltS(eb).or(ea.eq(eb).and(am.ltU(bm)));
          f.set(negative, negative.get.xor(smaller));
        });
      },
    );
    f.return(i32(Relation.LESS).select(negative.get, Relation.GREATER));
  },
);

/** An unpacked number rounded to the target's format. */
export const corePack = sharedFunction(
  "fp_pack",
  ["i32", "i64", "i32", "i32"],
  "i64",
  (f, use, cpu, m, x, control) => {
    f.if(m.eqz(), () => returnSpecial(f, use, cpu, Special.ZERO, x.and(1), control));
    f.if(isInfinite(x), () => returnSpecial(f, use, cpu, Special.INFINITY, x.and(1), control));
    f.returnCall(use(round), cpu, x, m, i64(0), control);
  },
);
