/** A Unix socket that listens, and its file: taken over from a process that died, taken away at the end. */
import { statSync, unlinkSync } from "node:fs";
import net from "node:net";

/** One line that names the file. */
export class SocketError extends Error {
  override readonly name = "SocketError";
}

/** Listen at `path`. Rejects with `SocketError`. */
export async function listenAt(
  path: string,
  onConnection: (socket: net.Socket) => void,
): Promise<net.Server> {
  try {
    return await listen(path, onConnection);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EADDRINUSE") throw problem(path, error);
  }
  if (statSync(path, { throwIfNoEntry: false })?.isSocket() === false) {
    throw new SocketError(`cannot listen at ${path}: there is a file of that name`);
  }
  // A socket is there: of a process that listens still, or one that was killed.
  if (await isAlive(path)) throw new SocketError(`${path}: another process listens there`);
  try {
    unlinkSync(path);
    return await listen(path, onConnection);
  } catch (error) {
    throw problem(path, error);
  }
}

function problem(path: string, error: unknown): SocketError {
  const { code, message } = error as NodeJS.ErrnoException;
  return new SocketError(`cannot listen at ${path}: ${code ?? message}`);
}

function listen(path: string, onConnection: (socket: net.Socket) => void): Promise<net.Server> {
  return new Promise((resolve, reject) => {
    const server = net.createServer({ allowHalfOpen: true }, onConnection);
    server.once("error", reject);
    server.listen(path, () => {
      server.off("error", reject);
      resolve(server);
    });
  });
}

function isAlive(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = net.connect(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", ({ code }: NodeJS.ErrnoException) => resolve(code !== "ECONNREFUSED"));
  });
}
