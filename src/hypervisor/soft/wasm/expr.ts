/**
 * Typed WebAssembly expressions. A node knows how to write its instructions; it writes them each time it is used, so a
 * value that is needed twice goes through `FunctionBuilder.let` first. Constants fold.
 *
 * Opcodes: WebAssembly core specification 2.0, 5.4; threads proposal for the atomics.
 */
import type { ByteWriter } from "./bytes.js";

export type ValType = "i32" | "i64" | "f32" | "f64" | "v128";
export const VAL_TYPE_CODE: Record<ValType, number> = {
  i32: 0x7f,
  i64: 0x7e,
  f32: 0x7d,
  f64: 0x7c,
  v128: 0x7b,
};

export type Emit = (w: ByteWriter) => void;

export abstract class Expr {
  abstract readonly type: ValType;
  /** It reads a local that is set once (FunctionBuilder.let): using it again costs nothing. */
  isFixed = false;
  constructor(readonly emit: Emit) {}
}

/** Integer expressions of either width: instruction definitions that serve all operand sizes are written on these. */
export abstract class Int extends Expr {
  abstract override readonly type: "i32" | "i64";
  /** The value where it is a constant: signed, of the type's width. */
  constructor(
    emit: Emit,
    readonly constant: bigint | undefined = undefined,
  ) {
    super(emit);
  }

  /** A constant of this expression's own type. */
  abstract like(value: number | bigint): this;
  protected abstract binary(op: IntBinary, b: Int | number): this;
  protected abstract compare(op: IntCompare, b: Int | number): I32;
  protected abstract unary(op: IntUnary): this;
  abstract eqz(): I32;
  /** To 64 bits, zero- or sign-extended from this type's width. */
  abstract toI64U(): I64;
  abstract toI64S(): I64;
  /** The low 32 bits. */
  abstract toI32(): I32;

  add(b: Int | number): this {
    return this.binary("add", b);
  }
  sub(b: Int | number): this {
    return this.binary("sub", b);
  }
  mul(b: Int | number): this {
    return this.binary("mul", b);
  }
  divS(b: Int | number): this {
    return this.binary("divS", b);
  }
  divU(b: Int | number): this {
    return this.binary("divU", b);
  }
  remS(b: Int | number): this {
    return this.binary("remS", b);
  }
  remU(b: Int | number): this {
    return this.binary("remU", b);
  }
  and(b: Int | number): this {
    return this.binary("and", b);
  }
  or(b: Int | number): this {
    return this.binary("or", b);
  }
  xor(b: Int | number): this {
    return this.binary("xor", b);
  }
  shl(b: Int | number): this {
    return this.binary("shl", b);
  }
  shrS(b: Int | number): this {
    return this.binary("shrS", b);
  }
  shrU(b: Int | number): this {
    return this.binary("shrU", b);
  }
  rotl(b: Int | number): this {
    return this.binary("rotl", b);
  }
  rotr(b: Int | number): this {
    return this.binary("rotr", b);
  }
  eq(b: Int | number): I32 {
    return this.compare("eq", b);
  }
  ne(b: Int | number): I32 {
    return this.compare("ne", b);
  }
  ltS(b: Int | number): I32 {
    return this.compare("ltS", b);
  }
  ltU(b: Int | number): I32 {
    return this.compare("ltU", b);
  }
  gtS(b: Int | number): I32 {
    return this.compare("gtS", b);
  }
  gtU(b: Int | number): I32 {
    return this.compare("gtU", b);
  }
  leS(b: Int | number): I32 {
    return this.compare("leS", b);
  }
  leU(b: Int | number): I32 {
    return this.compare("leU", b);
  }
  geS(b: Int | number): I32 {
    return this.compare("geS", b);
  }
  geU(b: Int | number): I32 {
    return this.compare("geU", b);
  }
  clz(): this {
    return this.unary("clz");
  }
  ctz(): this {
    return this.unary("ctz");
  }
  popcnt(): this {
    return this.unary("popcnt");
  }
  extend8S(): this {
    return this.unary("extend8S");
  }
  extend16S(): this {
    return this.unary("extend16S");
  }
  not(): this {
    return this.xor(-1);
  }
  neg(): this {
    return this.like(0).sub(this);
  }
}

const INT_BINARY = {
  add: [0x6a, 0x7c],
  sub: [0x6b, 0x7d],
  mul: [0x6c, 0x7e],
  divS: [0x6d, 0x7f],
  divU: [0x6e, 0x80],
  remS: [0x6f, 0x81],
  remU: [0x70, 0x82],
  and: [0x71, 0x83],
  or: [0x72, 0x84],
  xor: [0x73, 0x85],
  shl: [0x74, 0x86],
  shrS: [0x75, 0x87],
  shrU: [0x76, 0x88],
  rotl: [0x77, 0x89],
  rotr: [0x78, 0x8a],
} as const;
const INT_COMPARE = {
  eq: [0x46, 0x51],
  ne: [0x47, 0x52],
  ltS: [0x48, 0x53],
  ltU: [0x49, 0x54],
  gtS: [0x4a, 0x55],
  gtU: [0x4b, 0x56],
  leS: [0x4c, 0x57],
  leU: [0x4d, 0x58],
  geS: [0x4e, 0x59],
  geU: [0x4f, 0x5a],
} as const;
const INT_UNARY = {
  clz: [0x67, 0x79],
  ctz: [0x68, 0x7a],
  popcnt: [0x69, 0x7b],
  extend8S: [0xc0, 0xc2],
  extend16S: [0xc1, 0xc3],
} as const;
type IntBinary = keyof typeof INT_BINARY;
type IntCompare = keyof typeof INT_COMPARE;
type IntUnary = keyof typeof INT_UNARY;

function op1(code: number, a: Expr): Emit {
  return (w) => {
    a.emit(w);
    w.u8(code);
  };
}

function op2(code: number, a: Expr, b: Expr): Emit {
  return (w) => {
    a.emit(w);
    b.emit(w);
    w.u8(code);
  };
}

function fold(op: IntBinary, a: bigint, b: bigint, bits: number): bigint | undefined {
  switch (op) {
    case "add":
      return a + b;
    case "sub":
      return a - b;
    case "mul":
      return a * b;
    case "and":
      return a & b;
    case "or":
      return a | b;
    case "xor":
      return a ^ b;
    case "shl":
      return a << (b & BigInt(bits - 1));
    case "shrU":
      return BigInt.asUintN(bits, a) >> (b & BigInt(bits - 1));
    case "shrS":
      return a >> (b & BigInt(bits - 1));
    default:
      return undefined;
  }
}

/** x op 0 = x. */
const ZERO_IS_NEUTRAL: ReadonlySet<IntBinary> = new Set([
  "add",
  "sub",
  "or",
  "xor",
  "shl",
  "shrS",
  "shrU",
  "rotl",
  "rotr",
]);

export class I32 extends Int {
  override readonly type = "i32";

  static const(value: number): I32 {
    const signed = value | 0;
    return new I32((w) => {
      w.u8(0x41);
      w.sleb32(signed);
    }, BigInt(signed));
  }

  override like(value: number | bigint): this {
    return I32.const(Number(BigInt.asIntN(32, BigInt(value)))) as this;
  }

  static of(value: I32 | number): I32 {
    return typeof value === "number" ? I32.const(value) : value;
  }

  #operand(b: Int | number): I32 {
    if (typeof b === "number") return I32.const(b);
    if (!(b instanceof I32)) throw new TypeError("i32 operand expected");
    return b;
  }

  protected override binary(op: IntBinary, b: Int | number): this {
    const right = this.#operand(b);
    if (right.constant !== undefined) {
      if (right.constant === 0n && ZERO_IS_NEUTRAL.has(op)) return this;
      if (right.constant === -1n && op === "and") return this;
      if (this.constant !== undefined) {
        const folded = fold(op, this.constant, right.constant, 32);
        if (folded !== undefined) return this.like(folded);
      }
    }
    return new I32(op2(INT_BINARY[op][0], this, right)) as this;
  }

  protected override compare(op: IntCompare, b: Int | number): I32 {
    return new I32(op2(INT_COMPARE[op][0], this, this.#operand(b)));
  }

  protected override unary(op: IntUnary): this {
    return new I32(op1(INT_UNARY[op][0], this)) as this;
  }

  override eqz(): I32 {
    return new I32(op1(0x45, this));
  }
  override toI64U(): I64 {
    if (this.constant !== undefined) return I64.const(BigInt.asUintN(32, this.constant));
    return new I64(op1(0xad, this));
  }
  override toI64S(): I64 {
    if (this.constant !== undefined) return I64.const(this.constant);
    return new I64(op1(0xac, this));
  }
  override toI32(): I32 {
    return this;
  }
  /** This value where `condition` is not zero, else `other`. Both are evaluated. */
  select(condition: I32, other: I32 | number): I32 {
    return new I32(select(this, I32.of(other), condition));
  }
  toF32S(): F32 {
    return new F32(op1(0xb2, this));
  }
  toF64S(): F64 {
    return new F64(op1(0xb7, this));
  }
  toF64U(): F64 {
    return new F64(op1(0xb8, this));
  }
  /** f32.reinterpret_i32. */
  asF32(): F32 {
    return new F32(op1(0xbe, this));
  }
}

export class I64 extends Int {
  override readonly type = "i64";

  static const(value: number | bigint): I64 {
    const signed = BigInt.asIntN(64, BigInt(value));
    return new I64((w) => {
      w.u8(0x42);
      w.sleb64(signed);
    }, signed);
  }

  static of(value: I64 | number): I64 {
    return typeof value === "number" ? I64.const(value) : value;
  }

  override like(value: number | bigint): this {
    return I64.const(value) as this;
  }

  #operand(b: Int | number): I64 {
    if (typeof b === "number") return I64.const(b);
    if (!(b instanceof I64)) throw new TypeError("i64 operand expected");
    return b;
  }

  protected override binary(op: IntBinary, b: Int | number): this {
    const right = this.#operand(b);
    if (right.constant !== undefined) {
      if (right.constant === 0n && ZERO_IS_NEUTRAL.has(op)) return this;
      if (right.constant === -1n && op === "and") return this;
      if (this.constant !== undefined) {
        const folded = fold(op, this.constant, right.constant, 64);
        if (folded !== undefined) return I64.const(folded) as this;
      }
    }
    return new I64(op2(INT_BINARY[op][1], this, right)) as this;
  }

  protected override compare(op: IntCompare, b: Int | number): I32 {
    return new I32(op2(INT_COMPARE[op][1], this, this.#operand(b)));
  }

  protected override unary(op: IntUnary): this {
    return new I64(op1(INT_UNARY[op][1], this)) as this;
  }

  override eqz(): I32 {
    return new I32(op1(0x50, this));
  }
  override toI64U(): I64 {
    return this;
  }
  override toI64S(): I64 {
    return this;
  }
  override toI32(): I32 {
    if (this.constant !== undefined) return I32.const(Number(BigInt.asIntN(32, this.constant)));
    return new I32(op1(0xa7, this));
  }
  extend32S(): I64 {
    return new I64(op1(0xc4, this));
  }
  select(condition: I32, other: I64 | number): I64 {
    return new I64(select(this, I64.of(other), condition));
  }
  toF32S(): F32 {
    return new F32(op1(0xb4, this));
  }
  toF64S(): F64 {
    return new F64(op1(0xb9, this));
  }
  toF64U(): F64 {
    return new F64(op1(0xba, this));
  }
  /** f64.reinterpret_i64. */
  asF64(): F64 {
    return new F64(op1(0xbf, this));
  }
}

/** `ifTrue` where `condition` is not zero, else `ifFalse`; both are evaluated and are of one type. */
export function choose(condition: I32, ifTrue: Int, ifFalse: Int): Int {
  const emit = select(ifTrue, ifFalse, condition);
  return ifTrue.type === "i64" ? new I64(emit) : new I32(emit);
}

function select(ifTrue: Expr, ifFalse: Expr, condition: I32): Emit {
  return (w) => {
    ifTrue.emit(w);
    ifFalse.emit(w);
    condition.emit(w);
    w.u8(0x1b);
  };
}

const FLOAT_BINARY = {
  add: [0x92, 0xa0],
  sub: [0x93, 0xa1],
  mul: [0x94, 0xa2],
  div: [0x95, 0xa3],
  min: [0x96, 0xa4],
  max: [0x97, 0xa5],
  copysign: [0x98, 0xa6],
} as const;
const FLOAT_COMPARE = {
  eq: [0x5b, 0x61],
  ne: [0x5c, 0x62],
  lt: [0x5d, 0x63],
  gt: [0x5e, 0x64],
  le: [0x5f, 0x65],
  ge: [0x60, 0x66],
} as const;
const FLOAT_UNARY = {
  abs: [0x8b, 0x99],
  neg: [0x8c, 0x9a],
  ceil: [0x8d, 0x9b],
  floor: [0x8e, 0x9c],
  trunc: [0x8f, 0x9d],
  nearest: [0x90, 0x9e],
  sqrt: [0x91, 0x9f],
} as const;

/** Floating-point expressions of either width. NaN payloads are the engine's choice: see isa/sse-float. */
export abstract class Float extends Expr {
  abstract override readonly type: "f32" | "f64";
  protected abstract make(emit: Emit): this;

  get #column(): 0 | 1 {
    return this.type === "f32" ? 0 : 1;
  }
  binary(op: keyof typeof FLOAT_BINARY, b: this): this {
    return this.make(op2(FLOAT_BINARY[op][this.#column], this, b));
  }
  compare(op: keyof typeof FLOAT_COMPARE, b: this): I32 {
    return new I32(op2(FLOAT_COMPARE[op][this.#column], this, b));
  }
  unary(op: keyof typeof FLOAT_UNARY): this {
    return this.make(op1(FLOAT_UNARY[op][this.#column], this));
  }
}

export class F32 extends Float {
  override readonly type = "f32";
  protected override make(emit: Emit): this {
    return new F32(emit) as this;
  }
  static const(value: number): F32 {
    return new F32((w) => {
      w.u8(0x43);
      w.f32(value);
    });
  }
  /** i32.reinterpret_f32. */
  bits(): I32 {
    return new I32(op1(0xbc, this));
  }
  toF64(): F64 {
    return new F64(op1(0xbb, this));
  }
  /** i32.trunc_sat_f32_s, i64.trunc_sat_f32_s: toward zero, out of range saturates. */
  truncSatI32(): I32 {
    return new I32(prefixed(0xfc, 0, [this]));
  }
  truncSatI64(): I64 {
    return new I64(prefixed(0xfc, 4, [this]));
  }
}

export class F64 extends Float {
  override readonly type = "f64";
  protected override make(emit: Emit): this {
    return new F64(emit) as this;
  }
  static const(value: number): F64 {
    return new F64((w) => {
      w.u8(0x44);
      w.f64(value);
    });
  }
  /** i64.reinterpret_f64. */
  bits(): I64 {
    return new I64(op1(0xbd, this));
  }
  toF32(): F32 {
    return new F32(op1(0xb6, this));
  }
  truncSatI32(): I32 {
    return new I32(prefixed(0xfc, 2, [this]));
  }
  truncSatI64(): I64 {
    return new I64(prefixed(0xfc, 6, [this]));
  }
}

function prefixed(
  prefix: number,
  code: number,
  operands: readonly Expr[],
  immediates: readonly number[] = [],
): Emit {
  return (w) => {
    for (const operand of operands) operand.emit(w);
    w.u8(prefix);
    w.leb(code);
    for (const byte of immediates) w.u8(byte);
  };
}

/** 128-bit vectors. Operations are named by opcode (see simd.ts), as there are some 230 of them. */
export class V128 extends Expr {
  override readonly type = "v128";

  static const(bytes: Uint8Array): V128 {
    return new V128((w) => {
      w.u8(0xfd);
      w.leb(12);
      w.bytes(bytes);
    });
  }
  /** Vector result of the SIMD operation `code` on `operands`; `lanes`: its immediate bytes. */
  static op(code: number, operands: readonly Expr[], lanes: readonly number[] = []): V128 {
    return new V128(prefixed(0xfd, code, operands, lanes));
  }
  static toI32(code: number, operands: readonly Expr[], lanes: readonly number[] = []): I32 {
    return new I32(prefixed(0xfd, code, operands, lanes));
  }
  static toI64(code: number, operands: readonly Expr[], lanes: readonly number[] = []): I64 {
    return new I64(prefixed(0xfd, code, operands, lanes));
  }
  static toF32(code: number, operands: readonly Expr[], lanes: readonly number[] = []): F32 {
    return new F32(prefixed(0xfd, code, operands, lanes));
  }
  static toF64(code: number, operands: readonly Expr[], lanes: readonly number[] = []): F64 {
    return new F64(prefixed(0xfd, code, operands, lanes));
  }
}

export interface ExprOf {
  i32: I32;
  i64: I64;
  f32: F32;
  f64: F64;
  v128: V128;
}

export function makeExpr<T extends ValType>(type: T, emit: Emit): ExprOf[T] {
  const make = { i32: I32, i64: I64, f32: F32, f64: F64, v128: V128 }[type] as new (e: Emit) => Expr;
  return new make(emit) as ExprOf[T];
}

// --- memory ---

function load(code: number, address: I32, offset: number): Emit {
  return (w) => {
    address.emit(w);
    w.u8(code);
    w.leb(0);
    w.leb(offset);
  };
}

export const load8U = (address: I32, offset = 0) => new I32(load(0x2d, address, offset));
export const load8S = (address: I32, offset = 0) => new I32(load(0x2c, address, offset));
export const load16U = (address: I32, offset = 0) => new I32(load(0x2f, address, offset));
export const load16S = (address: I32, offset = 0) => new I32(load(0x2e, address, offset));
export const load32 = (address: I32, offset = 0) => new I32(load(0x28, address, offset));
export const load64 = (address: I32, offset = 0) => new I64(load(0x29, address, offset));
export const load32U64 = (address: I32, offset = 0) => new I64(load(0x35, address, offset));
export const load32S64 = (address: I32, offset = 0) => new I64(load(0x34, address, offset));
export const loadF32 = (address: I32, offset = 0) => new F32(load(0x2a, address, offset));
export const loadF64 = (address: I32, offset = 0) => new F64(load(0x2b, address, offset));
export const loadV128 = (address: I32, offset = 0) =>
  new V128((w) => {
    address.emit(w);
    w.u8(0xfd);
    w.leb(0);
    w.leb(0);
    w.leb(offset);
  });

/** Atomic operations by width in bytes; 8 takes and gives i64, the rest i32 (zero-extended). */
export type AtomicWidth = 1 | 2 | 4 | 8;
const ATOMIC_COLUMN: Record<AtomicWidth, number> = { 4: 0, 8: 1, 1: 2, 2: 3 };
const ALIGN_LOG2: Record<AtomicWidth, number> = { 1: 0, 2: 1, 4: 2, 8: 3 };
const ATOMIC_LOAD = 0x10;
const ATOMIC_STORE = 0x17;
const ATOMIC_RMW = {
  add: 0x1e,
  sub: 0x25,
  and: 0x2c,
  or: 0x33,
  xor: 0x3a,
  xchg: 0x41,
  cmpxchg: 0x48,
} as const;

function atomic(base: number, width: AtomicWidth, operands: readonly Expr[], offset: number): Emit {
  return (w) => {
    for (const operand of operands) operand.emit(w);
    w.u8(0xfe);
    w.leb(base + ATOMIC_COLUMN[width]);
    w.leb(ALIGN_LOG2[width]);
    w.leb(offset);
  };
}

const intOf = (width: AtomicWidth, emit: Emit): Int => (width === 8 ? new I64(emit) : new I32(emit));

export const atomicLoad = (width: AtomicWidth, address: I32, offset = 0): Int =>
  intOf(width, atomic(ATOMIC_LOAD, width, [address], offset));
export const atomicStore = (width: AtomicWidth, address: I32, value: Int, offset = 0): Emit =>
  atomic(ATOMIC_STORE, width, [address, value], offset);
export const atomicRmw = (
  op: Exclude<keyof typeof ATOMIC_RMW, "cmpxchg">,
  width: AtomicWidth,
  address: I32,
  value: Int,
  offset = 0,
): Int => intOf(width, atomic(ATOMIC_RMW[op], width, [address, value], offset));
/** The value found at `address`; `replacement` was stored there if it equals `expected`. */
export const atomicCmpxchg = (
  width: AtomicWidth,
  address: I32,
  expected: Int,
  replacement: Int,
  offset = 0,
): Int => intOf(width, atomic(ATOMIC_RMW.cmpxchg, width, [address, expected, replacement], offset));
/** Sleep while the u32 at `address` is `expected`, for at most `nanoseconds`: 0 woken, 1 not equal, 2 timed out. */
export const atomicWait32 = (address: I32, expected: I32, nanoseconds: I64): I32 =>
  new I32((w) => {
    for (const operand of [address, expected, nanoseconds]) operand.emit(w);
    w.u8(0xfe);
    w.leb(1);
    w.leb(2);
    w.leb(0);
  });
/** Wake `count` threads that sleep at `address`: how many there were. */
export const atomicNotify = (address: I32, count: I32): I32 =>
  new I32((w) => {
    for (const operand of [address, count]) operand.emit(w);
    w.u8(0xfe);
    w.leb(0);
    w.leb(2);
    w.leb(0);
  });
export const atomicFence: Emit = (w) => {
  w.u8(0xfe);
  w.leb(3);
  w.u8(0);
};
