/**
 * The lock-order validator (DESIGN, 2), after the idea of Linux's lockdep: every time a lock is taken while another is
 * held, the order of their classes is recorded. Two orders that contradict each other are a deadlock that
 * has not happened yet; the first such pair is reported with both chains, whether or not the threads ever met.
 *
 * The recorded orders live in a `SharedArrayBuffer`: where a machine's threads share one, an inversion between two threads
 * is found as well.
 */
import { threadId } from "node:worker_threads";
import { type LockObserver, observeLocks } from "./mutex.js";

/** Set to "1", every thread of a machine validates its locks. */
export const LOCKDEP_VARIABLE = "NLKT_LOCKDEP";

const MAX_CLASSES = 64;
const MAX_NAME = 31;
/** How many classes of a recorded chain are kept: its last ones. */
const MAX_CHAIN = 7;

/** Sections of the shared buffer, in bytes. */
const GUARD = 0;
const COUNT = 4;
const NAMES = 8;
const NAME_SIZE = MAX_NAME + 1;
/** A record an ordered pair of classes: 0 or the chain's length, the thread, the chain's class ids. */
const CHAINS = NAMES + MAX_CLASSES * NAME_SIZE;
const CHAIN_SIZE = 2 + MAX_CHAIN;
const TABLE_SIZE = CHAINS + MAX_CLASSES * MAX_CLASSES * CHAIN_SIZE;

export class LockOrderError extends Error {}

/** A new, empty record of lock orders, to be shared by the threads of a machine. */
export function createLockOrderTable(): SharedArrayBuffer {
  return new SharedArrayBuffer(TABLE_SIZE);
}

interface HeldLock {
  readonly id: number;
  readonly address: number;
}

/** Watches the locks of one thread. Violations are thrown out of `Mutex.lock`, before the lock is waited for. */
export class LockOrder implements LockObserver {
  readonly #bytes: Uint8Array;
  readonly #words: Int32Array;
  readonly #ids = new Map<string, number>();
  readonly #held: HeldLock[] = [];

  constructor(table: SharedArrayBuffer = createLockOrderTable()) {
    this.#bytes = new Uint8Array(table);
    this.#words = new Int32Array(table, 0, NAMES / 4);
  }

  /** How many locks the thread holds. */
  get depth(): number {
    return this.#held.length;
  }

  acquiring(lockClass: string, address: number): void {
    const id = this.#id(lockClass);
    for (const held of this.#held) {
      if (held.address === address) {
        throw new LockOrderError(`lock "${lockClass}" taken twice by one thread: ${this.#chain(id)}`);
      }
      // Two locks of one class have no order of their own, so two threads can take them in either.
      if (held.id === id) {
        throw new LockOrderError(`two locks of class "${lockClass}" held at once: ${this.#chain(id)}`);
      }
    }
    for (const held of this.#held) this.#check(held.id, id);
    for (const held of this.#held) this.#record(held.id, id);
  }

  acquired(lockClass: string, address: number): void {
    this.#held.push({ id: this.#id(lockClass), address });
  }

  released(lockClass: string, address: number): void {
    for (let i = this.#held.length - 1; i >= 0; i--) {
      if (this.#held[i].address === address) {
        this.#held.splice(i, 1);
        return;
      }
    }
    throw new LockOrderError(`lock "${lockClass}" released by a thread that does not hold it`);
  }

  waiting(what: string): void {
    if (this.#held.length === 0) return;
    const names = this.#held.map((held) => this.#name(held.id)).join(" -> ");
    throw new LockOrderError(`waiting for ${what} with locks held: ${names}`);
  }

  /** Throws where `later` was ever, directly or through other classes, followed by `earlier`. */
  #check(earlier: number, later: number): void {
    const cameFrom = new Map<number, number>([[later, -1]]);
    const queue = [later];
    for (let from = queue.shift(); from !== undefined; from = queue.shift()) {
      for (let to = 0; to < MAX_CLASSES; to++) {
        if (cameFrom.has(to) || Atomics.load(this.#bytes, edge(from, to)) === 0) continue;
        cameFrom.set(to, from);
        queue.push(to);
        if (to === earlier) throw this.#inversion(earlier, later, cameFrom);
      }
    }
  }

  #inversion(earlier: number, later: number, cameFrom: ReadonlyMap<number, number>): LockOrderError {
    const recorded: string[] = [];
    for (let to = earlier; to !== later; to = cameFrom.get(to)!) {
      const at = edge(cameFrom.get(to)!, to);
      const ids = this.#bytes.subarray(at + 2, at + 2 + this.#bytes[at]);
      recorded.unshift(
        `${Array.from(ids, (id) => this.#name(id)).join(" -> ")} (thread ${this.#bytes[at + 1]})`,
      );
    }
    return new LockOrderError(
      `lock order inversion between "${this.#name(earlier)}" and "${this.#name(later)}": ` +
        `now ${this.#chain(later)} (thread ${threadId & 0xff}); before ${recorded.join(", ")}`,
    );
  }

  /** The classes held, oldest first, and the one being taken. */
  #chain(taking: number): string {
    return [...this.#held.map((held) => held.id), taking].map((id) => this.#name(id)).join(" -> ");
  }

  #record(earlier: number, later: number): void {
    const at = edge(earlier, later);
    if (Atomics.load(this.#bytes, at) !== 0) return;
    this.#guarded(() => {
      const chain = [...this.#held.map((held) => held.id), later].slice(-MAX_CHAIN);
      this.#bytes[at + 1] = threadId & 0xff;
      this.#bytes.set(chain, at + 2);
      Atomics.store(this.#bytes, at, chain.length);
    });
  }

  #id(lockClass: string): number {
    const known = this.#ids.get(lockClass);
    if (known !== undefined) return known;
    const name = lockClass.slice(0, MAX_NAME);
    const id = this.#guarded(() => {
      const count = Atomics.load(this.#words, COUNT / 4);
      for (let i = 0; i < count; i++) if (this.#name(i) === name) return i;
      if (count === MAX_CLASSES) throw new RangeError(`more than ${MAX_CLASSES} lock classes`);
      const at = NAMES + count * NAME_SIZE;
      for (let i = 0; i < name.length; i++) this.#bytes[at + i] = name.charCodeAt(i);
      Atomics.store(this.#words, COUNT / 4, count + 1);
      return count;
    });
    this.#ids.set(lockClass, id);
    return id;
  }

  #name(id: number): string {
    const at = NAMES + id * NAME_SIZE;
    let name = "";
    for (let i = at; this.#bytes[i] !== 0; i++) name += String.fromCharCode(this.#bytes[i]);
    return name;
  }

  /** A spin lock over the table: it is held for less than a microsecond, and only when something new is recorded. */
  #guarded<T>(body: () => T): T {
    while (Atomics.compareExchange(this.#words, GUARD / 4, 0, 1) !== 0);
    try {
      return body();
    } finally {
      Atomics.store(this.#words, GUARD / 4, 0);
    }
  }
}

function edge(earlier: number, later: number): number {
  return CHAINS + (earlier * MAX_CLASSES + later) * CHAIN_SIZE;
}

/**
 * Validate this thread's locks if NLKT_LOCKDEP=1 asks for it. Each thread of a machine calls it first thing, with the
 * machine's table (`createLockOrderTable`) where there is one.
 */
export function validateLocksIfAsked(table?: SharedArrayBuffer): void {
  if (process.env[LOCKDEP_VARIABLE] === "1") observeLocks(new LockOrder(table));
}
