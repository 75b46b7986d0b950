/** Shifts, rotates and single-bit operations (SDM vol. 1, 7.3.6). */
import { choose, I32, I64, type Int } from "../wasm/expr.js";
import { type Definition, type InstrContext, LaterFlags } from "./context.js";
import { signBit, signed, truncate } from "./flags.js";

/** The masked shift count in the operand's type (SDM vol. 2, SAL/SAR/SHL/SHR). */
function shiftCount(x: InstrContext, operand: number): Int {
  const raw = x.operands[operand].kind === "none" ? I32.const(1) : x.read(operand).toI32();
  const count = x.f.let(raw.and(x.size === 8 ? 63 : 31));
  return x.size === 8 ? x.f.let(count.toI64U()) : count;
}

interface Shifted {
  result: Int;
  cf: Int;
  of: Int;
  /** Rotates leave SF, ZF, AF and PF alone. */
  rotate?: boolean;
}

/** Set flags where `count` is not zero; a count that is known decides here. */
function whereNotZero(x: InstrContext, count: Int, set: () => void): void {
  if (count.constant === undefined) {
    x.settleFlags();
    x.f.if(count.eqz().eqz(), set);
  } else if (count.constant !== 0n) set();
}

type Compute = (x: InstrContext, a: Int, count: Int) => Shifted;

/** `compute` gives result and flags for a count that is not zero; a count of zero changes no flag. */
function shift(compute: Compute, later?: ShiftFlags): Definition {
  return (x) => {
    const count = shiftCount(x, 1);
    const [a, r] = x.update(0, (old) => {
      if (count.constant === 0n) return old;
      const { result } = compute(x, x.f.let(old), count);
      const shifted = truncate(result, x.size);
      return count.constant === undefined ? choose(count.eqz(), old, shifted) : shifted;
    });
    const left = later === undefined ? undefined : { kind: later, a, b: count, size: x.size };
    if (left !== undefined && x.leavesFlags && count.constant === undefined) {
      x.f.if(count.eqz().eqz(), () => x.setFlags({ result: r, later: left }));
      return;
    }
    whereNotZero(x, count, () => {
      const { cf, of, rotate } = compute(x, a, count);
      const all = { cf, of, af: I32.const(0), result: r };
      x.setFlags(rotate ? { cf, of } : left === undefined ? all : { ...all, later: left });
    });
  };
}

/** Flags of a shift by a count that is not zero. */
export function flagsShift(x: InstrContext, kind: ShiftFlags, a: Int, count: Int, r: Int): void {
  const { cf, of } = SHIFTS[kind](x, a, count);
  x.setFlags({ cf, of, af: I32.const(0), result: r });
}

const bits = (x: InstrContext) => 8 * x.size;
const wide = (v: Int) => v.toI64U();

const shiftLeft: Compute = (x, a, count) => {
  if (x.size === 8) {
    const result = x.f.let(a.shl(count));
    const cf = x.f.let(a.shrU(count.like(64).sub(count)).and(1));
    return { result, cf, of: signBit(result, 8).xor(cf) };
  }
  const t = x.f.let(wide(a).shl(wide(count)));
  const cf = x.f.let(t.shrU(bits(x)).toI32().and(1));
  const result = x.f.let(truncate(t.toI32(), x.size));
  return { result, cf, of: signBit(result, x.size).xor(cf) };
};

const shiftRight: Compute = (x, a, count) => ({
  result: x.f.let(a.shrU(count)),
  cf: a.shrU(count.sub(1)).and(1),
  of: signBit(a, x.size),
});

const shiftRightSigned: Compute = (x, a, count) => {
  const value = x.f.let(signed(a, x.size));
  return { result: x.f.let(value.shrS(count)), cf: value.shrS(count.sub(1)).and(1), of: I32.const(0) };
};

type ShiftFlags = typeof LaterFlags.SHL | typeof LaterFlags.SHR | typeof LaterFlags.SAR;
const SHIFTS: Record<ShiftFlags, Compute> = {
  [LaterFlags.SHL]: shiftLeft,
  [LaterFlags.SHR]: shiftRight,
  [LaterFlags.SAR]: shiftRightSigned,
};

export const shl = shift(shiftLeft, LaterFlags.SHL);
export const shr = shift(shiftRight, LaterFlags.SHR);
export const sar = shift(shiftRightSigned, LaterFlags.SAR);

/** Rotate left by `n` (0 to 31 or 63) within the operand's width. */
function rotateLeft(x: InstrContext, a: Int, n: Int): Int {
  if (x.size >= 4) return a.rotl(n);
  const by = x.f.let(n.and(bits(x) - 1));
  return a.shl(by).or(a.shrU(by.like(bits(x)).sub(by)));
}

export const rol = shift((x, a, count) => {
  const result = x.f.let(truncate(rotateLeft(x, a, count), x.size));
  const cf = x.f.let(result.and(1));
  return { result, cf, of: signBit(result, x.size).xor(cf), rotate: true };
});

export const ror = shift((x, a, count) => {
  const result = x.f.let(
    truncate(
      rotateLeft(
        x,
        a,
        count
          .like(0)
          .sub(count)
          .and(bits(x) - 1),
      ),
      x.size,
    ),
  );
  const cf = x.f.let(signBit(result, x.size));
  return {
    result,
    cf,
    of: result
      .shrU(bits(x) - 2)
      .and(1)
      .xor(cf),
    rotate: true,
  };
});

/** RCL and RCR turn the operand and CF as one number of width + 1 bits. */
function rotateThroughCarry(left: boolean): Definition {
  return (x) => {
    const { f } = x;
    const width = bits(x);
    const masked = f.let(shiftCount(x, 1).toI32());
    const n = x.size >= 4 ? masked : f.let(masked.remU(width + 1));
    const carry = x.flag("cf");
    const cfOut = f.temporary("i32");
    const turn = (old: Int): Int => {
      if (x.size === 8) {
        const a = old as I64;
        const [by, c] = [f.let(n.toI64U()), f.let(carry.toI64U())];
        const rest = f.let(I64.const(64).sub(by));
        const result = left
          ? a
              .shl(by)
              .or(c.shl(by.sub(1)))
              .or(a.shrU(1).shrU(rest))
          : a.shrU(by).or(c.shl(rest)).or(a.shl(1).shl(rest));
        const out = left ? a.shrU(rest) : a.shrU(by.sub(1));
        f.set(cfOut, choose(n, out.toI32().and(1), carry) as I32);
        return choose(n, result, a);
      }
      const v = f.let(wide(old).or(carry.toI64U().shl(width)));
      const by = f.let((left ? n : I32.const(width + 1).sub(n)).toI64U());
      const t = f.let(v.shl(by).or(v.shrU(I64.const(width + 1).sub(by))));
      f.set(cfOut, t.shrU(width).toI32().and(1));
      return truncate(t.toI32(), x.size);
    };
    const [, r] = x.update(0, turn);
    whereNotZero(x, masked, () => {
      const of = left
        ? signBit(r, x.size).toI32().xor(cfOut.get)
        : signBit(r, x.size)
            .xor(r.shrU(width - 2).and(1))
            .toI32();
      x.setFlags({ cf: cfOut.get, of });
    });
  };
}
export const rcl = rotateThroughCarry(true);
export const rcr = rotateThroughCarry(false);

/** SHLD and SHRD: bits shifted in come from operand 1, the count is operand 2. */
function doubleShift(left: boolean): Definition {
  return (x) => {
    const { f } = x;
    const b = x.read(1);
    const count = shiftCount(x, 2);
    const width = bits(x);
    const compute = (a: Int): Int => {
      if (x.size === 2) {
        // Bits beyond 16 come from the destination again, as processors do it where the SDM leaves it undefined.
        const [a64, b64, n] = [wide(a), wide(b), wide(count)].map((v) => f.let(v));
        if (left) {
          const t = a64.shl(32).or(b64.shl(16)).or(a64);
          return truncate(t.shl(n).shrU(32).toI32(), 2);
        }
        return truncate(a64.shl(32).or(b64.shl(16)).or(a64).shrU(n).toI32(), 2);
      }
      const rest = count.like(width).sub(count);
      const shifted = left ? a.shl(count).or(b.shrU(rest)) : a.shrU(count).or(b.shl(rest));
      return shifted;
    };
    const [a, r] = x.update(0, (old) => choose(count.eqz(), old, compute(old)));
    whereNotZero(x, count, () => {
      const cf = left
        ? x.size === 2
          ? wide(a).shl(32).or(wide(b).shl(16)).or(wide(a)).shl(wide(count)).shrU(48).toI32().and(1)
          : a.shrU(count.like(width).sub(count)).and(1)
        : x.size === 2
          ? wide(a).shl(32).or(wide(b).shl(16)).or(wide(a)).shrU(wide(count).sub(1)).toI32().and(1)
          : a.shrU(count.sub(1)).and(1);
      x.setFlags({ cf, of: signBit(a.xor(r), x.size), af: I32.const(0), result: r });
    });
  };
}
export const shld = doubleShift(true);
export const shrd = doubleShift(false);

/**
 * BT, BTS, BTR, BTC: CF is the bit; `change` gives the new operand from the old and a mask. The address of a memory operand
 * already counts what a register index reaches beyond the operand (`bitOffset` in the opcode table).
 */
function bitTest(change: ((old: Int, mask: Int) => Int) | undefined): Definition {
  return (x) => {
    const index = x.read(1);
    const low = x.f.let(index.and(bits(x) - 1));
    const one = index.like(1);
    let old: Int;
    if (change === undefined) old = x.read(0);
    else [old] = x.update(0, (value) => truncate(change(value, one.shl(low)), x.size));
    x.setFlags({ cf: old.shrU(low).and(1) });
  };
}
export const bt = bitTest(undefined);
export const bts = bitTest((old, mask) => old.or(mask));
export const btr = bitTest((old, mask) => old.and(mask.not()));
export const btc = bitTest((old, mask) => old.xor(mask));

/** BSF, BSR: the destination keeps its value where the source is zero, as processors do. */
function bitScan(find: (x: InstrContext, value: Int) => Int): Definition {
  return (x) => {
    const value = x.read(1);
    x.f.if(value.eqz().eqz(), () => x.write(0, find(x, value)));
    x.setFlags({ zero: value.toI64U() });
  };
}
export const bsf = bitScan((_x, value) => value.ctz());
export const bsr = bitScan((_x, value) => value.clz().xor(value.type === "i64" ? 63 : 31));

export const popcnt: Definition = (x) => {
  const value = x.read(1);
  x.write(0, value.popcnt());
  const zero = x.f.let(value.toI64U());
  x.setFlags({ cf: I32.const(0), of: I32.const(0), af: I32.const(0), zero, signParity: I64.const(1) });
};
