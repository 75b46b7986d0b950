/** The table of `npm run bench`. */
import type { HostMachine } from "./machine.js";
import type { Line, Unit } from "./rows.js";

/** What was measured of a line, by side. */
export interface Result {
  readonly line: Line;
  readonly samples: Map<string, number[]>;
  readonly sums: Map<string, string[]>;
}

export interface Statistics {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

export interface ReportRow {
  readonly name: string;
  readonly unit: Unit;
  readonly sides: Readonly<Record<string, Statistics>>;
  /** NLKT's medians divided by the peer's, by side. */
  readonly ratios: Readonly<Record<string, number>>;
  /** What is to be reached, in words. */
  readonly reach?: string;
  /** Whether the first of NLKT's sides does. */
  readonly reached?: boolean;
  /** What is wrong with the results of the work. */
  readonly wrong?: string;
}

function statistics(values: readonly number[]): Statistics {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  return { median, min: sorted[0], max: sorted[sorted.length - 1] };
}

/** `own`: NLKT's sides, of which the first counts; `native`: the side whose results are right, where it has any. */
export function reportRow(
  { line, samples, sums }: Result,
  own: readonly string[],
  peer: string,
  native: string,
): ReportRow {
  const { name, unit, reach } = line;
  const sides = Object.fromEntries([...samples].map(([side, values]) => [side, statistics(values)]));
  const ratios: Record<string, number> = {};
  for (const side of own) {
    if (sides[side] !== undefined && sides[peer] !== undefined && sides[peer].median > 0)
      ratios[side] = sides[side].median / sides[peer].median;
  }
  const ours = sides[own[0]]?.median;
  const wrong = wrongSums(sums, [native, peer]);
  const report = { name, unit, sides, ratios, ...(wrong === undefined ? {} : { wrong }) };
  if (reach === undefined) return report;
  const byRatio = "ratio" in reach;
  const limit = byRatio ? reach.ratio : reach.value;
  const value = byRatio ? ratios[own[0]] : ours;
  return {
    ...report,
    reach: `≤ ${byRatio ? `${limit.toFixed(1)} × ${peer}` : `${limit} ${unit}`}`,
    ...(value === undefined ? {} : { reached: value <= limit && wrong === undefined }),
  };
}

/** All runs of all sides have computed the same; the first of `trusted` that has results is right. */
function wrongSums(
  sums: ReadonlyMap<string, readonly string[]>,
  trusted: readonly string[],
): string | undefined {
  const right = trusted.find((side) => sums.has(side)) ?? [...sums.keys()][0];
  if (right === undefined) return undefined;
  const expected = sums.get(right)![0];
  const wrong = [...sums]
    .filter(([, values]) => values.some((value) => value !== expected))
    .map(([side]) => side);
  return wrong.length === 0
    ? undefined
    : `the results of ${wrong.join(" and ")} differ from those of ${right}`;
}

/** The machine, and the table. */
export function tableText(
  machine: HostMachine,
  sides: readonly string[],
  own: readonly string[],
  runs: number,
  rows: readonly ReportRow[],
): string {
  const { cpu, cores, memoryGiB, os, kernel, node, qemu, load } = machine;
  const lines = [
    `${cpu}, ${cores} ${cores === 1 ? "core" : "cores"}, ${memoryGiB} GiB; ${os}, Linux ${kernel}`,
    `Node ${node}; ${qemu === undefined ? "no QEMU here, nothing to compare with" : `QEMU ${qemu}`}`,
  ];
  if (load > cores / 4) {
    lines.push(
      `The machine was not idle (load ${load}): the times are too long, and not to be compared with others.`,
    );
  }
  lines.push("", `${runs === 1 ? "One run" : `Medians of ${runs} runs, and the shortest and longest`}.`, "");
  const cells = rows.map((row) => [
    `${row.name}, ${row.unit}`,
    ...sides.map((side) => cell(row.sides[side])),
    own.map((side) => row.ratios[side]?.toFixed(2) ?? "-").join(", "),
    row.reach ?? "",
    row.wrong !== undefined ? "WRONG" : row.reached === undefined ? "" : row.reached ? "ok" : "short",
  ]);
  const table = [["", ...sides, "ratio", "to reach", ""], ...cells];
  const widths = table[0].map((_, column) => Math.max(...table.map((row) => row[column].length)));
  const left = new Set([0, sides.length + 2, sides.length + 3]);
  for (const row of table) {
    const line = row.map((text, column) =>
      left.has(column) ? text.padEnd(widths[column]) : text.padStart(widths[column]),
    );
    lines.push(line.join("  ").trimEnd());
  }
  if (qemu !== undefined) lines.push("", `Ratio: ${own.join(", ")} to QEMU's; below 1 NLKT is faster.`);
  return lines.join("\n");
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
