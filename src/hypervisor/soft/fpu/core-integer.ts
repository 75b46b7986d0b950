/** Unpacked numbers (see core) to integers, to integral values, and from integers. */

import { sharedFunction } from "../isa/shared-function.js";
import { FpFlag, raise } from "./control.js";
import { isInfinite, returnSpecial } from "./core.js";
import { i32, i64, shiftRightSticky, wide } from "./define.js";
import { BIAS80, round, roundsUp, Special } from "./round.js";

/**
 * Integer of `bits` (16, 32, 64) bits, rounded by the control word's RC, sign-extended to 64; out of range: IE and the
 * integer indefinite (SDM vol. 1, table 4-1).
 */
export const coreToInt = sharedFunction(
  "fp_to_int",
  ["i32", "i64", "i32", "i32", "i32"],
  "i64",
  (f, _use, cpu, m, x, control, bits) => {
    f.if(m.eqz(), () => f.return(i64(0)));
    const sign = f.let(x.and(1));
    const limit = f.let(i64(1).shl(bits.sub(1).toI64U()));
    const w = wide(f);
    f.set(w.hi, m);
    f.set(w.lo, i64(0));
    const shift = f.let(i32(BIAS80 + 63).sub(x.shrS(1)));
    f.if(shift.geS(0), () => {
      shiftRightSticky(f, w, shift);
      const up = roundsUp(f, w.lo.get, w.hi.get.and(1), sign, control);
      f.set(w.hi, w.hi.get.add(up.toI64U()));
      f.if(w.hi.get.leU(limit.sub(1).add(sign.toI64U())), () => {
        f.if(w.lo.get.ne(0), () => raise(f, cpu, up.mul(FpFlag.C1).or(FpFlag.PE)));
        f.return(w.hi.get.neg().select(sign, w.hi.get));
      });
    });
    raise(f, cpu, FpFlag.IE);
    f.return(limit.neg());
  },
);

/** To an integral value in the target's format. */
export const coreRoundInt = sharedFunction(
  "fp_round_int",
  ["i32", "i64", "i32", "i32"],
  "i64",
  (f, use, cpu, m, x, control) => {
    f.if(m.eqz(), () => returnSpecial(f, use, cpu, Special.ZERO, x.and(1), control));
    f.if(isInfinite(x), () => returnSpecial(f, use, cpu, Special.INFINITY, x.and(1), control));
    const shift = f.let(i32(BIAS80 + 63).sub(x.shrS(1)));
    f.if(shift.leS(0), () => f.returnCall(use(round), cpu, x, m, i64(0), control));
    const w = wide(f);
    f.set(w.hi, m);
    f.set(w.lo, i64(0));
    shiftRightSticky(f, w, shift);
    const up = roundsUp(f, w.lo.get, w.hi.get.and(1), x.and(1), control);
    f.set(w.hi, w.hi.get.add(up.toI64U()));
    f.if(w.lo.get.ne(0), () => raise(f, cpu, up.mul(FpFlag.C1).or(FpFlag.PE)));
    f.if(w.hi.get.eqz(), () => returnSpecial(f, use, cpu, Special.ZERO, x.and(1), control));
    const n = f.let(w.hi.get.clz());
    const e = i32(BIAS80 + 63).sub(n.toI32());
    f.returnCall(use(round), cpu, e.shl(1).or(x.and(1)), f.let(w.hi.get.shl(n)), i64(0), control);
  },
);

/** A signed 64-bit integer in the target's format. */
export const coreFromInt = sharedFunction(
  "fp_from_int",
  ["i32", "i64", "i32"],
  "i64",
  (f, use, cpu, value, control) => {
    f.if(value.eqz(), () => returnSpecial(f, use, cpu, Special.ZERO, 0, control));
    const negative = f.let(value.ltS(0));
    const magnitude = f.let(value.neg().select(negative, value));
    const n = f.let(magnitude.clz());
    const e = i32(BIAS80 + 63).sub(n.toI32());
    f.returnCall(use(round), cpu, e.shl(1).or(negative), magnitude.shl(n), i64(0), control);
  },
);
