/**
 * The x87's 80-bit numbers (SDM vol. 1, 4.2.2 and 8.2): what is not normal, then the arithmetic of `core`.
 *
 * An operand is its fraction (m, i64) and its sign and exponent (se, i32: the 16 bits in memory, with the flags below).
 * Results are the fraction; sign and exponent are left in the state's fpExp. Exceptions are ORed into fpFlags.
 */

import { sharedFunction, type Use } from "../isa/shared-function.js";
import { O } from "../vcpu-state.js";
import { type I32, type I64, load32 } from "../wasm/expr.js";
import type { FunctionBuilder } from "../wasm/module.js";
import { EXACT_F80, FpFlag, Mxcsr, raise, Target, withTarget } from "./control.js";
import { coreAdd, coreCompare, coreDiv, coreMul, corePack, coreSqrt, Relation } from "./core.js";
import { coreFromInt, coreRoundInt, coreToInt } from "./core-integer.js";
import { i32, i64 } from "./define.js";
import { BIAS80, INFINITE, TOP_BIT } from "./round.js";

/** Flags that operands carry above their 16 bits of sign and exponent. */
export const Operand = {
  /** Widened from a denormal f32 or f64. */
  DENORMAL: 1 << 16,
  /** From an empty stack register: the operation is a stack underflow. */
  EMPTY: 1 << 17,
} as const;
const EXPONENT = 0x7fff;
const QUIET = 1n << 62n;
/** Default NaN (SDM vol. 1, table 4-3: QNaN floating-point indefinite). */
export const INDEFINITE_M = TOP_BIT | QUIET;
export const INDEFINITE_SE = 0xffff;

/** The common case: a normal number with no flags. */
export const isNormal = (m: I64, se: I32): I32 =>
  m.ltS(0).and(
    se
      .and(EXPONENT | Operand.DENORMAL | Operand.EMPTY)
      .sub(1)
      .ltU(EXPONENT - 1),
  );
const isNan = (m: I64, se: I32): I32 =>
  se
    .and(EXPONENT)
    .eq(EXPONENT)
    .and(m.gtU(i64(TOP_BIT)));
const isSignaling = (m: I64, se: I32): I32 => isNan(m, se).and(m.and(i64(QUIET)).eqz());
/** Unnormals, pseudo-infinities and pseudo-NaNs (SDM vol. 1, 8.2.2). */
const isUnsupported = (m: I64, se: I32): I32 => m.geS(0).and(se.and(EXPONENT).ne(0));

/** x of a normal number. */
const normalX = (se: I32): I32 => se.and(EXPONENT).shl(1).or(se.shrU(15).and(1));

export function setExponent(f: FunctionBuilder, cpu: I32, se: I32): void {
  f.store32(cpu, se, O.fpExp);
}

function returnIndefinite(f: FunctionBuilder, cpu: I32): void {
  setExponent(f, cpu, i32(INDEFINITE_SE));
  f.return(i64(INDEFINITE_M));
}

interface Unpacked {
  readonly m: I64;
  readonly x: I32;
  /** FpFlag.DE or 0. */
  readonly denormal: I32;
}

/** An operand that is neither NaN, unsupported nor empty. */
export function unpack80(f: FunctionBuilder, mIn: I64, se: I32): Unpacked {
  const m = f.local("i64");
  const x = f.local("i32");
  const denormal = f.local("i32");
  f.set(m, mIn);
  f.set(x, normalX(se));
  f.set(denormal, se.shrU(15).and(FpFlag.DE));
  f.if(se.and(EXPONENT).eqz().and(mIn.ne(0)), () => {
    // Denormal, or pseudo-denormal where the top bit is set: both have the exponent of the least normal number.
    f.set(denormal, i32(FpFlag.DE));
    const n = f.let(mIn.clz());
    f.set(m, mIn.shl(n));
    f.set(x, i32(1).sub(n.toI32()).shl(1).or(x.get.and(1)));
  });
  return { m: m.get, x: x.get, denormal: denormal.get };
}

/** The result where an operand is empty, unsupported or a NaN; one-operand instructions give it twice. */
const nanResult = sharedFunction(
  "f80_nan",
  ["i32", "i64", "i32", "i64", "i32"],
  "i64",
  (f, _use, cpu, am, ase, bm, bse) => {
    f.if(ase.or(bse).and(Operand.EMPTY), () => {
      raise(f, cpu, FpFlag.IE | FpFlag.SF);
      returnIndefinite(f, cpu);
    });
    f.if(isUnsupported(am, ase).or(isUnsupported(bm, bse)), () => {
      raise(f, cpu, FpFlag.IE);
      returnIndefinite(f, cpu);
    });
    const signalingA = f.let(isSignaling(am, ase));
    const signalingB = f.let(isSignaling(bm, bse));
    f.if(signalingA.or(signalingB), () => raise(f, cpu, FpFlag.IE));
    // SDM vol. 1, table 4-7: the quiet one of two NaNs, else the one with the larger significand, else the positive one.
    const takeB = f.local("i32");
    f.if(
      isNan(am, ase).and(isNan(bm, bse)),
      () => {
        f.if(
          signalingA.ne(signalingB),
          () => f.set(takeB, signalingA),
          () => f.set(takeB, bm.gtU(am).or(bm.eq(am).and(ase.shrU(15).and(1)))),
        );
      },
      () => f.set(takeB, isNan(bm, bse)),
    );
    setExponent(f, cpu, bse.select(takeB.get, ase).and(0xffff));
    f.return(bm.select(takeB.get, am).or(i64(QUIET)));
  },
);

const needsNanResult = (m: I64, se: I32): I32 =>
  se.and(Operand.EMPTY).or(isUnsupported(m, se)).or(isNan(m, se));

const BINARY = ["i32", "i64", "i32", "i64", "i32", "i32"] as const;

function binary(name: string, core: typeof coreAdd, flip = 0) {
  const slow = sharedFunction(`${name}_slow`, BINARY, "i64", (f, use, cpu, am, ase, bm, bse, control) => {
    f.if(needsNanResult(am, ase).or(needsNanResult(bm, bse)), () =>
      f.returnCall(use(nanResult), cpu, am, ase, bm, bse),
    );
    const a = unpack80(f, am, ase);
    const b = unpack80(f, bm, bse);
    // Division by zero comes before a denormal dividend (SDM vol. 1, 4.9.2).
    const seen = core === coreDiv ? b.m.ne(0) : i32(1);
    raise(f, cpu, a.denormal.or(b.denormal).and(i32(0).sub(seen)));
    f.returnCall(use(core), cpu, a.m, a.x, b.m, b.x.xor(flip), control);
  });
  return sharedFunction(name, BINARY, "i64", (f, use, cpu, am, ase, bm, bse, control) => {
    f.if(isNormal(am, ase).and(isNormal(bm, bse)), () =>
      f.returnCall(use(core), cpu, am, normalX(ase), bm, normalX(bse).xor(flip), control),
    );
    f.returnCall(use(slow), cpu, am, ase, bm, bse, control);
  });
}

export const f80Add = binary("f80_add", coreAdd);
export const f80Sub = binary("f80_sub", coreAdd, 1);
export const f80Mul = binary("f80_mul", coreMul);
export const f80Div = binary("f80_div", coreDiv);

const UNARY = ["i32", "i64", "i32", "i32"] as const;

export const f80Sqrt = sharedFunction("f80_sqrt", UNARY, "i64", (f, use, cpu, m, se, control) => {
  f.if(needsNanResult(m, se), () => f.returnCall(use(nanResult), cpu, m, se, m, se));
  const u = unpack80(f, m, se);
  raise(f, cpu, u.denormal.and(u.x.and(1).sub(1)));
  f.returnCall(use(coreSqrt), cpu, u.m, u.x, control);
});

/** FRNDINT: the precision control does not apply. */
export const f80RoundInt = sharedFunction("f80_round_int", UNARY, "i64", (f, use, cpu, m, se, control) => {
  f.if(needsNanResult(m, se), () => f.returnCall(use(nanResult), cpu, m, se, m, se));
  const u = unpack80(f, m, se);
  raise(f, cpu, u.denormal);
  f.returnCall(use(coreRoundInt), cpu, u.m, u.x, withTarget(control, Target.F80));
});

/** `Relation` of two numbers; any NaN is invalid, or with `quiet` only a signaling one (FCOM, FUCOM). */
export const f80Compare = sharedFunction(
  "f80_compare",
  BINARY,
  "i32",
  (f, use, cpu, am, ase, bm, bse, quiet) => {
    f.if(needsNanResult(am, ase).or(needsNanResult(bm, bse)), () => {
      const empty = ase.or(bse).and(Operand.EMPTY).ne(0);
      const bad = f.let(
        isUnsupported(am, ase).or(isUnsupported(bm, bse)).or(isSignaling(am, ase)).or(isSignaling(bm, bse)),
      );
      f.if(
        empty,
        () => raise(f, cpu, FpFlag.IE | FpFlag.SF),
        () => f.if(quiet.eqz().or(bad), () => raise(f, cpu, FpFlag.IE)),
      );
      f.return(i32(Relation.UNORDERED));
    });
    const a = unpack80(f, am, ase);
    const b = unpack80(f, bm, bse);
    raise(f, cpu, a.denormal.or(b.denormal));
    f.returnCall(use(coreCompare), a.m, a.x, b.m, b.x);
  },
);

/** FIST: to a signed integer of 16, 32 or 64 bits, sign-extended. */
export const f80ToInt = sharedFunction(
  "f80_to_int",
  ["i32", "i64", "i32", "i32", "i32"],
  "i64",
  (f, use, cpu, m, se, control, bits) => {
    f.if(needsNanResult(m, se), () => {
      raise(f, cpu, i32(FpFlag.IE).or(i32(FpFlag.SF).select(se.and(Operand.EMPTY), 0)));
      f.return(i64(-1).shl(bits.sub(1).toI64U()));
    });
    const u = unpack80(f, m, se);
    f.returnCall(use(coreToInt), cpu, u.m, u.x, control, bits);
  },
);

/** A signed integer, exact. */
export const f80FromInt = sharedFunction("f80_from_int", ["i32", "i64"], "i64", (f, use, cpu, value) => {
  f.returnCall(use(coreFromInt), cpu, value, i32(EXACT_F80));
});

interface Narrow {
  readonly name: string;
  readonly target: number;
  readonly fraction: number;
  readonly exponentMax: number;
  readonly bias: number;
  readonly sign: number;
}
const NARROW32: Narrow = {
  name: "f32",
  target: Target.F32,
  fraction: 23,
  exponentMax: 0xff,
  bias: 127,
  sign: 31,
};
const NARROW64: Narrow = {
  name: "f64",
  target: Target.F64,
  fraction: 52,
  exponentMax: 0x7ff,
  bias: 1023,
  sign: 63,
};

/** FST m32fp, m64fp: bits of the narrower format. */
function narrowing({ name, target, fraction, exponentMax, sign }: Narrow) {
  return sharedFunction(`f80_to_${name}`, UNARY, "i64", (f, use, cpu, mIn, seIn, control) => {
    const m = f.local("i64");
    const se = f.local("i32");
    f.set(m, mIn);
    f.set(se, seIn);
    f.if(needsNanResult(mIn, seIn), () => {
      f.set(m, f.call(use(nanResult), cpu, mIn, seIn, mIn, seIn));
      f.set(se, load32(cpu, O.fpExp));
      const payload = m.get.shl(1).shrU(64 - fraction);
      const exponent = i64(BigInt(exponentMax) << BigInt(fraction));
      f.return(se.get.shrU(15).toI64U().shl(sign).or(exponent).or(payload));
    });
    const u = unpack80(f, m.get, se.get);
    const result = f.let(f.call(use(corePack), cpu, u.m, u.x, withTarget(control, target)));
    // An overflow or underflow that is not masked keeps the number from being stored, and so from being inexact.
    const flags = f.let(load32(cpu, O.fpFlags));
    const masked = control.shrU(Mxcsr.MASK_SHIFT);
    f.if(flags.and(masked.not()).and(FpFlag.OE | FpFlag.UE), () =>
      f.store32(cpu, flags.and(~FpFlag.PE), O.fpFlags),
    );
    f.return(result);
  });
}
export const f80ToF32 = narrowing(NARROW32);
export const f80ToF64 = narrowing(NARROW64);

/**
 * The operand that an f32 or f64 in memory is: exact, no exceptions; NaNs keep their kind; fpExp has Operand.DENORMAL
 * where it was denormal.
 */
function widening({ name, fraction, exponentMax, bias, sign }: Narrow) {
  return sharedFunction(`f80_from_${name}`, ["i32", "i64"], "i64", (f, _use, cpu, bits) => {
    const field = f.let(bits.shrU(fraction).toI32().and(exponentMax));
    const signBit = f.let(bits.shrU(sign).toI32().and(1).shl(15));
    const m = f.let(bits.shl(63 - fraction).or(i64(TOP_BIT)));
    f.if(field.sub(1).ltU(exponentMax - 1), () => {
      setExponent(f, cpu, field.add(BIAS80 - bias).or(signBit));
      f.return(m);
    });
    f.if(field.ne(0), () => {
      setExponent(f, cpu, signBit.or(EXPONENT));
      f.return(m);
    });
    const low = f.let(m.shl(1));
    f.if(low.eqz(), () => {
      setExponent(f, cpu, signBit);
      f.return(i64(0));
    });
    const n = f.let(low.clz());
    setExponent(
      f,
      cpu,
      i32(BIAS80 - bias)
        .sub(n.toI32())
        .or(signBit)
        .or(Operand.DENORMAL),
    );
    f.return(low.shl(n));
  });
}
export const f80FromF32 = widening(NARROW32);
export const f80FromF64 = widening(NARROW64);

export type { Use };
export { INFINITE, isNan as isNan80, isUnsupported as isUnsupported80, nanResult as f80Nan, needsNanResult };
