/**
 * The machine's host-side time: nanoseconds since the machine was made, the same on each of its threads. All deadlines
 * are in it. Guest clocks (TSC, kvmclock, PM timer …) are derived from it.
 */
export class Clock {
  /** What to add to this thread's `performance.now()`, in nanoseconds. */
  readonly #offset: number;

  /** `epoch`: `process.hrtime.bigint()` at the machine's making, handed to each thread. */
  constructor(readonly epoch: bigint) {
    // Both clocks are the host's CLOCK_MONOTONIC: their difference is constant within a thread.
    this.#offset = Number(process.hrtime.bigint() - epoch) - performance.now() * 1e6;
  }

  static start(): Clock {
    return new Clock(process.hrtime.bigint());
  }

  /** Nanoseconds since the epoch; never goes back within a thread. */
  now(): number {
    return performance.now() * 1e6 + this.#offset;
  }
}
