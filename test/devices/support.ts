/** What the device tests share: state to build devices over, wires that remember, repeatable randomness. */
import { afterEach, beforeEach } from "node:test";
import type { InterruptLine } from "../../src/devices/interrupt-line.js";
import type { VmExit } from "../../src/hypervisor/seam.js";
import { Clock } from "../../src/memory/clock.js";
import { LockOrder } from "../../src/memory/lock-order.js";
import { observeLocks } from "../../src/memory/mutex.js";
import { SharedMemory } from "../../src/memory/shared-memory.js";
import { StateAllocator } from "../../src/memory/state-allocator.js";

/** All tests of the calling file run under the lock-order validator. */
export function validateLocks(): void {
  beforeEach(() => observeLocks(new LockOrder()));
  afterEach(() => observeLocks(undefined));
}

const STATE_START = 4096;

export function newMemory(): SharedMemory {
  return SharedMemory.create(4 * 65536);
}

/** An allocator over `memory`; a second one over the same memory stands for another thread's. */
export function allocatorOver(memory: SharedMemory): StateAllocator {
  return new StateAllocator(memory, STATE_START, memory.size);
}

/** A wire that remembers its level and counts its rising edges and all calls. */
export class RecordedLine implements InterruptLine {
  level = false;
  rises = 0;
  calls = 0;

  set(level: boolean): void {
    this.calls++;
    if (level && !this.level) this.rises++;
    this.level = level;
  }
}

/** A clock that only moves when told to. */
export class ManualClock extends Clock {
  nanoseconds = 0;

  constructor() {
    super(0n);
  }

  override now(): number {
    return this.nanoseconds;
  }
}

/** Mulberry32: 32 random bits a call, the same for the same seed. */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
}

/** An exit to serve; fields not given are zero. */
export function newExit(fields: Partial<VmExit> = {}): VmExit {
  return {
    reason: 0,
    port: 0,
    size: 1,
    count: 1,
    isWrite: false,
    address: 0,
    data: new Uint8Array(64),
    detail: 0,
    debug: { exception: 0, pc: 0n, dr6: 0n, dr7: 0n },
    ...fields,
  };
}
