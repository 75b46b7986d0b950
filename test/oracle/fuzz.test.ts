/**
 * Every form of every opcode table's row against the host's own CPU. `NLKT_FUZZ_CASES` sets the cases a form (100: hundreds a row),
 * `NLKT_FUZZ_SEED` the seed (1); `npm run fuzz:isa` runs longer.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { reportAll } from "./campaign.js";
import { exclusion } from "./exclusions.js";
import { describeForm, type Form, formsOf } from "./forms.js";
import { Fuzzer } from "./fuzzer.js";
import { nativeUnavailable } from "./native-cpu.js";
import { TIERS } from "./soft-cpu.js";
import { TABLES } from "./tables.js";

const CASES = Number(process.env.NLKT_FUZZ_CASES ?? 100);
const SEED = Number(process.env.NLKT_FUZZ_SEED ?? 1);
const BLOCKS = 20 * CASES;
/** For each of CASES; the hot tier compiles each of them anew. */
const BLOCKS_HOT = 2;
const PROGRAMS = { cold: 4, hot: 1, warm: 3 };
/** 16-bit code shares its definitions with 32-bit code: fewer cases do. */
const casesOf = (form: Form) => (form.bitness === 16 ? Math.ceil(CASES / 3) : CASES);
/** Failures told of in full, one a form. */
const TOLD = 10;

const unavailable = nativeUnavailable();
const fuzzer = unavailable === undefined ? new Fuzzer(SEED) : undefined;

for (const [name, rows] of Object.entries(TABLES)) {
  test(`${name} instructions against the host's CPU`, { skip: unavailable ?? false }, () => {
    const own = new Set(rows);
    const failures = fuzzer!.forms
      .filter((form) => own.has(form.row))
      .flatMap((form) => fuzzer!.form(form, casesOf(form)));
    assert.equal(
      failures.length,
      0,
      `${failures.length} forms differ:\n${reportAll(failures.slice(0, TOLD))}`,
    );
  });
}

test("random blocks and loops against the host's CPU", { skip: unavailable ?? false }, () => {
  const failures = fuzzer!.blocks(BLOCKS, TOLD);
  assert.equal(failures.length, 0, reportAll(failures));
});

for (const tier of TIERS) {
  test(`random programs against the host's CPU, tier ${tier}`, { skip: unavailable ?? false }, () => {
    const failures = fuzzer!.programs(PROGRAMS[tier] * CASES, tier, TOLD);
    assert.equal(failures.length, 0, reportAll(failures));
  });
}

for (const tier of ["hot", "warm"] as const) {
  test(`random blocks and loops on the hot tier (${tier})`, { skip: unavailable ?? false }, () => {
    const failures = fuzzer!.blocks(BLOCKS_HOT * CASES, TOLD, tier);
    assert.equal(failures.length, 0, reportAll(failures));
  });
}

test("every row of every table is compared or says why not", () => {
  const silent = Object.values(TABLES)
    .flat()
    .filter((row) => {
      const forms = formsOf(row);
      return forms.length === 0 || forms.some((form) => exclusion(form) === "");
    });
  assert.deepEqual(
    silent.map((row) => `${row.encoding} ${row.mnemonic}`),
    [],
  );
});

test("most cases run to their end", { skip: unavailable ?? false }, () => {
  // Random operands that nearly always fault would test nothing else.
  const { cases, completed } = fuzzer!.campaign;
  assert.ok(completed > 0.7 * cases, `${completed} of ${cases}`);
  const excluded = Object.values(TABLES)
    .flat()
    .flatMap(formsOf)
    .filter((form) => exclusion(form) !== undefined);
  assert.ok(excluded.length < 0.1 * fuzzer!.forms.length, excluded.map(describeForm).join("\n"));
});
