/**
 * One client of an instance's control socket. Nothing that a client sends or fails to send may disturb the guest: requests are
 * short, they are served one after the other, and who takes too long over one, or over reading a reply, is cut off.
 */
import type { Socket } from "node:net";
import type { LockState } from "../../memory/lock-report.js";
import {
  encodeError,
  encodeResult,
  type InstanceInfo,
  type InstanceStats,
  MAX_REQUEST_BYTES,
  parseRequest,
  type Request,
  RequestError,
} from "./protocol.js";

/** What the socket's commands do. */
export interface ControlTarget {
  info(): InstanceInfo;
  stats(): Promise<InstanceStats>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  stop(): Promise<unknown>;
  dump(): Promise<readonly string[]>;
  locks(): readonly LockState[];
  nmi(cpu: number): void;
  sysrq(key: string): Promise<void>;
  /** Have the balloon larger by `change` MiB. */
  inflateBalloon(change: number): void;
  /** Have `onOutput` called with all that the guest prints from now on. */
  tapConsole(onOutput: (bytes: Uint8Array) => void): ConsoleTap;
}

export interface ConsoleTap {
  /** Type `bytes` to the guest; calls back when it took them. */
  write(bytes: Uint8Array, done: () => void): void;
  close(): void;
}

/** For a whole request to come, and for a reply to be read. */
export const CLIENT_MILLISECONDS = 10_000;
/** For the machine to do what it is asked to: less than its client waits (client.ts). */
const MACHINE_MILLISECONDS = 8000;
/** What a client that mirrors the console may leave unread. */
const MAX_CONSOLE_BACKLOG = 1 << 20;

const LINE_FEED = 0x0a;

export class Connection {
  readonly #socket: Socket;
  readonly #target: ControlTarget;
  #pending: Buffer = Buffer.alloc(0);
  #deadline: NodeJS.Timeout | undefined;
  #busy = false;
  #tap: ConsoleTap | undefined;
  readonly #onData = (chunk: Buffer) => this.#received(chunk);

  constructor(socket: Socket, target: ControlTarget) {
    this.#socket = socket;
    this.#target = target;
    socket.on("error", () => {});
    socket.on("close", () => this.#closed());
    socket.on("data", this.#onData);
    socket.on("end", () => this.#ended());
    this.#startDeadline();
  }

  /** The machine has ended. A reply that is on its way still goes out. */
  finish(): void {
    if (this.#tap !== undefined || !this.#busy) this.#socket.end();
    this.#startDeadline();
  }

  #startDeadline(): void {
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(() => this.#socket.destroy(), CLIENT_MILLISECONDS).unref();
  }

  #received(chunk: Buffer): void {
    this.#pending = this.#pending.length === 0 ? chunk : Buffer.concat([this.#pending, chunk]);
    this.#next();
  }

  /** Serve the next request, if its line is complete. */
  #next(): void {
    if (this.#busy) return;
    const end = this.#pending.indexOf(LINE_FEED);
    if (end > MAX_REQUEST_BYTES || (end < 0 && this.#pending.length > MAX_REQUEST_BYTES)) {
      this.#refuse(`a request has at most ${MAX_REQUEST_BYTES} bytes`);
      return;
    }
    if (end < 0) return;
    const line = this.#pending.subarray(0, end);
    this.#pending = this.#pending.subarray(end + 1);
    this.#busy = true;
    this.#socket.pause();
    clearTimeout(this.#deadline);
    void this.#serve(line);
  }

  /** Where the lines are cannot be known any more: the connection ends. */
  #refuse(error: string): void {
    this.#socket.off("data", this.#onData);
    this.#socket.resume();
    this.#socket.end(encodeError(error));
  }

  async #serve(line: Uint8Array): Promise<void> {
    let reply: string;
    try {
      const request = parseRequest(line);
      if (request.command === "console") {
        this.#mirrorConsole();
        return;
      }
      reply = encodeResult(await inTime(this.#run(request)));
    } catch (error) {
      if (!(error instanceof Error)) throw error;
      reply = encodeError(error instanceof RequestError ? `request: ${error.message}` : error.message);
    }
    this.#startDeadline();
    this.#socket.write(reply, () => {
      if (this.#socket.destroyed) return;
      this.#busy = false;
      this.#startDeadline();
      this.#socket.resume();
      if (this.#over) this.#ended();
      else this.#next();
    });
  }

  async #run(request: Request): Promise<unknown> {
    const target = this.#target;
    switch (request.command) {
      case "info":
        return target.info();
      case "stat":
        return await target.stats();
      case "pause":
        return await target.pause();
      case "resume":
        return await target.resume();
      case "stop":
        await target.stop();
        return undefined;
      case "dump":
        return await target.dump();
      case "locks":
        return target.locks();
      case "nmi":
        target.nmi(request.cpu);
        return undefined;
      case "sysrq":
        return await target.sysrq(request.key);
      case "balloon":
        target.inflateBalloon(request.change);
        return undefined;
      case "console":
        return undefined;
    }
  }

  /** From here on the connection carries the console's bytes as they are, both ways. */
  #mirrorConsole(): void {
    const socket = this.#socket;
    socket.off("data", this.#onData);
    const tap = this.#target.tapConsole((bytes) => {
      if (socket.writableLength > MAX_CONSOLE_BACKLOG) socket.destroy();
      else socket.write(bytes);
    });
    this.#tap = tap;
    socket.write(encodeResult(undefined));
    const type = (bytes: Buffer) => {
      socket.pause();
      tap.write(bytes, () => socket.resume());
    };
    socket.on("data", type);
    socket.resume();
    if (this.#pending.length > 0) type(this.#pending);
  }

  #over = false;

  /** The client sends no more. What it asked for by then is answered. */
  #ended(): void {
    this.#over = true;
    // A client that is gone looks just the same: a console is mirrored no longer than its client could type.
    if (this.#tap !== undefined) this.#socket.end();
    if (this.#busy) return;
    if (this.#pending.includes(LINE_FEED)) this.#next();
    else this.#socket.end();
  }

  #closed(): void {
    clearTimeout(this.#deadline);
    this.#tap?.close();
  }
}

/** So that no machine that hangs can take all connections, and the others still say what is wrong with it. */
async function inTime<T>(work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    const error = new Error(`the machine does not get to it within ${MACHINE_MILLISECONDS / 1000} s`);
    timer = setTimeout(() => reject(error), MACHINE_MILLISECONDS);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
