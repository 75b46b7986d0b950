/** Emits a region as one WebAssembly function of (cpu, record), the type of the cold tier's handlers. */
import type { Runtime } from "../cold/runtime.js";
import { FTLB_ENTRIES, Ftlb, O } from "../vcpu-state.js";
import { I32, I64, load32, load64 } from "../wasm/expr.js";
import { type FuncRef, FunctionBuilder, type ModuleBuilder } from "../wasm/module.js";
import { HotContext, NotTranslatable, RegionState } from "./hot-context.js";
import { type Block, type Edge, liveAlong, pageOf, type Region, successors } from "./region.js";
import { analyse, emitStructure, type Flow, type Graph } from "./structure.js";

const PAGE_SHIFT = 12;

class RegionEmitter {
  readonly f = new FunctionBuilder({ params: ["i32", "i32"], results: [] });
  readonly cpu = this.f.params[0].get as I32;
  readonly state = new RegionState(this.f);
  readonly #flow: Flow;
  readonly #graph: Graph;
  readonly #byId: ReadonlyMap<number, Block>;

  constructor(
    readonly module: ModuleBuilder,
    readonly runtime: Runtime,
    readonly region: Region,
    readonly code: RegionCode,
  ) {
    this.#byId = new Map(region.blocks.map((block) => [block.id, block]));
    this.#graph = {
      entry: region.entry.id,
      successors: (id) => successors(this.#byId.get(id)!).map((block) => block.id),
    };
    this.#flow = analyse(this.#graph);
  }

  emit(): Uint8Array {
    const { f, cpu, state, runtime } = this;
    f.block((exitRecord) => {
      state.exitRecord = exitRecord;
      f.block((exitJump) => {
        state.exitJump = exitJump;
        f.block((exitLeave) => {
          state.exitLeave = exitLeave;
          emitStructure(f, this.#graph, this.#flow, (id, goto) => this.#block(this.#byId.get(id)!, goto));
        });
        state.spill(cpu);
        f.return();
      });
      state.spill(cpu);
      f.returnCall(runtime.jump as unknown as FuncRef, cpu, state.target.get);
    });
    state.spill(cpu);
    f.returnCall(runtime.arrive as unknown as FuncRef, cpu, state.record.get);
    state.loadAtStart(cpu);
    return f.body();
  }

  #block(block: Block, goto: (to: number) => void): void {
    const { f, state } = this;
    state.pending = {};
    state.checkedTraps.clear();
    let last: HotContext | undefined;
    for (const instruction of block.instructions) {
      const context = new HotContext(
        this.module,
        this.runtime,
        f,
        this.cpu,
        state,
        instruction,
        instruction.form,
      );
      context.begin();
      instruction.row.definition(context);
      if (context.left) {
        state.pending = {};
        return;
      }
      const ends = instruction === block.instructions[block.instructions.length - 1];
      if (context.mayChangeCode && !ends) this.#leaveIfStale(instruction.at + instruction.length);
      last = context;
    }
    this.#end(block, last!, goto);
  }

  /** After a store that may have changed this region's code: what follows is decoded anew. */
  #leaveIfStale(at: number): void {
    const { f, state } = this;
    f.if(state.stale.get, () => state.jump(this.#rip(at)));
  }

  /** The block's end: on to its successors, or out of the region. */
  #end(block: Block, last: HotContext, goto: (to: number) => void): void {
    const { f, state } = this;
    const { taken, fallThrough } = block;
    const stale = last.mayChangeCode;
    const { pending } = state;
    const follow = (way: Edge) => () => {
      state.pending = { ...pending };
      this.#follow(block, way, stale, goto);
    };
    const { branchCondition, jumpTarget } = last;
    if (jumpTarget !== undefined) {
      if (taken?.block !== undefined && this.#flow.canBranch(block.id, taken.block.id)) {
        f.if(jumpTarget.eq(this.#rip(taken.at)), follow(taken));
      }
      state.pending = pending;
      state.jump(jumpTarget);
    } else if (branchCondition === undefined) follow(fallThrough!)();
    else if (branchCondition === "always") follow(taken!)();
    else {
      state.settle(liveAlong(taken!) & liveAlong(fallThrough!));
      f.if(branchCondition, follow(taken!), follow(fallThrough!));
    }
    state.pending = {};
  }

  #follow(from: Block, { at, block, isChecked }: Edge, stale: boolean, goto: (to: number) => void): void {
    const { f, state, cpu } = this;
    if (block !== undefined && this.#flow.canBranch(from.id, block.id)) {
      if (stale) this.#leaveIfStale(at);
      if (this.#flow.isBackward(from.id, block.id)) {
        f.if(load32(cpu, O.poll), () => state.jump(this.#rip(at)));
      }
      const { instructions } = from;
      const page = pageOf(instructions[instructions.length - 1].at);
      if (pageOf(at) !== page) this.#changePage(at, isChecked);
      state.materialize(block.liveIn);
      goto(block.id);
      return;
    }
    const last = from.instructions[from.instructions.length - 1];
    const record = pageOf(at) === pageOf(last.at) ? this.code.recordOf(this.region, at) : 0;
    if (record !== 0) state.arrive(record);
    else state.jump(this.#rip(at));
  }

  /** On to another page, where it is still the one that was translated; the fetch TLB knows. */
  #changePage(at: number, isChecked: boolean): void {
    const { f, state, cpu } = this;
    const pageRip = f.let(this.#rip(pageOf(at)));
    if (!isChecked) {
      const entry = f.let(
        load32(cpu, O.ftlb).add(
          pageRip
            .shrU(PAGE_SHIFT - Math.log2(Ftlb.size))
            .toI32()
            .and((FTLB_ENTRIES - 1) * Ftlb.size),
        ),
      );
      const codePage = I32.const(this.code.codePageOf(this.region, at));
      const same = load64(entry, Ftlb.tag).eq(pageRip).and(load32(entry, Ftlb.codePage).eq(codePage));
      f.if(same.eqz(), () => state.jump(this.#rip(at)));
    }
    f.store64(cpu, pageRip, O.pageRip);
  }

  #rip(at: number): I64 {
    return this.state.pageRip.get.add(I64.const(at));
  }
}

/** What the emitter asks about decoded code. */
export interface RegionCode {
  /** Record of the instruction at `at`, 0 where there is none. */
  recordOf(region: Region, at: number): number;
  /** Code page of the page that `at` is in. */
  codePageOf(region: Region, at: number): number;
}

/** The function's body, or undefined where some definition cannot be expressed. */
export function emitRegion(
  module: ModuleBuilder,
  runtime: Runtime,
  region: Region,
  code: RegionCode,
): Uint8Array | undefined {
  try {
    return new RegionEmitter(module, runtime, region, code).emit();
  } catch (error) {
    if (error instanceof NotTranslatable) return undefined;
    throw error;
  }
}
