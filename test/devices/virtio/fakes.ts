/** What devices stand on, for tests: a disk in memory, streams, sockets. */
import { Duplex } from "node:stream";
import { type Disk, DiskError } from "../../../src/backends/disk/disk.js";
import type { PortStream, VsockHost } from "../../../src/backends/streams.js";

export class MemoryDisk implements Disk {
  readonly bytes: Uint8Array;
  readonly blockSize = 4096;
  readonly discardGranularity = 4096;
  /** Calls in order. */
  readonly log: string[] = [];
  /** Fail every access. */
  broken = false;

  constructor(
    readonly sizeBytes: number,
    readonly readOnly = false,
  ) {
    this.bytes = new Uint8Array(sizeBytes);
  }

  #check(offset: number, length: number): void {
    if (this.broken) throw new DiskError("broken");
    if (!(offset >= 0 && offset + length <= this.sizeBytes))
      throw new Error("the device let a bad range through");
  }

  read(offset: number, target: Uint8Array): void {
    this.log.push(`read ${offset} ${target.length}`);
    this.#check(offset, target.length);
    target.set(this.bytes.subarray(offset, offset + target.length));
  }

  write(offset: number, source: Uint8Array): void {
    this.log.push(`write ${offset} ${source.length}`);
    if (this.readOnly) throw new Error("a write got through to a read-only disk");
    this.#check(offset, source.length);
    this.bytes.set(source, offset);
  }

  flush(): void {
    this.log.push("flush");
    this.#check(0, 0);
  }

  discard(offset: number, length: number): void {
    this.log.push(`discard ${offset} ${length}`);
    this.#check(offset, length);
    this.bytes.fill(0xdd, offset, offset + length);
  }

  writeZeroes(offset: number, length: number, unmap: boolean): void {
    this.log.push(`zeroes ${offset} ${length} ${unmap}`);
    this.#check(offset, length);
    this.bytes.fill(0, offset, offset + length);
  }

  close(): void {}
}

export class FakeStream implements PortStream {
  connected = true;
  /** What the guest sent, and what waits for it. */
  sent = "";
  input = Buffer.alloc(0);
  /** Bytes that are taken before the stream is full. */
  room = Number.POSITIVE_INFINITY;
  opened: boolean | undefined;
  waiting: (() => void) | undefined;

  get length(): number {
    return this.input.length;
  }

  read(limit: number): Uint8Array {
    const taken = this.input.subarray(0, limit);
    this.input = this.input.subarray(limit);
    return taken;
  }

  write(bytes: Uint8Array): number {
    const taken = Math.min(bytes.length, this.room);
    this.room -= taken;
    this.sent += Buffer.from(bytes.subarray(0, taken)).toString("latin1");
    return taken;
  }

  whenWritable(then: () => void): void {
    this.waiting = then;
  }

  guestOpened(open: boolean): void {
    this.opened = open;
  }
}

/** One end of a socket in memory. */
class SocketEnd extends Duplex {
  other: SocketEnd | undefined;

  constructor() {
    super({ allowHalfOpen: true });
    this.on("error", () => {});
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.other?.push(chunk);
    // As a socket's peer would, the other end takes only so much that nobody reads.
    if ((this.other?.readableLength ?? 0) < 65536) done();
    else this.other?.once("drained", done);
  }

  override read(size?: number): Buffer | null {
    const data = super.read(size) as Buffer | null;
    if (this.readableLength < 65536) this.emit("drained");
    return data;
  }

  override _final(done: () => void): void {
    this.other?.push(null);
    done();
  }

  override _destroy(_error: Error | null, done: (error?: Error | null) => void): void {
    const { other } = this;
    // What was sent stays readable, as with a socket.
    if (other !== undefined && !this.writableFinished) setImmediate(() => other.destroy());
    done(null);
  }
}

/** Both ends of a socket. */
export function socketPair(): [Duplex, Duplex] {
  const near = new SocketEnd();
  const far = new SocketEnd();
  near.other = far;
  far.other = near;
  return [near, far];
}

/** Ports in the set accept; the far ends of the streams are kept. */
export class FakeHost implements VsockHost {
  readonly accepted: { port: number; far: Duplex }[] = [];

  constructor(readonly ports: ReadonlySet<number>) {}

  connect(port: number, done: (socket: Duplex | undefined) => void): void {
    if (!this.ports.has(port)) {
      done(undefined);
      return;
    }
    const [near, far] = socketPair();
    this.accepted.push({ port, far });
    done(near);
  }
}
