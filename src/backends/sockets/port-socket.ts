/** A console port's end on the host as a Unix socket that one program at a time connects to. */
import type net from "node:net";
import type { PortStream } from "../streams.js";
import { listenAt } from "./unix-listener.js";

/** Bytes read ahead of the guest. */
const READ_AHEAD = 64 * 1024;

export class PortSocket implements PortStream {
  readonly #wake: () => void;
  #socket: net.Socket | undefined;
  #server: net.Server | undefined;
  #chunks: Buffer[] = [];
  #buffered = 0;

  /** `wake` is called when something changed. */
  constructor(wake: () => void) {
    this.#wake = wake;
  }

  /** Rejects with `SocketError`. */
  async listen(path: string): Promise<void> {
    this.#server = await listenAt(path, (socket) => this.#accept(socket));
  }

  close(): void {
    this.#server?.close();
    this.#socket?.destroy();
  }

  #accept(socket: net.Socket): void {
    socket.on("error", () => {});
    if (this.#socket !== undefined) {
      socket.destroy();
      return;
    }
    this.#socket = socket;
    socket.on("data", (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#buffered += chunk.length;
      if (this.#buffered >= READ_AHEAD) socket.pause();
      this.#wake();
    });
    socket.on("end", () => socket.end());
    socket.on("close", () => {
      this.#socket = undefined;
      this.#wake();
    });
    this.#wake();
  }

  get connected(): boolean {
    return this.#socket !== undefined;
  }

  get length(): number {
    return this.#buffered;
  }

  read(limit: number): Uint8Array {
    const all = Buffer.concat(this.#chunks);
    const taken = all.subarray(0, limit);
    this.#chunks = taken.length < all.length ? [all.subarray(limit)] : [];
    this.#buffered = all.length - taken.length;
    if (this.#buffered < READ_AHEAD) this.#socket?.resume();
    return taken;
  }

  write(bytes: Uint8Array): number {
    const socket = this.#socket;
    if (socket === undefined) return bytes.length;
    if (socket.writableNeedDrain) return 0;
    socket.write(Buffer.from(bytes));
    return bytes.length;
  }

  whenWritable(then: () => void): void {
    this.#socket?.once("drain", then);
  }
}
