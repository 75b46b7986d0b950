// npm run fuzz:isa -- --seconds N [--seed S] [--filter MNEMONIC]: the software CPU's instructions against the host's CPU.
import { parseArgs } from "node:util";
import { build, install } from "./lib/prepare.mjs";

const USAGE = "usage: npm run fuzz:isa -- [--seconds N] [--seed S] [--filter MNEMONIC]";

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
build();
const { nativeUnavailable } = await import("../dist/test/oracle/native-cpu.js");
const unavailable = nativeUnavailable();
if (unavailable !== undefined) {
  console.log(`skipped: ${unavailable}`);
  process.exit(0);
}
const { Fuzzer } = await import("../dist/test/oracle/fuzzer.js");
const { reportAll } = await import("../dist/test/oracle/campaign.js");
const { describeForm } = await import("../dist/test/oracle/forms.js");

const filter = values.filter === undefined ? undefined : new RegExp(`^(${values.filter})$`, "i");
const fuzzer = new Fuzzer(seed, filter);
if (fuzzer.forms.length === 0) usage(`--filter ${values.filter}: no such mnemonic`);

const CASES_A_ROUND = 100;
const TOLD = 20;
console.log(`seed ${seed}, ${fuzzer.forms.length} forms, ${seconds} s`);
const start = performance.now();
const failed = new Map();
let round = 0;
let shown = start;
const elapsed = () => (performance.now() - start) / 1000;

function note(name, failures) {
  if (failures.length === 0 || failed.has(name)) return;
  failed.set(name, failures);
  if (failed.size <= TOLD) console.log(`\n${reportAll(failures)}\n`);
}

outer: for (;;) {
  round++;
  for (const form of fuzzer.forms) {
    if (elapsed() > seconds) break outer;
    note(describeForm(form), fuzzer.form(form, CASES_A_ROUND));
    if (performance.now() - shown > 5000) {
      shown = performance.now();
      const { cases } = fuzzer.campaign;
      console.log(`${elapsed().toFixed(0)} s: round ${round}, ${cases} cases, ${failed.size} forms differ`);
    }
  }
  if (fuzzer.hasBlocks) note(`blocks in round ${round}`, fuzzer.blocks(20 * CASES_A_ROUND));
}

const { cases } = fuzzer.campaign;
console.log(`${cases} cases in ${elapsed().toFixed(0)} s, seed ${seed}: ${failed.size} forms differ`);
for (const name of failed.keys()) console.log(`  ${name}`);
process.exit(failed.size === 0 ? 0 : 1);
