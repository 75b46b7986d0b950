/** Typed definitions of shared functions. */
import type { ExprOf, ValType } from "../wasm/expr.js";
import type { FuncRef, FunctionBuilder } from "../wasm/module.js";
import type { SharedFunction } from "./context.js";

export type Args<P extends readonly ValType[]> = {
  [K in keyof P]: P[K] extends ValType ? ExprOf[P[K]] : never;
};

/** Gives the module's copy of another shared function. */
export type Use = <P extends readonly ValType[], R extends ValType | undefined>(
  g: SharedFunction<P, R>,
) => FuncRef<P, R>;

/** A shared function whose body gets its parameters as typed expressions. */
export function sharedFunction<const P extends readonly ValType[], R extends ValType | undefined>(
  name: string,
  params: P,
  result: R,
  write: (f: FunctionBuilder, use: Use, ...args: Args<P>) => void,
): SharedFunction<P, R> {
  return {
    name,
    params,
    result,
    body: (f, use) => write(f, use, ...(f.params.map((p) => p.get) as unknown as Args<P>)),
  };
}
