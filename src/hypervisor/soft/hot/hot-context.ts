/**
 * The hot tier's instruction context: emits an instruction as part of a region, with its operands known, guest registers
 * in locals, and flags computed where something reads them.
 */
import { ColdContext, type HandlerForm, signExtend } from "../cold/cold-context.js";
import type { Runtime } from "../cold/runtime.js";
import type { FlagName, FlagUpdate, OperandSize } from "../isa/context.js";
import { DTLB_ENTRIES, Dtlb, gprOffset, O } from "../vcpu-state.js";
import { I32, I64, type Int, load32, load64 } from "../wasm/expr.js";
import type { FunctionBuilder, Label, Local, ModuleBuilder } from "../wasm/module.js";
import { ALL_FLAGS, FlagBit } from "./effects.js";
import type { Instruction } from "./region.js";

/** A definition does what the hot tier cannot express: the instruction stays with the cold tier. */
export class NotTranslatable extends Error {}

/** Arithmetic flags that the last instructions have set, not computed yet: expressions over locals set once. */
interface PendingFlags {
  cf?: Int;
  of?: Int;
  af?: Int;
  zero?: I64;
  signParity?: I64;
  /** All flags are those of a − b: conditions compare instead. */
  compare?: { a: Int; b: Int; size: OperandSize };
}

/** What all instructions of a region share. */
export class RegionState {
  readonly gprs: (Local<"i64"> | undefined)[] = [];
  readonly written = new Set<number>();
  readonly dtlb: Local<"i32">;
  readonly pageRip: Local<"i64">;
  /** Not zero: a store changed code, and the region has to be left. */
  readonly stale: Local<"i32">;
  /** Where an exit goes: RIP for `jump`, a record for `arrive`. */
  readonly target: Local<"i64">;
  readonly record: Local<"i32">;
  flagsUsed = false;
  flagsWritten = false;
  readonly flags: {
    readonly zero: Local<"i64">;
    readonly signParity: Local<"i64">;
    readonly cf: Local<"i32">;
    readonly of: Local<"i32">;
    readonly af: Local<"i32">;
  };
  pending: PendingFlags = {};
  /** FPU availability already checked in this block. */
  readonly checkedTraps = new Set<string>();
  exitLeave!: Label;
  exitJump!: Label;
  exitRecord!: Label;

  constructor(readonly f: FunctionBuilder) {
    this.dtlb = f.local("i32");
    this.pageRip = f.local("i64");
    this.stale = f.local("i32");
    this.target = f.local("i64");
    this.record = f.local("i32");
    this.flags = {
      zero: f.local("i64"),
      signParity: f.local("i64"),
      cf: f.local("i32"),
      of: f.local("i32"),
      af: f.local("i32"),
    };
  }

  gpr(n: number): Local<"i64"> {
    this.gprs[n] ??= this.f.local("i64");
    return this.gprs[n];
  }

  setGpr(n: number, value: I64): void {
    this.written.add(n);
    this.f.set(this.gpr(n), value);
  }

  /** Bring the pending flags in `mask` to their locals. */
  materialize(mask: number): void {
    const { f, pending, flags } = this;
    const has = (name: FlagName) => (mask & FlagBit[name]) !== 0;
    const { cf, of, af, zero, signParity } = pending;
    if (cf !== undefined && has("cf")) f.set(flags.cf, cf.toI32());
    if (of !== undefined && has("of")) f.set(flags.of, of.toI32());
    if (af !== undefined && has("af")) f.set(flags.af, af.toI32());
    if (zero !== undefined && has("zf")) f.set(flags.zero, zero);
    if (signParity !== undefined && (has("sf") || has("pf"))) f.set(flags.signParity, signParity);
    if (Object.keys(pending).length > 0) this.flagsWritten = true;
  }

  /** At an exit, on whatever path: all flags where the exit finds them. The pending ones stay pending for other paths. */
  materializeForExit(): void {
    this.materialize(ALL_FLAGS);
  }

  /** As `materialize`, for all paths from here on. */
  settle(mask: number): void {
    this.materialize(mask);
    const { pending } = this;
    const has = (bits: number) => (mask & bits) !== 0;
    delete pending.compare;
    if (has(FlagBit.cf)) delete pending.cf;
    if (has(FlagBit.of)) delete pending.of;
    if (has(FlagBit.af)) delete pending.af;
    if (has(FlagBit.zf)) delete pending.zero;
    if (has(FlagBit.sf | FlagBit.pf)) delete pending.signParity;
  }

  leave(): void {
    this.materializeForExit();
    this.f.br(this.exitLeave);
  }

  jump(rip: I64): void {
    this.f.set(this.target, rip);
    this.materializeForExit();
    this.f.br(this.exitJump);
  }

  arrive(record: number): void {
    this.f.set(this.record, I32.const(record));
    this.materializeForExit();
    this.f.br(this.exitRecord);
  }

  /** The guest's registers and flags to the vCPU's state. */
  spill(cpu: I32): void {
    const { f, flags } = this;
    for (const n of this.written) f.store64(cpu, this.gpr(n).get, gprOffset(n));
    if (!this.flagsWritten) return;
    f.store64(cpu, flags.zero.get, O.flagZ);
    f.store64(cpu, flags.signParity.get, O.flagS);
    f.store8(cpu, flags.cf.get, O.flagC);
    f.store8(cpu, flags.of.get, O.flagO);
    f.store8(cpu, flags.af.get, O.flagA);
  }

  /** What the region's start loads; to be called when all of it is emitted. */
  loadAtStart(cpu: I32): void {
    const { f, flags } = this;
    f.atStart(() => {
      f.set(this.dtlb, load32(cpu, O.dtlb));
      f.set(this.pageRip, load64(cpu, O.pageRip));
      this.gprs.forEach((local, n) => {
        if (local !== undefined) f.set(local, load64(cpu, gprOffset(n)));
      });
      if (!this.flagsUsed && !this.flagsWritten) return;
      f.set(flags.zero, load64(cpu, O.flagZ));
      f.set(flags.signParity, load64(cpu, O.flagS));
      const bytes = f.let(load32(cpu, O.flagC));
      f.set(flags.cf, bytes.and(1));
      f.set(flags.of, bytes.shrU(8).and(1));
      f.set(flags.af, bytes.shrU(16));
    });
  }
}

/** Number of the general register at a state offset, or −1; the high byte registers are one byte further. */
function gprNumber(offset: number): number {
  return offset >= O.gpr && offset < O.gpr + 128 ? (offset - O.gpr) >> 3 : -1;
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
  ) {
    super(module, runtime, f, cpu, I32.const(instruction.record), form);
    this.#depth = f.depth;
  }

  override begin(): void {
    const { memory } = this.instruction;
    if (memory === undefined) return;
    const { f, region, instruction } = this;
    let offset: I64;
    if (memory.ripRelative) {
      offset = region.pageRip.get.add(I64.const(memory.displacement + instruction.at + instruction.length));
    } else {
      const base = gprNumber(memory.base);
      const index = gprNumber(memory.index);
      const parts: I64[] = [];
      if (base >= 0) parts.push(region.gpr(base).get);
      if (index >= 0) parts.push(region.gpr(index).get.shl(memory.shift));
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

  protected override end(): void {
    if (this.f.depth === this.#depth) this.left = true;
  }

  // --- operands ---

  override registerAddress(i: number): I32 {
    const offset = this.instruction.registers[i];
    if (gprNumber(offset) >= 0)
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

  #readGpr(n: number, size: OperandSize, high: boolean): Int {
    const local = this.region.gpr(n).get;
    if (size === 8) return this.f.let(local);
    if (size === 4) return this.f.let(local.toI32());
    const low = high ? local.toI32().shrU(8) : local.toI32();
    return this.f.let(low.and(size === 1 ? 0xff : 0xffff));
  }

  #writeGpr(n: number, value: Int, size: OperandSize, high: boolean): void {
    const { region } = this;
    if (size === 8) region.setGpr(n, value.toI64U());
    else if (size === 4) region.setGpr(n, value.toI32().toI64U());
    else {
      const mask = size === 2 ? 0xffffn : high ? 0xff00n : 0xffn;
      const low = value.toI64U().and(I64.const(size === 1 ? 0xff : 0xffff));
      const old = region.gpr(n).get.and(I64.const(~mask));
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
    this.region.setGpr(4, this.region.gpr(4).get.add(delta));
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

  protected override probe(
    va: I64,
    bytes: number,
    tag: number,
    hit: (at: I32) => void,
    miss: () => void,
  ): void {
    const { f } = this;
    const entry = f.let(
      this.region.dtlb.get.add(
        va
          .shrU(12 - Math.log2(Dtlb.size))
          .toI32()
          .and((DTLB_ENTRIES - 1) * Dtlb.size),
      ),
    );
    f.if(
      load64(entry, tag).eq((bytes === 1 ? va : va.add(bytes - 1)).and(~0xfff)),
      () => hit(va.toI32().add(load32(entry, Dtlb.addend))),
      miss,
    );
  }

  protected override leave(): void {
    this.region.leave();
  }

  protected override slowStoreDone(): void {
    super.slowStoreDone();
    this.f.set(this.region.stale, load32(this.cpu, O.poll));
    this.mayChangeCode = true;
  }

  /** The instruction has a store whose slow path may have changed code. */
  mayChangeCode = false;

  /** The functions work on the registers in the vCPU's state. */
  #withRegistersInState(registers: readonly number[], changed: readonly number[], work: () => I64): I64 {
    const { f, cpu, region } = this;
    for (const n of registers) f.store64(cpu, region.gpr(n).get, gprOffset(n));
    const result = f.let(work());
    for (const n of changed) region.setGpr(n, load64(cpu, gprOffset(n)));
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
    const { region } = this;
    region.materialize(ALL_FLAGS);
    region.pending = {};
    this.#direct = true;
    region.flagsWritten = true;
  }

  override setFlags(update: FlagUpdate): void {
    const { f, region } = this;
    const { cf, of, af, result, zero, signParity, compare } = update;
    const wide = result === undefined ? undefined : f.let(signExtend(result, this.size));
    const next: PendingFlags = {};
    if (cf !== undefined) next.cf = cf;
    if (of !== undefined) next.of = of;
    if (af !== undefined) next.af = af;
    if (zero !== undefined || wide !== undefined) next.zero = (zero ?? wide) as I64;
    if (signParity !== undefined || wide !== undefined) next.signParity = (signParity ?? wide) as I64;
    if (this.#direct) {
      const saved = region.pending;
      region.pending = next;
      region.materialize(ALL_FLAGS);
      region.pending = saved;
      return;
    }
    if (f.depth !== this.#depth)
      throw new NotTranslatable(`${this.instruction.row.mnemonic}: flags on some paths`);
    delete region.pending.compare;
    Object.assign(region.pending, next);
    if (compare !== undefined) region.pending.compare = compare;
    region.flagsWritten = true;
  }

  override setFlagsWord(word: I32): void {
    super.setFlagsWord(this.f.let(word));
  }

  protected override flagNow(name: FlagName): I32 {
    const { region } = this;
    const { pending, flags } = region;
    region.flagsUsed = true;
    switch (name) {
      case "cf":
        return (pending.cf?.toI32() ?? flags.cf.get) as I32;
      case "of":
        return (pending.of?.toI32() ?? flags.of.get) as I32;
      case "af":
        return ((pending.af?.toI32() ?? flags.af.get) as I32).shrU(4).and(1);
      case "zf":
        return (pending.zero ?? flags.zero.get).eqz();
      case "sf":
        return (pending.signParity ?? flags.signParity.get).ltS(0);
      case "pf":
        return (pending.signParity ?? flags.signParity.get).toI32().and(0xff).popcnt().and(1).xor(1);
    }
  }

  override condition(code: number): I32 {
    const compared = this.#compared(code >> 1);
    if (compared === undefined) return super.condition(code);
    return this.f.let((code & 1) !== 0 ? compared.eqz() : compared);
  }

  /** The condition pair as a comparison, where the flags are those of one. */
  #compared(pair: number): I32 | undefined {
    const { compare } = this.region.pending;
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
    return this.region.pageRip.get.add(I64.const(this.instruction.at));
  }
  override nextRip(): I64 {
    return this.f.let(this.region.pageRip.get.add(I64.const(this.instruction.at + this.instruction.length)));
  }

  override next(): void {}
}

function immediateOf(value: bigint, size: number): Int {
  if (size === 8) return I64.const(value);
  return I32.const(Number(BigInt.asUintN(size === 4 ? 32 : 8 * size, value)));
}
