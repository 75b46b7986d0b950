/** Packed decimal integers of 18 digits: FBLD and FBSTP (SDM vol. 1, 4.7 and figure 4-4). */

import { sharedFunction } from "../isa/shared-function.js";
import { O } from "../vcpu-state.js";
import { load32 } from "../wasm/expr.js";
import { EXACT_F80, FpFlag, raise } from "./control.js";
import { coreFromInt, coreToInt } from "./core-integer.js";
import { i32, i64 } from "./define.js";
import { needsNanResult, Operand, setExponent, unpack80 } from "./f80.js";

const MAXIMUM = 999_999_999_999_999_999n;
/** The packed BCD indefinite (SDM vol. 1, table 4-4): these upper two bytes, and 0xC000000000000000. */
export const BCD_INDEFINITE_HIGH = 0xffff;
const BCD_INDEFINITE_LOW = 0xc000000000000000n;

/** FBLD: the number in `low` (16 digits) and `high` (2 digits, and the sign in bit 15). Exact; digits above 9 are not checked. */
export const f80FromBcd = sharedFunction(
  "f80_from_bcd",
  ["i32", "i64", "i32"],
  "i64",
  (f, use, cpu, low, high) => {
    const value = f.local("i64");
    const digits = f.local("i64");
    const count = f.local("i32");
    f.set(value, high.shrU(4).and(15).mul(10).add(high.and(15)).toI64U());
    f.set(digits, low);
    f.set(count, i32(16));
    f.loop((start) => {
      f.set(value, value.get.mul(10).add(digits.get.shrU(60)));
      f.set(digits, digits.get.shl(4));
      f.set(count, count.get.sub(1));
      f.brIf(start, count.get);
    });
    const m = f.let(f.call(use(coreFromInt), cpu, value.get, i32(EXACT_F80)));
    // Zero has a sign, too.
    setExponent(f, cpu, load32(cpu, O.fpExp).or(high.and(0x8000)));
    f.return(m);
  },
);

/** FBSTP: the lower 16 digits; the upper two bytes are left in fpExp. */
export const f80ToBcd = sharedFunction(
  "f80_to_bcd",
  ["i32", "i64", "i32", "i32"],
  "i64",
  (f, use, cpu, m, se, control) => {
    f.block((invalid) => {
      f.if(needsNanResult(m, se), () => {
        raise(f, cpu, i32(FpFlag.SF).select(se.and(Operand.EMPTY), 0));
        f.br(invalid);
      });
      const u = unpack80(f, m, se);
      const before = f.let(load32(cpu, O.fpFlags));
      const rounded = f.let(f.call(use(coreToInt), cpu, u.m, u.x, control, i32(64)));
      const negative = f.let(u.x.and(1));
      const value = f.local("i64");
      f.set(value, rounded.neg().select(negative, rounded));
      f.if(value.get.gtU(i64(MAXIMUM)), () => {
        f.store32(cpu, before, O.fpFlags);
        f.br(invalid);
      });
      const low = f.local("i64");
      const count = f.local("i32");
      f.set(count, i32(16));
      f.loop((start) => {
        const quotient = f.let(value.get.divU(10));
        f.set(low, low.get.shrU(4).or(value.get.sub(quotient.mul(10)).shl(60)));
        f.set(value, quotient);
        f.set(count, count.get.sub(1));
        f.brIf(start, count.get);
      });
      const top = f.let(value.get.toI32());
      setExponent(f, cpu, top.divU(10).shl(4).or(top.remU(10)).or(negative.shl(15)));
      f.return(low.get);
    });
    raise(f, cpu, FpFlag.IE);
    setExponent(f, cpu, i32(BCD_INDEFINITE_HIGH));
    f.return(i64(BCD_INDEFINITE_LOW));
  },
);
