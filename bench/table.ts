/** The table of `npm run bench`. */
import type { HostMachine } from "./machine.js";

export interface Result {
  readonly name: string;
  readonly unit: string;
  readonly nlkt: number[];
  readonly qemu: number[];
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
  tier: string,
  runs: number,
  results: readonly Result[],
): void {
  const { cpu, cores, memoryGiB, os, kernel, node, qemu, load } = machine;
  console.log(`${cpu}, ${cores} ${cores === 1 ? "core" : "cores"}, ${memoryGiB} GiB; ${os}, Linux ${kernel}`);
  console.log(`Node ${node}; ${qemu === undefined ? "no QEMU here: its column is empty" : `QEMU ${qemu}`}`);
  if (load > cores / 4) {
    console.log(
      `The machine was not idle (load ${load}): the times are too long, and not to be compared with others.`,
    );
  }
  console.log(`\n${runs === 1 ? "One run" : `Medians of ${runs} runs, and the shortest and longest`}.\n`);
  const rows = results.map(({ name, unit, ...sides }) => {
    const [nlkt, peer] = [statistics(sides.nlkt), statistics(sides.qemu)];
    const ratio =
      nlkt !== undefined && peer !== undefined && peer.median > 0 ? nlkt.median / peer.median : undefined;
    return [`${name}, ${unit}`, cell(nlkt), cell(peer), ratio === undefined ? "" : ratio.toFixed(2)];
  });
  const table = [["", `NLKT (${tier})`, "QEMU (TCG)", "ratio"], ...rows];
  const widths = table[0].map((_, column) => Math.max(...table.map((row) => row[column].length)));
  for (const row of table) {
    const cells = row.map((text, column) =>
      column === 0 ? text.padEnd(widths[0]) : text.padStart(widths[column]),
    );
    console.log(cells.join("  ").trimEnd());
  }
  console.log("\nA ratio below 1: NLKT is faster.");
}

function cell(values: Statistics | undefined): string {
  if (values === undefined) return "";
  const { median, min, max } = values;
  return min === max ? digits(median) : `${digits(median)} (${digits(min)}–${digits(max)})`;
}

/** Three significant digits are what such times are good for. */
function digits(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}
