/**
 * Deadlines in shared memory. Any thread arms or cancels a timer; one thread of the machine (the timer thread) sleeps
 * until the earliest deadline and runs the expired timers' handlers there.
 *
 * Every thread allocates the same timers in the same order and binds its own handler; only the timer thread's runs.
 */
import type { Clock } from "./clock.js";
import { array, Layout, type ViewOf } from "./layout.js";
import { aboutToWait, Mutex } from "./mutex.js";
import type { SharedMemory } from "./shared-memory.js";
import type { StateAllocator } from "./state-allocator.js";

const MAX_TIMERS = 512;

const TIMERS = new Layout("timers", {
  lock: "u32",
  /** Incremented and notified when the timer thread has to look again. */
  wake: "u32",
  stop: "u32",
  /** Deadline the timer thread sleeps for, in clock nanoseconds. */
  sleepingUntil: "f64",
  /** A deadline a timer in clock nanoseconds; Infinity: not armed. */
  deadline: array("f64", MAX_TIMERS),
});

/** Runs on the timer thread, with no lock held, at or after `deadline`; it may arm its timer again. */
export type TimerHandler = (deadline: number, now: number) => void;

export interface Timer {
  /** Expire at `deadline` (clock nanoseconds), in place of any deadline set before. */
  arm(deadline: number): void;
  cancel(): void;
  /** The deadline, or Infinity. */
  readonly deadline: number;
}

export class Timers {
  readonly #state: ViewOf<typeof TIMERS>;
  readonly #deadlines: Float64Array;
  readonly #handlers: TimerHandler[] = [];
  readonly #lock: Mutex;
  readonly #words: Int32Array;
  readonly #wake: number;
  readonly #stop: number;

  constructor(
    memory: SharedMemory,
    allocator: StateAllocator,
    readonly clock: Clock,
  ) {
    this.#state = allocator.alloc(TIMERS, "timers");
    this.#deadlines = this.#state.deadline;
    this.#lock = new Mutex("timers", memory, this.#state.address + TIMERS.offset.lock);
    this.#words = memory.i32;
    this.#wake = (this.#state.address + TIMERS.offset.wake) >>> 2;
    this.#stop = (this.#state.address + TIMERS.offset.stop) >>> 2;
  }

  /** First values; called once, by the thread that makes the machine, before any timer is armed. */
  reset(): void {
    this.#deadlines.fill(Number.POSITIVE_INFINITY);
    this.#state.sleepingUntil = Number.POSITIVE_INFINITY;
  }

  create(handler: TimerHandler): Timer {
    const index = this.#handlers.length;
    if (index >= MAX_TIMERS) throw new RangeError("too many timers");
    this.#handlers.push(handler);
    const set = (deadline: number) => this.#set(index, deadline);
    const deadlines = this.#deadlines;
    return {
      arm: set,
      cancel: () => set(Number.POSITIVE_INFINITY),
      get deadline() {
        return deadlines[index];
      },
    };
  }

  #set(index: number, deadline: number): void {
    this.#lock.lock();
    this.#deadlines[index] = deadline;
    const sooner = deadline < this.#state.sleepingUntil;
    this.#lock.unlock();
    if (sooner) this.#wakeUp();
  }

  #wakeUp(): void {
    Atomics.add(this.#words, this.#wake, 1);
    Atomics.notify(this.#words, this.#wake);
  }

  /** Run the handlers of all timers due by now; returns the next deadline. For the timer thread and for tests. */
  expire(): number {
    for (;;) {
      const now = this.clock.now();
      let due = -1;
      let next = Number.POSITIVE_INFINITY;
      let deadline = Number.POSITIVE_INFINITY;
      this.#lock.lock();
      for (let i = 0; i < this.#handlers.length; i++) {
        const at = this.#deadlines[i];
        if (at <= now && at < deadline) {
          due = i;
          deadline = at;
        } else if (at < next) next = at;
      }
      if (due >= 0) this.#deadlines[due] = Number.POSITIVE_INFINITY;
      this.#state.sleepingUntil = due >= 0 ? 0 : next;
      this.#lock.unlock();
      if (due < 0) return next;
      this.#handlers[due](deadline, now);
    }
  }

  /** The timer thread's whole life: returns after `stop`. */
  run(): void {
    while (Atomics.load(this.#words, this.#stop) === 0) {
      const seen = Atomics.load(this.#words, this.#wake);
      const next = this.expire();
      if (Atomics.load(this.#words, this.#stop) !== 0) return;
      const milliseconds = (next - this.clock.now()) / 1e6;
      if (milliseconds <= 0) continue;
      aboutToWait("timers");
      Atomics.wait(this.#words, this.#wake, seen, milliseconds);
    }
  }

  stop(): void {
    Atomics.store(this.#words, this.#stop, 1);
    this.#wakeUp();
  }
}
