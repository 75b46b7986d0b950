/** Runs jobs on the host's own CPU, from the same files as the guest: in a chroot with mounts of its own. */
import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { type Job, JobReader, type JobResult, JobsError, jobFiles } from "./job.js";

/**
 * glibc picks functions by the CPU's features, and those of libm that use FMA round otherwise. The guest's CPU has
 * x86-64-v2's features, so the host's is to be used as if it had no others (glibc manual, "Hardware Capability
 * Tunables").
 */
const TUNABLES = `glibc.cpu.hwcaps=${[
  "AVX",
  "AVX2",
  "AVX512F",
  "AVX512VL",
  "AVX512BW",
  "FMA",
  "FMA4",
  "BMI1",
  "BMI2",
  "LZCNT",
  "MOVBE",
]
  .map((feature) => `-${feature}`)
  .join(",")}`;

/** $1: the tree, $2: the jobs' directory, $3: the shell. The mounts go with the mount namespace. */
const ENTER = `set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1/tmp"
mount --rbind /dev "$1/dev"
mount -t proc proc "$1/proc"
mount --bind "$2" "$1/nlkt"
hostname localhost
exec chroot "$1" "$3" -c '. /nlkt/run'
`;

/** Nothing else of this process's environment may show in what the jobs print. */
const HOST_PATH = "/usr/sbin:/usr/bin:/sbin:/bin";

const NAMESPACES = ["--mount", "--pid", "--uts", "--ipc", "--net", "--fork", "--kill-child"];

/** The command that runs the script `directory`/run with `shell`, both names as in the tree `root`, with /nlkt as `directory`. */
export function chrootCommand(root: string, directory: string, shell: string) {
  const user = process.getuid?.() === 0 ? [] : ["--user", "--map-root-user"];
  const args = [...user, ...NAMESPACES, "/bin/sh", "-c", ENTER, "sh", root, directory, shell];
  return { command: "unshare", args };
}

export interface HostOptions {
  readonly onResult?: (name: string, result: JobResult) => void;
  /** Files that the jobs leave in /nlkt; their contents are put here. */
  readonly collect?: Map<string, Uint8Array>;
}

/** Runs `jobs` in the tree `root`. Throws `JobsError` where the host does not allow that. */
export async function runOnHost(
  jobs: readonly Job[],
  root: string,
  { onResult, collect }: HostOptions = {},
): Promise<Map<string, JobResult>> {
  const directory = await mkdtemp(path.join(tmpdir(), "nlkt-userland-"));
  try {
    for (const [name, bytes] of jobFiles(jobs)) {
      await writeFile(path.join(directory, name), bytes, { mode: 0o755 });
    }
    const { command, args } = chrootCommand(root, directory, "/bin/sh");
    const child = spawn(command, args, {
      stdio: ["ignore", "pipe", "pipe"],
      env: { PATH: HOST_PATH, GLIBC_TUNABLES: TUNABLES },
    });
    const reader = new JobReader(onResult);
    let messages = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => reader.feed(text));
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      messages += text;
    });
    const code = await new Promise<number | null>((resolve, reject) => {
      child.on("error", (error) => reject(new JobsError(`unshare: ${error.message}`)));
      child.on("close", resolve);
    });
    if (code !== 0 || !reader.done) {
      const last = messages.trim().split("\n").at(-1);
      throw new JobsError(
        `the host cannot run programs of another root file system: ${last || `status ${code}`}`,
      );
    }
    for (const name of collect?.keys() ?? []) {
      collect!.set(name, await readFile(path.join(directory, name)).catch(() => new Uint8Array()));
    }
    return reader.results;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
