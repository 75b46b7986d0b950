/**
 * One stream between a port of the guest and a socket of the host: VIRTIO 5.10.6. The state of streams lives with the host's
 * sockets in the io Worker and not in shared memory: no copy of a machine could take the sockets along, and the event queue
 * is there to tell a guest that its streams are gone (5.10.6.7).
 */
import type { Duplex } from "node:stream";
import { ShutdownFlag, type VsockHeader, VsockOp } from "./vsock-packet.js";

/** Bytes that the guest may send before the host's socket took them. */
export const BUFFER_ALLOCATION = 256 * 1024;
/** Bytes read ahead from the host's socket. */
const READ_AHEAD = 256 * 1024;

/** How long the host's program may take to read the last data. */
const LINGER_MILLISECONDS = 10_000;

export interface ConnectionKey {
  readonly hostPort: number;
  readonly guestPort: number;
}

/** What a connection has to say next; at most one each, so a guest that reads nothing makes nothing grow. */
const Pending = { REQUEST: 1, RESPONSE: 2, CREDIT: 4, SHUTDOWN: 8, RST: 16 } as const;

export class VsockConnection {
  readonly key: ConnectionKey;
  /** The peer's buffer and count, of its last packet. */
  #peerAllocation = 0;
  #peerForwarded = 0;
  /** Bytes sent to and received from the guest, and those of the latter that the socket took; modulo 2^32. */
  #sent = 0;
  #received = 0;
  #forwarded = 0;
  /** `#forwarded` as the guest knows it. */
  #announced = 0;
  #pending = 0;
  /** REQUEST and RESPONSE are through. */
  established = false;
  /** Nothing is to be sent any more but what `#pending` says. */
  dead = false;
  #shutdownSent = 0;
  #shutdownSeen = 0;
  #chunks: Buffer[] = [];
  #buffered = 0;
  #ended = false;
  readonly #socket: Duplex;
  readonly #wake: () => void;

  /** `wake` is called when there may be something to send to the guest. */
  constructor(key: ConnectionKey, socket: Duplex, wake: () => void) {
    this.key = key;
    this.#socket = socket;
    this.#wake = wake;
  }

  /** A stream that the host wants: ask the guest. */
  request(): void {
    this.#pending |= Pending.REQUEST;
    this.#wake();
  }

  /** A stream that the guest wanted, and has. */
  accept(): void {
    this.#pending |= Pending.RESPONSE;
    this.establish();
  }

  /** Data may flow. */
  establish(): void {
    this.established = true;
    const socket = this.#socket;
    socket.on("data", (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#buffered += chunk.length;
      if (this.#buffered >= READ_AHEAD) socket.pause();
      this.#wake();
    });
    socket.on("end", () => {
      this.#ended = true;
      this.#wake();
    });
    socket.on("close", () => {
      this.#ended = true;
      this.#wake();
    });
    // Who made the socket may have paused it.
    socket.resume();
    this.#wake();
  }

  /** Tell the guest that there is no stream, and forget the socket. */
  reset(): void {
    if (this.dead) return;
    this.dead = true;
    this.#pending = Pending.RST;
    this.#socket.destroy();
    this.#wake();
  }

  /** The guest knows already. */
  forget(): void {
    this.dead = true;
    this.#pending = 0;
    // What the guest sent before it shut the stream down still goes out.
    if ((this.#shutdownSeen & ShutdownFlag.SEND) === 0) this.#socket.destroy();
    else if (!this.#socket.destroyed) {
      const timer = setTimeout(() => this.#socket.destroy(), LINGER_MILLISECONDS);
      timer.unref();
      this.#socket.once("close", () => clearTimeout(timer));
      if (this.#socket.writableFinished) this.#socket.destroy();
      else this.#socket.once("finish", () => this.#socket.destroy());
    }
  }

  /** Nothing is left to say, and the connection is over. */
  get finished(): boolean {
    return this.dead && this.#pending === 0;
  }

  // --- from the guest ---

  credit({ bufferAllocation, forwardCount }: VsockHeader): void {
    this.#peerAllocation = bufferAllocation;
    this.#peerForwarded = forwardCount;
  }

  /** Data of the guest. False where it sent more than it may (5.10.6.3.1). */
  receive(data: Uint8Array): boolean {
    if ((this.#shutdownSeen & ShutdownFlag.SEND) !== 0) return false;
    if (((this.#received - this.#forwarded) >>> 0) + data.length > BUFFER_ALLOCATION) return false;
    this.#received = (this.#received + data.length) >>> 0;
    if (data.length === 0) return true;
    this.#socket.write(data, () => {
      this.#forwarded = (this.#forwarded + data.length) >>> 0;
      // A guest that sees half of its credit gone is told of what came free.
      if ((this.#forwarded - this.#announced) >>> 0 >= BUFFER_ALLOCATION / 4) this.askCredit();
    });
    return true;
  }

  /** The guest wants to know, or should. */
  askCredit(): void {
    if (this.dead) return;
    this.#pending |= Pending.CREDIT;
    this.#wake();
  }

  shutdown(flags: number): void {
    this.#shutdownSeen |= flags & ShutdownFlag.BOTH;
    if ((this.#shutdownSeen & ShutdownFlag.SEND) !== 0) this.#socket.end();
    if ((this.#shutdownSeen & ShutdownFlag.RECEIVE) !== 0) this.#drop();
    // 5.10.6.6: a peer that has nothing more in either direction is answered with a reset.
    if (this.#shutdownSeen !== ShutdownFlag.BOTH) return;
    this.dead = true;
    this.#pending = Pending.RST;
    this.#wake();
  }

  #drop(): void {
    this.#chunks = [];
    this.#buffered = 0;
    this.#socket.resume();
  }

  // --- to the guest ---

  /** Bytes that the guest has room for (5.10.6.3). */
  get #credit(): number {
    const underway = (this.#sent - this.#peerForwarded) >>> 0;
    return Math.max(this.#peerAllocation - underway, 0);
  }

  /** Whether `take` has something to send. */
  get wants(): boolean {
    if (this.#pending !== 0) return true;
    if (!this.established || this.dead) return false;
    return this.#buffered > 0 ? this.#credit > 0 : this.#ended && this.#shutdownSent === 0;
  }

  /** The next packet: operation, flags and up to `room` bytes of data; undefined where there is none. */
  take(room: number): { op: number; flags: number; data: Uint8Array } | undefined {
    const none = new Uint8Array();
    const bare = (bit: number, op: number) => {
      this.#pending &= ~bit;
      return { op, flags: 0, data: none };
    };
    if ((this.#pending & Pending.RST) !== 0) return bare(Pending.RST, VsockOp.RST);
    if ((this.#pending & Pending.REQUEST) !== 0) return bare(Pending.REQUEST, VsockOp.REQUEST);
    if ((this.#pending & Pending.RESPONSE) !== 0) return bare(Pending.RESPONSE, VsockOp.RESPONSE);
    if ((this.#pending & Pending.CREDIT) !== 0) return bare(Pending.CREDIT, VsockOp.CREDIT_UPDATE);
    if (!this.wants) return undefined;
    if (this.#buffered > 0) {
      const data = this.#takeData(Math.min(room, this.#credit));
      return data.length === 0 ? undefined : { op: VsockOp.RW, flags: 0, data };
    }
    // The host's side ended: nothing more comes, and where the socket is gone nothing more is taken either.
    this.#shutdownSent = this.#socket.destroyed ? ShutdownFlag.BOTH : ShutdownFlag.SEND;
    return { op: VsockOp.SHUTDOWN, flags: this.#shutdownSent, data: none };
  }

  #takeData(limit: number): Uint8Array {
    if (limit <= 0) return new Uint8Array();
    const [first] = this.#chunks;
    let data: Uint8Array = first;
    if (first.length <= limit) this.#chunks.shift();
    else {
      data = first.subarray(0, limit);
      this.#chunks[0] = first.subarray(limit);
    }
    this.#buffered -= data.length;
    this.#sent = (this.#sent + data.length) >>> 0;
    if (this.#buffered < READ_AHEAD / 2) this.#socket.resume();
    return data;
  }

  /** The fields of every packet's header that tell the guest its credit. */
  announce(): { bufferAllocation: number; forwardCount: number } {
    this.#announced = this.#forwarded;
    return { bufferAllocation: BUFFER_ALLOCATION, forwardCount: this.#forwarded };
  }
}
