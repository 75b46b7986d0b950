/**
 * An instance among the running ones: it has its name for itself, and answers on its control socket until `release`.
 */
import { chmodSync, linkSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { Connection, type ControlTarget } from "./connection.js";
import { runtimeDirectory } from "./runtime-directory.js";
import { isAlive, isSocket, removeQuietly, removeStale, socketFile, temporaryFile } from "./socket-file.js";

/** A running instance has the name, or something that is no instance's socket stands in its place. One line. */
export class NameTakenError extends Error {
  override readonly name = "NameTakenError";
}

const SOCKET_MODE = 0o600;
/** More at once than any use has; further ones are turned away. */
const MAX_CONNECTIONS = 64;
/** Others may take the name between a look and the next. */
const ATTEMPTS = 8;

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
    const temporary = temporaryFile(directory);
    try {
      await registration.#listen(temporary);
      // Only a socket that answers gets the name, in one step: one that does not answer is always a dead instance's.
      await registration.#takeName(name, temporary);
    } catch (error) {
      registration.#server.close();
      throw error;
    } finally {
      removeQuietly(temporary);
    }
    process.once("exit", registration.#onExit);
    return registration;
  }

  async #listen(temporary: string): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen(temporary, resolve);
    });
    this.#server.removeAllListeners("error").on("error", () => {});
    chmodSync(temporary, SOCKET_MODE);
  }

  async #takeName(name: string, temporary: string): Promise<void> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      try {
        linkSync(temporary, this.file);
        return;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      }
      if (!isSocket(this.file))
        throw new NameTakenError(`--name: ${this.file} is in the way: it is no socket`);
      if (await isAlive(this.file)) break;
      await removeStale(this.file);
    }
    throw new NameTakenError(`--name: there is a running instance ${name}`);
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
