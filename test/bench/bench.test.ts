/** What the bench concludes from what it measured: a wrong result is never a good one, and what counts is what the issue asks for. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { GROUPS, JobReader, runScript } from "../../bench/jobs.js";
import type { Reach } from "../../bench/rows.js";
import { reportRow, tableText } from "../../bench/table.js";
import { BENCH_TEXT_BYTES, benchText } from "../../bench/text.js";

const OWN = ["NLKT auto", "NLKT cold"];
const PEER = "QEMU TCG";
const NATIVE = "native";

function row(
  reach: Reach | undefined,
  values: Record<string, number[]>,
  sums: Record<string, string[]> = {},
) {
  const line = { name: "x", unit: "s", ...(reach === undefined ? {} : { reach }) } as const;
  return reportRow(
    { line, samples: new Map(Object.entries(values)), sums: new Map(Object.entries(sums)) },
    OWN,
    PEER,
    NATIVE,
  );
}

test("medians, and their ratio to the peer's", () => {
  const { sides, ratios } = row(undefined, {
    "NLKT auto": [3, 1, 2],
    "NLKT cold": [8, 6],
    "QEMU TCG": [4, 9, 2],
  });
  assert.deepEqual(sides["NLKT auto"], { median: 2, min: 1, max: 3 });
  assert.deepEqual(sides["NLKT cold"], { median: 7, min: 6, max: 8 });
  assert.deepEqual(ratios, { "NLKT auto": 0.5, "NLKT cold": 1.75 });
});

test("a ratio is reached by NLKT's first side; without a peer nothing is said", () => {
  const reach = { ratio: 1.5 };
  assert.equal(row(reach, { "NLKT auto": [3], "QEMU TCG": [2] }).reached, true);
  assert.equal(row(reach, { "NLKT auto": [3.1], "NLKT cold": [1], "QEMU TCG": [2] }).reached, false);
  assert.equal(row(reach, { "NLKT auto": [3] }).reached, undefined);
});

test("a value is reached without a peer, too", () => {
  assert.equal(row({ value: 2 }, { "NLKT auto": [2] }).reached, true);
  assert.equal(row({ value: 2 }, { "NLKT auto": [2.1], "QEMU TCG": [9] }).reached, false);
});

test("wrong results: native's count, else the peer's; a row that has them is not reached", () => {
  const values = { "NLKT auto": [1, 1], "QEMU TCG": [2, 2], native: [1, 1] };
  const right = { "NLKT auto": ["a", "a"], "QEMU TCG": ["a", "a"], native: ["a", "a"] };
  assert.equal(row({ ratio: 1 }, values, right).wrong, undefined);
  const once = row({ ratio: 1 }, values, { ...right, "NLKT auto": ["a", "b"] });
  assert.equal(once.wrong, "the results of NLKT auto differ from those of native");
  assert.equal(once.reached, false);
  const { native: _, ...others } = right;
  const theirs = row({ ratio: 1 }, values, { ...others, "QEMU TCG": ["c", "c"] });
  assert.equal(theirs.wrong, "the results of NLKT auto differ from those of QEMU TCG");
});

test("the table has a line a row, with its mark", () => {
  const machine = {
    cpu: "A CPU",
    cores: 2,
    memoryGiB: 8,
    os: "an OS",
    kernel: "6",
    node: "20",
    qemu: "7.2",
    load: 0,
  };
  const rows = [
    row({ ratio: 1 }, { "NLKT auto": [1], "QEMU TCG": [2] }),
    row({ ratio: 0.1 }, { "NLKT auto": [1], "QEMU TCG": [2] }),
  ];
  const text = tableText(machine, ["NLKT auto", PEER], ["NLKT auto"], 1, rows);
  assert.match(text, /^A CPU, 2 cores, 8 GiB; an OS, Linux 6\nNode 20; QEMU 7\.2\n/);
  assert.match(text, /^x, s +1\.00 +2\.00 +0\.50 {2}≤ 1\.0 × QEMU TCG {2}ok$/m);
  assert.match(text, /^x, s +1\.00 +2\.00 +0\.50 {2}≤ 0\.1 × QEMU TCG {2}short$/m);
  assert.doesNotMatch(text, /not idle/);
  assert.match(tableText({ ...machine, load: 3 }, [PEER], [], 1, rows), /was not idle \(load 3\)/);
});

test("a job's time, checked against the host's clock", () => {
  const reader = new JobReader();
  reader.line("@bench begin sort");
  reader.line("what the job prints");
  reader.line("@bench end sort 0 1000 900\r");
  reader.line("@bench sum sort abc");
  assert.equal(reader.done, false);
  reader.line("@bench done");
  assert.deepEqual(reader.samples, [{ name: "sort", seconds: 0.0009, sum: "abc" }]);
  assert.equal(reader.done, true);
  reader.line("@bench begin sort");
  assert.throws(() => reader.line("@bench end sort 0 9000000 9000000"), /by the guest's clock/);
  reader.line("@bench begin sort");
  assert.throws(() => reader.line("@bench end sort 3 1000 1000"), /sort ended with status 3/);
});

test("each job of a group is in its script, and has a name of its own", () => {
  const names = GROUPS.flatMap(({ jobs }) => jobs.map(({ name }) => name));
  assert.equal(new Set(names).size, names.length);
  for (const { jobs } of GROUPS) {
    for (const { name } of jobs) assert.match(runScript(jobs), new RegExp(`^job ${name}$`, "m"));
  }
});

test("the text is the same in every run", () => {
  const text = benchText();
  assert.equal(text.length, BENCH_TEXT_BYTES);
  assert.equal(
    createHash("sha256").update(text).digest("hex"),
    createHash("sha256").update(benchText()).digest("hex"),
  );
});
