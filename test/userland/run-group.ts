/** Runs a group of jobs in a guest and, where there is something to compare, on the host. */
import { readFile } from "node:fs/promises";
import path from "node:path";
import { fetchKernel } from "../../src/boot/default-guest.js";
import { runInGuest } from "./guest-run.js";
import { runOnHost } from "./host-run.js";
import type { JobResult } from "./job.js";
import { type Group, groupJobs } from "./jobs.js";
import { rootTree } from "./root-tree.js";
import { USERLANDS } from "./userlands.js";

export interface Verdict {
  readonly name: string;
  readonly seconds: number;
  /** What is wrong, where something is. */
  readonly problem?: string;
}

export interface RunOptions {
  readonly timeoutSeconds: number;
  /** More options for `nlkt run`. */
  readonly options?: readonly string[];
  readonly onVerdict?: (verdict: Verdict) => void;
  readonly transcript?: string;
}

/** A line of each is shown where they differ, and as many lines before. */
const CONTEXT_LINES = 2;

function difference(guest: JobResult, host: JobResult): string | undefined {
  const problems: string[] = [];
  if (guest.status !== host.status)
    problems.push(`status ${guest.status} in the guest, ${host.status} on the host`);
  const ours = guest.output.split("\n");
  const theirs = host.output.split("\n");
  const line = ours.findIndex((text, i) => text !== theirs[i]);
  const first = line < 0 && ours.length < theirs.length ? ours.length : line;
  if (first >= 0) {
    const before = ours.slice(Math.max(0, first - CONTEXT_LINES), first).map((text) => `    ${text}`);
    problems.push(
      [`line ${first + 1}:`, ...before, `guest: ${ours[first]}`, `host:  ${theirs[first]}`].join("\n"),
    );
  }
  return problems.length === 0 ? undefined : problems.join("\n");
}

/** What the guest runs `group` with. */
async function guestFiles(group: Group) {
  const tree = await rootTree(USERLANDS[group.userland]);
  const { kernel: name } = group;
  if (name === undefined) return { tree, kernel: (await fetchKernel()).vmlinuz };
  const { vmlinuz } = await fetchKernel({ package: name, architecture: "i386" });
  return { tree, kernel: vmlinuz, busybox: await readFile(path.join(tree.root, "bin/busybox")) };
}

/** Runs `group`. Throws `BootError` or `JobsError` where it cannot be run or the guest ends before it. */
export async function runGroup(group: Group, options: RunOptions): Promise<Verdict[]> {
  const { onVerdict = () => {}, ...rest } = options;
  const { tree, ...machine } = await guestFiles(group);
  const { compared, checked } = await groupJobs(group);
  const expected = await runOnHost(compared, tree.root);
  const verdicts: Verdict[] = [];
  await runInGuest([...compared, ...checked], {
    ...machine,
    ...rest,
    image: tree.image,
    memoryMiB: group.memoryMiB,
    onResult: (name, result) => {
      const host = expected.get(name);
      const failed =
        result.status === 0 ? undefined : `status ${result.status}\n${result.output.slice(-3000)}`;
      const problem = host === undefined ? failed : difference(result, host);
      const verdict = { name, seconds: result.seconds, ...(problem === undefined ? {} : { problem }) };
      verdicts.push(verdict);
      onVerdict(verdict);
    },
  });
  return verdicts;
}
