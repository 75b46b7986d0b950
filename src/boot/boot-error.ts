/** What cannot be booted or fetched, and why, in one line that the command line prints as it is. */
export class BootError extends Error {
  override readonly name = "BootError";
}

/** A size for a message: `64 MiB`, `12.3 MiB`, `512 bytes`. */
export function formatSize(bytes: number): string {
  for (const [unit, name] of [
    [2 ** 30, "GiB"],
    [2 ** 20, "MiB"],
    [2 ** 10, "KiB"],
  ] as const) {
    if (bytes >= unit) {
      const value = bytes / unit;
      return `${Number(value.toFixed(1))} ${name}`;
    }
  }
  return `${bytes} bytes`;
}
