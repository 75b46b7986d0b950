/**
 * FLD1 … FLDZ (SDM vol. 2, FLD1/FLDL2T/…): constants of more than 64 bits, rounded as RC says (SDM vol. 1, 8.3.8); no
 * exception but a stack overflow.
 */

import { sharedFunction } from "../isa/shared-function.js";
import { O } from "../vcpu-state.js";
import { load32 } from "../wasm/expr.js";
import { Fcw, Rounding } from "./control.js";
import { i32, i64 } from "./define.js";
import { setExponent } from "./f80.js";
import { x87Push } from "./x87-stack.js";

interface Constant {
  readonly se: number;
  /** The fraction rounded down. */
  readonly m: bigint;
  /** The bits after it: 0 none, else whether they come to half or more of the last place. */
  readonly rest: "none" | "low" | "high";
}

/** In the order of the opcodes D9 E8–D9 EE: 1, log2 10, log2 e, π, log10 2, ln 2, 0. */
const CONSTANTS: readonly Constant[] = [
  { se: 0x3fff, m: 0x8000000000000000n, rest: "none" },
  { se: 0x4000, m: 0xd49a784bcd1b8afen, rest: "low" },
  { se: 0x3fff, m: 0xb8aa3b295c17f0bbn, rest: "high" },
  { se: 0x4000, m: 0xc90fdaa22168c234n, rest: "high" },
  { se: 0x3ffd, m: 0x9a209a84fbcff798n, rest: "high" },
  { se: 0x3ffe, m: 0xb17217f7d1cf79abn, rest: "high" },
  { se: 0x0000, m: 0n, rest: "none" },
];

export const x87Constants = CONSTANTS.map(({ se, m, rest }, i) =>
  sharedFunction(`x87_constant_${i}`, ["i32"], "i32", (f, use, cpu) => {
    setExponent(f, cpu, i32(se));
    if (rest === "none") {
      f.returnCall(use(x87Push), cpu, i64(m));
      return;
    }
    const rc = f.let(load32(cpu, O.fcw).shrU(Fcw.RC_SHIFT).and(3));
    const up = rest === "high" ? rc.eq(Rounding.UP).or(rc.eqz()) : rc.eq(Rounding.UP);
    f.returnCall(use(x87Push), cpu, i64(m).add(up.toI64U()));
  }),
);
