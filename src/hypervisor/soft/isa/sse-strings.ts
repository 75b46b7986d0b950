/**
 * PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM (SDM vol. 2, 4.1).
 *
 * The imm8 control byte chooses element type, comparison, polarity and form of the output (4.1.1–4.1.6). A comparison
 * result is kept as a bit an element of the second operand.
 */

import { Gpr } from "../vcpu-state.js";
import { I32, type I64, type V128 } from "../wasm/expr.js";
import type { FunctionBuilder } from "../wasm/module.js";
import { bytes, fromI32, IOTA, selectVector, test, v, words, ZERO } from "../wasm/simd.js";
import type { Definition, InstrContext } from "./context.js";
import { sharedFunction } from "./shared-function.js";
import { imm8 } from "./vector-operands.js";

/** Fields of the control byte. */
const Control = {
  WORDS: 1 << 0,
  SIGNED: 1 << 1,
  AGGREGATION_SHIFT: 2,
  AGGREGATION: 3,
  NEGATE: 1 << 4,
  /** Negate only elements that are valid in the second operand. */
  MASKED: 1 << 5,
  /** Index of the last match and not of the first; a mask of elements and not of bits. */
  LAST_OR_ELEMENTS: 1 << 6,
} as const;

type Shape = "i8x16" | "i16x8";
const COUNT: Record<Shape, number> = { i8x16: 16, i16x8: 8 };

/** Element `n` of `a` in all elements. */
function broadcast(shape: Shape, a: V128, n: I32): V128 {
  if (shape === "i8x16") return v("i8x16.swizzle", a, v("i8x16.splat", n));
  return v("i8x16.swizzle", a, v("i8x16.add", v("i8x16.splat", n.shl(1)), words(0x0100)));
}

const lowBits = (count: I32): I32 => I32.const(1).shl(count).sub(1);

/** Comparisons of all elements with each other, aggregated (4.1.3): a bit an element of `b`. */
function aggregate(
  f: FunctionBuilder,
  shape: Shape,
  aIn: V128,
  bIn: V128,
  aLength: I32,
  bLength: I32,
  control: I32,
): I32 {
  const count = COUNT[shape];
  const all = (1 << count) - 1;
  const bitmask = (x: V128): I32 => test(`${shape}.bitmask`, x);
  const result = f.local("i32");
  const i = f.local("i32");
  const aValid = f.let(lowBits(aLength));
  const bValid = f.let(lowBits(bLength));
  /** For i from 0 in steps of `step` while i + step ≤ the length of a. */
  const forElements = (step: 1 | 2, body: () => void): void => {
    f.set(i, I32.const(0));
    f.block((end) => {
      f.loop((again) => {
        f.brIf(end, i.get.add(step).gtU(aLength));
        body();
        f.set(i, i.get.add(step));
        f.br(again);
      });
    });
  };
  const equals = (): I32 => bitmask(v(`${shape}.eq`, bIn, broadcast(shape, aIn, i.get))).and(bValid);

  const equalAny = () => {
    f.set(result, I32.const(0));
    forElements(1, () => f.set(result, result.get.or(equals())));
  };
  const ranges = () => {
    // Unsigned elements are compared as signed ones with the top bit flipped.
    const top = shape === "i8x16" ? bytes(0x80) : words(0x8000);
    const flip = selectVector(control.and(Control.SIGNED), ZERO, top);
    const a = f.let(v("v128.xor", aIn, flip));
    const b = f.let(v("v128.xor", bIn, flip));
    f.set(result, I32.const(0));
    forElements(2, () => {
      const inside = v(
        "v128.and",
        v(`${shape}.ge_s`, b, broadcast(shape, a, i.get)),
        v(`${shape}.le_s`, b, broadcast(shape, a, i.get.add(1))),
      );
      f.set(result, result.get.or(bitmask(inside).and(bValid)));
    });
  };
  const equalEach = () => {
    const bothValid = bitmask(v(`${shape}.eq`, aIn, bIn))
      .and(aValid)
      .and(bValid);
    f.set(result, bothValid.or(aValid.or(bValid).xor(all)));
  };
  const equalOrdered = () => {
    f.set(result, I32.const(all));
    // Element i of a against element j + i of b, for all j; past the end of b's register nothing is compared.
    forElements(1, () => {
      const beyond = lowBits(I32.const(count).sub(i.get)).not();
      f.set(result, result.get.and(equals().shrU(i.get).or(beyond)));
    });
  };
  const kind = control.shrU(Control.AGGREGATION_SHIFT).and(Control.AGGREGATION);
  f.switch(kind, [equalAny, ranges, equalEach], equalOrdered);

  // Polarity (4.1.4).
  f.if(control.and(Control.NEGATE), () => {
    const negated = bValid.select(control.and(Control.MASKED), I32.const(all));
    f.set(result, result.get.xor(negated));
  });
  return result.get;
}

const aggregateShared = (shape: Shape) =>
  sharedFunction(
    `pcmpstr_${shape}`,
    ["v128", "v128", "i32", "i32", "i32"] as const,
    "i32",
    (f, _use, a, b, aLength, bLength, control) =>
      f.return(aggregate(f, shape, a, b, aLength, bLength, control)),
  );
const AGGREGATE = { i8x16: aggregateShared("i8x16"), i16x8: aggregateShared("i16x8") };

/** Elements before the first zero. */
function implicitLength(x: InstrContext, a: V128, isWords: I32): I32 {
  const zeros = (shape: Shape): I32 =>
    test(`${shape}.bitmask`, v(`${shape}.eq`, a, ZERO))
      .or(1 << COUNT[shape])
      .ctz();
  return x.f.let(zeros("i16x8").select(isWords, zeros("i8x16")));
}

/** Magnitude of EAX or EDX (RAX, RDX with REX.W), at most `count`. */
function explicitLength(x: InstrContext, register: number, count: I32): I32 {
  const { f } = x;
  const wide = x.size === 8;
  const value = f.let(wide ? x.gpr(register, 8) : x.gpr(register, 4).toI64S());
  const magnitude = f.let((value as I64).neg().select(value.ltS(0), value as I64));
  return f.let(count.select(magnitude.gtU(count.toI64U()), magnitude.toI32()));
}

const compareStrings =
  (explicit: boolean, output: "index" | "mask"): Definition =>
  (x) => {
    x.requireSse();
    const { f } = x;
    const b = x.readVector(1);
    const a = x.readVector(0);
    const control = imm8(x);
    const isWords = f.let(control.and(Control.WORDS));
    const count = f.let(I32.const(COUNT.i8x16).shrU(isWords));
    const aLength = explicit ? explicitLength(x, Gpr.RAX, count) : implicitLength(x, a, isWords);
    const bLength = explicit ? explicitLength(x, Gpr.RDX, count) : implicitLength(x, b, isWords);
    const result = f.local("i32");
    const compute = (shape: Shape) => () =>
      f.set(result, f.call(x.shared(AGGREGATE[shape]), a, b, aLength, bLength, control));
    f.if(isWords, compute("i16x8"), compute("i8x16"));
    const matches = result.get;

    const lastOrElements = control.and(Control.LAST_OR_ELEMENTS);
    if (output === "index") {
      const last = I32.const(31).sub(matches.clz());
      const index = last.select(lastOrElements, matches.ctz());
      x.setGpr(Gpr.RCX, f.let(index.select(matches, count)), 4);
    } else {
      x.setXmm(0, selectVector(lastOrElements, elementMask(matches, isWords), fromI32(matches)));
    }
    x.setFlags({
      cf: matches.ne(0),
      of: matches.and(1),
      af: I32.const(0),
      // ZF and SF: the second and the first operand end before their last element. PF is cleared.
      zero: bLength.ltU(count).xor(1).toI64U(),
      signParity: aLength.ltU(count).toI64U().shl(63).or(1),
    });
  };

/** All ones in the elements whose bit is set. */
function elementMask(bits: I32, isWords: I32): V128 {
  const wordBits = words(1, 2, 4, 8, 16, 32, 64, 128);
  const byteBits = bytes(1, 2, 4, 8, 16, 32, 64, 128);
  const splat = v("i16x8.splat", bits);
  // Byte i looks at bit i % 8 of byte i / 8 of the bits.
  const spread = v("i8x16.swizzle", splat, v("i8x16.shr_u", IOTA, I32.const(3)));
  return selectVector(
    isWords,
    v("i16x8.eq", v("v128.and", splat, wordBits), wordBits),
    v("i8x16.eq", v("v128.and", spread, byteBits), byteBits),
  );
}

export const pcmpestri = compareStrings(true, "index");
export const pcmpestrm = compareStrings(true, "mask");
export const pcmpistri = compareStrings(false, "index");
export const pcmpistrm = compareStrings(false, "mask");
