/** What is measured. */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { DEBIAN_DISK_ROW } from "./debian-disk.js";
import { DISK_ROWS } from "./disks.js";
import type { Guests } from "./guests.js";
import { GROUPS, type Job, type JobGroup, JobReader, type JobSample } from "./jobs.js";
import { kvmExitRows } from "./kvm-exits.js";
import { runNative } from "./native.js";
import type { Start } from "./peers.js";
import { SMP_BOOT, SMP_GROUPS } from "./smp-rows.js";

/** Smaller is better for all of them. */
export type Unit = "s" | "ms" | "µs" | "% of a core" | "%";

/** What NLKT is to reach: a multiple of the peer's value, or a value. */
export type Reach = { readonly ratio: number } | { readonly value: number };

/** One line of the table. */
export interface Line {
  readonly name: string;
  readonly unit: Unit;
  readonly reach?: Reach;
}

export interface Sample {
  /** Its line's name. */
  readonly name: string;
  readonly value: number;
  /** Of what was computed: equal on every side, or something is wrong. */
  readonly sum?: string;
}

/** What is measured together. */
export interface Row {
  readonly name: string;
  readonly lines: readonly Line[];
  /** False for what only NLKT can tell of itself. */
  readonly hasPeer: boolean;
  /** Measures `lines`, some or all of the row's. */
  measure(start: Start, guests: Guests, lines: readonly Line[]): Promise<Sample[]>;
  /** The same on the host's own CPU, where it applies. */
  native?(guests: Guests, lines: readonly Line[]): Promise<Sample[]>;
}

const IDLE_SECONDS = 10;
/** From the prompt on: what the kernel puts off until it is idle is over. */
const SETTLE_SECONDS = 2;

export const ROWS: readonly Row[] = [
  boot("boot of Debian 6.12 to power-off", (guests) => guests.kernel612(), { ratio: 1.5 }),
  boot("boot of a small kernel to power-off", (guests) => guests.smallKernel(), { ratio: 1.5 }),
  boot("boot of Debian 6.1 to power-off", (guests) => guests.kernel61()),
  ...GROUPS.map(jobs),
  DEBIAN_DISK_ROW,
  ...DISK_ROWS,
  SMP_BOOT,
  ...SMP_GROUPS.map(jobs),
  idle("idle at a shell prompt", { value: 2 }),
  firstInstruction("to the first guest instruction"),
  ...(await kvmExitRows()),
];

function boot(name: string, kernel: (guests: Guests) => Promise<string>, reach?: Reach): Row {
  return {
    name,
    lines: [{ name, unit: "s", ...(reach === undefined ? {} : { reach }) }],
    hasPeer: true,
    async measure(start, guests) {
      const guest = { kernel: await kernel(guests), initrd: await guests.powerOff() };
      return [{ name, value: await start(guest).ended }];
    },
  };
}

function jobs(group: JobGroup): Row {
  const { derived = [] } = group;
  const asked = (lines: readonly Line[], title: string) => lines.some(({ name }) => name === title);
  const chosen = (lines: readonly Line[]): Job[] =>
    group.jobs.filter(
      ({ name, title }) =>
        asked(lines, title) ||
        derived.some((line) => asked(lines, line.title) && (line.of === name || line.against === name)),
    );
  const named = (samples: readonly JobSample[], lines: readonly Line[]): Sample[] => {
    const seconds = (job: string) => samples.find(({ name }) => name === job)?.seconds ?? Number.NaN;
    const all = [
      ...samples.map(({ name, seconds, sum }): Sample => {
        const job = group.jobs.find((candidate) => candidate.name === name)!;
        return { name: job.title, value: seconds, sum };
      }),
      ...derived.map(
        ({ title, of, against }): Sample => ({ name: title, value: (100 * seconds(of)) / seconds(against) }),
      ),
    ];
    return all.filter(({ name }) => asked(lines, name));
  };
  return {
    name: group.name,
    lines: [
      ...group.jobs.map(({ title, reach }): Line => ({ name: title, unit: "s", reach: { ratio: reach } })),
      ...derived.map(({ title, reach }): Line => ({ name: title, unit: "%", reach: { value: reach } })),
    ],
    hasPeer: true,
    async measure(start, guests, lines) {
      const userland = await guests.userland();
      const initrd = await userland.image(group, chosen(lines));
      const guest = start({ kernel: await guests.kernel61(), initrd, ...sizeOf(group) });
      const reader = new JobReader();
      guest.onLine((line) => reader.line(line));
      await guest.ended;
      if (!reader.done) throw new Error("the guest powered off before its work was done");
      return named(reader.samples, lines);
    },
    async native(guests, lines) {
      const { root, files } = await guests.userland();
      return named(await runNative(await root(group), await files(group, chosen(lines))), lines);
    },
  };
}

const sizeOf = ({ memoryMiB, cpus = 1 }: JobGroup) => ({ memoryMiB, cpus });

function idle(name: string, reach: Reach): Row {
  return {
    name,
    lines: [{ name, unit: "% of a core", reach }],
    hasPeer: true,
    async measure(start, guests) {
      const guest = start({ kernel: await guests.kernel61(), initrd: await guests.shell() });
      await guest.printed("/root # ");
      await sleep(SETTLE_SECONDS * 1000);
      const from = performance.now();
      const before = cpuSeconds(guest.pid);
      await sleep(IDLE_SECONDS * 1000);
      const used = cpuSeconds(guest.pid) - before;
      const seconds = (performance.now() - from) / 1000;
      guest.kill();
      await guest.ended;
      return [{ name, value: (100 * used) / seconds }];
    },
  };
}

function firstInstruction(name: string): Row {
  return {
    name,
    lines: [{ name, unit: "ms" }],
    hasPeer: false,
    async measure(start, guests) {
      const guest = start({ kernel: await guests.kernel61(), initrd: await guests.powerOff() });
      await guest.ended;
      const match = /first guest instruction (\d+) ms/.exec(guest.stderr);
      if (match === null) throw new Error(`no time of the first guest instruction: ${guest.stderr}`);
      return [{ name, value: Number(match[1]) }];
    },
  };
}

let ticksPerSecond: number | undefined;

/** Processor time that a process has used, all threads (proc(5), /proc/pid/stat, fields 14 and 15). */
function cpuSeconds(pid: number): number {
  ticksPerSecond ??= Number(execFileSync("getconf", ["CLK_TCK"], { encoding: "utf8" }));
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  // The second field, the name in parentheses, may have spaces.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}
