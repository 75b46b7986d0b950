/**
 * The arithmetic flags of a region. What set them last is kept in locals, to be computed where they are left for the
 * vCPU's state, which is seldom; within a block, and from a block to one that follows it alone, they are also known as
 * expressions, for those who read them.
 */
import { signExtend } from "../cold/cold-context.js";
import { ALL_FLAGS, FlagBit, updatedFlags } from "../cold/flag-effects.js";
import { type LaterFlagsFunction, laterFlagsKind } from "../cold/later-flags.js";
import { type FlagName, type FlagUpdate, LaterFlags, type OperandSize } from "../isa/context.js";
import { O } from "../vcpu-state.js";
import { I32, type I64, type Int, load32, load64 } from "../wasm/expr.js";
import type { FunctionBuilder, Local } from "../wasm/module.js";

/** Expressions over locals that are set once. */
interface KnownFlags {
  cf?: Int;
  of?: Int;
  af?: Int;
  zero?: I64;
  signParity?: I64;
  /** All flags are those of a − b: conditions compare instead. */
  compare?: { a: Int; b: Int; size: OperandSize } | undefined;
}

/** What is known where the code goes on. */
export interface FlagKnowledge {
  readonly known: KnownFlags;
  readonly computed: boolean;
}

export class RegionFlags {
  /** How the flags follow from a, b and r (`laterFlagsKind`); 0: they are in the locals below. */
  readonly #kind: Local<"i32">;
  readonly #a: Local<"i64">;
  readonly #b: Local<"i64">;
  readonly #r: Local<"i64">;
  readonly #zero: Local<"i64">;
  readonly #signParity: Local<"i64">;
  readonly #cf: Local<"i32">;
  readonly #of: Local<"i32">;
  readonly #af: Local<"i32">;
  known: KnownFlags = {};
  /** The kind is 0 here, whatever way led here. */
  #computed = false;
  #used = false;

  constructor(
    readonly f: FunctionBuilder,
    readonly cpu: I32,
    /** Computes what was left for later, to the vCPU's state. */
    readonly settle: () => LaterFlagsFunction,
  ) {
    this.#kind = f.local("i32");
    this.#a = f.local("i64");
    this.#b = f.local("i64");
    this.#r = f.local("i64");
    this.#zero = f.local("i64");
    this.#signParity = f.local("i64");
    this.#cf = f.local("i32");
    this.#of = f.local("i32");
    this.#af = f.local("i32");
  }

  /** A block starts; `knowledge`: of the only way to it. */
  start(knowledge: FlagKnowledge | undefined): void {
    this.known = { ...knowledge?.known };
    this.#computed = knowledge?.computed ?? false;
  }

  get knowledge(): FlagKnowledge {
    return { known: { ...this.known }, computed: this.#computed };
  }

  /** An instruction of operand size `size` sets flags; those in `live` matter afterwards. */
  set(update: FlagUpdate, live: number, size: OperandSize): void {
    const { f } = this;
    const next = knownAfter(f, update, size);
    const { later } = update;
    if (live !== 0) this.#used = true;
    if (later !== undefined) {
      if (live !== 0) this.#leave(later, update.result as Int);
      this.known = next;
      return;
    }
    if (live !== 0) {
      const kept = live & ~updatedFlags(update);
      if (kept !== 0) this.#compute(kept);
      this.#store(next, live);
      this.#noKind();
    }
    this.known = { ...this.known, ...next };
  }

  #leave(later: NonNullable<FlagUpdate["later"]>, result: Int): void {
    const { f } = this;
    f.set(this.#kind, I32.const(laterFlagsKind(later.kind, later.size)));
    if (later.kind !== LaterFlags.LOGIC) {
      f.set(this.#a, later.a.toI64U());
      f.set(this.#b, later.b.toI64U());
    }
    f.set(this.#r, result.toI64U());
    this.#computed = false;
  }

  /** As `set`, of all flags and for later, on one of several ways through an instruction; the others leave them as they are. */
  setOnSomePaths(later: NonNullable<FlagUpdate["later"]>, result: Int, live: number): void {
    this.known = {};
    if (live === 0) return;
    this.#used = true;
    this.#leave(later, result);
  }

  /** As `set`, on one of several ways through an instruction, after `computeAll`. */
  setHere(update: FlagUpdate, size: OperandSize): void {
    this.#store(knownAfter(this.f, update, size), ALL_FLAGS);
  }

  /** All flags into their locals, for all ways from here on. */
  computeAll(): void {
    this.#used = true;
    this.#compute(ALL_FLAGS);
    this.#noKind();
    this.known = {};
  }

  /** A flag's value; `everywhere`: the code that is emitted now runs on all ways from here on. */
  read(name: FlagName, everywhere: boolean): I32 {
    const { known } = this;
    const zero = () => known.zero ?? this.#local(this.#zero, everywhere);
    const signParity = () => known.signParity ?? this.#local(this.#signParity, everywhere);
    switch (name) {
      case "cf":
        return (known.cf ?? this.#local(this.#cf, everywhere)).toI32();
      case "of":
        return (known.of ?? this.#local(this.#of, everywhere)).toI32();
      case "af":
        return (known.af ?? this.#local(this.#af, everywhere)).toI32().shrU(4).and(1);
      case "zf":
        return zero().eqz();
      case "sf":
        return signParity().ltS(0);
      case "pf":
        return signParity().toI32().and(0xff).popcnt().and(1).xor(1);
    }
  }

  #local<T extends "i32" | "i64">(local: Local<T>, everywhere: boolean): Local<T>["get"] {
    this.#used = true;
    if (!this.#computed) this.#computeKind(everywhere);
    return local.get;
  }

  #store({ cf, of, af, zero, signParity }: KnownFlags, mask: number): void {
    const { f } = this;
    const has = (bits: number) => (mask & bits) !== 0;
    if (cf !== undefined && has(FlagBit.cf)) f.set(this.#cf, cf.toI32());
    if (of !== undefined && has(FlagBit.of)) f.set(this.#of, of.toI32());
    if (af !== undefined && has(FlagBit.af)) f.set(this.#af, af.toI32());
    if (zero !== undefined && has(FlagBit.zf)) f.set(this.#zero, zero);
    if (signParity !== undefined && has(FlagBit.sf | FlagBit.pf)) f.set(this.#signParity, signParity);
  }

  /** Flags in `mask` into their locals; the kind has to become 0 then. */
  #compute(mask: number): void {
    if (!this.#computed && (mask & ~knownFlags(this.known)) !== 0) this.#computeKind(true);
    this.#store(this.known, mask);
  }

  #noKind(): void {
    if (!this.#computed) this.f.set(this.#kind, I32.const(0));
    this.#computed = true;
  }

  /** What is left for later is computed now, where anything is. */
  #computeKind(everywhere: boolean): void {
    const { f, cpu } = this;
    f.if(this.#kind.get, () => {
      this.#callSettle();
      this.#load(cpu);
      f.set(this.#kind, I32.const(0));
    });
    if (everywhere) this.#computed = true;
  }

  #callSettle(): void {
    this.f.callVoid(this.settle(), this.cpu, this.#kind.get, this.#a.get, this.#b.get, this.#r.get);
  }

  #load(cpu: I32): void {
    const { f } = this;
    f.set(this.#zero, load64(cpu, O.flagZ));
    f.set(this.#signParity, load64(cpu, O.flagS));
    const bytes = f.let(load32(cpu, O.flagC));
    f.set(this.#cf, bytes.and(1));
    f.set(this.#of, bytes.shrU(8).and(1));
    f.set(this.#af, bytes.shrU(16));
  }

  /** To the vCPU's state, at an exit. */
  spill(): void {
    if (!this.#used) return;
    const { f, cpu } = this;
    f.if(
      this.#kind.get,
      () => this.#callSettle(),
      () => {
        f.store64(cpu, this.#zero.get, O.flagZ);
        f.store64(cpu, this.#signParity.get, O.flagS);
        f.store8(cpu, this.#cf.get, O.flagC);
        f.store8(cpu, this.#of.get, O.flagO);
        f.store8(cpu, this.#af.get, O.flagA);
      },
    );
  }

  /** From the vCPU's state, at the region's start; to be called when all of it is emitted. */
  loadAtStart(): void {
    if (this.#used) this.#load(this.cpu);
  }
}

function knownAfter(f: FunctionBuilder, update: FlagUpdate, size: OperandSize): KnownFlags {
  const { cf, of, af, result, zero, signParity, compare } = update;
  let wide: I64 | undefined;
  if (result !== undefined)
    wide = result.isFixed ? signExtend(result, size) : f.let(signExtend(result, size));
  const known: KnownFlags = { compare };
  if (cf !== undefined) known.cf = cf;
  if (of !== undefined) known.of = of;
  if (af !== undefined) known.af = af;
  if (zero !== undefined || wide !== undefined) known.zero = (zero ?? wide) as I64;
  if (signParity !== undefined || wide !== undefined) known.signParity = (signParity ?? wide) as I64;
  return known;
}

function knownFlags({ cf, of, af, zero, signParity }: KnownFlags): number {
  let bits = 0;
  if (cf !== undefined) bits |= FlagBit.cf;
  if (of !== undefined) bits |= FlagBit.of;
  if (af !== undefined) bits |= FlagBit.af;
  if (zero !== undefined) bits |= FlagBit.zf;
  if (signParity !== undefined) bits |= FlagBit.sf | FlagBit.pf;
  return bits;
}
