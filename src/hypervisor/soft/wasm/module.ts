/**
 * Builds WebAssembly modules (core specification 2.0, 5.5; tail calls and threads as merged) from functions written
 * with typed expressions.
 */
import { ByteWriter } from "./bytes.js";
import {
  type Emit,
  type Expr,
  type ExprOf,
  I32,
  type Int,
  makeExpr,
  type V128,
  VAL_TYPE_CODE,
  type ValType,
} from "./expr.js";
import { assignIndices, type DeclaredLocal, fillIn } from "./locals.js";

export interface FuncType {
  readonly params: readonly ValType[];
  readonly results: readonly ValType[];
}

/** A function of the module: imported or defined. Indices are final once all imports are declared. */
export class FuncRef<
  P extends readonly ValType[] = readonly ValType[],
  R extends ValType | undefined = ValType | undefined,
> {
  constructor(
    readonly name: string,
    readonly index: number,
    readonly params: P,
    readonly result: R,
  ) {}
}

type Args<P extends readonly ValType[]> = { [K in keyof P]: P[K] extends ValType ? ExprOf[P[K]] : never };

/** A local variable: `.get` is the expression that reads it. */
export class Local<T extends ValType = ValType> {
  readonly get: ExprOf[T];
  constructor(
    /** Not its index: temporary ones share indices. */
    readonly number: number,
    readonly type: T,
  ) {
    this.get = makeExpr(type, (w) => w.local(LOCAL_GET, number));
  }
}

/** A place that `br` can go to: the end of a block, or the start of a loop. */
export interface Label {
  readonly depth: number;
}

const BLOCK = 0x02;
const LOOP = 0x03;
const IF = 0x04;
const ELSE = 0x05;
const END = 0x0b;
const BR = 0x0c;
const BR_IF = 0x0d;
const BR_TABLE = 0x0e;
const RETURN = 0x0f;
const CALL = 0x10;
const RETURN_CALL = 0x12;
const RETURN_CALL_INDIRECT = 0x13;
const CALL_INDIRECT = 0x11;
const LOCAL_GET = 0x20;
const LOCAL_SET = 0x21;
const VOID = 0x40;
const UNREACHABLE = 0x00;

/** What a branch nearly always does; `place` is that of its opcode. */
export interface BranchHint {
  readonly place: number;
  readonly likely: boolean;
}

export interface FunctionBody {
  readonly bytes: Uint8Array;
  /** In the order of their places. */
  readonly hints: readonly BranchHint[];
}

export class FunctionBuilder {
  code = new ByteWriter(512);
  readonly #prologue = new ByteWriter(64);
  readonly params: readonly Local[];
  readonly #locals: DeclaredLocal[] = [];
  /** Where loops start and end in `code`; those that are open end at infinity. */
  readonly #loops: { readonly start: number; end: number }[] = [];
  readonly #hints: BranchHint[] = [];
  #depth = 0;

  /** How many blocks, loops and ifs are open. */
  get depth(): number {
    return this.#depth;
  }

  constructor(readonly type: FuncType) {
    this.params = type.params.map((t, i) => new Local(i, t));
  }

  /** A new local, zero at function entry. */
  local<T extends ValType>(type: T): Local<T> {
    return this.#declare(type, false);
  }

  /**
   * A local that is set on all ways to where it is read. Others share its index before the first use and after the last one:
   * V8's compilers take time for each local wherever ways meet or part.
   */
  temporary<T extends ValType>(type: T): Local<T> {
    return this.#declare(type, true);
  }

  #declare<T extends ValType>(type: T, isTemporary: boolean): Local<T> {
    this.#locals.push({ type, isTemporary });
    return new Local(this.type.params.length + this.#locals.length - 1, type);
  }

  /** What `body` writes comes before all other code, after what was put there before. */
  atStart(body: () => void): void {
    const { code } = this;
    this.code = this.#prologue;
    body();
    this.code = code;
  }

  /** Evaluate `value` once, now; the result reads it. Constants stay constants. */
  let<E extends Expr>(value: E): E {
    if (value.isFixed || (value as unknown as Partial<Int>).constant !== undefined) return value;
    const local = this.temporary(value.type);
    this.set(local, value as never);
    local.get.isFixed = true;
    return local.get as unknown as E;
  }

  set<T extends ValType>(local: Local<T>, value: ExprOf[T]): void {
    (value as Expr).emit(this.code);
    this.code.local(LOCAL_SET, local.number);
  }

  emit(statement: Emit): void {
    statement(this.code);
  }

  /** Evaluate for its effect only. */
  drop(value: Expr): void {
    value.emit(this.code);
    this.code.u8(0x1a);
  }

  /** `hint`: what the condition nearly always is. */
  if(condition: I32, then: () => void, otherwise?: () => void, hint?: boolean): void {
    condition.emit(this.code);
    this.#hint(hint);
    this.code.u8(IF);
    this.code.u8(VOID);
    this.#depth++;
    then();
    if (otherwise !== undefined) {
      this.code.u8(ELSE);
      otherwise();
    }
    this.#depth--;
    this.code.u8(END);
  }

  /** `if` whose condition is nearly never true. */
  ifRarely(condition: I32, then: () => void): void {
    this.if(condition, then, undefined, false);
  }

  /** `br` to the label leaves the block. */
  block(body: (end: Label) => void): void {
    this.#nest(BLOCK, body);
  }

  /** `br` to the label starts the next turn; falling off the end leaves the loop. */
  loop(body: (start: Label) => void): void {
    const loop = { start: this.code.length, end: Number.POSITIVE_INFINITY };
    this.#loops.push(loop);
    this.#nest(LOOP, body);
    loop.end = this.code.length;
  }

  #nest(opcode: number, body: (label: Label) => void): void {
    this.code.u8(opcode);
    this.code.u8(VOID);
    this.#depth++;
    body({ depth: this.#depth });
    this.#depth--;
    this.code.u8(END);
  }

  #hint(hint: boolean | undefined): void {
    if (hint !== undefined) this.#hints.push({ place: this.code.length, likely: hint });
  }

  br(label: Label): void {
    this.code.u8(BR);
    this.code.leb(this.#depth - label.depth);
  }

  brIf(label: Label, condition: I32, hint?: boolean): void {
    condition.emit(this.code);
    this.#hint(hint);
    this.code.u8(BR_IF);
    this.code.leb(this.#depth - label.depth);
  }

  /** `cases[i]` runs where `value` is i, `otherwise` for all other values; no fall-through. */
  switch(value: I32, cases: readonly (() => void)[], otherwise: () => void): void {
    this.block((end) => {
      const open = (k: number): void => {
        if (k < 0) {
          value.emit(this.code);
          this.code.u8(BR_TABLE);
          this.code.leb(cases.length);
          for (let i = 0; i <= cases.length; i++) this.code.leb(i);
          return;
        }
        this.block(() => open(k - 1));
        (k < cases.length ? cases[k] : otherwise)();
        if (k < cases.length) this.br(end);
      };
      open(cases.length);
    });
  }

  return(value?: Expr): void {
    value?.emit(this.code);
    this.code.u8(RETURN);
  }

  unreachable(): void {
    this.code.u8(UNREACHABLE);
  }

  #args(args: readonly Expr[]): void {
    for (const arg of args) arg.emit(this.code);
  }

  /** The call's result, evaluated where the expression is used: put it through `let`. */
  call<P extends readonly ValType[], R extends ValType>(f: FuncRef<P, R>, ...args: Args<P>): ExprOf[R] {
    return makeExpr(f.result, (w) => {
      for (const arg of args as readonly Expr[]) arg.emit(w);
      w.u8(CALL);
      w.leb(f.index);
    });
  }

  callVoid<P extends readonly ValType[]>(f: FuncRef<P, undefined>, ...args: Args<P>): void {
    this.#args(args as readonly Expr[]);
    this.code.u8(CALL);
    this.code.leb(f.index);
  }

  returnCall(f: FuncRef, ...args: readonly Expr[]): void {
    this.#args(args);
    this.code.u8(RETURN_CALL);
    this.code.leb(f.index);
  }

  /** Tail call through the table: `callee` is the index in it. */
  returnCallIndirect(typeIndex: number, callee: I32, ...args: readonly Expr[]): void {
    this.#args(args);
    callee.emit(this.code);
    this.code.u8(RETURN_CALL_INDIRECT);
    this.code.leb(typeIndex);
    this.code.leb(0);
  }

  callIndirectVoid(typeIndex: number, callee: I32, ...args: readonly Expr[]): void {
    this.#args(args);
    callee.emit(this.code);
    this.code.u8(CALL_INDIRECT);
    this.code.leb(typeIndex);
    this.code.leb(0);
  }

  #store(opcode: number, address: I32, value: Expr, offset: number): void {
    address.emit(this.code);
    value.emit(this.code);
    this.code.u8(opcode);
    this.code.leb(0);
    this.code.leb(offset);
  }
  store8(address: I32, value: Int, offset = 0): void {
    this.#store(value.type === "i64" ? 0x3c : 0x3a, address, value, offset);
  }
  store16(address: I32, value: Int, offset = 0): void {
    this.#store(value.type === "i64" ? 0x3d : 0x3b, address, value, offset);
  }
  store32(address: I32, value: Int, offset = 0): void {
    this.#store(value.type === "i64" ? 0x3e : 0x36, address, value, offset);
  }
  store64(address: I32, value: ExprOf["i64"], offset = 0): void {
    this.#store(0x37, address, value, offset);
  }
  storeF32(address: I32, value: ExprOf["f32"], offset = 0): void {
    this.#store(0x38, address, value, offset);
  }
  storeF64(address: I32, value: ExprOf["f64"], offset = 0): void {
    this.#store(0x39, address, value, offset);
  }
  storeV128(address: I32, value: V128, offset = 0): void {
    address.emit(this.code);
    value.emit(this.code);
    this.code.u8(0xfd);
    this.code.leb(11);
    this.code.leb(0);
    this.code.leb(offset);
  }

  /** memory.fill. */
  fill(address: I32, value: I32, length: I32): void {
    this.#args([address, value, length]);
    this.code.u8(0xfc);
    this.code.leb(11);
    this.code.u8(0);
  }

  /** memory.copy; the ranges may overlap. */
  copy(to: I32, from: I32, length: I32): void {
    this.#args([to, from, length]);
    this.code.u8(0xfc);
    this.code.leb(10);
    this.code.u8(0);
    this.code.u8(0);
  }

  /** The body as the code section holds it, but for the size in front of it: locals and code. */
  body(): FunctionBody {
    const before = this.#prologue.length;
    const { types, indices } = assignIndices(
      this.type.params.length,
      this.#locals,
      [
        ...this.#prologue.locals,
        ...this.code.locals.map((value, i) => (i % 2 === 0 ? before + value : value)),
      ],
      this.#loops.map(({ start, end }) => ({ start: before + start, end: before + end })),
    );
    const head = new ByteWriter(64);
    head.leb(types.length);
    for (const [type, count] of types) {
      head.leb(count);
      head.u8(VAL_TYPE_CODE[type]);
    }
    const out = new ByteWriter(head.length + this.#prologue.length + 2 * this.code.length);
    out.bytes(head.take());
    fillIn(out, this.#prologue, indices, []);
    const hints = fillIn(out, this.code, indices, this.#hints);
    out.u8(END);
    return { bytes: out.take(), hints };
  }
}

const SECTION = { type: 1, import: 2, function: 3, export: 7, element: 9, code: 10, custom: 0 } as const;
const IMPORT_KIND = { func: 0, table: 1, memory: 2 } as const;
const FUNCREF = 0x70;
const LIMITS_SHARED_MAX = 3;

interface Defined {
  readonly name: string;
  readonly typeIndex: number;
  body: FunctionBody | undefined;
}

/**
 * A module that imports `env.memory` (shared) and, where `tableSize` is given, `env.table`, and exports functions. Imports
 * come before definitions.
 */
export class ModuleBuilder {
  readonly #types: FuncType[] = [];
  readonly #typeIndex = new Map<string, number>();
  readonly #imports: { name: string; typeIndex: number }[] = [];
  readonly #defined: Defined[] = [];
  readonly #exports: [string, number][] = [];
  readonly #elements: { at: number; functions: number[] }[] = [];

  constructor(
    readonly memoryPages: number,
    readonly tableSize?: number,
  ) {}

  typeIndex(params: readonly ValType[], results: readonly ValType[]): number {
    const key = `${params.join()}:${results.join()}`;
    let index = this.#typeIndex.get(key);
    if (index === undefined) {
      index = this.#types.length;
      this.#types.push({ params, results });
      this.#typeIndex.set(key, index);
    }
    return index;
  }

  /** Declare the import `env.name`. */
  import<const P extends readonly ValType[], R extends ValType | undefined = undefined>(
    name: string,
    params: P,
    result?: R,
  ): FuncRef<P, R> {
    if (this.#defined.length > 0) throw new Error("imports come before definitions");
    const typeIndex = this.typeIndex(params, result === undefined ? [] : [result]);
    this.#imports.push({ name, typeIndex });
    return new FuncRef(name, this.#imports.length - 1, params, result as R);
  }

  /** Reserve a function, so that it can be called before it is defined. */
  declare<const P extends readonly ValType[], R extends ValType | undefined = undefined>(
    name: string,
    params: P,
    result?: R,
  ): FuncRef<P, R> {
    const typeIndex = this.typeIndex(params, result === undefined ? [] : [result]);
    this.#defined.push({ name, typeIndex, body: undefined });
    return new FuncRef(name, this.#imports.length + this.#defined.length - 1, params, result as R);
  }

  /** Add a function whose body was written apart (FunctionBuilder.body); the last imports may be declared until then. */
  add(name: string, params: readonly ValType[], results: readonly ValType[], body: FunctionBody): FuncRef {
    this.#defined.push({ name, typeIndex: this.typeIndex(params, results), body });
    return new FuncRef(name, this.#imports.length + this.#defined.length - 1, params, results[0]);
  }

  /** Give a declared function its body. */
  define<P extends readonly ValType[], R extends ValType | undefined>(
    f: FuncRef<P, R>,
    write: (f: FunctionBuilder, ...params: Args<P>) => void,
  ): void {
    const defined = this.#defined[f.index - this.#imports.length];
    const builder = new FunctionBuilder(this.#types[defined.typeIndex]);
    write(builder, ...(builder.params.map((p) => p.get) as unknown as Args<P>));
    defined.body = builder.body();
  }

  func<const P extends readonly ValType[], R extends ValType | undefined = undefined>(
    name: string,
    params: P,
    result: R,
    write: (f: FunctionBuilder, ...params: Args<P>) => void,
  ): FuncRef<P, R> {
    const f = this.declare(name, params, result);
    this.define(f, write);
    return f;
  }

  export(f: FuncRef, name = f.name): void {
    this.#exports.push([name, f.index]);
  }

  /** Put functions into the table from index `at` on, when the module is instantiated. */
  element(at: number, functions: readonly FuncRef[]): void {
    this.#elements.push({ at, functions: functions.map((f) => f.index) });
  }

  build(options: { names?: boolean } = {}): Uint8Array {
    const out = new ByteWriter(1 << 16);
    out.bytes(new Uint8Array([0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00]));
    const section = (id: number, write: (w: ByteWriter) => void) => {
      const body = new ByteWriter(1 << 12);
      write(body);
      out.u8(id);
      out.leb(body.length);
      out.bytes(body.take());
    };
    section(SECTION.type, (w) => {
      w.leb(this.#types.length);
      for (const { params, results } of this.#types) {
        w.u8(0x60);
        for (const list of [params, results]) {
          w.leb(list.length);
          for (const type of list) w.u8(VAL_TYPE_CODE[type]);
        }
      }
    });
    section(SECTION.import, (w) => {
      w.leb(this.#imports.length + (this.tableSize === undefined ? 1 : 2));
      w.name("env");
      w.name("memory");
      w.u8(IMPORT_KIND.memory);
      w.u8(LIMITS_SHARED_MAX);
      w.leb(1);
      w.leb(this.memoryPages);
      if (this.tableSize !== undefined) {
        w.name("env");
        w.name("table");
        w.u8(IMPORT_KIND.table);
        w.u8(FUNCREF);
        w.u8(0);
        w.leb(this.tableSize);
      }
      for (const { name, typeIndex } of this.#imports) {
        w.name("env");
        w.name(name);
        w.u8(IMPORT_KIND.func);
        w.leb(typeIndex);
      }
    });
    section(SECTION.function, (w) => {
      w.leb(this.#defined.length);
      for (const { typeIndex } of this.#defined) w.leb(typeIndex);
    });
    section(SECTION.export, (w) => {
      w.leb(this.#exports.length);
      for (const [name, index] of this.#exports) {
        w.name(name);
        w.u8(0);
        w.leb(index);
      }
    });
    if (this.#elements.length > 0) {
      section(SECTION.element, (w) => {
        w.leb(this.#elements.length);
        for (const { at, functions } of this.#elements) {
          w.u8(0);
          I32.const(at).emit(w);
          w.u8(END);
          w.leb(functions.length);
          for (const index of functions) w.leb(index);
        }
      });
    }
    const bodies = this.#defined.map(({ name, body }) => {
      if (body === undefined) throw new Error(`function ${name} was declared and not defined`);
      return body;
    });
    // Branch hinting proposal: a custom section before the code.
    if (bodies.some(({ hints }) => hints.length > 0)) {
      section(SECTION.custom, (w) => {
        w.name("metadata.code.branch_hint");
        const hinted = bodies.flatMap(({ hints }, i) => (hints.length > 0 ? [{ i, hints }] : []));
        w.leb(hinted.length);
        for (const { i, hints } of hinted) {
          w.leb(this.#imports.length + i);
          w.leb(hints.length);
          for (const { place, likely } of hints) {
            w.leb(place);
            w.leb(1);
            w.u8(likely ? 1 : 0);
          }
        }
      });
    }
    section(SECTION.code, (w) => {
      w.leb(bodies.length);
      for (const { bytes } of bodies) {
        w.leb(bytes.length);
        w.bytes(bytes);
      }
    });
    if (options.names === true) {
      section(SECTION.custom, (w) => {
        w.name("name");
        const names = new ByteWriter(1 << 12);
        names.leb(this.#imports.length + this.#defined.length);
        [...this.#imports, ...this.#defined].forEach(({ name }, index) => {
          names.leb(index);
          names.name(name);
        });
        w.u8(1);
        w.leb(names.length);
        w.bytes(names.take());
      });
    }
    return out.take();
  }
}
