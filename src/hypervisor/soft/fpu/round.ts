/**
 * Rounding to a result's format: the last step of every operation (SDM vol. 1, 4.8.4, 4.9.1.4–4.9.1.6 and 8.5.4–8.5.6).
 *
 * The value to round is "unpacked": x = exponent · 2 + sign, and a 128-bit fraction hi:lo with the top bit of hi set:
 * (−1)^sign · (hi:lo / 2^127) · 2^(exponent − 16383). Only whether the lowest bits of lo are zero counts.
 */

import { sharedFunction } from "../isa/shared-function.js";
import { O } from "../vcpu-state.js";
import type { I32, I64 } from "../wasm/expr.js";
import type { FunctionBuilder } from "../wasm/module.js";
import {
  CONTROL_STORE,
  FpFlag,
  Mxcsr,
  maskOf,
  Rounding,
  raise,
  roundingOf,
  TARGET_SHIFT,
  Target,
  targetOf,
} from "./control.js";
import { i32, i64, shiftRightSticky } from "./define.js";

export const BIAS80 = 16383;
/** Exponent of an unpacked infinity; finite numbers lie below. */
export const INFINITE = 0x7fff;
export const TOP_BIT = 1n << 63n;
/** What an unmasked overflow or underflow subtracts from or adds to the exponent of an 80-bit result (SDM vol. 1, 8.5.4). */
const BIAS_ADJUST = 24576;

interface Format {
  readonly name: string;
  /** Unpacked exponents of the least and the greatest normal number. */
  readonly emin: number;
  readonly emax: number;
  /** Bits of a 64-bit fraction below the last place; undefined: as the PC field says (11 or 40). */
  readonly drop: number | undefined;
  /** The result is written even after an unmasked overflow or underflow: as for a register (SDM vol. 1, 8.5.4). */
  readonly stored: boolean;
  /** The bits of the result, from its exponent less emin, and its fraction in the top bits of `kept`. */
  pack(f: FunctionBuilder, cpu: I32, sign: I32, e: I32, kept: I64): I64;
}

/** Bits of the fraction field of f32 and f64. */
const FRACTION32 = 23;
const FRACTION64 = 52;

const F32: Format = {
  name: "f32",
  emin: BIAS80 - 126,
  emax: BIAS80 + 127,
  drop: 40,
  stored: false,
  // The integer bit, which is not stored, adds 1 to the exponent field; a denormal number has none.
  pack: (_f, _cpu, sign, e, kept) => e.toI64U().shl(FRACTION32).add(kept.shrU(40)).or(sign.toI64U().shl(31)),
};
const F64: Format = {
  name: "f64",
  emin: BIAS80 - 1022,
  emax: BIAS80 + 1023,
  drop: 11,
  stored: false,
  pack: (_f, _cpu, sign, e, kept) => e.toI64U().shl(FRACTION64).add(kept.shrU(11)).or(sign.toI64U().shl(63)),
};
const pack80: Format["pack"] = (f, cpu, sign, e, kept) => {
  f.store32(cpu, e.add(kept.shrU(63).toI32()).or(sign.shl(15)), O.fpExp);
  return kept;
};
const F80: Format = { name: "f80", emin: 1, emax: 0x7ffe, drop: 0, stored: true, pack: pack80 };
const F80_SHORT: Format = { ...F80, name: "f80_short", drop: undefined };

/** 1 where a fraction with the part `lost` below its last place (its top bit worth half of it) rounds up in magnitude. */
export function roundsUp(f: FunctionBuilder, lost: I64, odd: I64, sign: I32, control: I32): I32 {
  const up = f.local("i32");
  f.set(up, i32(0));
  f.if(lost.ne(0), () => {
    const rc = f.let(roundingOf(control));
    f.if(
      rc.eqz(),
      () => f.set(up, lost.gtU(i64(TOP_BIT).sub(odd))),
      // Down where negative (1), up where positive (2).
      () => f.set(up, rc.eq(i32(Rounding.UP).sub(sign))),
    );
  });
  return up.get;
}

function makeRound(format: Format) {
  const { emin, emax, pack } = format;
  return sharedFunction(
    `fp_round_${format.name}`,
    ["i32", "i32", "i64", "i64", "i32"],
    "i64",
    (f, _use, cpu, x, hiIn, loIn, control) => {
      const sign = f.let(x.and(1));
      const e = f.local("i32");
      f.set(e, x.shrS(1));
      const hi = f.local("i64");
      const lo = f.local("i64");
      f.set(hi, hiIn);
      f.set(lo, loIn);
      const drop: I64 =
        format.drop !== undefined
          ? i64(format.drop)
          : f.let(i64(11).select(control.and(Target.F80_53 << TARGET_SHIFT), 40));
      const place = f.let(i64(1).shl(drop));
      const lostBits = () =>
        format.drop === 0 ? lo.get : hi.get.shl(i64(64).sub(drop)).or(lo.get.ne(0).toI64U());
      const keptBits = () => (format.drop === 0 ? hi.get : hi.get.and(i64(0).sub(place)));
      const oddBit = () => hi.get.shrU(drop).and(1);
      const kept = f.local("i64");
      const flags = f.local("i32");

      f.if(e.get.ltS(emin), () => {
        // Tiny unless rounding with an unbounded exponent reaches the least normal number (SDM vol. 1, 4.9.1.5).
        const tiny = f.local("i32");
        f.set(tiny, i32(1));
        f.if(e.get.eq(emin - 1), () => {
          const up = roundsUp(f, f.let(lostBits()), oddBit(), sign, control);
          f.set(tiny, keptBits().add(place.mul(up.toI64U())).ne(0));
        });
        f.if(
          maskOf(control, FpFlag.UE).eqz().and(tiny.get),
          () => {
            // Unmasked: the exponent is adjusted; a result that is still too small is zero. Other formats than f80 are
            // not stored.
            if (format.stored) {
              f.set(flags, i32(FpFlag.UE));
              f.set(e, e.get.add(BIAS_ADJUST));
              f.if(e.get.ltS(emin), () => {
                raise(f, cpu, FpFlag.UE | FpFlag.PE);
                f.return(pack(f, cpu, sign, i32(0), i64(0)));
              });
            } else {
              const lost = lostBits().ne(0).and(control.and(CONTROL_STORE).eqz());
              raise(f, cpu, i32(FpFlag.UE).or(lost.mul(FpFlag.PE)));
              f.return(i64(0));
            }
          },
          () => {
            f.if(tiny.get.and(control.and(Mxcsr.FTZ).ne(0)), () => {
              raise(f, cpu, FpFlag.UE | FpFlag.PE);
              f.return(pack(f, cpu, sign, i32(0), i64(0)));
            });
            shiftRightSticky(f, { hi, lo }, f.let(i32(emin).sub(e.get)));
            const lost = f.let(lostBits());
            f.if(
              lost.ne(0),
              () => {
                const up = roundsUp(f, lost, oddBit(), sign, control);
                f.set(kept, keptBits().add(place.mul(up.toI64U())));
                raise(f, cpu, up.mul(FpFlag.C1).or(tiny.get.mul(FpFlag.UE)).or(FpFlag.PE));
              },
              () => f.set(kept, keptBits()),
            );
            f.return(pack(f, cpu, sign, i32(0), kept.get));
          },
        );
      });

      const lost = f.let(lostBits());
      const up = roundsUp(f, lost, oddBit(), sign, control);
      f.set(kept, keptBits().add(place.mul(up.toI64U())));
      f.if(lost.ne(0), () => {
        f.set(flags, flags.get.or(FpFlag.PE).or(up.mul(FpFlag.C1)));
        f.if(kept.get.eqz(), () => {
          f.set(kept, i64(TOP_BIT));
          f.set(e, e.get.add(1));
        });
      });
      f.if(e.get.gtS(emax), () => {
        f.set(flags, flags.get.or(FpFlag.OE));
        f.if(maskOf(control, FpFlag.OE), () => {
          const rc = f.let(roundingOf(control));
          const infinite = f.let(rc.eqz().or(rc.eq(i32(Rounding.UP).sub(sign))));
          raise(f, cpu, i32(FpFlag.OE | FpFlag.PE).or(infinite.mul(FpFlag.C1)));
          const largest = i64(-1).shl(drop);
          f.return(
            pack(f, cpu, sign, i32(emax - emin).add(infinite), f.let(i64(TOP_BIT).select(infinite, largest))),
          );
        });
        if (format.stored) {
          f.set(e, e.get.sub(BIAS_ADJUST));
          f.if(e.get.gtS(emax), () => {
            raise(f, cpu, FpFlag.OE | FpFlag.PE | FpFlag.C1);
            f.return(pack(f, cpu, sign, i32(emax - emin + 1), i64(TOP_BIT)));
          });
        } else {
          const inexact = lost.ne(0).and(control.and(CONTROL_STORE).eqz());
          raise(f, cpu, i32(FpFlag.OE).or(inexact.mul(FpFlag.PE)));
          f.return(i64(0));
        }
      });
      f.if(flags.get, () => raise(f, cpu, flags.get));
      f.return(pack(f, cpu, sign, e.get.sub(emin), kept.get));
    },
  );
}

const round80 = makeRound(F80);
const round80Short = makeRound(F80_SHORT);
const round32 = makeRound(F32);
const round64 = makeRound(F64);

/**
 * Round (cpu, x, hi, lo, control) to the control word's target. Gives the bits of an f32 or f64, or the fraction of an
 * f80 whose sign and exponent it leaves in the state's fpExp.
 */
export const round = sharedFunction(
  "fp_round",
  ["i32", "i32", "i64", "i64", "i32"],
  "i64",
  (f, use, cpu, x, hi, lo, control) => {
    const args = [cpu, x, hi, lo, control] as const;
    const to80 = () => f.returnCall(use(round80), ...args);
    const to80Short = () => f.returnCall(use(round80Short), ...args);
    f.switch(
      targetOf(control),
      [to80Short, to80, to80Short, to80, () => f.returnCall(use(round32), ...args)],
      () => f.returnCall(use(round64), ...args),
    );
    f.unreachable();
  },
);

export const Special = { ZERO: 0, INFINITY: 1, NAN: 2 } as const;

/** A zero or infinity of `sign`, or the default NaN (negative: SDM vol. 1, 4.8.3.7), in the control word's target. */
export const special = sharedFunction(
  "fp_special",
  ["i32", "i32", "i32", "i32"],
  "i64",
  (f, _use, cpu, kind, sign, control) => {
    const target = f.let(targetOf(control));
    const negative = f.let(sign.or(kind.eq(Special.NAN)).toI64U());
    const notZero = f.let(i64(0).sub(kind.ne(Special.ZERO).toI64U()));
    const nan = f.let(kind.eq(Special.NAN).toI64U());
    f.if(target.eq(Target.F32), () =>
      f.return(
        notZero
          .and(0x7f800000)
          .or(nan.shl(FRACTION32 - 1))
          .or(negative.shl(31)),
      ),
    );
    f.if(target.eq(Target.F64), () =>
      f.return(
        notZero
          .and(i64(0x7ff0000000000000n))
          .or(nan.shl(FRACTION64 - 1))
          .or(negative.shl(63)),
      ),
    );
    f.store32(cpu, notZero.toI32().and(INFINITE).or(negative.toI32().shl(15)), O.fpExp);
    f.return(notZero.and(i64(TOP_BIT)).or(nan.shl(62)));
  },
);
