/**
 * A qcow2 image as a disk.
 *
 * Data goes into the file at once, tables stay in memory until `#commit` writes them in this order:
 *
 *   1. refcounts that went up, and tables that nothing in the file refers to yet; then a sync
 *   2. what refers to them: L2 tables and L1 entries; then a sync
 *   3. refcounts that went down
 *
 * So at any moment the file is an image without errors, whoever kills the process or the host. What a kill may leave
 * behind are clusters that are counted and not used, where it comes between 1 and 2.
 *
 * Document: QEMU, docs/interop/qcow2.rst.
 */
import { checkRange, type Disk, DiskError, type ImageDisk, SECTOR_SIZE } from "../disk.js";
import type { HostFile } from "../host-file.js";
import type { Compress, Decompress } from "./compression.js";
import { decompressor } from "./compression.js";
import { HeaderOffset, type Qcow2Header } from "./header.js";
import {
  COMPRESSED,
  COPIED,
  compressedExtent,
  compressedHigh,
  compressedLimit,
  entryOffset,
  type Geometry,
  geometryOf,
  Kind,
  SUBCLUSTERS,
  ZERO,
} from "./layout.js";
import { Refcounts } from "./refcounts.js";
import { type Table, TableCache } from "./table-cache.js";

const ALL_SUBCLUSTERS = 0xffffffff;
/** Bytes of unpacked clusters that are kept. */
const UNPACKED_BYTES = 8 * 2 ** 20;
/** Bytes that are copied at once from an old place to a new one. */
const COPY_BYTES = 2 ** 20;

export interface Qcow2Options {
  /** The disk below, which this one closes with itself. */
  readonly backing?: Disk | undefined;
  /** Another L1 table than the active one, of a snapshot; the disk is read-only then. */
  readonly snapshot?:
    | { readonly l1Offset: number; readonly l1Entries: number; readonly size: number }
    | undefined;
  /** Nothing needs to survive: no flush does anything. */
  readonly volatile?: boolean;
}

export class Qcow2Disk implements ImageDisk {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly blockSize: number;
  readonly discardGranularity: number;
  readonly geometry: Geometry;
  readonly refcounts: Refcounts;
  readonly backing: Disk | undefined;
  readonly #volatile: boolean;
  readonly #l1: DataView;
  readonly #l1Offset: number;
  /** Entries [#l1From, #l1To) of the L1 table changed. */
  #l1From = Number.POSITIVE_INFINITY;
  #l1To = 0;
  readonly #tables: TableCache;
  /** Clusters of L2 tables, for the check that no allocation and no write gets into them. */
  readonly #tableClusters = new Set<number>();
  readonly #decompress: Decompress;
  readonly #unpacked = new Map<number, Uint8Array>();
  #dirty = false;
  #closed = false;
  /** The end of the last compressed cluster, in a cluster that has room for more; 0 for none. */
  #compressedEnd = 0;

  // What #find found.
  #kind: Kind = Kind.UNALLOCATED;
  #host = 0;
  #length = 0;
  /** Of a compressed cluster: its entry. */
  #high = 0;
  #low = 0;

  private constructor(
    readonly file: HostFile,
    readonly header: Qcow2Header,
    decompress: Decompress,
    options: Qcow2Options,
  ) {
    const { snapshot } = options;
    this.geometry = geometryOf(header);
    this.sizeBytes = Math.ceil((snapshot?.size ?? header.size) / SECTOR_SIZE) * SECTOR_SIZE;
    this.readOnly = !file.writable || snapshot !== undefined;
    this.backing = options.backing;
    this.#volatile = options.volatile ?? false;
    this.#decompress = decompress;
    this.#tables = new TableCache(file, this.geometry.clusterSize);
    this.#l1Offset = snapshot?.l1Offset ?? header.l1Offset;
    const l1 = new Uint8Array((snapshot?.l1Entries ?? header.l1Entries) * 8);
    file.read(this.#l1Offset, l1);
    this.#l1 = new DataView(l1.buffer);
    this.refcounts = new Refcounts(file, header, (cluster) => this.#reserved(cluster));
    this.blockSize = Math.min(this.geometry.unitSize, 65536);
    this.discardGranularity = this.geometry.clusterSize;
  }

  /**
   * The image in `file`, whose header was read. Where the file is writable the image is made ready for writing. The
   * disk closes `file` and the backing disk with itself. Throws `DiskError`.
   */
  static async open(file: HostFile, header: Qcow2Header, options: Qcow2Options = {}): Promise<Qcow2Disk> {
    if (file.writable && header.corrupt) {
      throw new DiskError(
        `${file.path}: the image is marked as corrupt and can only be read; nlkt image check --repair all`,
      );
    }
    const disk = new Qcow2Disk(file, header, await decompressor(header.compression), options);
    if (!disk.readOnly) {
      for (let index = 0; index < header.l1Entries; index++) {
        const offset = entryOffset(disk.#l1.getUint32(index * 8), disk.#l1.getUint32(index * 8 + 4));
        if (offset !== 0) disk.#tableClusters.add(Math.floor(offset / disk.geometry.clusterSize));
      }
      // Bitmaps and whatever else it stands for are not kept up to date.
      if (header.autoclear !== 0n) {
        file.write(HeaderOffset.AUTOCLEAR, new Uint8Array(8));
        file.sync();
      }
    }
    return disk;
  }

  // ---------------------------------------------------------------- reading

  read(offset: number, target: Uint8Array): void {
    checkRange(this, offset, target.length);
    let done = 0;
    while (done < target.length) {
      this.#find(offset + done, target.length - done);
      const length = this.#length;
      const part = length === target.length ? target : target.subarray(done, done + length);
      switch (this.#kind) {
        case Kind.DATA:
          this.file.read(this.#host, part);
          break;
        case Kind.ZERO:
          part.fill(0);
          break;
        case Kind.UNALLOCATED:
          this.#readBacking(offset + done, part);
          break;
        case Kind.COMPRESSED: {
          const start = (offset + done) % this.geometry.clusterSize;
          part.set(this.#unpack(this.#high, this.#low).subarray(start, start + length));
        }
      }
      done += length;
    }
  }

  #readBacking(offset: number, target: Uint8Array): void {
    const { backing } = this;
    const length =
      backing === undefined ? 0 : Math.max(0, Math.min(target.length, backing.sizeBytes - offset));
    if (length > 0) backing?.read(offset, length === target.length ? target : target.subarray(0, length));
    if (length < target.length) target.fill(0, length);
  }

  /**
   * What the disk has at `offset`, for copying: how many of at most `limit` bytes are alike, and whether they are
   * zeros that need not be read.
   */
  extent(offset: number, limit: number): { length: number; zero: boolean } {
    checkRange(this, offset, limit);
    this.#find(offset, limit);
    const inBacking =
      this.#kind === Kind.UNALLOCATED && this.backing !== undefined && offset < this.backing.sizeBytes;
    const zero = this.#kind === Kind.ZERO || (this.#kind === Kind.UNALLOCATED && !inBacking);
    return { length: this.#length, zero };
  }

  /** The L2 table that maps `offset`, undefined where there is none. */
  #table(l1Index: number): Table | undefined {
    const offset = entryOffset(this.#l1.getUint32(l1Index * 8), this.#l1.getUint32(l1Index * 8 + 4));
    if (offset === 0) return undefined;
    if (offset % this.geometry.clusterSize !== 0) throw this.#broken(`an L2 table is at offset ${offset}`);
    if (!Number.isSafeInteger(offset)) throw this.#broken(`an L2 table is beyond the end of the file`);
    return this.#tables.get(offset);
  }

  /**
   * Find where `offset` is: sets #kind, #host and #length, which is at most `limit` and as much as is alike. Where the
   * cluster is compressed, #high and #low are its entry.
   */
  #find(offset: number, limit: number): void {
    const { clusterSize, l2Coverage, l2Entries, unitSize } = this.geometry;
    const l1Index = Math.floor(offset / l2Coverage);
    const inTable = offset - l1Index * l2Coverage;
    limit = Math.min(limit, l2Coverage - inTable);
    const table = this.#table(l1Index);
    if (table === undefined) {
      this.#kind = Kind.UNALLOCATED;
      this.#length = limit;
      return;
    }
    const units = clusterSize / unitSize;
    let unit = Math.floor(inTable / unitSize);
    const inUnit = inTable - unit * unitSize;
    this.#findUnit(table, unit, units);
    const kind = this.#kind;
    const host = this.#host;
    if (kind === Kind.COMPRESSED) {
      this.#length = Math.min(limit, clusterSize - (inTable % clusterSize));
      return;
    }
    const high = this.#high;
    const low = this.#low;
    let length = unitSize - inUnit;
    while (length < limit && ++unit < l2Entries * units) {
      this.#findUnit(table, unit, units);
      if (this.#kind !== kind || (kind === Kind.DATA && this.#host !== host + inUnit + length)) break;
      length += unitSize;
    }
    this.#kind = kind;
    this.#host = host + inUnit;
    this.#length = Math.min(length, limit);
    this.#high = high;
    this.#low = low;
  }

  /** As #find, for one subcluster, or cluster where there are none. #host is where the unit begins. */
  #findUnit(table: Table, unit: number, units: number): void {
    const index = units === 1 ? unit : Math.floor(unit / units);
    const at = index * this.geometry.entrySize;
    const high = table.view.getUint32(at);
    const low = table.view.getUint32(at + 4);
    this.#high = high;
    this.#low = low;
    if ((high & COMPRESSED) !== 0) {
      this.#kind = Kind.COMPRESSED;
      return;
    }
    const host = entryOffset(high, low);
    if (host % this.geometry.clusterSize !== 0 || !Number.isSafeInteger(host)) {
      throw this.#broken(`a cluster is at offset ${host}`);
    }
    if (units === 1) {
      if ((low & ZERO) !== 0) {
        if (this.header.version < 3) throw this.#broken("a zero cluster in a version 2 image");
        this.#kind = Kind.ZERO;
      } else {
        this.#kind = host === 0 ? Kind.UNALLOCATED : Kind.DATA;
      }
      this.#host = host;
      return;
    }
    const sub = unit % units;
    const zero = (table.view.getUint32(at + 8) >>> sub) & 1;
    const allocated = (table.view.getUint32(at + 12) >>> sub) & 1;
    if (allocated !== 0 && (zero !== 0 || host === 0)) throw this.#broken("a subcluster is in two states");
    this.#kind = zero !== 0 ? Kind.ZERO : allocated !== 0 ? Kind.DATA : Kind.UNALLOCATED;
    this.#host = host + sub * this.geometry.unitSize;
  }

  #unpack(high: number, low: number): Uint8Array {
    const { clusterBits, clusterSize } = this.geometry;
    const { offset, length } = compressedExtent(high, low, clusterBits);
    const known = this.#unpacked.get(offset);
    if (known !== undefined) return known;
    if (!Number.isSafeInteger(offset + length)) throw this.#broken(`a compressed cluster is at ${offset}`);
    const data = new Uint8Array(length);
    this.file.read(offset, data);
    const cluster = this.#decompress(data, clusterSize);
    if (cluster === null) throw this.#broken(`the compressed cluster at ${offset} cannot be unpacked`);
    if ((this.#unpacked.size + 1) * clusterSize > UNPACKED_BYTES) {
      for (const oldest of this.#unpacked.keys()) {
        this.#unpacked.delete(oldest);
        break;
      }
    }
    this.#unpacked.set(offset, cluster);
    return cluster;
  }

  // ---------------------------------------------------------------- writing

  write(offset: number, source: Uint8Array): void {
    checkRange(this, offset, source.length);
    this.#writable();
    let done = 0;
    while (done < source.length) {
      const part = done === 0 ? source : source.subarray(done);
      done += this.#writeSome(offset + done, part);
      this.#relieve();
    }
  }

  /** Write the beginning of `source`, as far as one place in the file goes; how much that was. */
  #writeSome(offset: number, source: Uint8Array): number {
    const { clusterSize, l2Coverage, entrySize, extended } = this.geometry;
    const l1Index = Math.floor(offset / l2Coverage);
    const table = this.#tableForWriting(l1Index);
    const inTable = offset - l1Index * l2Coverage;
    const limit = Math.min(source.length, l2Coverage - inTable);
    const inPlace = this.#overwritable(table, inTable, limit);
    if (inPlace > 0) {
      const host = this.#host;
      this.#checkOverwrite(host, inPlace);
      this.file.write(host, inPlace === source.length ? source : source.subarray(0, inPlace));
      this.#dirty = true;
      return inPlace;
    }
    const index = Math.floor(inTable / clusterSize);
    const at = index * entrySize;
    const high = table.view.getUint32(at);
    const low = table.view.getUint32(at + 4);
    const inCluster = inTable % clusterSize;
    const owned = (high & COMPRESSED) === 0 && (high & COPIED) !== 0 && entryOffset(high, low) !== 0;
    if (extended) {
      const length = Math.min(limit, clusterSize - inCluster);
      this.#writeSubclusters(table, index, offset, source.subarray(0, length), owned);
      return length;
    }
    if (owned) {
      // Allocated beforehand and full of anything: zeros are what it reads as.
      const length = Math.min(limit, clusterSize - inCluster);
      const host = entryOffset(high, low);
      this.#checkOverwrite(host, clusterSize);
      this.#place(offset, source.subarray(0, length), host, clusterSize, false);
      this.#setEntry(table, index, host);
      return length;
    }
    return this.#writeNew(table, index, offset, source.subarray(0, limit));
  }

  /** Put `source` into new clusters for those from `index` of `table` on, as many as the file has in a row. */
  #writeNew(table: Table, index: number, offset: number, source: Uint8Array): number {
    const { clusterSize } = this.geometry;
    const inCluster = offset % clusterSize;
    const wanted = Math.ceil((inCluster + source.length) / clusterSize);
    let usable = 1;
    while (usable < wanted && !this.#isOwned(table, index + usable)) usable++;
    const { first, count, fresh } = this.refcounts.allocate(usable);
    const host = first * clusterSize;
    const length = Math.min(source.length, count * clusterSize - inCluster);
    try {
      this.#place(offset, source.subarray(0, length), host, count * clusterSize, fresh);
    } catch (error) {
      this.refcounts.cancel(first, count);
      throw error;
    }
    for (let cluster = 0; cluster < count; cluster++) {
      this.#release(table, index + cluster);
      this.#setEntry(table, index + cluster, host + cluster * clusterSize);
    }
    return length;
  }

  /**
   * Write `source`, which is for `offset`, into the space of `size` bytes at `host` that becomes that of the clusters
   * around it; what is before and after it there gets what the disk has there now.
   */
  #place(offset: number, source: Uint8Array, host: number, size: number, fresh: boolean): void {
    const before = offset % this.geometry.clusterSize;
    const after = size - before - source.length;
    this.#copyOld(offset - before, before, host, fresh);
    this.file.write(host + before, source);
    this.#copyOld(offset + source.length, after, host + before + source.length, fresh);
    this.#dirty = true;
  }

  /** Put what the disk has at `offset` into the file at `host`. `fresh`: there are zeros. */
  #copyOld(offset: number, length: number, host: number, fresh: boolean): void {
    // The last cluster may go beyond the disk.
    const inside = Math.max(0, Math.min(length, this.sizeBytes - offset));
    let done = 0;
    while (done < inside) {
      const { length: part, zero } = this.extent(offset + done, inside - done);
      if (zero) this.#zeroHost(host + done, part, fresh);
      else {
        for (let at = 0; at < part; at += COPY_BYTES) {
          const chunk = new Uint8Array(Math.min(COPY_BYTES, part - at));
          this.read(offset + done + at, chunk);
          this.file.write(host + done + at, chunk);
        }
      }
      done += part;
    }
    this.#zeroHost(host + inside, length - inside, fresh);
  }

  #zeroHost(host: number, length: number, fresh: boolean): void {
    if (length === 0 || (fresh && !this.file.blockDevice)) return;
    if (!this.file.punchHole(host, length)) this.file.zeroRange(host, length);
  }

  /** Write into one cluster of an image with extended entries; only the subclusters touched are allocated. */
  #writeSubclusters(table: Table, index: number, offset: number, source: Uint8Array, owned: boolean): void {
    const { clusterSize, unitSize } = this.geometry;
    const clusterStart = offset - (offset % clusterSize);
    const at = index * 16;
    const high = table.view.getUint32(at);
    const hasOld = (high & COMPRESSED) !== 0 || entryOffset(high, table.view.getUint32(at + 4)) !== 0;
    if (hasOld && !owned) {
      // Compressed, or shared with a snapshot: everything moves.
      const { first, fresh } = this.refcounts.allocate(1);
      const host = first * clusterSize;
      try {
        this.#place(offset, source, host, clusterSize, fresh);
      } catch (error) {
        this.refcounts.cancel(first, 1);
        throw error;
      }
      this.#release(table, index);
      this.#setEntry(table, index, host, 0, ALL_SUBCLUSTERS);
      return;
    }
    const allocation = owned ? undefined : this.refcounts.allocate(1);
    const host =
      allocation === undefined
        ? entryOffset(high, table.view.getUint32(at + 4))
        : allocation.first * clusterSize;
    const fresh = allocation?.fresh ?? false;
    if (allocation === undefined) this.#checkOverwrite(host, clusterSize);
    const allocated = table.view.getUint32(at + 12);
    const from = offset - clusterStart;
    const to = from + source.length;
    const firstSub = Math.floor(from / unitSize);
    const lastSub = Math.floor((to - 1) / unitSize);
    const isNew = (sub: number) => ((allocated >>> sub) & 1) === 0;
    try {
      if (isNew(firstSub)) {
        const start = firstSub * unitSize;
        this.#copyOld(clusterStart + start, from - start, host + start, fresh);
      }
      this.file.write(host + from, source);
      if (isNew(lastSub)) {
        this.#copyOld(clusterStart + to, (lastSub + 1) * unitSize - to, host + to, fresh);
      }
    } catch (error) {
      if (allocation !== undefined) this.refcounts.cancel(allocation.first, 1);
      throw error;
    }
    this.#dirty = true;
    const touched = subclusterMask(firstSub, lastSub + 1);
    const zero = table.view.getUint32(at + 8) & ~touched;
    this.#setEntry(table, index, host, zero >>> 0, (allocated | touched) >>> 0);
  }

  /**
   * How many bytes at `inTable`, at most `limit`, are in clusters of this image's own, allocated and in a row; sets
   * #host to the first.
   */
  #overwritable(table: Table, inTable: number, limit: number): number {
    const { clusterSize, unitSize, l2Entries } = this.geometry;
    const units = clusterSize / unitSize;
    let unit = Math.floor(inTable / unitSize);
    const inUnit = inTable - unit * unitSize;
    let length = 0;
    let host = 0;
    while (length < limit && unit < l2Entries * units) {
      this.#findUnit(table, unit, units);
      if (this.#kind !== Kind.DATA || (this.#high & COPIED) === 0) break;
      if (length === 0) {
        host = this.#host + inUnit;
        length = unitSize - inUnit;
      } else {
        if (this.#host !== host + length) break;
        length += unitSize;
      }
      unit++;
    }
    this.#host = host;
    return Math.min(length, limit);
  }

  #isOwned(table: Table, index: number): boolean {
    const at = index * this.geometry.entrySize;
    const high = table.view.getUint32(at);
    return (
      (high & COMPRESSED) === 0 &&
      (high & COPIED) !== 0 &&
      entryOffset(high, table.view.getUint32(at + 4)) !== 0
    );
  }

  /** The entry of a cluster that is at `host` of the file from now on, and only this image's. 0: nowhere. */
  #setEntry(table: Table, index: number, host: number, zero = 0, allocated = 0): void {
    const { entrySize } = this.geometry;
    const at = index * entrySize;
    table.view.setUint32(at, host === 0 ? 0 : (COPIED | Math.floor(host / 2 ** 32)) >>> 0);
    table.view.setUint32(at + 4, host >>> 0);
    if (entrySize === 16) {
      table.view.setUint32(at + 8, zero);
      table.view.setUint32(at + 12, allocated);
    }
    this.#tables.touch(table, at, at + entrySize);
  }

  /** The clusters that an entry refers to are about to lose its reference. */
  #release(table: Table, index: number): void {
    const { entrySize, clusterBits, clusterSize } = this.geometry;
    const high = table.view.getUint32(index * entrySize);
    const low = table.view.getUint32(index * entrySize + 4);
    if ((high & COMPRESSED) !== 0) {
      const { offset, length } = compressedExtent(high, low, clusterBits);
      const first = Math.floor(offset / clusterSize);
      this.refcounts.release(first, Math.floor((offset + length - 1) / clusterSize) - first + 1);
      // Others may come to this place, with another contents.
      this.#unpacked.delete(offset);
      this.#compressedEnd = 0;
      return;
    }
    const host = entryOffset(high, low);
    if (host !== 0) this.refcounts.release(host / clusterSize, 1);
  }

  /** The L2 table for entry `l1Index`, made or copied so that it is this image's own. */
  #tableForWriting(l1Index: number): Table {
    const { clusterSize } = this.geometry;
    const at = l1Index * 8;
    const owned = (this.#l1.getUint32(at) & COPIED) !== 0;
    const old = this.#table(l1Index);
    if (old !== undefined && owned) {
      if (this.refcounts.get(old.offset / clusterSize) === 0) {
        throw this.#broken(`the L2 table at ${old.offset} is not counted`);
      }
      return old;
    }
    const { first } = this.refcounts.allocate(1);
    const offset = first * clusterSize;
    const table = this.#tables.create(offset);
    if (old !== undefined) {
      table.bytes.set(old.bytes);
      this.refcounts.release(old.offset / clusterSize, 1);
      this.#tableClusters.delete(old.offset / clusterSize);
    }
    this.#tableClusters.add(first);
    this.#l1.setUint32(at, (COPIED | Math.floor(offset / 2 ** 32)) >>> 0);
    this.#l1.setUint32(at + 4, offset >>> 0);
    this.#l1From = Math.min(this.#l1From, l1Index);
    this.#l1To = Math.max(this.#l1To, l1Index + 1);
    return table;
  }

  // ---------------------------------------------------------------- zeros and discards

  discard(offset: number, length: number): void {
    checkRange(this, offset, length);
    this.#writable();
    this.#zeroUnits(offset, length, true, true);
  }

  writeZeroes(offset: number, length: number, unmap: boolean): void {
    checkRange(this, offset, length);
    this.#writable();
    this.#zeroUnits(offset, length, unmap, false);
  }

  /**
   * Mark units as zeros. `unmap`: clusters need not stay allocated. `optional`: parts of units are left alone, and
   * all that cannot be marked, where otherwise zeros are written.
   */
  #zeroUnits(offset: number, length: number, unmap: boolean, optional: boolean): void {
    const { clusterSize, unitSize } = this.geometry;
    const end = offset + length;
    let at = offset;
    while (at < end) {
      // What is behind the end of the disk is part of its last unit.
      const unitEnd = at - (at % unitSize) + unitSize;
      const whole = at % unitSize === 0 && (unitEnd <= end || end === this.sizeBytes);
      let next: number;
      if (!whole) {
        next = Math.min(end, unitEnd);
        if (!optional) this.#writeZeros(at, next - at);
      } else {
        const clusterEnd = at - (at % clusterSize) + clusterSize;
        const wholeEnd =
          end === this.sizeBytes ? Math.ceil(end / unitSize) * unitSize : end - (end % unitSize);
        next = Math.min(clusterEnd, wholeEnd);
        if (!this.#zeroCluster(at, next, unmap) && !optional) {
          this.#writeZeros(at, Math.min(next, this.sizeBytes) - at);
        }
      }
      at = next;
      this.#relieve();
    }
  }

  #writeZeros(offset: number, length: number): void {
    let done = 0;
    while (done < length) {
      const { length: part, zero } = this.extent(offset + done, length - done);
      if (!zero) this.write(offset + done, new Uint8Array(Math.min(part, COPY_BYTES)));
      done += zero ? part : Math.min(part, COPY_BYTES);
    }
  }

  /** Mark the units [from, to) of one cluster as zeros; false where the image has no way to. */
  #zeroCluster(from: number, to: number, unmap: boolean): boolean {
    const { clusterSize, l2Coverage, unitSize, entrySize, extended } = this.geometry;
    const l1Index = Math.floor(from / l2Coverage);
    const inBacking = this.backing !== undefined && from < this.backing.sizeBytes;
    if (this.#table(l1Index) === undefined && !inBacking) return true;
    // Version 2 has no zero clusters: only one that is nowhere, with nothing below, is zeros.
    if (this.header.version < 3 && inBacking) return false;
    const table = this.#tableForWriting(l1Index);
    const index = Math.floor((from - l1Index * l2Coverage) / clusterSize);
    const at = index * entrySize;
    const view = table.view;
    const high = view.getUint32(at);
    const compressed = (high & COMPRESSED) !== 0;
    const host = compressed ? 0 : entryOffset(high, view.getUint32(at + 4));
    if (extended) {
      const firstSub = Math.floor((from % clusterSize) / unitSize);
      const mask = subclusterMask(firstSub, firstSub + (to - from) / unitSize);
      const all = mask === ALL_SUBCLUSTERS;
      if (compressed && !all) return false;
      const allocated = (compressed ? 0 : view.getUint32(at + 12) & ~mask) >>> 0;
      const zero = ((compressed ? 0 : view.getUint32(at + 8)) | mask) >>> 0;
      const drop = compressed || (unmap && allocated === 0) || (high & COPIED) === 0;
      // A shared cluster with some subclusters left in use stays.
      if (!drop || (allocated !== 0 && host !== 0)) {
        view.setUint32(at + 8, zero);
        view.setUint32(at + 12, allocated);
        this.#tables.touch(table, at, at + entrySize);
        return true;
      }
      this.#release(table, index);
      this.#setEntry(table, index, 0, inBacking ? zero : 0, 0);
      return true;
    }
    const keep = !unmap && host !== 0 && (high & COPIED) !== 0 && this.header.version >= 3;
    if (!keep) this.#release(table, index);
    this.#setEntry(table, index, keep ? host : 0);
    if (keep || inBacking) view.setUint32(at + 4, (view.getUint32(at + 4) | ZERO) >>> 0);
    return true;
  }

  // ---------------------------------------------------------------- for making images

  /** Write a whole cluster, compressed; false where that saves nothing and nothing was done. */
  writeCompressed(offset: number, cluster: Uint8Array, compress: Compress): boolean {
    const { clusterBits, clusterSize, l2Coverage, entrySize } = this.geometry;
    const data = compress(cluster);
    if (data === null) return false;
    const l1Index = Math.floor(offset / l2Coverage);
    const table = this.#tableForWriting(l1Index);
    const index = Math.floor((offset - l1Index * l2Coverage) / clusterSize);
    const host = this.#allocateBytes(data.length);
    this.file.write(host, data);
    this.#release(table, index);
    const at = index * entrySize;
    table.view.setUint32(at, compressedHigh(host, data.length, clusterBits));
    table.view.setUint32(at + 4, host >>> 0);
    if (entrySize === 16) {
      table.view.setUint32(at + 8, 0);
      table.view.setUint32(at + 12, 0);
    }
    this.#tables.touch(table, at, at + entrySize);
    this.#dirty = true;
    this.#relieve();
    return true;
  }

  /** Room for compressed data; it may share a cluster with what was there before, and go into the next one. */
  #allocateBytes(length: number): number {
    const { clusterBits, clusterSize } = this.geometry;
    const end = this.#compressedEnd;
    const room = end === 0 ? 0 : clusterSize - (end % clusterSize);
    let host: number;
    if (room >= length && this.refcounts.get(Math.floor(end / clusterSize)) < this.refcounts.max) {
      const cluster = Math.floor(end / clusterSize);
      this.refcounts.set(cluster, this.refcounts.get(cluster) + 1);
      host = end;
    } else {
      const { first } = this.refcounts.allocate(1);
      const last = Math.floor((end - 1) / clusterSize);
      // The cluster behind the last one: the data begins in that one.
      if (room > 0 && first === last + 1 && this.refcounts.get(last) < this.refcounts.max) {
        this.refcounts.set(last, this.refcounts.get(last) + 1);
        host = end;
      } else {
        host = first * clusterSize;
      }
    }
    if (host + length > compressedLimit(clusterBits)) {
      throw new DiskError(
        `${this.file.path}: the image is too large for more compressed clusters`,
        "NO_SPACE",
      );
    }
    // Data begins at whole bytes, but its length is counted in sectors of the file.
    this.#compressedEnd = (host + length) % clusterSize === 0 ? 0 : host + length;
    return host;
  }

  /** The file ends with a cluster: the last compressed one may not fill its last sector. */
  padFile(): void {
    const { clusterSize } = this.geometry;
    const size = this.file.size();
    if (size % clusterSize !== 0) this.file.truncate(Math.ceil(size / clusterSize) * clusterSize);
  }

  /** Allocate every cluster of the disk, and with `reserve` its space in the file system; it reads as zeros. */
  preallocate(reserve: (offset: number, length: number) => void): void {
    const { clusterSize, l2Coverage, l2Entries, extended } = this.geometry;
    let end = 0;
    for (let start = 0; start < this.sizeBytes; start += l2Coverage) {
      const table = this.#tableForWriting(start / l2Coverage);
      const wanted = Math.min(l2Entries, Math.ceil((this.sizeBytes - start) / clusterSize));
      for (let index = 0; index < wanted; ) {
        const { first, count } = this.refcounts.allocate(wanted - index);
        reserve(first * clusterSize, count * clusterSize);
        for (let cluster = first; cluster < first + count; cluster++) {
          this.#setEntry(table, index++, cluster * clusterSize, 0, extended ? ALL_SUBCLUSTERS : 0);
        }
        end = Math.max(end, (first + count) * clusterSize);
      }
      this.#relieve();
    }
    if (end > this.file.size()) this.file.truncate(end);
    this.#dirty = true;
  }

  // ---------------------------------------------------------------- durability

  flush(): void {
    if (this.readOnly) return;
    if (this.#volatile) {
      this.refcounts.applyReleases();
      return;
    }
    const changed = this.#dirty || this.#tablesChanged();
    if (!changed) return;
    this.#commit();
  }

  #tablesChanged(): boolean {
    return this.#tables.dirty.size > 0 || this.#l1To > 0 || this.refcounts.changed;
  }

  /** Write the tables where there are many that changed. */
  #relieve(): void {
    if (this.#tables.full || this.refcounts.full) this.#commit();
  }

  #sync(): void {
    if (!this.#volatile) this.file.sync();
  }

  #commit(): void {
    let written = this.refcounts.writeBlocks();
    const referring: Table[] = [];
    for (const table of this.#tables.dirty) {
      if (table.fresh) {
        this.#tables.write(table);
        written = true;
      } else {
        referring.push(table);
      }
    }
    // Data too: an entry may begin to show a place that was allocated before, and has something old in it.
    if (written || (this.#dirty && referring.length > 0)) this.#sync();
    if (this.refcounts.writeTable()) this.#sync();
    for (const table of referring) this.#tables.write(table);
    if (this.#l1To > 0) {
      const from = this.#l1From * 8;
      this.file.write(this.#l1Offset + from, new Uint8Array(this.#l1.buffer, from, this.#l1To * 8 - from));
      for (let index = this.#l1From; index < this.#l1To; index++) {
        const table = this.#table(index);
        if (table !== undefined) table.fresh = false;
      }
      this.#l1From = Number.POSITIVE_INFINITY;
      this.#l1To = 0;
    }
    this.#sync();
    this.#dirty = false;
    this.refcounts.applyReleases();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    try {
      this.flush();
    } finally {
      this.file.close();
      this.backing?.close();
    }
  }

  // ---------------------------------------------------------------- checks

  /** Whether a cluster holds something else than guest data and refcounts. */
  #reserved(cluster: number): boolean {
    const { clusterSize } = this.geometry;
    const { header } = this;
    if (cluster === 0) return true;
    const l1 = header.l1Offset / clusterSize;
    if (cluster >= l1 && cluster < l1 + Math.ceil((header.l1Entries * 8) / clusterSize)) return true;
    if (header.snapshotCount > 0 && cluster === header.snapshotsOffset / clusterSize) return true;
    return this.#tableClusters.has(cluster);
  }

  /** Throws `DiskError` where a broken image would have data written over its own tables, or far outside of the file. */
  #checkOverwrite(host: number, length: number): void {
    const { clusterSize } = this.geometry;
    for (let at = host - (host % clusterSize); at < host + length; at += clusterSize) {
      const cluster = at / clusterSize;
      if (this.#reserved(cluster) || this.refcounts.holds(cluster)) {
        throw this.#broken(`a data cluster is where a table is, at ${at}`);
      }
      if (this.refcounts.get(cluster) === 0) throw this.#broken(`a data cluster at ${at} is not counted`);
    }
  }

  #writable(): void {
    if (this.readOnly) throw new DiskError(`${this.file.path}: the disk is read-only`, "READ_ONLY");
  }

  #broken(what: string): DiskError {
    return new DiskError(`${this.file.path}: broken qcow2 image: ${what}`);
  }
}

/** Bits [from, to) of a subcluster bitmap's half. */
function subclusterMask(from: number, to: number): number {
  const bits = to - from;
  return bits === SUBCLUSTERS ? ALL_SUBCLUSTERS : (((1 << bits) - 1) << from) >>> 0;
}
