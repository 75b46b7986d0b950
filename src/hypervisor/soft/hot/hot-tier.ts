/**
 * The hot tier of one vCPU: translates regions that the counters name, and puts their functions where their first
 * instruction's handler was, so that whatever arrives there runs them.
 */
import { WASM_MEMORY_LIMIT, WASM_PAGE_SIZE } from "../../../memory/shared-memory.js";
import type { HandlerForm } from "../cold/cold-context.js";
import { unpackEffects } from "../cold/flag-effects.js";
import { HANDLER_TABLE_SIZE, type HandlerModule } from "../cold/handler-module.js";
import { LATER_FLAGS_PARAMS } from "../cold/later-flags.js";
import type { Runtime } from "../cold/runtime.js";
import type { CodeCache } from "../decode/code-cache.js";
import { FORMS_PER_ROW, formsOf } from "../decode/forms.js";
import type { InstructionDecoder } from "../decode/instruction.js";
import { FpFlag } from "../fpu/control.js";
import type { SharedFunction } from "../isa/context.js";
import type { OpcodeRow } from "../isa/opcode-table.js";
import { CodeMode, HOT_COUNTERS, RECORD_SIZE, Rec } from "../vcpu-state.js";
import type { ValType } from "../wasm/expr.js";
import { type FuncRef, type FunctionBody, ModuleBuilder } from "../wasm/module.js";
import { emitRegion, type RegionCode } from "./emit.js";
import { type Base, type GuestCode, type HandlerFacts, pageOf, type Region, RegionFinder } from "./region.js";

/** The cold module's functions, imported by name as they are needed. */
const RUNTIME_FUNCTIONS: Record<string, { params: readonly ValType[]; result: ValType | undefined }> = {
  fault: { params: ["i32", "i32", "i32", "i32"], result: undefined },
  jumpLong: { params: ["i32", "i64"], result: undefined },
  arrive: { params: ["i32", "i32"], result: undefined },
  slowLoad: { params: ["i32", "i32", "i64", "i32"], result: "i64" },
  slowStore: { params: ["i32", "i32", "i64", "i32", "i64"], result: undefined },
  slowRmw: { params: ["i32", "i32", "i64", "i32"], result: "i32" },
  slowLoadBytes: { params: ["i32", "i32", "i64", "i32"], result: undefined },
  slowStoreBytes: { params: ["i32", "i32", "i64", "i32"], result: undefined },
  missLoad: { params: ["i32", "i32", "i64", "i32"], result: "i32" },
  missStore: { params: ["i32", "i32", "i64", "i32", "i64"], result: "i32" },
  missStoreBytes: { params: ["i32", "i32", "i64", "i32"], result: "i32" },
  stackLoad: { params: ["i32", "i32", "i64", "i32"], result: "i32" },
  stackStore: { params: ["i32", "i32", "i64", "i32", "i64"], result: "i32" },
  stackStoreBytes: { params: ["i32", "i32", "i64", "i32"], result: "i32" },
  stackUpdate: { params: ["i32", "i32", "i64", "i32"], result: "i32" },
  exchangeWide: { params: ["i32", "i32"], result: "i32" },
  missUpdate: { params: ["i32", "i32", "i64", "i32"], result: "i32" },
  settleFlags: { params: LATER_FLAGS_PARAMS, result: undefined },
  slowProbeWrite: { params: ["i32", "i32", "i64", "i32"], result: undefined },
};

/** A `Runtime` for a module of regions: every function is an import. */
function importingRuntime(module: ModuleBuilder): Runtime {
  const known = new Map<string, FuncRef>();
  const get = (name: string, params: readonly ValType[], result: ValType | undefined): FuncRef => {
    let f = known.get(name);
    if (f === undefined) {
      f = module.import(name, params, result) as unknown as FuncRef;
      known.set(name, f);
    }
    return f;
  };
  const handlerType = module.typeIndex(["i32", "i32"], []);
  return new Proxy({} as Runtime, {
    get(_target, name) {
      if (name === "handlerType") return handlerType;
      if (name === "shared") return (maker: SharedFunction) => get(maker.name, maker.params, maker.result);
      if (name === "imports") return { clock: get("clock", [], "f64") };
      const f = RUNTIME_FUNCTIONS[name as string];
      if (f === undefined) throw new Error(`the hot tier has no runtime function ${String(name)}`);
      return get(name as string, f.params, f.result);
    },
  });
}

/** Regions in a module at most, and how long the first of them waits for others. */
const MAX_BATCH = 16;
const BATCH_MILLISECONDS = 2;

/** Arrivals after which a region that was given up is made anew. */
const ARRIVALS_TO_REMAKE = 200;

/** Where a region starts. */
export interface Place {
  readonly page: number;
  /** Linear address of its first instruction. */
  readonly rip: bigint;
  readonly record: number;
}

/** A region found, and what its start looked like. */
interface Found {
  readonly place: Place;
  readonly region: Region;
}

/** A region that runs. */
interface Installed {
  readonly slot: number;
  readonly record: number;
  /** Handler that the region's first record had. */
  readonly original: number;
  readonly pages: readonly number[];
}

export interface HotCounters {
  /** Regions translated since the start. */
  regions: number;
  /** Places that turned out not to be translatable. */
  refused: number;
  /** Regions dropped because their code was written. */
  dropped: number;
  /** Regions given up because their guesses were wrong. */
  remade: number;
  /** Guest instructions in translated regions. */
  instructions: number;
  /** Bytes of WebAssembly. */
  bytes: number;
  /** Milliseconds spent finding and emitting, and compiling. */
  milliseconds: number;
  compileMilliseconds: number;
}

const counterOf = (record: number) => (record >>> Math.log2(RECORD_SIZE)) & (HOT_COUNTERS - 1);

export class HotTier implements RegionCode {
  readonly counters: HotCounters = {
    regions: 0,
    refused: 0,
    dropped: 0,
    remade: 0,
    instructions: 0,
    bytes: 0,
    milliseconds: 0,
    compileMilliseconds: 0,
  };
  /** By the region's first record. */
  readonly #installed = new Map<number, Installed>();
  readonly #byPage = new Map<number, Set<Installed>>();
  readonly #refused = new Set<number>();
  readonly #finder: RegionFinder;
  readonly #free: number[] = [];
  readonly #forms = new Map<number, HandlerForm>();
  readonly #facts = new Map<number, HandlerFacts>();
  #next: number;

  constructor(
    readonly cache: CodeCache,
    decoder: InstructionDecoder,
    readonly handlers: HandlerModule,
    readonly table: WebAssembly.Table,
    /** Arrival counters, by hash of the record (runtime). One that is not set back here is met again after 65,536 arrivals. */
    readonly counterTable: Uint16Array,
    /** What region modules import: memory, table, and the cold module's exports. */
    readonly env: WebAssembly.Imports[string],
    guest: Pick<GuestCode, "physicalPage" | "eager">,
    readonly mxcsr: () => number,
  ) {
    this.#next = handlers.count;
    this.#finder = new RegionFinder(decoder, cache, {
      ...guest,
      facts: (handler, row) => this.#factsOf(handler, row),
      originalHandler: (record) => this.#installed.get(record)?.original ?? 0,
    });
  }

  /** First handler number of the hot tier. */
  get first(): number {
    return this.handlers.count;
  }

  #factsOf(handler: number, row: OpcodeRow): HandlerFacts | undefined {
    let facts = this.#facts.get(handler);
    if (facts === undefined) {
      const form = this.#formOf(handler, row);
      if (form === undefined) return undefined;
      facts = { form, effects: unpackEffects(this.handlers.effects[handler]) };
      this.#facts.set(handler, facts);
    }
    return facts;
  }

  #formOf(handler: number, row: OpcodeRow): HandlerForm | undefined {
    if (!this.#forms.has(handler)) {
      const base = this.handlers.rows.indexOf(row) * FORMS_PER_ROW;
      for (const { number, form } of formsOf(row))
        this.#forms.set(this.handlers.handlers[base + number], form);
    }
    return this.#forms.get(handler);
  }

  get exactSoFar(): boolean {
    return (this.mxcsr() & FpFlag.PE) === 0;
  }

  recordOf({ pages }: Base, at: number): number {
    const page = pages.get(pageOf(at)) ?? -1;
    return page < 0 ? 0 : this.cache.knownRecord(page, at - pageOf(at), CodeMode.LONG64);
  }

  codePageOf({ pages }: Base, at: number): number {
    return this.cache.knownCodePage(pages.get(pageOf(at)) as number, CodeMode.LONG64);
  }

  /** Regions waiting to be translated together: a module costs much the same whether it holds one region or many. */
  readonly #waiting = new Map<number, Found>();
  #waitingSince = 0;

  /**
   * The place is hot. What belongs to it is found now, as long as its addresses mean what they do, and translated with
   * others by `translateWaiting`; `onFirst` is called where it is the first of them.
   */
  request(place: Place, onFirst: () => void): void {
    const { record } = place;
    if (this.#waiting.has(record)) return;
    const start = performance.now();
    const found = this.#find(place);
    this.counters.milliseconds += performance.now() - start;
    if (found === undefined) return;
    if (this.#waiting.size === 0) {
      this.#waitingSince = start;
      onFirst();
    }
    this.#waiting.set(record, found);
    if (this.#waiting.size >= MAX_BATCH) this.translateWaiting();
  }

  /** Whether places have waited long enough. */
  get due(): boolean {
    return this.#waiting.size > 0 && performance.now() - this.#waitingSince >= BATCH_MILLISECONDS;
  }

  translateWaiting(): void {
    const found = [...this.#waiting.values()];
    this.#waiting.clear();
    this.#translate(found);
  }

  /** Find and translate now, in a module of its own. */
  translate(place: Place): void {
    const found = this.#find(place);
    if (found !== undefined) this.#translate([found]);
  }

  #find(place: Place): Found | undefined {
    const { page, rip, record } = place;
    const offset = Number(rip & 0xfffn);
    const known = this.#installed.has(record) || this.#refused.has(record);
    if (known || this.cache.knownRecord(page, offset, CodeMode.LONG64) !== record) return undefined;
    const region = this.#finder.find(page, rip);
    if (region !== undefined) return { place, region };
    this.#refuse(record);
    return undefined;
  }

  #refuse(record: number): void {
    this.#refused.add(record);
    this.counters.refused++;
  }

  #translate(all: readonly Found[]): void {
    const start = performance.now();
    // Without the table: V8 11 gives each instance that imports it a copy of all its entries.
    const module = new ModuleBuilder(WASM_MEMORY_LIMIT / WASM_PAGE_SIZE);
    const runtime = importingRuntime(module);
    const emitted: { found: Found; body: FunctionBody }[] = [];
    for (const found of all) {
      const body = emitRegion(module, runtime, found.region, this);
      if (body === undefined) this.#refuse(found.place.record);
      else emitted.push({ found, body });
    }
    if (emitted.length > 0) {
      emitted.forEach(({ body }, i) => {
        module.export(module.add(`region${i}`, ["i32", "i32"], [], body));
      });
      const bytes = module.build();
      const compiling = performance.now();
      const instance = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: this.env });
      this.counters.compileMilliseconds += performance.now() - compiling;
      this.counters.bytes += bytes.length;
      emitted.every(({ found }, i) => this.#install(found, instance.exports[`region${i}`]));
    }
    this.counters.milliseconds += performance.now() - start;
  }

  /** False where all decoded code had to go, and with it the places that follow. */
  #install({ place: { record }, region }: Found, code: unknown): boolean {
    const slot = this.#free.pop() ?? (this.#next < HANDLER_TABLE_SIZE ? this.#next++ : undefined);
    if (slot === undefined) {
      // No room: everything starts over, and what is hot is found again.
      this.cache.flush();
      return false;
    }
    const { u32 } = this.cache.memory;
    const at = (record + Rec.handler) >>> 2;
    const pages = [...region.pages];
    const installed = { slot, record, original: u32[at], pages };
    this.table.set(slot, code);
    this.#installed.set(record, installed);
    u32[at] = slot;
    this.#counter(record, 0);
    for (const page of pages) {
      const others = this.#byPage.get(page);
      if (others === undefined) this.#byPage.set(page, new Set([installed]));
      else others.add(installed);
    }
    this.counters.regions++;
    for (const block of region.blocks) this.counters.instructions += block.instructions.length;
    return true;
  }

  /** The records of guest-physical page `page` are stale, and so is what was made of them. */
  pageInvalidated(page: number): void {
    for (const [record, { region }] of this.#waiting) {
      if (region.pages.has(page)) this.#waiting.delete(record);
    }
    for (const installed of this.#byPage.get(page) ?? []) this.#drop(installed);
    this.#byPage.delete(page);
  }

  #drop(installed: Installed): void {
    const { slot, record, original, pages } = installed;
    const { u32 } = this.cache.memory;
    this.table.set(slot, null);
    this.#free.push(slot);
    this.#installed.delete(record);
    // Not where the record went stale meanwhile.
    if (u32[(record + Rec.handler) >>> 2] === slot) u32[(record + Rec.handler) >>> 2] = original;
    for (const page of pages) this.#byPage.get(page)?.delete(installed);
    this.counters.dropped++;
  }

  /** Give the region at `record` up. It is made anew a little below `threshold`, the arrivals that make code hot. */
  giveUp(record: number, threshold: number): void {
    const installed = this.#installed.get(record);
    if (installed === undefined) return;
    this.#drop(installed);
    this.counters.remade++;
    this.#counter(record, Math.max(0, threshold - ARRIVALS_TO_REMAKE));
  }

  /** Count `arrivals` more at `record`; true where that makes it hot. */
  arrived(record: number, arrivals: number, threshold: number): boolean {
    const sum = this.counterTable[counterOf(record)] + arrivals;
    this.#counter(record, sum < threshold ? sum : 0);
    return sum >= threshold;
  }

  #counter(record: number, arrivals: number): void {
    this.counterTable[counterOf(record)] = arrivals;
  }

  /** All decoded code is gone. */
  flushed(): void {
    for (const { slot } of this.#installed.values()) this.table.set(slot, null);
    this.#byPage.clear();
    this.#installed.clear();
    this.#refused.clear();
    this.#waiting.clear();
    this.#free.length = 0;
    this.#next = this.handlers.count;
  }
}
