/**
 * The cold tier's instruction context: emits one handler, a wasm function of (cpu, record) that does the instruction with
 * operands from the record and tail-calls the next record's handler. A handler that returns leaves guest code;
 * `state.leave` says why.
 */
import type {
  FlagName,
  FlagUpdate,
  InstrContext,
  OperandForm,
  OperandSize,
  SharedFunction,
} from "../isa/context.js";
import { dataTlbEntry } from "../mmu/tlb-entry.js";
import { lockBus, unlockBus } from "../smp/bus-lock.js";
import { WideOutcome } from "../smp/wide-exchange.js";
import { SystemDetail, systemOperationNumber } from "../system/operation-names.js";
import {
  AccessKind,
  Cr4,
  DTLB_BYTES,
  Dtlb,
  type DtlbHalf,
  Eflags,
  FAULT_NO_ERROR_CODE,
  FpuTrap,
  gprOffset,
  Leave,
  MmuMode,
  NO_STACK_PAGE,
  O,
  RECORD_SIZE,
  Rec,
  Seg,
  TLB_OFFSET,
  Vector,
  xmmOffset,
} from "../vcpu-state.js";
import {
  type AtomicWidth,
  atomicCmpxchg,
  I32,
  I64,
  type Int,
  load8U,
  load16U,
  load32,
  load64,
  loadV128,
  type V128,
  type ValType,
} from "../wasm/expr.js";
import type { FuncRef, FunctionBuilder, Local, ModuleBuilder } from "../wasm/module.js";
import { fromI64, withLane64 } from "../wasm/simd.js";
import { bulkCopyFunction, bulkFillFunction } from "./bulk.js";
import { type Runtime, recordRip } from "./runtime.js";

export interface HandlerForm {
  readonly size: OperandSize;
  readonly addressSize: 2 | 4 | 8;
  readonly long: boolean;
  readonly operands: readonly OperandForm[];
  readonly lock: boolean;
  readonly rep: "none" | "rep" | "repne";
  readonly args: readonly number[];
}

export const PAGE_MASK = ~0xfff;
const REGISTER_FIELD = [Rec.r0, Rec.r1, Rec.r2] as const;

export class ColdContext implements InstrContext {
  get leavesFlags(): boolean {
    return false;
  }

  get exactSoFar(): boolean {
    return false;
  }
  readonly size: OperandSize;
  readonly addressSize: 2 | 4 | 8;
  readonly long: boolean;
  readonly operands: readonly OperandForm[];
  readonly lock: boolean;
  readonly rep: "none" | "rep" | "repne";
  readonly args: readonly number[];
  protected readonly registers: (I32 | undefined)[] = [];
  protected memoryAddress: I64 | undefined;
  protected ended = false;
  /** Whether the definition writes its memory operand: known when it has run. */
  writesMemory = false;

  constructor(
    readonly module: ModuleBuilder,
    readonly runtime: Runtime,
    readonly f: FunctionBuilder,
    readonly cpu: I32,
    readonly rec: I32,
    form: HandlerForm,
  ) {
    this.size = form.size;
    this.addressSize = form.addressSize;
    this.long = form.long;
    this.operands = form.operands;
    this.lock = form.lock;
    this.rep = form.rep;
    this.args = form.args;
  }

  /** To be called before the definition, at the function's top level, so that what it computes holds on every path. */
  begin(): void {
    const { f, cpu, rec } = this;
    if (this.operands.some((operand) => operand.kind === "mem")) {
      this.memoryAddress = f.let(load64(cpu.add(load16U(rec, Rec.base))).add(load32(rec, Rec.disp).toI64S()));
    }
    this.operands.forEach((operand, i) => {
      if (operand.kind === "reg") this.registers[i] = f.let(cpu.add(load16U(rec, REGISTER_FIELD[i])));
    });
  }

  /** To be called after the definition: what it leaves open goes on with the next instruction. */
  finish(): void {
    if (!this.ended) this.next();
  }

  /** The path ends here; at the top level, so does the definition. */
  protected end(): void {
    if (this.f.depth === 0) this.ended = true;
  }

  shared<P extends readonly ValType[], R extends ValType | undefined>(
    maker: SharedFunction<P, R>,
  ): FuncRef<P, R> {
    return this.runtime.shared(maker);
  }

  // --- operands ---

  registerAddress(i: number): I32 {
    const register = this.registers[i];
    if (register === undefined) throw new Error(`operand ${i} is no register`);
    return register;
  }

  address(i: number): I64 {
    if (this.operands[i].kind !== "mem" || this.memoryAddress === undefined) {
      throw new Error(`operand ${i} is no memory`);
    }
    return this.memoryAddress;
  }

  immediate(): I64 {
    return this.f.let(load64(this.rec, Rec.imm));
  }

  number(i: number): I32 {
    return this.f.let(load16U(this.rec, REGISTER_FIELD[i]));
  }

  read(i: number): Int {
    const { kind, size } = this.operands[i];
    switch (kind) {
      case "reg":
        return this.f.let(loadInt(asOperandSize(size), this.registerAddress(i), 0));
      case "mem":
        return this.load(asOperandSize(size), this.address(i));
      case "imm":
        return this.f.let(loadInt(asOperandSize(size), this.rec, Rec.imm));
      default:
        throw new Error(`operand ${i} cannot be read`);
    }
  }

  write(i: number, value: Int): void {
    const { kind, size } = this.operands[i];
    if (kind === "reg") this.setRegister(this.registerAddress(i), asOperandSize(size), value);
    else if (kind === "mem") this.store(asOperandSize(size), this.address(i), value);
    else throw new Error(`operand ${i} cannot be written`);
  }

  protected setRegister(address: I32, size: OperandSize, value: Int): void {
    if (size === 1) this.f.store8(address, value);
    else if (size === 2) this.f.store16(address, value);
    else if (size === 4) this.f.store64(address, value.toI32().toI64U());
    else this.f.store64(address, value.toI64U());
  }

  update(i: number, change: (old: Int) => Int): [Int, Int] {
    if (this.operands[i].kind === "reg") {
      const old = this.read(i);
      const next = this.f.let(change(old));
      this.write(i, next);
      return [old, next];
    }
    return this.updateAt(asOperandSize(this.operands[i].size), this.address(i), change);
  }

  protected updateAt(size: OperandSize, va: I64, change: (old: Int) => Int): [Int, Int] {
    const { f } = this;
    this.noteWrite(va);
    const at = this.#inPlace(va, size);
    const old = f.temporary(size === 8 ? "i64" : "i32");
    const result = f.temporary(size === 8 ? "i64" : "i32");
    const inPlace = () => {
      f.set(old, loadInt(size, at, 0) as never);
      f.set(result, change(old.get) as never);
    };
    /** Where the operand is not one that can be reached directly. */
    const load = () => {
      const info = I32.const(size | (AccessKind.WRITE << 8));
      const value = f.call(this.runtime.slowLoad, this.cpu, this.rec, va, info);
      f.set(old, (size === 8 ? value : value.toI32()) as never);
    };
    const store = () =>
      f.callVoid(this.runtime.slowStore, this.cpu, this.rec, va, I32.const(size), result.get.toI64U());
    if (!this.lock) {
      f.if(
        at,
        () => {
          inPlace();
          storeInt(f, size, at, result.get);
        },
        () => {
          load();
          this.leaveIfAsked();
          f.set(result, change(old.get) as never);
          store();
          this.slowStoreDone();
        },
      );
      return [old.get, result.get];
    }
    const exchange = () =>
      f.loop((again) => {
        inPlace();
        const found = atomicCmpxchg(size as AtomicWidth, at, old.get, result.get as Int);
        f.brIf(again, found.ne(old.get));
      });
    const underBus = () =>
      this.#withBus(() => {
        load();
        f.if(load32(this.cpu, O.leave).eqz(), () => {
          f.set(result, change(old.get) as never);
          store();
        });
      });
    if (size === 1) f.if(at, exchange, underBus);
    else {
      const aligned = at.ne(0).and(at.and(size - 1).eqz());
      const within = at.ne(0).and(at.and(7).leU(8 - size));
      const unaligned = () =>
        size === 8
          ? underBus()
          : f.if(within, () => this.#exchangeWithin(size, at, old, result, change), underBus);
      f.if(aligned, exchange, unaligned);
    }
    return [old.get, result.get];
  }

  /** An unaligned operand that lies within 8 aligned bytes: an exchange of those. */
  #exchangeWithin(
    size: 2 | 4,
    at: I32,
    old: Local<"i32" | "i64">,
    result: Local<"i32" | "i64">,
    change: (old: Int) => Int,
  ): void {
    const { f } = this;
    const word = f.let(at.and(~7));
    const shift = f.let(at.and(7).shl(3).toI64U());
    const mask = I64.const(size === 2 ? 0xffff : 0xffff_ffff);
    f.loop((again) => {
      const before = f.let(load64(word));
      f.set(old, before.shrU(shift).and(mask).toI32() as never);
      f.set(result, change(old.get) as never);
      const changed = (result.get as I32).toI64U().and(mask).shl(shift);
      const after = before.and(mask.shl(shift).xor(-1)).or(changed);
      f.brIf(again, (atomicCmpxchg(8, word, before, after) as I64).ne(before));
    });
  }

  updatePair(va: I64, change: (low: I64, high: I64) => [I64, I64]): [I64, I64] {
    const { f } = this;
    this.noteWrite(va);
    const at = this.#inPlace(va, 16);
    const low = f.temporary("i64");
    const high = f.temporary("i64");
    const load = (offset: number) => {
      const info = I32.const(8 | (AccessKind.WRITE << 8));
      return f.call(this.runtime.slowLoad, this.cpu, this.rec, va.add(offset), info);
    };
    const store = (offset: number, value: I64) =>
      f.callVoid(this.runtime.slowStore, this.cpu, this.rec, va.add(offset), I32.const(8), value);
    const whenStaying = (body: () => void) => f.if(load32(this.cpu, O.leave).eqz(), body);
    const body = () =>
      f.if(
        at,
        () => {
          f.set(low, load64(at));
          f.set(high, load64(at, 8));
          const [newLow, newHigh] = change(low.get, high.get);
          // One store: processors with AVX make it whole for whoever looks at the same time.
          f.storeV128(at, withLane64(fromI64(newLow), 1, newHigh));
        },
        () => {
          f.set(low, load(0));
          whenStaying(() => {
            f.set(high, load(8));
            whenStaying(() => {
              const [newLow, newHigh] = change(low.get, high.get);
              store(0, newLow);
              whenStaying(() => store(8, newHigh));
            });
          });
        },
      );
    if (!this.lock) {
      body();
      this.slowStoreDone();
      return [low.get, high.get];
    }
    f.block((done) => {
      f.if(at.ne(0).and(load32(this.cpu, O.busLock).ne(0)), () =>
        f.loop((again) => {
          f.set(low, load64(at));
          f.set(high, load64(at, 8));
          const [newLow, newHigh] = change(low.get, high.get);
          [low.get, high.get, newLow, newHigh].forEach((value, i) => {
            f.store64(this.cpu, value, O.exchange + 8 * i);
          });
          const outcome = f.let(f.call(this.runtime.exchangeWide, this.cpu, at));
          f.brIf(done, outcome.eq(WideOutcome.DONE));
          f.brIf(again, outcome.eq(WideOutcome.CHANGED));
        }),
      );
      this.#withBus(body);
    });
    return [low.get, high.get];
  }

  /** Where in linear memory `bytes` at `va` can be read and written, or 0; left, where they cannot be written at all. */
  #inPlace(va: I64, bytes: number): I32 {
    const { f } = this;
    const at = f.temporary("i32");
    this.probe(
      va,
      bytes,
      Dtlb.write,
      (hit) => f.set(at, hit),
      () => {
        f.set(at, f.call(this.runtime.slowRmw, this.cpu, this.rec, va, I32.const(bytes)));
        this.leaveIfAsked();
      },
    );
    return at.get;
  }

  /** `body` with the bus lock; it comes to its end also where it means to leave. */
  #withBus(body: () => void): void {
    this.f.callVoid(this.shared(lockBus), this.cpu);
    body();
    this.f.callVoid(this.shared(unlockBus), this.cpu);
    this.slowStoreDone();
  }

  // --- registers and state ---

  gpr(n: number, size: OperandSize = 8): Int {
    return this.f.let(loadInt(size, this.cpu, gprOffset(n)));
  }
  setGpr(n: number, value: Int, size: OperandSize = 8): void {
    this.setRegister(this.cpu.add(gprOffset(n)), size, value);
  }
  field32(offset: number): I32 {
    return this.f.let(load32(this.cpu, offset));
  }
  field64(offset: number): I64 {
    return this.f.let(load64(this.cpu, offset));
  }
  setField32(offset: number, value: I32): void {
    this.f.store32(this.cpu, value, offset);
  }
  setField64(offset: number, value: I64): void {
    this.f.store64(this.cpu, value, offset);
  }

  // --- vectors ---

  readVector(i: number, aligned = false): V128 {
    if (this.operands[i].kind === "reg") return this.f.let(loadV128(this.registerAddress(i)));
    return this.loadVector(this.address(i), aligned);
  }
  writeVector(i: number, value: V128, aligned = false): void {
    if (this.operands[i].kind === "reg") this.f.storeV128(this.registerAddress(i), value);
    else this.storeVector(this.address(i), value, aligned);
  }

  xmm(n: number): V128 {
    return this.f.let(loadV128(this.cpu, xmmOffset(n)));
  }
  setXmm(n: number, value: V128): void {
    this.f.storeV128(this.cpu, value, xmmOffset(n));
  }

  withVectorsInState(body: () => void): void {
    body();
  }

  protected trap(field: number): void {
    const trap = load32(this.cpu, field);
    const raise = () =>
      this.f.if(
        load32(this.cpu, field).eq(FpuTrap.UD),
        () => this.fault(Vector.UD),
        () => this.fault(Vector.NM),
      );
    this.f.ifRarely(trap, raise);
  }
  requireSse(): void {
    this.trap(O.sseTrap);
  }
  requireFpu(): void {
    this.trap(O.fpuTrap);
  }
  requireMmx(): void {
    this.trap(O.mmxTrap);
  }

  // --- memory ---

  /** Address of the data TLB in use. */
  protected get dataTlb(): I32 {
    return load32(this.cpu, O.dtlb);
  }

  /** Emit a TLB probe of `bytes` at `va`: `hit` gets the linear-memory address. */
  protected probe(
    va: I64,
    bytes: number,
    { tag, addend }: DtlbHalf,
    hit: (at: I32) => void,
    miss: () => void,
  ): void {
    const { f } = this;
    const entry = f.let(dataTlbEntry(this.dataTlb, va));
    // An access that crosses into the next page compares that page with this one's entry, and misses.
    f.if(
      load64(entry, tag).eq(va.add(bytes - 1).and(PAGE_MASK)),
      () => hit(va.toI32().add(load32(entry, addend))),
      miss,
      true,
    );
  }

  protected leaveIfAsked(): void {
    this.f.ifRarely(load32(this.cpu, O.leave), () => this.leave());
  }

  /** Leave guest code: `state.leave` says why. */
  protected leave(): void {
    this.f.return();
  }

  /** After a store on the slow path, which may have left, or have changed code. */
  protected slowStoreDone(): void {
    this.leaveIfAsked();
  }

  protected loadKind(size: OperandSize, va: I64, kind: number): Int {
    const { f } = this;
    const value = f.temporary(size === 8 ? "i64" : "i32");
    this.probe(
      va,
      size,
      Dtlb.read,
      (at) => f.set(value, loadInt(size, at, 0) as never),
      () => {
        const slow = f.call(this.runtime.slowLoad, this.cpu, this.rec, va, I32.const(size | (kind << 8)));
        f.set(value, (size === 8 ? slow : slow.toI32()) as never);
        this.leaveIfAsked();
      },
    );
    return value.get;
  }

  protected storeKind(size: OperandSize, va: I64, value: Int, kind: number): void {
    const { f } = this;
    const fixed = f.let(value);
    this.probe(
      va,
      size,
      Dtlb.write,
      (at) => storeInt(f, size, at, fixed),
      () => this.missStore(va, size | (kind << 8), fixed),
    );
  }

  /** Store past the TLB. `info`: bytes, and the access's kind above them. */
  protected missStore(va: I64, info: number, value: Int): void {
    const { f, cpu, rec, runtime } = this;
    f.callVoid(runtime.slowStore, cpu, rec, va, I32.const(info), value.toI64U());
    this.slowStoreDone();
  }

  /** Store the 16 bytes in state.scratch past the TLB. */
  protected missStoreVector(va: I64): void {
    this.f.callVoid(this.runtime.slowStoreBytes, this.cpu, this.rec, va, I32.const(16));
    this.slowStoreDone();
  }

  load(size: OperandSize, address: I64): Int {
    return this.loadKind(size, this.f.let(address), 0);
  }
  protected noteWrite(address: I64): void {
    if (address === this.memoryAddress) this.writesMemory = true;
  }

  store(size: OperandSize, address: I64, value: Int): void {
    this.noteWrite(address);
    this.storeKind(size, this.f.let(address), value, 0);
  }

  protected checkAligned(va: I64, aligned: boolean): void {
    if (aligned) this.faultIf(va.toI32().and(15), Vector.GP, 0);
  }

  loadVector(address: I64, aligned = false): V128 {
    const { f } = this;
    const va = f.let(address);
    this.checkAligned(va, aligned);
    const value = f.temporary("v128");
    this.probe(
      va,
      16,
      Dtlb.read,
      (at) => f.set(value, loadV128(at)),
      () => {
        f.callVoid(this.runtime.slowLoadBytes, this.cpu, this.rec, va, I32.const(16));
        this.leaveIfAsked();
        f.set(value, loadV128(this.cpu, O.scratch));
      },
    );
    return value.get;
  }

  storeVector(address: I64, value: V128, aligned = false): void {
    const { f } = this;
    this.noteWrite(address);
    const va = f.let(address);
    const fixed = f.let(value);
    this.checkAligned(va, aligned);
    this.probe(
      va,
      16,
      Dtlb.write,
      (at) => f.storeV128(at, fixed),
      () => {
        f.storeV128(this.cpu, fixed, O.scratch);
        this.missStoreVector(va);
      },
    );
  }

  probeWrite(address: I64, bytes: number): void {
    this.noteWrite(address);
    this.f.callVoid(this.runtime.slowProbeWrite, this.cpu, this.rec, address, I32.const(bytes));
    this.leaveIfAsked();
  }

  protected segmentLinear(seg: I32, offset: I64, bytes: number, write: boolean): I64 {
    const { f } = this;
    const info = I32.const(bytes | (write ? AccessKind.WRITE << 8 : 0));
    const linear = f.let(f.call(this.runtime.segmentLinear, this.cpu, this.rec, seg, offset, info));
    this.leaveIfAsked();
    return linear;
  }

  linear(seg: number, offset: I64, bytes: number, write: boolean): I64 {
    if (!this.long) return this.segmentLinear(I32.const(seg), offset, bytes, write);
    if (seg !== Seg.FS && seg !== Seg.GS) return offset;
    return this.f.let(offset.add(load64(this.cpu, O.segBase + 8 * seg)));
  }

  linearDataSegment(offset: I64, bytes: number, write = false): I64 {
    const seg = this.number(2);
    if (!this.long) return this.segmentLinear(seg, offset, bytes, write);
    // In 64-bit mode the decoder stores FS, GS, or LDTR for "no base".
    return this.f.let(
      offset.add(load64(this.cpu.add(seg.shl(3)), O.segBase).select(seg.and(~1).eq(Seg.FS), I64.const(0))),
    );
  }

  // --- stack ---

  protected stackLinear(offset: I64, bytes: number, write: boolean): I64 {
    if (this.long) return this.f.let(offset);
    const masked = this.f.let(offset.and(load64(this.cpu, O.spMask)));
    return this.segmentLinear(I32.const(Seg.SS), masked, bytes, write);
  }

  push(size: OperandSize, ...values: Int[]): void {
    const { f } = this;
    const sp = this.gpr(4) as I64;
    const fixed = values.map((value) => f.let(value));
    const addresses = fixed.map((_, i) => this.stackLinear(sp.sub((i + 1) * size), size, true));
    if (values.length > 1) for (const address of addresses) this.probeWrite(address, size);
    fixed.forEach((value, i) => {
      this.storeKind(size, addresses[i], value, AccessKind.STACK);
    });
    this.addSp(-size * values.length);
  }

  peek(size: OperandSize, depth = 0): Int {
    const sp = this.gpr(4) as I64;
    return this.loadKind(size, this.stackLinear(sp.add(depth * size), size, false), AccessKind.STACK);
  }

  addSp(delta: I64 | number): void {
    const sp = load64(this.cpu, gprOffset(4));
    if (this.long) {
      this.setGpr(4, sp.add(delta));
      return;
    }
    const mask = this.field64(O.spMask);
    this.setGpr(4, this.f.let(sp.and(mask.not()).or(sp.add(delta).and(mask))));
  }

  loadAtStackTop(size: OperandSize, sp: I64): Int {
    return this.loadKind(size, this.stackLinear(sp, size, false), AccessKind.STACK);
  }

  selector(i: number): I32 {
    return this.f.let(load32(this.cpu.add(this.number(i).shl(2)), O.segSelector));
  }

  bulkCopy(from: I64, to: I64, count: I64): I64 {
    if (!this.long || this.addressSize !== 8) return I64.const(0);
    const bulk = this.shared(bulkCopyFunction(this.size));
    return this.f.call(bulk, this.cpu, this.linearDataSegment(from, this.size), to, count);
  }

  bulkFill(to: I64, count: I64): I64 {
    if (!this.long || this.addressSize !== 8) return I64.const(0);
    return this.f.call(this.shared(bulkFillFunction(this.size)), this.cpu, to, count);
  }

  timestamp(): I64 {
    const ticks = this.f.call(this.runtime.imports.clock);
    return ticks.truncSatI64().add(load64(this.cpu, O.tscOffset));
  }

  // --- flags ---

  flagsWord(): I32 {
    const place = (flag: I32, bit: number) => (bit === 0 ? flag : flag.shl(bit));
    return this.f.let(
      load32(this.cpu, O.eflags)
        .or(Eflags.FIXED)
        .or(this.flagNow("cf"))
        .or(place(this.flagNow("pf"), 2))
        .or(place(this.flagNow("af"), 4))
        .or(place(this.flagNow("zf"), 6))
        .or(place(this.flagNow("sf"), 7))
        .or(place(this.flagNow("of"), 11)),
    );
  }

  setFlagsWord(word: I32): void {
    const bit = (n: number) => word.shrU(n).and(1);
    this.setFlags({
      cf: bit(0),
      of: bit(11),
      af: word,
      zero: bit(6).xor(1).toI64U(),
      // PF is even parity of the low byte: 0 is even, 1 is odd.
      signParity: bit(7).toI64U().shl(63).or(bit(2).xor(1).toI64U()),
    });
  }

  afterFlagsChange(old: I32, next: I32): void {
    const { f } = this;
    f.if(old.xor(next).and(Eflags.TF | Eflags.AC), () => this.system("flagsChanged"));
    f.if(next.and(Eflags.IF).ne(0).and(load32(this.cpu, O.irqPending)), () => this.nextThroughDispatcher());
  }

  selectSupervisorTlb(eflags: I32): void {
    const { f, cpu } = this;
    f.if(load32(cpu, O.noFill), () => this.system("flagsChanged"));
    const smap = load32(cpu, O.cr4).and(Cr4.SMAP).ne(0).and(eflags.and(Eflags.AC).eqz());
    const mode = f.let(I32.const(MmuMode.SUPERVISOR).select(smap, MmuMode.SUPERVISOR_NO_SMAP));
    f.store32(cpu, mode, O.mmuMode);
    f.store32(cpu, cpu.add(TLB_OFFSET).add(mode.mul(DTLB_BYTES)), O.dtlb);
    f.store64(cpu, I64.const(NO_STACK_PAGE), O.stackPage);
  }

  settleFlags(): void {}

  setFlags({ cf, of, af, result, zero, signParity }: FlagUpdate): void {
    const { f, cpu } = this;
    const isZero = (flag: Int | undefined) => flag?.constant === 0n;
    if (isZero(cf) && isZero(of) && isZero(af)) f.store32(cpu, I32.const(0), O.flagC);
    else {
      if (cf !== undefined) f.store8(cpu, cf, O.flagC);
      if (of !== undefined) f.store8(cpu, of, O.flagO);
      if (af !== undefined) f.store8(cpu, af, O.flagA);
    }
    if (result !== undefined) {
      const wide = f.let(signExtend(result, this.size));
      f.store64(cpu, wide, O.flagZ);
      f.store64(cpu, wide, O.flagS);
    }
    if (zero !== undefined) f.store64(cpu, zero, O.flagZ);
    if (signParity !== undefined) f.store64(cpu, signParity, O.flagS);
  }

  flag(name: FlagName): I32 {
    return this.f.let(this.flagNow(name));
  }

  protected flagNow(name: FlagName): I32 {
    const { cpu } = this;
    switch (name) {
      case "cf":
        return load8U(cpu, O.flagC);
      case "of":
        return load8U(cpu, O.flagO);
      case "af":
        return load8U(cpu, O.flagA).shrU(4).and(1);
      case "zf":
        return load64(cpu, O.flagZ).eqz();
      case "sf":
        return load64(cpu, O.flagS).ltS(0);
      case "pf":
        return load8U(cpu, O.flagS).popcnt().and(1).xor(1);
    }
  }

  condition(code: number): I32 {
    const base = this.conditionPair(code >> 1);
    return this.f.let((code & 1) !== 0 ? base.eqz() : base);
  }

  protected conditionPair(pair: number): I32 {
    switch (pair) {
      case 0:
        return this.flagNow("of");
      case 1:
        return this.flagNow("cf");
      case 2:
        return this.flagNow("zf");
      case 3:
        return this.flagNow("cf").or(this.flagNow("zf"));
      case 4:
        return this.flagNow("sf");
      case 5:
        return this.flagNow("pf");
      case 6:
        return this.flagNow("sf").ne(this.flagNow("of"));
      default:
        return this.flagNow("zf").or(this.flagNow("sf").ne(this.flagNow("of")));
    }
  }

  // --- control ---

  protected dispatch(rec: I32): void {
    this.f.returnCallIndirect(this.runtime.handlerType, load32(rec, Rec.handler), this.cpu, rec);
  }

  branch(condition?: I32): void {
    const taken = () => {
      if (this.long) {
        this.branchLinked();
        return;
      }
      this.jump(load64(this.cpu, O.pageRip).add(load64(this.rec, Rec.imm)));
    };
    if (condition === undefined) {
      taken();
      this.end();
    } else {
      this.f.if(condition, taken);
      if (this.long) {
        // For the hot tier, which leaves out ways that are seldom taken.
        this.f.store32(this.rec, load32(this.rec, Rec.notTaken).add(1), Rec.notTaken);
      }
    }
  }

  /** Along the record's link where it has one. Each way there counts down `disp` until the target is hot. */
  protected branchLinked(): void {
    const { f, rec } = this;
    const link = f.let(load32(rec, Rec.link));
    f.if(link.select(load32(this.cpu, O.poll).eqz(), 0), () => {
      const left = f.let(load32(rec, Rec.disp).sub(1));
      f.store32(rec, left, Rec.disp);
      f.if(left, () => this.dispatch(link));
      f.returnCall(this.runtime.hotBranch as unknown as FuncRef, this.cpu, rec);
    });
    f.returnCall(this.runtime.branchSlow, this.cpu, rec);
  }

  jumpIndirect(target: I64): void {
    // For the hot tier, which guesses that it goes there again.
    if (this.long) this.f.store64(this.rec, target, Rec.imm);
    this.jump(target);
  }

  jump(target: I64): void {
    const mask = this.size === 2 ? 0xffff : 0xffffffff;
    const rip = this.long ? target : target.and(I64.const(mask));
    this.f.returnCall(this.long ? this.runtime.jumpLong : this.runtime.jump, this.cpu, rip);
    this.end();
  }

  rip(): I64 {
    return this.f.let(recordRip(this.cpu, this.rec));
  }

  nextRip(): I64 {
    const rip = load64(this.cpu, O.pageRip).add(
      load16U(this.rec, Rec.pageOffset).add(load8U(this.rec, Rec.length)).toI64U(),
    );
    return this.f.let(this.long ? rip : rip.and(I64.const(0xffffffffn)));
  }

  fault(vector: number, errorCode?: number): void {
    const code = errorCode ?? FAULT_NO_ERROR_CODE;
    this.f.callVoid(this.runtime.fault, this.cpu, this.rec, I32.const(vector), I32.const(code));
    this.leave();
    this.end();
  }

  faultIf(condition: I32, vector: number, errorCode?: number): void {
    this.f.ifRarely(condition, () => this.fault(vector, errorCode));
  }

  system(name: string, ...values: Int[]): void {
    values.forEach((value, i) => {
      this.f.store64(this.cpu, value.toI64U(), O.scratch + 8 * i);
    });
    const { number, size, addressSize, rep } = SystemDetail;
    const detail =
      (systemOperationNumber(name) << number) |
      (this.size << size) |
      (this.addressSize << addressSize) |
      (["none", "rep", "repne"].indexOf(this.rep) << rep);
    this.f.store32(this.cpu, this.rec, O.rec);
    this.f.store32(this.cpu, I32.const(detail), O.leaveDetail);
    this.f.store32(this.cpu, I32.const(Leave.SYSTEM), O.leave);
    this.leave();
    this.end();
  }

  next(): void {
    const rec = this.rec.add(RECORD_SIZE);
    this.f.returnCallIndirect(
      this.runtime.handlerType,
      load32(this.rec, RECORD_SIZE + Rec.handler),
      this.cpu,
      rec,
    );
    this.end();
  }

  nextThroughDispatcher(): void {
    this.f.store64(this.cpu, this.nextRip(), O.rip);
    this.f.store32(this.cpu, I32.const(Leave.POLL), O.leave);
    this.leave();
    this.end();
  }

  pollAndRepeat(): void {
    this.f.store64(
      this.cpu,
      load64(this.cpu, O.pageRip).add(load16U(this.rec, Rec.pageOffset).toI64U()),
      O.rip,
    );
    this.f.store32(this.cpu, I32.const(Leave.REPEAT), O.leave);
    this.leave();
  }
}

function asOperandSize(size: number): OperandSize {
  if (size === 1 || size === 2 || size === 4 || size === 8) return size;
  throw new Error(`no integer operand has ${size} bytes`);
}

export function loadInt(size: OperandSize, address: I32, offset: number): Int {
  switch (size) {
    case 1:
      return load8U(address, offset);
    case 2:
      return load16U(address, offset);
    case 4:
      return load32(address, offset);
    case 8:
      return load64(address, offset);
  }
}

export function storeInt(f: FunctionBuilder, size: OperandSize, address: I32, value: Int): void {
  if (size === 1) f.store8(address, value);
  else if (size === 2) f.store16(address, value);
  else if (size === 4) f.store32(address, value);
  else f.store64(address, value as I64);
}

/** A value of `size` bytes, sign-extended to 64 bits. */
export function signExtend(value: Int, size: OperandSize): I64 {
  if (size === 1) return value.toI64U().extend8S();
  if (size === 2) return value.toI64U().extend16S();
  return value.toI64S();
}
