/**
 * Which of the guest's registers a region keeps in locals, from its start to its end. One that it uses seldom stays in the
 * vCPU's state: to load it at the start and store it at each exit would cost more, in time and in code.
 */
import { call, callIndirect, ret } from "../isa/control.js";
import { leave, pop, push } from "../isa/transfer.js";
import { O } from "../vcpu-state.js";
import type { Block, Instruction, Region } from "./region.js";
import type { Flow } from "./structure.js";

/** Turns of a loop, as far as a guess goes. */
const LOOP_TURNS = 8;
/** Uses, for one of the region's entry, from which a register has a local. */
const MIN_USES = 3;

export const RSP = 4;
const GPRS = 16;
const VECTORS = 16;
const STACK_DEFINITIONS: ReadonlySet<unknown> = new Set([call, callIndirect, ret, push, pop, leave]);

export interface RegisterHomes {
  /** Numbers of general registers, and of XMM registers, that are in locals. */
  readonly gprs: ReadonlySet<number>;
  readonly vectors: ReadonlySet<number>;
}

/** Number of the general register at a state offset, or −1; the high byte registers are one byte further. */
export function gprNumber(offset: number): number {
  return offset >= O.gpr && offset < O.gpr + 8 * GPRS ? (offset - O.gpr) >> 3 : -1;
}

/** Number of the XMM register at a state offset, or −1. */
export function vectorNumber(offset: number): number {
  return offset >= O.xmm && offset < O.xmm + 16 * VECTORS ? (offset - O.xmm) >> 4 : -1;
}

export function registerHomes(region: Region, flow: Flow): RegisterHomes {
  const gprs = new Float64Array(GPRS);
  const vectors = new Float64Array(VECTORS);
  const turns = loopTurns(region, flow);
  for (const block of region.blocks) {
    const weight = block.weight * (turns.get(block) ?? 1);
    for (const instruction of block.instructions) count(instruction, weight, gprs, vectors);
  }
  return { gprs: often(gprs), vectors: often(vectors) };
}

function count(
  { row, registers, memory }: Instruction,
  weight: number,
  gprs: Float64Array,
  vectors: Float64Array,
): void {
  const use = (offset: number, times: number) => {
    const gpr = gprNumber(offset);
    const vector = vectorNumber(offset);
    if (gpr >= 0) gprs[gpr] += times * weight;
    else if (vector >= 0) vectors[vector] += times * weight;
  };
  row.operands.forEach((_, i) => {
    // A read, a write, or both: one, as a rule.
    if (registers[i] !== undefined) use(registers[i], 1);
  });
  if (memory !== undefined) {
    use(memory.base, 1);
    use(memory.index, 1);
  }
  if (STACK_DEFINITIONS.has(row.definition)) use(O.gpr + 8 * RSP, 2);
}

const often = (uses: Float64Array): Set<number> =>
  new Set([...uses.keys()].filter((n) => uses[n] >= MIN_USES));

/** How often each block that is in loops is run in them. */
function loopTurns({ blocks }: Region, flow: Flow): Map<Block, number> {
  const byId = new Map(blocks.map((block) => [block.id, block]));
  const predecessors = new Map<Block, Block[]>(blocks.map((block) => [block, []]));
  const next = ({ taken, fallThrough }: Block) => [taken?.block, fallThrough?.block];
  for (const block of blocks)
    for (const to of next(block)) if (to !== undefined) predecessors.get(to)?.push(block);
  const turns = new Map<Block, number>();
  for (const id of flow.order) {
    if (!flow.isLoopHeader(id)) continue;
    const header = byId.get(id) as Block;
    const body = new Set([header]);
    for (const from of predecessors.get(header) as Block[])
      if (flow.isBackward(from.id, id) && flow.canBranch(from.id, id)) body.add(from);
    for (const block of body)
      if (block !== header) for (const from of predecessors.get(block) as Block[]) body.add(from);
    for (const block of body) turns.set(block, (turns.get(block) ?? 1) * LOOP_TURNS);
  }
  return turns;
}
