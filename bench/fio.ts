/**
 * Debian's fio with the libraries that it loads, as files of an initramfs. The package brings 99 packages with it, of which fio
 * needs some sixty libraries.
 */
import { execFile } from "node:child_process";
import { readFile, realpath } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { CpioArchive } from "../src/boot/cpio.js";
import { hostTree } from "../test/userland/root-tree.js";

const run = promisify(execFile);

const LOADER = "lib64/ld-linux-x86-64.so.2";
/** Where Debian's libraries are, and where all of them are in the guest: the loader's own place. */
const LIBRARY_DIRECTORIES = [
  "usr/lib/x86_64-linux-gnu",
  "lib/x86_64-linux-gnu",
  "usr/lib/x86_64-linux-gnu/ceph",
];
const GUEST_LIBRARIES = "lib/x86_64-linux-gnu";

/** An archive of fio alone, with `job` as `/fio.job`. Throws where the packages cannot be fetched. */
export async function fioArchive(job: string, progress: (message: string) => void): Promise<Uint8Array> {
  const root = await hostTree({ name: "bench-fio", packages: ["fio"] }, progress);
  const places = LIBRARY_DIRECTORIES.map((directory) => path.join(root, directory)).join(":");
  const loader = path.join(root, LOADER);
  const program = path.join(root, "usr/bin/fio");
  const { stdout } = await run(loader, ["--library-path", places, "--list", program]);
  const archive = new CpioArchive();
  for (const directory of ["lib64", "lib", GUEST_LIBRARIES, "usr/bin"]) archive.directory(directory);
  for (const [, name, file] of stdout.matchAll(/^\s*(\S+) => (\S+)/gm)) {
    archive.file(`${GUEST_LIBRARIES}/${name}`, await readFile(await realpath(file)), 0o755);
  }
  archive.file(LOADER, await readFile(await realpath(loader)), 0o755);
  archive.file("usr/bin/fio", await readFile(program), 0o755);
  archive.file("fio.job", job);
  return archive.toBytes();
}

/** Fields of fio's terse output, version 3 (fio(1), TERSE OUTPUT), from 0. */
const Terse = { JOB: 2, ERROR: 4, READ_IOPS: 7, WRITE_IOPS: 48, COUNT: 100 } as const;

/** Requests a second of a job, where `line` is about one: of reads and writes together. Throws where it failed. */
export function terseResult(line: string): { job: string; perSecond: number } | undefined {
  const fields = line.trim().split(";");
  if (fields[0] !== "3" || fields.length < Terse.COUNT) return undefined;
  const job = fields[Terse.JOB];
  if (fields[Terse.ERROR] !== "0") throw new Error(`fio: ${job}: error ${fields[Terse.ERROR]}`);
  return { job, perSecond: Number(fields[Terse.READ_IOPS]) + Number(fields[Terse.WRITE_IOPS]) };
}
