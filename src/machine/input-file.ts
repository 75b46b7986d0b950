/** Reading the files that an option names, with errors that a user can act on. */
import { type FileHandle, open } from "node:fs/promises";
import { ConfigError } from "./config.js";
import { formatMiB } from "./memory-map.js";

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: "no such file",
  ENOTDIR: "no such file",
  EACCES: "permission denied",
  EPERM: "permission denied",
  EISDIR: "is a directory",
  ELOOP: "too many symbolic links",
};

const CHUNK = 2 ** 20;

/**
 * All of `file`, a regular file or a pipe, of at most `limit` bytes. Throws `ConfigError`, which names `what` (an
 * option, such as `--initrd`).
 */
export async function readInputFile(what: string, file: string, limit: number): Promise<Uint8Array> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(file, "r");
    const stat = await handle.stat();
    if (stat.isDirectory()) throw new ConfigError(`${what} ${file}: is a directory`);
    if (!stat.isFile() && !stat.isFIFO()) throw new ConfigError(`${what} ${file}: is no file`);
    if (stat.size > limit) throw tooLarge(what, file, limit);
    return stat.isFile() ? await readSized(handle, stat.size) : await readPipe(handle, what, file, limit);
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    throw new ConfigError(`${what} ${file}: ${REASONS[code ?? ""] ?? message}`);
  } finally {
    await handle?.close();
  }
}

function tooLarge(what: string, file: string, limit: number): ConfigError {
  return new ConfigError(`${what} ${file}: is larger than ${formatMiB(limit)}`);
}

/** What the file holds of its first `size` bytes: it may be cut while it is read. */
async function readSized(handle: FileHandle, size: number): Promise<Uint8Array> {
  const bytes = Buffer.allocUnsafe(size);
  let at = 0;
  while (at < size) {
    const { bytesRead } = await handle.read(bytes, at, size - at, null);
    if (bytesRead === 0) break;
    at += bytesRead;
  }
  return bytes.subarray(0, at);
}

async function readPipe(handle: FileHandle, what: string, file: string, limit: number): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  let total = 0;
  for (;;) {
    const chunk = Buffer.allocUnsafe(CHUNK);
    const { bytesRead } = await handle.read(chunk, 0, CHUNK, null);
    if (bytesRead === 0) return Buffer.concat(chunks);
    total += bytesRead;
    if (total > limit) throw tooLarge(what, file, limit);
    chunks.push(chunk.subarray(0, bytesRead));
  }
}
