/**
 * A region of guest code: the basic blocks that are reached from an entry by direct branches, by calls and the returns
 * from them, and by indirect branches to where they went last (DESIGN, 4). Called code is taken in once for each call, so
 * that its returns have one place to go to. Found by decoding; what the blocks do is emitted elsewhere.
 *
 * Places are byte offsets, `at`, from the first byte of a page, the `Base`: the entry's, or where a far indirect branch
 * led. What is near a base keeps its distance to it; how far one base is from another may differ from process to process,
 * as libraries do. Which guest-physical page is at a place may differ, too: the emitted code checks each page that it goes
 * on to.
 */
import type { HandlerForm } from "../cold/cold-context.js";
import { ALL_FLAGS, type FlagEffects } from "../cold/flag-effects.js";
import { Special } from "../cold/special-handlers.js";
import type { CodeCache } from "../decode/code-cache.js";
import { DecodeStatus, type InstructionDecoder } from "../decode/instruction.js";
import { call, callIndirect, jmpIndirect, ret } from "../isa/control.js";
import type { OpcodeRow } from "../isa/opcode-table.js";
import { CodeMode, O, RECORD_SIZE, Rec } from "../vcpu-state.js";

const PAGE = 4096;
/** Of a region: what it may grow to. */
const MAX_INSTRUCTIONS = 600;
const MAX_BLOCKS = 120;
/** Instructions from which on only such blocks are taken in as are run half as often as the entry: compiling takes long. */
const MANY_INSTRUCTIONS = 160;
const MIN_WEIGHT_OF_MANY = 1 / 2;
/** Calls within calls. */
const MAX_DEPTH = 5;
/** Instructions that must be left for a call to be taken in. */
const CALL_RESERVE = 20;
/** Executions for one of the entry, below which a block is left out. */
const MIN_WEIGHT = 1 / 100;
/** What is further from a base may be at another distance in another process. */
const NEAR_BYTES = 2 ** 20;
/** Share of the executions of an indirect branch that are taken to go where it went last. */
const GUESS_WEIGHT = 0.7;

/** The memory operand of an instruction, as the decoder found it. */
export interface MemoryOperand {
  /** State offsets of base and index, O.zero for none. */
  readonly base: number;
  readonly index: number;
  readonly shift: number;
  readonly displacement: number;
  readonly ripRelative: boolean;
  readonly addressSize: 2 | 4 | 8;
  /** State offset of a segment base to add, or O.zero. */
  readonly segmentBase: number;
}

export interface Instruction {
  readonly at: number;
  readonly length: number;
  readonly row: OpcodeRow;
  readonly form: HandlerForm;
  readonly effects: FlagEffects;
  /** Record of the instruction itself, not of its address. */
  readonly record: number;
  readonly registers: readonly number[];
  /** Signed halves of the immediate. */
  readonly immediate: bigint;
  readonly memory: MemoryOperand | undefined;
  /** Branches: where to; indirect ones: where to the last time. */
  readonly target: number | undefined;
  /** Share of its executions in which a conditional branch was taken, as far as is known; NaN: never executed. */
  readonly takenShare: number;
}

/** What places count from. */
export class Base {
  /** Guest-physical page by place of its first byte; −1 where there is none. */
  readonly pages = new Map<number, number>();
  readonly decoded = new Map<number, Instruction | undefined>();

  /** `rip`: the linear address of place 0, when the region was found. */
  constructor(readonly rip: bigint) {}
}

/** A call that was taken in: where it returns to, in the code that called. */
export interface CallContext {
  readonly caller: CallContext | undefined;
  readonly depth: number;
  /** Linear address of the callee's first instruction. */
  readonly callee: bigint;
  readonly returnAt: number;
  readonly returnBase: Base;
  /** That is in the page that the call is in: it was checked on the way there. */
  readonly samePage: boolean;
}

/** A way out of a block. */
export interface Edge {
  readonly base: Base;
  readonly at: number;
  /** Where it leads in the region; undefined: the region is left. */
  block: Block | undefined;
  readonly isReturn: boolean;
  /** The page it leads to is known to be the one that was translated. */
  readonly isChecked: boolean;
}

export interface Block {
  readonly id: number;
  readonly base: Base;
  readonly at: number;
  readonly context: CallContext | undefined;
  readonly instructions: Instruction[];
  /** About how often it is run for each run of the region's entry, but for loops. */
  readonly weight: number;
  /** Where the block goes on without a branch. */
  readonly fallThrough: Edge | undefined;
  /** Where its branch, its call or its return goes; that of an indirect one is a guess. */
  readonly taken: Edge | undefined;
  /** Flags that matter at its start. */
  liveIn: number;
}

export interface Region {
  readonly entry: Block;
  /** Reachable ones only. */
  readonly blocks: readonly Block[];
  /** Guest-physical pages that its code is in. */
  readonly pages: ReadonlySet<number>;
}

/** What is known of a handler: its definition's form and effects. */
export interface HandlerFacts {
  readonly form: HandlerForm;
  readonly effects: FlagEffects;
}

/** First byte of the page that `at` is in. */
export const pageOf = (at: number) => Math.floor(at / PAGE) * PAGE;

const isDirect = (row: OpcodeRow) => row.operands[0]?.method === "J";
const isCall = ({ definition }: OpcodeRow) => definition === call || definition === callIndirect;
const isRet = ({ definition }: OpcodeRow) => definition === ret;
const isIndirectJump = ({ definition }: OpcodeRow) => definition === jmpIndirect;

/**
 * Calls, returns and indirect jumps. Before what they lead to, `poll` is looked at: another processor may have written it
 * before it told where it is (SDM vol. 3A, 9.1.3, and what just-in-time compilers do).
 */
export const isFarReaching = (row: OpcodeRow) => isCall(row) || isRet(row) || isIndirectJump(row);

/** What the finder asks about the guest. */
export interface GuestCode {
  readonly facts: (handler: number, row: OpcodeRow) => HandlerFacts | undefined;
  /** The handler that a record had before the hot tier put its own there, 0 where it did not. */
  readonly originalHandler: (record: number) => number;
  /** Guest-physical page at a linear address now, −1 where there is none. */
  readonly physicalPage: (linear: bigint) => number;
  /** Take in what was never run, too (tests). */
  readonly eager: boolean;
}

export class RegionFinder {
  constructor(
    readonly decoder: InstructionDecoder,
    readonly cache: CodeCache,
    readonly guest: GuestCode,
  ) {}

  /**
   * The region at linear address `rip`, 64-bit mode, which is in guest-physical page `page`; undefined where its first
   * instruction cannot be in one.
   */
  find(page: number, rip: bigint): Region | undefined {
    return new Search(this, page, rip).region();
  }
}

/** A block to look at, and about how often it is run for each run of the region's entry. */
interface Way {
  readonly part: Part;
  readonly at: number;
  readonly weight: number;
}

/** A piece of code as one call context sees it. */
interface Part {
  readonly base: Base;
  readonly context: CallContext | undefined;
  readonly entry: number;
  readonly starts: Set<number>;
  /** Of the blocks, by their place. */
  readonly weights: Map<number, number>;
  readonly instructions: Map<number, Instruction>;
  /** Parts that calls and far jumps lead to, by their place. */
  readonly further: Map<number, Part>;
  readonly blocks: Map<number, Block>;
  /** What the calls in `context` return to. */
  readonly caller: Part | undefined;
}

class Search {
  readonly #root: Part;
  #budget = MAX_INSTRUCTIONS;
  #starts = 0;

  constructor(
    readonly finder: RegionFinder,
    page: number,
    rip: bigint,
  ) {
    const entry = Number(rip & BigInt(PAGE - 1));
    const base = new Base(rip - BigInt(entry));
    base.pages.set(0, page);
    this.#root = newPart(base, undefined, undefined, entry);
  }

  region(): Region | undefined {
    const root = this.#root;
    const parts = this.#parts;
    parts.push(root);
    this.#queue(root, root.entry, 1);
    for (let way = this.#takeWay(); way !== undefined; way = this.#takeWay()) this.#explore(way);
    if (!root.instructions.has(root.entry)) return undefined;
    for (const part of parts) this.#makeBlocks(part);
    for (const part of parts) link(part);
    const entry = root.blocks.get(root.entry)!;
    const blocks = reachable(entry);
    computeLiveness(blocks);
    return { entry, blocks, pages: new Set(blocks.map(pageOfBlock)) };
  }

  /** Take a block in, and queue what it leads to. */
  #explore({ part, at: start, weight: startWeight }: Way): void {
    const { starts, instructions } = part;
    let weight = startWeight;
    let at = start;
    const page = pageOf(at);
    while (pageOf(at) === page && !instructions.has(at) && this.#budget > 0) {
      const instruction = this.#decode(part.base, at);
      if (instruction === undefined) return;
      if (at !== start && starts.has(at)) addWeight(part, at, weight);
      instructions.set(at, instruction);
      this.#budget--;
      const { row, target, takenShare } = instruction;
      const next = at + instruction.length;
      if (isCall(row)) {
        const callee = this.#callee(part, instruction, next);
        if (callee !== undefined) {
          const share = isDirect(row) ? 1 : GUESS_WEIGHT;
          this.#further(part, at, callee, weight * share);
          this.#queue(part, next, weight * share);
        }
        return;
      }
      if (isRet(row)) return;
      if (isDirect(row) && row.ends !== true) {
        // A block ends at its branch, even where what follows is left out.
        starts.add(next);
        const share = this.finder.guest.eager ? 1 / 2 : takenShare;
        if (!Number.isNaN(share)) this.#queue(part, target as number, weight * share);
        weight *= 1 - share;
        if (!(weight >= MIN_WEIGHT)) return;
      } else {
        if (target !== undefined) {
          if (isDirect(row)) this.#queue(part, target, weight);
          else if (isNear(target)) this.#queue(part, target, weight * GUESS_WEIGHT);
          else {
            const { base, context, caller } = part;
            const far = farPart(base, target, context, caller);
            this.#further(part, at, far, weight * GUESS_WEIGHT);
          }
        }
        if (row.ends === true) return;
      }
      at = next;
    }
    if (pageOf(at) !== page) this.#queue(part, at, weight);
  }

  readonly #ways: Way[] = [];
  readonly #parts: Part[] = [];

  #queue(part: Part, at: number, weight: number): void {
    const { starts } = part;
    addWeight(part, at, weight);
    if (weight < MIN_WEIGHT && !this.finder.guest.eager) return;
    if (starts.has(at) && part.instructions.has(at)) return;
    if (this.#starts >= MAX_BLOCKS || !this.#isWorthwhile(part.base, at)) return;
    this.#starts++;
    starts.add(at);
    this.#ways.push({ part, at, weight });
  }

  /** The heaviest way that waits; of equal ones the oldest. */
  #takeWay(): Way | undefined {
    let best = 0;
    this.#ways.forEach(({ weight }, i) => {
      if (weight > this.#ways[best].weight) best = i;
    });
    const isLarge = this.#budget < MAX_INSTRUCTIONS - MANY_INSTRUCTIONS;
    if (isLarge && !(this.#ways[best]?.weight >= MIN_WEIGHT_OF_MANY)) return undefined;
    return this.#ways.splice(best, 1)[0];
  }

  #further(from: Part, at: number, part: Part, weight: number): void {
    from.further.set(at, part);
    this.#parts.push(part);
    this.#queue(part, part.entry, weight);
  }

  /** The part that a call opens, or undefined where it stays outside. */
  #callee(caller: Part, { at, row, target }: Instruction, returnAt: number): Part | undefined {
    const depth = (caller.context?.depth ?? 0) + 1;
    if (target === undefined || depth > MAX_DEPTH || this.#budget < CALL_RESERVE) return undefined;
    if (this.#starts >= MAX_BLOCKS) return undefined;
    const callee = caller.base.rip + BigInt(target);
    if (callee === this.#root.base.rip + BigInt(this.#root.entry)) return undefined;
    for (let c = caller.context; c !== undefined; c = c.caller) if (c.callee === callee) return undefined;
    const samePage = pageOf(at) === pageOf(returnAt);
    const returnBase = caller.base;
    const context = { caller: caller.context, depth, callee, returnAt, returnBase, samePage };
    const part =
      isDirect(row) || isNear(target)
        ? newPart(caller.base, context, caller, target)
        : farPart(caller.base, target, context, caller);
    return this.#isWorthwhile(part.base, part.entry) ? part : undefined;
  }

  /** Whether there is code at `at` that was run. */
  #isWorthwhile(base: Base, at: number): boolean {
    const page = this.#physicalPage(base, at);
    if (page < 0) return false;
    const { cache, guest } = this.finder;
    const offset = at - pageOf(at);
    if (guest.eager) return cache.recordAt(page, offset, CodeMode.LONG64) !== 0;
    return cache.knownRecord(page, offset, CodeMode.LONG64) !== 0;
  }

  #physicalPage({ rip, pages }: Base, at: number): number {
    const first = pageOf(at);
    let page = pages.get(first);
    if (page === undefined) {
      page = this.finder.guest.physicalPage(BigInt.asUintN(64, rip + BigInt(first)));
      pages.set(first, page);
    }
    return page;
  }

  #decode(base: Base, at: number): Instruction | undefined {
    const { decoded } = base;
    if (!decoded.has(at)) decoded.set(at, this.#decodeNew(base, at));
    return decoded.get(at);
  }

  #decodeNew(base: Base, at: number): Instruction | undefined {
    const { decoder, cache, guest } = this.finder;
    const page = this.#physicalPage(base, at);
    if (page < 0) return undefined;
    const offset = at - pageOf(at);
    let record = cache.recordAt(page, offset, CodeMode.LONG64);
    if (record === 0) return undefined;
    const linear = cache.linearPage(page);
    const { u8, u32, u64 } = cache.memory;
    let takenShare = Number.NaN;
    if (decoder.decode(u8, linear + offset, linear + PAGE, CodeMode.LONG64) !== DecodeStatus.OK)
      return undefined;
    const { row } = decoder;
    const facts = guest.facts(decoder.handler, row);
    if (facts === undefined) return undefined;
    let memory: MemoryOperand | undefined;
    if (decoder.hasMemory) {
      if (decoder.wideDisplacement) return undefined;
      const based = row.noSegment !== true && decoder.segment >= 4;
      memory = {
        base: decoder.base,
        index: decoder.index,
        shift: decoder.shift,
        displacement: decoder.displacement,
        ripRelative: decoder.ripRelative,
        addressSize: decoder.addressSize,
        segmentBase: based ? O.segBase + 8 * decoder.segment : O.zero,
      };
    }
    const first = guest.originalHandler(record) || u32[(record + Rec.handler) >>> 2];
    if (first >= Special.EA64 && first < Special.COUNT) record += RECORD_SIZE;
    let target: number | undefined;
    if (decoder.relative) {
      target = at + decoder.length + decoder.immLow;
      const taken = (cache.hotBranches - u32[(record + Rec.disp) >>> 2]) >>> 0;
      takenShare = taken / (taken + u32[(record + Rec.notTaken) >>> 2]);
    }
    if (isIndirectJump(row) || (isCall(row) && !decoder.relative))
      target = lastTarget(base, u64[(record + Rec.imm) >>> 3]);
    return {
      at,
      length: decoder.length,
      row,
      form: facts.form,
      effects: facts.effects,
      record,
      registers: [...decoder.registers],
      immediate: (BigInt(decoder.immHigh) << 32n) | BigInt(decoder.immLow >>> 0),
      memory,
      target,
      takenShare,
    };
  }

  #blocks = 0;

  #makeBlocks(part: Part): void {
    for (const at of part.starts) {
      const block = this.#block(part, at);
      if (block !== undefined) part.blocks.set(at, block);
    }
  }

  #block({ base, context, starts, weights, instructions }: Part, start: number): Block | undefined {
    const found: Instruction[] = [];
    let at = start;
    let fallThrough: Edge | undefined;
    let taken: Edge | undefined;
    for (;;) {
      const instruction = instructions.get(at);
      if (instruction === undefined) {
        fallThrough = edge(base, at);
        break;
      }
      found.push(instruction);
      const { row, target } = instruction;
      at += instruction.length;
      if (isRet(row)) {
        if (context !== undefined) taken = edge(context.returnBase, context.returnAt, true, context.samePage);
        break;
      }
      if (isCall(row)) {
        if (target !== undefined) taken = edge(base, target);
        break;
      }
      if (target !== undefined) taken = edge(base, target);
      if (row.ends === true) break;
      if (isDirect(row) || starts.has(at)) {
        fallThrough = edge(base, at);
        break;
      }
    }
    if (found.length === 0) return undefined;
    const id = this.#blocks++;
    const weight = weights.get(start) ?? 0;
    return {
      id,
      base,
      at: start,
      context,
      instructions: found,
      weight,
      fallThrough,
      taken,
      liveIn: ALL_FLAGS,
    };
  }
}

function addWeight({ weights }: Part, at: number, weight: number): void {
  weights.set(at, (weights.get(at) ?? 0) + weight);
}

/** Where an indirect branch went, as its record says. */
function lastTarget(base: Base, rip: bigint): number | undefined {
  if (rip === 0n) return undefined;
  const at = Number(BigInt.asIntN(64, rip - base.rip));
  return Number.isSafeInteger(at) ? at : undefined;
}

/** Within the same program or library, as far as can be told. */
const isNear = (at: number) => Math.abs(at) < NEAR_BYTES;

function newPart(
  base: Base,
  context: CallContext | undefined,
  caller: Part | undefined,
  entry: number,
): Part {
  const maps = { weights: new Map(), instructions: new Map(), further: new Map(), blocks: new Map() };
  return { base, context, caller, entry, starts: new Set(), ...maps };
}

/** A part with a base of its own, at place `target` of another base. */
function farPart(
  from: Base,
  target: number,
  context: CallContext | undefined,
  caller: Part | undefined,
): Part {
  const base = new Base(BigInt.asUintN(64, from.rip + BigInt(pageOf(target))));
  return newPart(base, context, caller, target - pageOf(target));
}

function edge(base: Base, at: number, isReturn = false, isChecked = false): Edge {
  return { base, at, block: undefined, isReturn, isChecked };
}

/** Guest-physical page of a block. */
const pageOfBlock = ({ base, at }: Block): number => base.pages.get(pageOf(at)) as number;

/** Find the blocks that the edges of a part's blocks lead to. */
function link(part: Part): void {
  for (const { instructions, fallThrough, taken } of part.blocks.values()) {
    const last = instructions[instructions.length - 1];
    if (fallThrough !== undefined) fallThrough.block = part.blocks.get(fallThrough.at);
    if (taken === undefined) continue;
    const further = part.further.get(last.at);
    if (further !== undefined) taken.block = further.blocks.get(further.entry);
    else if (taken.isReturn) taken.block = part.caller?.blocks.get(taken.at);
    else if (!isCall(last.row)) taken.block = part.blocks.get(taken.at);
  }
}

export function successors({ taken, fallThrough }: Block): Block[] {
  const next: Block[] = [];
  if (taken?.block !== undefined) next.push(taken.block);
  if (fallThrough?.block !== undefined && fallThrough.block !== taken?.block) next.push(fallThrough.block);
  return next;
}

function reachable(entry: Block): Block[] {
  const seen = new Set<Block>([entry]);
  for (const block of seen) for (const next of successors(block)) seen.add(next);
  return [...seen];
}

/** Flags live at each block's start: read before they are set, there or further on; all of them where the region is left. */
function computeLiveness(blocks: readonly Block[]): void {
  const summary = new Map<Block, { reads: number; sets: number }>();
  for (const block of blocks) {
    let reads = 0;
    let sets = 0;
    for (const { effects } of block.instructions) {
      reads |= effects.reads & ~sets;
      sets |= effects.sets;
    }
    summary.set(block, { reads, sets });
    block.liveIn = reads;
  }
  for (let changed = true; changed; ) {
    changed = false;
    for (const block of blocks) {
      const { reads, sets } = summary.get(block)!;
      const live = reads | (liveOut(block) & ~sets);
      if (live !== block.liveIn) {
        block.liveIn = live;
        changed = true;
      }
    }
  }
}

/** Flags that matter on the way along an edge; on the way back, where interrupts are looked for, all of them. */
const liveAlong = (from: Block, way: Edge): number =>
  way.block === undefined || (way.base === from.base && way.at <= from.at) ? ALL_FLAGS : way.block.liveIn;

/** Flags that matter at the end of `block`. */
function liveOut(block: Block): number {
  const { taken, fallThrough, instructions } = block;
  const { row } = instructions[instructions.length - 1];
  // Indirect ones may go elsewhere.
  let live = row.ends === true && !isDirect(row) ? ALL_FLAGS : 0;
  if (isFarReaching(row)) live = ALL_FLAGS;
  if (taken !== undefined) live |= liveAlong(block, taken);
  if (fallThrough !== undefined) live |= liveAlong(block, fallThrough);
  return taken === undefined && fallThrough === undefined ? ALL_FLAGS : live;
}

/** Flags that matter after each instruction of a block. One that may leave, may leave when its flags are set. */
export function liveAfterEach(block: Block): number[] {
  let live = liveOut(block);
  const result: number[] = [];
  for (const { effects } of block.instructions.toReversed()) {
    result.unshift(effects.leaves ? ALL_FLAGS : live);
    live = (live & ~effects.sets) | effects.reads;
  }
  return result;
}
