/** The socket file of an instance: where it is, whether somebody listens there, and its removal where nobody does. */
import { lstatSync, unlinkSync } from "node:fs";
import { connect } from "node:net";
import path from "node:path";

export const SOCKET_SUFFIX = ".sock";
/** `sun_path` has 108 bytes, the last of which is zero (unix(7)). */
const MAX_SOCKET_PATH = 107;

/** How long to wait for somebody who is there and too busy to accept. */
const CONNECT_MILLISECONDS = 1000;

export function socketFile(directory: string, name: string): string {
  const file = path.join(directory, `${name}${SOCKET_SUFFIX}`);
  if (Buffer.byteLength(file) > MAX_SOCKET_PATH) {
    throw new Error(
      `${file}: the path of a socket has at most ${MAX_SOCKET_PATH} bytes: take a shorter --name`,
    );
  }
  return file;
}

/** Whether a process listens at `file`. */
export function isAlive(file: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(file);
    const finish = (alive: boolean) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(alive);
    };
    const timer = setTimeout(() => finish(true), CONNECT_MILLISECONDS);
    socket.on("connect", () => finish(true));
    // Nobody listens, or nothing is there. Anything else is trouble with a live one: its backlog is full, say.
    socket.on("error", ({ code }: NodeJS.ErrnoException) =>
      finish(code !== "ECONNREFUSED" && code !== "ENOENT"),
    );
  });
}

export function isSocket(file: string): boolean {
  return lstatSync(file, { throwIfNoEntry: false })?.isSocket() === true;
}

/** Remove the socket `file` if nobody listens there. To be called with the directory locked: the name may be taken anew. */
export async function removeIfStale(file: string): Promise<void> {
  if (isSocket(file) && !(await isAlive(file))) removeQuietly(file);
}

export function removeQuietly(file: string): void {
  try {
    unlinkSync(file);
  } catch {
    // It is gone.
  }
}
