/**
 * 128-bit arithmetic for the transcendental functions: fixed-point numbers in pairs of i64, and "wide" floating-point
 * numbers, whose fraction is hi:lo with the top bit set, as `round` takes them.
 *
 * A shared function that gives a wide number returns hi, and leaves lo in the state's fpLow and x = exponent · 2 + sign in
 * fpX.
 */

import { sharedFunction, type Use } from "../isa/shared-function.js";
import { O } from "../vcpu-state.js";
import { type I32, type I64, load32, load64 } from "../wasm/expr.js";
import type { FuncRef, FunctionBuilder } from "../wasm/module.js";
import { i32, i64, multiply64, normalize, shiftRightSticky, wide } from "./define.js";

export interface Pair {
  readonly hi: I64;
  readonly lo: I64;
}

export interface WideFloat extends Pair {
  readonly x: I32;
}

/** The high 128 bits of a · b, up to 3 in the last place too low. */
const mulHigh = sharedFunction(
  "wide_mul",
  ["i32", "i64", "i64", "i64", "i64"],
  "i64",
  (f, _use, cpu, ah, al, bh, bl) => {
    const high = wide(f);
    const cross = wide(f);
    const cross2 = wide(f);
    multiply64(f, high, ah, bh);
    multiply64(f, cross, ah, bl);
    multiply64(f, cross2, al, bh);
    const sum = f.let(cross.hi.get.add(cross2.hi.get));
    const carry = f.let(sum.ltU(cross.hi.get).toI64U());
    const lo = f.let(high.lo.get.add(sum));
    f.store64(cpu, lo, O.fpLow);
    f.return(high.hi.get.add(carry).add(lo.ltU(sum).toI64U()));
  },
);

/** n · 2^128 / d, rounded down; n < d. */
const divide = sharedFunction(
  "wide_div",
  ["i32", "i64", "i64", "i64", "i64"],
  "i64",
  (f, _use, cpu, nh, nl, dh, dl) => {
    const rest = wide(f);
    const quotient = wide(f);
    const count = f.local("i32");
    f.set(rest.hi, nh);
    f.set(rest.lo, nl);
    f.set(count, i32(128));
    f.loop((start) => {
      const carry = f.let(rest.hi.get.shrU(63));
      f.set(rest.hi, rest.hi.get.shl(1).or(rest.lo.get.shrU(63)));
      f.set(rest.lo, rest.lo.get.shl(1));
      const { hi, lo } = rest;
      const enough = f.let(
        carry
          .toI32()
          .or(hi.get.gtU(dh))
          .or(hi.get.eq(dh).and(lo.get.geU(dl))),
      );
      const bit = f.let(enough.toI64U());
      const mask = f.let(i64(0).sub(bit));
      const take = f.let(dl.and(mask));
      f.set(hi, hi.get.sub(dh.and(mask)).sub(lo.get.ltU(take).toI64U()));
      f.set(lo, lo.get.sub(take));
      f.set(quotient.hi, quotient.hi.get.shl(1).or(quotient.lo.get.shrU(63)));
      f.set(quotient.lo, quotient.lo.get.shl(1).or(bit));
      f.set(count, count.get.sub(1));
      f.brIf(start, count.get);
    });
    f.store64(cpu, quotient.lo.get, O.fpLow);
    f.return(quotient.hi.get);
  },
);

/** Emits arithmetic into one function. All results are evaluated once, where they are made. */
export class WideMath {
  constructor(
    readonly f: FunctionBuilder,
    readonly use: Use,
    readonly cpu: I32,
  ) {}

  constant(value: bigint): Pair {
    return { hi: i64(value >> 64n), lo: i64(value & 0xffffffffffffffffn) };
  }

  #result(hi: I64): Pair {
    return { hi: this.f.let(hi), lo: this.f.let(load64(this.cpu, O.fpLow)) };
  }

  /** The wide number that a call of `g` gives. */
  float<P extends readonly ("i32" | "i64")[]>(
    g: FuncRef<P, "i64">,
    ...args: Parameters<typeof this.f.call<P, "i64">> extends [unknown, ...infer A] ? A : never
  ): WideFloat {
    const { hi, lo } = this.#result(this.f.call(g, ...(args as never)));
    return { hi, lo, x: this.f.let(load32(this.cpu, O.fpX)) };
  }

  mul(a: Pair, b: Pair): Pair {
    return this.#result(this.f.call(this.use(mulHigh), this.cpu, a.hi, a.lo, b.hi, b.lo));
  }
  div(n: Pair, d: Pair): Pair {
    return this.#result(this.f.call(this.use(divide), this.cpu, n.hi, n.lo, d.hi, d.lo));
  }
  add(a: Pair, b: Pair): Pair {
    const lo = this.f.let(a.lo.add(b.lo));
    return { hi: this.f.let(a.hi.add(b.hi).add(lo.ltU(b.lo).toI64U())), lo };
  }
  sub(a: Pair, b: Pair): Pair {
    const hi = this.f.let(a.hi.sub(b.hi).sub(a.lo.ltU(b.lo).toI64U()));
    return { hi, lo: this.f.let(a.lo.sub(b.lo)) };
  }
  /** a ≥ b. */
  atLeast(a: Pair, b: Pair): I32 {
    return this.f.let(a.hi.gtU(b.hi).or(a.hi.eq(b.hi).and(a.lo.geU(b.lo))));
  }
  /** a >> n with lost bits ORed into the lowest. */
  shiftRight(a: Pair, n: I32): Pair {
    const w = wide(this.f);
    this.f.set(w.hi, a.hi);
    this.f.set(w.lo, a.lo);
    shiftRightSticky(this.f, w, this.f.let(n));
    return { hi: w.hi.get, lo: w.lo.get };
  }
  /** a (not zero) with its top bit set, and by how much it was shifted. */
  normalized(a: Pair): Pair & { shift: I32 } {
    const w = wide(this.f);
    this.f.set(w.hi, a.hi);
    this.f.set(w.lo, a.lo);
    const shift = normalize(this.f, w);
    return { hi: w.hi.get, lo: w.lo.get, shift };
  }
  /** `ifTrue` where `condition`, else `ifFalse`. */
  select(condition: I32, ifTrue: Pair, ifFalse: Pair): Pair {
    return {
      hi: this.f.let(ifTrue.hi.select(condition, ifFalse.hi)),
      lo: this.f.let(ifTrue.lo.select(condition, ifFalse.lo)),
    };
  }
  isZero(a: Pair): I32 {
    return a.hi.or(a.lo).eqz();
  }

  /** c0 − z·(c1 − z·(c2 − …)). */
  alternating(z: Pair, coefficients: readonly bigint[]): Pair {
    let sum = this.constant(coefficients[coefficients.length - 1]);
    for (let i = coefficients.length - 2; i >= 0; i--) {
      sum = this.sub(this.constant(coefficients[i]), this.mul(z, sum));
    }
    return sum;
  }
  /** c0 + z·(c1 + z·(c2 + …)). */
  series(z: Pair, coefficients: readonly bigint[]): Pair {
    let sum = this.constant(coefficients[coefficients.length - 1]);
    for (let i = coefficients.length - 2; i >= 0; i--) {
      sum = this.add(this.constant(coefficients[i]), this.mul(z, sum));
    }
    return sum;
  }

  /** End the function with this wide number. */
  return(a: Pair, x: I32): void {
    this.f.store64(this.cpu, a.lo, O.fpLow);
    this.f.store32(this.cpu, x, O.fpX);
    this.f.return(a.hi);
  }
}
