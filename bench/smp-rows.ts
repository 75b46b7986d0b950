/** Rows about several vCPUs. Guests have two of them; QEMU runs its own on threads of their own, too. */
import type { JobGroup } from "./jobs.js";
import type { Line, Row, Sample } from "./rows.js";

const CPUS = 2;
const NAMES = {
  boot: "boot of Debian 6.1 with 2 vCPUs",
  bootRatio: "  against the boot with 1 vCPU",
} as const;

export const SMP_GROUPS: readonly JobGroup[] = [
  {
    name: "two vCPUs",
    memoryMiB: 1024,
    cpus: CPUS,
    text: false,
    jobs: [
      {
        name: "pingpong",
        title: "40,000 futex wake-ups across vCPUs",
        script: "/nlkt/pingpong",
        reach: 1.5,
      },
      { name: "busy1", title: "a busy program, 2 vCPUs", script: "/nlkt/busy 1", reach: 1 },
      { name: "busy2", title: "two busy programs, 2 vCPUs", script: "/nlkt/busy 2", reach: 1 },
    ],
    derived: [
      // Twice the work in 1.11 times the time is 1.8 times the throughput.
      { title: "  against one busy program", of: "busy2", against: "busy1", reach: 111 },
    ],
  },
  {
    name: "make",
    memoryMiB: 2048,
    cpus: CPUS,
    text: false,
    userland: "compilers",
    jobs: [
      {
        name: "make",
        title: "make -j2 of 10 C files, 2 vCPUs",
        script: "bash /nlkt/project.sh",
        reach: 1.5,
      },
    ],
  },
];

/** Ours in percent of our own boot with one vCPU. */
export const SMP_BOOT: Row = {
  name: "boot with two vCPUs",
  lines: [
    { name: NAMES.boot, unit: "s" },
    { name: NAMES.bootRatio, unit: "%", reach: { value: 120 } },
  ],
  hasPeer: true,
  async measure(start, guests, lines: readonly Line[]): Promise<Sample[]> {
    const guest = { kernel: await guests.kernel61(), initrd: await guests.powerOff() };
    const two = await start({ ...guest, cpus: CPUS }).ended;
    const samples: Sample[] = [{ name: NAMES.boot, value: two }];
    if (lines.some(({ name }) => name === NAMES.bootRatio)) {
      const one = await start(guest).ended;
      samples.push({ name: NAMES.bootRatio, value: (100 * two) / one });
    }
    return samples.filter(({ name }) => lines.some((line) => line.name === name));
  },
};
