/**
 * The hot tier's instruction context: emits an instruction as part of a region, with its operands known, guest registers
 * in locals, and flags computed where something reads them.
 */
import {
  ColdContext,
  type HandlerForm,
  loadInt,
  PAGE_MASK,
  signExtend,
  storeInt,
} from "../cold/cold-context.js";
import type { Runtime } from "../cold/runtime.js";
import type { FlagName, FlagUpdate, OperandSize } from "../isa/context.js";
import { Dtlb, type DtlbHalf, gprOffset, Leave, O, Rec, xmmOffset } from "../vcpu-state.js";
import { I32, I64, type Int, load32, load64, loadV128, type V128 } from "../wasm/expr.js";
import type { FunctionBuilder, Label, Local, ModuleBuilder } from "../wasm/module.js";
import { lane, lane64 } from "../wasm/simd.js";
import type { Instruction } from "./region.js";
import { RegionFlags } from "./region-flags.js";
import { gprNumber, type RegisterHomes, RSP, vectorNumber } from "./register-homes.js";

/** The record's `link` counts wrong guesses in its lower bits, and above them how often a region was made anew for them. */
const GUESS_COUNT_BITS = 24;
/** Wrong guesses until a region is first made anew, log2. */
const FIRST_DOUBT_BITS = 8;

/** A definition does what the hot tier cannot express: the instruction stays with the cold tier. */
export class NotTranslatable extends Error {}

/** What all instructions of a region share. */
export class RegionState {
  readonly #gprs: (Local<"i64"> | undefined)[] = [];
  readonly #written = new Set<number>();
  readonly #vectors: (Local<"v128"> | undefined)[] = [];
  readonly #vectorsWritten = new Set<number>();
  readonly dtlb: Local<"i32">;
  readonly pageRip: Local<"i64">;
  /** Where an exit goes: RIP for `jump`, a record for `arrive`. */
  readonly target: Local<"i64">;
  readonly record: Local<"i32">;
  readonly flags: RegionFlags;
  /** FPU availability already checked in this block. */
  readonly checkedTraps = new Set<string>();
  exitLeave!: Label;
  exitJump!: Label;
  exitRecord!: Label;

  constructor(
    readonly f: FunctionBuilder,
    readonly cpu: I32,
    readonly homes: RegisterHomes,
    /** InstrContext.exactSoFar, when the region is made. */
    readonly exactSoFar: boolean,
    settleFlags: RegionFlags["settle"],
  ) {
    this.dtlb = f.local("i32");
    this.pageRip = f.local("i64");
    this.target = f.local("i64");
    this.record = f.local("i32");
    this.flags = new RegionFlags(f, cpu, settleFlags);
  }

  /** The local that a general register is in, or undefined where it is in the vCPU's state. */
  gprLocal(n: number): Local<"i64"> | undefined {
    if (!this.homes.gprs.has(n)) return undefined;
    this.#gprs[n] ??= this.f.local("i64");
    return this.#gprs[n];
  }

  gpr(n: number): I64 {
    return this.gprLocal(n)?.get ?? load64(this.cpu, gprOffset(n));
  }

  setGpr(n: number, value: I64): void {
    const local = this.gprLocal(n);
    if (local === undefined) {
      this.f.store64(this.cpu, value, gprOffset(n));
      return;
    }
    this.#written.add(n);
    this.f.set(local, value);
  }

  #vectorLocal(n: number): Local<"v128"> | undefined {
    if (!this.homes.vectors.has(n)) return undefined;
    this.#vectors[n] ??= this.f.local("v128");
    return this.#vectors[n];
  }

  vector(n: number): V128 {
    return this.#vectorLocal(n)?.get ?? loadV128(this.cpu, xmmOffset(n));
  }

  setVector(n: number, value: V128): void {
    const local = this.#vectorLocal(n);
    if (local === undefined) {
      this.f.storeV128(this.cpu, value, xmmOffset(n));
      return;
    }
    this.#vectorsWritten.add(n);
    this.f.set(local, value);
  }

  /** What `body` does to the XMM registers in the vCPU's state is done to the region's. */
  withVectorsInState(body: () => void): void {
    const { f, cpu } = this;
    const { vectors } = this.homes;
    for (const n of vectors) f.storeV128(cpu, this.vector(n), xmmOffset(n));
    body();
    for (const n of vectors) this.setVector(n, loadV128(cpu, xmmOffset(n)));
  }

  leave(): void {
    this.f.br(this.exitLeave);
  }

  jump(rip: I64): void {
    this.f.set(this.target, rip);
    this.f.br(this.exitJump);
  }

  /**
   * Jump to `rip`, where an indirect branch, which has `record`, went other than the region of `entryRecord` has it. After
   * 256 times to the same target without another between, the region is given up, to be made anew with that; then after
   * 4,096 times, 65,536 and so on, as a branch may go to and fro.
   */
  jumpAgainstGuess(rip: I64, record: number, entryRecord: number): void {
    const { f, cpu } = this;
    const at = I32.const(record);
    const known = f.let(load64(at, Rec.imm).eq(rip));
    f.store64(at, rip, Rec.imm);
    const before = f.let(load32(at, Rec.link));
    const remade = f.let(before.shrU(GUESS_COUNT_BITS));
    const again = before.add(1).and((1 << GUESS_COUNT_BITS) - 1);
    const count = f.let(again.select(known, I32.const(0)));
    f.store32(at, remade.shl(GUESS_COUNT_BITS).or(count), Rec.link);
    f.if(count.shrU(remade.shl(2).add(FIRST_DOUBT_BITS)), () => {
      f.store32(at, remade.add(1).shl(GUESS_COUNT_BITS), Rec.link);
      f.store64(cpu, rip, O.rip);
      f.store32(cpu, I32.const(entryRecord), O.leaveDetail);
      f.store32(cpu, I32.const(Leave.WRONG_GUESS), O.leave);
      this.leave();
    });
    this.jump(rip);
  }

  arrive(record: number): void {
    this.f.set(this.record, I32.const(record));
    this.f.br(this.exitRecord);
  }

  /** The guest's registers and flags to the vCPU's state. */
  spill(): void {
    for (const n of this.#written) this.f.store64(this.cpu, this.gpr(n), gprOffset(n));
    for (const n of this.#vectorsWritten) this.f.storeV128(this.cpu, this.vector(n), xmmOffset(n));
    this.flags.spill();
  }

  /** What the region's start loads; to be called when all of it is emitted. */
  loadAtStart(): void {
    const { f, cpu } = this;
    f.atStart(() => {
      f.set(this.dtlb, load32(cpu, O.dtlb));
      f.set(this.pageRip, load64(cpu, O.pageRip));
      this.#gprs.forEach((local, n) => {
        if (local !== undefined) f.set(local, load64(cpu, gprOffset(n)));
      });
      this.#vectors.forEach((local, n) => {
        if (local !== undefined) f.set(local, loadV128(cpu, xmmOffset(n)));
      });
      this.flags.loadAtStart();
    });
  }
}

export class HotContext extends ColdContext {
  /** How the instruction ends, where it branches within the page: always, or where the condition is not zero. */
  branchCondition: I32 | "always" | undefined;
  /** Where it goes, where that is known at run time only. */
  jumpTarget: I64 | undefined;
  /** The instruction ended by an exit at its top level. */
  left = false;
  #direct = false;
  readonly #depth: number;

  constructor(
    module: ModuleBuilder,
    runtime: Runtime,
    f: FunctionBuilder,
    cpu: I32,
    readonly region: RegionState,
    readonly instruction: Instruction,
    form: HandlerForm,
    /** Linear address that the instruction's place counts from. */
    readonly baseRip: Local<"i64">,
    /** Flags that matter afterwards. */
    readonly liveFlags: number,
  ) {
    super(module, runtime, f, cpu, I32.const(instruction.record), form);
    this.#depth = f.depth;
  }

  override begin(): void {
    const { memory } = this.instruction;
    if (memory === undefined) return;
    const { f, region, instruction, baseRip } = this;
    let offset: I64;
    if (memory.ripRelative) {
      offset = baseRip.get.add(I64.const(memory.displacement + instruction.at + instruction.length));
    } else {
      const base = gprNumber(memory.base);
      const index = gprNumber(memory.index);
      const parts: I64[] = [];
      if (base >= 0) parts.push(region.gpr(base));
      if (index >= 0) parts.push(region.gpr(index).shl(memory.shift));
      const displacement = I64.const(memory.displacement);
      offset = parts.length === 0 ? displacement : parts.reduce((a, b) => a.add(b)).add(displacement);
    }
    if (instruction.row.bitOffset === true) {
      // Whole operands up or down from the bit number in the register (SDM vol. 2, BT).
      const bit = signExtend(this.read(1), this.size);
      offset = offset.add(bit.shrS(3).and(-this.size));
    }
    if (memory.addressSize === 4) offset = offset.and(I64.const(0xffffffff));
    if (memory.segmentBase !== O.zero) offset = offset.add(load64(this.cpu, memory.segmentBase));
    this.memoryAddress = f.let(offset);
    // A constant address stays an expression of its own, so that definitions can tell it from others.
  }

  override finish(): void {}

  override get leavesFlags(): boolean {
    return true;
  }

  override get exactSoFar(): boolean {
    return this.region.exactSoFar;
  }

  protected override end(): void {
    if (this.f.depth === this.#depth) this.left = true;
  }

  // --- operands ---

  override registerAddress(i: number): I32 {
    const offset = this.instruction.registers[i];
    if (gprNumber(offset) >= 0 || vectorNumber(offset) >= 0)
      throw new NotTranslatable(`${this.instruction.row.mnemonic}: address of a register`);
    return this.cpu.add(offset);
  }

  override immediate(): I64 {
    return I64.const(this.instruction.immediate);
  }

  override number(i: number): I32 {
    return I32.const(this.instruction.registers[i]);
  }

  override read(i: number): Int {
    const { kind, size } = this.operands[i];
    if (kind === "imm") return immediateOf(this.instruction.immediate, size);
    if (kind === "reg") {
      const offset = this.instruction.registers[i];
      const n = gprNumber(offset);
      if (n >= 0) return this.#readGpr(n, size as OperandSize, (offset & 1) !== 0);
      const vector = vectorNumber(offset);
      if (vector >= 0 && size === 8) return this.f.let(lane64(this.region.vector(vector), 0));
      if (vector >= 0 && size === 4) return this.f.let(lane("i32x4", this.region.vector(vector), 0));
    }
    return super.read(i);
  }

  override write(i: number, value: Int): void {
    const { kind, size } = this.operands[i];
    if (kind === "reg") {
      const offset = this.instruction.registers[i];
      const n = gprNumber(offset);
      if (n >= 0) {
        this.#writeGpr(n, value, size as OperandSize, (offset & 1) !== 0);
        return;
      }
    }
    super.write(i, value);
  }

  override readVector(i: number, aligned = false): V128 {
    const n = this.#vectorOperand(i);
    return n < 0 ? super.readVector(i, aligned) : this.xmm(n);
  }
  override writeVector(i: number, value: V128, aligned = false): void {
    const n = this.#vectorOperand(i);
    if (n < 0) super.writeVector(i, value, aligned);
    else this.setXmm(n, value);
  }
  override xmm(n: number): V128 {
    return this.f.let(this.region.vector(n));
  }
  override setXmm(n: number, value: V128): void {
    this.region.setVector(n, value);
  }
  override withVectorsInState(body: () => void): void {
    this.region.withVectorsInState(body);
  }
  #vectorOperand(i: number): number {
    return this.operands[i].kind === "reg" ? vectorNumber(this.instruction.registers[i]) : -1;
  }

  #readGpr(n: number, size: OperandSize, high: boolean): Int {
    const { region, cpu, f } = this;
    const local = region.gprLocal(n)?.get;
    if (local === undefined) return f.let(loadInt(size, cpu, gprOffset(n) + (high ? 1 : 0)));
    if (size === 8) return f.let(local);
    if (size === 4) return f.let(local.toI32());
    const low = high ? local.toI32().shrU(8) : local.toI32();
    return f.let(low.and(size === 1 ? 0xff : 0xffff));
  }

  #writeGpr(n: number, value: Int, size: OperandSize, high: boolean): void {
    const { region } = this;
    if (size === 8) region.setGpr(n, value.toI64U());
    else if (size === 4) region.setGpr(n, value.toI32().toI64U());
    else {
      const mask = size === 2 ? 0xffffn : high ? 0xff00n : 0xffn;
      const low = value.toI64U().and(I64.const(size === 1 ? 0xff : 0xffff));
      const old = region.gpr(n).and(I64.const(~mask));
      region.setGpr(n, old.or(high ? low.shl(8) : low));
    }
  }

  override gpr(n: number, size: OperandSize = 8): Int {
    return this.#readGpr(n, size, false);
  }
  override setGpr(n: number, value: Int, size: OperandSize = 8): void {
    this.#writeGpr(n, value, size, false);
  }
  override addSp(delta: I64 | number): void {
    this.region.setGpr(4, this.region.gpr(4).add(delta));
  }

  override requireSse(): void {
    this.#once("sse", () => super.requireSse());
  }
  override requireFpu(): void {
    this.#once("fpu", () => super.requireFpu());
  }
  override requireMmx(): void {
    this.#once("mmx", () => super.requireMmx());
  }
  #once(what: string, check: () => void): void {
    const { checkedTraps } = this.region;
    if (checkedTraps.has(what)) return;
    checkedTraps.add(what);
    check();
  }

  // --- memory ---

  readonly #stackAddresses = new Set<I64>();

  protected override stackLinear(offset: I64, bytes: number, write: boolean): I64 {
    const linear = super.stackLinear(offset, bytes, write);
    this.#stackAddresses.add(linear);
    return linear;
  }

  /** Whether `va` is, as a rule, in the page that the stack was used in last. */
  #isStack(va: I64): boolean {
    const { memory } = this.instruction;
    if (memory === undefined || va !== this.memoryAddress) return this.#stackAddresses.has(va);
    const { base, index, segmentBase, addressSize } = memory;
    return base === gprOffset(RSP) && index === O.zero && segmentBase === O.zero && addressSize === 8;
  }

  protected override probe(
    va: I64,
    bytes: number,
    half: DtlbHalf,
    hit: (at: I32) => void,
    miss: () => void,
  ): void {
    if (!this.#isStack(va)) {
      super.probe(va, bytes, half, hit, miss);
      return;
    }
    const { f, cpu } = this;
    // Only for aligned accesses, which never cross into the next page.
    const page = va.and(PAGE_MASK | (bytes - 1));
    f.if(
      page.eq(load64(cpu, O.stackPage)),
      () => hit(va.toI32().add(load32(cpu, O.stackAddend))),
      miss,
      true,
    );
  }

  /** Linear-memory address of `bytes` at `va`: by the TLB, or what `miss` gives, which is 0 to leave. */
  #place(va: I64, bytes: number, half: DtlbHalf, miss: () => I32): I32 {
    const { f } = this;
    const at = f.temporary("i32");
    this.probe(
      va,
      bytes,
      half,
      (hit) => f.set(at, hit),
      () => {
        f.set(at, miss());
        f.brIf(this.region.exitLeave, at.get.eqz(), false);
      },
    );
    at.get.isFixed = true;
    return at.get;
  }

  #placeToRead(va: I64, bytes: number, kind: number): I32 {
    const { f, runtime, cpu, rec } = this;
    const info = I32.const(bytes | (kind << 8));
    const load = this.#isStack(va) ? runtime.stackLoad : runtime.missLoad;
    return this.#place(va, bytes, Dtlb.read, () => f.call(load, cpu, rec, va, info));
  }

  protected override loadKind(size: OperandSize, va: I64, kind: number): Int {
    return this.f.let(loadInt(size, this.#placeToRead(va, size, kind), 0));
  }

  override loadVector(address: I64, aligned = false): V128 {
    const va = this.f.let(address);
    this.checkAligned(va, aligned);
    return this.f.let(loadV128(this.#placeToRead(va, 16, 0)));
  }

  protected override missStore(va: I64, info: number, value: Int): void {
    const { f, runtime, cpu, rec } = this;
    const store = this.#isStack(va) ? runtime.stackStore : runtime.missStore;
    const left = f.call(store, cpu, rec, va, I32.const(info), value.toI64U());
    f.brIf(this.region.exitLeave, left, false);
  }

  protected override missStoreVector(va: I64): void {
    const { f, runtime, cpu, rec } = this;
    const store = this.#isStack(va) ? runtime.stackStoreBytes : runtime.missStoreBytes;
    f.brIf(this.region.exitLeave, f.call(store, cpu, rec, va, I32.const(16)), false);
  }

  protected override updateAt(size: OperandSize, va: I64, change: (old: Int) => Int): [Int, Int] {
    if (this.lock) return super.updateAt(size, va, change);
    const { f, runtime, cpu, rec } = this;
    this.noteWrite(va);
    const update = this.#isStack(va) ? runtime.stackUpdate : runtime.missUpdate;
    const at = this.#place(va, size, Dtlb.write, () => f.call(update, cpu, rec, va, I32.const(size)));
    const old = f.let(loadInt(size, at, 0));
    const result = f.let(change(old));
    storeInt(f, size, at, result);
    return [old, result];
  }

  protected override get dataTlb(): I32 {
    return this.region.dtlb.get;
  }

  protected override leave(): void {
    this.region.leave();
  }

  protected override slowStoreDone(): void {
    super.slowStoreDone();
    this.mayChangeCode = true;
  }

  /** The instruction has a store that may have changed code, which `poll` says then. */
  mayChangeCode = false;

  /** The functions work on the registers in the vCPU's state. */
  #withRegistersInState(registers: readonly number[], changed: readonly number[], work: () => I64): I64 {
    const { f, cpu, region } = this;
    const inLocals = (n: number) => region.homes.gprs.has(n);
    for (const n of registers.filter(inLocals)) f.store64(cpu, region.gpr(n), gprOffset(n));
    const result = f.let(work());
    for (const n of changed.filter(inLocals)) region.setGpr(n, load64(cpu, gprOffset(n)));
    return result;
  }
  override bulkCopy(from: I64, to: I64, count: I64): I64 {
    return this.#withRegistersInState([6, 7], [6, 7], () => super.bulkCopy(from, to, count));
  }
  override bulkFill(to: I64, count: I64): I64 {
    return this.#withRegistersInState([0, 7], [7], () => super.bulkFill(to, count));
  }

  override selectSupervisorTlb(eflags: I32): void {
    super.selectSupervisorTlb(eflags);
    this.f.set(this.region.dtlb, load32(this.cpu, O.dtlb));
  }

  // --- flags ---

  override settleFlags(): void {
    this.region.flags.computeAll();
    this.#direct = true;
  }

  override setFlags(update: FlagUpdate): void {
    const { flags } = this.region;
    if (this.#direct) flags.setHere(update, this.size);
    else if (this.f.depth === this.#depth) flags.set(update, this.liveFlags, this.size);
    else if (update.later !== undefined)
      flags.setOnSomePaths(update.later, update.result as Int, this.liveFlags);
    else throw new NotTranslatable(`${this.instruction.row.mnemonic}: flags on some paths`);
  }

  override setFlagsWord(word: I32): void {
    super.setFlagsWord(this.f.let(word));
  }

  protected override flagNow(name: FlagName): I32 {
    return this.region.flags.read(name, this.f.depth === this.#depth);
  }

  override condition(code: number): I32 {
    const compared = this.#compared(code >> 1);
    if (compared === undefined) return super.condition(code);
    return this.f.let((code & 1) !== 0 ? compared.eqz() : compared);
  }

  /** The condition pair as a comparison, where the flags are those of one. */
  #compared(pair: number): I32 | undefined {
    const { compare } = this.region.flags.known;
    if (compare === undefined) return undefined;
    const { a, b, size } = compare;
    const extend = (v: Int) => (size === 1 ? v.extend8S() : size === 2 ? v.extend16S() : v);
    switch (pair) {
      case 1:
        return a.ltU(b);
      case 2:
        return a.eq(b);
      case 3:
        return a.leU(b);
      case 6:
        return extend(a).ltS(extend(b));
      case 7:
        return extend(a).leS(extend(b));
      default:
        return undefined;
    }
  }

  // --- control ---

  override branch(condition?: I32): void {
    this.branchCondition = condition === undefined ? "always" : this.f.let(condition);
  }

  override jump(target: I64): void {
    if (this.f.depth === this.#depth) {
      this.jumpTarget = target;
      return;
    }
    this.region.jump(target);
    this.end();
  }

  override rip(): I64 {
    return this.baseRip.get.add(I64.const(this.instruction.at));
  }
  override nextRip(): I64 {
    return this.f.let(this.baseRip.get.add(I64.const(this.instruction.at + this.instruction.length)));
  }

  override next(): void {}
}

function immediateOf(value: bigint, size: number): Int {
  if (size === 8) return I64.const(value);
  return I32.const(Number(BigInt.asUintN(size === 4 ? 32 : 8 * size, value)));
}
