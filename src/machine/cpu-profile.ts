/** The file of `--profile-cpu`. */
import { access, constants, writeFile } from "node:fs/promises";
import path from "node:path";
import type { MmioBus, PortBus } from "../devices/bus.js";
import type { ProfileRow, VcpuProfile } from "../hypervisor/seam.js";
import { ConfigError } from "./config.js";

/** `profile` with the accesses that the machine served put together by device, in place of addresses. */
export function namedDevices(
  profile: VcpuProfile,
  buses: { readonly ports: Pick<PortBus, "ranges">; readonly mmio: Pick<MmioBus, "ranges"> },
): VcpuProfile {
  const nameOf = ({ name, access }: ProfileRow): string => {
    if (access === undefined) return name;
    const { space, address } = access;
    const ranges = (space === "port" ? buses.ports : buses.mmio).ranges;
    const range = ranges.find(({ start, end }) => address >= start && address < end);
    if (range === undefined) return `${name}, nobody's`;
    const last = range.end - 1;
    const to = last === range.start ? "" : `–0x${last.toString(16)}`;
    return `${range.owner}, ${space} 0x${range.start.toString(16)}${to}`;
  };
  const together = (rows: readonly ProfileRow[]): ProfileRow[] => {
    const devices = new Map<string, { count: number; seconds: number }>();
    for (const row of rows) {
      const sum = devices.get(nameOf(row)) ?? { count: 0, seconds: 0 };
      devices.set(nameOf(row), sum);
      sum.count += row.count ?? 0;
      sum.seconds += row.seconds ?? 0;
    }
    return [...devices].map(([name, sums]) => ({ name, ...sums }));
  };
  return {
    ...profile,
    sections: profile.sections.map(({ name, rows }) => ({
      name,
      rows: rows.some(({ access }) => access !== undefined) ? together(rows) : rows,
    })),
  };
}

/** Throws `ConfigError` where `file` cannot be written: better now than when the machine has ended. */
export async function tryCpuProfile(file: string): Promise<void> {
  try {
    await access(path.dirname(path.resolve(file)), constants.W_OK | constants.X_OK);
    await writeFile(file, "");
  } catch (error) {
    throw new ConfigError(`--profile-cpu: ${(error as Error).message}`);
  }
}

/** JSON where the file's name says so, else a text for people. Throws where a profile is missing or cannot be written. */
export async function writeCpuProfile(
  file: string,
  profiles: readonly VcpuProfile[],
  cpus: number,
): Promise<void> {
  const vcpus = [...profiles].sort((a, b) => a.vcpu - b.vcpu);
  const json = file.endsWith(".json");
  await writeFile(file, json ? `${JSON.stringify({ vcpus }, null, 2)}\n` : vcpus.map(profileText).join("\n"));
  if (profiles.length < cpus) throw new Error(`${cpus - profiles.length} of ${cpus} vCPUs gave no profile`);
}

export function profileText({ vcpu, seconds, sections }: VcpuProfile): string {
  const lines = [`vCPU ${vcpu}: ${seconds.toFixed(3)} s`];
  for (const { name, rows } of sections) {
    if (rows.length === 0) continue;
    const total = rows.reduce((sum, row) => sum + (row.seconds ?? 0), 0);
    lines.push("", `${name}${total === 0 ? "" : `, ${total.toFixed(3)} s`}`);
    for (const row of rows) {
      const time =
        row.seconds === undefined
          ? ""
          : `${row.seconds.toFixed(3).padStart(9)} s ${percent(row.seconds, seconds)}`;
      const count = row.count === undefined ? "" : `${row.count}`;
      lines.push(`${time} ${count.padStart(12)}  ${row.name}`.trimEnd());
    }
  }
  return `${lines.join("\n")}\n`;
}

function percent(part: number, whole: number): string {
  return `${(whole === 0 ? 0 : (100 * part) / whole).toFixed(1).padStart(5)} %`;
}
