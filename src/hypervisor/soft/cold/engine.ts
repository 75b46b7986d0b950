/** The cold tier's module, made once a thread, and its instances, one a vCPU. */
import { setFlagsFromString } from "node:v8";
import type { SharedMemory } from "../../../memory/shared-memory.js";
import { InstructionDecoder } from "../decode/instruction.js";
import type { ColdExports } from "../mmu/access.js";
import type { WideOutcome } from "../smp/wide-exchange.js";
import { loadHandlerModule } from "./engine-file.js";
import { HANDLER_TABLE_SIZE, type HandlerModule } from "./handler-module.js";

/** What the module calls (runtime, declareImports). Addresses are byte offsets in linear memory, physical ones in halves. */
export interface ColdImports {
  mmioLoad(cpu: number, rec: number, low: number, high: number, bytes: number): void;
  mmioStore(cpu: number, rec: number, low: number, high: number, bytes: number): void;
  codeWritten(cpu: number, page: number, offset: number, bytes: number): void;
  checkAccess(cpu: number, rec: number, low: number, high: number, bytes: number, kind: number): void;
  exchangeWide(cpu: number, at: number): WideOutcome;
  clock(): number;
}

/**
 * The branch hinting proposal is behind a flag in these versions of V8. With it, code for what seldom happens is out of the way,
 * and costs the registers of the rest less; without it, the hints are ignored.
 */
const HINTING_VERSIONS = { first: 11, last: 13 } as const;

function enableBranchHints(): void {
  const version = Number.parseInt(process.versions.v8, 10);
  if (version >= HINTING_VERSIONS.first && version <= HINTING_VERSIONS.last)
    setFlagsFromString("--experimental-wasm-branch-hinting");
}

let built: { handlers: HandlerModule; module: WebAssembly.Module } | undefined;

function engine(): { handlers: HandlerModule; module: WebAssembly.Module } {
  if (built === undefined) {
    enableBranchHints();
    const handlers = loadHandlerModule();
    built = { handlers, module: new WebAssembly.Module(handlers.bytes) };
  }
  return built;
}

export function makeDecoder(): InstructionDecoder {
  return new InstructionDecoder(engine().handlers);
}

export interface Engine {
  readonly exports: ColdExports;
  readonly handlers: HandlerModule;
  readonly table: WebAssembly.Table;
  /** What a module of the hot tier imports. */
  readonly env: WebAssembly.Imports[string];
}

export function instantiateEngine(memory: SharedMemory, imports: ColdImports): Engine {
  const table = new WebAssembly.Table({ element: "anyfunc", initial: HANDLER_TABLE_SIZE });
  const env = { memory: memory.memory, table, ...imports } as unknown as WebAssembly.Imports[string];
  const { handlers, module } = engine();
  const instance = new WebAssembly.Instance(module, { env });
  const exports = instance.exports as unknown as ColdExports;
  return { exports, handlers, table, env: { ...env, ...instance.exports } as WebAssembly.Imports[string] };
}
