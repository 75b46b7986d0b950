/**
 * `npm run bench`: one table, each row NLKT beside QEMU's software CPU (TCG) and the host's own, in the same run on the same
 * machine. The sides take turns, so that what else the machine does hits all.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { makeGuests, Unavailable } from "./guests.js";
import { describeMachine } from "./machine.js";
import { qemuVersion, startNlkt, startQemu } from "./peers.js";
import { type Line, ROWS, type Row, type Sample } from "./rows.js";
import { type Result, reportRow, tableText } from "./table.js";

const HELP = `npm run bench -- [--runs N] [--only WORD]... [--tier auto|hot|cold]... [--accel soft|kvm] [--no-native] [--json] [--save] [--list]

  --runs N       times that each side does each row; the table has the medians (default 5)
  --only WORD    rows whose name, or group's name, has WORD in it
  --tier TIER    NLKT's tiers; the first is the one that counts (default auto)
  --accel ACCEL  soft against QEMU's TCG (default), or kvm against QEMU with KVM
  --no-native    without the host's own CPU
  --json         all values, for programs
  --save         put the table into docs/performance.md, too
  --list         the rows' names`;
const NATIVE = "native";

const options = readOptions();
const accel = options.accel === "kvm" ? "kvm" : "soft";
if (options.accel !== accel) wrongUsage(`--accel ${options.accel}: soft and kvm are possible`);
const QEMU_SIDE = accel === "kvm" ? "QEMU KVM" : "QEMU TCG";
if (options.help) {
  console.log(HELP);
  process.exit(0);
}
if (options.list) {
  for (const { lines } of ROWS) for (const { name } of lines) console.log(name);
  process.exit(0);
}
const runs = Number(options.runs);
if (!Number.isInteger(runs) || runs < 1) wrongUsage(`--runs ${options.runs}: not a number of runs`);

/** A row is chosen by its name or a line's. */
function chosen({ name, lines }: Row): readonly Line[] {
  const matches = (text: string) =>
    options.only.length === 0 || options.only.some((word) => text.includes(word));
  return matches(name) ? lines : lines.filter((line) => matches(line.name));
}

type Measure = (row: Row, lines: readonly Line[]) => Promise<Sample[]> | undefined;
const told = new Set<string>();
/** A message comes again with each number of bytes that are done, and those of several fetches take turns. */
function progress(message: string): void {
  if (!told.has(message)) process.stderr.write(`bench: ${message}\n`);
  told.add(message);
}
const machine = describeMachine(qemuVersion());
const guests = makeGuests(progress);
const tiers = accel === "soft" ? options.tier : ["kvm"];
const own = tiers.map((tier) => `NLKT ${tier}`);
const sides = new Map<string, Measure>();
for (const [index, tier] of tiers.entries()) {
  sides.set(own[index], (row, lines) => row.measure(startNlkt(accel, tier), guests, lines));
}
if (machine.qemu !== undefined) {
  sides.set(QEMU_SIDE, (row, lines) =>
    row.hasPeer ? row.measure(startQemu(accel), guests, lines) : undefined,
  );
}
if (!options["no-native"]) sides.set(NATIVE, (row, lines) => row.native?.(guests, lines));

function readOptions() {
  try {
    return parseArgs({
      options: {
        runs: { type: "string", default: "5" },
        tier: { type: "string", multiple: true, default: ["auto"] },
        only: { type: "string", multiple: true, default: [] },
        accel: { type: "string", default: "soft" },
        "no-native": { type: "boolean", default: false },
        json: { type: "boolean", default: false },
        save: { type: "boolean", default: false },
        list: { type: "boolean", default: false },
        help: { type: "boolean", default: false },
      },
    }).values;
  } catch (error) {
    return wrongUsage((error as Error).message);
  }
}

function wrongUsage(message: string): never {
  console.error(`bench: ${message}\n${HELP}`);
  process.exit(2);
}

/** This file runs as dist/bench/main.js. */
const DOCUMENT = fileURLToPath(new URL("../../docs/performance.md", import.meta.url));
/** What stands around the table there. */
const BEGIN = "<!-- table of npm run bench -- --save -->\n";
const END = "<!-- end of the table -->\n";

function save(text: string): void {
  const document = readFileSync(DOCUMENT, "utf8");
  const from = document.indexOf(BEGIN);
  const to = document.indexOf(END);
  if (from < 0 || to < from) throw new Error(`${DOCUMENT} has no place for the table`);
  const date = new Date().toISOString().slice(0, 10);
  const block = `\nMeasured on ${date}:\n\n\`\`\`text\n${text}\n\`\`\`\n\n`;
  writeFileSync(DOCUMENT, document.slice(0, from) + BEGIN + block + document.slice(to));
}

let failed = false;
const results: Result[] = [];
/** Why a side that is no NLKT is left out, told once each. */
const leftOut = new Set<string>();

async function measure(row: Row): Promise<void> {
  const lines = chosen(row);
  if (lines.length === 0) return;
  const added = new Map(
    lines.map((line) => [line.name, { line, samples: new Map(), sums: new Map() } as Result]),
  );
  for (let run = 0; run < runs; run++) {
    for (const [side, run1] of sides) {
      if (process.stderr.isTTY)
        process.stderr.write(`\r\x1b[K${row.name}: run ${run + 1} of ${runs}, ${side}`);
      try {
        for (const { name, value, sum } of (await run1(row, lines)) ?? []) {
          const { samples, sums } = added.get(name)!;
          samples.set(side, [...(samples.get(side) ?? []), value]);
          if (sum !== undefined) sums.set(side, [...(sums.get(side) ?? []), sum]);
        }
      } catch (error) {
        if (error instanceof Unavailable) {
          console.error(`bench: without ${row.name}: ${error.message}`);
          return;
        }
        const message = `${row.name}, ${side}: ${(error as Error).message}`;
        failed ||= own.includes(side);
        if (own.includes(side) || !leftOut.has(message)) console.error(`bench: ${message}`);
        leftOut.add(message);
      }
    }
  }
  results.push(...added.values());
}

for (const row of ROWS) await measure(row);
if (process.stderr.isTTY) process.stderr.write("\r\x1b[K");
if (results.length === 0) wrongUsage(`--only ${options.only.join(" ")}: no row of that name; see --list`);

const rows = results.map((result) => reportRow(result, own, QEMU_SIDE, NATIVE));
for (const { name, wrong } of rows) if (wrong !== undefined) console.error(`bench: ${name}: ${wrong}`);
if (rows.some(({ wrong }) => wrong !== undefined)) failed = true;
if (options.json) console.log(JSON.stringify({ machine, runs, rows }, null, 2));
const text = tableText(machine, [...sides.keys()], own, runs, rows);
if (!options.json) console.log(text);
if (options.save) save(text);
process.exit(failed ? 1 : 0);
