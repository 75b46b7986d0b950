/**
 * `npm run bench`: one table, each row NLKT beside QEMU's software CPU (TCG), in the same run on the same machine. The two
 * take turns, so that what else the machine does hits both.
 */
import { parseArgs } from "node:util";
import { makeGuests } from "./guests.js";
import { describeMachine } from "./machine.js";
import { qemuVersion, startNlkt, startQemu } from "./peers.js";
import { ROWS, type Sample } from "./rows.js";
import { printTable, type Result, statistics } from "./table.js";

const HELP = `npm run bench -- [--runs N] [--tier cold|hot|auto] [--only WORD] [--json]`;

const { values: options } = parseArgs({
  options: {
    runs: { type: "string", default: "5" },
    tier: { type: "string", default: "cold" },
    only: { type: "string", default: "" },
    json: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
if (options.help) {
  console.log(HELP);
  process.exit(0);
}
const runs = Number(options.runs);
if (!Number.isInteger(runs) || runs < 1) {
  console.error(`bench: --runs ${options.runs}: not a number of runs\n${HELP}`);
  process.exit(2);
}

const machine = describeMachine(qemuVersion());
const guests = await makeGuests();
const nlkt = startNlkt(options.tier);
const qemu = machine.qemu === undefined ? undefined : startQemu;

/** Samples by the names of what was measured, in the order of the first run. */
const results = new Map<string, Result>();
const add = (side: "nlkt" | "qemu", samples: readonly Sample[]) => {
  for (const { name, unit, value } of samples) {
    const result = results.get(name) ?? { name, unit, nlkt: [], qemu: [] };
    results.set(name, result);
    result[side].push(value);
  }
};

for (const row of ROWS.filter(({ name }) => name.includes(options.only))) {
  for (let run = 0; run < runs; run++) {
    if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${row.name}: run ${run + 1} of ${runs}`);
    add("nlkt", await row.measure(nlkt, guests));
    if (qemu !== undefined && row.hasPeer) add("qemu", await row.measure(qemu, guests));
  }
}
if (process.stderr.isTTY) process.stderr.write("\r\x1b[K");

const all = [...results.values()];
if (options.json) {
  const rows = all.map(({ name, unit, ...sides }) => ({
    name,
    unit,
    nlkt: statistics(sides.nlkt),
    qemu: statistics(sides.qemu),
  }));
  console.log(JSON.stringify({ machine, tier: options.tier, runs, rows }, null, 2));
} else printTable(machine, options.tier, runs, all);
