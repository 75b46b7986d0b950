/** Emits a region as one WebAssembly function of (cpu, record), the type of the cold tier's handlers. */
import type { Runtime } from "../cold/runtime.js";
import { O } from "../vcpu-state.js";
import { I32, I64, load32 } from "../wasm/expr.js";
import { type FuncRef, FunctionBuilder, type ModuleBuilder } from "../wasm/module.js";
import { HotContext, NotTranslatable, RegionState } from "./hot-context.js";
import { type Block, liveOut, type Region } from "./region.js";
import { analyse, emitStructure, type Flow } from "./structure.js";

const PAGE = 4096;

class RegionEmitter {
  readonly f = new FunctionBuilder({ params: ["i32", "i32"], results: [] });
  readonly cpu = this.f.params[0].get as I32;
  readonly state = new RegionState(this.f);
  readonly #flow: Flow;

  constructor(
    readonly module: ModuleBuilder,
    readonly runtime: Runtime,
    readonly region: Region,
    /** Record of the instruction at a byte offset of the page, 0 where there is none. */
    readonly recordOf: (offset: number) => number,
  ) {
    this.#flow = analyse(this.#graph);
  }

  get #graph() {
    const { blocks, entry } = this.region;
    return {
      entry,
      successors: (offset: number): number[] => {
        const { fallThrough, branchTarget } = blocks.get(offset)!;
        const next = [branchTarget, fallThrough].filter((to) => blocks.has(to));
        return next[0] === next[1] ? next.slice(1) : next;
      },
    };
  }

  emit(): Uint8Array {
    const { f, cpu, state, runtime } = this;
    f.block((exitRecord) => {
      state.exitRecord = exitRecord;
      f.block((exitJump) => {
        state.exitJump = exitJump;
        f.block((exitLeave) => {
          state.exitLeave = exitLeave;
          emitStructure(f, this.#graph, this.#flow, (offset, goto) => this.#block(offset, goto));
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

  #block(offset: number, goto: (to: number) => void): void {
    const { f, state, region } = this;
    const block = region.blocks.get(offset)!;
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
      if (context.mayChangeCode && !(ends && context.branchCondition !== undefined)) {
        f.if(state.stale.get, () => {
          f.set(state.stale, I32.const(0));
          state.jump(state.pageRip.get.add(I64.const(instruction.offset + instruction.length)));
        });
      }
      last = context;
    }
    this.#end(block, last!, goto);
  }

  /** The block's end: on to its successors, or out of the region. */
  #end(block: Block, last: HotContext, goto: (to: number) => void): void {
    const { f, state, region } = this;
    const condition = last.branchCondition;
    const live = liveOut(region.blocks, block);
    const { target } = last.instruction;
    state.materialize(live);
    state.pending = {};
    const follow = (to: number) => () => this.#follow(block.offset, to, goto);
    if (condition === undefined) follow(block.fallThrough)();
    else if (condition === "always") follow(target!)();
    else f.if(condition, follow(target!), follow(block.fallThrough));
  }

  #follow(from: number, to: number, goto: (to: number) => void): void {
    const { f, state, cpu, region } = this;
    const { branchTarget, fallThrough } = region.blocks.get(from)!;
    // A call's target is no successor, even where it is a block of the region.
    const successor = to === branchTarget || to === fallThrough;
    const inside = successor && region.blocks.has(to) && this.#flow.canBranch(from, to);
    if (inside) {
      if (this.#flow.isBackward(from, to)) {
        f.if(load32(cpu, O.poll), () => state.jump(this.#rip(to)));
      }
      goto(to);
      return;
    }
    const record = to >= 0 && to < PAGE ? this.recordOf(to) : 0;
    if (record !== 0) state.arrive(record);
    else state.jump(this.#rip(to));
  }

  #rip(offset: number): I64 {
    return this.state.pageRip.get.add(I64.const(offset));
  }
}

/** The function's body, or undefined where some definition cannot be expressed. */
export function emitRegion(
  module: ModuleBuilder,
  runtime: Runtime,
  region: Region,
  recordOf: (offset: number) => number,
): Uint8Array | undefined {
  try {
    return new RegionEmitter(module, runtime, region, recordOf).emit();
  } catch (error) {
    if (error instanceof NotTranslatable) return undefined;
    throw error;
  }
}
