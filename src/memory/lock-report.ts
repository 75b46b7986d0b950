/**
 * Which locks of a machine are held, by which of its threads, and who waits for them: read from shared memory, without a lock, so
 * that it can be told of a machine whose threads wait for each other. It is a look at what changes all the time: where nothing
 * is wrong, two looks in a row seldom show the same.
 */
import { array, Layout, type ViewOf } from "./layout.js";
import { MAIN_THREAD, mutexesOf, noteWaits, setLockOwner } from "./mutex.js";
import type { SharedMemory } from "./shared-memory.js";
import type { StateAllocator } from "./state-allocator.js";

const MAX_THREADS = 512;
const MAX_NAME = 16;

const LOCK_THREADS = new Layout("lock-threads", {
  /** Threads that have a number, beside the main thread. */
  count: "u32",
  /** By the thread's number: address of the mutex that it waits for, or 0. */
  waits: array("u32", MAX_THREADS),
  names: array("u8", MAX_THREADS * MAX_NAME),
});

export interface LockState {
  readonly lockClass: string;
  /** Where the mutex is in the machine's memory. */
  readonly address: number;
  /** Name of the thread that holds it, or undefined where it was let go just now. */
  readonly holder: string | undefined;
  readonly waiters: readonly string[];
}

/** The threads of a machine, as its locks know them. */
export class LockThreads {
  readonly #memory: SharedMemory;
  readonly #state: ViewOf<typeof LOCK_THREADS>;

  constructor(memory: SharedMemory, allocator: StateAllocator) {
    this.#memory = memory;
    this.#state = allocator.alloc(LOCK_THREADS, "lock-threads");
    noteWaits(memory, (this.#state.address + LOCK_THREADS.offset.waits) >>> 2);
  }

  /** The calling thread, a Worker of this machine only, is called `name`. */
  enter(name: string): void {
    const count = (this.#state.address + LOCK_THREADS.offset.count) >>> 2;
    const id = MAIN_THREAD + 1 + Atomics.add(this.#memory.i32, count, 1);
    // Threads beyond are seen as the main thread.
    if (id >= MAX_THREADS) return;
    const bytes = new TextEncoder().encode(name).subarray(0, MAX_NAME);
    this.#state.names.set(bytes, id * MAX_NAME);
    setLockOwner(id);
  }

  /** The locks that are held or waited for. */
  get locks(): LockState[] {
    const { waits } = this.#state;
    const waiting = new Map<number, string[]>();
    waits.forEach((address, id) => {
      if (address === 0) return;
      const names = waiting.get(address) ?? [];
      names.push(this.#name(id));
      waiting.set(address, names);
    });
    return mutexesOf(this.#memory).flatMap(({ lockClass, address, owner }) => {
      const waiters = waiting.get(address) ?? [];
      if (owner === 0 && waiters.length === 0) return [];
      return [{ lockClass, address, holder: owner === 0 ? undefined : this.#name(owner), waiters }];
    });
  }

  #name(id: number): string {
    if (id === MAIN_THREAD) return "main";
    const at = id * MAX_NAME;
    const bytes = this.#state.names.slice(at, at + MAX_NAME);
    const end = bytes.indexOf(0);
    return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end)) || `thread ${id}`;
  }
}
