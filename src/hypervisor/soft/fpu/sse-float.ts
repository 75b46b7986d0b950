/**
 * SSE arithmetic on single and double precision numbers with every rounding mode and all exceptions (SDM vol. 1, 4.8,
 * 4.9, 10.2.3 and 11.5), for where wasm's own f32 and f64 operations do not give the guest's answer.
 *
 * Values are bit patterns: i32 for f32, i64 for f64. `mxcsr` is MXCSR itself, bits 16 and up zero. Exceptions raised are
 * ORed into the state's fpFlags; results are the masked responses. The instruction clears fpFlags, calls, and then
 * calls `mxcsrCommit`.
 */

import { sharedFunction } from "../isa/shared-function.js";
import { O } from "../vcpu-state.js";
import { type I32, type I64, type Int, load32 } from "../wasm/expr.js";
import type { FunctionBuilder } from "../wasm/module.js";
import { FpFlag, Mxcsr, raise, TARGET_SHIFT, Target } from "./control.js";
import { coreAdd, coreCompare, coreDiv, coreMul, corePack, coreSqrt, Relation } from "./core.js";
import { coreFromInt, coreRoundInt, coreToInt } from "./core-integer.js";
import { i32, i64 } from "./define.js";
import { BIAS80, INFINITE, TOP_BIT } from "./round.js";

interface SseFormat<T extends "i32" | "i64"> {
  readonly name: string;
  readonly type: T;
  readonly target: number;
  /** Bits of the fraction field, greatest value of the exponent field, its bias. */
  readonly fraction: number;
  readonly exponentMax: number;
  readonly bias: number;
  readonly signShift: number;
}

const FORMAT32 = {
  name: "sf32",
  type: "i32",
  target: Target.F32,
  fraction: 23,
  exponentMax: 0xff,
  bias: 127,
  signShift: 31,
} as const satisfies SseFormat<"i32">;
const FORMAT64 = {
  name: "sf64",
  type: "i64",
  target: Target.F64,
  fraction: 52,
  exponentMax: 0x7ff,
  bias: 1023,
  signShift: 63,
} as const satisfies SseFormat<"i64">;

interface Unpacked {
  readonly m: I64;
  readonly x: I32;
  /** FpFlag.DE for a denormal number, else 0. */
  readonly denormal: I32;
}

/** `bits`, which are no NaN, unpacked; a denormal number is zero under DAZ (SDM vol. 1, 10.2.3.4). */
function unpack(f: FunctionBuilder, format: SseFormat<"i32" | "i64">, bits: I64, mxcsr: I32): Unpacked {
  const m = f.local("i64");
  const x = f.local("i32");
  const denormal = f.local("i32");
  const { fraction, exponentMax, bias, signShift } = format;
  const field = f.let(bits.shrU(fraction).toI32().and(exponentMax));
  const sign = f.let(bits.shrU(signShift).toI32().and(1));
  f.set(m, bits.shl(63 - fraction));
  f.if(
    field.eqz(),
    () => {
      f.set(m, m.get.shl(1));
      f.set(x, sign);
      f.if(m.get.ne(0), () => {
        f.if(
          mxcsr.and(Mxcsr.DAZ),
          () => f.set(m, i64(0)),
          () => {
            f.set(denormal, i32(FpFlag.DE));
            const n = f.let(m.get.clz());
            f.set(m, m.get.shl(n));
            // Bit 63 is worth what the least normal number's first fraction bit is.
            f.set(
              x,
              i32(BIAS80 - bias)
                .sub(n.toI32())
                .shl(1)
                .or(sign),
            );
          },
        );
      });
    },
    () => {
      f.set(m, m.get.or(i64(TOP_BIT)));
      f.set(
        x,
        field
          .add(BIAS80 - bias)
          .shl(1)
          .or(sign),
      );
      f.if(field.eq(exponentMax), () => f.set(x, i32(INFINITE << 1).or(sign)));
    },
  );
  return { m: m.get, x: x.get, denormal: denormal.get };
}

function sseFloat<T extends "i32" | "i64">(format: SseFormat<T>) {
  const { name, type, fraction, exponentMax, signShift } = format;
  type Bits = I32 | I64;
  const wide = (v: Bits): I64 => v.toI64U();
  /** From an i64 to the format's own type. */
  const narrow = (v: I64): Int => (type === "i32" ? v.toI32() : v);
  const magnitude = (v: I64) => v.and(i64((1n << BigInt(signShift)) - 1n));
  const infinity = i64(BigInt(exponentMax) << BigInt(fraction));
  const quietBit = i64(1n << BigInt(fraction - 1));
  const isNan = (v: I64) => magnitude(v).gtU(infinity);
  const isSignaling = (v: I64) => isNan(v).and(v.and(quietBit).eqz());
  const isDenormal = (v: I64) =>
    magnitude(v)
      .sub(1)
      .ltU(i64((1n << BigInt(fraction)) - 1n));
  const withFormat = (mxcsr: I32) => mxcsr.or(format.target << TARGET_SHIFT);
  const params1 = ["i32", type, "i32"] as const;
  const params2 = ["i32", type, type, "i32"] as const;

  /** SDM vol. 1, table 4-7, SSE: the first operand that is a NaN, quieted. */
  const nanOf = (f: FunctionBuilder, cpu: I32, a: I64, b: I64) => {
    f.if(isSignaling(a).or(isSignaling(b)), () => raise(f, cpu, FpFlag.IE));
    f.return(narrow(f.let(a.select(isNan(a), b)).or(quietBit)));
  };

  const binary = (operation: string, core: typeof coreAdd, flipB: (x: I32) => I32 = (x) => x) =>
    sharedFunction(`${name}_${operation}`, params2, type, (f, use, cpu, aBits, bBits, mxcsr) => {
      const a = f.let(wide(aBits as Bits));
      const b = f.let(wide(bBits as Bits));
      f.if(isNan(a).or(isNan(b)), () => nanOf(f, cpu, a, b));
      const ua = unpack(f, format, a, mxcsr);
      const ub = unpack(f, format, b, mxcsr);
      // Division by zero comes before a denormal dividend (SDM vol. 1, 4.9.2), as processors do it even where masked.
      const seen = core === coreDiv ? ub.m.ne(0) : i32(1);
      raise(f, cpu, ua.denormal.or(ub.denormal).and(i32(0).sub(seen)));
      f.return(narrow(f.call(use(core), cpu, ua.m, ua.x, ub.m, flipB(ub.x), withFormat(mxcsr))));
    });

  const sqrt = sharedFunction(`${name}_sqrt`, params1, type, (f, use, cpu, aBits, mxcsr) => {
    const a = f.let(wide(aBits as Bits));
    f.if(isNan(a), () => nanOf(f, cpu, a, a));
    const u = unpack(f, format, a, mxcsr);
    // A negative number is invalid, denormal or not.
    raise(f, cpu, u.denormal.and(u.x.and(1).sub(1)));
    f.return(narrow(f.call(use(coreSqrt), cpu, u.m, u.x, withFormat(mxcsr))));
  });

  /** MIN and MAX (SDM vol. 2, MINPS): the second operand where either is a NaN (IE) or both are zero. */
  const choose = (operation: string, wanted: number) =>
    sharedFunction(`${name}_${operation}`, params2, type, (f, use, cpu, aBits, bBits, mxcsr) => {
      const a = f.let(wide(aBits as Bits));
      const b = f.let(wide(bBits as Bits));
      const chosen = f.local("i64");
      f.set(chosen, b);
      f.if(
        isNan(a).or(isNan(b)),
        () => raise(f, cpu, FpFlag.IE),
        () => {
          const ua = unpack(f, format, a, mxcsr);
          const ub = unpack(f, format, b, mxcsr);
          raise(f, cpu, ua.denormal.or(ub.denormal));
          const relation = f.call(use(coreCompare), ua.m, ua.x, ub.m, ub.x);
          f.if(relation.eq(wanted), () => f.set(chosen, a));
        },
      );
      // Under DAZ a denormal operand is a zero, and so is the result.
      f.if(isDenormal(chosen.get).and(mxcsr.shrU(6)), () =>
        f.return(narrow(chosen.get.and(i64(1n << BigInt(signShift))))),
      );
      f.return(narrow(chosen.get));
    });

  const compare = sharedFunction(
    `${name}_compare`,
    ["i32", type, type, "i32", "i32"] as const,
    "i32",
    (f, use, cpu, aBits, bBits, mxcsr, signaling) => {
      const a = f.let(wide(aBits as Bits));
      const b = f.let(wide(bBits as Bits));
      f.if(isNan(a).or(isNan(b)), () => {
        f.if(signaling.or(isSignaling(a)).or(isSignaling(b)), () => raise(f, cpu, FpFlag.IE));
        f.return(i32(Relation.UNORDERED));
      });
      const ua = unpack(f, format, a, mxcsr);
      const ub = unpack(f, format, b, mxcsr);
      raise(f, cpu, ua.denormal.or(ub.denormal));
      f.returnCall(use(coreCompare), ua.m, ua.x, ub.m, ub.x);
    },
  );

  const cmp = sharedFunction(
    `${name}_cmp`,
    ["i32", type, type, "i32", "i32"] as const,
    "i32",
    (f, use, cpu, aBits, bBits, mxcsr, predicate) => {
      const p = f.let(predicate.and(31));
      const signaling = i32(CMP_SIGNALING).shrU(p).and(1);
      const relation = f.let(f.call(use(compare), cpu, aBits, bBits, mxcsr, signaling));
      const truth = i64(CMP_TRUTH).shrU(p.and(15).shl(2).add(relation).toI64U()).toI32().and(1);
      f.return(i32(0).sub(truth));
    },
  );

  const toInt = <R extends "i32" | "i64">(result: R, bits: number) =>
    sharedFunction(`${name}_to_${result}`, params1, result, (f, use, cpu, aBits, mxcsr) => {
      const a = f.let(wide(aBits as Bits));
      f.if(isNan(a), () => {
        raise(f, cpu, FpFlag.IE);
        f.return(result === "i32" ? i32(0x80000000) : i64(TOP_BIT));
      });
      const u = unpack(f, format, a, mxcsr);
      const value = f.call(use(coreToInt), cpu, u.m, u.x, mxcsr, i32(bits));
      f.return(result === "i32" ? value.toI32() : value);
    });

  const fromI64 = sharedFunction(
    `${name}_from_i64`,
    ["i32", "i64", "i32"],
    type,
    (f, use, cpu, value, mxcsr) => {
      f.return(narrow(f.call(use(coreFromInt), cpu, value, withFormat(mxcsr))));
    },
  );

  const fromI32 = sharedFunction(
    `${name}_from_i32`,
    ["i32", "i32", "i32"],
    type,
    (f, use, cpu, value, mxcsr) => {
      f.return(narrow(f.call(use(coreFromInt), cpu, value.toI64S(), withFormat(mxcsr))));
    },
  );

  /** ROUNDSS and ROUNDSD with their immediate (SDM vol. 2, ROUNDPD, table 4-18 and figure 4-24). */
  const round = sharedFunction(
    `${name}_round`,
    ["i32", type, "i32", "i32"] as const,
    type,
    (f, use, cpu, aBits, mxcsr, immediate) => {
      const a = f.let(wide(aBits as Bits));
      f.if(isNan(a), () => nanOf(f, cpu, a, a));
      const before = f.let(load32(cpu, O.fpFlags));
      const u = unpack(f, format, a, mxcsr);
      const ofImmediate = mxcsr.and(~Mxcsr.RC).or(immediate.and(IMM_RC).shl(Mxcsr.RC_SHIFT));
      const control = f.let(mxcsr.select(immediate.and(IMM_USE_MXCSR), ofImmediate));
      const result = f.let(f.call(use(coreRoundInt), cpu, u.m, u.x, withFormat(control)));
      f.if(immediate.and(IMM_NO_PRECISION), () => f.store32(cpu, before, O.fpFlags));
      f.return(narrow(result));
    },
  );

  return {
    add: binary("add", coreAdd),
    sub: binary("sub", coreAdd, (x) => x.xor(1)),
    mul: binary("mul", coreMul),
    div: binary("div", coreDiv),
    sqrt,
    min: choose("min", Relation.LESS),
    max: choose("max", Relation.GREATER),
    compare,
    cmp,
    toI32: toInt("i32", 32),
    toI64: toInt("i64", 64),
    fromI32,
    fromI64,
    round,
  };
}

const IMM_RC = 3;
const IMM_USE_MXCSR = 4;
const IMM_NO_PRECISION = 8;

/**
 * The predicates of VCMPPS, of which CMPPS has the first 8 (SDM vol. 2, table 3-1). Four bits each: true for equal,
 * less, greater, unordered. Predicates 16–31 are 0–15 with the other behaviour for quiet NaNs.
 */
const CMP_TABLE = [
  // EQ_OQ LT_OS LE_OS UNORD_Q NEQ_UQ NLT_US NLE_US ORD_Q
  0b0001, 0b0010, 0b0011, 0b1000, 0b1110, 0b1101, 0b1100, 0b0111,
  // EQ_UQ NGE_US NGT_US FALSE_OQ NEQ_OQ GE_OS GT_OS TRUE_UQ
  0b1001, 0b1010, 0b1011, 0b0000, 0b0110, 0b0101, 0b0100, 0b1111,
];
const CMP_TRUTH = CMP_TABLE.reduce((word, bits, i) => word | (BigInt(bits) << BigInt(4 * i)), 0n);
const CMP_SIGNALING_LOW = 0b0110_0110_0110_0110;
const CMP_SIGNALING = CMP_SIGNALING_LOW | (~CMP_SIGNALING_LOW << 16);

/** CVTSS2SD. */
const toF64 = sharedFunction("sf32_to_f64", ["i32", "i32", "i32"], "i64", (f, use, cpu, bits, mxcsr) => {
  const a = f.let(bits.toI64U());
  const low = f.let(a.and(0x7fffffff));
  f.if(low.gtU(0x7f800000), () => {
    f.if(bits.and(1 << 22).eqz(), () => raise(f, cpu, FpFlag.IE));
    const sign = a.shrU(31).shl(63);
    f.return(low.and(0x7fffff).shl(29).or(sign).or(i64(0x7ff8000000000000n)));
  });
  const u = unpack(f, FORMAT32, a, mxcsr);
  raise(f, cpu, u.denormal);
  f.returnCall(use(corePack), cpu, u.m, u.x, mxcsr.or(Target.F64 << TARGET_SHIFT));
});

/** CVTSD2SS. */
const toF32 = sharedFunction("sf64_to_f32", ["i32", "i64", "i32"], "i32", (f, use, cpu, a, mxcsr) => {
  f.if(a.and(i64(TOP_BIT - 1n)).gtU(i64(0x7ff0000000000000n)), () => {
    f.if(a.shrU(51).and(1).eqz(), () => raise(f, cpu, FpFlag.IE));
    const sign = a.shrU(63).toI32().shl(31);
    f.return(a.shrU(29).toI32().and(0x7fffff).or(sign).or(0x7fc00000));
  });
  const u = unpack(f, FORMAT64, a, mxcsr);
  raise(f, cpu, u.denormal);
  f.return(f.call(use(corePack), cpu, u.m, u.x, mxcsr.or(Target.F32 << TARGET_SHIFT)).toI32());
});

export const SF32 = { ...sseFloat(FORMAT32), toF64 };
export const SF64 = { ...sseFloat(FORMAT64), toF32 };

/**
 * Merge fpFlags into MXCSR; gives non-zero where an unmasked exception must be raised (the destination is not written
 * then). An unmasked exception found before computing keeps those found after it from being reported (SDM vol. 1,
 * 11.5.2 and 11.5.3).
 */
export const mxcsrCommit = sharedFunction("mxcsr_commit", ["i32"], "i32", (f, _use, cpu) => {
  const raised = f.local("i32");
  f.set(raised, load32(cpu, O.fpFlags).and(Mxcsr.FLAGS));
  f.if(raised.get.eqz(), () => f.return(i32(0)));
  const mxcsr = f.let(load32(cpu, O.mxcsr));
  const unmasked = f.let(mxcsr.shrU(Mxcsr.MASK_SHIFT).and(Mxcsr.FLAGS).xor(Mxcsr.FLAGS));
  const before = f.let(raised.get.and(FpFlag.IE | FpFlag.DE | FpFlag.ZE));
  f.if(before.and(unmasked), () => f.set(raised, before));
  f.store32(cpu, mxcsr.or(raised.get), O.mxcsr);
  f.return(raised.get.and(unmasked));
});
