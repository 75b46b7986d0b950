/**
 * Flags that the hot tier has left to be computed later: from the operands and the result of the instruction that set
 * them, to their places in the vCPU's state. A function of the cold module, made from the definitions' own helpers.
 */

import { flagsProduct } from "../isa/arithmetic.js";
import { LaterFlags, type OperandSize } from "../isa/context.js";
import { flagsAdc, flagsLogic, flagsSbb } from "../isa/flags.js";
import { flagsShift } from "../isa/shift.js";
import { I32, type I64, type Int } from "../wasm/expr.js";
import type { FuncRef, FunctionBuilder, ModuleBuilder } from "../wasm/module.js";
import { ColdContext } from "./cold-context.js";
import type { Runtime } from "./runtime.js";

/** (cpu, kind, a, b, result): operands zero-extended. */
export const LATER_FLAGS_PARAMS = ["i32", "i32", "i64", "i64", "i64"] as const;
export type LaterFlagsFunction = FuncRef<typeof LATER_FLAGS_PARAMS, undefined>;

const SIZES = [1, 2, 4, 8] as const;

/** Number of a kind of later flags at an operand size; 0 is for flags that are not left for later. */
export const laterFlagsKind = (kind: LaterFlags, size: OperandSize): number =>
  1 + (kind - LaterFlags.SUM) * SIZES.length + SIZES.indexOf(size);

export function defineLaterFlags(module: ModuleBuilder, runtime: Runtime): LaterFlagsFunction {
  return module.func("settleFlags", LATER_FLAGS_PARAMS, undefined, (f, cpu, kind, a, b, r) => {
    const cases: (() => void)[] = [() => {}];
    for (const flags of Object.values(LaterFlags).filter((value) => value !== LaterFlags.NONE))
      for (const size of SIZES)
        cases[laterFlagsKind(flags, size)] = () => settle(module, runtime, f, cpu, flags, size, [a, b, r]);
    f.switch(kind, cases, () => {});
  });
}

function settle(
  module: ModuleBuilder,
  runtime: Runtime,
  f: FunctionBuilder,
  cpu: I32,
  flags: LaterFlags,
  size: OperandSize,
  operands: readonly I64[],
): void {
  const form = {
    size,
    addressSize: 8,
    long: true,
    operands: [],
    lock: false,
    rep: "none",
    args: [],
  } as const;
  const context = new ColdContext(module, runtime, f, cpu, I32.const(0), form);
  const [a, b, r] = operands.map((value): Int => f.let(size === 8 ? value : value.toI32()));
  switch (flags) {
    case LaterFlags.SUM:
      flagsAdc(context, a, b, r);
      break;
    case LaterFlags.DIFFERENCE:
      flagsSbb(context, a, b, r);
      break;
    case LaterFlags.LOGIC:
      flagsLogic(context, r);
      break;
    case LaterFlags.SHL:
    case LaterFlags.SHR:
    case LaterFlags.SAR:
      flagsShift(context, flags, a, b, r);
      break;
    case LaterFlags.PRODUCT:
    case LaterFlags.PRODUCT_UNSIGNED:
      // The others are undefined (SDM vol. 2, IMUL and MUL).
      context.setFlags({ af: I32.const(0), result: r });
      flagsProduct(context, a, b, flags === LaterFlags.PRODUCT);
      break;
  }
}
