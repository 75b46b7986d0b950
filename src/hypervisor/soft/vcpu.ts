/**
 * A vCPU of the software CPU: the loop around guest code. It enters translated code, and sees to everything that makes it
 * leave: exceptions, code to be decoded, operations done in TypeScript, interrupts, and accesses that the machine serves.
 */
import { randomFillSync } from "node:crypto";
import type { SharedMemory } from "../../memory/shared-memory.js";
import {
  type CpuidEntry,
  type DebugRegs,
  ExitReason,
  type Fpu,
  type GuestDebug,
  MpState,
  type Msr,
  type Regs,
  type Sregs,
  type Vcpu,
  type VcpuEvents,
  type VcpuProfile,
  type VmExit,
} from "../seam.js";
import { type ColdImports, instantiateEngine, makeDecoder } from "./cold/engine.js";
import { Special } from "./cold/special-handlers.js";
import { CodeCache } from "./decode/code-cache.js";
import { DecodeStatus, type InstructionDecoder, MAX_INSTRUCTION_BYTES } from "./decode/instruction.js";
import { HotTier, type Place } from "./hot/hot-tier.js";
import type { IrqChip } from "./irqchip/irqchip.js";
import { type ColdExports, GuestAccess } from "./mmu/access.js";
import { Activity, CpuProfile } from "./profile/cpu-profile.js";
import type { Bounds, SoftVm } from "./provider.js";
import { Halt } from "./smp/halt.js";
import type { PageEventReader } from "./smp/page-events.js";
import { wideExchange } from "./smp/wide-exchange.js";
import { ControlRegisters, DR6_FIXED } from "./system/control.js";
import { DebugUnit, DR7_GD, Dr6, setHostDebug } from "./system/debug.js";
import { AccessPending, GuestFault } from "./system/fault.js";
import {
  combineFaults,
  EventKind,
  HAS_ERROR_CODE,
  Interrupts,
  pushesErrorCode,
} from "./system/interrupts.js";
import { checksAlignment, updateMode } from "./system/mode.js";
import { Msrs } from "./system/msrs.js";
import { SYSTEM_OPERATION_NAMES, SystemDetail } from "./system/operation-names.js";
import { OPERATIONS, type OperationContext } from "./system/operations.js";
import { IoPending, PortIo } from "./system/port-io.js";
import * as registers from "./system/register-groups.js";
import { Segments } from "./system/segments.js";
import { Transfers } from "./system/transfers.js";
import {
  AccessKind,
  CODE_MAP_OFFSET,
  CodeMode,
  CodePage,
  Counter,
  Eflags,
  FAULT_NO_ERROR_CODE,
  HOT_COUNTERS,
  HOT_COUNTERS_OFFSET,
  HostDebug,
  Leave,
  NEVER_HOT,
  O,
  PhysFlag,
  Poll,
  Rec,
  Request,
  readCounters,
  SCRATCH_RECORDS_OFFSET,
  Seg,
  Shadow,
  STRUCTURE_CACHE_OFFSET,
  VCPU_BYTES,
  VCPU_STATE,
  type VcpuState,
  Vector,
} from "./vcpu-state.js";

const PAGE = 4096;
/** How often a branch in a page is taken, or a jump arrives, until its target is translated. */
const HOT_BRANCHES = 30_000;
const HOT_ARRIVALS = 20_000;
/** Arrivals that one counts for at which the host interrupted guest code, some hundred times a second. */
const ARRIVALS_OF_INTERRUPTED = HOT_ARRIVALS / 4;
/** KVM_X86_SHADOW_INT_STI and KVM_X86_SHADOW_INT_MOV_SS by `Shadow`. */
const SHADOW_EVENT = [0, 2, 1];
/** SYSCALL and SYSRET see to single-stepping themselves. */
const TRAPS_BY_NEW_FLAGS: ReadonlySet<string> = new Set(["syscall", "sysret"]);
/** KVM_INTERNAL_ERROR_EMULATION. */
const INTERNAL_ERROR_EMULATION = 1;
/** Accesses of one instruction that can be replayed. */
const MAX_MMIO_REPLAY = 16;
/** Milliseconds that a halted vCPU sleeps at most before it looks around. */
const HALT_SLEEP_LIMIT = 10_000;

export class SoftVcpu implements Vcpu {
  readonly exit: VmExit = {
    reason: ExitReason.UNKNOWN,
    port: 0,
    size: 0,
    count: 0,
    isWrite: false,
    address: 0,
    data: new Uint8Array(8),
    detail: 0,
    debug: { exception: 0, pc: 0n, dr6: 0n, dr7: 0n },
  };
  readonly #memory: SharedMemory;
  readonly #s: VcpuState;
  readonly #irqchip: IrqChip;
  readonly #exitData: DataView;
  readonly #leaves: BigUint64Array;
  /** Apart from the other parts: any thread may set MSRs. */
  readonly #msrs: Msrs;
  #parts: Parts | undefined;
  /** Only while time is measured (`--profile-cpu`). */
  #profile: CpuProfile | undefined;
  #pageEvents: PageEventReader | undefined;
  readonly #alone: boolean;
  readonly #bounds: Bounds | undefined;
  readonly #halt: Halt;

  constructor(
    readonly vm: SoftVm,
    readonly id: number,
  ) {
    this.#memory = vm.memory;
    this.#s = vm.places[id].state;
    this.#irqchip = vm.irqchip;
    this.#exitData = new DataView(this.exit.data.buffer);
    this.#leaves = this.#s.counters.subarray(Counter.LEAVE);
    this.#alone = vm.places.length === 1;
    this.#bounds = vm.options.parts?.bounds;
    this.#halt = new Halt(
      this.#memory.i32,
      (this.#s.address + O.poll) >>> 2,
      () => vm.clock.now(),
      () => !this.#alone && vm.hasFreeCores,
      (change) => vm.countRunning(change),
    );
    this.#msrs = new Msrs(
      this.#s,
      id,
      this.#irqchip,
      vm.kvmClock,
      () => BigInt(Math.floor(vm.clock.now())),
      () => vm.request(id, Request.TLB_FLUSH),
      () => {
        this.#irqchip.tscChanged(id);
        vm.kvmClock.tscChanged();
      },
    );
  }

  /** State at power-up (SDM vol. 3A, table 10-1); for the thread that makes the machine. */
  static powerUp(s: VcpuState, memory: SharedMemory, id: number): void {
    const { physMap, ownerBit, busLock } = s;
    memory.u8.fill(0, s.address, s.address + VCPU_STATE.size);
    memory.u8.fill(0xff, s.address + VCPU_STATE.size, s.address + HOT_COUNTERS_OFFSET);
    memory.u8.fill(0, s.address + HOT_COUNTERS_OFFSET, s.address + VCPU_BYTES);
    memory.u8.fill(0xff, s.address + STRUCTURE_CACHE_OFFSET, s.address + VCPU_BYTES);
    s.physMap = physMap;
    s.ownerBit = ownerBit;
    s.busLock = busLock;
    s.hotCounters = s.address + HOT_COUNTERS_OFFSET;
    s.hotThreshold = NEVER_HOT;
    registers.resetRegisters(s);
    s.mpState = id === 0 ? MpState.RUNNABLE : MpState.UNINITIALIZED;
    updateMode(s, memory);
  }

  /** Engine, decoder and system parts: made by the thread that runs the vCPU, when it first does. */
  get #run(): Parts {
    this.#parts ??= this.#makeParts();
    return this.#parts;
  }

  /** For tests: what holds decoded and translated code, once the vCPU has run. */
  get code(): { readonly cache: CodeCache; readonly hot: HotTier | undefined } {
    return this.#run;
  }

  #makeParts(): Parts {
    const memory = this.#memory;
    const s = this.#s;
    const { clock } = this.vm;
    const place = this.vm.places[this.id];
    const decoder = makeDecoder();
    let cache: CodeCache;
    const { coherence } = this.vm;
    const codeWritten = (page: number, offset: number, bytes: number) => {
      const index = (s.physMap >>> 2) + page;
      if ((memory.u32[index] & PhysFlag.LOG_DIRTY) !== 0) Atomics.or(memory.u32, index, PhysFlag.DIRTY);
      if (!this.#alone) coherence.written(page, offset, bytes, this.id);
      if (cache.written(page, offset, bytes))
        Atomics.or(memory.i32, (s.address + O.poll) >>> 2, Poll.STALE_CODE);
    };
    const imports: ColdImports = {
      mmioLoad: (_cpu, rec, low, high, bytes) => this.#mmio(rec, physical(low, high), bytes, false),
      mmioStore: (_cpu, rec, low, high, bytes) => this.#mmio(rec, physical(low, high), bytes, true),
      codeWritten: (_cpu, page, offset, bytes) => codeWritten(page, offset, bytes),
      checkAccess: (_cpu, rec, low, high, bytes, kind) => this.#checkAccess(rec, low, high, bytes, kind),
      exchangeWide: wideExchange(memory, s),
      clock: () => clock.now(),
    };
    const engine = instantiateEngine(
      memory,
      this.vm.options.profile === true ? this.#profiled(imports) : imports,
    );
    const wasm = engine.exports;
    let hot: HotTier | undefined;
    cache = new CodeCache(
      memory,
      decoder,
      place.codeStart,
      place.codeEnd,
      s.physMap,
      s.address + CODE_MAP_OFFSET,
      () => {
        wasm.flushTlb(s.address);
        hot?.flushed();
      },
      {
        own: (page) => {
          coherence.own(page, this.id);
          wasm.flushWrites(s.address, cache.linearPage(page) | 0);
        },
        disown: (page) => coherence.sharing.disown(page, this.id),
      },
    );
    this.#pageEvents = {
      written: (page, offset, length) => cache.written(page, offset, length),
      dropWrites: (page) => wasm.flushWrites(s.address, cache.linearPage(page) | 0),
      everything: () => cache.flush(),
    };
    if (this.vm.options.tier !== "cold") {
      const counters = memory.u16.subarray(s.hotCounters >>> 1, (s.hotCounters >>> 1) + HOT_COUNTERS);
      const forced = this.vm.options.tier === "hot";
      hot = new HotTier(
        cache,
        makeDecoder(),
        engine.handlers,
        engine.table,
        counters,
        engine.env,
        {
          physicalPage: (linear) => {
            const failed = wasm.walk(s.address, BigInt.asIntN(64, linear), AccessKind.PEEK) !== 0;
            return failed ? -1 : Number(s.walkPhysical >> 12n);
          },
          eager: forced,
        },
        () => s.mxcsr,
      );
      cache.onInvalidate = (page) => hot?.pageInvalidated(page);
      cache.hotBranches = forced ? 1 : HOT_BRANCHES;
      s.hotThreshold = forced ? 1 : HOT_ARRIVALS;
      s.hotFirst = hot.first;
    }
    if (this.vm.options.profile === true) this.#startProfile(cache, hot);
    const access = new GuestAccess(
      memory,
      s,
      wasm,
      coherence.sharing,
      codeWritten,
      this.#alone ? (store) => store() : (store) => coherence.storing(this.id, store),
    );
    const segments = new Segments(s, access);
    const transfers = new Transfers(s, access, segments);
    const interrupts = new Interrupts(s, access, segments, transfers);
    const debug = new DebugUnit(s);
    const control = new ControlRegisters(s, memory, access, this.id, this.#irqchip, debug);
    const msrs = this.#msrs;
    const ports = new PortIo(s, access, this.#irqchip, segments, debug);
    const context: OperationContext = {
      s,
      memory,
      access,
      segments,
      transfers,
      interrupts,
      control,
      msrs,
      ports,
      cpuid: this.vm.cpuids[this.id],
      kick: (apicId) => this.vm.kickOutOfHalt(apicId),
      random: (bytes) => {
        const buffer = new DataView(new ArrayBuffer(8));
        randomFillSync(new Uint8Array(buffer.buffer, 0, bytes));
        return buffer.getBigUint64(0, true);
      },
      size: 4,
      addressSize: 4,
      rep: 0,
      startRip: 0n,
      modeChanged: () => updateMode(s, memory),
    };
    return { decoder, cache, hot, wasm, access, segments, interrupts, control, debug, msrs, ports, context };
  }

  #startProfile(cache: CodeCache, hot: HotTier | undefined): void {
    this.#profile = new CpuProfile(this.#s, { cache, hot }, () => this.vm.interruptGuestCode(this.id));
  }

  /** What guest code calls, with the time it takes told from guest code's own. */
  #profiled(imports: ColdImports): ColdImports {
    const within = (activity: Activity, work: () => void) => this.#profile?.within(activity, work);
    return {
      ...imports,
      mmioLoad: (...args) => within(Activity.interruptControllers, () => imports.mmioLoad(...args)),
      mmioStore: (...args) => within(Activity.interruptControllers, () => imports.mmioStore(...args)),
      codeWritten: (...args) => within(Activity.codeWritten, () => imports.codeWritten(...args)),
    };
  }

  // --- the loop ---

  run(): ExitReason {
    const s = this.#s;
    const parts = this.#run;
    this.#profile?.turn(Activity.loop);
    this.#completeIo();
    for (;;) {
      // What an instruction waited for has come: it is finished before anything else may happen.
      const unfinished = s.mmioCount !== 0 || s.ioPending !== 0;
      if (unfinished) {
        if (this.#takeKick()) return this.#leave(ExitReason.INTR);
      } else if (s.pendingDebug !== 0 && s.shadow !== Shadow.STACK) {
        const reason = this.#raiseDebug(parts);
        if (reason !== undefined) return this.#leave(reason);
      }
      if (!unfinished && (s.poll !== 0 || s.requests !== 0)) {
        const index = (s.address + O.poll) >>> 2;
        Atomics.store(this.#memory.i32, index, 0);
        s.irqPending = 1;
        if (s.leave === Leave.POLL) this.#noteTime(parts);
        if (s.requests !== 0 && this.#serveRequests()) return this.#leave(ExitReason.INTR);
        if (parts.hot?.due === true) {
          this.#profile?.turn(Activity.translating);
          parts.hot.translateWaiting();
        }
      }
      if (s.mpState !== MpState.RUNNABLE) {
        if (!this.#wake()) {
          this.#sleep();
          continue;
        }
      }
      if (s.irqPending !== 0 && s.shadow === 0 && !unfinished) this.#takeInterrupt();
      if (this.#shutdown) {
        this.#shutdown = false;
        return this.#leave(ExitReason.SHUTDOWN);
      }
      s.leave = Leave.NONE;
      const stepping =
        (s.eflags & Eflags.TF) !== 0 ||
        s.shadow !== 0 ||
        unfinished ||
        (s.hostDebug & (HostDebug.SINGLE_STEP | HostDebug.HARDWARE)) !== 0 ||
        (s.dr[7] & 0xffn) !== 0n;
      if (stepping) {
        this.#profile?.turn(Activity.stepping);
        const reason = this.#step(parts);
        if (reason !== undefined) return this.#leave(reason);
        // The host's single step ends where an exception was delivered, too.
        if (this.#hostSteps) return this.#leave(this.#debugExit(Vector.DB, BigInt(Dr6.BS)));
        continue;
      }
      // RF holds breakpoints back for one instruction; without any, there is nothing to hold back.
      s.eflags &= ~Eflags.RF;
      this.#enterGuest();
      this.#profile?.turn(Activity.guestCode);
      try {
        parts.wasm.enter(s.address);
      } finally {
        this.#profile?.left();
        this.#leftGuest();
      }
      const reason = this.#left(parts);
      if (reason !== undefined) return this.#leave(reason);
    }
  }

  /** From here on other vCPUs wait for this one where they have to. */
  #enterGuest(): void {
    if (this.#alone) return;
    while (!this.vm.coherence.enter(this.id)) this.#servePageEvents();
  }

  #leftGuest(): void {
    if (!this.#alone) this.vm.coherence.left(this.id);
  }

  #servePageEvents(): void {
    if (this.#pageEvents !== undefined) this.vm.coherence.serve(this.id, this.#pageEvents);
  }

  #leave(reason: ExitReason): ExitReason {
    this.exit.reason = reason;
    if (reason === ExitReason.IO || reason === ExitReason.MMIO)
      this.#profile?.exited(this.exit, reason === ExitReason.IO);
    return reason;
  }

  /** See to why guest code was left; an exit that the machine has to serve, or undefined to go on. */
  #left(parts: Parts): ExitReason | undefined {
    const s = this.#s;
    this.#leaves[s.leave]++;
    switch (s.leave) {
      case Leave.FAULT:
        s.rip = this.#recordRip();
        return this.#raise(s.faultVector, s.faultCode);
      case Leave.DECODE:
        return this.#decode(parts);
      case Leave.SYSTEM:
        return this.#operation(parts);
      case Leave.CROSS:
        return this.#cross(parts);
      case Leave.ALONE:
        return this.#step(parts);
      case Leave.HOT:
        return this.#becameHot(parts);
      case Leave.WRONG_GUESS:
        parts.hot?.giveUp(s.leaveDetail, s.hotThreshold);
        return undefined;
      case Leave.MMIO:
        s.rip = this.#recordRip();
        return ExitReason.MMIO;
      default:
        return undefined;
    }
  }

  #recordRip(): bigint {
    const s = this.#s;
    const offset = this.#memory.u16[(s.rec + Rec.pageOffset) >>> 1];
    const rip = BigInt.asUintN(64, s.pageRip + BigInt(offset));
    return s.codeMode === CodeMode.LONG64 ? rip : rip & 0xffff_ffffn;
  }

  #operation(parts: Parts): ExitReason | undefined {
    const s = this.#s;
    const { context } = parts;
    const detail = s.leaveDetail;
    const start = this.#recordRip();
    context.startRip = start;
    context.size = (detail >> SystemDetail.size) & 0xf;
    context.addressSize = (detail >> SystemDetail.addressSize) & 0xf;
    context.rep = (detail >> SystemDetail.rep) & 3;
    const next = BigInt.asUintN(64, start + BigInt(this.#memory.u8[s.rec + Rec.length]));
    s.rip = s.codeMode === CodeMode.LONG64 ? next : next & 0xffff_ffffn;
    s.leave = Leave.NONE;
    const name = SYSTEM_OPERATION_NAMES[detail & 0xff];
    if (name === "int3" && (s.hostDebug & HostDebug.SOFTWARE) !== 0) {
      s.rip = start;
      return this.#debugExit(Vector.BP);
    }
    try {
      this.#bounds?.operation(name);
      OPERATIONS[name](context);
    } catch (thrown) {
      s.rip = start;
      return this.#thrown(thrown);
    }
    if ((s.eflags & Eflags.IF) !== 0) s.irqPending = 1;
    const port = parts.ports.takePending();
    return port === undefined ? undefined : this.#portExit(port.port, port.size, port.isWrite, port.value);
  }

  /** What an operation threw: a fault to deliver, an access to serve first, or a defect. */
  #thrown(thrown: unknown): ExitReason | undefined {
    if (thrown instanceof GuestFault) {
      if (thrown.address !== undefined) this.#s.cr2 = thrown.address;
      return this.#raise(thrown.vector, thrown.errorCode);
    }
    if (thrown instanceof AccessPending) return ExitReason.MMIO;
    throw thrown;
  }

  /** The debug traps that wait. */
  #raiseDebug({ debug }: Parts): ExitReason | undefined {
    debug.takePending();
    return this.#raise(Vector.DB, FAULT_NO_ERROR_CODE, false);
  }

  /**
   * Deliver an exception of the instruction at RIP; SHUTDOWN after a triple fault. `isFault`: with RF in the saved flags,
   * so that the instruction does not meet its breakpoint again (SDM vol. 3B, 18.3.1.1).
   */
  #raise(vector: number, errorCode: number, isFault = true): ExitReason | undefined {
    this.#bounds?.exception(vector);
    const s = this.#s;
    const { interrupts } = this.#run;
    s.shadow = 0;
    s.mpState = MpState.RUNNABLE;
    // A handler may use the debug registers (SDM vol. 3B, 18.2.4).
    if (vector === Vector.DB) s.dr[7] &= ~DR7_GD;
    s.mmioCount = 0;
    s.mmioIndex = 0;
    if (isFault) s.eflags |= Eflags.RF;
    for (;;) {
      const code = HAS_ERROR_CODE.has(vector) && pushesErrorCode(s) ? errorCode : FAULT_NO_ERROR_CODE;
      try {
        interrupts.deliver(vector, EventKind.EXCEPTION, code);
        updateMode(s, this.#memory);
        s.leave = Leave.NONE;
        return undefined;
      } catch (thrown) {
        if (!(thrown instanceof GuestFault)) throw thrown;
        if (thrown.address !== undefined) s.cr2 = thrown.address;
        switch (combineFaults(vector, thrown.vector)) {
          case "shutdown":
            return ExitReason.SHUTDOWN;
          case "double":
            vector = Vector.DF;
            errorCode = 0;
            break;
          default:
            vector = thrown.vector;
            errorCode = thrown.errorCode;
        }
      }
    }
  }

  // --- decoding ---

  /** Linear address of RIP, or undefined where CS does not reach there. */
  #linearRip(): bigint | undefined {
    const s = this.#s;
    if (s.codeMode === CodeMode.LONG64) return s.rip;
    if (s.rip > BigInt(s.segLimit[Seg.CS])) return undefined;
    return (s.segBase[Seg.CS] + s.rip) & 0xffff_ffffn;
  }

  /** Make the code at RIP known to `lookup`. */
  #decode(parts: Parts): ExitReason | undefined {
    const s = this.#s;
    s.leave = Leave.NONE;
    const linear = this.#linearRip();
    if (linear === undefined) return this.#raise(Vector.GP, 0);
    if (s.codeMode === CodeMode.LONG64) {
      if (BigInt.asUintN(64, BigInt.asIntN(48, linear)) !== linear) return this.#raise(Vector.GP, 0);
    } else if (this.#nearLimit(linear)) return this.#step(parts);
    const kind = AccessKind.FETCH | parts.access.userKind;
    let physicalAddress: number;
    try {
      physicalAddress = parts.access.physical(linear, kind);
    } catch (thrown) {
      return this.#thrown(thrown);
    }
    if (parts.access.linear(physicalAddress) < 0) {
      // Code in device memory: nothing that this machine has.
      this.exit.detail = INTERNAL_ERROR_EMULATION;
      return ExitReason.INTERNAL_ERROR;
    }
    const page = Math.floor(physicalAddress / PAGE);
    const offset = physicalAddress % PAGE;
    const mode = s.codeMode;
    const codePage = parts.cache.codePage(page, mode);
    if (this.#memory.u32[(codePage + CodePage.index + 4 * offset) >>> 2] === 0) {
      if (!parts.cache.decodeRun(page, offset, mode)) {
        parts.cache.codePage(page, mode);
        parts.cache.decodeRun(page, offset, mode);
      }
    }
    if (this.vm.options.tier === "hot" && mode === CodeMode.LONG64) {
      parts.hot?.translate({ page, rip: s.rip, record: parts.cache.knownRecord(page, offset, mode) });
    }
    return undefined;
  }

  /**
   * An instruction that reaches into the next page. In 64-bit mode it gets records, guarded by the next page's entry in
   * the fetch TLB; otherwise, and where it faults, it is run alone.
   */
  #cross(parts: Parts): ExitReason | undefined {
    const s = this.#s;
    const { access, cache, decoder, wasm } = parts;
    s.leave = Leave.NONE;
    const next = (s.rip & ~0xfffn) + BigInt(PAGE);
    if (s.codeMode !== CodeMode.LONG64) return this.#step(parts);
    try {
      // Faults of the fetch come first: #GP of 15 bytes in this page before what the next may raise. It decodes, too.
      this.#fetch(parts);
      if (decoder.handler === Special.UNDEFINED) return this.#step(parts);
      const kind = AccessKind.FETCH | access.userKind;
      const page = Math.floor(access.physical(s.rip, kind) / PAGE);
      const nextPage = Math.floor(access.physical(next, kind) / PAGE);
      if (access.linear(nextPage * PAGE) < 0) return this.#step(parts);
      cache.codePage(nextPage, s.codeMode);
      // The guard of the records looks for the page in the fetch TLB.
      wasm.lookup(s.address, BigInt.asIntN(64, next));
      const offset = Number(s.rip & 0xfffn);
      if (!cache.writeCrossing(page, offset, nextPage, s.codeMode)) return this.#step(parts);
      return undefined;
    } catch (thrown) {
      return this.#thrown(thrown);
    }
  }

  /** Translate the code at RIP, whose record the counters named. */
  #becameHot(parts: Parts): undefined {
    const place = this.#placeAtRip(parts);
    if (place?.record === this.#s.leaveDetail) this.#requestTranslation(parts, place);
  }

  /** RIP and its record; undefined where there is none, or no region can start. */
  #placeAtRip(parts: Parts): Place | undefined {
    const s = this.#s;
    if (s.codeMode !== CodeMode.LONG64) return undefined;
    const kind = AccessKind.FETCH | parts.access.userKind;
    if (parts.wasm.walk(s.address, BigInt.asIntN(64, s.rip), kind) !== 0) return undefined;
    const physicalAddress = Number(s.walkPhysical);
    const page = Math.floor(physicalAddress / PAGE);
    const record = parts.cache.knownRecord(page, physicalAddress % PAGE, s.codeMode);
    return record === 0 ? undefined : { page, rip: s.rip, record };
  }

  #requestTranslation({ hot }: Parts, place: Place): void {
    hot?.request(place, () => this.vm.remindOfHotCode(this.id));
  }

  /**
   * Guest code was left at a moment that has nothing to do with it: the more often that is at one place, the more time is spent
   * there, however seldom it branches.
   */
  #noteTime(parts: Parts): void {
    const s = this.#s;
    const byRegion = s.regionPolled !== 0;
    s.regionPolled = 0;
    if (byRegion || parts.hot === undefined || this.vm.options.tier !== "auto") return;
    const place = this.#placeAtRip(parts);
    if (place !== undefined && parts.hot.arrived(place.record, ARRIVALS_OF_INTERRUPTED, s.hotThreshold))
      this.#requestTranslation(parts, place);
  }

  /** Whether the code segment's limit lies in or right after this page: such code is run an instruction at a time. */
  #nearLimit(linear: bigint): boolean {
    const s = this.#s;
    const pageEnd = s.rip + (0xfffn - (linear & 0xfffn)) + BigInt(MAX_INSTRUCTION_BYTES);
    return pageEnd > BigInt(s.segLimit[Seg.CS]);
  }

  // --- one instruction at a time ---

  readonly #bytes = new Uint8Array(MAX_INSTRUCTION_BYTES + 1);

  /** Fetch the instruction at RIP byte by byte as far as it goes, and decode it to the scratch records. */
  #fetch(parts: Parts): void {
    const s = this.#s;
    const { access, decoder } = parts;
    const kind = AccessKind.FETCH | access.userKind;
    const long = s.codeMode === CodeMode.LONG64;
    let have = 0;
    let room = 0;
    let source = 0;
    for (;;) {
      if (room === 0) {
        const rip = s.rip + BigInt(have);
        if (!long && rip > BigInt(s.segLimit[Seg.CS])) throw new GuestFault(Vector.GP, 0);
        const linear = long ? BigInt.asUintN(64, rip) : (s.segBase[Seg.CS] + rip) & 0xffff_ffffn;
        if (long && BigInt.asUintN(64, BigInt.asIntN(48, linear)) !== linear)
          throw new GuestFault(Vector.GP, 0);
        source = access.linear(access.physical(linear, kind));
        if (source < 0) throw new GuestFault(Vector.GP, 0);
        room = PAGE - Number(linear & 0xfffn);
        if (!long) room = Math.min(room, Number(BigInt(s.segLimit[Seg.CS]) - rip) + 1);
      }
      const count = Math.min(room, MAX_INSTRUCTION_BYTES - have);
      for (let i = 0; i < count; i++) this.#bytes[have + i] = this.#memory.u8[source + i];
      have += count;
      room = 0;
      const status = decoder.decode(this.#bytes, 0, have, s.codeMode);
      if (status === DecodeStatus.NEEDS_MORE && have < MAX_INSTRUCTION_BYTES) continue;
      if (status === DecodeStatus.TOO_LONG || status === DecodeStatus.NEEDS_MORE)
        throw new GuestFault(Vector.GP, 0);
      return;
    }
  }

  #step(parts: Parts): ExitReason | undefined {
    const s = this.#s;
    const { cache, decoder, wasm, debug } = parts;
    s.leave = Leave.NONE;
    const start = s.rip;
    const trap = (s.eflags & Eflags.TF) !== 0;
    const resume = s.eflags & Eflags.RF;
    const { shadow } = s;
    // Between MOV SS and the next instruction there are no breakpoints (SDM vol. 3A, 6.8.3).
    const breaks = resume === 0 && shadow !== Shadow.STACK && debug.armed;
    const met = breaks ? debug.meetsInstruction(this.#linearRip()) : 0;
    if (met !== 0) {
      if (debug.isHosts) return this.#debugExit(Vector.DB, BigInt(met));
      debug.report(met);
      return this.#raise(Vector.DB, FAULT_NO_ERROR_CODE, false);
    }
    s.eflags &= ~Eflags.RF;
    try {
      this.#fetch(parts);
    } catch (thrown) {
      return this.#thrown(thrown);
    }
    const linear = s.codeMode === CodeMode.LONG64 ? start : (s.segBase[Seg.CS] + start) & 0xffff_ffffn;
    const offset = Number(linear & 0xfffn);
    s.pageRip = BigInt.asUintN(64, start - BigInt(offset));
    const { delivered } = parts.interrupts;
    const records = s.address + SCRATCH_RECORDS_OFFSET;
    const after = cache.writeRecords(records, offset, s.codeMode);
    cache.stepEnd(after, offset + decoder.length);
    s.shadow = 0;
    Atomics.or(this.#memory.i32, (s.address + O.poll) >>> 2, Poll.STEP);
    debug.begin();
    this.#enterGuest();
    try {
      wasm.enterRecord(s.address, records);
    } finally {
      this.#leftGuest();
    }
    let reason: ExitReason | undefined;
    let byNewFlags = false;
    if (s.leave === Leave.FAULT || s.leave === Leave.MMIO) reason = this.#left(parts);
    else if (s.leave === Leave.SYSTEM) {
      byNewFlags = TRAPS_BY_NEW_FLAGS.has(SYSTEM_OPERATION_NAMES[s.leaveDetail & 0xff]);
      reason = this.#left(parts);
    }
    if (reason === ExitReason.DEBUG) {
      // The instruction was not done.
      s.eflags |= resume;
      s.shadow = shadow;
      return reason;
    }
    // After a fault or INT n there is no single-step trap: the flags are the handler's.
    if (parts.interrupts.delivered !== delivered || reason === ExitReason.SHUTDOWN) return reason;
    const waits = reason === ExitReason.MMIO || s.ioPending === IoPending.INS;
    if (waits || s.leave === Leave.REPEAT) s.eflags |= waits ? resume : Eflags.RF;
    if (waits) {
      // The instruction will be run again, as if for the first time.
      s.shadow = shadow;
      return reason;
    }
    s.leave = Leave.NONE;
    s.mmioCount = 0;
    s.mmioIndex = 0;
    debug.end(trap && s.shadow !== Shadow.STACK && !byNewFlags);
    if (reason !== undefined) return reason;
    const hits = debug.takeHostHits();
    if (hits !== 0 || this.#hostSteps)
      return this.#debugExit(Vector.DB, BigInt(hits | (this.#hostSteps ? Dr6.BS : 0)));
    return s.pendingDebug !== 0 && s.shadow !== Shadow.STACK ? this.#raiseDebug(parts) : undefined;
  }

  get #hostSteps(): boolean {
    return (this.#s.hostDebug & HostDebug.SINGLE_STEP) !== 0;
  }

  /** What the host asked for by KVM_SET_GUEST_DEBUG has happened, at RIP; `hits`: bits of DR6. */
  #debugExit(vector: number, hits = 0n): ExitReason {
    const s = this.#s;
    const { debug } = this.exit;
    debug.exception = vector;
    debug.pc = this.#linearRip() ?? s.rip;
    debug.dr6 = DR6_FIXED | hits;
    debug.dr7 = this.#run.debug.control;
    return ExitReason.DEBUG;
  }

  /** Called for every access while the TLB is not filled: #AC (SDM vol. 3A, 6.15, interrupt 17) and data breakpoints. */
  #checkAccess(rec: number, low: number, high: number, bytes: number, kind: number): void {
    const s = this.#s;
    const size = bytes === 10 ? 8 : bytes;
    // A non-canonical address is a fault of its own, before that of alignment.
    const sign = high << 16;
    const canonical = s.codeMode !== CodeMode.LONG64 || sign >> 16 === high;
    if (canonical && checksAlignment(s) && (low & (size - 1)) !== 0) {
      s.faultVector = Vector.AC;
      s.faultCode = 0;
      s.rec = rec;
      s.leave = Leave.FAULT;
      return;
    }
    if (s.watchpoints === 0) return;
    const start = (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
    this.#run.debug.data(start, bytes, kind);
  }

  // --- accesses that the machine serves ---

  #portExit(port: number, size: number, isWrite: boolean, value: number): ExitReason | undefined {
    if (isWrite && this.vm.ringDoorbell("port", port, size, BigInt(value))) return undefined;
    const { exit } = this;
    exit.port = port;
    exit.size = size;
    exit.count = 1;
    exit.isWrite = isWrite;
    this.#exitData.setUint32(0, value, true);
    return ExitReason.IO;
  }

  /** An access to memory that is not RAM; the value is in scratch[0], for reads afterwards. */
  #mmio(rec: number, address: number, bytes: number, isWrite: boolean): void {
    const s = this.#s;
    const value = s.scratch[0];
    if (this.#irqchip.claimsMmio(this.id, address)) {
      if (isWrite) this.#irqchip.writeMmio(this.id, address, bytes, Number(value & 0xffff_ffffn));
      else s.scratch[0] = BigInt(this.#irqchip.readMmio(this.id, address, bytes));
      return;
    }
    if (s.mmioIndex < s.mmioCount) {
      if (!isWrite) s.scratch[0] = s.mmioData[s.mmioIndex];
      s.mmioIndex++;
      return;
    }
    if (isWrite && this.vm.ringDoorbell("mmio", address, bytes, BigInt.asUintN(8 * bytes, value))) return;
    const { exit } = this;
    exit.address = address;
    exit.size = bytes;
    exit.count = 1;
    exit.isWrite = isWrite;
    this.#exitData.setBigUint64(0, isWrite ? value : 0n, true);
    s.rec = rec;
    s.leave = Leave.MMIO;
    this.#mmioExit = true;
  }

  /** The last exit was MMIO, and its instruction has to be run again with the answer. */
  #mmioExit = false;

  /** After an MMIO exit: the access was not served. Its instruction stands as if it had never been tried. */
  cancelAccess(): void {
    this.#mmioExit = false;
    this.#s.mmioCount = 0;
    this.#s.mmioIndex = 0;
  }

  /** Take the machine's answer to the last exit. */
  #completeIo(): void {
    const s = this.#s;
    if (this.#mmioExit) {
      this.#mmioExit = false;
      const mask = (1n << BigInt(8 * this.exit.size)) - 1n;
      // An instruction makes a bounded number of accesses; more than that cannot be replayed.
      if (s.mmioCount < MAX_MMIO_REPLAY) {
        s.mmioData[s.mmioCount] = this.#exitData.getBigUint64(0, true) & mask;
        s.mmioCount++;
      }
      s.mmioIndex = 0;
    }
    if (s.ioPending === IoPending.IN) {
      this.#run.ports.completeIn(this.#portAnswer(s.ioData));
    } else if (s.ioPending === IoPending.INS) {
      s.ioData = this.#portAnswer(this.exit.size);
      s.ioPending = IoPending.INS_READY;
    }
  }

  #portAnswer(size: number): number {
    const value = this.#exitData.getUint32(0, true);
    return size === 4 ? value : value & ((1 << (8 * size)) - 1);
  }

  // --- interrupts and sleep ---

  #takeInterrupt(): void {
    const s = this.#s;
    if (!this.#irqchip.hasInterrupt(this.id)) {
      s.irqPending = 0;
      return;
    }
    if ((s.eflags & Eflags.IF) === 0) return;
    if (s.rip === s.stiRip) {
      this.#holdAfterSti();
      return;
    }
    const vector = this.#irqchip.acknowledge(this.id);
    if (vector < 0) return;
    this.#profile?.turn(Activity.interrupts);
    this.#deliverEvent(vector, EventKind.EXTERNAL);
  }

  /** STI was the instruction before: one more is run before interrupts and NMIs (SDM vol. 2, STI). */
  #holdAfterSti(): void {
    this.#s.stiRip = registers.NO_RIP;
    this.#s.shadow = Shadow.STI;
  }

  /** Whether `kick` was called; other requests stay. */
  #takeKick(): boolean {
    const index = (this.#s.address + O.requests) >>> 2;
    return (Atomics.and(this.#memory.i32, index, ~Request.KICK) & Request.KICK) !== 0;
  }

  /** An interrupt or NMI; a fault in its delivery is raised in its place. */
  #deliverEvent(vector: number, kind: EventKind): void {
    const s = this.#s;
    s.mpState = MpState.RUNNABLE;
    // In the middle of a string instruction (SDM vol. 3B, 18.3.1.1)
    if (s.leave === Leave.REPEAT) s.eflags |= Eflags.RF;
    try {
      this.#run.interrupts.deliver(vector, kind);
      updateMode(s, this.#memory);
    } catch (thrown) {
      if (this.#thrown(thrown) === ExitReason.SHUTDOWN) this.#shutdown = true;
    }
  }

  /** A triple fault came up where no exit could be returned. */
  #shutdown = false;

  /** What other threads asked for; true where `run` has to return. */
  #serveRequests(): boolean {
    const s = this.#s;
    const index = (s.address + O.requests) >>> 2;
    let requests = Atomics.exchange(this.#memory.i32, index, 0);
    const { cache, wasm, msrs } = this.#run;
    if ((requests & Request.PAGE_EVENTS) !== 0) this.#servePageEvents();
    if ((requests & Request.UNHALT) !== 0) s.pvUnhalted = 1;
    if ((requests & Request.HOST_DEBUG) !== 0) {
      this.#run.debug.update();
      updateMode(s, this.#memory);
    }
    if ((requests & Request.FLUSH_CODE) !== 0) cache.flush();
    if ((requests & Request.TLB_FLUSH) !== 0) wasm.flushTlb(s.address);
    if ((requests & Request.INIT) !== 0) {
      this.#irqchip.resetVcpu(this.id);
      registers.resetAfterInit(s);
      s.pvUnhalted = 0;
      requests &= ~Request.NMI;
      msrs.s.mpState = this.id === 0 ? MpState.RUNNABLE : MpState.INIT_RECEIVED;
      wasm.flushTlb(s.address);
      updateMode(s, this.#memory);
    }
    if ((requests & Request.SIPI) !== 0 && s.mpState === MpState.INIT_RECEIVED) {
      // SDM vol. 3A, 9.4.3: CS is the vector's page.
      s.segSelector[Seg.CS] = s.sipiVector << 8;
      s.segBase[Seg.CS] = BigInt(s.sipiVector << 12);
      s.rip = 0n;
      s.mpState = MpState.RUNNABLE;
    }
    if ((requests & Request.NMI) !== 0) {
      if (s.rip === s.stiRip) this.#holdAfterSti();
      // Until a start-up IPI has come, an NMI waits (SDM vol. 3A, 9.4.3).
      const started = s.mpState === MpState.RUNNABLE || s.mpState === MpState.HALTED;
      if (!started || s.nmiMasked !== 0 || s.shadow !== 0) Atomics.or(this.#memory.i32, index, Request.NMI);
      else {
        s.nmiMasked = 1;
        this.#deliverEvent(Vector.NMI, EventKind.EXTERNAL);
      }
    }
    return (requests & Request.KICK) !== 0;
  }

  /** Whether a vCPU that does not run may run again. */
  #wake(): boolean {
    const s = this.#s;
    if (s.mpState !== MpState.HALTED) return false;
    if (s.pvUnhalted !== 0) {
      s.pvUnhalted = 0;
      s.mpState = MpState.RUNNABLE;
      return true;
    }
    if ((s.eflags & Eflags.IF) !== 0 && this.#irqchip.hasInterrupt(this.id)) {
      s.mpState = MpState.RUNNABLE;
      s.irqPending = 1;
      return true;
    }
    return false;
  }

  #sleep(): void {
    const deadline = this.#irqchip.timerDeadline(this.id);
    const milliseconds = Math.min((deadline - this.vm.clock.now()) / 1e6, HALT_SLEEP_LIMIT);
    if (milliseconds > 0) {
      this.#profile?.turn(Activity.halted);
      this.#halt.wait(milliseconds);
      this.#profile?.turn(Activity.loop);
    }
    this.#irqchip.expireTimer(this.id);
  }

  kick(): void {
    this.vm.request(this.id, Request.KICK);
  }

  nmi(): void {
    this.vm.request(this.id, Request.NMI);
  }

  // --- register groups ---

  #completed(): void {
    // State is whole only when the last exit's answer has been taken, as with KVM's immediate_exit.
    if (this.#parts !== undefined) this.#completeIo();
  }

  getRegs(): Regs {
    this.#completed();
    return registers.getRegs(this.#s);
  }
  setRegs(regs: Regs): void {
    this.#completed();
    registers.setRegs(this.#s, regs);
    updateMode(this.#s, this.#memory);
  }
  getSregs(): Sregs {
    return registers.getSregs(this.#s, {
      cr8: BigInt(this.#irqchip.getCr8(this.id)),
      apicBase: this.#irqchip.getApicBase(this.id),
    });
  }
  setSregs(sregs: Sregs): void {
    registers.setSregs(this.#s, sregs);
    this.#irqchip.setApicBase(this.id, sregs.apicBase);
    this.#irqchip.setCr8(this.id, Number(sregs.cr8 & 0xfn));
    updateMode(this.#s, this.#memory);
    this.vm.request(this.id, Request.TLB_FLUSH);
    if (this.#parts !== undefined) this.#parts.control.reloadPdptes();
  }
  getFpu(): Fpu {
    return registers.getFpu(this.#s, this.#memory);
  }
  setFpu(fpu: Fpu): void {
    registers.setFpu(this.#s, this.#memory, fpu);
  }
  getMsrs(indices: readonly number[]): Msr[] {
    const result: Msr[] = [];
    for (const index of indices) {
      const data = this.#msrs.read(index >>> 0);
      if (data !== undefined) result.push({ index, data });
    }
    return result;
  }
  setMsrs(msrs: readonly Msr[]): void {
    for (const { index, data } of msrs) {
      if (!this.#msrs.write(index >>> 0, data)) {
        throw new RangeError(`MSR 0x${(index >>> 0).toString(16)} cannot be 0x${data.toString(16)}`);
      }
    }
  }
  getXcr0(): bigint {
    return this.#s.xcr0;
  }
  setXcr0(value: bigint): void {
    this.#s.xcr0 = value;
  }
  getLapic(): Uint8Array {
    return this.#irqchip.getLapic(this.id);
  }
  setLapic(page: Uint8Array): void {
    this.#irqchip.setLapic(this.id, page);
  }
  getEvents(): VcpuEvents {
    const s = this.#s;
    const shadow = s.shadow === Shadow.NONE && s.rip === s.stiRip ? Shadow.STI : s.shadow;
    // A debug trap that waits is an exception about to be injected, and DR6 tells of it already.
    const debug = s.pendingDebug !== 0;
    if (debug) this.#run.debug.report(s.pendingDebug);
    return {
      exception: { injected: debug, nr: debug ? Vector.DB : 0, hasErrorCode: false, errorCode: 0 },
      interrupt: { injected: false, nr: 0, soft: false, shadow: SHADOW_EVENT[shadow] },
      nmi: { injected: false, pending: (s.requests & Request.NMI) !== 0, masked: s.nmiMasked !== 0 },
    };
  }
  setEvents(events: VcpuEvents): void {
    const s = this.#s;
    s.pendingDebug = 0;
    s.shadow = Math.max(SHADOW_EVENT.indexOf(events.interrupt.shadow), Shadow.NONE);
    s.nmiMasked = events.nmi.masked ? 1 : 0;
    if (events.nmi.pending) this.nmi();
    if (events.exception.injected) {
      this.#raise(events.exception.nr, events.exception.hasErrorCode ? events.exception.errorCode : 0, false);
    } else if (events.interrupt.injected) this.#deliverEvent(events.interrupt.nr, EventKind.EXTERNAL);
  }
  getMpState(): MpState {
    return this.#s.mpState as MpState;
  }
  setMpState(state: MpState): void {
    this.#s.mpState = state;
  }
  getDebugRegs(): DebugRegs {
    const { dr } = this.#s;
    return { db: [dr[0], dr[1], dr[2], dr[3]], dr6: dr[6], dr7: dr[7] };
  }
  setDebugRegs(values: DebugRegs): void {
    const { control } = this.#run;
    values.db.forEach((value, i) => {
      control.setDebug(i, value);
    });
    control.setDebug(6, values.dr6);
    control.setDebug(7, values.dr7);
    updateMode(this.#s, this.#memory);
  }
  setCpuid(entries: readonly CpuidEntry[]): void {
    this.vm.cpuids[this.id].set(entries);
  }
  getCpuid(): CpuidEntry[] {
    return this.vm.cpuids[this.id].get();
  }
  setGuestDebug(debug: GuestDebug): void {
    setHostDebug(this.#s, debug);
    this.vm.request(this.id, Request.HOST_DEBUG);
  }
  profile(): VcpuProfile | undefined {
    return this.#profile?.report(this.id);
  }
  translate(linear: bigint): number | undefined {
    try {
      return this.#run.access.physical(linear, AccessKind.PEEK);
    } catch (thrown) {
      if (thrown instanceof GuestFault) return undefined;
      throw thrown;
    }
  }
  getStats(): Record<string, number> {
    return readCounters(this.#s.counters);
  }
}

interface Parts {
  readonly decoder: InstructionDecoder;
  readonly cache: CodeCache;
  readonly hot: HotTier | undefined;
  readonly wasm: ColdExports;
  readonly access: GuestAccess;
  readonly segments: Segments;
  readonly interrupts: Interrupts;
  readonly control: ControlRegisters;
  readonly debug: DebugUnit;
  readonly msrs: Msrs;
  readonly ports: PortIo;
  readonly context: OperationContext;
}

const physical = (low: number, high: number) => (high >>> 0) * 2 ** 32 + (low >>> 0);
