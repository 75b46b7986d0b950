/** The host's own CPU as a side: the jobs in a chroot of the same files. */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { chrootCommand } from "../test/userland/host-run.js";
import { JobReader, type JobSample } from "./jobs.js";

/** Runs the script `files`/run in the tree `root`. Throws where the host does not allow that or a job fails. */
export async function runNative(root: string, files: string): Promise<JobSample[]> {
  const { command, args } = chrootCommand(root, files, "/bin/bash");
  const child = spawn(command, args, {
    stdio: ["ignore", "pipe", "pipe"],
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
  });
  const ended = new Promise<number | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", resolve);
  });
  let messages = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    messages += text;
  });
  const reader = new JobReader();
  let problem: unknown;
  createInterface({ input: child.stdout }).on("line", (line) => {
    try {
      reader.line(line);
    } catch (error) {
      problem ??= error;
    }
  });
  const status = await ended;
  if (problem !== undefined) throw problem;
  if (!reader.done) throw new Error(messages.trim().split("\n").at(-1) || `ended with ${status}`);
  return reader.samples;
}
