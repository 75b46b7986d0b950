/**
 * The socket device: VIRTIO 5.10. Streams between guest and host; the host's ends are the sockets of a `VsockHost`.
 * Queues: 0 receive, 1 transmit, 2 events.
 */
import type { Duplex } from "node:stream";
import type { VsockGuest, VsockHost } from "../../backends/streams.js";
import { Layout, type ViewOf } from "../../memory/layout.js";
import type { StateAllocator } from "../../memory/state-allocator.js";
import type { AccessSize } from "../bus.js";
import type { Chain } from "./buffers.js";
import { DeviceId } from "./constants.js";
import type { DeviceType, VirtioDevice } from "./device.js";
import type { Queue } from "./queue.js";
import { type ConnectionKey, VsockConnection } from "./vsock-connection.js";
import {
  HOST_CID,
  readHeader,
  ShutdownFlag,
  VSOCK_HEADER_SIZE,
  type VsockHeader,
  VsockOp,
  VsockType,
  writeHeader,
} from "./vsock-packet.js";

export const VsockFeature = { STREAM: 0 } as const;

const VsockQueue = { RECEIVE: 0, TRANSMIT: 1, EVENT: 2 } as const;
const QUEUE_SIZE = 128;
const EVENT_QUEUE_SIZE = 16;
const CONFIG_SIZE = 8;
/** Requests served in one go. */
const BATCH = 64;
/** Data of one packet, at most: drivers use 64 KiB. */
const MAX_PACKET_DATA = 64 * 1024;
export const MAX_CONNECTIONS = 1024;
/** Resets that wait to be sent; a guest that provokes more than it reads is not listened to (5.10.6.1.1 allows that). */
const MAX_RESETS = 256;
/** First port given to host programs that ask for a stream (Firecracker's choice). */
const FIRST_HOST_PORT = 2 ** 30;

/** The only event (5.10.6.7): streams are gone, and the guest's CID may be another. */
const EVENT_TRANSPORT_RESET = 0;
const EVENT_SIZE = 4;

const VSOCK = new Layout("virtio-vsock", {
  /** A transport reset is to be told to the driver. */
  resetEvent: "u32",
});

export class VsockDevice implements DeviceType, VsockGuest {
  readonly id = DeviceId.VSOCK;
  readonly kind = "vsock";
  readonly legacy = false;
  readonly configSize = CONFIG_SIZE;
  readonly features = Object.values(VsockFeature);
  readonly queueSizes: readonly number[] = [QUEUE_SIZE, QUEUE_SIZE, EVENT_QUEUE_SIZE];
  readonly #state: ViewOf<typeof VSOCK>;
  readonly #connections = new Map<string, VsockConnection>();
  /** Waiting for the guest's answer to a request of the host. */
  readonly #asking = new Map<string, (accepted: boolean) => void>();
  #resets: VsockHeader[] = [];
  #host: VsockHost | undefined;
  #device: VirtioDevice | undefined;
  #nextPort = FIRST_HOST_PORT;
  /** `VirtioDevice.resets` when the streams were made. */
  #driver = 0;

  constructor(
    allocator: StateAllocator,
    name: string,
    readonly guestCid: number,
  ) {
    this.#state = allocator.alloc(VSOCK, `${name}.vsock`);
  }

  /** In the thread that serves the device. */
  attach(device: VirtioDevice, host: VsockHost): void {
    this.#device = device;
    this.#host = host;
  }

  readConfig(offset: number, size: AccessSize): number {
    if (offset >= 4) return 0;
    const value = this.guestCid >>> (8 * offset);
    return size === 4 ? value >>> 0 : value & (size === 2 ? 0xffff : 0xff);
  }

  writeConfig(): void {}

  /** In whatever thread the driver did it; the sockets are the io Worker's. */
  reset(): void {
    this.#state.resetEvent = 0;
  }

  poll(device: VirtioDevice): void {
    if (device.resets === this.#driver) return;
    this.#driver = device.resets;
    this.#resets = [];
    for (const connection of this.#connections.values()) connection.forget();
    this.#connections.clear();
    const asking = [...this.#asking.values()];
    this.#asking.clear();
    for (const done of asking) done(false);
  }

  #wake = () => this.#device?.io.ring();

  // --- the host's side ---

  /** A program of the host wants a stream to `guestPort`. Calls back once: the host's port number, or undefined. */
  open(guestPort: number, socket: Duplex, done: (hostPort: number | undefined) => void): void {
    const device = this.#device;
    if (device !== undefined) this.poll(device);
    if (device?.live !== true || this.#connections.size >= MAX_CONNECTIONS) {
      done(undefined);
      return;
    }
    let hostPort = this.#nextPort;
    while (this.#connections.has(keyOf({ hostPort, guestPort }))) hostPort = nextPort(hostPort);
    this.#nextPort = nextPort(hostPort);
    const key = { hostPort, guestPort };
    const connection = new VsockConnection(key, socket, this.#wake);
    this.#connections.set(keyOf(key), connection);
    this.#asking.set(keyOf(key), (accepted) => done(accepted ? hostPort : undefined));
    socket.once("close", () => {
      if (!connection.established) this.#close(connection);
    });
    connection.request();
  }

  /** The host's socket went away while the guest was asked. */
  #close(connection: VsockConnection): void {
    this.#asking.delete(keyOf(connection.key));
    connection.reset();
  }

  // --- queues ---

  serve(queue: Queue, index: number): boolean {
    if (index === VsockQueue.TRANSMIT) return this.#transmit(queue);
    if (index === VsockQueue.RECEIVE) return this.#receive(queue);
    if (this.#state.resetEvent !== 0) {
      const chain = queue.pop();
      if (chain !== undefined) {
        const event = new Uint8Array(EVENT_SIZE);
        new DataView(event.buffer).setUint32(0, EVENT_TRANSPORT_RESET, true);
        this.#state.resetEvent = 0;
        queue.push(chain, chain.writable.copyFrom(event));
      }
    }
    return false;
  }

  /** Tell the driver that all streams are gone (after a restore). Any thread, device lock held. */
  transportReset(): void {
    this.#state.resetEvent = 1;
  }

  #transmit(queue: Queue): boolean {
    for (let i = 0; i < BATCH; i++) {
      if (this.#resets.length >= MAX_RESETS) return false;
      const chain = queue.pop();
      if (chain === undefined) return false;
      this.#packet(chain);
      queue.push(chain, 0);
    }
    return true;
  }

  /** A packet of the guest. What is malformed is dropped, what belongs to no stream is answered with a reset (5.10.6.6). */
  #packet({ readable }: Chain): void {
    const bytes = new Uint8Array(VSOCK_HEADER_SIZE);
    if (readable.copyTo(bytes) < VSOCK_HEADER_SIZE) return;
    const header = readHeader(bytes);
    // 5.10.6: the source is the guest; anybody but the host is out of reach.
    if (header.sourceCid !== BigInt(this.guestCid)) return;
    if (header.targetCid !== BigInt(HOST_CID) || header.type !== VsockType.STREAM) {
      this.#refuse(header);
      return;
    }
    const key = { hostPort: header.targetPort, guestPort: header.sourcePort };
    const connection = this.#connections.get(keyOf(key));
    if (header.op === VsockOp.REQUEST) {
      if (connection !== undefined) connection.reset();
      else this.#guestAsks(key, header);
      return;
    }
    if (connection === undefined || connection.dead) {
      if (connection === undefined) this.#refuse(header);
      else if (header.op === VsockOp.RST) this.#forget(connection);
      return;
    }
    connection.credit(header);
    this.#operation(connection, header, readable);
  }

  #operation(connection: VsockConnection, header: VsockHeader, readable: Chain["readable"]): void {
    const key = keyOf(connection.key);
    const answered = this.#asking.get(key);
    switch (header.op) {
      case VsockOp.RESPONSE:
        if (answered === undefined) {
          connection.reset();
          return;
        }
        this.#asking.delete(key);
        answered(true);
        connection.establish();
        return;
      case VsockOp.RST:
        this.#forget(connection);
        return;
      case VsockOp.SHUTDOWN:
        connection.shutdown(header.flags & ShutdownFlag.BOTH);
        return;
      case VsockOp.RW: {
        const { length } = header;
        // 5.10.6.4: data only on a stream that is there, as long as it says and as the credit allows.
        const data = new Uint8Array(Math.min(length, MAX_PACKET_DATA, readable.length - VSOCK_HEADER_SIZE));
        if (answered !== undefined || data.length !== length) {
          connection.reset();
          return;
        }
        readable.copyTo(data, VSOCK_HEADER_SIZE);
        if (!connection.receive(data)) connection.reset();
        return;
      }
      case VsockOp.CREDIT_UPDATE:
        return;
      case VsockOp.CREDIT_REQUEST:
        connection.askCredit();
        return;
      default:
        connection.reset();
    }
  }

  #guestAsks(key: ConnectionKey, header: VsockHeader): void {
    if (this.#host === undefined || this.#connections.size + this.#asking.size >= MAX_CONNECTIONS) {
      this.#refuse(header);
      return;
    }
    // The place is taken until the host has answered.
    const name = keyOf(key);
    if (this.#asking.has(name)) return;
    const device = this.#device;
    const driver = this.#driver;
    this.#asking.set(name, () => {});
    this.#host.connect(key.hostPort, (socket) => {
      // The driver may have been reset since.
      if (device?.resets !== driver) {
        socket?.destroy();
        return;
      }
      this.#asking.delete(name);
      if (socket === undefined) this.#refuse(header);
      else {
        const connection = new VsockConnection(key, socket, this.#wake);
        this.#connections.set(name, connection);
        connection.credit(header);
        connection.accept();
      }
      this.#wake();
    });
  }

  #forget(connection: VsockConnection): void {
    const key = keyOf(connection.key);
    connection.forget();
    this.#connections.delete(key);
    const answered = this.#asking.get(key);
    this.#asking.delete(key);
    answered?.(false);
  }

  /** 5.10.6.6: a reset for a packet of no stream; none for a reset. */
  #refuse(header: VsockHeader): void {
    if (header.op === VsockOp.RST || this.#resets.length >= MAX_RESETS) return;
    this.#resets.push({
      ...header,
      sourceCid: header.targetCid,
      targetCid: header.sourceCid,
      sourcePort: header.targetPort,
      targetPort: header.sourcePort,
      length: 0,
      op: VsockOp.RST,
      flags: 0,
      bufferAllocation: 0,
      forwardCount: 0,
    });
  }

  #receive(queue: Queue): boolean {
    for (let sent = 0; sent < BATCH; sent++) {
      const reset = this.#resets[0];
      const connection = reset === undefined ? this.#next() : undefined;
      if (reset === undefined && connection === undefined) return false;
      const chain = queue.pop();
      if (chain === undefined) return false;
      const { writable } = chain;
      if (writable.length < VSOCK_HEADER_SIZE) {
        queue.push(chain, 0);
        continue;
      }
      if (reset !== undefined) {
        this.#resets.shift();
        queue.push(chain, writable.copyFrom(writeHeader(reset)));
        // There is room for the answers to what the guest has been sending meanwhile.
        this.#wake();
      } else if (connection !== undefined) this.#send(queue, chain, connection);
    }
    return true;
  }

  #send(queue: Queue, chain: Chain, connection: VsockConnection): void {
    const { writable } = chain;
    const packet = connection.take(Math.min(writable.length - VSOCK_HEADER_SIZE, MAX_PACKET_DATA));
    if (packet === undefined) {
      queue.push(chain, 0);
      return;
    }
    const { op, flags, data } = packet;
    const header = writeHeader({
      sourceCid: BigInt(HOST_CID),
      targetCid: BigInt(this.guestCid),
      sourcePort: connection.key.hostPort,
      targetPort: connection.key.guestPort,
      length: data.length,
      type: VsockType.STREAM,
      op,
      flags,
      ...connection.announce(),
    });
    writable.copyFrom(header);
    if (data.length > 0) writable.copyFrom(data, VSOCK_HEADER_SIZE);
    queue.push(chain, VSOCK_HEADER_SIZE + data.length);
    if (connection.finished) this.#forget(connection);
  }

  /** A connection that wants to send; each has its turn. */
  #next(): VsockConnection | undefined {
    for (const [key, connection] of this.#connections) {
      if (!connection.wants) {
        if (connection.finished) this.#connections.delete(key);
        continue;
      }
      this.#connections.delete(key);
      this.#connections.set(key, connection);
      return connection;
    }
    return undefined;
  }
}

function keyOf({ hostPort, guestPort }: ConnectionKey): string {
  return `${hostPort}:${guestPort}`;
}

/** Host ports come around before they meet the ones that mean something. */
function nextPort(port: number): number {
  return port >= 0xfffffffe ? FIRST_HOST_PORT : port + 1;
}
