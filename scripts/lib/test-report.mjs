/** The report of `npm test`: a line a file, failures in full, and at the end the numbers and every skipped test. */
import path from "node:path";
import { inspect } from "node:util";

export class TestReport {
  #directory;
  #files = new Map();
  #failures = [];
  #skipped = [];
  #started = performance.now();

  /** `directory`: what file names are shown relative to. */
  constructor(directory) {
    this.#directory = directory;
  }

  event(type, data) {
    if (type === "test:stderr" || type === "test:stdout") return;
    if (type !== "test:pass" && type !== "test:fail") return;
    const file = path.relative(this.#directory, data.file ?? data.name);
    // A file is a test of its own around its tests; it counts only if it failed by itself.
    const isFile = data.nesting === 0 && (data.file === undefined || data.name === data.file);
    const isSuite = data.details?.type === "suite";
    const numbers = this.#numbers(file);
    if (type === "test:fail") {
      const cause = data.details.error?.cause ?? data.details.error;
      // A suite fails because of its tests, which are reported themselves.
      if (data.details.error?.failureType === "subtestsFailed") return;
      numbers.failed++;
      this.#failures.push({ file, name: data.name, cause });
      console.log(`FAIL  ${file}: ${data.name}`);
    } else if (data.skip !== undefined && data.skip !== false) {
      numbers.skipped++;
      this.#skipped.push({ file, name: data.name, reason: data.skip === true ? "" : data.skip });
    } else if (!isFile && !isSuite) numbers.passed++;
  }

  #numbers(file) {
    let numbers = this.#files.get(file);
    if (numbers === undefined) {
      numbers = { passed: 0, failed: 0, skipped: 0 };
      this.#files.set(file, numbers);
    }
    return numbers;
  }

  /** Print the summary; returns the exit status. */
  finish() {
    const totals = { passed: 0, failed: 0, skipped: 0 };
    for (const [file, numbers] of [...this.#files].sort()) {
      for (const key of Object.keys(totals)) totals[key] += numbers[key];
      const { passed, failed, skipped } = numbers;
      const extra = `${failed > 0 ? `, ${failed} failed` : ""}${skipped > 0 ? `, ${skipped} skipped` : ""}`;
      console.log(`${failed > 0 ? "FAIL" : "ok  "}  ${file}  ${passed} passed${extra}`);
    }
    for (const { file, name, cause } of this.#failures) {
      console.log(`\nFAIL  ${file}: ${name}\n${typeof cause === "string" ? cause : inspect(cause)}`);
    }
    if (this.#skipped.length > 0) console.log("\nSkipped:");
    for (const { file, name, reason } of this.#skipped) console.log(`  ${file}: ${name}: ${reason}`);
    const seconds = ((performance.now() - this.#started) / 1000).toFixed(1);
    console.log(
      `\n${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped in ${this.#files.size} files, ` +
        `${seconds} s, Node ${process.versions.node}`,
    );
    return totals.failed > 0 ? 1 : 0;
  }
}
