/** NLKT and QEMU, started on the same guest: the same kernel, initrd, command line and memory. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { kernelCommandLine } from "../src/boot/command-line.js";

const NLKT = fileURLToPath(new URL("../../bin/nlkt.js", import.meta.url));
const QEMU = "qemu-system-x86_64";
const DEFAULT_MEMORY_MIB = 512;
/** Many times what any run takes. */
const TIMEOUT_SECONDS = 600;

export interface GuestSpec {
  readonly kernel: string;
  readonly initrd: string;
  readonly memoryMiB?: number;
  /** vCPUs, one where left out. */
  readonly cpus?: number;
  readonly disk?: GuestDisk;
  /** More kernel parameters. */
  readonly params?: string;
}

export interface GuestDisk {
  readonly file: string;
  readonly format: "raw" | "qcow2";
  /** What the guest writes is dropped. */
  readonly temporary?: boolean;
}

export type Start = (guest: GuestSpec) => Guest;

export type Accel = "soft" | "kvm";

/** `tier` is for `soft`. */
export const startNlkt =
  (accel: Accel, tier: string): Start =>
  ({ kernel, initrd, memoryMiB = DEFAULT_MEMORY_MIB, cpus = 1, disk, params = "" }) => {
    const options = ["--accel", accel, "--loglevel", "debug", "-m", `${memoryMiB}`];
    if (accel === "soft") options.push("--tier", tier);
    options.push("-c", `${cpus}`);
    if (disk !== undefined) {
      options.push("-d", `${disk.file},format=${disk.format}${disk.temporary ? ",cow" : ""}`);
    }
    options.push("-k", kernel, "-i", initrd, "-p", `quiet ${params}`.trim());
    return new Guest(process.execPath, [NLKT, "run", ...options]);
  };

/** No devices but what the guest uses, so that its firmware and Linux have as little to do as under NLKT. */
export const startQemu =
  (accel: Accel): Start =>
  ({ kernel, initrd, memoryMiB = DEFAULT_MEMORY_MIB, cpus = 1, disk, params = "" }) =>
    new Guest(QEMU, [
      ...[
        "-accel",
        accel === "kvm" ? "kvm" : "tcg,thread=multi",
        "-machine",
        "pc",
        "-cpu",
        "max",
        "-m",
        `${memoryMiB}`,
      ],
      ...["-smp", `${cpus}`],
      ...["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"],
      ...(disk === undefined ? [] : ["-drive", driveOf(disk)]),
      ...["-kernel", kernel, "-initrd", initrd],
      ...["-append", kernelCommandLine({ console: "ttyS0", quiet: true, params: [params] })],
    ]);

function driveOf({ file, format, temporary }: GuestDisk): string {
  return `file=${file},format=${format},if=virtio${temporary ? ",snapshot=on" : ""}`;
}

/** QEMU's version, or undefined where there is none. */
export function qemuVersion(): string | undefined {
  const { status, stdout } = spawnSync(QEMU, ["--version"], { encoding: "utf8" });
  return status === 0 ? (/version ([\d.]+)/.exec(stdout)?.[1] ?? "unknown") : undefined;
}

/** A guest that runs, and what it printed when. */
export class Guest {
  readonly #child: ChildProcess;
  readonly #started = performance.now();
  #output = "";
  stderr = "";
  /** Resolves to the seconds from the start to the end of the process. Rejects where it failed. */
  readonly ended: Promise<number>;
  #wake: () => void = () => {};
  #problem: Error | undefined;

  constructor(command: string, args: readonly string[]) {
    this.#child = spawn(command, args, { stdio: ["pipe", "pipe", "pipe"] });
    this.#child.stdin!.on("error", () => {});
    this.#child.stdout!.setEncoding("latin1").on("data", (text: string) => {
      this.#output += text;
      this.#wake();
    });
    this.#child.stderr!.setEncoding("latin1").on("data", (text: string) => {
      this.stderr += text;
    });
    this.ended = new Promise((resolve, reject) => {
      this.#child.on("error", reject);
      const timer = setTimeout(() => this.#child.kill("SIGTERM"), TIMEOUT_SECONDS * 1000);
      this.#child.on("close", (code, signal) => {
        clearTimeout(timer);
        this.#wake();
        if (this.#problem !== undefined) reject(this.#problem);
        else if (code === 0 || signal === "SIGKILL") resolve((performance.now() - this.#started) / 1000);
        else reject(this.#failure(`ended with ${code ?? signal}`));
      });
    });
    this.ended.catch(() => {});
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** Resolves to the time, in seconds since the start, at which `text` had been printed. */
  async printed(text: string): Promise<number> {
    while (!this.#output.includes(text)) {
      const { exitCode, signalCode } = this.#child;
      if (exitCode !== null || signalCode !== null) throw this.#failure(`did not print ${text}`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return (performance.now() - this.#started) / 1000;
  }

  /** Calls `read` with each line from now on as it comes; what it throws ends the guest, and `ended` rejects with it. */
  onLine(read: (line: string) => void): void {
    let rest = "";
    this.#child.stdout!.on("data", (text: string) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      try {
        if (this.#problem === undefined) lines.forEach(read);
      } catch (error) {
        this.#problem = error as Error;
        this.kill();
      }
    });
  }

  #failure(what: string): Error {
    return new Error(
      `${what}; its last words: ${JSON.stringify(`${this.#output}${this.stderr}`.slice(-300))}`,
    );
  }

  /** End it; it is idle and has nothing to lose. */
  kill(): void {
    this.#child.kill("SIGKILL");
  }
}
