/** ROUNDPS, ROUNDPD, ROUNDSS, ROUNDSD (SDM vol. 2, ROUNDPD, table 4-18). */
import { Mxcsr } from "../fpu/control.js";
import { O } from "../vcpu-state.js";
import type { I32, V128 } from "../wasm/expr.js";
import type { FuncRef } from "../wasm/module.js";
import { v, ZERO } from "../wasm/simd.js";
import type { Definition } from "./context.js";
import {
  allPlain,
  allTrue,
  callSoft,
  constantBits,
  type FloatFormat,
  fastOrSlow,
  inexactIsFree,
  isPlain,
  laneBits,
  scalarLane,
  slowVector,
  withLaneBits,
} from "./sse-float-format.js";
import { mergeLow } from "./sse-moves.js";
import { imm8, readSource } from "./vector-operands.js";

const RoundImmediate = { RC: 3, USE_MXCSR: 4, NO_PRECISION: 8 } as const;
const ROUNDING_OPS = ["nearest", "floor", "ceil", "trunc"] as const;

function softRound(format: FloatFormat, scalar: boolean): ReturnType<typeof slowVector> {
  const name = `round_${format.shape}${scalar ? "_scalar" : ""}`;
  return slowVector(name, (f, use, cpu, mxcsr, a, b, imm) => {
    const g = use(format.soft.round as never) as FuncRef;
    let result = scalar ? a : ZERO;
    for (let n = 0; n < (scalar ? 1 : format.lanes); n++) {
      const bits = callSoft(f, g, cpu, laneBits(format, b, n), mxcsr, imm);
      result = f.let(withLaneBits(format, result, n, bits));
    }
    return result;
  });
}

export function round(format: FloatFormat, scalar: boolean): Definition {
  const slow = softRound(format, scalar);
  return (x) => {
    x.requireSse();
    const { f } = x;
    const b = readSource(x, 1);
    const a = x.readVector(0);
    const imm = imm8(x);
    const mxcsr = x.field32(O.mxcsr);
    const rounding = mxcsr
      .shrU(Mxcsr.RC_SHIFT)
      .select(imm.and(RoundImmediate.USE_MXCSR), imm)
      .and(RoundImmediate.RC);
    const rounded = f.temporary("v128");
    const cases = ROUNDING_OPS.map((op) => () => f.set(rounded, v(`${format.shape}.${op}`, b)));
    f.switch(rounding, cases.slice(0, 3), cases[3]);
    const exact = v(`${format.shape}.eq`, rounded.get, b);
    const precise = imm.and(RoundImmediate.NO_PRECISION).or(inexactIsFree(mxcsr));
    let ok: I32;
    let fast: V128;
    if (scalar) {
      const isExact = laneBits(format, exact, 0).ne(constantBits(format, 0n));
      ok = isPlain(format, scalarLane(f, format, b)).and(precise.ne(0).or(isExact));
      fast = mergeLow(a, rounded.get, format.size);
    } else {
      ok = allTrue(format, allPlain(format, b, f)).and(precise.ne(0).or(allTrue(format, exact)));
      fast = rounded.get;
    }
    x.writeVector(0, fastOrSlow(x, ok, fast, slow, a, b, imm));
  };
}
