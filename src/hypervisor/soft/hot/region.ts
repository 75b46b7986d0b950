/**
 * A region of guest code: the basic blocks of one page that are reached from an entry by direct branches (DESIGN, 4).
 * Found by decoding; what the blocks do is emitted elsewhere.
 */
import type { HandlerForm } from "../cold/cold-context.js";
import { Special } from "../cold/special-handlers.js";
import type { CodeCache } from "../decode/code-cache.js";
import { DecodeStatus, type InstructionDecoder } from "../decode/instruction.js";
import type { OpcodeRow } from "../isa/opcode-table.js";
import { CodeMode, O, RECORD_SIZE, Rec } from "../vcpu-state.js";
import { ALL_FLAGS, type FlagEffects } from "./effects.js";

const PAGE = 4096;
export const MAX_INSTRUCTIONS = 300;
const MAX_BLOCKS = 60;

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
  readonly offset: number;
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
  /** Branches: the target relative to the page's first byte. */
  readonly target: number | undefined;
}

export interface Block {
  readonly offset: number;
  readonly instructions: Instruction[];
  /** Where the block goes on without a branch; −1: nowhere. */
  fallThrough: number;
  /** In the page and, once linked, blocks of the region; −1: none. */
  branchTarget: number;
  /** Flags that matter at its start. */
  liveIn: number;
}

export interface Region {
  readonly entry: number;
  readonly blocks: ReadonlyMap<number, Block>;
}

/** What is known of a handler: its definition's form and effects. */
export interface HandlerFacts {
  readonly form: HandlerForm;
  readonly effects: FlagEffects;
}

const isBranch = (row: OpcodeRow) => row.operands[0]?.method === "J";
const isCall = (row: OpcodeRow) => row.mnemonic === "CALL";

export class RegionFinder {
  constructor(
    readonly decoder: InstructionDecoder,
    readonly cache: CodeCache,
    readonly facts: (handler: number, row: OpcodeRow) => HandlerFacts | undefined,
    /** The handler that a record had before the hot tier put its own there. */
    readonly originalHandler: (record: number) => number,
  ) {}

  /** The region at byte `entry` of guest-physical page `page`, 64-bit mode; undefined where its first instruction cannot be in one. */
  find(page: number, entry: number): Region | undefined {
    const starts = new Set<number>([entry]);
    const queue = [entry];
    const decoded = new Map<number, Instruction>();
    let budget = MAX_INSTRUCTIONS;
    // First pass: all instructions reached, and where blocks start.
    while (queue.length > 0) {
      let offset = queue.pop()!;
      while (offset < PAGE && !decoded.has(offset) && budget > 0) {
        const instruction = this.#decode(page, offset);
        if (instruction === undefined) break;
        decoded.set(offset, instruction);
        budget--;
        const { row, target } = instruction;
        offset += instruction.length;
        if (target !== undefined && isBranch(row) && !isCall(row)) {
          if (target >= 0 && target < PAGE && starts.size < MAX_BLOCKS && !starts.has(target)) {
            starts.add(target);
            queue.push(target);
          }
          if (row.ends !== true && !starts.has(offset)) starts.add(offset);
        }
        if (row.ends === true || isCall(row)) break;
      }
    }
    if (!decoded.has(entry)) return undefined;
    const blocks = new Map<number, Block>();
    for (const start of starts) {
      const block = this.#block(start, starts, decoded);
      if (block !== undefined) blocks.set(start, block);
    }
    for (const block of blocks.values()) if (!blocks.has(block.branchTarget)) block.branchTarget = -1;
    const region = { entry, blocks };
    computeLiveness(region);
    return region;
  }

  #block(
    start: number,
    starts: ReadonlySet<number>,
    decoded: ReadonlyMap<number, Instruction>,
  ): Block | undefined {
    const instructions: Instruction[] = [];
    let offset = start;
    let fallThrough = start;
    let branchTarget = -1;
    for (;;) {
      const instruction = decoded.get(offset);
      if (instruction === undefined) {
        fallThrough = offset;
        break;
      }
      instructions.push(instruction);
      offset += instruction.length;
      fallThrough = offset;
      const { row, target } = instruction;
      if (isCall(row)) {
        fallThrough = -1;
        break;
      }
      if (target !== undefined && isBranch(row)) branchTarget = target;
      if (row.ends === true) fallThrough = -1;
      if (row.ends === true || branchTarget >= 0 || isBranch(row) || starts.has(offset)) break;
    }
    if (instructions.length === 0) return undefined;
    return { offset: start, instructions, fallThrough, branchTarget, liveIn: ALL_FLAGS };
  }

  #decode(page: number, offset: number): Instruction | undefined {
    const { decoder, cache } = this;
    let record = cache.recordAt(page, offset, CodeMode.LONG64);
    if (record === 0) return undefined;
    const linear = cache.linearPage(page);
    const { u8, u32 } = cache.memory;
    if (decoder.decode(u8, linear + offset, linear + PAGE, CodeMode.LONG64) !== DecodeStatus.OK)
      return undefined;
    const { row } = decoder;
    const facts = this.facts(decoder.handler, row);
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
    const first = this.originalHandler(record) || u32[(record + Rec.handler) >>> 2];
    if (first >= Special.EA64 && first < Special.COUNT) record += RECORD_SIZE;
    return {
      offset,
      length: decoder.length,
      row,
      form: facts.form,
      effects: facts.effects,
      record,
      registers: [...decoder.registers],
      immediate: (BigInt(decoder.immHigh) << 32n) | BigInt(decoder.immLow >>> 0),
      memory,
      target: decoder.relative ? offset + decoder.length + decoder.immLow : undefined,
    };
  }
}

/** Flags live at each block's start: read before they are set, there or further on; all of them where the region is left. */
function computeLiveness({ blocks }: Region): void {
  const summary = new Map<Block, { reads: number; sets: number }>();
  for (const block of blocks.values()) {
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
    for (const block of blocks.values()) {
      const { reads, sets } = summary.get(block)!;
      const live = reads | (liveOut(blocks, block) & ~sets);
      if (live !== block.liveIn) {
        block.liveIn = live;
        changed = true;
      }
    }
  }
}

/** Flags that matter at the end of `block`. */
export function liveOut(blocks: ReadonlyMap<number, Block>, block: Block): number {
  const last = block.instructions[block.instructions.length - 1];
  let live = 0;
  if (block.fallThrough >= 0) live |= blocks.get(block.fallThrough)?.liveIn ?? ALL_FLAGS;
  if (block.branchTarget >= 0) live |= blocks.get(block.branchTarget)?.liveIn ?? ALL_FLAGS;
  // A branch out of the region, an indirect one, or an instruction that leaves.
  const leaves = block.branchTarget < 0 && (isBranch(last.row) || block.fallThrough < 0);
  return leaves ? ALL_FLAGS : live;
}
