/**
 * Linear memory for emulation-step.ts. A file of its own: every thread needs these numbers, and few the software CPU, which takes
 * long to load.
 */
import { PHYS_MAP_BYTES, VCPU_BYTES } from "../soft/vcpu-state.js";

const MIB = 1 << 20;
/** A single step decodes into scratch records and keeps nothing. */
export const CODE_ARENA_BYTES = 256 << 10;

/** Bytes of linear memory for the stepping of one vCPU, and once for them all. */
export const STEP_ARENA_BYTES = VCPU_BYTES + CODE_ARENA_BYTES + 1 * MIB;
export const STEP_PHYS_MAP_BYTES = PHYS_MAP_BYTES;

/** Where the stepping of a vCPU has its state. */
export interface StepArena {
  readonly start: number;
  readonly end: number;
  readonly physMap: number;
}
