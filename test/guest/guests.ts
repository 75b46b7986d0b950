/** Guests for the tests: Debian's kernels, and NLKT started as a user starts it. */
import { type ChildProcess, spawn } from "node:child_process";
import { fetchInitramfs, fetchKernel } from "../../src/boot/default-guest.js";
import { NLKT } from "../cli/nlkt.js";

/** Far more than a boot takes on a slow host; a guest that hangs is ended by it. */
export const TIMEOUT_SECONDS = 300;

/** The kernels that NLKT promises to boot: of Debian 12, and its backport of a newer one. */
export const DEBIAN_KERNELS = ["bookworm", "bookworm-backports"].flatMap((suite) =>
  ["linux-image-cloud-amd64", "linux-image-amd64"].map((name) => ({ suite, package: name })),
);

export interface Files {
  readonly kernel: string;
  /** The package file that the kernel came in, with its modules. */
  readonly deb: string;
  readonly initrd: string;
}

/** A kernel and the default guest's initramfs, or why they cannot be had here. */
export async function guestFiles(request = DEBIAN_KERNELS[0]): Promise<Files | string> {
  try {
    const { vmlinuz, deb } = await fetchKernel(request);
    return { kernel: vmlinuz, deb, initrd: await fetchInitramfs() };
  } catch (error) {
    return `no ${request.package} of ${request.suite}: ${(error as Error).message}`;
  }
}

export interface Result {
  /** Exit code; null where a signal ended NLKT. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  /** Host time, in seconds since 1970, before NLKT was started and after it ended. */
  readonly from: number;
  readonly to: number;
}

/** NLKT_TEST_TIER: `--tier` of all guests. */
const { NLKT_TEST_TIER: tier } = process.env;
export const tierOptions: readonly string[] = tier === undefined ? [] : ["--tier", tier];

/** Start `nlkt run args`, its three ends pipes. */
export function startGuest(args: readonly string[]): ChildProcess {
  return spawn(process.execPath, [NLKT, "run", "--timeout", `${TIMEOUT_SECONDS}`, ...tierOptions, ...args]);
}

/** `nlkt run args` to its end, with `input` typed. */
export async function runGuest(args: readonly string[], input = ""): Promise<Result> {
  const from = Date.now() / 1000;
  const child = startGuest(args);
  const text = { stdout: "", stderr: "" };
  for (const end of ["stdout", "stderr"] as const) {
    child[end]!.setEncoding("utf8").on("data", (chunk: string) => {
      text[end] += chunk;
    });
  }
  child.stdin!.on("error", () => {});
  child.stdin!.end(input);
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", resolve);
  });
  return { code, ...text, from, to: Date.now() / 1000 };
}

/** What a guest printed between two lines that are `begin` and `end`, as lines. */
export function linesBetween(output: string, begin: string, end: string): string[] {
  const lines = output.split(/\r?\n/);
  const from = lines.findIndex((line) => line.endsWith(begin));
  const to = lines.indexOf(end, from);
  return from < 0 || to < 0 ? [] : lines.slice(from + 1, to);
}
