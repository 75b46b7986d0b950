/** A lock on a directory between processes: flock(2), which the kernel lets go when its process dies. */
import { closeSync, constants, openSync } from "node:fs";
import koffi from "koffi";

const LOCK_EX = 2;
const LOCK_NB = 4;

const flock = koffi.load(null).func("int flock(int, int)");

/** It is held for milliseconds; whoever holds it for longer hangs. */
const WAIT_MILLISECONDS = 5000;
const POLL_MILLISECONDS = 5;

/** Run `body` while no other process, and nobody else in this one, holds the lock on `directory`. */
export async function withDirectoryLock<T>(directory: string, body: () => Promise<T>): Promise<T> {
  const fd = openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    const until = Date.now() + WAIT_MILLISECONDS;
    // A call that waits would stop this thread, and with it a machine's console.
    while (flock(fd, LOCK_EX | LOCK_NB) !== 0) {
      if (Date.now() > until) throw new Error(`${directory}: another process keeps it locked`);
      await new Promise((resolve) => setTimeout(resolve, POLL_MILLISECONDS));
    }
    return await body();
  } finally {
    closeSync(fd);
  }
}
