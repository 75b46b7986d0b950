/**
 * The hot tier of one vCPU: translates regions that the counters name, and puts their functions where their first
 * instruction's handler was, so that whatever arrives there runs them.
 */
import { WASM_MEMORY_LIMIT, WASM_PAGE_SIZE } from "../../../memory/shared-memory.js";
import type { HandlerForm } from "../cold/cold-context.js";
import { HANDLER_TABLE_SIZE, type HandlerModule } from "../cold/handler-module.js";
import type { Runtime } from "../cold/runtime.js";
import type { CodeCache } from "../decode/code-cache.js";
import { FORMS_PER_ROW, formsOf } from "../decode/forms.js";
import type { InstructionDecoder } from "../decode/instruction.js";
import type { SharedFunction } from "../isa/context.js";
import type { OpcodeRow } from "../isa/opcode-table.js";
import { CodeMode, HOT_COUNTERS, RECORD_SIZE, Rec } from "../vcpu-state.js";
import type { ValType } from "../wasm/expr.js";
import { type FuncRef, ModuleBuilder } from "../wasm/module.js";
import { flagEffects } from "./effects.js";
import { emitRegion } from "./emit.js";
import { type HandlerFacts, RegionFinder } from "./region.js";

/** The cold module's functions, imported by name as they are needed. */
const RUNTIME_FUNCTIONS: Record<string, { params: readonly ValType[]; result: ValType | undefined }> = {
  fault: { params: ["i32", "i32", "i32", "i32"], result: undefined },
  jump: { params: ["i32", "i64"], result: undefined },
  arrive: { params: ["i32", "i32"], result: undefined },
  slowLoad: { params: ["i32", "i32", "i64", "i32"], result: "i64" },
  slowStore: { params: ["i32", "i32", "i64", "i32", "i64"], result: undefined },
  slowRmw: { params: ["i32", "i32", "i64", "i32"], result: "i32" },
  slowLoadBytes: { params: ["i32", "i32", "i64", "i32"], result: undefined },
  slowStoreBytes: { params: ["i32", "i32", "i64", "i32"], result: undefined },
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

/** Where a region starts. */
export interface Place {
  readonly page: number;
  readonly offset: number;
  readonly record: number;
}

export interface HotCounters {
  /** Regions translated since the start. */
  regions: number;
  /** Places that turned out not to be translatable. */
  refused: number;
  /** Milliseconds spent finding, emitting and compiling. */
  milliseconds: number;
}

export class HotTier {
  readonly counters: HotCounters = { regions: 0, refused: 0, milliseconds: 0 };
  /** Handler that a region's first record had. */
  readonly #original = new Map<number, number>();
  /** Table places of the regions of a page. */
  readonly #byPage = new Map<number, number[]>();
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
  ) {
    this.#next = handlers.count;
    this.#finder = new RegionFinder(
      decoder,
      cache,
      (handler, row) => this.#factsOf(handler, row),
      (record) => this.#original.get(record) ?? 0,
    );
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
      facts = { form, effects: flagEffects(row.definition, form) };
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

  /** Places waiting to be translated together: a module costs much the same whether it holds one region or many. */
  readonly #waiting = new Map<number, Place>();
  #waitingSince = 0;

  /**
   * The place at byte `offset` of guest-physical page `page`, whose first record is `record`, is hot. It is translated with
   * others by `translateWaiting`; `onFirst` is called where it is the first of them.
   */
  request(page: number, offset: number, record: number, onFirst: () => void): void {
    if (this.#original.has(record) || this.#refused.has(record)) return;
    if (this.#waiting.size === 0) {
      this.#waitingSince = performance.now();
      onFirst();
    }
    this.#waiting.set(record, { page, offset, record });
    if (this.#waiting.size >= MAX_BATCH) this.translateWaiting();
  }

  /** Whether places have waited long enough. */
  get due(): boolean {
    return this.#waiting.size > 0 && performance.now() - this.#waitingSince >= BATCH_MILLISECONDS;
  }

  translateWaiting(): void {
    const places = [...this.#waiting.values()];
    this.#waiting.clear();
    this.translate(places);
  }

  /** Translate now, into one module. */
  translate(places: readonly Place[]): void {
    const start = performance.now();
    // Without the table: V8 11 gives each instance that imports it a copy of all its entries.
    const module = new ModuleBuilder(WASM_MEMORY_LIMIT / WASM_PAGE_SIZE);
    const runtime = importingRuntime(module);
    const bodies: { place: Place; body: Uint8Array }[] = [];
    for (const place of places) {
      const body = this.#emit(module, runtime, place);
      if (body !== undefined) bodies.push({ place, body });
    }
    if (bodies.length > 0) {
      bodies.forEach(({ body }, i) => {
        module.export(module.add(`region${i}`, ["i32", "i32"], [], body));
      });
      const instance = new WebAssembly.Instance(new WebAssembly.Module(module.build()), { env: this.env });
      bodies.every(({ place }, i) => this.#install(place, instance.exports[`region${i}`]));
    }
    this.counters.milliseconds += performance.now() - start;
  }

  #emit(module: ModuleBuilder, runtime: Runtime, { page, offset, record }: Place): Uint8Array | undefined {
    const known = this.#original.has(record) || this.#refused.has(record);
    if (known || this.cache.knownRecord(page, offset, CodeMode.LONG64) !== record) return undefined;
    const region = this.#finder.find(page, offset);
    const recordOf = (at: number) => this.cache.knownRecord(page, at, CodeMode.LONG64);
    const body = region === undefined ? undefined : emitRegion(module, runtime, region, recordOf);
    if (body === undefined) {
      this.#refused.add(record);
      this.counters.refused++;
    }
    return body;
  }

  /** False where all decoded code had to go, and with it the places that follow. */
  #install({ page, record }: Place, region: unknown): boolean {
    const slot = this.#free.pop() ?? (this.#next < HANDLER_TABLE_SIZE ? this.#next++ : undefined);
    if (slot === undefined) {
      // No room: everything starts over, and what is hot is found again.
      this.cache.flush();
      return false;
    }
    const { u32 } = this.cache.memory;
    const at = (record + Rec.handler) >>> 2;
    this.table.set(slot, region);
    this.#original.set(record, u32[at]);
    u32[at] = slot;
    this.counterTable[(record >>> Math.log2(RECORD_SIZE)) & (HOT_COUNTERS - 1)] = 0;
    const slots = this.#byPage.get(page);
    if (slots === undefined) this.#byPage.set(page, [slot]);
    else slots.push(slot);
    this.counters.regions++;
    return true;
  }

  /** The records of guest-physical page `page` are stale. */
  pageInvalidated(page: number): void {
    for (const slot of this.#byPage.get(page) ?? []) {
      this.table.set(slot, null);
      this.#free.push(slot);
    }
    this.#byPage.delete(page);
  }

  /** All decoded code is gone. */
  flushed(): void {
    for (const slots of this.#byPage.values()) for (const slot of slots) this.table.set(slot, null);
    this.#byPage.clear();
    this.#original.clear();
    this.#refused.clear();
    this.#waiting.clear();
    this.#free.length = 0;
    this.#next = this.handlers.count;
  }
}
