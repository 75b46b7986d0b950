/**
 * A futex mutex in shared memory. Each belongs to a named class; under the lock-order validator every
 * acquisition and release is reported with that class (DESIGN, 2).
 */
import type { SharedMemory } from "./shared-memory.js";

const FREE = 0;
const HELD = 1;
const HELD_WITH_WAITERS = 2;

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
  readonly #words: Int32Array;
  readonly #index: number;

  /** A mutex over the u32 at `address` (zero: free). */
  constructor(
    readonly lockClass: string,
    memory: SharedMemory,
    readonly address: number,
  ) {
    this.#words = memory.i32;
    this.#index = address >>> 2;
  }

  lock(): void {
    observer?.acquiring(this.lockClass, this.address);
    if (Atomics.compareExchange(this.#words, this.#index, FREE, HELD) !== FREE) this.#lockSlow();
    observer?.acquired(this.lockClass, this.address);
  }

  #lockSlow(): void {
    // Drepper, "Futexes Are Tricky", mutex 2: the state says whether an unlock has to wake anybody.
    while (Atomics.exchange(this.#words, this.#index, HELD_WITH_WAITERS) !== FREE) {
      Atomics.wait(this.#words, this.#index, HELD_WITH_WAITERS);
    }
  }

  unlock(): void {
    observer?.released(this.lockClass, this.address);
    if (Atomics.exchange(this.#words, this.#index, FREE) === HELD_WITH_WAITERS) {
      Atomics.notify(this.#words, this.#index, 1);
    }
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
