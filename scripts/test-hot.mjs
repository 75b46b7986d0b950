/**
 * `npm run test:hot [-- --short] [--tier hot|cold]`: tests of the software CPU with the hot tier forced on from the first
 * execution of all code, then with it off: the oracle, the bare-metal guests, Debian's kernels, the userland. What they run on
 * otherwise is `--tier auto`. `--short`: a part of them that is done within a minute or so.
 */
import { readdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import path from "node:path";
import { run } from "node:test";
import { parseArgs } from "node:util";
import { build, install, ROOT } from "./lib/prepare.mjs";
import { TestReport } from "./lib/test-report.mjs";

const USAGE = "usage: npm run test:hot -- [--short] [--tier hot|cold]";
/** A test that is not done by then hangs; to translate all code of a kernel takes a while. */
const TIMEOUT_MILLISECONDS = 30 * 60 * 1000;
/** What is in a tier's pass: parts of test files' paths. */
const FULL = ["oracle/fuzz.", "oracle/regressions.", "guests/", "guest/", "userland/"];
const SHORT = [
  "oracle/fuzz.",
  "oracle/regressions.",
  "guests/",
  "guest/small-kernel.",
  "guest/default-guest.",
];
/** The tests choose their tiers themselves. */
const OWN_TIERS = ["guests/code-leak."];
/** NLKT_FUZZ_CASES of a short run, a tenth of the usual. */
const SHORT_CASES = "10";

let options;
try {
  options = parseArgs({
    options: { short: { type: "boolean", default: false }, tier: { type: "string" } },
  }).values;
} catch (error) {
  usage(error.message);
}
const tiers = options.tier === undefined ? ["hot", "cold"] : [options.tier];
if (!tiers.every((tier) => tier === "hot" || tier === "cold")) usage(`--tier ${options.tier}: no such tier`);

function usage(problem) {
  console.error(`${problem}\n${USAGE}`);
  process.exit(2);
}

install();
await build();

const tests = path.join(ROOT, "dist/test");
const words = options.short ? SHORT : FULL;
const files = readdirSync(tests, { recursive: true })
  .filter((file) => file.endsWith(".test.js") && words.some((word) => file.startsWith(word)))
  .filter((file) => !OWN_TIERS.some((word) => file.startsWith(word)))
  .sort();

if (options.short) process.env.NLKT_FUZZ_CASES ??= SHORT_CASES;
let status = 0;
for (const tier of tiers) {
  console.log(`--tier ${tier}:`);
  process.env.NLKT_TEST_TIER = tier;
  const report = new TestReport(tests);
  const stream = run({
    // The cold tier is what the oracle runs on anyway; booting without the hot tier is slow.
    files: files
      .filter((file) => tier === "hot" || !options.short || file.startsWith("guests/"))
      .map((file) => path.join(tests, file)),
    concurrency: availableParallelism(),
    timeout: TIMEOUT_MILLISECONDS,
  });
  for await (const { type, data } of stream) report.event(type, data);
  // Told in any case.
  status = Math.max(status, report.finish());
}
process.exit(status);
