/** Runs jobs in a guest, as `nlkt run` would for a user. */
import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { CpioArchive, concatArchives } from "../../src/boot/cpio.js";
import { fetchBusybox } from "../../src/boot/default-guest.js";
import { type Job, JobReader, type JobResult, JobsError, jobFiles } from "./job.js";

/** This file runs as dist/test/userland/guest-run.js. */
const NLKT = fileURLToPath(new URL("../../../bin/nlkt.js", import.meta.url));
const BUSYBOX = "/nlkt/busybox";

/** busybox does what does not depend on the userland under test: it is static. */
const INIT = `#!${BUSYBOX} sh
export PATH=/nlkt/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
ln -s /proc/self/fd /dev/fd
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o size=90% tmpfs /tmp
ip link set lo up
stty -opost
/nlkt/start </dev/null 2>&1 | cat
stty sane
poweroff -f
`;
const APPLETS = ["cat", "cp", "ip", "ln", "mkdir", "mount", "poweroff", "rm", "sh", "sleep", "stty"];

export interface GuestOptions {
  readonly kernel: string;
  /** The userland's image; without it, the jobs have busybox only. */
  readonly image?: string;
  readonly memoryMiB: number;
  readonly timeoutSeconds: number;
  /** A static busybox for the guest's architecture, where that is not amd64. */
  readonly busybox?: Uint8Array;
  /** More options for `nlkt run`. */
  readonly options?: readonly string[];
  readonly onResult?: (name: string, result: JobResult) => void;
  /** Where to leave a copy of everything the guest prints. */
  readonly transcript?: string;
}

/** The archive that goes after the userland's image: /init, busybox, the jobs. */
async function jobArchive(jobs: readonly Job[], busybox?: Uint8Array): Promise<Uint8Array> {
  const archive = new CpioArchive();
  archive.file(BUSYBOX, busybox ?? (await readFile((await fetchBusybox()).busybox)), 0o755);
  for (const applet of APPLETS) archive.symlink(`/nlkt/bin/${applet}`, BUSYBOX);
  archive.file("/init", INIT, 0o755);
  archive.file("/nlkt/start", "#!/bin/sh\n. /nlkt/run\n", 0o755);
  for (const directory of ["dev", "proc", "sys", "tmp", "root"]) archive.directory(directory);
  archive.device("dev/console", "character", 5, 1);
  for (const [name, bytes] of jobFiles(jobs)) archive.file(`/nlkt/${name}`, bytes, 0o755);
  return archive.toBytes();
}

/** Runs `jobs` one after the other in one guest. Throws `JobsError` where the guest did not run them all. */
export async function runInGuest(
  jobs: readonly Job[],
  options: GuestOptions,
): Promise<Map<string, JobResult>> {
  const { kernel, image, memoryMiB, timeoutSeconds, onResult, transcript } = options;
  const directory = await mkdtemp(path.join(tmpdir(), "nlkt-userland-"));
  try {
    const initrd = path.join(directory, "initrd");
    const parts = [await jobArchive(jobs, options.busybox)];
    if (image !== undefined) parts.unshift(await readFile(image));
    await writeFile(initrd, concatArchives(parts));
    const args = [NLKT, "run", "-k", kernel, "-i", initrd, "-m", `${memoryMiB}`, "-p", "quiet panic=-1"];
    args.push("--timeout", `${timeoutSeconds}`, ...(options.options ?? []));
    const reader = new JobReader(onResult);
    let messages = "";
    let output = "";
    const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      if (transcript !== undefined) output += text;
      reader.feed(text);
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      messages += text;
    });
    const code = await new Promise<number | null>((resolve, reject) => {
      child.on("error", reject);
      child.on("close", resolve);
    });
    if (transcript !== undefined) await writeFile(transcript, output + messages);
    if (code !== 0 || !reader.done) {
      throw new JobsError(`the guest ended with ${code}: ${messages.trim()}\n${reader.current.slice(-4000)}`);
    }
    return reader.results;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
