/**
 * The block device: VIRTIO 5.2. Requests are served in the order in which they were made available, each to its end, on the disk's
 * own Worker: what the host does with a write that was acknowledged before a flush is then never in doubt.
 */
import { type Disk, DiskError, SECTOR_SIZE } from "../../backends/disk/disk.js";
import { MAX_VECTORS } from "../../backends/disk/io-vectors.js";
import { array, Layout, type ViewOf } from "../../memory/layout.js";
import type { StateAllocator } from "../../memory/state-allocator.js";
import type { AccessSize } from "../bus.js";
import type { BufferList, Chain } from "./buffers.js";
import { readBytes } from "./config-bytes.js";
import { DeviceId } from "./constants.js";
import type { DeviceType, VirtioDevice } from "./device.js";
import type { Queue } from "./queue.js";

/** Feature bits, VIRTIO 5.2.3. */
export const BlkFeature = {
  SEG_MAX: 2,
  RO: 5,
  BLK_SIZE: 6,
  FLUSH: 9,
  TOPOLOGY: 10,
  CONFIG_WCE: 11,
  MQ: 12,
  DISCARD: 13,
  WRITE_ZEROES: 14,
} as const;

/** Request types, VIRTIO 5.2.6. */
export const BlkRequest = {
  IN: 0,
  OUT: 1,
  FLUSH: 4,
  GET_ID: 8,
  DISCARD: 11,
  WRITE_ZEROES: 13,
} as const;
/** Legacy drivers may set it beside the type (5.2.6.4): a barrier, which serving in order is. */
const LEGACY_BARRIER = 0x80000000;

export const BlkStatus = { OK: 0, IOERR: 1, UNSUPP: 2 } as const;

const HEADER_SIZE = 16;
export const BLK_ID_SIZE = 20;
/** A range of a discard or write zeroes request: sector u64, sectors u32, flags u32. */
const RANGE_SIZE = 16;
const RANGE_UNMAP = 1;

const QUEUE_SIZE = 256;
/** Header and status take a descriptor each. */
const SEG_MAX = QUEUE_SIZE - 2;
const MAX_RANGES = 32;
/** Most sectors that one range may name: below 2 GiB, which every driver can count. */
const MAX_RANGE_SECTORS = 0x3fffff;

/** Offsets in the configuration, VIRTIO 5.2.4. */
const Config = {
  CAPACITY: 0,
  SEG_MAX: 12,
  BLK_SIZE: 20,
  PHYSICAL_BLOCK_EXP: 24,
  MIN_IO_SIZE: 26,
  OPT_IO_SIZE: 28,
  WRITEBACK: 32,
  NUM_QUEUES: 34,
  MAX_DISCARD_SECTORS: 36,
  MAX_DISCARD_SEG: 40,
  DISCARD_ALIGNMENT: 44,
  MAX_WRITE_ZEROES_SECTORS: 48,
  MAX_WRITE_ZEROES_SEG: 52,
  WRITE_ZEROES_MAY_UNMAP: 56,
} as const;
const CONFIG_SIZE = 60;

/** Ranges of memory up to this many are read and written one by one, more at once or through a buffer. */
const MAX_DIRECT_RANGES = 4;
/** Through the buffer go so many bytes at a time: few enough to be in the processor's cache still when they are copied. */
const BOUNCE_BYTES = 128 << 10;

const BLK = new Layout("virtio-blk", { config: array("u8", CONFIG_SIZE) });

export interface BlkOptions {
  readonly queues: number;
  readonly readOnly: boolean;
  /** What GET_ID answers: up to 20 characters of ASCII. */
  readonly serial: string;
}

/** What of a disk the driver is told. */
export type DiskGeometry = Pick<Disk, "sizeBytes" | "blockSize" | "discardGranularity">;

export class BlkDevice implements DeviceType {
  readonly id = DeviceId.BLOCK;
  readonly kind = "blk";
  readonly legacy = true;
  readonly configSize = CONFIG_SIZE;
  readonly features: readonly number[];
  readonly queueSizes: readonly number[];
  readonly #config: Uint8Array;
  readonly #state: ViewOf<typeof BLK>;
  readonly #options: BlkOptions;
  #disk: Disk | undefined;
  #bounce: Uint8Array | undefined;
  readonly #header = new Uint8Array(HEADER_SIZE);
  readonly #fields = new DataView(this.#header.buffer);

  constructor(allocator: StateAllocator, name: string, options: BlkOptions) {
    this.#options = options;
    this.#state = allocator.alloc(BLK, `${name}.blk`);
    this.#config = this.#state.config;
    this.queueSizes = Array.from({ length: options.queues }, () => QUEUE_SIZE);
    const { SEG_MAX, BLK_SIZE, FLUSH, TOPOLOGY, CONFIG_WCE, MQ, RO, DISCARD, WRITE_ZEROES } = BlkFeature;
    this.features = [
      SEG_MAX,
      BLK_SIZE,
      FLUSH,
      TOPOLOGY,
      CONFIG_WCE,
      ...(options.queues > 1 ? [MQ] : []),
      ...(options.readOnly ? [RO] : [DISCARD, WRITE_ZEROES]),
    ];
  }

  /** First values of the configuration, once the disk is known. In one thread, before the guest runs. */
  describe(disk: DiskGeometry): void {
    const config = new DataView(new ArrayBuffer(CONFIG_SIZE));
    const granularity = Math.max(disk.discardGranularity, SECTOR_SIZE);
    const alignment = Math.min(granularity / SECTOR_SIZE, MAX_RANGE_SECTORS);
    config.setBigUint64(Config.CAPACITY, BigInt(Math.floor(disk.sizeBytes / SECTOR_SIZE)), true);
    config.setUint32(Config.SEG_MAX, SEG_MAX, true);
    // Drivers that know 512-byte sectors only go on working; the physical block says what is cheap (5.2.5.1).
    config.setUint32(Config.BLK_SIZE, SECTOR_SIZE, true);
    const blocks = Math.max(disk.blockSize / SECTOR_SIZE, 1);
    config.setUint8(Config.PHYSICAL_BLOCK_EXP, Math.floor(Math.log2(Math.min(blocks, 128))));
    config.setUint16(Config.MIN_IO_SIZE, Math.min(blocks, 0xffff), true);
    config.setUint8(Config.WRITEBACK, 1);
    config.setUint16(Config.NUM_QUEUES, this.#options.queues, true);
    config.setUint32(Config.MAX_DISCARD_SECTORS, MAX_RANGE_SECTORS, true);
    config.setUint32(Config.MAX_DISCARD_SEG, MAX_RANGES, true);
    config.setUint32(Config.DISCARD_ALIGNMENT, alignment, true);
    config.setUint32(Config.MAX_WRITE_ZEROES_SECTORS, MAX_RANGE_SECTORS, true);
    config.setUint32(Config.MAX_WRITE_ZEROES_SEG, MAX_RANGES, true);
    config.setUint8(Config.WRITE_ZEROES_MAY_UNMAP, 1);
    this.#config.set(new Uint8Array(config.buffer));
  }

  /** The disk, in the thread that serves the device. */
  attach(disk: Disk): void {
    this.#disk = disk;
  }

  readConfig(offset: number, size: AccessSize): number {
    return readBytes(this.#config, offset, size);
  }

  /** 5.2.4: only the cache mode can be written, with CONFIG_WCE. */
  writeConfig(offset: number, size: AccessSize, value: number): void {
    if (offset === Config.WRITEBACK && size === 1) this.#config[Config.WRITEBACK] = value & 1;
  }

  /** 5.2.5: after a reset the cache is in writeback mode. */
  reset(): void {
    this.#config[Config.WRITEBACK] = 1;
  }

  serve(queue: Queue): boolean {
    return queue.each((chain) => this.#request(queue.device, chain));
  }

  /** Serve one request; returns the bytes written to guest memory, its status among them. */
  #request(device: VirtioDevice, chain: Chain): number {
    const { readable, writable } = chain;
    // The last byte that the device may write is the status (5.2.6): without it, nothing can be answered.
    if (writable.length === 0) return 0;
    const room = writable.length - 1;
    let written = 0;
    let status: number = BlkStatus.IOERR;
    const disk = this.#disk;
    if (disk !== undefined && readable.copyTo(this.#header) === HEADER_SIZE) {
      try {
        const type = (this.#fields.getUint32(0, true) & ~LEGACY_BARRIER) >>> 0;
        const sector = this.#fields.getUint32(8, true) + this.#fields.getUint32(12, true) * 2 ** 32;
        switch (type) {
          case BlkRequest.IN:
            this.#read(disk, sector * SECTOR_SIZE, writable, room);
            written = room;
            status = BlkStatus.OK;
            break;
          case BlkRequest.OUT:
            this.#write(disk, sector * SECTOR_SIZE, readable);
            if (this.#writeThrough(device)) disk.flush();
            status = BlkStatus.OK;
            break;
          case BlkRequest.FLUSH:
            disk.flush();
            status = BlkStatus.OK;
            break;
          case BlkRequest.GET_ID:
            written = this.#identify(writable, room);
            status = BlkStatus.OK;
            break;
          case BlkRequest.DISCARD:
          case BlkRequest.WRITE_ZEROES:
            status = this.#ranges(disk, type, readable);
            if (status === BlkStatus.OK && this.#writeThrough(device)) disk.flush();
            break;
          default:
            status = BlkStatus.UNSUPP;
        }
      } catch (error) {
        if (!(error instanceof DiskError)) throw error;
        status = BlkStatus.IOERR;
        written = 0;
      }
    }
    writable.fill(status, room, 1);
    // 2.7.8.2: the length counts from the start of the writable part, and all of that is written: zeros where nothing was read.
    if (written < room) writable.fill(0, written, room - written);
    return room + 1;
  }

  /** 5.2.6.2: without FLUSH, or with the cache turned off, a write is on stable storage when it is done. */
  #writeThrough(device: VirtioDevice): boolean {
    return !device.has(BlkFeature.FLUSH) || this.#config[Config.WRITEBACK] === 0;
  }

  /** Throws `DiskError`, "RANGE" among them. */
  #read(disk: Disk, offset: number, target: BufferList, length: number): void {
    checkSectors(disk, offset, length);
    const views = target.views(0, length);
    if (views.length <= MAX_DIRECT_RANGES) {
      let at = offset;
      for (const view of views) {
        disk.read(at, view);
        at += view.length;
      }
      target.written(0, length);
      return;
    }
    if (disk.readVectors !== undefined && views.length <= MAX_VECTORS) {
      disk.readVectors(offset, views);
      target.written(0, length);
      return;
    }
    this.#bounced(length, (buffer, at) => {
      disk.read(offset + at, buffer);
      target.copyFrom(buffer, at);
    });
  }

  #write(disk: Disk, offset: number, source: BufferList): void {
    const length = source.length - HEADER_SIZE;
    if (disk.readOnly) throw new DiskError("a write to a read-only disk", "READ_ONLY");
    checkSectors(disk, offset, length);
    const views = source.views(HEADER_SIZE, length);
    if (views.length <= MAX_DIRECT_RANGES) {
      let at = offset;
      for (const view of views) {
        disk.write(at, view);
        at += view.length;
      }
      return;
    }
    if (disk.writeVectors !== undefined && views.length <= MAX_VECTORS) {
      disk.writeVectors(offset, views);
      return;
    }
    this.#bounced(length, (buffer, at) => {
      source.copyTo(buffer, HEADER_SIZE + at);
      disk.write(offset + at, buffer);
    });
  }

  /** `length` bytes through the buffer, a part at a time. */
  #bounced(length: number, transfer: (buffer: Uint8Array, at: number) => void): void {
    this.#bounce ??= new Uint8Array(BOUNCE_BYTES);
    for (let at = 0; at < length; at += BOUNCE_BYTES) {
      transfer(this.#bounce.subarray(0, Math.min(BOUNCE_BYTES, length - at)), at);
    }
  }

  /** 5.2.6.2: the ID is padded with zeros, and has no zero where it takes all 20 bytes. */
  #identify(target: BufferList, room: number): number {
    const id = new Uint8Array(BLK_ID_SIZE);
    id.set(Buffer.from(this.#options.serial, "latin1").subarray(0, BLK_ID_SIZE));
    return target.copyFrom(id.subarray(0, room));
  }

  /** DISCARD and WRITE_ZEROES, 5.2.6.2. */
  #ranges(disk: Disk, type: number, source: BufferList): number {
    const length = source.length - HEADER_SIZE;
    if (length <= 0 || length % RANGE_SIZE !== 0 || length > RANGE_SIZE * MAX_RANGES) return BlkStatus.UNSUPP;
    if (disk.readOnly) return BlkStatus.IOERR;
    const bytes = new Uint8Array(length);
    source.copyTo(bytes, HEADER_SIZE);
    const fields = new DataView(bytes.buffer);
    const ranges: { offset: number; length: number; unmap: boolean }[] = [];
    for (let at = 0; at < length; at += RANGE_SIZE) {
      const sector = fields.getUint32(at, true) + fields.getUint32(at + 4, true) * 2 ** 32;
      const sectors = fields.getUint32(at + 8, true);
      const flags = fields.getUint32(at + 12, true);
      // Unknown flags, and UNMAP with a discard, are UNSUPP.
      if ((flags & ~RANGE_UNMAP) !== 0) return BlkStatus.UNSUPP;
      if (type === BlkRequest.DISCARD && flags !== 0) return BlkStatus.UNSUPP;
      if (sectors > MAX_RANGE_SECTORS) return BlkStatus.IOERR;
      const range = { offset: sector * SECTOR_SIZE, length: sectors * SECTOR_SIZE };
      checkSectors(disk, range.offset, range.length);
      ranges.push({ ...range, unmap: flags === RANGE_UNMAP });
    }
    for (const { offset, length: bytes, unmap } of ranges) {
      if (bytes === 0) continue;
      if (type === BlkRequest.DISCARD) disk.discard(offset, bytes);
      else disk.writeZeroes(offset, bytes, unmap);
    }
    return BlkStatus.OK;
  }
}

/** Whole sectors inside the capacity. Throws `DiskError`. */
function checkSectors(disk: Disk, offset: number, length: number): void {
  const end = disk.sizeBytes - (disk.sizeBytes % SECTOR_SIZE);
  if (length < 0 || length % SECTOR_SIZE !== 0 || offset > end || length > end - offset) {
    throw new DiskError(`${length} bytes at ${offset}: not in the disk's sectors`, "RANGE");
  }
}
