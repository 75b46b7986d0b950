const OFFSET_SAMPLES = 500;

/**
 * The machine's host-side time: nanoseconds since the machine was made, the same on each of its threads. All deadlines
 * are in it. Guest clocks (TSC, kvmclock, PM timer …) are derived from it.
 */
export class Clock {
  /** What to add to this thread's `performance.now()`, in nanoseconds. */
  readonly #offset: number;

  /** `epoch`: `process.hrtime.bigint()` at the machine's making, handed to each thread. */
  constructor(readonly epoch: bigint) {
    // Both clocks are the host's CLOCK_MONOTONIC, so their difference is constant within a thread. Two readings around a third
    // give bounds for it, and all bounds hold: also where the thread loses its core in between, which only makes them wider.
    // Threads of a machine agree as well as the bounds are close, a few tens of nanoseconds.
    let least = Number.NEGATIVE_INFINITY;
    let most = Number.POSITIVE_INFINITY;
    for (let i = 0; i < OFFSET_SAMPLES; i++) {
      const before = performance.now() * 1e6;
      const monotonic = Number(process.hrtime.bigint() - epoch);
      const after = performance.now() * 1e6;
      least = Math.max(least, monotonic - after);
      most = Math.min(most, monotonic - before);
    }
    const offset = (least + most) / 2;
    this.#offset = offset;
  }

  static start(): Clock {
    return new Clock(process.hrtime.bigint());
  }

  /** Nanoseconds since the epoch; never goes back within a thread. */
  now(): number {
    return performance.now() * 1e6 + this.#offset;
  }
}
