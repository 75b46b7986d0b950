/**
 * The user's terminal or whatever else standard input and output are: raw mode that is undone on every way out,
 * the escape keys, output that arrives whole and in order.
 */
import type { Readable, Writable } from "node:stream";
import { type EscapeActions, EscapeKeys } from "./escape-keys.js";

export interface TerminalHandlers<A extends string> {
  /** The keys that are not the guest's. */
  readonly keys: EscapeActions<A>;
  /** Bytes for the guest. Calls back when it took them. */
  onInput(bytes: Uint8Array, done: () => void): void;
  onAction(action: A): void;
}

/** Connects standard input to the guest's console until `close`. */
export class TerminalInput {
  readonly #onData: (chunk: Buffer) => void;
  readonly #restore = () => this.#setRaw(false);
  /** Stopped from outside (`kill -TSTP`): the shell gets its terminal as it was. */
  readonly #suspend = () => {
    this.#setRaw(false);
    process.kill(process.pid, "SIGSTOP");
  };
  readonly #continue = () => this.#setRaw(true);

  constructor(handlers: TerminalHandlers<string>) {
    const { stdin } = process;
    const keys = new EscapeKeys(handlers.keys);
    this.#onData = (chunk) => {
      let bytes: Uint8Array = chunk;
      if (stdin.isTTY) {
        const fed = keys.feed(chunk);
        bytes = fed.bytes;
        for (const action of fed.actions) handlers.onAction(action);
      }
      if (bytes.length === 0) return;
      stdin.pause();
      handlers.onInput(bytes, () => stdin.resume());
    };
    stdin.on("data", this.#onData);
    // A standard input that is closed or unreadable gives no input; the guest runs all the same.
    stdin.on("error", () => {});
    this.#setRaw(true);
    process.on("exit", this.#restore);
    if (stdin.isTTY) process.on("SIGTSTP", this.#suspend).on("SIGCONT", this.#continue);
  }

  #setRaw(raw: boolean): void {
    const { stdin } = process;
    try {
      if (stdin.isTTY) stdin.setRawMode(raw);
    } catch {
      // The terminal is gone (EIO): there is nothing left to restore.
    }
  }

  close(): void {
    const { stdin } = process;
    process.off("exit", this.#restore).off("SIGTSTP", this.#suspend).off("SIGCONT", this.#continue);
    this.#restore();
    stdin.off("data", this.#onData);
    stdin.pause();
    stdin.unref?.();
  }
}

/** Copies the guest's console to `output`, unchanged. Resolves when all of it is written or nobody reads any more. */
export function copyConsole(source: Readable, output: Writable): Promise<void> {
  return new Promise((resolve) => {
    let pending = 0;
    let ended = false;
    const settle = () => {
      if (ended && pending === 0) resolve();
    };
    source.on("data", (chunk: Buffer) => {
      pending++;
      const more = output.write(chunk, () => {
        pending--;
        settle();
      });
      if (!more) source.pause();
    });
    output.on("drain", () => source.resume());
    output.on("error", () => {
      // EPIPE: the reader left. The guest goes on as with a terminal that was unplugged.
      source.removeAllListeners("data");
      source.resume();
      resolve();
    });
    source.on("end", () => {
      ended = true;
      settle();
    });
  });
}
