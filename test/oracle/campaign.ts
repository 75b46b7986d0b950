/** Runs many cases on two processors and gathers where they differ. */
import { type Difference, differences, report } from "./compare.js";
import {
  BREAKPOINT,
  type CpuCase,
  DATA_SIZE,
  FX_SIZE,
  LOW_SIZE,
  type OracleCpu,
  type Outcome,
} from "./cpu-case.js";
import type { Undefined } from "./undefined.js";

export interface Trial {
  readonly test: CpuCase;
  /** What not to compare, by how the case ended on the oracle. */
  masked(outcome: Outcome): Undefined;
}

export interface Failure {
  readonly test: CpuCase;
  readonly list: readonly Difference[];
}

/** Cases run natively between replacing the process's signal handlers and restoring them. */
const BATCH = 32;

const emptyOutcome = (): Outcome => ({
  vector: 0,
  errorCode: 0,
  cr2: 0n,
  rip: 0n,
  rflags: 0,
  gpr: new BigUint64Array(16),
  fx: new Uint8Array(FX_SIZE),
  data: new Uint8Array(DATA_SIZE),
  low: new Uint8Array(LOW_SIZE),
  selectors: new Uint16Array(4),
});

function copyOutcome(to: Outcome, from: Outcome, test: CpuCase): void {
  to.vector = from.vector;
  to.errorCode = from.errorCode;
  to.cr2 = from.cr2;
  to.rip = from.rip;
  to.rflags = from.rflags;
  to.gpr.set(from.gpr);
  if (test.fx !== undefined) to.fx.set(from.fx);
  if (test.usesLow) to.low.set(from.low);
  to.data.set(from.data);
  to.selectors.set(from.selectors);
}

export class Campaign {
  readonly #kept = Array.from({ length: BATCH }, emptyOutcome);
  /** Cases run, and how many of them ended without an exception. */
  cases = 0;
  completed = 0;

  /** `comparable`: whether what the oracle says counts. */
  constructor(
    readonly oracle: OracleCpu,
    readonly subject: OracleCpu,
    readonly comparable: (outcome: Outcome) => boolean = () => true,
  ) {}

  /** Run `trials`; gives the ones that differ, at most `limit`. */
  run(trials: readonly Trial[], limit: number): Failure[] {
    const failures: Failure[] = [];
    for (let start = 0; start < trials.length && failures.length < limit; start += BATCH) {
      const batch = trials.slice(start, start + BATCH);
      this.oracle.begin();
      try {
        batch.forEach(({ test }, i) => {
          copyOutcome(this.#kept[i], this.oracle.run(test), test);
        });
      } finally {
        this.oracle.end();
      }
      this.subject.begin();
      try {
        batch.forEach((trial, i) => {
          const { test } = trial;
          const expected = this.#kept[i];
          if (!this.comparable(expected)) return;
          const masked = trial.masked(expected);
          this.cases++;
          if (expected.vector === BREAKPOINT) this.completed++;
          const list = differences(test, expected, this.subject.run(test), masked);
          if (list.length > 0 && failures.length < limit) failures.push({ test, list });
        });
      } finally {
        this.subject.end();
      }
    }
    return failures;
  }
}

export function reportAll(failures: readonly Failure[]): string {
  return failures.map(({ test, list }) => report(test, list)).join("\n\n");
}
