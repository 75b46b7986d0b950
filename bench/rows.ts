/** What is measured. */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { Guests } from "./guests.js";
import type { Start } from "./peers.js";

export interface Sample {
  readonly name: string;
  /** Smaller is better for all of them. */
  readonly unit: "s" | "ms" | "% of a core";
  readonly value: number;
}

export interface Row {
  readonly name: string;
  /** False for what only NLKT can tell of itself. */
  readonly hasPeer: boolean;
  measure(start: Start, guests: Guests): Promise<Sample[]>;
}

const IDLE_SECONDS = 5;

/** Programs of busybox, each a second or more on NLKT's cold tier: what it is for, and its command. */
const LOOPS: readonly (readonly [name: string, command: string])[] = [
  ["sha256sum of 8 MiB", "head -c 8388608 /dev/zero | sha256sum"],
  ["gzip of 2 MiB", "gzip -c /bin/busybox"],
  ["awk, floating point", "awk 'BEGIN { for (i = 1; i < 100000; i++) s += i * 1.5 / (i + 0.25); print s }'"],
  [
    "awk, strings and arrays",
    "awk 'BEGIN { for (i = 0; i < 60000; i++) a[i % 1000] = a[i % 1000] \"x\" length(a[i % 7]) % 10; print length(a[3]) }'",
  ],
  ["shell arithmetic", "i=0; while [ $i -lt 60000 ]; do i=$((i + 1)); done"],
  ["copies of 2 GiB", "dd if=/dev/zero of=/dev/null bs=1M count=2048"],
  ["200 processes", "for i in $(seq 200); do /bin/busybox true; done"],
];

const loopScript = LOOPS.map(
  ([, command], index) => `echo begin-${index}-; { ${command}; } >/dev/null 2>&1; echo end-${index}-`,
).join("\n");

export const ROWS: readonly Row[] = [
  boot("boot Debian 6.1 to power-off", (guests) => guests.kernel61),
  boot("boot Debian 6.12 to power-off", (guests) => guests.kernel612),
  {
    name: "to the first guest instruction",
    hasPeer: false,
    async measure(start, guests) {
      const guest = start(guests.kernel61, guests.script("true"));
      await guest.ended;
      const match = /first guest instruction (\d+) ms/.exec(guest.stderr);
      if (match === null) throw new Error(`no time of the first guest instruction: ${guest.stderr}`);
      return [{ name: this.name, unit: "ms", value: Number(match[1]) }];
    },
  },
  {
    name: "idle at a shell prompt",
    hasPeer: true,
    async measure(start, guests) {
      const guest = start(guests.kernel61, guests.shell);
      await guest.printed("/root # ");
      await sleep(1000);
      const before = cpuSeconds(guest.pid);
      await sleep(IDLE_SECONDS * 1000);
      const used = cpuSeconds(guest.pid) - before;
      guest.kill();
      await guest.ended;
      return [{ name: this.name, unit: "% of a core", value: (100 * used) / IDLE_SECONDS }];
    },
  },
  {
    name: "loops in the guest",
    hasPeer: true,
    async measure(start, guests) {
      const guest = start(guests.kernel61, guests.script(loopScript));
      const samples: Sample[] = [];
      for (const [index, [name]] of LOOPS.entries()) {
        const from = await guest.printed(`begin-${index}-`);
        samples.push({ name, unit: "s", value: (await guest.printed(`end-${index}-`)) - from });
      }
      await guest.ended;
      return samples;
    },
  },
];

function boot(name: string, kernel: (guests: Guests) => string): Row {
  return {
    name,
    hasPeer: true,
    async measure(start, guests) {
      return [{ name, unit: "s", value: await start(kernel(guests), guests.script("true")).ended }];
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
