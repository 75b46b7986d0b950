/**
 * What an instruction definition is written against (DESIGN, law 3). A definition says once what its instruction does,
 * by calls on a context that emits WebAssembly; the cold tier's context emits a handler that takes its operands from a
 * record, the hot tier's will emit straight-line code with the operands known.
 *
 * Rules for definitions, so that exceptions are precise: do everything that can fault first (reads, then the store to
 * memory), then write registers, then flags. Values read are fixed when read. 8- and 16-bit values live zero-extended in i32.
 */
import type { AtomicWidth, Expr, F32, F64, I32, I64, Int, V128 } from "../wasm/expr.js";
import type { FuncRef, FunctionBuilder, ModuleBuilder } from "../wasm/module.js";

export type OperandSize = 1 | 2 | 4 | 8;

/** How an operand of this form is reached. `imm`: in the record. `number`: a register number or small constant in rN. */
export type OperandKind = "reg" | "mem" | "imm" | "number" | "none";

export interface OperandForm {
  readonly kind: OperandKind;
  /** Bytes: 1–8 for integers; 16 for vectors; 10 for x87 and others where the definition knows. */
  readonly size: number;
}

/** Flags to set; a flag left out keeps its value. All are expressions of the values in their natural width. */
export interface FlagUpdate {
  /** 0 or 1. */
  cf?: Int;
  /** 0 or 1. */
  of?: Int;
  /** Bit 4 counts. */
  af?: Int;
  /** A value of the operand size that is zero, negative and of some parity as ZF, SF and PF say. */
  result?: Int;
  /** In place of `result` where the flags are set apart from each other: i64, ZF if zero. */
  zero?: I64;
  /** i64: SF is bit 63, PF the parity of the low byte. */
  signParity?: I64;
  /** The flags are all those of a − b: for conditions that can compare these instead. */
  compare?: { a: Int; b: Int; size: OperandSize };
  /** They are all functions of these and the result: for those who compute them later, if at all. */
  later?: { kind: LaterFlags; a: Int; b: Int; size: OperandSize };
}

/**
 * How flags follow from operands a, b and the result: a sum, a difference (carries in included), logic, a shift of a by b, which
 * is not 0, or a product, of which only CF and OF are defined.
 */
export const LaterFlags = {
  NONE: 0,
  SUM: 1,
  DIFFERENCE: 2,
  LOGIC: 3,
  SHL: 4,
  SHR: 5,
  SAR: 6,
  PRODUCT: 7,
  PRODUCT_UNSIGNED: 8,
} as const;
export type LaterFlags = (typeof LaterFlags)[keyof typeof LaterFlags];

export type FlagName = "cf" | "pf" | "af" | "zf" | "sf" | "of";

export interface InstrContext {
  readonly f: FunctionBuilder;
  readonly module: ModuleBuilder;
  /** Address of the vCPU's state; offsets are in vcpu-state. */
  readonly cpu: I32;
  /** Functions that definitions share (soft floating point …), made once a module by `shared`. */
  shared<
    P extends readonly ("i32" | "i64" | "f32" | "f64" | "v128")[],
    R extends "i32" | "i64" | "f32" | "f64" | "v128" | undefined,
  >(maker: SharedFunction<P, R>): FuncRef<P, R>;

  /** Operand size in bytes of this form (the `v` of the SDM's operand codes). */
  readonly size: OperandSize;
  /** Address size in bytes. Known for string instructions, LEA, JCXZ, LOOP, XLAT, MASKMOV only. */
  readonly addressSize: 2 | 4 | 8;
  /** Code runs in 64-bit mode; otherwise in real, virtual-8086, 16- or 32-bit protected mode (or compatibility mode). */
  readonly long: boolean;
  readonly operands: readonly OperandForm[];
  readonly lock: boolean;
  /** REP/REPE (0xF3), REPNE (0xF2) on string instructions. */
  readonly rep: "none" | "rep" | "repne";
  /** Fixed arguments from the opcode table's row. */
  readonly args: readonly number[];
  /** `FlagUpdate.later` is enough: flags are computed from it, should they be needed. */
  readonly leavesFlags: boolean;
  /**
   * The program has had exact results of SSE arithmetic only, as far as is known: MXCSR.PE is clear. Worth a check in place
   * whether the next one is exact, too.
   */
  readonly exactSoFar: boolean;

  // --- operands ---
  /** Value of integer operand `i`, zero-extended; i64 for 8 bytes, else i32. Immediates are sign-extended to the operand size, then as said. */
  read(i: number): Int;
  /** Set operand `i` (a 4-byte register write clears the upper half: SDM vol. 1, 3.4.1.1). May fault where it is memory. */
  write(i: number, value: Int): void;
  /** Read, change, write operand `i`; `change` gets the old value and gives the new one. LOCK makes it atomic. Gives [old, new]. */
  update(i: number, change: (old: Int) => Int): [Int, Int];
  /**
   * The same for 16 bytes, aligned, as two halves: `change` gets the old low and high half and gives the new ones. Gives the
   * old ones.
   */
  updatePair(address: I64, change: (low: I64, high: I64) => [I64, I64]): [I64, I64];
  /** Linear address of memory operand `i` (i64), or its effective address for LEA. */
  address(i: number): I64;
  /** The immediate as stored in the record, sign-extended to 64 bits. */
  immediate(): I64;
  /** The register number or constant in r0, r1 or r2. */
  number(i: number): I32;

  // --- registers ---
  gpr(n: number, size?: OperandSize): Int;
  setGpr(n: number, value: Int, size?: OperandSize): void;
  /** Load and store fields of the vCPU's state by offset. */
  field32(offset: number): I32;
  field64(offset: number): I64;
  setField32(offset: number, value: I32): void;
  setField64(offset: number, value: I64): void;

  // --- vectors ---
  /** State offset (i32, an address to which the field's place is added: cpu + rN) of register operand `i`. */
  registerAddress(i: number): I32;
  /** All 16 bytes of XMM operand `i`, or of memory; `aligned` memory raises #GP where it is not on 16 bytes. */
  readVector(i: number, aligned?: boolean): V128;
  writeVector(i: number, value: V128, aligned?: boolean): void;
  /** XMM register `n` where the instruction fixes it (BLENDV, PCMPxSTRM). */
  xmm(n: number): V128;
  setXmm(n: number, value: V128): void;
  /** Run `body`, which reads or writes XMM registers where they are in the vCPU's state, and not through this context. */
  withVectorsInState(body: () => void): void;
  /** #UD or #NM where SSE, x87 or MMX must not run now (SDM vol. 3A, tables 2-2 and 13-1). First thing in a definition. */
  requireSse(): void;
  requireFpu(): void;
  requireMmx(): void;

  // --- memory ---
  /** Load `size` bytes at linear address `address`, zero-extended; i64 for 8, else i32. */
  load(size: OperandSize, address: I64): Int;
  store(size: OperandSize, address: I64, value: Int): void;
  loadVector(address: I64, aligned?: boolean): V128;
  storeVector(address: I64, value: V128, aligned?: boolean): void;
  /** Ensure that `bytes` (≤ 512) at `address` can be written: faults now or not at all. */
  probeWrite(address: I64, bytes: number): void;
  /** Segment base + offset with the limit and type checks that the mode asks for. `seg`: a Seg number. */
  linear(seg: number, offset: I64, bytes: number, write: boolean): I64;
  /** As `linear`, for the data segment that the instruction's prefixes choose (string instructions: r2 holds it). */
  linearDataSegment(offset: I64, bytes: number, write?: boolean): I64;

  // --- stack ---
  /** Push values of `size` bytes in order; all stores are checked before RSP changes. */
  push(size: OperandSize, ...values: Int[]): void;
  /** The value `depth` units above the stack top; RSP is not changed. */
  peek(size: OperandSize, depth?: number): Int;
  /** Add to RSP in the stack's width. */
  addSp(delta: I64 | number): void;

  /** `size` bytes at offset `sp` of the stack segment. */
  loadAtStackTop(size: OperandSize, sp: I64): Int;
  /** Selector of the segment register whose number is operand `i`. */
  selector(i: number): I32;

  // --- many elements of a string at once; both do nothing and give 0 where they cannot ---
  /** Copy up to `count` elements from the data segment at `from` to ES at `to` and move RSI and RDI; gives how many. */
  bulkCopy(from: I64, to: I64, count: I64): I64;
  /** Store the accumulator up to `count` times from ES:`to` on and move RDI; gives how many. */
  bulkFill(to: I64, count: I64): I64;

  /** The time-stamp counter. */
  timestamp(): I64;

  // --- flags ---
  /** All of EFLAGS as PUSHF sees it. */
  flagsWord(): I32;
  /** Set CF, PF, AF, ZF, SF and OF from their places in `word`. */
  setFlagsWord(word: I32): void;
  /** EFLAGS went from `old` to `next`: see to single-stepping, alignment checks and waiting interrupts. May end the instruction. */
  afterFlagsChange(old: I32, next: I32): void;
  /** EFLAGS.AC changed at CPL 0: use the TLB for it. */
  selectSupervisorTlb(eflags: I32): void;
  setFlags(flags: FlagUpdate): void;
  /** To be called, outside of any condition, before `setFlags` is used on some paths of a definition only. */
  settleFlags(): void;
  /** 0 or 1. */
  flag(name: FlagName): I32;
  /** Condition code 0–15 as Jcc encodes it (SDM vol. 1, appendix B): 0 or not 0. */
  condition(code: number): I32;

  // --- control ---
  /** To `pageRip` + the record's immediate, where `condition` holds (always where left out). Ends the definition's path. */
  branch(condition?: I32): void;
  /** To RIP = `target`. Ends the path. */
  jump(target: I64): void;
  /** As `jump`, to what an instruction without an immediate names: it often goes where it went before. */
  jumpIndirect(target: I64): void;
  /** RIP of this instruction. */
  rip(): I64;
  /** RIP of the next instruction. */
  nextRip(): I64;
  /** Raise an exception at this instruction. Ends the path. */
  fault(vector: number, errorCode?: number): void;
  faultIf(condition: I32, vector: number, errorCode?: number): void;
  /** Leave to TypeScript: run system operation `name` (system/operation-names) with this record; `values` go to state.scratch. Ends the path. */
  system(name: string, ...values: Int[]): void;
  /** End this instruction: go on with the next. Implied at the end of a definition. */
  next(): void;
  /** As `next`, but through the dispatcher, which looks at interrupts and modes again. */
  nextThroughDispatcher(): void;
  /** Run the same instruction again after the dispatcher has looked at what `poll` asks for (REP in the middle). */
  pollAndRepeat(): void;
}

/** A function that several definitions call, emitted once a module. */
export interface SharedFunction<
  P extends readonly ("i32" | "i64" | "f32" | "f64" | "v128")[] = readonly (
    | "i32"
    | "i64"
    | "f32"
    | "f64"
    | "v128"
  )[],
  R extends "i32" | "i64" | "f32" | "f64" | "v128" | undefined =
    | "i32"
    | "i64"
    | "f32"
    | "f64"
    | "v128"
    | undefined,
> {
  readonly name: string;
  readonly params: P;
  readonly result: R;
  /** Parameter expressions come as `f.params[i].get`; `use` gives other shared functions. */
  readonly body: (
    f: FunctionBuilder,
    use: <
      P2 extends readonly ("i32" | "i64" | "f32" | "f64" | "v128")[],
      R2 extends "i32" | "i64" | "f32" | "f64" | "v128" | undefined,
    >(
      g: SharedFunction<P2, R2>,
    ) => FuncRef<P2, R2>,
  ) => void;
}

export type Definition = (x: InstrContext) => void;

export type { AtomicWidth, Expr, F32, F64 };
