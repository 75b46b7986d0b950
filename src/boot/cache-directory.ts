/** NLKT's part of the user's cache directory (XDG Base Directory Specification 0.8). */
import { mkdir, mkdtemp, readdir, rename, rm, stat } from "node:fs/promises";
import { homedir } from "node:os";
import path from "node:path";
import { BootError } from "./boot-error.js";

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
  await makeCacheDirectory(path.dirname(target));
  await removeStale(target);
  const temporary = await mkdtemp(target + TEMPORARY).catch((error) =>
    refusedByCache(path.dirname(target), error),
  );
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

/** Makes `directory` of the cache and those above it. Throws `BootError`. */
export async function makeCacheDirectory(directory: string): Promise<void> {
  try {
    await makeWithParents(directory);
  } catch (error) {
    refusedByCache(directory, error as NodeJS.ErrnoException);
  }
}

/** Node's own `mkdir` with `recursive` never ends where a file system has no new directories: /proc. */
async function makeWithParents(directory: string): Promise<void> {
  const make = () =>
    mkdir(directory).catch(async (error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST" || !(await stat(directory)).isDirectory()) throw error;
    });
  try {
    await make();
  } catch (error) {
    const parent = path.dirname(directory);
    if ((error as NodeJS.ErrnoException).code !== "ENOENT" || parent === directory) throw error;
    if (await exists(parent)) throw error;
    await makeWithParents(parent);
    await make();
  }
}

/** What to say instead of "EACCES: permission denied, mkdir …". */
const REASONS: Readonly<Record<string, string>> = {
  EACCES: "permission denied",
  EROFS: "read-only file system",
  ENOSPC: "no space left",
  EDQUOT: "no space left",
  ENOTDIR: "its path leads through a file",
  EEXIST: "a file is in its place",
  ENOENT: "it cannot be made",
};

/** Throws the `BootError` for a file operation in `directory` of the cache that failed. */
export function refusedByCache(directory: string, { code, message }: NodeJS.ErrnoException): never {
  const reason = REASONS[code ?? ""] ?? message;
  throw new BootError(
    `cache directory ${directory}: ${reason}: set XDG_CACHE_HOME to a directory of yours, or name a kernel with -k`,
  );
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
