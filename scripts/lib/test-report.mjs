/** The report of `npm test`: a line a file, failures in full, and at the end the numbers and every skipped test. */
import path from "node:path";
import { inspect } from "node:util";

/** Of what a test file writes to standard error, this much is shown where it fails. */
const STDERR_CHARACTERS = 4000;

export class TestReport {
  #directory;
  #totals = { passed: 0, failed: 0, skipped: 0, files: 0 };
  #failures = [];
  #skipped = [];
  #stderr = new Map();
  /** The file whose events come in; they come file by file. */
  #current;
  #started = performance.now();

  /** `directory`: what file names are shown relative to. */
  constructor(directory) {
    this.#directory = directory;
  }

  event(type, data) {
    if (type === "test:stderr") {
      const text = (this.#stderr.get(data.file) ?? "") + data.message;
      this.#stderr.set(data.file, text.slice(-STDERR_CHARACTERS));
    } else if (type === "test:pass" || type === "test:fail") this.#result(type === "test:pass", data);
  }

  #result(passed, data) {
    const { name, details, skip, nesting } = data;
    const file = data.file ?? name;
    const numbers = this.#numbers(file);
    // Files and suites come as tests around their tests; they count only where they fail by themselves.
    const isFile = nesting === 0 && name === file;
    if (!passed) {
      if (details.error?.failureType === "subtestsFailed") return;
      numbers.failed++;
      const cause = details.error?.cause ?? details.error;
      this.#failures.push({ file, name: isFile ? "(the file itself)" : name, cause });
    } else if (skip !== undefined && skip !== false) {
      numbers.skipped++;
      this.#skipped.push({ file, name, reason: skip === true ? "no reason given" : skip });
    } else if (!isFile && details?.type !== "suite") numbers.passed++;
  }

  #numbers(file) {
    if (this.#current?.file !== file) {
      this.#endFile();
      this.#current = { file, passed: 0, failed: 0, skipped: 0 };
    }
    return this.#current;
  }

  #endFile() {
    if (this.#current === undefined) return;
    const { file, passed, failed, skipped } = this.#current;
    const extra = `${failed > 0 ? `, ${failed} failed` : ""}${skipped > 0 ? `, ${skipped} skipped` : ""}`;
    console.log(`${failed > 0 ? "FAIL" : "ok  "}  ${this.#short(file)}  ${passed} passed${extra}`);
    this.#totals.passed += passed;
    this.#totals.failed += failed;
    this.#totals.skipped += skipped;
    this.#totals.files++;
  }

  #short(file) {
    return path.relative(this.#directory, file);
  }

  /** Print the summary; returns the exit status. */
  finish() {
    this.#endFile();
    for (const { file, name, cause } of this.#failures) {
      console.log(`\nFAIL  ${this.#short(file)}: ${name}`);
      console.log(typeof cause === "string" ? cause : inspect(cause));
      const stderr = this.#stderr.get(file);
      if (stderr !== undefined) console.log(stderr.trimEnd());
    }
    if (this.#skipped.length > 0) console.log("\nSkipped:");
    for (const { file, name, reason } of this.#skipped)
      console.log(`  ${this.#short(file)}: ${name}: ${reason}`);
    const { passed, failed, skipped, files } = this.#totals;
    const seconds = ((performance.now() - this.#started) / 1000).toFixed(1);
    console.log(
      `\n${passed} passed, ${failed} failed, ${skipped} skipped in ${files} files, ${seconds} s, ` +
        `Node ${process.versions.node}`,
    );
    return failed > 0 ? 1 : 0;
  }
}
