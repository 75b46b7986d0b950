/** The driver's side of virtio for tests: guest RAM, virtqueues of both kinds written as a driver writes them, a device on no transport. */
import assert from "node:assert/strict";
import { Feature, featureWords, Status } from "../../../src/devices/virtio/constants.js";
import { type DeviceType, type IoThread, VirtioDevice } from "../../../src/devices/virtio/device.js";
import type { Queue } from "../../../src/devices/virtio/queue.js";
import type { Doorbell } from "../../../src/hypervisor/seam.js";
import { GuestMemory, gpa } from "../../../src/memory/guest-memory.js";
import { SharedMemory } from "../../../src/memory/shared-memory.js";
import { StateAllocator } from "../../../src/memory/state-allocator.js";

const MIB = 2 ** 20;
const STATE_START = 4096;
const STATE_END = MIB;
/** Guest RAM: two slots with a hole between them, and nobody's memory on both sides of each in the shared memory. */
export const RAM_SIZE = MIB;
export const HIGH_RAM = 16 * MIB;
const LOW_OFFSET = 2 * MIB;
const HIGH_OFFSET = 4 * MIB;
const TOTAL = 6 * MIB;
const GUARD = 0xa5;

/** Memory as a machine has it, with guard bytes wherever a device must not write. */
export class Rig {
  readonly memory: SharedMemory;
  readonly allocator: StateAllocator;
  readonly ram: GuestMemory;
  rings = 0;
  readonly io: IoThread;
  readonly complaints: string[] = [];

  /** With `other`: another thread's objects over the same memory. */
  constructor(other?: Rig) {
    this.memory = other?.memory ?? SharedMemory.create(TOTAL);
    this.allocator = new StateAllocator(this.memory, STATE_START, STATE_END);
    const flags = { readonly: false, logDirty: false };
    this.ram = new GuestMemory(this.memory, [
      { slot: 0, guestPhysical: gpa(0), size: RAM_SIZE, offset: LOW_OFFSET, ...flags },
      { slot: 1, guestPhysical: gpa(HIGH_RAM), size: RAM_SIZE, offset: HIGH_OFFSET, ...flags },
    ]);
    this.io = {
      word: this.allocator.bytes(64, "io"),
      ring: () => {
        this.rings++;
      },
    };
    if (other !== undefined) return;
    for (const [from, to] of this.#guarded()) this.memory.u8.fill(GUARD, from, to);
  }

  #guarded(): [number, number][] {
    return [
      [STATE_END, LOW_OFFSET],
      [LOW_OFFSET + RAM_SIZE, HIGH_OFFSET],
      [HIGH_OFFSET + RAM_SIZE, TOTAL],
    ];
  }

  /** Nothing outside of RAM and state was written. */
  checkGuards(): void {
    for (const [from, to] of this.#guarded()) {
      const bytes = this.memory.u8.subarray(from, to);
      assert.ok(
        bytes.every((byte) => byte === GUARD),
        "memory outside of the guest's was written",
      );
    }
  }

  device(type: DeviceType, reset = true): VirtioDevice {
    const device = new VirtioDevice(this.allocator, {
      name: type.kind,
      type,
      memory: this.ram,
      io: this.io,
      packed: true,
      complain: (text) => this.complaints.push(text),
    });
    if (reset) device.reset();
    return device;
  }
}

/** Remembers doorbells; two at one address are refused, as KVM does. */
export class BellVm {
  readonly bells: Doorbell[] = [];

  addDoorbell(bell: Doorbell): void {
    if (this.bells.some(({ address }) => address === bell.address)) throw new Error("EEXIST");
    this.bells.push(bell);
  }

  removeDoorbell(bell: Doorbell): boolean {
    const at = this.bells.findIndex(({ address, space }) => address === bell.address && space === bell.space);
    if (at >= 0) this.bells.splice(at, 1);
    return at >= 0;
  }
}

/** A device on no transport: interrupts are counted. */
export class Bench {
  readonly device: VirtioDevice;
  readonly interrupts: number[] = [];
  configInterrupts = 0;

  constructor(
    readonly rig: Rig,
    type: DeviceType,
    reset = true,
  ) {
    this.device = rig.device(type, reset);
    this.device.interrupts = {
      queue: (index) => {
        this.interrupts[index] = (this.interrupts[index] ?? 0) + 1;
      },
      config: () => {
        this.configInterrupts++;
      },
    };
  }

  /** The steps of VIRTIO 3.1.1 up to the queues' set-up. */
  negotiate(bits: readonly number[]): void {
    const { device } = this;
    device.writeStatus(0);
    device.writeStatus(Status.ACKNOWLEDGE);
    device.writeStatus(Status.ACKNOWLEDGE | Status.DRIVER);
    featureWords([Feature.VERSION_1, ...bits]).forEach((word, i) => {
      device.setDriverFeatures(i, word);
    });
    device.writeStatus(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK);
    assert.ok((device.status & Status.FEATURES_OK) !== 0, "FEATURES_OK was refused");
  }

  driverOk(): void {
    const { ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK } = Status;
    this.device.writeStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
  }

  /** Serve until there is nothing more to do; a device that never ends fails the test. */
  run(): void {
    for (let i = 0; i < 10_000; i++) if (!this.device.serve()) return;
    assert.fail("the device does not come to an end");
  }

  get needsReset(): boolean {
    return (this.device.status & Status.NEEDS_RESET) !== 0;
  }
}

export interface Buffer_ {
  readonly address: number;
  readonly length: number;
  readonly write?: boolean;
}

/** What a driver does with a virtqueue. */
export interface DriverRing {
  readonly size: number;
  /** Make a request available; returns what names it. */
  add(buffers: readonly Buffer_[], options?: { indirect?: number }): number;
  /** Requests that the device gave back since the last call. */
  used(): { id: number; length: number }[];
  /** Interrupts are not wanted. */
  suppress(): void;
  /** With event indices: interrupt when `count` more requests are used than have been so far. */
  interruptAfter(count: number): void;
  /** Whether the device wants to be notified of the next request. */
  readonly wantsNotification: boolean;
}

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;

function place(queue: Queue, areas: readonly [number, number, number], size: number): void {
  const { state } = queue;
  queue.device.locked(() => queue.resize(size));
  [state.descriptors, state.driver, state.device].forEach((field, i) => {
    field[0] = areas[i] % 2 ** 32;
    field[1] = Math.floor(areas[i] / 2 ** 32);
  });
  queue.enable();
}

function writeTable(ram: GuestMemory, at: number, buffers: readonly Buffer_[], chained: boolean): void {
  buffers.forEach(({ address, length, write }, i) => {
    const descriptor = at + 16 * i;
    ram.writeU64(gpa(descriptor), BigInt(address));
    ram.writeU32(gpa(descriptor + 8), length);
    const last = i === buffers.length - 1;
    const flags = (write ? WRITE : 0) | (chained && !last ? NEXT : 0);
    ram.writeU16(gpa(descriptor + 12), chained ? flags : 0);
    ram.writeU16(gpa(descriptor + 14), chained ? i + 1 : flags);
  });
}

/** VIRTIO 2.7 as the driver. Its memory starts at `base`. */
export class SplitDriver implements DriverRing {
  readonly descriptors: number;
  readonly available: number;
  readonly usedRing: number;
  #free: number[];
  #next = 0;
  #seen = 0;
  readonly #heads = new Map<number, number[]>();

  constructor(
    readonly ram: GuestMemory,
    readonly base: number,
    readonly size: number,
    queue?: Queue,
  ) {
    this.descriptors = base;
    this.available = base + 16 * size;
    this.usedRing = (this.available + 6 + 2 * size + 3) & ~3;
    ram.fill(gpa(base), this.usedRing + 6 + 8 * size - base);
    this.#free = Array.from({ length: size }, (_, i) => i);
    if (queue !== undefined) place(queue, [this.descriptors, this.available, this.usedRing], size);
  }

  /** Write descriptor `index` as it is given. */
  descriptor(index: number, address: number | bigint, length: number, flags: number, next = 0): void {
    const at = this.descriptors + 16 * index;
    this.ram.writeU64(gpa(at), BigInt(address));
    this.ram.writeU32(gpa(at + 8), length);
    this.ram.writeU16(gpa(at + 12), flags);
    this.ram.writeU16(gpa(at + 14), next);
  }

  /** Make the chain at `head` available, whatever it is. */
  offer(head: number): void {
    this.ram.writeU16(gpa(this.available + 4 + 2 * (this.#next % this.size)), head);
    this.setIndex(this.#next + 1);
  }

  setIndex(index: number): void {
    this.#next = index & 0xffff;
    this.ram.writeU16(gpa(this.available + 2), this.#next);
  }

  add(buffers: readonly Buffer_[], { indirect }: { indirect?: number } = {}): number {
    if (indirect !== undefined) {
      writeTable(this.ram, indirect, buffers, true);
      const head = this.#take(1)[0];
      this.descriptor(head, indirect, 16 * buffers.length, INDIRECT);
      this.#heads.set(head, [head]);
      this.offer(head);
      return head;
    }
    const taken = this.#take(buffers.length);
    buffers.forEach(({ address, length, write }, i) => {
      const last = i === buffers.length - 1;
      this.descriptor(taken[i], address, length, (write ? WRITE : 0) | (last ? 0 : NEXT), taken[i + 1] ?? 0);
    });
    this.#heads.set(taken[0], taken);
    this.offer(taken[0]);
    return taken[0];
  }

  #take(count: number): number[] {
    assert.ok(this.#free.length >= count, "the test's ring is full");
    return this.#free.splice(0, count);
  }

  get usedIndex(): number {
    return this.ram.readU16(gpa(this.usedRing + 2));
  }

  used(): { id: number; length: number }[] {
    const result: { id: number; length: number }[] = [];
    for (; this.#seen !== this.usedIndex; this.#seen = (this.#seen + 1) & 0xffff) {
      const at = this.usedRing + 4 + 8 * (this.#seen % this.size);
      const id = this.ram.readU32(gpa(at));
      result.push({ id, length: this.ram.readU32(gpa(at + 4)) });
      this.#free.push(...(this.#heads.get(id) ?? []));
      this.#heads.delete(id);
    }
    return result;
  }

  suppress(): void {
    this.ram.writeU16(gpa(this.available), 1);
  }

  interruptAfter(count: number): void {
    this.ram.writeU16(gpa(this.available + 4 + 2 * this.size), (this.#seen + count) & 0xffff);
  }

  /** With event indices, avail_event; `next` was the index before the request. */
  get wantsNotification(): boolean {
    return this.ram.readU16(gpa(this.usedRing + 4 + 8 * this.size)) === this.#next;
  }

  get noNotify(): boolean {
    return (this.ram.readU16(gpa(this.usedRing)) & 1) !== 0;
  }
}

const AVAIL = 1 << 7;
const USED = 1 << 15;

/** VIRTIO 2.8 as the driver. */
export class PackedDriver implements DriverRing {
  readonly ring: number;
  readonly driverEvent: number;
  readonly deviceEvent: number;
  #next = 0;
  #wrap = 1;
  #seen = 0;
  #seenWrap = 1;
  #id = 0;
  readonly #entries = new Map<number, number>();

  constructor(
    readonly ram: GuestMemory,
    readonly base: number,
    readonly size: number,
    queue?: Queue,
  ) {
    this.ring = base;
    this.driverEvent = base + 16 * size;
    this.deviceEvent = this.driverEvent + 4;
    ram.fill(gpa(base), 16 * size + 8);
    if (queue !== undefined) place(queue, [this.ring, this.driverEvent, this.deviceEvent], size);
  }

  /** Write the next entry as it is given, and go on to the one after it. */
  entry(address: number | bigint, length: number, id: number, flags: number): void {
    const at = this.ring + 16 * this.#next;
    this.ram.writeU64(gpa(at), BigInt(address));
    this.ram.writeU32(gpa(at + 8), length);
    this.ram.writeU16(gpa(at + 12), id);
    this.ram.writeU16(gpa(at + 14), flags | (this.#wrap ? AVAIL : USED));
    this.#next++;
    if (this.#next === this.size) {
      this.#next = 0;
      this.#wrap ^= 1;
    }
  }

  add(buffers: readonly Buffer_[], { indirect }: { indirect?: number } = {}): number {
    const id = this.#id;
    this.#id = (this.#id + 1) & 0xff;
    if (indirect !== undefined) {
      writeTable(this.ram, indirect, buffers, false);
      this.#entries.set(id, 1);
      this.entry(indirect, 16 * buffers.length, id, INDIRECT);
      return id;
    }
    this.#entries.set(id, buffers.length);
    buffers.forEach(({ address, length, write }, i) => {
      const last = i === buffers.length - 1;
      // 2.8.6: only the last entry's ID counts.
      this.entry(address, length, last ? id : 0xdead & 0xffff, (write ? WRITE : 0) | (last ? 0 : NEXT));
    });
    return id;
  }

  used(): { id: number; length: number }[] {
    const result: { id: number; length: number }[] = [];
    for (;;) {
      const at = this.ring + 16 * this.#seen;
      const flags = this.ram.readU16(gpa(at + 14));
      const bit = this.#seenWrap ? AVAIL | USED : 0;
      if ((flags & (AVAIL | USED)) !== bit) return result;
      const id = this.ram.readU16(gpa(at + 12));
      result.push({ id, length: this.ram.readU32(gpa(at + 8)) });
      const entries = this.#entries.get(id);
      assert.ok(entries !== undefined, `the device gave back ${id}, which it had not`);
      this.#entries.delete(id);
      this.#seen += entries;
      if (this.#seen >= this.size) {
        this.#seen -= this.size;
        this.#seenWrap ^= 1;
      }
    }
  }

  suppress(): void {
    this.ram.writeU32(gpa(this.driverEvent), 1 << 16);
  }

  interruptAfter(count: number): void {
    let offset = this.#seen + count;
    let wrap = this.#seenWrap;
    if (offset >= this.size) {
      offset -= this.size;
      wrap ^= 1;
    }
    this.ram.writeU32(gpa(this.driverEvent), (2 << 16) | (wrap << 15) | offset);
  }

  get wantsNotification(): boolean {
    const event = this.ram.readU32(gpa(this.deviceEvent));
    const flags = event >>> 16;
    if (flags !== 2) return flags === 0;
    return (event & 0x7fff) === this.#next && ((event >>> 15) & 1) === this.#wrap;
  }
}

export const RINGS = [
  { kind: "split", bits: [], make: SplitDriver },
  { kind: "packed", bits: [Feature.RING_PACKED], make: PackedDriver },
] as const;

/** A device type that echoes: what it reads it writes back, as far as there is room. */
export function echoType(): DeviceType & { served: number } {
  return {
    id: 63,
    kind: "echo",
    features: [],
    queueSizes: [64, 64],
    legacy: true,
    configSize: 8,
    served: 0,
    readConfig: (offset) => offset + 1,
    writeConfig: () => undefined,
    reset: () => undefined,
    serve(queue) {
      return queue.each(({ readable, writable }) => {
        this.served++;
        const bytes = new Uint8Array(readable.length);
        readable.copyTo(bytes);
        return writable.copyFrom(bytes);
      });
    },
  };
}
