/** In the lab: the tests that need KVM. Arguments: WORDs of which a test file's path has to contain one, or `--short`. */
import { mkdtempSync, readdirSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import path from "node:path";
import { run } from "node:test";
import { ROOT } from "../lib/prepare.mjs";
import { TestReport } from "../lib/test-report.mjs";
import { ALIVE, ALIVE_MILLISECONDS } from "./alive.mjs";

/** A file that is not done by then hangs. */
const TIMEOUT_MILLISECONDS = 20 * 60 * 1000;

/** Groups, one after the other; files of a group run at the same time, but where times are measured. */
const GROUPS = [
  // All in one process: each would be longer at loading than at its tests.
  { files: /^guests\//, together: true, concurrency: 1 },
  {
    files: /^(hypervisor\/kvm\/|lab\/(bare-metal|exceptions)|oracle\/kvm-fuzz)/,
    concurrency: availableParallelism(),
  },
  { files: /^lab\/lifecycle/, concurrency: 1 },
  { files: /^lab\/boots/, concurrency: 1 },
];

/** What the guests of test/guests run on (support/provider.ts). */
process.env.NLKT_GUESTS = "kvm";
process.env.NO_COLOR = "1";
// The lab's processors are slow.
process.env.NLKT_FUZZ_CASES ??= "1";

const SHORT = "--short";
/** With --short: of the guests those that ask the provider more than the processor. */
const SHORT_FILES = /^(guests\/(start-up|apic|wake-up)\.|lab\/)/;

/** Guests that are of the software CPU only. */
const SOFT_FILES = /^guests\/(code-leak|latency)\./;

const tests = path.join(ROOT, "dist/test");
const words = process.argv.slice(2).filter((word) => word !== SHORT);
const short = process.argv.includes(SHORT);
if (short) {
  process.env.NLKT_LAB_SHORT = "1";
  process.env.NLKT_TEST_KILLS ??= "2";
}
const all = readdirSync(tests, { recursive: true }).filter(
  (file) =>
    file.endsWith(".test.js") &&
    !SOFT_FILES.test(file) &&
    (!short || SHORT_FILES.test(file)) &&
    (words.length === 0 || words.some((word) => file.includes(word))),
);

/** A file that imports them all. */
function oneFile(files) {
  const file = path.join(mkdtempSync(path.join(tmpdir(), "nlkt-lab-")), "all.test.mjs");
  writeFileSync(file, files.map((name) => `await import(${JSON.stringify(name)});\n`).join(""));
  return file;
}

setInterval(() => console.log(ALIVE), ALIVE_MILLISECONDS);

const report = new TestReport(tests);
for (const { files, concurrency, together = false } of GROUPS) {
  const chosen = all.filter((file) => files.test(file)).map((file) => path.join(tests, file));
  if (chosen.length === 0) continue;
  for await (const { type, data } of run({
    files: together ? [oneFile(chosen.sort())] : chosen.sort(),
    concurrency,
    timeout: TIMEOUT_MILLISECONDS,
  })) {
    // Numbers that a test measured; node:test's own summary of a file comes at level 0.
    if (type === "test:diagnostic" && data.nesting > 0) console.log(`      ${data.message}`);
    // At once, should the lab come to its end before the report.
    if (type === "test:fail" && data.details.error?.failureType !== "subtestsFailed") {
      console.log(`      failed: ${data.name}`);
    }
    report.event(type, data);
  }
}
process.exit(report.finish());
