/** FSCALE, FXTRACT, FPREM and FPREM1 (SDM vol. 2, under their names). */

import { sharedFunction } from "../isa/shared-function.js";
import { O } from "../vcpu-state.js";
import { type I32, load32 } from "../wasm/expr.js";
import { controlOfFcw, EXACT_F80, FpFlag, raise, Target, withTarget } from "./control.js";
import { corePack, divide128, isInfinite } from "./core.js";
import { coreFromInt } from "./core-integer.js";
import { i32, i64 } from "./define.js";
import { f80Nan, INDEFINITE_M, INDEFINITE_SE, needsNanResult, unpack80 } from "./f80.js";
import { BIAS80, INFINITE, round, Special, special } from "./round.js";
import { Fsw, fcwOf, raiseIfFull, readSt, setCodes, x87Set, x87SetTwo } from "./x87-stack.js";

/** Exact results: rounding does nothing but find underflow. */
const FULL = i32(EXACT_F80);
/** Beyond this a scale factor overflows or underflows everything. */
const SCALE_LIMIT = 0x10000;

/** FSCALE. The precision control does not apply. */
export const x87Scale = sharedFunction("x87_scale", ["i32"], "i32", (f, use, cpu) => {
  const st0 = readSt(f, cpu, 0);
  const st1 = readSt(f, cpu, 1);
  const m = f.local("i64");
  const control = f.let(withTarget(controlOfFcw(fcwOf(cpu)), Target.F80));
  f.block((done) => {
    f.if(needsNanResult(st0.m, st0.se).or(needsNanResult(st1.m, st1.se)), () => {
      f.set(m, f.call(use(f80Nan), cpu, st0.m, st0.se, st1.m, st1.se));
      f.br(done);
    });
    const a = unpack80(f, st0.m, st0.se);
    const b = unpack80(f, st1.m, st1.se);
    const n = f.local("i32");
    f.if(
      isInfinite(b.x),
      () => {
        // 0 · 2^+∞ and ∞ · 2^−∞ are invalid.
        const down = f.let(b.x.and(1));
        f.if(isInfinite(a.x).and(down).or(a.m.eqz().and(down.eqz())), () => {
          raise(f, cpu, FpFlag.IE);
          f.set(m, f.call(use(special), cpu, i32(Special.NAN), i32(1), FULL));
          f.br(done);
        });
        raise(f, cpu, a.denormal);
        const kind = i32(Special.INFINITY).select(down.eqz(), Special.ZERO);
        f.set(m, f.call(use(special), cpu, kind, a.x.and(1), FULL));
        f.br(done);
      },
      () => {
        raise(f, cpu, a.denormal.or(b.denormal));
        // Toward zero, within the limit.
        const e = f.let(b.x.shrS(1).sub(BIAS80));
        f.if(e.geS(0).and(b.m.ne(0)), () => {
          f.set(n, i32(SCALE_LIMIT));
          f.if(e.ltS(16), () => f.set(n, b.m.shrU(i64(63).sub(e.toI64U())).toI32()));
          f.if(b.x.and(1), () => f.set(n, n.get.neg()));
        });
      },
    );
    const special0 = a.m.eqz().or(isInfinite(a.x));
    f.if(
      special0,
      () => f.set(m, f.call(use(corePack), cpu, a.m, a.x, control)),
      // Not through corePack: a scaled exponent that happens to be that of infinity is an overflow like others.
      () => f.set(m, f.call(use(round), cpu, a.x.add(n.get.shl(1)), a.m, i64(0), control)),
    );
  });
  f.returnCall(use(x87Set), cpu, i32(0), m.get);
});

/** FXTRACT: exponent to ST(0), then significand pushed. */
export const x87Extract = sharedFunction("x87_xtract", ["i32"], "i32", (f, use, cpu) => {
  const a = readSt(f, cpu, 0);
  const exponentM = f.local("i64");
  const exponentSe = f.local("i32");
  const m = f.local("i64");
  const se = f.local("i32");
  const both = (write: () => void) => {
    write();
    f.set(exponentM, m.get);
    f.set(exponentSe, se.get);
  };
  f.block((done) => {
    f.if(raiseIfFull(f, cpu, a.se), () => {
      both(() => {
        f.set(m, i64(INDEFINITE_M));
        f.set(se, i32(INDEFINITE_SE));
      });
      f.br(done);
    });
    f.if(needsNanResult(a.m, a.se), () => {
      both(() => {
        f.set(m, f.call(use(f80Nan), cpu, a.m, a.se, a.m, a.se));
        f.set(se, load32(cpu, O.fpExp));
      });
      f.br(done);
    });
    f.set(m, a.m);
    f.set(se, a.se);
    const u = unpack80(f, a.m, a.se);
    f.if(u.m.eqz(), () => {
      raise(f, cpu, FpFlag.ZE);
      f.set(exponentM, f.call(use(special), cpu, i32(Special.INFINITY), i32(1), FULL));
      f.set(exponentSe, load32(cpu, O.fpExp));
      f.br(done);
    });
    f.if(isInfinite(u.x), () => {
      f.set(exponentM, a.m);
      f.set(exponentSe, i32(INFINITE));
      f.br(done);
    });
    raise(f, cpu, u.denormal);
    const e = u.x.shrS(1).sub(BIAS80).toI64S();
    f.set(exponentM, f.call(use(coreFromInt), cpu, f.let(e), FULL));
    f.set(exponentSe, load32(cpu, O.fpExp));
    f.set(m, u.m);
    f.set(se, u.x.and(1).shl(15).or(BIAS80));
  });
  f.returnCall(use(x87SetTwo), cpu, exponentM.get, exponentSe.get, m.get, se.get);
});

/**
 * FPREM (`nearest` 0) and FPREM1. The reduction is exact; where the exponents are 64 or more apart it is partial, by
 * 32–63 bits, and sets C2. The three low bits of the quotient go to C0, C3 and C1.
 */
export const x87Remainder = sharedFunction("x87_prem", ["i32", "i32"], "i32", (f, use, cpu, nearest) => {
  const st0 = readSt(f, cpu, 0);
  const st1 = readSt(f, cpu, 1);
  const m = f.local("i64");
  const codes = f.local("i32");
  const control = f.let(withTarget(controlOfFcw(fcwOf(cpu)), Target.F80));
  // C0 and C3 keep their values where there is no quotient.
  f.set(codes, load32(cpu, O.fsw).and(Fsw.C0 | Fsw.C3));
  f.block((done) => {
    f.if(needsNanResult(st0.m, st0.se).or(needsNanResult(st1.m, st1.se)), () => {
      f.set(m, f.call(use(f80Nan), cpu, st0.m, st0.se, st1.m, st1.se));
      f.br(done);
    });
    const a = unpack80(f, st0.m, st0.se);
    const b = unpack80(f, st1.m, st1.se);
    f.if(isInfinite(a.x).or(b.m.eqz()), () => {
      raise(f, cpu, FpFlag.IE);
      f.set(m, f.call(use(special), cpu, i32(Special.NAN), i32(1), FULL));
      f.br(done);
    });
    raise(f, cpu, a.denormal.or(b.denormal));
    f.set(codes, i32(0));
    const difference = f.let(a.x.shrS(1).sub(b.x.shrS(1)));
    // Below half of the divisor: as it is.
    f.if(
      a.m
        .eqz()
        .or(isInfinite(b.x))
        .or(difference.ltS(i32(0).sub(nearest.ne(0)))),
      () => {
        f.set(m, f.call(use(corePack), cpu, a.m, a.x, control));
        f.br(done);
      },
    );
    const rest = f.local("i64");
    const e = f.local("i32");
    const sign = f.local("i32");
    f.set(sign, a.x.and(1));
    f.if(
      difference.ltS(0),
      () => {
        // Half of the divisor or more, but less than it: the quotient is 1 if more.
        f.set(rest, a.m);
        f.set(e, a.x.shrS(1));
        f.if(a.m.gtU(b.m), () => {
          f.set(rest, b.m.sub(a.m.sub(b.m)));
          f.set(sign, sign.get.xor(1));
          f.set(codes, codesOfQuotient(i32(1)));
        });
      },
      () => {
        const partial = f.let(difference.geS(64));
        const bits = f.let(difference.and(31).or(32).select(partial, difference));
        f.set(e, a.x.shrS(1).sub(bits));
        const count = f.let(bits.toI64U());
        const hi = f.let(a.m.shrU(1).shrU(i64(63).sub(count)));
        const q = divide128(f, hi, f.let(a.m.shl(count)), b.m);
        f.set(rest, q.rest);
        f.if(
          partial,
          () => f.set(codes, i32(Fsw.C2)),
          () => {
            const up = f.local("i32");
            f.if(nearest, () => {
              const other = f.let(b.m.sub(q.rest));
              f.set(up, q.rest.gtU(other).or(q.rest.eq(other).and(q.quotient.toI32().and(1))));
              f.if(up.get, () => {
                f.set(rest, other);
                f.set(sign, sign.get.xor(1));
              });
            });
            f.set(codes, codesOfQuotient(q.quotient.toI32().add(up.get)));
          },
        );
      },
    );
    f.if(rest.get.eqz(), () => {
      f.set(m, f.call(use(special), cpu, i32(Special.ZERO), a.x.and(1), FULL));
      f.br(done);
    });
    const n = f.let(rest.get.clz());
    const x = e.get.sub(n.toI32()).shl(1).or(sign.get);
    f.set(m, f.call(use(round), cpu, x, rest.get.shl(n), i64(0), control));
  });
  // fpFlags has no C1 from rounding here: results are exact.
  raise(f, cpu, codes.get.and(Fsw.C1));
  const before = f.let(load32(cpu, O.fsw).and(Fsw.C0 | Fsw.C3));
  const blocked = f.let(f.call(use(x87Set), cpu, i32(0), m.get));
  setCodes(f, cpu, before.select(blocked, codes.get.and(~Fsw.C1)));
  f.return(blocked);
});

const codesOfQuotient = (q: I32): I32 => q.and(4).shl(6).or(q.and(2).shl(13)).or(q.and(1).shl(9));
