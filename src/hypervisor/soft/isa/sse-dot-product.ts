/** DPPS and DPPD (SDM vol. 2): selected products are added pairwise, and the sum goes to selected lanes. */
import { mxcsrCommit } from "../fpu/sse-float.js";
import { O } from "../vcpu-state.js";
import type { Int, V128 } from "../wasm/expr.js";
import type { FuncRef } from "../wasm/module.js";
import { ZERO } from "../wasm/simd.js";
import type { Definition } from "./context.js";
import {
  callSoft,
  constantBits,
  type FloatFormat,
  faultUnmasked,
  laneBits,
  slowVector,
  withLaneBits,
} from "./sse-float-format.js";
import { imm8, readSource } from "./vector-operands.js";

/** Bit of the immediate that selects the first product. */
const FIRST_PRODUCT = 4;

export function dotProduct(format: FloatFormat): Definition {
  const { lanes, soft } = format;
  const compute = slowVector(`dp_${format.shape}`, (f, use, cpu, mxcsr, a, b, imm) => {
    const call = (g: typeof soft.add | typeof soft.mul, left: Int, right: Int): Int =>
      f.let(callSoft(f, use(g as never) as FuncRef, cpu, left, right, mxcsr));
    // An exception that is not masked ends the instruction at the step that finds it.
    const endStep = () => {
      const unmasked = f.let(f.call(use(mxcsrCommit), cpu));
      f.store32(cpu, unmasked, O.fpFlags);
      f.if(unmasked, () => f.return(ZERO));
    };
    let terms: Int[] = [];
    for (let n = 0; n < lanes; n++) {
      const product = f.local(format.type);
      f.if(imm.and(1 << (FIRST_PRODUCT + n)), () => {
        f.set(product, call(soft.mul, laneBits(format, a, n), laneBits(format, b, n)) as never);
      });
      terms.push(product.get);
    }
    while (terms.length > 1) {
      endStep();
      terms = terms.flatMap((term, i) => (i % 2 === 0 ? [call(soft.add, term, terms[i + 1])] : []));
    }
    let result: V128 = ZERO;
    for (let n = 0; n < lanes; n++) {
      const lane = f.local(format.type);
      f.set(lane, constantBits(format, 0n) as never);
      f.if(imm.and(1 << n), () => f.set(lane, terms[0] as never));
      result = f.let(withLaneBits(format, result, n, lane.get));
    }
    return result;
  });
  return (x) => {
    x.requireSse();
    const { f } = x;
    const b = readSource(x, 1);
    const a = x.readVector(0);
    const result = f.let(callSoft(f, x.shared(compute) as FuncRef, x.cpu, a, b, imm8(x)));
    faultUnmasked(x);
    x.writeVector(0, result as unknown as V128);
  };
}
