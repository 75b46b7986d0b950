/**
 * A futex mutex in shared memory. Each belongs to a named class; under the lock-order validator every
 * acquisition and release is reported with that class (DESIGN, 2).
 */
import type { SharedMemory } from "./shared-memory.js";

/** A mutex's word: 0 where it is free, else the number of the thread that holds it, with WAITERS where others may wait. */
const FREE = 0;
const WAITERS = 0x8000_0000 | 0;

/** The main thread's number, and that of threads that have not got one. */
export const MAIN_THREAD = 1;
let owner = MAIN_THREAD;

/** This thread's number in the words of mutexes: only lock-report.ts gives any. */
export function setLockOwner(id: number): void {
  owner = id;
}

/** By memory: its mutexes, and where (u32 index) threads note by their number which mutex they wait for. */
const known = new WeakMap<SharedMemory, { mutexes: Mutex[]; waits: number | undefined }>();

function knownOf(memory: SharedMemory) {
  let entry = known.get(memory);
  if (entry === undefined) {
    entry = { mutexes: [], waits: undefined };
    known.set(memory, entry);
  }
  return entry;
}

/** The mutexes in `memory` that this thread has objects of. */
export function mutexesOf(memory: SharedMemory): readonly Mutex[] {
  return knownOf(memory).mutexes;
}

/** Have threads that wait for a mutex in `memory` note its address at the u32 `waits` plus their number. */
export function noteWaits(memory: SharedMemory, waits: number): void {
  knownOf(memory).waits = waits;
}

export interface LockObserver {
  acquiring(lockClass: string, address: number): void;
  acquired(lockClass: string, address: number): void;
  released(lockClass: string, address: number): void;
  /** The thread is about to sleep for something other than a mutex: no lock may be held. */
  waiting(what: string): void;
}

let observer: LockObserver | undefined;

/** Report every lock operation of this thread to `next`; `undefined` ends it. */
export function observeLocks(next: LockObserver | undefined): void {
  observer = next;
}

/** To be called before each sleep that may be long (`Atomics.wait` for bytes, deadlines, guests), naming its cause. */
export function aboutToWait(what: string): void {
  observer?.waiting(what);
}

export class Mutex {
  readonly #memory: SharedMemory;
  readonly #words: Int32Array;
  readonly #index: number;

  /** A mutex over the u32 at `address` (zero: free). */
  constructor(
    readonly lockClass: string,
    memory: SharedMemory,
    readonly address: number,
  ) {
    this.#memory = memory;
    this.#words = memory.i32;
    this.#index = address >>> 2;
    knownOf(memory).mutexes.push(this);
  }

  /** Number of the thread that holds it, or 0. */
  get owner(): number {
    return Atomics.load(this.#words, this.#index) & ~WAITERS;
  }

  lock(): void {
    observer?.acquiring(this.lockClass, this.address);
    if (Atomics.compareExchange(this.#words, this.#index, FREE, owner) !== FREE) this.#lockSlow();
    observer?.acquired(this.lockClass, this.address);
  }

  #lockSlow(): void {
    const words = this.#words;
    const index = this.#index;
    const { waits } = knownOf(this.#memory);
    if (waits !== undefined) Atomics.store(words, waits + owner, this.address);
    // After Drepper, "Futexes Are Tricky", mutex 2: the word says whether an unlock has to wake anybody. Who has waited does
    // not know whether others still do, and takes the mutex as one with waiters.
    for (;;) {
      const word = Atomics.load(words, index);
      if (word === FREE) {
        if (Atomics.compareExchange(words, index, FREE, owner | WAITERS) === FREE) break;
        continue;
      }
      const waited = word | WAITERS;
      if (waited === word || Atomics.compareExchange(words, index, word, waited) === word) {
        Atomics.wait(words, index, waited);
      }
    }
    if (waits !== undefined) Atomics.store(words, waits + owner, 0);
  }

  unlock(): void {
    observer?.released(this.lockClass, this.address);
    const word = Atomics.exchange(this.#words, this.#index, FREE);
    if ((word & WAITERS) !== 0) Atomics.notify(this.#words, this.#index, 1);
  }

  /** Run `body` with the lock held. */
  with<T>(body: () => T): T {
    this.lock();
    try {
      return body();
    } finally {
      this.unlock();
    }
  }
}
