/** The table of `npm run bench`. */
import type { HostMachine } from "./machine.js";

/** The side that the others are compared with. */
export const QEMU_SIDE = "QEMU TCG";

export interface Result {
  readonly name: string;
  readonly unit: string;
  /** By side. */
  readonly samples: Map<string, number[]>;
}

export interface Statistics {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** Undefined where nothing was measured. */
export function statistics(values: readonly number[]): Statistics | undefined {
  if (values.length === 0) return undefined;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  return { median, min: sorted[0], max: sorted[sorted.length - 1] };
}

export function printTable(
  machine: HostMachine,
  sides: readonly string[],
  runs: number,
  results: readonly Result[],
): void {
  const { cpu, cores, memoryGiB, os, kernel, node, qemu, load } = machine;
  console.log(`${cpu}, ${cores} ${cores === 1 ? "core" : "cores"}, ${memoryGiB} GiB; ${os}, Linux ${kernel}`);
  console.log(
    `Node ${node}; ${qemu === undefined ? "no QEMU here, nothing to compare with" : `QEMU ${qemu}`}`,
  );
  if (load > cores / 4) {
    console.log(
      `The machine was not idle (load ${load}): the times are too long, and not to be compared with others.`,
    );
  }
  console.log(`\n${runs === 1 ? "One run" : `Medians of ${runs} runs, and the shortest and longest`}.\n`);
  const own = sides.filter((side) => side !== QEMU_SIDE);
  const rows = results.map(({ name, unit, samples }) => {
    const found = sides.map((side) => statistics(samples.get(side) ?? []));
    const peer = statistics(samples.get(QEMU_SIDE) ?? [])?.median;
    const ratios = own.map((_, index) =>
      peer && found[index] ? (found[index].median / peer).toFixed(2) : "-",
    );
    return [`${name}, ${unit}`, ...found.map(cell), peer ? ratios.join(", ") : ""];
  });
  const table = [["", ...sides, "ratio"], ...rows];
  const widths = table[0].map((_, column) => Math.max(...table.map((row) => row[column].length)));
  for (const row of table) {
    const cells = row.map((text, column) =>
      column === 0 ? text.padEnd(widths[0]) : text.padStart(widths[column]),
    );
    console.log(cells.join("  ").trimEnd());
  }
  if (qemu !== undefined) console.log(`\nRatio: ${own.join(", ")} to ${QEMU_SIDE}; below 1 NLKT is faster.`);
}

function cell(values: Statistics | undefined): string {
  if (values === undefined) return "-";
  const { median, min, max } = values;
  return min === max ? digits(median) : `${digits(median)} (${digits(min)}–${digits(max)})`;
}

/** Three significant digits are what such times are good for. */
function digits(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}
