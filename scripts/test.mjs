/**
 * `npm test`: install, build, run the tests. `npm test -- WORD...` runs the test files whose path contains a WORD.
 */
import { readdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import path from "node:path";
import { run } from "node:test";
import { pathToFileURL } from "node:url";
import { build, install, ROOT } from "./lib/prepare.mjs";
import { TestReport } from "./lib/test-report.mjs";

/** A test that is not done by then hangs. */
const TIMEOUT_MILLISECONDS = 10 * 60 * 1000;

install();
await build();

// Locks are validated everywhere: in the tests' own processes and Workers, and in the machines that they start.
const validateLocks = pathToFileURL(path.join(ROOT, "dist/test/validate-locks.js"));
process.env.NODE_OPTIONS = `${process.env.NODE_OPTIONS ?? ""} --import=${validateLocks}`;
process.env.NLKT_LOCKDEP = "1";

const words = process.argv.slice(2);
const tests = path.join(ROOT, "dist/test");
const files = readdirSync(tests, { recursive: true })
  .filter(
    (file) => file.endsWith(".test.js") && (words.length === 0 || words.some((word) => file.includes(word))),
  )
  .map((file) => path.join(tests, file))
  .sort();
if (files.length === 0) {
  console.error("no test files match");
  process.exit(2);
}

const report = new TestReport(tests);
const stream = run({ files, concurrency: availableParallelism(), timeout: TIMEOUT_MILLISECONDS });
for await (const { type, data } of stream) report.event(type, data);
process.exit(report.finish());
