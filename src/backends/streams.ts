/** What devices and the host's sockets know of each other. */
import type { Duplex } from "node:stream";

/** The host's end of a console port. */
export interface PortStream {
  /** Somebody is there. */
  readonly connected: boolean;
  /** Bytes that wait for the guest. */
  readonly length: number;
  /** Take out up to `limit` of them. */
  read(limit: number): Uint8Array;
  /** Bytes of the guest; how many were taken is returned. */
  write(bytes: Uint8Array): number;
  /** Call back once when `write` may take more. */
  whenWritable(then: () => void): void;
  /** The guest opened or closed its end. */
  guestOpened?(open: boolean): void;
}

/** The host as guests see it over vsock: what listens on the ports of CID 2. */
export interface VsockHost {
  /** The guest asks for a stream to `port`. Call back with the socket, or with undefined where nobody listens. */
  connect(port: number, done: (socket: Duplex | undefined) => void): void;
}

/** A guest as programs of the host see it over vsock. */
export interface VsockGuest {
  /** A program wants a stream to `guestPort`. Calls back once: the host's port number, or undefined. */
  open(guestPort: number, socket: Duplex, done: (hostPort: number | undefined) => void): void;
}
