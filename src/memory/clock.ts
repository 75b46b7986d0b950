const OFFSET_SAMPLES = 32;

/**
 * The machine's host-side time: nanoseconds since the machine was made, the same on each of its threads. All deadlines
 * are in it. Guest clocks (TSC, kvmclock, PM timer …) are derived from it.
 */
export class Clock {
  /** What to add to this thread's `performance.now()`, in nanoseconds. */
  readonly #offset: number;

  /** `epoch`: `process.hrtime.bigint()` at the machine's making, handed to each thread. */
  constructor(readonly epoch: bigint) {
    // Both clocks are the host's CLOCK_MONOTONIC, so their difference is constant within a thread. A thread that loses its
    // core between the two readings measures it wrong: the reading that took the least time counts, as all threads of a
    // machine have to agree.
    let offset = 0;
    let shortest = Number.POSITIVE_INFINITY;
    for (let i = 0; i < OFFSET_SAMPLES; i++) {
      const before = performance.now();
      const monotonic = Number(process.hrtime.bigint() - epoch);
      const after = performance.now();
      if (after - before >= shortest) continue;
      shortest = after - before;
      offset = monotonic - ((before + after) / 2) * 1e6;
    }
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
