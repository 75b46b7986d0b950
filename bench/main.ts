/**
 * `npm run bench`: one table, each row NLKT beside QEMU's software CPU (TCG) and the host's own, in the same run on the same
 * machine. The sides take turns, so that what else the machine does hits all.
 */
import { parseArgs } from "node:util";
import { makeGuests } from "./guests.js";
import { describeMachine } from "./machine.js";
import { qemuVersion, startNlkt, startQemu } from "./peers.js";
import { type Line, ROWS, type Row, type Sample } from "./rows.js";
import { printTable, type Result, reportRow } from "./table.js";

const HELP = `npm run bench -- [--runs N] [--only WORD]... [--tier auto|hot|cold]... [--no-native] [--json] [--list]`;
const NATIVE = "native";
const QEMU_SIDE = "QEMU TCG";

const options = readOptions();
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
let lastMessage = "";
/** A message comes again with each number of bytes that are done. */
function progress(message: string): void {
  if (message !== lastMessage) process.stderr.write(`bench: ${message}\n`);
  lastMessage = message;
}
const machine = describeMachine(qemuVersion());
const guests = makeGuests(progress);
const own = options.tier.map((tier) => `NLKT ${tier}`);
const sides = new Map<string, Measure>();
for (const [index, tier] of options.tier.entries()) {
  sides.set(own[index], (row, lines) => row.measure(startNlkt(tier), guests, lines));
}
if (machine.qemu !== undefined) {
  sides.set(QEMU_SIDE, (row, lines) => (row.hasPeer ? row.measure(startQemu, guests, lines) : undefined));
}
if (!options["no-native"]) sides.set(NATIVE, (row, lines) => row.native?.(guests, lines));

function readOptions() {
  try {
    return parseArgs({
      options: {
        runs: { type: "string", default: "5" },
        tier: { type: "string", multiple: true, default: ["auto"] },
        only: { type: "string", multiple: true, default: [] },
        "no-native": { type: "boolean", default: false },
        json: { type: "boolean", default: false },
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
else printTable(machine, [...sides.keys()], own, runs, rows);
process.exit(failed ? 1 : 0);
