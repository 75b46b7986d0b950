/** NLKT's part of the user's cache directory (XDG Base Directory Specification 0.8). */
import { mkdir, mkdtemp, readdir, rename, rm, stat } from "node:fs/promises";
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

/** Between the name of a directory and the random end of the temporary one that becomes it. */
export const TEMPORARY = ".tmp-";
/** Longer than any download that is worth waiting for. */
const STALE_MS = 3_600_000;

/**
 * The directory `target`, made by `fill` if it is not there. `fill` works in a temporary directory beside it that is
 * renamed in one step, so `target` is complete or absent; where two processes make it at the same time, one wins and
 * both use the winner's.
 */
export async function makeOnce(target: string, fill: (temporary: string) => Promise<void>): Promise<string> {
  if (await exists(target)) return target;
  await mkdir(path.dirname(target), { recursive: true });
  await removeStale(target);
  const temporary = await mkdtemp(target + TEMPORARY);
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

/** Removes what processes that were interrupted have left. */
async function removeStale(target: string): Promise<void> {
  const parent = path.dirname(target);
  for (const name of await readdir(parent)) {
    if (!name.startsWith(path.basename(target) + TEMPORARY)) continue;
    const directory = path.join(parent, name);
    const status = await stat(directory).catch(() => undefined);
    if (status !== undefined && Date.now() - status.mtimeMs > STALE_MS) {
      await rm(directory, { recursive: true, force: true });
    }
  }
}
