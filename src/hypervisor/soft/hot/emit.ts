/** Emits a region as one WebAssembly function of (cpu, record), the type of the cold tier's handlers. */
import type { Runtime } from "../cold/runtime.js";
import { fetchTlbEntry } from "../mmu/tlb-entry.js";
import { Ftlb, O } from "../vcpu-state.js";
import { I32, I64, load32, load64 } from "../wasm/expr.js";
import {
  type FuncRef,
  type FunctionBody,
  FunctionBuilder,
  type Local,
  type ModuleBuilder,
} from "../wasm/module.js";
import { HotContext, NotTranslatable, RegionState } from "./hot-context.js";
import {
  type Base,
  type Block,
  type Edge,
  isFarReaching,
  liveAfterEach,
  pageOf,
  type Region,
  successors,
} from "./region.js";
import type { FlagKnowledge } from "./region-flags.js";
import { registerHomes } from "./register-homes.js";
import { analyse, emitStructure, type Flow, type Graph } from "./structure.js";

class RegionEmitter {
  readonly f = new FunctionBuilder({ params: ["i32", "i32"], results: [] });
  readonly cpu = this.f.params[0].get as I32;
  readonly state: RegionState;
  readonly #flow: Flow;
  readonly #graph: Graph;
  readonly #byId: ReadonlyMap<number, Block>;
  readonly #entryRecord: number;
  /** Blocks that one other block leads to. */
  readonly #onlyWay: ReadonlySet<Block>;
  readonly #knowledge = new Map<Block, FlagKnowledge>();

  constructor(
    readonly module: ModuleBuilder,
    readonly runtime: Runtime,
    readonly region: Region,
    readonly code: RegionCode,
  ) {
    this.#onlyWay = onlyWays(region);
    this.#byId = new Map(region.blocks.map((block) => [block.id, block]));
    this.#entryRecord = code.recordOf(region.entry.base, region.entry.at);
    this.#graph = {
      entry: region.entry.id,
      successors: (id) => successors(this.#byId.get(id)!).map((block) => block.id),
    };
    this.#flow = analyse(this.#graph);
    const homes = registerHomes(region, this.#flow);
    this.state = new RegionState(this.f, this.cpu, homes, code.exactSoFar, () => runtime.settleFlags);
  }

  emit(): FunctionBody {
    const { f, cpu, state, runtime } = this;
    f.block((exitRecord) => {
      state.exitRecord = exitRecord;
      f.block((exitJump) => {
        state.exitJump = exitJump;
        f.block((exitLeave) => {
          state.exitLeave = exitLeave;
          emitStructure(f, this.#graph, this.#flow, (id, goto) => this.#block(this.#byId.get(id)!, goto));
        });
        state.spill();
        f.return();
      });
      state.spill();
      f.returnCall(runtime.jumpLong as unknown as FuncRef, cpu, state.target.get);
    });
    state.spill();
    f.returnCall(runtime.arrive as unknown as FuncRef, cpu, state.record.get);
    state.loadAtStart();
    return f.body();
  }

  #block(block: Block, goto: (to: number) => void): void {
    const { f, state } = this;
    state.flags.start(this.#knowledge.get(block));
    state.checkedTraps.clear();
    const live = liveAfterEach(block);
    let last: HotContext | undefined;
    for (const [i, instruction] of block.instructions.entries()) {
      const context = new HotContext(
        this.module,
        this.runtime,
        f,
        this.cpu,
        state,
        instruction,
        instruction.form,
        this.#baseRip(block.base),
        live[i],
      );
      context.begin();
      instruction.row.definition(context);
      if (context.left) return;
      const ends = i === block.instructions.length - 1;
      if (context.mayChangeCode && !ends)
        this.#leaveIfPolled(() => this.#rip(block.base, instruction.at + instruction.length));
      last = context;
    }
    this.#end(block, last!, goto);
  }

  /** On to `rip` by way of the vCPU's loop where something waits for it: an interrupt, or code that a store has changed. */
  #leaveIfPolled(rip: () => I64): void {
    const { f, cpu } = this;
    f.ifRarely(load32(cpu, O.poll), () => {
      f.store32(cpu, I32.const(1), O.regionPolled);
      this.state.jump(rip());
    });
  }

  /** The block's end: on to its successors, or out of the region. */
  #end(block: Block, last: HotContext, goto: (to: number) => void): void {
    const { f, state } = this;
    const { taken, fallThrough } = block;
    const mayBeStale = last.mayChangeCode;
    const { knowledge } = state.flags;
    const follow = (way: Edge) => () => {
      if (way.block !== undefined && this.#onlyWay.has(way.block)) this.#knowledge.set(way.block, knowledge);
      this.#follow(block, way, mayBeStale, goto);
    };
    const { branchCondition, jumpTarget } = last;
    if (jumpTarget !== undefined) {
      if (taken?.block !== undefined && this.#flow.canBranch(block.id, taken.block.id)) {
        if (taken.block.base === taken.base)
          f.if(jumpTarget.eq(this.#rip(taken.base, taken.at)), follow(taken));
        else f.if(this.#isFar(jumpTarget, taken.block), follow(taken));
      }
      if (taken === undefined || taken.isReturn) state.jump(jumpTarget);
      else state.jumpAgainstGuess(jumpTarget, last.instruction.record, this.#entryRecord);
    } else if (branchCondition === undefined) follow(fallThrough!)();
    else if (branchCondition === "always") follow(taken!)();
    else f.if(branchCondition, follow(taken!), follow(fallThrough!));
  }

  #follow(
    from: Block,
    { base, at, block, isChecked }: Edge,
    mayBeStale: boolean,
    goto: (to: number) => void,
  ): void {
    const { f, state, cpu } = this;
    const last = from.instructions[from.instructions.length - 1];
    if (block !== undefined && this.#flow.canBranch(from.id, block.id)) {
      // A far branch has set its block's base; the edge's own may be at another distance now.
      const rip = () => this.#rip(block.base, block.base === base ? at : block.at);
      if (mayBeStale || this.#flow.isBackward(from.id, block.id) || isFarReaching(last.row)) {
        this.#leaveIfPolled(rip);
      }
      if (block.base !== base) {
        // The far branch has checked the page, and set the base.
        f.store64(cpu, this.#rip(block.base, 0), O.pageRip);
      } else if (base !== from.base || pageOf(at) !== pageOf(last.at)) this.#changePage(base, at, isChecked);
      goto(block.id);
      return;
    }
    const samePage = base === from.base && pageOf(at) === pageOf(last.at);
    const record = samePage ? this.code.recordOf(base, at) : 0;
    if (record !== 0) state.arrive(record);
    else state.jump(this.#rip(base, at));
  }

  /** On to another page, where it is still the one that was translated; the fetch TLB knows. */
  #changePage(base: Base, at: number, isChecked: boolean): void {
    const { f, state, cpu } = this;
    const pageRip = f.let(this.#rip(base, pageOf(at)));
    if (!isChecked) {
      f.ifRarely(this.#isMapped(pageRip, this.code.codePageOf(base, at)).eqz(), () =>
        state.jump(this.#rip(base, at)),
      );
    }
    f.store64(cpu, pageRip, O.pageRip);
  }

  /** Whether `target` is the instruction that `block` starts with, wherever that is now; its base is set to that. */
  #isFar(target: I64, block: Block): I32 {
    const { f, code } = this;
    const base = this.#baseRip(block.base);
    f.set(base, target.sub(I64.const(block.at)));
    return this.#isMapped(base.get, code.codePageOf(block.base, block.at));
  }

  /** Whether the fetch TLB has this code page at a linear address, which may be no page's first byte. */
  #isMapped(pageRip: I64, codePage: number): I32 {
    const { f, cpu } = this;
    const entry = f.let(fetchTlbEntry(load32(cpu, O.ftlb), pageRip));
    return load64(entry, Ftlb.tag).eq(pageRip).and(load32(entry, Ftlb.codePage).eq(codePage));
  }

  readonly #baseRips = new Map<Base, Local<"i64">>();

  /** Linear address of place 0 of a base. */
  #baseRip(base: Base): Local<"i64"> {
    if (base === this.region.entry.base) return this.state.pageRip;
    let local = this.#baseRips.get(base);
    if (local === undefined) {
      local = this.f.local("i64");
      this.#baseRips.set(base, local);
    }
    return local;
  }

  #rip(base: Base, at: number): I64 {
    return this.#baseRip(base).get.add(I64.const(at));
  }
}

/** Blocks with one predecessor, which ends by going there; not the entry. */
function onlyWays({ entry, blocks }: Region): Set<Block> {
  const once = new Set<Block>();
  const often = new Set<Block>([entry]);
  for (const block of blocks)
    for (const next of successors(block)) {
      if (once.has(next)) often.add(next);
      once.add(next);
    }
  for (const block of often) once.delete(block);
  return once;
}

/** What the emitter asks about decoded code. */
export interface RegionCode {
  /** The vCPU's MXCSR.PE is clear. */
  readonly exactSoFar: boolean;
  /** Record of the instruction at `at`, 0 where there is none. */
  recordOf(base: Base, at: number): number;
  /** Code page of the page that `at` is in. */
  codePageOf(base: Base, at: number): number;
}

/** The function's body, or undefined where some definition cannot be expressed. */
export function emitRegion(
  module: ModuleBuilder,
  runtime: Runtime,
  region: Region,
  code: RegionCode,
): FunctionBody | undefined {
  try {
    return new RegionEmitter(module, runtime, region, code).emit();
  } catch (error) {
    if (error instanceof NotTranslatable) return undefined;
    throw error;
  }
}
