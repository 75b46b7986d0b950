/** A soft VM that several threads have: each makes these objects over the same memory. */
import { createSoftVm, type SoftVm, softArenaBytes } from "../../../src/hypervisor/soft/provider.js";
import { Clock } from "../../../src/memory/clock.js";
import { GuestMemory, gpa, type MemorySlot } from "../../../src/memory/guest-memory.js";
import { LockOrder } from "../../../src/memory/lock-order.js";
import { observeLocks } from "../../../src/memory/mutex.js";
import { SharedMemory } from "../../../src/memory/shared-memory.js";
import { StateAllocator } from "../../../src/memory/state-allocator.js";
import { Timers } from "../../../src/memory/timers.js";

export const RAM_BYTES = 32 << 20;
const FIRST_STATE = 64;
/** State beside the VM's: timers. */
const OTHER_STATE = 1 << 20;

export type Tier = "auto" | "hot" | "cold";

/** What a thread needs to make its objects; goes to Workers. */
export interface SharedVmData {
  readonly cpus: number;
  readonly tier: Tier;
  readonly memory: WebAssembly.Memory;
  readonly epoch: bigint;
  readonly lockOrder: SharedArrayBuffer;
}

export interface SharedVm {
  readonly vm: SoftVm;
  readonly guestMemory: GuestMemory;
  readonly timers: Timers;
}

const ramOffset = (cpus: number) => Math.ceil((softArenaBytes(cpus) + OTHER_STATE) / 0x10000) * 0x10000;

export function createMemory(cpus: number): SharedMemory {
  return SharedMemory.create(ramOffset(cpus) + RAM_BYTES);
}

/** `create` in the thread that makes the machine. Every thread's locks are validated. */
export function makeVm(data: SharedVmData, create: boolean): SharedVm {
  observeLocks(new LockOrder(data.lockOrder));
  const shared = new SharedMemory(data.memory);
  const at = ramOffset(data.cpus);
  const allocator = new StateAllocator(shared, FIRST_STATE, at);
  const clock = new Clock(data.epoch);
  const timers = new Timers(shared, allocator, clock);
  if (create) timers.reset();
  const slot: MemorySlot = {
    slot: 0,
    guestPhysical: gpa(0),
    size: RAM_BYTES,
    offset: at,
    readonly: false,
    logDirty: false,
  };
  const guestMemory = new GuestMemory(shared, [slot]);
  const { cpus, tier } = data;
  const vm = createSoftVm(shared, allocator, guestMemory, timers, clock, { cpus, create, tier });
  if (create) vm.setMemorySlot(slot);
  return { vm, guestMemory, timers };
}
