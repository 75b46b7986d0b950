/** Binary arithmetic and logic (SDM vol. 1, 7.3.2, 7.3.3, 7.3.4). */

import { Vector } from "../vcpu-state.js";
import { choose, type I32, I64, type Int } from "../wasm/expr.js";
import { type Definition, type InstrContext, LaterFlags, type SharedFunction } from "./context.js";
import {
  constant,
  flagsAdc,
  flagsAdd,
  flagsLogic,
  flagsSbb,
  flagsSub,
  resize,
  signBit,
  signed,
  truncate,
} from "./flags.js";

type SetFlags = (x: InstrContext, a: Int, b: Int, r: Int) => void;

function binary(compute: (a: Int, b: Int) => Int, flags: SetFlags): Definition {
  return (x) => {
    const b = x.read(1);
    const [a, r] = x.update(0, (old) => truncate(compute(old, b), x.size));
    flags(x, a, b, r);
  };
}

export const add = binary((a, b) => a.add(b), flagsAdd);
export const sub = binary((a, b) => a.sub(b), flagsSub);
export const and = binary(
  (a, b) => a.and(b),
  (x, _a, _b, r) => flagsLogic(x, r),
);
export const or = binary(
  (a, b) => a.or(b),
  (x, _a, _b, r) => flagsLogic(x, r),
);
export const xor = binary(
  (a, b) => a.xor(b),
  (x, _a, _b, r) => flagsLogic(x, r),
);

const carryIn = (x: InstrContext): Int => (x.size === 8 ? x.flag("cf").toI64U() : x.flag("cf"));

export const adc: Definition = (x) => {
  const b = x.read(1);
  const carry = x.f.let(carryIn(x));
  const [a, r] = x.update(0, (old) => truncate(old.add(b).add(carry), x.size));
  flagsAdc(x, a, b, r);
};

export const sbb: Definition = (x) => {
  const b = x.read(1);
  const borrow = x.f.let(carryIn(x));
  const [a, r] = x.update(0, (old) => truncate(old.sub(b).sub(borrow), x.size));
  flagsSbb(x, a, b, r);
};

export const cmp: Definition = (x) => {
  const a = x.read(0);
  const b = x.read(1);
  flagsSub(x, a, b, x.f.let(truncate(a.sub(b), x.size)));
};

export const test: Definition = (x) => {
  const a = x.read(0);
  const b = x.read(1);
  flagsLogic(x, x.f.let(a.and(b)));
};

function addConstant(delta: 1 | -1): Definition {
  return (x) => {
    const [a, r] = x.update(0, (old) => truncate(old.add(delta), x.size));
    const turned = delta === 1 ? r.and(a.not()) : a.and(r.not());
    x.setFlags({ of: signBit(turned, x.size), af: a.xor(r), result: r });
  };
}
export const inc = addConstant(1);
export const dec = addConstant(-1);

export const neg: Definition = (x) => {
  const [a, r] = x.update(0, (old) => truncate(old.neg(), x.size));
  x.setFlags({ cf: a.eqz().eqz(), of: signBit(a.and(r), x.size), af: a.xor(r), result: r });
};

export const not: Definition = (x) => {
  x.update(0, (old) => truncate(old.not(), x.size));
};

export const xadd: Definition = (x) => {
  const b = x.read(1);
  const [a, r] = x.update(0, (old) => truncate(old.add(b), x.size));
  // Both operands may be the same register: the sum is what stays (SDM vol. 2, XADD).
  x.write(1, a);
  if (x.operands[0].kind === "reg") x.write(0, r);
  flagsAdd(x, a, b, r);
};

export const cmpxchg: Definition = (x) => {
  const source = x.read(1);
  const accumulator = x.gpr(0, x.size);
  let old: Int;
  if (x.operands[0].kind === "reg") {
    // A register that differs is not written at all: a 32-bit one keeps its upper half.
    old = x.read(0);
    x.f.if(old.eq(accumulator), () => x.write(0, source));
  } else [old] = x.update(0, (value) => choose(value.eq(accumulator), source, value));
  // Written only where they differ, so that a 32-bit compare that succeeds keeps RAX's upper half.
  x.f.if(old.ne(accumulator), () => x.setGpr(0, old, x.size));
  flagsSub(x, accumulator, old, x.f.let(truncate(accumulator.sub(old), x.size)));
};

export const cmpxchg8b: Definition = (x) => {
  const pair = (high: number, low: number): I64 =>
    x.f.let(x.gpr(high, 4).toI64U().shl(32).or(x.gpr(low, 4).toI64U()));
  const expected = pair(2, 0);
  const replacement = pair(1, 3);
  const [old] = x.update(0, (value) => choose(value.eq(expected), replacement, value));
  const found = old as I64;
  x.f.if(found.ne(expected), () => {
    x.setGpr(0, found.toI32(), 4);
    x.setGpr(2, found.shrU(32).toI32(), 4);
  });
  x.setFlags({ zero: found.xor(expected) });
};

export const cmpxchg16b: Definition = (x) => {
  const address = x.address(0);
  x.faultIf(address.toI32().and(15), Vector.GP, 0);
  const [expectedLow, expectedHigh] = [x.gpr(0) as I64, x.gpr(2) as I64];
  const differs = (low: I64, high: I64) => low.xor(expectedLow).or(high.xor(expectedHigh));
  const [low, high] = x.updatePair(address, (oldLow, oldHigh) => {
    const equal = x.f.let(differs(oldLow, oldHigh).eqz());
    return [choose(equal, x.gpr(3), oldLow) as I64, choose(equal, x.gpr(1), oldHigh) as I64];
  });
  const difference = x.f.let(differs(low, high));
  const equal = difference.eqz();
  x.f.if(equal.eqz(), () => {
    x.setGpr(0, low);
    x.setGpr(2, high);
  });
  x.setFlags({ zero: difference });
};

/** High 64 bits of the unsigned 128-bit product. */
const mulHighU: SharedFunction<readonly ["i64", "i64"], "i64"> = {
  name: "mulHighU",
  params: ["i64", "i64"],
  result: "i64",
  body: (f) => {
    const [a, b] = f.params.map((p) => p.get as I64);
    const low = (v: I64) => v.and(I64.const(0xffffffff));
    const [al, ah, bl, bh] = [low(a), a.shrU(32), low(b), b.shrU(32)].map((v) => f.let(v));
    const t = f.let(ah.mul(bl).add(al.mul(bl).shrU(32)));
    const u = f.let(al.mul(bh).add(low(t)));
    f.return(ah.mul(bh).add(t.shrU(32)).add(u.shrU(32)));
  },
};

function mulHigh(x: InstrContext, a: I64, b: I64, isSigned: boolean): I64 {
  const high = x.f.call(x.shared(mulHighU), a, b);
  if (!isSigned) return x.f.let(high);
  return x.f.let(high.sub(a.shrS(63).and(b)).sub(b.shrS(63).and(a)));
}

interface Product {
  readonly low: Int;
  /** What is above `low`; bits above the operand size count for nothing. */
  readonly high: () => Int;
  /** Whether the product is more than `low`. */
  readonly overflows: () => I32;
}

function multiply(x: InstrContext, a: Int, b: Int, isSigned: boolean): Product {
  const { f, size } = x;
  if (size === 8) {
    const low = f.let((a as I64).mul(b));
    let high: I64 | undefined;
    const upper = () => {
      high ??= mulHigh(x, a as I64, b as I64, isSigned);
      return high;
    };
    return { low, high: upper, overflows: () => upper().ne(isSigned ? low.shrS(63) : 0) };
  }
  const wide = (v: Int) => (isSigned ? signed(v, size).toI64S() : v.toI64U());
  const product = f.let(wide(a).mul(wide(b)));
  const low = f.let(truncate(product.toI32(), size));
  return { low, high: () => product.shrU(8 * size).toI32(), overflows: () => product.ne(wide(low)) };
}

/** CF and OF of a product. */
function setOverflow(x: InstrContext, { overflows }: Product): void {
  const overflow = x.f.let(overflows());
  x.setFlags({ cf: overflow, of: overflow });
}

export function flagsProduct(x: InstrContext, a: Int, b: Int, isSigned: boolean): void {
  setOverflow(x, multiply(x, a, b, isSigned));
}

function setProductFlags(x: InstrContext, a: Int, b: Int, product: Product, isSigned: boolean): void {
  const kind = isSigned ? LaterFlags.PRODUCT : LaterFlags.PRODUCT_UNSIGNED;
  if (x.leavesFlags) x.setFlags({ result: product.low, later: { kind, a, b, size: x.size } });
  else setOverflow(x, product);
}

/** MUL and IMUL with one operand: the accumulator's double-width product. */
function multiplyAccumulator(isSigned: boolean): Definition {
  return (x) => {
    const source = x.read(0);
    const a = x.gpr(0, x.size);
    const product = multiply(x, a, source, isSigned);
    const { low, high } = product;
    if (x.size === 1) x.setGpr(0, low.or(high().shl(8)), 2);
    else {
      const upper = high();
      x.setGpr(0, low, x.size);
      x.setGpr(2, upper, x.size);
    }
    setProductFlags(x, a, source, product, isSigned);
  };
}
export const mul = multiplyAccumulator(false);
export const imul1 = multiplyAccumulator(true);

/** IMUL with two or three operands: the last two are the factors. */
export const imul: Definition = (x) => {
  const count = x.operands.length;
  const a = x.read(count - 2);
  const b = x.read(count - 1);
  const product = multiply(x, a, b, true);
  x.write(0, product.low);
  setProductFlags(x, a, b, product, true);
};

/** Quotient of high:low / divisor, where high < divisor: long division, bit by bit unless high is 0. */
const divide128: SharedFunction<readonly ["i64", "i64", "i64"], "i64"> = {
  name: "divide128",
  params: ["i64", "i64", "i64"],
  result: "i64",
  body: (f) => {
    const [highIn, lowIn, divisor] = f.params.map((p) => p.get as I64);
    f.if(highIn.eqz(), () => f.return(lowIn.divU(divisor)));
    const [rest, low, count] = [f.local("i64"), f.local("i64"), f.local("i32")];
    f.set(rest, highIn);
    f.set(low, lowIn);
    f.loop((again) => {
      const carry = f.let(rest.get.shrU(63).toI32());
      f.set(rest, rest.get.shl(1).or(low.get.shrU(63)));
      f.set(low, low.get.shl(1));
      f.if(carry.or(rest.get.geU(divisor)), () => {
        f.set(rest, rest.get.sub(divisor));
        f.set(low, low.get.or(1));
      });
      f.set(count, count.get.add(1));
      f.brIf(again, count.get.ltU(64));
    });
    f.return(low.get);
  },
};

export const div: Definition = (x) => {
  const divisor = x.read(0);
  x.faultIf(divisor.eqz(), Vector.DE);
  if (x.size === 8) {
    const high = x.gpr(2) as I64;
    const low = x.gpr(0) as I64;
    x.faultIf(high.geU(divisor), Vector.DE);
    const quotient = x.f.let(x.f.call(x.shared(divide128), high, low, divisor as I64));
    x.setGpr(0, quotient);
    x.setGpr(2, low.sub(quotient.mul(divisor)));
    return;
  }
  const dividend = x.f.let(doubleAccumulator(x));
  const d = x.f.let(divisor.toI64U());
  const quotient = x.f.let(dividend.divU(d));
  x.faultIf(quotient.shrU(8 * x.size).ne(0), Vector.DE);
  setQuotient(x, quotient, x.f.let(dividend.remU(d)));
};

export const idiv: Definition = (x) => {
  const divisor = x.read(0);
  x.faultIf(divisor.eqz(), Vector.DE);
  if (x.size === 8) {
    idiv64(x, divisor as I64);
    return;
  }
  const bits = 8 * x.size;
  const dividend = x.f.let(
    doubleAccumulator(x)
      .shl(64 - 2 * bits)
      .shrS(64 - 2 * bits),
  );
  const d = x.f.let(signed(divisor, x.size).toI64S());
  // The one quotient that wasm's division does not have.
  x.faultIf(dividend.eq(I64.const(-(1n << 63n))).and(d.eq(-1)), Vector.DE);
  const quotient = x.f.let(dividend.divS(d));
  x.faultIf(quotient.ne(quotient.shl(64 - bits).shrS(64 - bits)), Vector.DE);
  setQuotient(x, quotient, x.f.let(dividend.remS(d)));
};

function idiv64(x: InstrContext, divisor: I64): void {
  const { f } = x;
  const [highIn, lowIn] = [x.gpr(2) as I64, x.gpr(0) as I64];
  const negative = f.let(highIn.ltS(0));
  const low = f.let(lowIn.neg().select(negative, lowIn));
  const high = f.let(highIn.not().add(lowIn.eqz().toI64U()).select(negative, highIn));
  const d = f.let(divisor.neg().select(divisor.ltS(0), divisor));
  x.faultIf(high.geU(d), Vector.DE);
  const quotient = f.let(f.call(x.shared(divide128), high, low, d));
  const remainder = f.let(low.sub(quotient.mul(d)));
  const negativeQuotient = f.let(highIn.xor(divisor).ltS(0));
  // |quotient| may be 2^63 only where the quotient is negative.
  x.faultIf(quotient.gtU(I64.const((1n << 63n) - 1n).add(negativeQuotient.toI64U())), Vector.DE);
  x.setGpr(0, quotient.neg().select(negativeQuotient, quotient));
  x.setGpr(2, remainder.neg().select(negative, remainder));
}

/** AX, DX:AX or EDX:EAX, zero-extended to 64 bits. */
function doubleAccumulator(x: InstrContext): I64 {
  if (x.size === 1) return x.gpr(0, 2).toI64U();
  return x
    .gpr(2, x.size)
    .toI64U()
    .shl(8 * x.size)
    .or(x.gpr(0, x.size).toI64U());
}

function setQuotient(x: InstrContext, quotient: I64, remainder: I64): void {
  if (x.size === 1) {
    x.setGpr(0, quotient.toI32().and(0xff).or(remainder.toI32().and(0xff).shl(8)), 2);
    return;
  }
  x.setGpr(0, quotient.toI32(), x.size);
  x.setGpr(2, remainder.toI32(), x.size);
}

// --- decimal adjustment (legacy modes only; SDM vol. 1, 7.3.4) ---

function decimalAdjust(sign: 1 | -1): Definition {
  return (x) => {
    const { f } = x;
    const al = x.gpr(0, 1);
    const cf = x.flag("cf");
    const low = f.let(al.and(15).gtU(9).or(x.flag("af")));
    const high = f.let(al.gtU(0x99).or(cf));
    const adjusted = al.add(low.mul(6 * sign)).add(high.mul(0x60 * sign));
    const r = f.let(adjusted.and(0xff));
    // DAS also sets CF where subtracting 6 borrows.
    const carry = sign === 1 ? high : f.let(high.or(low.and(al.toI32().ltU(6))));
    x.setGpr(0, r, 1);
    x.setFlags({ cf: carry, af: low.shl(4), zero: r.toI64U().extend8S(), signParity: r.toI64U().extend8S() });
  };
}
export const daa = decimalAdjust(1);
export const das = decimalAdjust(-1);

function asciiAdjust(sign: 1 | -1): Definition {
  return (x) => {
    const { f } = x;
    const ax = x.gpr(0, 2);
    const adjust = f.let(ax.and(15).gtU(9).or(x.flag("af")));
    x.setGpr(0, ax.add(adjust.mul(0x106 * sign)).and(0xff0f), 2);
    x.setFlags({ cf: adjust, af: adjust.shl(4) });
  };
}
export const aaa = asciiAdjust(1);
export const aas = asciiAdjust(-1);

export const aam: Definition = (x) => {
  const base = x.read(0);
  x.faultIf(base.eqz(), Vector.DE);
  const al = x.gpr(0, 1);
  const low = x.f.let(al.remU(base));
  x.setGpr(0, al.divU(base).shl(8).or(low), 2);
  const wide = x.f.let(low.toI64U().extend8S());
  x.setFlags({ zero: wide, signParity: wide });
};

export const aad: Definition = (x) => {
  const base = x.read(0);
  const ax = x.gpr(0, 2);
  const r = x.f.let(ax.shrU(8).mul(base).add(ax).and(0xff));
  x.setGpr(0, r, 2);
  const wide = x.f.let(r.toI64U().extend8S());
  x.setFlags({ zero: wide, signParity: wide });
};

/** CBW, CWDE, CDQE. */
export const convertAccumulator: Definition = (x) => {
  const half = (x.size / 2) as 1 | 2 | 4;
  const value = signed(x.gpr(0, half), half);
  x.setGpr(0, x.size === 8 ? value.toI64S() : value, x.size);
};

/** CWD, CDQ, CQO. */
export const signAccumulator: Definition = (x) => {
  const value = signed(x.gpr(0, x.size), x.size);
  x.setGpr(2, value.shrS(x.size === 8 ? 63 : 31), x.size);
};

export { constant, resize };
