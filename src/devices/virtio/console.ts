/**
 * The console device: VIRTIO 5.3. Port 0 is the machine's console where there is one; further ports have a name and a stream on
 * the host. With one port only, MULTIPORT is not offered: there is nothing to control.
 *
 * Queues: 0 receive and 1 transmit of port 0, 2 receive and 3 transmit of control messages, then two for each port.
 */
import type { PortStream } from "../../backends/streams.js";
import { array, Layout, type ViewOf } from "../../memory/layout.js";
import type { StateAllocator } from "../../memory/state-allocator.js";
import type { AccessSize } from "../bus.js";
import type { Chain } from "./buffers.js";
import { readBytes } from "./config-bytes.js";
import { DeviceId } from "./constants.js";
import type { DeviceType, VirtioDevice } from "./device.js";
import type { Queue } from "./queue.js";

export const ConsoleFeature = { SIZE: 0, MULTIPORT: 1, EMERG_WRITE: 2 } as const;

/** Offsets in the configuration, VIRTIO 5.3.4. */
const Config = { COLS: 0, ROWS: 2, MAX_PORTS: 4, EMERG_WRITE: 8 } as const;
const CONFIG_SIZE = 12;

/** Control messages, VIRTIO 5.3.6.2: id u32, event u16, value u16. */
export const ConsoleEvent = {
  DEVICE_READY: 0,
  DEVICE_ADD: 1,
  DEVICE_REMOVE: 2,
  PORT_READY: 3,
  CONSOLE_PORT: 4,
  RESIZE: 5,
  PORT_OPEN: 6,
  PORT_NAME: 7,
} as const;
const CONTROL_SIZE = 8;

const QUEUE_SIZE = 64;
const CONTROL_RECEIVE = 2;
const CONTROL_TRANSMIT = 3;
/** First queue of port 1. */
const FIRST_PORT_QUEUE = 4;
export const MAX_CONSOLE_PORTS = 16;
/** Requests served in one go. */
const BATCH = 64;
/** Bytes moved at once. */
const PIECE = 16 * 1024;

const CONSOLE = new Layout("virtio-console", {
  config: array("u8", CONFIG_SIZE),
  /** The size that the host wants: columns, and rows << 16. Written by any thread. */
  wantedSize: "u32",
  /** The driver said DEVICE_READY. */
  ready: "u32",
  /** Per port: control messages to be sent, a bit an event. */
  messages: array("u32", MAX_CONSOLE_PORTS),
  /** Per port: whether the guest has it open, and whether the guest was told that the host has. */
  guestOpen: array("u32", MAX_CONSOLE_PORTS),
  hostOpen: array("u32", MAX_CONSOLE_PORTS),
  /** Per port: bytes of the first available transmit buffer that went out already. */
  sent: array("u32", MAX_CONSOLE_PORTS),
});

export interface ConsolePort {
  /** The console, which has no name. */
  readonly console: boolean;
  readonly name: string;
}

export class ConsoleDevice implements DeviceType {
  readonly id = DeviceId.CONSOLE;
  readonly kind = "console";
  readonly legacy = true;
  readonly configSize = CONFIG_SIZE;
  readonly features: readonly number[];
  readonly queueSizes: readonly number[];
  readonly #state: ViewOf<typeof CONSOLE>;
  readonly #config: Uint8Array;
  readonly #words: Int32Array;
  readonly #wantedSize: number;
  readonly #multiport: boolean;
  readonly #ports: readonly ConsolePort[];
  /** The host's ends, in the thread that serves the device; port 0's in every thread, for emergency writes. */
  readonly streams: (PortStream | undefined)[] = [];
  readonly #piece = new Uint8Array(PIECE);

  /** `ports[0]` is port 0; it is left out of what the guest sees where it is no console and there are others. */
  constructor(allocator: StateAllocator, name: string, ports: readonly ConsolePort[]) {
    if (ports.length > MAX_CONSOLE_PORTS)
      throw new RangeError(`${name}: more than ${MAX_CONSOLE_PORTS} ports`);
    this.#ports = ports;
    this.#multiport = ports.length > 1;
    this.#state = allocator.alloc(CONSOLE, `${name}.console`);
    this.#config = this.#state.config;
    this.#words = allocator.memory.i32;
    this.#wantedSize = (this.#state.address + CONSOLE.offset.wantedSize) >>> 2;
    const { SIZE, MULTIPORT, EMERG_WRITE } = ConsoleFeature;
    this.features = [SIZE, EMERG_WRITE, ...(this.#multiport ? [MULTIPORT] : [])];
    const queues = this.#multiport ? 2 + 2 * ports.length : 2;
    this.queueSizes = Array.from({ length: queues }, () => QUEUE_SIZE);
  }

  /** The terminal that the console is shown on has this size now. Any thread; ring the device's doorbell after it. */
  resize(columns: number, rows: number): void {
    const size = (columns & 0xffff) | ((rows & 0xffff) << 16);
    Atomics.store(this.#words, this.#wantedSize, size);
  }

  readConfig(offset: number, size: AccessSize): number {
    return readBytes(this.#config, offset, size);
  }

  /** 5.3.4: a byte that a guest writes here is output, whatever state the device is in. */
  writeConfig(offset: number, _size: AccessSize, value: number): void {
    if (offset === Config.EMERG_WRITE) this.streams[0]?.write(Uint8Array.of(value));
  }

  reset(): void {
    const state = this.#state;
    this.#config[Config.MAX_PORTS] = this.#ports.length;
    this.#takeSize();
    state.ready = 0;
    state.messages.fill(0);
    state.guestOpen.fill(0);
    state.hostOpen.fill(0);
    state.sent.fill(0);
  }

  /** Copy the wanted size into the configuration; whether it changed. */
  #takeSize(): boolean {
    const size = Atomics.load(this.#words, this.#wantedSize);
    const bytes = [size, size >>> 8, size >>> 16, size >>> 24].map((byte) => byte & 0xff);
    if (bytes.every((byte, i) => this.#config[i] === byte)) return false;
    this.#config.set(bytes, Config.COLS);
    return true;
  }

  poll(device: VirtioDevice): void {
    if (this.#takeSize()) {
      if (this.#controlled(device) && this.#ports[0].console) this.#say(0, ConsoleEvent.RESIZE);
      device.configChanged();
    }
    if (!this.#controlled(device) || this.#state.ready === 0) return;
    this.#ports.forEach((port, i) => {
      const open = port.console || this.streams[i]?.connected === true ? 1 : 0;
      if (open !== this.#state.hostOpen[i]) {
        this.#state.hostOpen[i] = open;
        this.#say(i, ConsoleEvent.PORT_OPEN);
      }
    });
  }

  #controlled(device: VirtioDevice): boolean {
    return device.has(ConsoleFeature.MULTIPORT);
  }

  #say(port: number, event: number): void {
    this.#state.messages[port] |= 1 << event;
  }

  serve(queue: Queue, index: number): boolean {
    const { device } = queue;
    if (index === CONTROL_RECEIVE && this.#multiport) return this.#sendControl(queue);
    if (index === CONTROL_TRANSMIT && this.#multiport) {
      return queue.each((chain) => {
        this.#control(device, chain);
        return 0;
      });
    }
    const port = index < 2 ? 0 : 1 + ((index - FIRST_PORT_QUEUE) >> 1);
    return index % 2 === 0 ? this.#receive(queue, port) : this.#transmit(queue, port);
  }

  // --- data ---

  /** The host's bytes go to the guest. */
  #receive(queue: Queue, port: number): boolean {
    const stream = this.streams[port];
    // Nobody in the guest has the port open: its bytes wait on the host. A console is always open.
    const open = !this.#controlled(queue.device) || this.#state.guestOpen[port] !== 0;
    if (stream === undefined || !open) return false;
    for (let i = 0; i < BATCH; i++) {
      if (stream.length === 0) return false;
      const chain = queue.pop();
      if (chain === undefined) return false;
      const { writable } = chain;
      queue.push(chain, writable.copyFrom(stream.read(Math.min(writable.length, PIECE))));
    }
    return true;
  }

  /** The guest's bytes go to the host; what the host does not take now stays on the ring. */
  #transmit(queue: Queue, port: number): boolean {
    const stream = this.streams[port];
    const { sent } = this.#state;
    for (let i = 0; i < BATCH; i++) {
      const chain = queue.pop();
      if (chain === undefined) return false;
      const { readable } = chain;
      while (sent[port] < readable.length) {
        const piece = this.#piece.subarray(0, Math.min(PIECE, readable.length - sent[port]));
        readable.copyTo(piece, sent[port]);
        const taken = stream === undefined || !stream.connected ? piece.length : stream.write(piece);
        sent[port] += taken;
        if (taken < piece.length) {
          queue.undoPop(chain);
          stream?.whenWritable(() => queue.device.io.ring());
          return false;
        }
      }
      sent[port] = 0;
      queue.push(chain, 0);
    }
    return true;
  }

  // --- control messages, VIRTIO 5.3.6.2 ---

  /** A message of the driver; one that makes no sense is left alone. */
  #control(device: VirtioDevice, { readable }: Chain): void {
    const bytes = new Uint8Array(CONTROL_SIZE);
    if (readable.copyTo(bytes) < CONTROL_SIZE) return;
    const fields = new DataView(bytes.buffer);
    const id = fields.getUint32(0, true);
    const event = fields.getUint16(4, true);
    const value = fields.getUint16(6, true);
    const state = this.#state;
    if (event === ConsoleEvent.DEVICE_READY) {
      state.ready = value === 1 ? 1 : 0;
      if (state.ready) {
        this.#ports.forEach((port, i) => {
          if (port.console || port.name !== "") this.#say(i, ConsoleEvent.DEVICE_ADD);
        });
      }
      device.io.ring();
      return;
    }
    const port = this.#ports[id];
    if (port === undefined) return;
    if (event === ConsoleEvent.PORT_READY && value === 1) {
      if (port.console) {
        this.#say(id, ConsoleEvent.CONSOLE_PORT);
        this.#say(id, ConsoleEvent.RESIZE);
      } else this.#say(id, ConsoleEvent.PORT_NAME);
      if (state.hostOpen[id] !== 0) this.#say(id, ConsoleEvent.PORT_OPEN);
    } else if (event === ConsoleEvent.PORT_OPEN) {
      state.guestOpen[id] = value === 0 ? 0 : 1;
      this.streams[id]?.guestOpened?.(value !== 0);
    }
    device.io.ring();
  }

  #sendControl(queue: Queue): boolean {
    const { messages } = this.#state;
    for (let port = 0; port < this.#ports.length; port++) {
      for (const event of Object.values(ConsoleEvent)) {
        if ((messages[port] & (1 << event)) === 0) continue;
        const chain = queue.pop();
        if (chain === undefined) return false;
        messages[port] &= ~(1 << event);
        queue.push(chain, chain.writable.copyFrom(this.#message(port, event)));
      }
    }
    return false;
  }

  #message(port: number, event: number): Uint8Array {
    const { COLS } = Config;
    let extra = new Uint8Array();
    let value = 1;
    if (event === ConsoleEvent.PORT_OPEN) value = this.#state.hostOpen[port];
    // Columns first, as in the configuration; Linux had them the other way round before 6.15.
    if (event === ConsoleEvent.RESIZE) extra = this.#config.slice(COLS, Config.MAX_PORTS);
    // The name is followed by no zero (5.3.6.2).
    if (event === ConsoleEvent.PORT_NAME) extra = new TextEncoder().encode(this.#ports[port].name);
    const bytes = new Uint8Array(CONTROL_SIZE + extra.length);
    const fields = new DataView(bytes.buffer);
    fields.setUint32(0, port, true);
    fields.setUint16(4, event, true);
    fields.setUint16(6, value, true);
    bytes.set(extra, CONTROL_SIZE);
    return bytes;
  }
}
