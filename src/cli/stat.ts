/** nlkt stat: what an instance did so far. */
import { Command } from "commander";
import type { BalloonInfo, InstanceStats, VcpuStats } from "../api/index.js";
import { formatMiB } from "../machine/memory-map.js";
import { addInstanceArguments, forInstances, type InstanceOptions } from "./instance-arguments.js";
import { formatUptime } from "./list.js";
import { printable, table } from "./table.js";

const EXAMPLES = `
Exits are counted by their cause, with the names of KVM's exit reasons; what else is counted
depends on the provider (docs/control.md).

Examples:
  nlkt stat web
  nlkt stat web -m
  nlkt stat --all --json`;

interface StatOptions extends InstanceOptions {
  memory?: boolean;
  json?: boolean;
}

export function statCommand(finish: (code: number) => void): Command {
  const command = new Command("stat").description("what an instance did so far: exits, counters, memory");
  return addInstanceArguments(command, true)
    .option("-m, --memory", "only its memory")
    .option("--json", "as JSON: an object an instance, on a line each")
    .addHelpText("after", EXAMPLES)
    .action(async (name: string | undefined, options: StatOptions, self: Command) => {
      const well = await forInstances(name, options, self, async (instance) => {
        const stats = await instance.stats();
        process.stdout.write(text(stats, options));
      });
      finish(well ? 0 : 1);
    });
}

function text(stats: InstanceStats, { memory, json }: StatOptions): string {
  if (json === true) {
    return `${JSON.stringify(memory === true ? { name: stats.name, memory: stats.memory } : stats)}\n`;
  }
  return memory === true ? memoryText(stats) : statsText(stats);
}

function memoryText({ name, memory }: InstanceStats): string {
  const rows = [["total", formatMiB(memory.totalBytes)]];
  if (memory.residentBytes !== undefined) rows.push(["resident", formatMiB(memory.residentBytes)]);
  if (memory.balloon !== undefined) rows.push(...balloonRows(memory.balloon));
  return `${name}: memory\n${indent(pairs(rows))}`;
}

/** Names of statistics that count events; the others are bytes. */
const EVENTS: ReadonlySet<string> = new Set([
  "majorFaults",
  "minorFaults",
  "hugetlbAllocations",
  "hugetlbFailures",
]);

function balloonRows({ wantedBytes, actualBytes, guest }: BalloonInfo): string[][] {
  return [
    ["balloon", `${formatMiB(actualBytes)} of ${formatMiB(wantedBytes)}`],
    ...Object.entries(guest).map(([name, value]) => [
      `guest ${name}`,
      EVENTS.has(name) ? `${value}` : formatMiB(value),
    ]),
  ];
}

function statsText(stats: InstanceStats): string {
  const { name, pid, state, accel, tier, uptimeSeconds, kernel, vcpus } = stats;
  const provider = tier === undefined ? accel : `${accel}, tier ${tier}`;
  return [
    `${name}: pid ${pid}, ${state}, ${provider}, up ${formatUptime(uptimeSeconds)}, ${printable(kernel)}\n`,
    indent(counts("EXITS", vcpus, ({ exits }) => exits)),
    indent(counts("COUNTERS", vcpus, ({ counters }) => counters)),
    memoryText(stats),
  ].join("");
}

/** A row a count, a column a vCPU. */
function counts(
  title: string,
  vcpus: readonly VcpuStats[],
  of: (vcpu: VcpuStats) => Readonly<Record<string, number>>,
): string {
  const names = [...new Set(vcpus.flatMap((vcpu) => Object.keys(of(vcpu))))];
  if (names.length === 0) return "";
  const columns = vcpus.map(({ id }) => `VCPU ${id}`);
  const rows = names.map((name) => [name, ...vcpus.map((vcpu) => `${of(vcpu)[name] ?? 0}`)]);
  return table([title, ...columns], rows, columns);
}

function pairs(rows: readonly (readonly string[])[]): string {
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}\n`).join("");
}

function indent(text: string): string {
  return text.replace(/^(?=.)/gm, "  ");
}
