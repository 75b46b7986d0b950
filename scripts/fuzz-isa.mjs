// npm run fuzz:isa -- --seconds N [--seed S] [--filter MNEMONIC] [--programs] [--tier cold|hot|warm]: the software CPU's
// instructions, random blocks and random programs against the host's CPU; with --programs, these two only.
import { parseArgs } from "node:util";
import { build, install } from "./lib/prepare.mjs";

const USAGE =
  "usage: npm run fuzz:isa -- [--seconds N] [--seed S] [--filter MNEMONIC] [--programs] [--tier cold|hot|warm]";

function usage(problem) {
  console.error(`${problem}\n${USAGE}`);
  process.exit(2);
}

let values;
try {
  ({ values } = parseArgs({
    options: {
      seconds: { type: "string", default: "60" },
      seed: { type: "string", default: String(Date.now() % 2 ** 31) },
      filter: { type: "string" },
      programs: { type: "boolean", default: false },
      tier: { type: "string" },
    },
  }));
} catch (error) {
  usage(error.message);
}
const seconds = Number(values.seconds);
const seed = Number(values.seed);
if (!(seconds > 0)) usage(`--seconds ${values.seconds}: not a positive number`);
if (!Number.isInteger(seed)) usage(`--seed ${values.seed}: not an integer`);

install();
await build();
const { nativeUnavailable } = await import("../dist/test/oracle/native-cpu.js");
const unavailable = nativeUnavailable();
if (unavailable !== undefined) {
  console.log(`skipped: ${unavailable}`);
  process.exit(0);
}
const { TIERS } = await import("../dist/test/oracle/soft-cpu.js");
if (values.tier !== undefined && !TIERS.includes(values.tier)) usage(`--tier ${values.tier}: no such tier`);
const { Fuzzer } = await import("../dist/test/oracle/fuzzer.js");
const { reportAll } = await import("../dist/test/oracle/campaign.js");
const { describeForm } = await import("../dist/test/oracle/forms.js");

const filter = values.filter === undefined ? undefined : new RegExp(`^(${values.filter})$`, "i");
const fuzzer = new Fuzzer(seed, filter);
const tiers = values.tier === undefined ? TIERS : [values.tier];
if (fuzzer.forms.length === 0) usage(`--filter ${values.filter}: no such mnemonic`);

const CASES_A_ROUND = 100;
const TOLD = 20;
console.log(`seed ${seed}, ${fuzzer.forms.length} forms, ${seconds} s`);
const start = performance.now();
const failed = new Map();
let round = 0;
/** Blocks and programs. */
let ran = 0;
let shown = start;
const elapsed = () => (performance.now() - start) / 1000;

function note(name, failures) {
  if (failures.length === 0 || failed.has(name)) return;
  failed.set(name, failures);
  if (failed.size <= TOLD) console.log(`\n${reportAll(failures)}\n`);
}

outer: for (;;) {
  round++;
  for (const form of values.programs ? [] : fuzzer.forms) {
    if (elapsed() > seconds) break outer;
    note(describeForm(form), fuzzer.form(form, CASES_A_ROUND));
    if (performance.now() - shown > 5000) {
      shown = performance.now();
      const { cases } = fuzzer.campaign;
      console.log(`${elapsed().toFixed(0)} s: round ${round}, ${cases} cases, ${failed.size} forms differ`);
    }
  }
  if (!fuzzer.hasBlocks) continue;
  for (const tier of tiers) {
    if (elapsed() > seconds) break outer;
    const count = tier === "cold" ? 10 * CASES_A_ROUND : CASES_A_ROUND;
    note(`blocks in round ${round}, ${tier}`, fuzzer.blocks(count, 1, tier));
    note(`programs in round ${round}, ${tier}`, fuzzer.programs(count, tier));
    ran += 2 * count;
  }
  if (values.programs && performance.now() - shown > 5000) {
    shown = performance.now();
    console.log(
      `${elapsed().toFixed(0)} s: round ${round}, ${ran} blocks and programs, ${failed.size} rounds differ`,
    );
  }
}

const { cases } = fuzzer.campaign;
console.log(
  `${cases} cases, ${ran} blocks and programs in ${elapsed().toFixed(0)} s, seed ${seed}: ${failed.size} forms differ`,
);
for (const name of failed.keys()) console.log(`  ${name}`);
process.exit(failed.size === 0 ? 0 : 1);
