/**
 * What the jobs run in: a root file system of Debian packages with the bench's own files over it, the same files for a
 * guest (an initramfs) and for the host itself (a directory to be bound into a chroot).
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFile, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { cacheDirectory, makeOnce } from "../src/boot/cache-directory.js";
import { CpioArchive, concatArchives } from "../src/boot/cpio.js";
import { fetchBusybox } from "../src/boot/default-guest.js";
import { type RootTree, rootTree } from "../test/userland/root-tree.js";
import { BENCH_DIRECTORY, type Job, type JobGroup, runScript } from "./jobs.js";
import { BENCH_TEXT_BYTES, benchText } from "./text.js";

/** This file runs as dist/bench/userland.js. */
const PROGRAMS = fileURLToPath(new URL("../../bench/programs/", import.meta.url));
const BUSYBOX = `${BENCH_DIRECTORY}/busybox`;
const APPLETS = ["cat", "ip", "mkdir", "mount", "poweroff", "sh", "stty"];

const PACKAGES = ["bash", "coreutils", "dash", "gzip", "perl-base", "python3.11-minimal", "xz-utils"];
const WITHOUT = [
  /^usr\/lib\/x86_64-linux-gnu\/(gconv|perl-base\/unicore)\//,
  /^usr\/share\/(zoneinfo|i18n|python-wheels)\//,
];

const COMPILERS = {
  packages: ["bash", "coreutils", "dash", "gcc", "libc6-dev", "make"],
  without: [
    /\/gconv\//,
    /\/lto1$/,
    /\/lib[alt]san/,
    /\/libubsan/,
    /\/libasan/,
    /^usr\/share\/(zoneinfo|i18n)\//,
  ],
};

/** busybox sees to what is no part of the userland: it is static. */
const INIT = `#!${BUSYBOX} sh
export PATH=${BENCH_DIRECTORY}/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs -o size=90% tmpfs /tmp
stty -opost
/bin/bash ${BENCH_DIRECTORY}/run </dev/null 2>&1
stty sane
poweroff -f
`;

const run = promisify(execFile);

export interface BenchUserland {
  /** For a chroot. */
  readonly root: (group: JobGroup) => Promise<string>;
  /** The files of the bench: what is at BENCH_DIRECTORY. */
  readonly files: (group: JobGroup, jobs: readonly Job[]) => Promise<string>;
  /** An initramfs that runs `jobs` and powers the machine off. */
  readonly image: (group: JobGroup, jobs: readonly Job[]) => Promise<string>;
}

/** Throws where the packages cannot be fetched or the programs not be compiled. */
export async function benchUserland(
  temporary: string,
  progress: (message: string) => void,
): Promise<BenchUserland> {
  const tree = await rootTree({ name: "bench", packages: PACKAGES, without: WITHOUT }, progress);
  let compilers: Promise<RootTree> | undefined;
  const treeOf = async ({ userland }: JobGroup): Promise<RootTree> => {
    if (userland === undefined) return tree;
    compilers ??= rootTree({ ...COMPILERS, name: "bench-compilers" }, progress);
    return compilers;
  };
  const programs = await compiledPrograms(progress);
  const text = await makeOnce(
    path.join(cacheDirectory(), "bench", `text-${BENCH_TEXT_BYTES}`),
    async (directory) => writeFile(path.join(directory, "text"), benchText()),
  );
  const { busybox } = await fetchBusybox(progress);
  const filled = new Map<string, string>();
  const files = async (group: JobGroup, jobs: readonly Job[]) => {
    const key = `${group.name.replace(" ", "-")}-${jobs.map(({ name }) => name).join("-")}`;
    const directory = path.join(temporary, key);
    if (filled.has(key)) return directory;
    await mkdir(directory);
    for (const file of await readdir(programs))
      await copyFile(path.join(programs, file), path.join(directory, file));
    await copyFile(busybox, path.join(directory, "busybox"));
    if (group.text) await copyFile(path.join(text, "text"), path.join(directory, "text"));
    for (const job of jobs) await writeFile(path.join(directory, `${job.name}.job`), `${job.script}\n`);
    await writeFile(path.join(directory, "run"), runScript(jobs));
    filled.set(key, directory);
    return directory;
  };
  return {
    root: async (group) => (await treeOf(group)).root,
    files,
    image: async (group, jobs) => {
      const directory = await files(group, jobs);
      const image = `${directory}.cpio`;
      await writeFile(image, await imageOf(await treeOf(group), directory));
      return image;
    },
  };
}

async function imageOf(tree: RootTree, files: string): Promise<Uint8Array> {
  const archive = new CpioArchive();
  for (const applet of APPLETS) archive.symlink(`${BENCH_DIRECTORY}/bin/${applet}`, BUSYBOX);
  archive.file("/init", INIT, 0o755);
  for (const directory of ["dev", "proc", "sys", "tmp", "root"]) archive.directory(directory);
  archive.device("dev/console", "character", 5, 1);
  for (const file of await readdir(files)) {
    archive.file(`${BENCH_DIRECTORY}/${file}`, await readFile(path.join(files, file)), 0o755);
  }
  return concatArchives([await readFile(tree.image), archive.toBytes()]);
}

/** `bench/programs`, those in C compiled by the host's compiler; a directory in the cache. */
async function compiledPrograms(progress: (message: string) => void): Promise<string> {
  const hash = createHash("sha256");
  const names = (await readdir(PROGRAMS)).sort();
  for (const name of names) hash.update(name).update(await readFile(path.join(PROGRAMS, name)));
  const target = path.join(cacheDirectory(), "bench", `programs-${hash.digest("hex").slice(0, 16)}`);
  return makeOnce(target, async (temporary) => {
    progress("compiling the bench's programs");
    for (const name of names) {
      const source = path.join(PROGRAMS, name);
      const out = path.join(temporary, path.basename(name, ".c"));
      if (name.endsWith(".c")) await compile(source, out);
      else if (!name.endsWith(".h")) await copyFile(source, out);
    }
  });
}

async function compile(source: string, out: string): Promise<void> {
  try {
    await run("gcc", ["-O2", "-static", "-o", out, source, "-lm"]);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw new Error("there is no gcc (Debian: gcc libc6-dev)");
  }
}
