/** What disks cost: fio in the same guest on the same image. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { CpioArchive, concatArchives } from "../src/boot/cpio.js";
import { findModules } from "../src/boot/find-modules.js";
import { guestCommandArchive } from "../src/boot/guest-command.js";
import { kernelRelease } from "../src/boot/kernel-release.js";
import { MODULE_DIRECTORY, MODULE_ORDER } from "../src/boot/root-init.js";
import { fioArchive, terseResult } from "./fio.js";
import { type Guests, Unavailable } from "./guests.js";
import type { Line, Row } from "./rows.js";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const IMAGE_MIB = 256;
/** fio and its libraries are in an initramfs of 80 MB. */
const MEMORY_MIB = 768;

const RAMP_SECONDS = 2;
const RUN_SECONDS = 3;

interface DiskJob {
  readonly name: string;
  readonly rw: string;
  readonly bs: string;
  readonly iodepth: number;
}

const JOBS: readonly DiskJob[] = [
  { name: "random 4 KiB reads, depth 1", rw: "randread", bs: "4k", iodepth: 1 },
  { name: "random 4 KiB writes, depth 1", rw: "randwrite", bs: "4k", iodepth: 1 },
  { name: "random 4 KiB reads, depth 32", rw: "randread", bs: "4k", iodepth: 32 },
  { name: "random 4 KiB writes, depth 32", rw: "randwrite", bs: "4k", iodepth: 32 },
  { name: "sequential 1 MiB reads", rw: "read", bs: "1m", iodepth: 4 },
  { name: "sequential 1 MiB writes", rw: "write", bs: "1m", iodepth: 4 },
];

/** fio's job file: one job after the other; what comes before the ramp's end warms up translated code. */
function jobFile(jobs: readonly DiskJob[]): string {
  const sections = jobs.map(
    (job) => `[${JOBS.indexOf(job)}]\nstonewall\nrw=${job.rw}\nbs=${job.bs}\niodepth=${job.iodepth}\n`,
  );
  return [
    "[global]\nfilename=/dev/vda\ndirect=1\nioengine=libaio\nthread=1\nnorandommap=1",
    `time_based=1\nramp_time=${RAMP_SECONDS}\nruntime=${RUN_SECONDS}`,
    ...sections,
  ].join("\n");
}

export const DISK_ROWS: readonly Row[] = (["raw", "qcow2"] as const).map((format) => {
  const lines = JOBS.map(
    ({ name }): Line => ({ name: `fio, ${format}: ${name}`, unit: "µs", reach: { ratio: 1 } }),
  );
  return {
    name: `fio on a ${format} disk`,
    lines,
    hasPeer: true,
    async measure(start, guests, chosen) {
      const directory = mkdtempSync("/var/tmp/nlkt-bench-disk-");
      try {
        const jobs = JOBS.filter((_, i) => chosen.includes(lines[i]));
        const initrd = path.join(directory, "initrd");
        writeFileSync(initrd, await diskInitrd(guests, jobFile(jobs)));
        const file = makeImage(directory, format);
        const guest = start({
          kernel: await guests.kernel61(),
          initrd,
          memoryMiB: MEMORY_MIB,
          disk: { file, format },
        });
        const perSecond = new Map<DiskJob, number>();
        guest.onLine((line) => {
          const result = terseResult(line);
          if (result !== undefined) perSecond.set(JOBS[Number(result.job)], result.perSecond);
        });
        await guest.ended;
        return jobs.map((job) => {
          const value = perSecond.get(job);
          if (value === undefined || value === 0) throw new Error(`fio told nothing of ${job.name}`);
          return { name: `fio, ${format}: ${job.name}`, value: 1e6 / value };
        });
      } finally {
        rmSync(directory, { recursive: true });
      }
    },
  };
});

/** An image that has all of its blocks. */
function makeImage(directory: string, format: "raw" | "qcow2"): string {
  const raw = path.join(directory, "image.raw");
  writeFileSync(raw, Buffer.alloc(IMAGE_MIB << 20, "nlkt"));
  if (format === "raw") return raw;
  const file = path.join(directory, "image.qcow2");
  const program = path.join(ROOT, "bin/nlkt.js");
  execFileSync(process.execPath, [program, "image", "convert", "-O", "qcow2", raw, file]);
  return file;
}

/** The default guest with the modules for disks and fio, which does `job`. */
async function diskInitrd(guests: Guests, job: string): Promise<Uint8Array> {
  const kernel = await guests.kernel61();
  const release = kernelRelease(readFileSync(kernel));
  const tree = release === undefined ? undefined : await findModules(kernel, release, () => {});
  if (tree === undefined) throw new Unavailable("the kernel's modules are not there");
  const fio = await fioArchive(job, () => {}).catch((error: Error) => {
    throw new Unavailable(`fio: ${error.message.split("\n")[0]}`);
  });
  const archive = new CpioArchive();
  const modules = await tree.load(["virtio_pci", "virtio_blk"]);
  for (const { name, bytes } of modules) archive.file(`${MODULE_DIRECTORY}/${name}.ko`, bytes);
  archive.file(MODULE_ORDER, modules.map(({ name }) => `${name}.ko\n`).join(""));
  const command = guestCommandArchive({
    argv: ["/usr/bin/fio", "--output-format=terse", "--terse-version=3", "/fio.job"],
  });
  return concatArchives([readFileSync(await guests.shell()), command, fio, archive.toBytes()]);
}
