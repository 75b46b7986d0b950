/**
 * The host's ends of vsock streams as Unix sockets, by Firecracker's convention (its docs/vsock.md), so that clients for it
 * work:
 *
 *   A program connects to PATH, writes "CONNECT PORT\n", and reads "OK HOSTPORT\n" when the guest has accepted; from then on the
 *   socket is the stream. A refused one is closed.
 *   A guest that connects to port N of CID 2 reaches the program that listens at PATH_N.
 */
import net from "node:net";
import type { Duplex } from "node:stream";
import type { VsockGuest, VsockHost } from "../streams.js";
import { listenAt } from "./unix-listener.js";

/** "CONNECT 4294967295\n" has 19 bytes. */
const MAX_REQUEST = 32;
const LINE_FEED = 0x0a;
const REQUEST = /^CONNECT (\d{1,10})\r?$/i;
const PORTS = 2 ** 32;
/** How long a program may take over its request. */
const REQUEST_MILLISECONDS = 10_000;

export class VsockSockets implements VsockHost {
  readonly #guest: VsockGuest;
  readonly #path: string;
  #server: net.Server | undefined;

  constructor(guest: VsockGuest, path: string) {
    this.#guest = guest;
    this.#path = path;
  }

  /** Rejects with `SocketError`. */
  async listen(): Promise<void> {
    this.#server = await listenAt(this.#path, (socket) => this.#accept(socket));
  }

  /** Node removes the file with the server. */
  close(): void {
    this.#server?.close();
  }

  connect(port: number, done: (socket: Duplex | undefined) => void): void {
    const socket = net.connect({ path: `${this.#path}_${port}`, allowHalfOpen: true });
    const failed = () => done(undefined);
    socket.once("error", failed);
    socket.once("connect", () => {
      socket.off("error", failed);
      // What goes wrong later ends the stream: "close" follows.
      socket.on("error", () => {});
      done(socket);
    });
  }

  /** Read the request line. */
  #accept(socket: net.Socket): void {
    let line = Buffer.alloc(0);
    socket.on("error", () => {});
    socket.setTimeout(REQUEST_MILLISECONDS, () => socket.destroy());
    const onData = (chunk: Buffer) => {
      line = Buffer.concat([line, chunk]);
      const end = line.indexOf(LINE_FEED);
      if (end < 0 && line.length <= MAX_REQUEST) return;
      socket.off("data", onData);
      socket.pause();
      socket.setTimeout(0);
      const port = end < 0 || end > MAX_REQUEST ? undefined : requestedPort(line.toString("latin1", 0, end));
      if (port === undefined) {
        socket.destroy();
        return;
      }
      // What came behind the line is the stream's first data.
      const rest = line.subarray(end + 1);
      if (rest.length > 0) socket.unshift(rest);
      this.#guest.open(port, socket, (hostPort) => {
        if (hostPort === undefined) socket.destroy();
        else socket.write(`OK ${hostPort}\n`);
      });
    };
    socket.on("data", onData);
    socket.once("end", () => {
      if (line.indexOf(LINE_FEED) < 0) socket.destroy();
    });
  }
}

function requestedPort(line: string): number | undefined {
  const port = Number(REQUEST.exec(line)?.[1] ?? Number.NaN);
  return port < PORTS ? port : undefined;
}
