/**
 * `npm run bench`: one table, each row NLKT beside QEMU's software CPU (TCG), in the same run on the same machine. The two
 * take turns, so that what else the machine does hits both.
 */
import { parseArgs } from "node:util";
import { makeGuests } from "./guests.js";
import { describeMachine } from "./machine.js";
import { qemuVersion, type Start, startNlkt, startQemu } from "./peers.js";
import { ROWS, type Sample } from "./rows.js";
import { printTable, QEMU_SIDE, type Result, statistics } from "./table.js";

const HELP = `npm run bench -- [--runs N] [--tier cold|hot|auto]... [--only WORD] [--json]`;

const options = readOptions();
if (options.help) {
  console.log(HELP);
  process.exit(0);
}
const runs = Number(options.runs);
if (!Number.isInteger(runs) || runs < 1) {
  wrongUsage(`--runs ${options.runs}: not a number of runs`);
}

const machine = describeMachine(qemuVersion());
const guests = await makeGuests();
const sides: readonly (readonly [name: string, start: Start])[] = [
  ...options.tier.map((tier) => [`NLKT ${tier}`, startNlkt(tier)] as const),
  ...(machine.qemu === undefined ? [] : ([[QEMU_SIDE, startQemu]] as const)),
];

function readOptions() {
  try {
    return parseArgs({
      options: {
        runs: { type: "string", default: "5" },
        tier: { type: "string", multiple: true, default: ["auto", "cold"] },
        only: { type: "string", default: "" },
        json: { type: "boolean", default: false },
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

/** By the names of what was measured, in the order of the first run. */
const results = new Map<string, Result>();
function add(side: string, samples: readonly Sample[]): void {
  for (const { name, unit, value } of samples) {
    const result = results.get(name) ?? { name, unit, samples: new Map<string, number[]>() };
    results.set(name, result);
    result.samples.set(side, [...(result.samples.get(side) ?? []), value]);
  }
}

/** A run that fails is left out; NLKT's own are not to. */
let failed = false;
for (const row of ROWS.filter(({ name }) => name.includes(options.only))) {
  for (let run = 0; run < runs; run++) {
    for (const [side, start] of sides) {
      if (side === QEMU_SIDE && !row.hasPeer) continue;
      if (process.stderr.isTTY)
        process.stderr.write(`\r\x1b[K${row.name}: run ${run + 1} of ${runs}, ${side}`);
      try {
        add(side, await row.measure(start, guests));
      } catch (error) {
        failed ||= side !== QEMU_SIDE;
        console.error(`bench: ${row.name}, ${side}: ${(error as Error).message}`);
      }
    }
  }
}
if (process.stderr.isTTY) process.stderr.write("\r\x1b[K");

const all = [...results.values()];
const names = sides.map(([name]) => name);
if (options.json) {
  const rows = all.map(({ name, unit, samples }) => ({
    name,
    unit,
    ...Object.fromEntries(names.map((side) => [side, statistics(samples.get(side) ?? [])])),
  }));
  console.log(JSON.stringify({ machine, runs, rows }, null, 2));
} else printTable(machine, names, runs, all);
process.exit(failed ? 1 : 0);
