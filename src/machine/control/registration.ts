/**
 * An instance among the running ones: it has its name for itself, and answers on its control socket until `release`.
 */
import { chmodSync, existsSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { Connection, type ControlTarget } from "./connection.js";
import { withDirectoryLock } from "./directory-lock.js";
import { runtimeDirectory } from "./runtime-directory.js";
import { isSocket, removeIfStale, removeQuietly, socketFile } from "./socket-file.js";

/** A running instance has the name, or something that is no instance's socket stands in its place. One line. */
export class NameTakenError extends Error {
  override readonly name = "NameTakenError";
}

const SOCKET_MODE = 0o600;
/** More at once than any use has; further ones are turned away. */
const MAX_CONNECTIONS = 64;

export class Registration {
  readonly #server: Server;
  readonly #connections = new Set<Connection>();
  readonly #onExit = () => removeQuietly(this.file);
  #released = false;

  private constructor(
    readonly file: string,
    target: ControlTarget,
  ) {
    this.#server = createServer({ allowHalfOpen: true }, (socket) => {
      if (this.#released) {
        socket.destroy();
        return;
      }
      const connection = new Connection(socket, target);
      this.#connections.add(connection);
      socket.on("close", () => this.#connections.delete(connection));
      socket.unref();
    });
    this.#server.maxConnections = MAX_CONNECTIONS;
    this.#server.unref();
  }

  /**
   * Take `name` and serve its socket. Throws `NameTakenError`, `RuntimeDirectoryError` or another error of one line where that
   * cannot be.
   */
  static async claim(name: string, target: ControlTarget): Promise<Registration> {
    // Made above: it is there.
    const directory = runtimeDirectory(true)!;
    const registration = new Registration(socketFile(directory, name), target);
    await withDirectoryLock(directory, () => registration.#listen(name));
    process.once("exit", registration.#onExit);
    return registration;
  }

  async #listen(name: string): Promise<void> {
    const { file } = this;
    await removeIfStale(file);
    if (existsSync(file)) {
      throw new NameTakenError(
        isSocket(file)
          ? `--name: there is a running instance ${name}`
          : `--name: ${file} is in the way: it is no socket`,
      );
    }
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen(file, resolve);
    });
    this.#server.removeAllListeners("error").on("error", () => {});
    chmodSync(file, SOCKET_MODE);
  }

  /** The instance has ended: it gives up its name, and tells its clients. */
  release(): void {
    if (this.#released) return;
    this.#released = true;
    process.off("exit", this.#onExit);
    removeQuietly(this.file);
    this.#server.close();
    for (const connection of this.#connections) connection.finish();
  }
}
