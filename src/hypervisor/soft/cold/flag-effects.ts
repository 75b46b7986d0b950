/**
 * What a definition does to the arithmetic flags, found by running it once against a context that takes notes: which it
 * reads, which it always sets, and whether it can leave (fault, exit), where all of them have to be right.
 */

import type { Definition, FlagName, FlagUpdate, SharedFunction } from "../isa/context.js";
import type { I32, Int, ValType } from "../wasm/expr.js";
import { FuncRef, FunctionBuilder, ModuleBuilder } from "../wasm/module.js";
import { ColdContext, type HandlerForm } from "./cold-context.js";
import type { Runtime } from "./runtime.js";

/** A bit a flag. */
export const FlagBit: Record<FlagName, number> = { cf: 1, pf: 2, af: 4, zf: 8, sf: 16, of: 32 };
export const ALL_FLAGS = 63;

export interface FlagEffects {
  /** Flags whose value before the instruction matters. */
  readonly reads: number;
  /** Flags that it sets on every path. */
  readonly sets: number;
  /** It may leave before its end: a fault, an exit. */
  readonly leaves: boolean;
}

/** As one number, to be kept. */
export const packEffects = ({ reads, sets, leaves }: FlagEffects): number =>
  reads | (sets << EFFECT_BITS) | (leaves ? 1 << (2 * EFFECT_BITS) : 0);

export const unpackEffects = (packed: number): FlagEffects => ({
  reads: packed & ALL_FLAGS,
  sets: (packed >> EFFECT_BITS) & ALL_FLAGS,
  leaves: packed >> (2 * EFFECT_BITS) !== 0,
});

const EFFECT_BITS = 6;

export function updatedFlags(update: FlagUpdate): number {
  let bits = 0;
  if (update.cf !== undefined) bits |= FlagBit.cf;
  if (update.of !== undefined) bits |= FlagBit.of;
  if (update.af !== undefined) bits |= FlagBit.af;
  if (update.result !== undefined) bits |= FlagBit.zf | FlagBit.sf | FlagBit.pf;
  if (update.zero !== undefined) bits |= FlagBit.zf;
  if (update.signParity !== undefined) bits |= FlagBit.sf | FlagBit.pf;
  return bits;
}

/** Flags of each condition pair (SDM vol. 1, appendix B). */
const CONDITION_FLAGS = [
  FlagBit.of,
  FlagBit.cf,
  FlagBit.zf,
  FlagBit.cf | FlagBit.zf,
  FlagBit.sf,
  FlagBit.pf,
  FlagBit.sf | FlagBit.of,
  FlagBit.zf | FlagBit.sf | FlagBit.of,
];

class NotingContext extends ColdContext {
  reads = 0;
  sets = 0;
  leaves = false;

  #read(bits: number): void {
    this.reads |= bits & ~this.sets;
  }

  override flag(name: FlagName): I32 {
    this.#read(FlagBit[name]);
    return super.flag(name);
  }
  override condition(code: number): I32 {
    this.#read(CONDITION_FLAGS[code >> 1]);
    return super.condition(code);
  }
  override flagsWord(): I32 {
    this.#read(ALL_FLAGS);
    return super.flagsWord();
  }
  override setFlags(update: FlagUpdate): void {
    if (this.f.depth === 0) this.sets |= updatedFlags(update);
    super.setFlags(update);
  }
  override setFlagsWord(word: I32): void {
    if (this.f.depth === 0) this.sets = ALL_FLAGS;
    super.setFlagsWord(word);
  }
  protected override leaveIfAsked(): void {
    this.#leave();
    super.leaveIfAsked();
  }
  override fault(vector: number, errorCode?: number): void {
    this.#leave();
    super.fault(vector, errorCode);
  }
  override system(name: string, ...values: Int[]): void {
    this.#leave();
    super.system(name, ...values);
  }
  override nextThroughDispatcher(): void {
    this.#leave();
    super.nextThroughDispatcher();
  }
  override pollAndRepeat(): void {
    this.#leave();
    super.pollAndRepeat();
  }

  #leave(): void {
    this.leaves = true;
    this.#read(ALL_FLAGS);
  }
}

/** Functions that code is emitted against here have no bodies and no numbers that matter. */
function anyFunction(): FuncRef<never, never> {
  return new FuncRef("", 0, [], "i32") as unknown as FuncRef<never, never>;
}

const NO_RUNTIME = new Proxy({} as Runtime, {
  get(_target, name) {
    if (name === "handlerType") return 0;
    if (name === "imports") return new Proxy({}, { get: () => new FuncRef("", 0, [], "f64") });
    if (name === "shared") {
      return (maker: SharedFunction) => new FuncRef(maker.name, 0, maker.params, maker.result as ValType);
    }
    if (name === "slowLoad" || name === "segmentLinear") return new FuncRef("", 0, [], "i64");
    return anyFunction();
  },
});

export function flagEffects(definition: Definition, form: HandlerForm): FlagEffects {
  const f = new FunctionBuilder({ params: ["i32", "i32"], results: [] });
  const module = new ModuleBuilder(1, 1);
  const [cpu, rec] = f.params.map((p) => p.get as I32);
  const context = new NotingContext(module, NO_RUNTIME, f, cpu, rec, form);
  context.begin();
  definition(context);
  return { reads: context.reads, sets: context.sets, leaves: context.leaves };
}
