/**
 * Where the sockets of running instances are: a directory of the user's own that others cannot look into. It has to be the same
 * for all of a user's processes.
 */
import { lstatSync, mkdirSync, type Stats } from "node:fs";
import path from "node:path";

/** The directory cannot be used; one line says why. */
export class RuntimeDirectoryError extends Error {
  override readonly name = "RuntimeDirectoryError";
}

const PRIVATE_MODE = 0o700;
const OTHERS = 0o077;
const PERMISSIONS = 0o777;

/**
 * `$XDG_RUNTIME_DIR/nlkt`, `/run/user/UID/nlkt` or `/tmp/nlkt-UID`: the first whose parent is there and, in the first two cases,
 * belongs to the user (XDG Base Directory Specification 0.8 demands that; with su and sudo the variable may name another
 * user's).
 */
export function runtimeDirectoryPath(environment: NodeJS.ProcessEnv = process.env, uid = userId()): string {
  const given = environment.XDG_RUNTIME_DIR;
  const bases = [...(given && path.isAbsolute(given) ? [given] : []), `/run/user/${uid}`];
  const base = bases.find((directory) => belongsTo(directory, uid));
  return base === undefined ? `/tmp/nlkt-${uid}` : path.join(base, "nlkt");
}

/**
 * The directory, made if it is not there and `make` says so; undefined where it is not there. Throws `RuntimeDirectoryError` where
 * it is not a private directory of this user: anybody may make a name in /tmp.
 */
export function runtimeDirectory(make: boolean): string | undefined {
  const directory = runtimeDirectoryPath();
  try {
    if (make) mkdirSync(directory, { mode: PRIVATE_MODE });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code !== "EEXIST") throw new RuntimeDirectoryError(`${directory}: cannot be made: ${message}`);
  }
  const status = lstat(directory);
  if (status === undefined) return undefined;
  const problem = whatIsWrong(status);
  if (problem !== undefined) throw new RuntimeDirectoryError(`${directory}: ${problem}`);
  return directory;
}

function whatIsWrong(status: Stats): string | undefined {
  if (!status.isDirectory()) return "is no directory";
  if (status.uid !== userId())
    return `belongs to user ${status.uid}, and instances' sockets may only be in your own`;
  const mode = status.mode & PERMISSIONS;
  if ((mode & OTHERS) !== 0) {
    return `is open to other users (mode ${mode.toString(8)}): see who put what there, then chmod 700 it`;
  }
  return undefined;
}

function belongsTo(directory: string, uid: number): boolean {
  const status = lstat(directory);
  return status?.isDirectory() === true && status.uid === uid;
}

function lstat(file: string): Stats | undefined {
  return lstatSync(file, { throwIfNoEntry: false });
}

function userId(): number {
  // There on every POSIX system.
  return process.getuid!();
}
