/**
 * Functions that every handler leans on: entering guest code, jumps, faults, and the slow paths of memory accesses. They
 * are emitted into the module before the handlers. Functions named in `Imports` are TypeScript's (see cold/host.ts).
 */
import type { SharedFunction } from "../isa/context.js";
import { dataTlbEntry, fetchTlbEntry } from "../mmu/tlb-entry.js";
import { defineWalk, noteFilled, type WalkFunctions } from "../mmu/walk.js";
import {
  Access,
  AccessKind,
  CODE_MAP_ENTRIES,
  CODE_MAP_OFFSET,
  CodeMapEntry,
  CodeMode,
  CodePage,
  Counter,
  Cr0,
  Dtlb,
  type DtlbHalf,
  FAULT_NO_ERROR_CODE,
  Ftlb,
  HOT_COUNTERS,
  Leave,
  MmuMode,
  NO_STACK_PAGE,
  O,
  PAGE_SHARING_OFFSET,
  PageSharing,
  PhysFlag,
  RECORD_SIZE,
  Rec,
  Seg,
  TLB_FLAG_MASK,
  Vector,
  WALK_WRITABLE,
} from "../vcpu-state.js";
import {
  atomicFence,
  atomicRmw,
  I32,
  I64,
  load8U,
  load16U,
  load32,
  load32U64,
  load64,
  type ValType,
} from "../wasm/expr.js";
import type { FuncRef, FunctionBuilder, ModuleBuilder } from "../wasm/module.js";
import { defineLaterFlags, type LaterFlagsFunction } from "./later-flags.js";

const PAGE = 4096;
const PAGE_SHIFT = 12;
/** Bytes of the largest operand that is not a vector: an 80-bit number. */
const LARGEST_OPERAND = 10;
const MAX_INSTRUCTION_BYTES = 15;
const PAGE_MASK = ~0xfff;

/** What TypeScript provides to the module; each may set `state.leave`. */
export function declareImports(module: ModuleBuilder) {
  return {
    /** (cpu, rec, physical low, high, bytes): the value to state.scratch[0]. */
    mmioLoad: module.import("mmioLoad", ["i32", "i32", "i32", "i32", "i32"]),
    /** (cpu, rec, physical low, high, bytes): the value is in state.scratch[0]. */
    mmioStore: module.import("mmioStore", ["i32", "i32", "i32", "i32", "i32"]),
    /** (cpu, physical page number, offset, bytes): decoded code or a logged page was written. */
    codeWritten: module.import("codeWritten", ["i32", "i32", "i32", "i32"]),
    /** (cpu, rec, linear low, high, bytes, access kind): alignment check and data breakpoints. */
    checkAccess: module.import("checkAccess", ["i32", "i32", "i32", "i32", "i32", "i32"]),
    exchangeWide: module.import("exchangeWide", ["i32", "i32"], "i32"),
    /** TSC in ticks (1 a nanosecond) since the machine's epoch, without the vCPU's offset. */
    clock: module.import("clock", [], "f64"),
  };
}

export type Imports = ReturnType<typeof declareImports>;

type Slow = FuncRef<readonly ["i32", "i32", "i64", "i32"], undefined>;

export class Runtime {
  readonly handlerType: number;
  readonly imports: Imports;
  readonly walks: WalkFunctions;
  readonly fault: FuncRef<readonly ["i32", "i32", "i32", "i32"], undefined>;
  readonly lookup: FuncRef<readonly ["i32", "i64"], "i32">;
  readonly jump: FuncRef<readonly ["i32", "i64"], undefined>;
  readonly jumpLong: FuncRef<readonly ["i32", "i64"], undefined>;
  /** (cpu, rec): to a record of the current page, as `jump` goes to an address. */
  readonly arrive: FuncRef<readonly ["i32", "i32"], undefined>;
  readonly hotBranch: FuncRef<readonly ["i32", "i32"], undefined>;
  readonly branchSlow: FuncRef<readonly ["i32", "i32"], undefined>;
  readonly translate: FuncRef<readonly ["i32", "i32", "i64", "i32"], "i32">;
  readonly slowLoad: FuncRef<readonly ["i32", "i32", "i64", "i32"], "i64">;
  readonly slowStore: FuncRef<readonly ["i32", "i32", "i64", "i32", "i64"], undefined>;
  readonly slowRmw: FuncRef<readonly ["i32", "i32", "i64", "i32"], "i32">;
  readonly slowLoadBytes: Slow;
  readonly slowStoreBytes: Slow;
  readonly slowProbeWrite: Slow;
  /** For the hot tier: as slowLoadBytes; where the bytes are then, 0 to leave. */
  readonly missLoad: FuncRef<readonly ["i32", "i32", "i64", "i32"], "i32">;
  /** As slowStore and slowStoreBytes; 1 to leave. Stores to pages of code are left alone. */
  readonly missStore: FuncRef<readonly ["i32", "i32", "i64", "i32", "i64"], "i32">;
  readonly missStoreBytes: FuncRef<readonly ["i32", "i32", "i64", "i32"], "i32">;
  /** As missLoad, missStore, missStoreBytes and missUpdate, for accesses to the stack that are not in `state.stackPage`. */
  readonly stackLoad: FuncRef<readonly ["i32", "i32", "i64", "i32"], "i32">;
  readonly stackStore: FuncRef<readonly ["i32", "i32", "i64", "i32", "i64"], "i32">;
  readonly stackStoreBytes: FuncRef<readonly ["i32", "i32", "i64", "i32"], "i32">;
  readonly stackUpdate: FuncRef<readonly ["i32", "i32", "i64", "i32"], "i32">;
  /** Where `info & 0xff` bytes at `va` can be changed in place; 0 to leave. */
  readonly missUpdate: FuncRef<readonly ["i32", "i32", "i64", "i32"], "i32">;
  /** For the hot tier: flags left to be computed later, to the vCPU's state. */
  readonly settleFlags: LaterFlagsFunction;
  readonly segmentLinear: FuncRef<readonly ["i32", "i32", "i32", "i64", "i32"], "i64">;
  readonly #shared = new Map<string, FuncRef>();
  readonly #refillFtlb: FuncRef<readonly ["i32", "i64", "i32"], "i32">;
  readonly #claimWrites: FuncRef<readonly ["i32", "i64"], "i32">;
  /** Linear-memory address where `info & 0xff` bytes at `va` can be read and written, or 0. */
  readonly #placeToWrite: FuncRef<readonly ["i32", "i32", "i64", "i32"], "i32">;
  readonly #holdsCode: FuncRef<readonly ["i32", "i64", "i32"], "i32">;
  readonly #fill: FuncRef<readonly ["i32", "i64", "i32", "i32"], undefined>;
  readonly #copyFromPhysical: FuncRef<readonly ["i32", "i32", "i64", "i32", "i32"], undefined>;
  readonly #copyToPhysical: FuncRef<readonly ["i32", "i32", "i64", "i32", "i32"], undefined>;

  constructor(readonly module: ModuleBuilder) {
    this.handlerType = module.typeIndex(["i32", "i32"], []);
    this.imports = declareImports(module);
    this.walks = defineWalk(module);
    this.fault = module.func(
      "fault",
      ["i32", "i32", "i32", "i32"],
      undefined,
      (f, cpu, rec, vector, code) => {
        f.store32(cpu, vector, O.faultVector);
        f.store32(cpu, code, O.faultCode);
        f.store32(cpu, rec, O.rec);
        f.store32(cpu, I32.const(Leave.FAULT), O.leave);
      },
    );
    this.#refillFtlb = this.#defineRefillFtlb();
    this.lookup = this.#defineLookup();
    this.jump = this.#defineJump();
    this.jumpLong = this.#defineJumpLong();
    this.branchSlow = this.#defineBranchSlow();
    this.arrive = module.func("arrive", ["i32", "i32"], undefined, (f, cpu, rec) => {
      f.store64(cpu, recordRip(cpu, rec), O.rip);
      f.if(load32(cpu, O.poll), () => {
        f.store32(cpu, I32.const(Leave.POLL), O.leave);
        f.return();
      });
      this.#count(f, cpu, rec);
      this.#dispatch(f, cpu, rec);
    });
    this.hotBranch = module.func("hotBranch", ["i32", "i32"], undefined, (f, cpu, rec) => {
      f.store64(cpu, load64(cpu, O.pageRip).add(load64(rec, Rec.imm)), O.rip);
      f.store32(cpu, load32(rec, Rec.link), O.leaveDetail);
      f.store32(cpu, I32.const(Leave.HOT), O.leave);
    });
    this.translate = this.#defineTranslate();
    this.#claimWrites = this.#defineClaimWrites();
    this.#fill = this.#defineFill();
    this.#copyFromPhysical = this.#defineCopyFromPhysical();
    this.#copyToPhysical = this.#defineCopyToPhysical();
    this.slowLoadBytes = this.#defineSlowBytes("slowLoadBytes", this.#copyFromPhysical, 0);
    this.slowStoreBytes = this.#defineSlowBytes("slowStoreBytes", this.#copyToPhysical, AccessKind.WRITE);
    this.slowLoad = this.#defineSlowLoad();
    this.slowStore = this.#defineSlowStore();
    this.#placeToWrite = this.#definePlaceToWrite();
    this.slowRmw = this.#defineSlowRmw();
    this.slowProbeWrite = this.#defineSlowProbeWrite();
    this.segmentLinear = this.#defineSegmentLinear();
    this.missLoad = this.#defineMissLoad();
    this.#holdsCode = this.#defineHoldsCode();
    this.missStore = this.#defineMissStore();
    this.missStoreBytes = this.#defineMissStoreBytes();
    this.missUpdate = this.#defineMissUpdate();
    this.stackLoad = this.#defineStackLoad();
    this.stackStore = this.#defineStackStore();
    this.stackStoreBytes = this.#defineStackStoreBytes();
    this.stackUpdate = this.#defineStackUpdate();
    this.settleFlags = defineLaterFlags(module, this);
    this.#defineEntries();
  }

  /** (cpu, linear-memory address): exchange 16 bytes there as state.exchange says; a `WideOutcome`. */
  get exchangeWide(): FuncRef<readonly ["i32", "i32"], "i32"> {
    return this.imports.exchangeWide;
  }

  shared<P extends readonly ValType[], R extends ValType | undefined>(
    maker: SharedFunction<P, R>,
  ): FuncRef<P, R> {
    const known = this.#shared.get(maker.name);
    if (known !== undefined) return known as FuncRef<P, R>;
    const declared = this.module.declare(maker.name, maker.params, maker.result);
    this.#shared.set(maker.name, declared as unknown as FuncRef);
    this.module.define(declared as unknown as FuncRef, (f) => maker.body(f, (g) => this.shared(g)));
    // The hot tier's modules import it.
    this.module.export(declared as unknown as FuncRef);
    return declared as FuncRef<P, R>;
  }

  /** Record for RIP in the fetch TLB and the code page it leads to, or 0; sets pageRip where there is one. */
  #defineLookup() {
    return this.module.func("lookup", ["i32", "i64"], "i32", (f, cpu, rip) => {
      const linear = f.local("i64");
      f.set(linear, rip);
      f.if(load32(cpu, O.codeMode).ne(CodeMode.LONG64), () => {
        f.set(linear, rip.add(load64(cpu, O.segBase + 8 * Seg.CS)).and(I64.const(0xffffffff)));
        // Code from which the segment's limit can be reached within the page is run an instruction at a time.
        const reach = rip.add(PAGE - 1 + MAX_INSTRUCTION_BYTES).sub(linear.get.and(PAGE - 1));
        f.if(reach.gtU(load32U64(cpu, O.segLimit + 4 * Seg.CS)), () => f.return(I32.const(0)));
      });
      const entry = f.let(fetchTlbEntry(load32(cpu, O.ftlb), linear.get));
      f.if(load64(entry, Ftlb.tag).ne(linear.get.and(PAGE_MASK)), () =>
        f.if(f.call(this.#refillFtlb, cpu, linear.get, entry).eqz(), () => f.return(I32.const(0))),
      );
      const offset = f.let(linear.get.toI32().and(0xfff));
      f.store64(cpu, rip.sub(offset.toI64U()), O.pageRip);
      f.return(load32(load32(entry, Ftlb.codePage).add(offset.shl(2)), CodePage.index));
    });
  }

  /** (cpu, linear, fetch TLB entry) → 1 where the page has a code page, which is in the entry then; 0: for TypeScript. */
  #defineRefillFtlb() {
    return this.module.func("refillFtlb", ["i32", "i64", "i32"], "i32", (f, cpu, linear, entry) => {
      const fail = () => f.return(I32.const(0));
      const mode = f.let(load32(cpu, O.codeMode));
      f.if(mode.eq(CodeMode.LONG64), () => f.if(linear.shl(16).shrS(16).ne(linear), fail));
      const user = I32.const(AccessKind.USER).select(load32(cpu, O.cpl).eq(3), 0);
      f.if(f.call(this.walks.walk, cpu, linear, user.or(AccessKind.FETCH)), fail);
      const page = f.let(load64(cpu, O.walkPhysical).shrU(PAGE_SHIFT).toI32());
      const at = f.let(
        cpu.add(CODE_MAP_OFFSET).add(page.and(CODE_MAP_ENTRIES - 1).shl(Math.log2(CodeMapEntry.size))),
      );
      f.if(load32(at, CodeMapEntry.key).ne(page.shl(2).or(mode).add(1)), fail);
      f.store64(entry, linear.and(PAGE_MASK), Ftlb.tag);
      f.store32(entry, load32(at, CodeMapEntry.codePage), Ftlb.codePage);
      const flags = f.let(load32(cpu, O.walkFlags).and(TLB_FLAG_MASK));
      f.store32(entry, flags, Ftlb.flags);
      noteFilled(f, cpu, linear, entry, flags);
      f.return(I32.const(1));
    });
  }

  #dispatch(f: FunctionBuilder, cpu: I32, rec: I32): void {
    f.returnCallIndirect(this.handlerType, load32(rec, Rec.handler), cpu, rec);
  }

  /** Count an arrival at `rec`; one that makes it hot leaves for the translator. Counters are shared by hash. */
  #count(f: FunctionBuilder, cpu: I32, rec: I32): void {
    f.if(load32(rec, Rec.handler).ltU(load32(cpu, O.hotFirst)), () => this.#countCold(f, cpu, rec));
  }

  #countCold(f: FunctionBuilder, cpu: I32, rec: I32): void {
    const counter = f.let(
      load32(cpu, O.hotCounters).add(
        rec
          .shrU(Math.log2(RECORD_SIZE))
          .and(HOT_COUNTERS - 1)
          .shl(1),
      ),
    );
    const count = f.let(load16U(counter).add(1));
    f.store16(counter, count);
    f.if(count.eq(load32(cpu, O.hotThreshold)), () => {
      f.store32(cpu, rec, O.leaveDetail);
      f.store32(cpu, I32.const(Leave.HOT), O.leave);
      f.return();
    });
  }

  #defineJump() {
    return this.module.func("jump", ["i32", "i64"], undefined, (f, cpu, rip) => {
      f.store64(cpu, rip, O.rip);
      f.if(load32(cpu, O.poll), () => {
        f.store32(cpu, I32.const(Leave.POLL), O.leave);
        f.return();
      });
      const rec = f.let(f.call(this.lookup, cpu, rip));
      f.if(rec, () => {
        this.#count(f, cpu, rec);
        this.#dispatch(f, cpu, rec);
      });
      f.store32(cpu, I32.const(Leave.DECODE), O.leave);
    });
  }

  /** As `jump`, of 64-bit code to 64-bit code whose page the fetch TLB has; all else is for `jump`. */
  #defineJumpLong() {
    return this.module.func("jumpLong", ["i32", "i64"], undefined, (f, cpu, rip) => {
      const entry = f.let(fetchTlbEntry(load32(cpu, O.ftlb), rip));
      const page = f.let(rip.and(PAGE_MASK));
      f.if(load64(entry, Ftlb.tag).eq(page).and(load32(cpu, O.poll).eqz()), () => {
        const rec = f.let(
          load32(
            load32(entry, Ftlb.codePage).add(
              rip
                .toI32()
                .and(PAGE - 1)
                .shl(2),
            ),
            CodePage.index,
          ),
        );
        f.if(rec, () => {
          f.store64(cpu, rip, O.rip);
          f.store64(cpu, page, O.pageRip);
          this.#count(f, cpu, rec);
          this.#dispatch(f, cpu, rec);
        });
      });
      f.returnCall(this.jump as unknown as FuncRef, cpu, rip);
    });
  }

  /** 64-bit mode: to the record's target, which is linked when it lies in the same page. */
  #defineBranchSlow() {
    return this.module.func("branchSlow", ["i32", "i32"], undefined, (f, cpu, rec) => {
      const rip = f.let(load64(cpu, O.pageRip).add(load64(rec, Rec.imm)));
      f.store64(cpu, rip, O.rip);
      f.if(load32(cpu, O.poll), () => {
        f.store32(cpu, I32.const(Leave.POLL), O.leave);
        f.return();
      });
      const target = f.let(f.call(this.lookup, cpu, rip));
      f.if(target, () => {
        f.if(
          load64(rec, Rec.imm).ltU(PAGE),
          () => f.store32(rec, target, Rec.link),
          () => {
            // Taken once more; the countdown's end is for linked branches to find.
            const left = f.let(load32(rec, Rec.disp));
            f.store32(rec, left.sub(left.gtU(1)), Rec.disp);
          },
        );
        this.#count(f, cpu, target);
        this.#dispatch(f, cpu, target);
      });
      // A target that is not canonical is a fault of the branch (SDM vol. 2, JMP).
      f.if(rip.shl(16).shrS(16).ne(rip), () =>
        f.returnCall(this.fault, cpu, rec, I32.const(Vector.GP), I32.const(0)),
      );
      f.store32(cpu, I32.const(Leave.DECODE), O.leave);
    });
  }

  /** Guest-physical address of `va` to state.walkPhysical; 1 where it faulted instead. */
  #defineTranslate() {
    return this.module.func("translate", ["i32", "i32", "i64", "i32"], "i32", (f, cpu, rec, va, access) => {
      f.if(load32(cpu, O.codeMode).eq(CodeMode.LONG64), () => {
        f.if(va.shl(16).shrS(16).ne(va), () => {
          f.if(
            access.and(AccessKind.STACK).or(load8U(rec, Rec.extra).and(1)),
            () => f.callVoid(this.fault, cpu, rec, I32.const(Vector.SS), I32.const(0)),
            () => f.callVoid(this.fault, cpu, rec, I32.const(Vector.GP), I32.const(0)),
          );
          f.return(I32.const(1));
        });
      });
      const result = f.let(f.call(this.walks.walk, cpu, va, access));
      f.if(result.eqz(), () => f.return(I32.const(0)));
      f.store64(cpu, va, O.cr2);
      f.callVoid(this.fault, cpu, rec, I32.const(Vector.PF), result.and(0xff));
      f.return(I32.const(1));
    });
  }

  /** Linear-memory address, less PAGE_SHARING_OFFSET, of the word that says who shares the page of `pa`, which is RAM. */
  #sharing(cpu: I32, pa: I64): I32 {
    return load32(cpu, O.physMap).add(pa.shrU(12).toI32().shl(2));
  }

  /**
   * (cpu, physical address in RAM): 1 where the vCPU may write to the page directly, until it is told otherwise; 0 where
   * the page holds decoded code of some vCPU (smp/page-sharing, rule 1).
   */
  #defineClaimWrites() {
    return this.module.func("claimWrites", ["i32", "i64"], "i32", (f, cpu, pa) => {
      const at = f.let(this.#sharing(cpu, pa));
      const bit = f.let(load32(cpu, O.ownerBit).shl(PageSharing.WRITER_SHIFT));
      const word = f.local("i32");
      f.set(word, load32(at, PAGE_SHARING_OFFSET));
      const unclaimed = word.get.and(bit.or(PageSharing.OWNERS)).eqz();
      f.if(unclaimed, () => f.set(word, atomicRmw("or", 4, at, bit, PAGE_SHARING_OFFSET) as I32));
      f.return(word.get.and(PageSharing.OWNERS).eqz());
    });
  }

  /** After stores to the page of `pa` with entry `entry` that went past the TLB: who has to know of them (rule 3)? */
  #written(f: FunctionBuilder, cpu: I32, entry: I32, pa: I64, offset: I32, n: I32): void {
    f.if(load32(cpu, O.busLock), () => f.emit(atomicFence));
    const owners = load32(this.#sharing(cpu, pa), PAGE_SHARING_OFFSET).and(PageSharing.OWNERS);
    f.if(entry.and(PhysFlag.LOG_DIRTY).or(owners), () =>
      f.callVoid(this.imports.codeWritten, cpu, pa.shrU(12).toI32(), offset, n),
    );
  }

  /** Copy `n` bytes, a single access of the guest: 1, 2, 4 and 8 bytes go at once. */
  #copyAccess(f: FunctionBuilder, to: I32, from: I32, n: I32): void {
    const whole: [number, () => void][] = [
      [8, () => f.store64(to, load64(from))],
      [4, () => f.store32(to, load32(from))],
      [2, () => f.store16(to, load16U(from))],
      [1, () => f.store8(to, load8U(from))],
    ];
    f.block((done) => {
      for (const [size, copy] of whole) {
        f.if(n.eq(size), () => {
          copy();
          f.br(done);
        });
      }
      f.copy(to, from, n);
    });
  }

  /**
   * Put the page just walked to for `access`, at linear memory `entry` with its PhysFlags, into the data TLB: into the half for
   * that, and into the other where that is free, or has this page already.
   */
  #defineFill() {
    return this.module.func(
      "fillDtlb",
      ["i32", "i64", "i32", "i32"],
      undefined,
      (f, cpu, va, entry, access) => {
        f.if(load32(cpu, O.noFill), () => f.return());
        const at = f.let(dataTlbEntry(load32(cpu, O.dtlb), va));
        const page = f.let(va.and(PAGE_MASK));
        const flags = f.let(load32(cpu, O.walkFlags));
        const isWrite = f.let(access.and(AccessKind.WRITE));
        const fillHalf = (half: DtlbHalf, isAsked: I32, tag: () => I64) => {
          const old = f.let(load64(at, half.tag));
          f.if(isAsked.or(old.eq(page)).or(old.eq(I64.const(-1))), () => {
            f.store64(at, tag(), half.tag);
            f.store32(at, entry.and(PAGE_MASK).sub(page.toI32()), half.addend);
            f.store32(at, flags.and(TLB_FLAG_MASK), half.flags);
          });
        };
        fillHalf(Dtlb.read, isWrite.eqz(), () => page);
        fillHalf(Dtlb.write, isWrite.ne(0), () => {
          const slowWrites = PhysFlag.READONLY | PhysFlag.LOG_DIRTY;
          const writes = f.temporary("i32");
          f.set(writes, I32.const(0));
          f.if(flags.and(WALK_WRITABLE).ne(0).and(entry.and(slowWrites).eqz()), () =>
            f.set(writes, f.call(this.#claimWrites, cpu, load64(cpu, O.walkPhysical))),
          );
          return page.select(writes.get, I64.const(-1));
        });
        noteFilled(f, cpu, va, at, flags);
      },
    );
  }

  /** Largest power of two, at most 8, that is not above `n`: the width of the next MMIO access of a run. */
  #chunk(n: I32): I32 {
    return I32.const(8).select(n.geU(8), I32.const(4).select(n.geU(4), I32.const(2).select(n.geU(2), 1)));
  }

  /** (cpu, rec, physical, linear-memory address, bytes), within one page. */
  #defineCopyFromPhysical() {
    return this.module.func(
      "copyFromPhysical",
      ["i32", "i32", "i64", "i32", "i32"],
      undefined,
      (f, cpu, rec, pa, to, n) => {
        const entry = f.let(f.call(this.walks.physEntry, cpu, pa));
        f.if(entry, () => {
          this.#copyAccess(f, to, f.let(entry.and(PAGE_MASK).add(pa.toI32().and(0xfff))), n);
          f.return();
        });
        const done = f.local("i32");
        const buffer = f.let(f.call(this.#mmioValue, cpu));
        f.loop((start) => {
          const size = f.let(this.#chunk(n.sub(done.get)));
          const at = f.let(pa.add(done.get.toI64U()));
          const saved = f.let(load64(cpu, O.scratch));
          f.callVoid(this.imports.mmioLoad, cpu, rec, at.toI32(), at.shrU(32).toI32(), size);
          f.if(load32(cpu, O.leave), () => f.return());
          f.store64(buffer, load64(cpu, O.scratch));
          f.store64(cpu, saved, O.scratch);
          f.copy(to.add(done.get), buffer, size);
          f.set(done, done.get.add(size));
          f.brIf(start, done.get.ltU(n));
        });
      },
    );
  }

  #defineCopyToPhysical() {
    return this.module.func(
      "copyToPhysical",
      ["i32", "i32", "i64", "i32", "i32"],
      undefined,
      (f, cpu, rec, pa, from, n) => {
        const entry = f.let(f.call(this.walks.physEntry, cpu, pa));
        const offset = f.let(pa.toI32().and(0xfff));
        f.if(entry.and(PhysFlag.RAM | PhysFlag.READONLY).eq(PhysFlag.RAM), () => {
          this.#copyAccess(f, f.let(entry.and(PAGE_MASK).add(offset)), from, n);
          this.#written(f, cpu, entry, pa, offset, n);
          f.return();
        });
        const done = f.local("i32");
        const buffer = f.let(f.call(this.#mmioValue, cpu));
        f.loop((start) => {
          const size = f.let(this.#chunk(n.sub(done.get)));
          const at = f.let(pa.add(done.get.toI64U()));
          const saved = f.let(load64(cpu, O.scratch));
          f.store64(buffer, I64.const(0));
          f.copy(buffer, from.add(done.get), size);
          f.store64(cpu, load64(buffer), O.scratch);
          f.callVoid(this.imports.mmioStore, cpu, rec, at.toI32(), at.shrU(32).toI32(), size);
          f.store64(cpu, saved, O.scratch);
          f.if(load32(cpu, O.leave), () => f.return());
          f.set(done, done.get.add(size));
          f.brIf(start, done.get.ltU(n));
        });
      },
    );
  }

  /** Where an MMIO value is kept while scratch[0], which may be part of the data, is in use. */
  get #mmioValue(): FuncRef<readonly ["i32"], "i32"> {
    return this.shared({
      name: "mmioValue",
      params: ["i32"] as const,
      result: "i32",
      body: (f) => f.return((f.params[0].get as I32).add(O.scratch + 8 * 15)),
    });
  }

  #access(cpu: I32, info: I32, extra: number): I32 {
    const user = I32.const(AccessKind.USER).select(load32(cpu, O.mmuMode).eq(MmuMode.USER), 0);
    return user.or(info.shrU(8)).or(extra);
  }

  #checkSlow(
    f: FunctionBuilder,
    cpu: I32,
    rec: I32,
    va: I64,
    bytes: I32,
    access: I32,
    leave: () => void,
  ): void {
    f.if(load32(cpu, O.noFill), () => {
      f.callVoid(this.imports.checkAccess, cpu, rec, va.toI32(), va.shrU(32).toI32(), bytes, access);
      f.if(load32(cpu, O.leave), leave);
    });
  }

  /** `info & 0xff` bytes between state.scratch and `va`; both pages are checked before the first byte moves. */
  #defineSlowBytes(name: string, copy: typeof this.slowCopyType, extra: number): Slow {
    return this.module.func(name, ["i32", "i32", "i64", "i32"], undefined, (f, cpu, rec, va, info) => {
      countEvent(f, cpu, extra === 0 ? Counter.SLOW_LOAD : Counter.SLOW_STORE);
      const bytes = f.let(info.and(0xff));
      const access = f.let(this.#access(cpu, info, extra));
      this.#checkSlow(f, cpu, rec, va, bytes, access, () => f.return());
      const room = f.let(I32.const(PAGE).sub(va.toI32().and(0xfff)));
      f.if(f.call(this.translate, cpu, rec, va, access), () => f.return());
      const pa = f.let(load64(cpu, O.walkPhysical));
      const buffer = cpu.add(O.scratch);
      f.if(bytes.leU(room), () => {
        const entry = f.let(f.call(this.walks.physEntry, cpu, pa));
        f.if(entry, () => f.callVoid(this.#fill, cpu, va, entry, access));
        f.callVoid(copy, cpu, rec, pa, buffer, bytes);
        f.return();
      });
      const second = f.local("i64");
      f.set(second, va.add(room.toI64U()));
      f.if(load32(cpu, O.codeMode).ne(CodeMode.LONG64), () =>
        f.set(second, second.get.and(I64.const(0xffffffff))),
      );
      f.if(f.call(this.translate, cpu, rec, second.get, access), () => f.return());
      const pa2 = f.let(load64(cpu, O.walkPhysical));
      if (extra === AccessKind.WRITE) {
        // From RAM into what is not: that goes first, as the instruction is run again after it, and must find RAM as it was.
        const plain = (at: I64) =>
          f
            .call(this.walks.physEntry, cpu, at)
            .and(PhysFlag.RAM | PhysFlag.READONLY)
            .eq(PhysFlag.RAM);
        f.if(plain(pa).and(plain(pa2).eqz()), () => {
          f.callVoid(copy, cpu, rec, pa2, buffer.add(room), bytes.sub(room));
          f.if(load32(cpu, O.leave), () => f.return());
          f.callVoid(copy, cpu, rec, pa, buffer, room);
          f.return();
        });
      }
      f.callVoid(copy, cpu, rec, pa, buffer, room);
      f.if(load32(cpu, O.leave), () => f.return());
      f.callVoid(copy, cpu, rec, pa2, buffer.add(room), bytes.sub(room));
    });
  }

  declare readonly slowCopyType: FuncRef<readonly ["i32", "i32", "i64", "i32", "i32"], undefined>;

  #defineSlowLoad() {
    return this.module.func("slowLoad", ["i32", "i32", "i64", "i32"], "i64", (f, cpu, rec, va, info) => {
      f.store64(cpu, I64.const(0), O.scratch);
      f.callVoid(this.slowLoadBytes, cpu, rec, va, info);
      f.return(load64(cpu, O.scratch));
    });
  }

  #defineSlowStore() {
    return this.module.func(
      "slowStore",
      ["i32", "i32", "i64", "i32", "i64"],
      undefined,
      (f, cpu, rec, va, info, value) => {
        f.store64(cpu, value, O.scratch);
        f.callVoid(this.slowStoreBytes, cpu, rec, va, info);
      },
    );
  }

  /** Linear-memory address where `info & 0xff` bytes at `va` can be read and written in place, or 0. */
  #definePlaceToWrite() {
    return this.module.func("placeToWrite", ["i32", "i32", "i64", "i32"], "i32", (f, cpu, rec, va, info) => {
      const bytes = f.let(info.and(0xff));
      const access = f.let(this.#access(cpu, info, AccessKind.WRITE));
      this.#checkSlow(f, cpu, rec, va, bytes, access, () => f.return(I32.const(0)));
      const offset = f.let(va.toI32().and(0xfff));
      f.if(offset.add(bytes).gtU(PAGE), () => f.return(I32.const(0)));
      f.if(f.call(this.translate, cpu, rec, va, access), () => f.return(I32.const(0)));
      const entry = f.let(f.call(this.walks.physEntry, cpu, load64(cpu, O.walkPhysical)));
      const mask = PhysFlag.RAM | PhysFlag.READONLY | PhysFlag.LOG_DIRTY;
      f.if(entry.and(mask).ne(PhysFlag.RAM), () => f.return(I32.const(0)));
      f.if(f.call(this.#claimWrites, cpu, load64(cpu, O.walkPhysical)).eqz(), () => f.return(I32.const(0)));
      f.callVoid(this.#fill, cpu, va, entry, access);
      f.return(entry.and(PAGE_MASK).add(offset));
    });
  }

  #defineSlowRmw() {
    return this.module.func("slowRmw", ["i32", "i32", "i64", "i32"], "i32", (f, cpu, rec, va, info) => {
      countEvent(f, cpu, Counter.SLOW_RMW);
      f.return(f.call(this.#placeToWrite, cpu, rec, va, info));
    });
  }

  #defineMissLoad() {
    return this.module.func("missLoad", ["i32", "i32", "i64", "i32"], "i32", (f, cpu, rec, va, info) => {
      f.callVoid(this.slowLoadBytes, cpu, rec, va, info);
      f.return(I32.const(0).select(load32(cpu, O.leave), cpu.add(O.scratch)));
    });
  }

  /** Leave for the instruction of `rec` to be run alone. */
  #leaveAlone(f: FunctionBuilder, cpu: I32, rec: I32): void {
    f.store64(cpu, recordRip(cpu, rec), O.rip);
    f.store32(cpu, I32.const(Leave.ALONE), O.leave);
  }

  /** (cpu, va, access): 1 where the page, which is RAM, holds decoded code of some vCPU. No fault is raised. */
  #defineHoldsCode() {
    return this.module.func("holdsCode", ["i32", "i64", "i32"], "i32", (f, cpu, va, access) => {
      f.if(f.call(this.walks.walk, cpu, va, access), () => f.return(I32.const(0)));
      const pa = f.let(load64(cpu, O.walkPhysical));
      const entry = f.let(f.call(this.walks.physEntry, cpu, pa));
      f.if(entry.and(PhysFlag.RAM).eqz(), () => f.return(I32.const(0)));
      f.return(load32(this.#sharing(cpu, pa), PAGE_SHARING_OFFSET).and(PageSharing.OWNERS).ne(0));
    });
  }

  /** `bytes` at `va` go to `inPlace` where that can be; a page of code is left alone; all else goes to `other`. */
  #missStore(
    f: FunctionBuilder,
    [cpu, rec, va, info]: readonly [I32, I32, I64, I32],
    inPlace: (at: I32, bytes: I32) => void,
    other: () => void,
  ): void {
    const at = f.let(f.call(this.#placeToWrite, cpu, rec, va, info));
    f.if(load32(cpu, O.leave), () => f.return(I32.const(1)));
    const bytes = f.let(info.and(0xff));
    f.if(at, () => {
      countEvent(f, cpu, Counter.SLOW_STORE);
      inPlace(at, bytes);
      f.return(I32.const(0));
    });
    const access = f.let(this.#access(cpu, info, AccessKind.WRITE));
    const last = va.add(bytes.sub(1).toI64U());
    const holds = f.call(this.#holdsCode, cpu, va, access).or(f.call(this.#holdsCode, cpu, last, access));
    f.if(holds, () => {
      this.#leaveAlone(f, cpu, rec);
      f.return(I32.const(1));
    });
    other();
    f.return(load32(cpu, O.leave).ne(0));
  }

  #defineMissStore() {
    const params = ["i32", "i32", "i64", "i32", "i64"] as const;
    return this.module.func("missStore", params, "i32", (f, cpu, rec, va, info, value) => {
      const copy = (at: I32, bytes: I32) => {
        f.store64(cpu, value, O.scratch);
        this.#copyAccess(f, at, cpu.add(O.scratch), bytes);
      };
      this.#missStore(f, [cpu, rec, va, info], copy, () =>
        f.callVoid(this.slowStore, cpu, rec, va, info, value),
      );
    });
  }

  #defineMissStoreBytes() {
    const params = ["i32", "i32", "i64", "i32"] as const;
    return this.module.func("missStoreBytes", params, "i32", (f, cpu, rec, va, info) => {
      const copy = (at: I32, bytes: I32) => this.#copyAccess(f, at, cpu.add(O.scratch), bytes);
      this.#missStore(f, [cpu, rec, va, info], copy, () =>
        f.callVoid(this.slowStoreBytes, cpu, rec, va, info),
      );
    });
  }

  #defineMissUpdate() {
    return this.module.func("missUpdate", ["i32", "i32", "i64", "i32"], "i32", (f, cpu, rec, va, info) => {
      const at = f.let(f.call(this.slowRmw, cpu, rec, va, info));
      f.if(at.or(load32(cpu, O.leave)).eqz(), () => this.#leaveAlone(f, cpu, rec));
      f.return(at);
    });
  }

  /** Fault now if any of `info` bytes at `va` cannot be written. */
  #defineSlowProbeWrite() {
    return this.module.func(
      "slowProbeWrite",
      ["i32", "i32", "i64", "i32"],
      undefined,
      (f, cpu, rec, va, bytes) => {
        const access = f.let(this.#access(cpu, I32.const(0), AccessKind.WRITE));
        // A single operand; larger areas have alignment rules of their own.
        f.if(bytes.leU(LARGEST_OPERAND), () =>
          this.#checkSlow(f, cpu, rec, va, bytes, access, () => f.return()),
        );
        f.if(f.call(this.translate, cpu, rec, va, access), () => f.return());
        const last = f.let(va.add(bytes.sub(1).toI64U()));
        f.if(last.xor(va).and(PAGE_MASK).ne(0), () =>
          f.drop(f.call(this.translate, cpu, rec, last.and(PAGE_MASK), access)),
        );
      },
    );
  }

  /** Linear address of `offset` in segment `seg` outside 64-bit mode (SDM vol. 3A, 5.3 and 5.5). */
  #defineSegmentLinear() {
    return this.module.func(
      "segmentLinear",
      ["i32", "i32", "i32", "i64", "i32"],
      "i64",
      (f, cpu, rec, seg, offset, info) => {
        const access = f.let(load32(cpu.add(seg.shl(2)), O.segAccess));
        const limit = f.let(load32U64(cpu.add(seg.shl(2)), O.segLimit));
        const last = f.let(offset.add(info.and(0xff).sub(1).toI64U()));
        const bad = f.local("i32");
        const write = info.shrU(8).and(AccessKind.WRITE);
        f.if(
          access.and(Access.CODE),
          () => f.set(bad, write.or(access.and(Access.READABLE).eqz())),
          () => f.set(bad, write.ne(0).and(access.and(Access.WRITABLE).eqz())),
        );
        // Real mode has limits, but no types (SDM vol. 3B, 21.1.1): there CS may be written.
        f.if(bad.get, () => f.set(bad, load32(cpu, O.cr0).and(Cr0.PE)));
        f.set(bad, bad.get.or(access.and(Access.UNUSABLE)));
        f.if(
          access.and(Access.CODE | Access.EXPAND_DOWN).eq(Access.EXPAND_DOWN),
          () => {
            const upper = I64.const(0xffffffff).select(access.and(Access.DB), I64.const(0xffff));
            f.set(bad, bad.get.or(offset.leU(limit)).or(last.gtU(upper)));
          },
          () => f.set(bad, bad.get.or(last.gtU(limit))),
        );
        f.if(bad.get, () => {
          const vector = I32.const(Vector.SS).select(seg.eq(Seg.SS), Vector.GP);
          f.callVoid(this.fault, cpu, rec, vector, I32.const(0));
          f.return(I64.const(0));
        });
        f.return(offset.add(load64(cpu.add(seg.shl(3)), O.segBase)).and(I64.const(0xffffffff)));
      },
    );
  }

  /** `hit` gets the address of the `bytes` at `va` where the TLB has it, and the page is the stack's from now on. */
  #stackHit(f: FunctionBuilder, cpu: I32, va: I64, bytes: I32, half: DtlbHalf, hit: (at: I32) => void): void {
    const entry = f.let(dataTlbEntry(load32(cpu, O.dtlb), va));
    const page = f.let(va.add(bytes.sub(1).toI64U()).and(PAGE_MASK));
    f.if(load64(entry, half.tag).eq(page), () => {
      const addend = f.let(load32(entry, half.addend));
      const other = half === Dtlb.read ? Dtlb.write : Dtlb.read;
      f.if(load64(entry, other.tag).eq(page).and(load32(entry, other.addend).eq(addend)), () => {
        f.store64(cpu, page, O.stackPage);
        f.store32(cpu, addend, O.stackAddend);
      });
      hit(f.let(va.toI32().add(addend)));
    });
  }

  #defineStackLoad() {
    return this.module.func("stackLoad", ["i32", "i32", "i64", "i32"], "i32", (f, cpu, rec, va, info) => {
      this.#stackHit(f, cpu, va, f.let(info.and(0xff)), Dtlb.read, (at) => f.return(at));
      f.return(f.call(this.missLoad, cpu, rec, va, info));
    });
  }

  #defineStackStore() {
    const params = ["i32", "i32", "i64", "i32", "i64"] as const;
    return this.module.func("stackStore", params, "i32", (f, cpu, rec, va, info, value) => {
      const bytes = f.let(info.and(0xff));
      this.#stackHit(f, cpu, va, bytes, Dtlb.write, (at) => {
        f.store64(cpu, value, O.scratch);
        this.#copyAccess(f, at, cpu.add(O.scratch), bytes);
        f.return(I32.const(0));
      });
      f.return(f.call(this.missStore, cpu, rec, va, info, value));
    });
  }

  #defineStackStoreBytes() {
    const params = ["i32", "i32", "i64", "i32"] as const;
    return this.module.func("stackStoreBytes", params, "i32", (f, cpu, rec, va, info) => {
      const bytes = f.let(info.and(0xff));
      this.#stackHit(f, cpu, va, bytes, Dtlb.write, (at) => {
        this.#copyAccess(f, at, cpu.add(O.scratch), bytes);
        f.return(I32.const(0));
      });
      f.return(f.call(this.missStoreBytes, cpu, rec, va, info));
    });
  }

  #defineStackUpdate() {
    return this.module.func("stackUpdate", ["i32", "i32", "i64", "i32"], "i32", (f, cpu, rec, va, info) => {
      this.#stackHit(f, cpu, va, f.let(info.and(0xff)), Dtlb.write, (at) => f.return(at));
      f.return(f.call(this.missUpdate, cpu, rec, va, info));
    });
  }

  #defineEntries(): void {
    const { module } = this;
    // Run from state.rip on until something leaves guest code.
    module.export(
      module.func("enter", ["i32"], undefined, (f, cpu) => {
        f.store64(cpu, I64.const(NO_STACK_PAGE), O.stackPage);
        const rec = f.let(f.call(this.lookup, cpu, load64(cpu, O.rip)));
        f.if(
          rec,
          () => f.callIndirectVoid(this.handlerType, load32(rec, Rec.handler), cpu, rec),
          () => f.store32(cpu, I32.const(Leave.DECODE), O.leave),
        );
      }),
    );
    module.export(
      module.func("enterRecord", ["i32", "i32"], undefined, (f, cpu, rec) => {
        f.store64(cpu, I64.const(NO_STACK_PAGE), O.stackPage);
        f.callIndirectVoid(this.handlerType, load32(rec, Rec.handler), cpu, rec);
      }),
    );
    for (const exported of [
      this.fault,
      this.jump,
      this.jumpLong,
      this.arrive,
      this.branchSlow,
      this.slowLoad,
      this.slowStore,
      this.slowRmw,
      this.segmentLinear,
      this.walks.walk,
      this.translate,
      this.slowLoadBytes,
      this.slowStoreBytes,
      this.slowProbeWrite,
      this.missLoad,
      this.missStore,
      this.missStoreBytes,
      this.missUpdate,
      this.stackLoad,
      this.stackStore,
      this.stackStoreBytes,
      this.stackUpdate,
      this.settleFlags,
      this.lookup,
    ]) {
      module.export(exported as unknown as FuncRef);
    }
    this.walks.exportFlushes(module);
  }
}

/** One more of an event. */
export function countEvent(f: FunctionBuilder, cpu: I32, counter: number): void {
  const offset = O.counters + 8 * counter;
  f.store64(cpu, load64(cpu, offset).add(1), offset);
}

/** RIP of the instruction of a record. */
export function recordRip(cpu: I32, rec: I32): I64 {
  return load64(cpu, O.pageRip).add(load16U(rec, Rec.pageOffset).toI64U());
}

export { FAULT_NO_ERROR_CODE };
