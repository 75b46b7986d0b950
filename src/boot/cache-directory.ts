/** NLKT's part of the user's cache directory (XDG Base Directory Specification 0.8). */
import { mkdir, mkdtemp, rename, rm, stat } from "node:fs/promises";
import { homedir } from "node:os";
import path from "node:path";

/** `$XDG_CACHE_HOME/nlkt`, or `~/.cache/nlkt`. The specification has relative paths ignored. */
export function cacheDirectory(): string {
  const xdg = process.env.XDG_CACHE_HOME;
  return path.join(xdg && path.isAbsolute(xdg) ? xdg : path.join(homedir(), ".cache"), "nlkt");
}

export async function exists(file: string): Promise<boolean> {
  return stat(file).then(
    () => true,
    () => false,
  );
}

/**
 * The directory `target`, made by `fill` if it is not there. `fill` works in a temporary directory beside it that is
 * renamed in one step, so `target` is complete or absent; where two processes make it at the same time, one wins and
 * both use the winner's.
 */
export async function makeOnce(target: string, fill: (temporary: string) => Promise<void>): Promise<string> {
  if (await exists(target)) return target;
  await mkdir(path.dirname(target), { recursive: true });
  const temporary = await mkdtemp(`${target}.tmp-`);
  try {
    await fill(temporary);
    await rename(temporary, target).catch(async (error) => {
      if (!(await exists(target))) throw error;
    });
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
  return target;
}
