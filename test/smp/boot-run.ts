/** Boots a Debian kernel with several vCPUs into a short command, and looks for complaints in its log. */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { complaints } from "./guest-log.js";

const NLKT = fileURLToPath(new URL("../../../bin/nlkt.js", import.meta.url));

/** Bytes of output that are kept. */
const MAX_LOG = 4 << 20;

export interface BootOptions {
  readonly kernel: string;
  readonly cpus: number;
  /** MiB. */
  readonly memory?: number;
  readonly timeoutSeconds: number;
  /** Shell command in the default guest; its status has to be 0. */
  readonly command?: string;
  /** In its place, an initial RAM disk, and what the guest has to print before it powers off. */
  readonly initrd?: { readonly file: string; readonly prints: string };
  /** More options of `nlkt run`. */
  readonly options?: readonly string[];
  readonly onOutput?: (text: string) => void;
}

export interface BootResult {
  /** What went wrong; empty where nothing did. */
  readonly problems: readonly string[];
  readonly log: string;
  readonly seconds: number;
}

/** All processors are there, each runs a program, and the clocks go on. */
export function checkCommand(cpus: number): string {
  const each = Array.from(
    { length: cpus },
    (_, cpu) => `taskset ${(1 << cpu).toString(16)} true || exit 3`,
  ).join("; ");
  return `test "$(nproc)" = ${cpus} || exit 2; ${each}; cat /proc/interrupts >/dev/null; sleep 0.2; dmesg | tail -n 1 >/dev/null`;
}

export async function boot(options: BootOptions): Promise<BootResult> {
  const started = performance.now();
  const child = spawn(
    process.execPath,
    [
      NLKT,
      "run",
      "--accel",
      "soft",
      "--kernel",
      options.kernel,
      "--cpus",
      String(options.cpus),
      "--mem",
      String(options.memory ?? 512),
      "--timeout",
      String(options.timeoutSeconds),
      ...(options.initrd === undefined ? [] : ["--initrd", options.initrd.file]),
      ...(options.options ?? []),
      ...(options.command === undefined ? [] : ["--", "sh", "-c", options.command]),
    ],
    { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, NLKT_LOCKDEP: "1" } },
  );
  const end = () => child.kill();
  process.once("exit", end);
  let log = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk: Buffer) => {
      const text = chunk.toString("latin1");
      options.onOutput?.(text);
      log = (log + text).slice(-MAX_LOG);
    });
  }
  const status = await new Promise<string>((resolve) => {
    child.on("error", (error) => resolve(error.message));
    child.on("close", (code, signal) => resolve(String(signal ?? code)));
  });
  process.off("exit", end);
  const problems = complaints(log);
  const prints = options.initrd?.prints;
  if (prints !== undefined && !log.includes(prints)) problems.unshift(`did not print "${prints}"`);
  if (status !== "0") problems.unshift(`ended with status ${status}`);
  return { problems, log, seconds: (performance.now() - started) / 1000 };
}
