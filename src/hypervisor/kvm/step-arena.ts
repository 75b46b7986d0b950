/**
 * Linear memory for emulation-step.ts. A file of its own: every thread needs these numbers, and few the software CPU, which takes
 * long to load.
 */
import { O, PHYS_MAP_BYTES, Poll, Request, VCPU_BYTES } from "../soft/vcpu-state.js";

const MIB = 1 << 20;
/** A single step decodes into scratch records and keeps nothing. */
const STEP_CODE_BYTES = 256 << 10;
/** What batches have decoded: a kernel, and what drivers it loads. */
const BATCH_CODE_BYTES = 32 * MIB;
/** Interrupt controllers and clocks, which are never used. */
const OTHER_BYTES = 1 * MIB;

/** Nanoseconds that a batch takes at most: interrupts wait for so long. */
export const BATCH_LIMIT = 2_000_000;

const codeBytes = (batches: boolean) => (batches ? BATCH_CODE_BYTES : STEP_CODE_BYTES);

/** Bytes of linear memory for the stepping of one vCPU, and once for them all. */
export const stepArenaBytes = (batches: boolean) => VCPU_BYTES + codeBytes(batches) + OTHER_BYTES;
export const STEP_PHYS_MAP_BYTES = PHYS_MAP_BYTES;

/** Where the stepping of a vCPU has its state. */
export interface StepArena {
  /** Page-aligned; the software vCPU's state is there. */
  readonly start: number;
  readonly end: number;
  readonly codeBytes: number;
  readonly physMap: number;
}

export function stepArena(start: number, physMap: number, batches: boolean): StepArena {
  return { start, end: start + stepArenaBytes(batches), codeBytes: codeBytes(batches), physMap };
}

/** Make a batch of the software CPU end, now or as soon as it begins. Any thread. */
export function endBatch(words: Int32Array, { start }: StepArena): void {
  Atomics.or(words, (start + O.requests) >>> 2, Request.KICK);
  Atomics.or(words, (start + O.poll) >>> 2, Poll.REQUEST);
}

/** Forget what the last batch was asked for. */
export function forgetRequests(words: Int32Array, { start }: StepArena): void {
  Atomics.and(words, (start + O.requests) >>> 2, ~(Request.KICK | Request.NMI));
}
