/** Runs bin/nlkt.js as a user would. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { FAKE_PROVIDER } from "../machine/script-kernel.js";

/** This file runs as dist/test/cli/nlkt.js. */
export const NLKT = fileURLToPath(new URL("../../../bin/nlkt.js", import.meta.url));

const TIMEOUT_MILLISECONDS = 60_000;

export const environment = {
  ...process.env,
  NO_COLOR: "1",
  NLKT_PROVIDER_MODULE: FAKE_PROVIDER,
  // Every thread of these machines checks the order of its locks.
  NLKT_LOCKDEP: "1",
};

export interface Result {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Run `nlkt args` to its end. */
export function nlkt(args: readonly string[], options: { input?: string; cwd?: string } = {}): Result {
  const { status, stdout, stderr } = spawnSync(process.execPath, [NLKT, ...args], {
    encoding: "utf8",
    env: environment,
    input: "",
    timeout: TIMEOUT_MILLISECONDS,
    ...options,
  });
  return { code: status, stdout, stderr };
}

/** Start `nlkt args` with pipes at all three ends. */
export function start(args: readonly string[]): ChildProcess {
  return spawn(process.execPath, [NLKT, ...args], { env: environment, timeout: TIMEOUT_MILLISECONDS });
}

/** Resolves once `child` printed `text` on standard output. */
export function printed(child: ChildProcess, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    let seen = "";
    child.stdout!.on("data", (chunk: Buffer) => {
      seen += chunk.toString("latin1");
      if (seen.includes(text)) resolve();
    });
    child.on("exit", () => reject(new Error(`ended without printing ${text}: ${seen}`)));
  });
}

/** Resolves to what `child` ended with. */
export function ended(child: ChildProcess): Promise<{ code: number | null; signal: string | null }> {
  return new Promise((resolve) => {
    child.on("close", (code, signal) => resolve({ code, signal }));
  });
}
