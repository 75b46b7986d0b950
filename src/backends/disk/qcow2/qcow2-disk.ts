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
import { lengthOf, ViewCursor } from "../io-vectors.js";
import { ClusterMap } from "./cluster-map.js";
import { type Decompress, decompressor } from "./compression.js";
import { HeaderOffset, type Qcow2Header } from "./header.js";
import {
  ALL_SUBCLUSTERS,
  COMPRESSED,
  COPIED,
  compressedExtent,
  entryOffset,
  type Geometry,
  Kind,
  subclusterMask,
} from "./layout.js";
import type { Table } from "./table-cache.js";
import { zeroCluster } from "./zero-clusters.js";

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
  /** Nothing needs to survive this process: no flush does anything. */
  readonly volatile?: boolean;
}

export class Qcow2Disk implements ImageDisk {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly blockSize: number;
  readonly discardGranularity: number;
  readonly geometry: Geometry;
  readonly map: ClusterMap;
  readonly backing: Disk | undefined;
  readonly #volatile: boolean;
  readonly #decompress: Decompress;
  /** Unpacked clusters, by their places in the file. */
  readonly #unpacked = new Map<number, Uint8Array>();
  /** There is data that was not synced. */
  #dirty = false;
  #closed = false;

  private constructor(
    readonly file: HostFile,
    readonly header: Qcow2Header,
    decompress: Decompress,
    { snapshot, backing, volatile = false }: Qcow2Options,
  ) {
    this.sizeBytes = Math.ceil((snapshot?.size ?? header.size) / SECTOR_SIZE) * SECTOR_SIZE;
    this.readOnly = !file.writable || snapshot !== undefined;
    this.backing = backing;
    this.#volatile = volatile;
    this.#decompress = decompress;
    this.map = new ClusterMap(file, header, snapshot ?? header, !this.readOnly);
    this.map.onCompressedReleased = (offset) => this.#unpacked.delete(offset);
    this.geometry = this.map.geometry;
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
    // Bitmaps and whatever else it stands for are not kept up to date.
    if (!disk.readOnly && header.autoclear !== 0n) {
      file.write(HeaderOffset.AUTOCLEAR, new Uint8Array(8));
      file.sync();
    }
    return disk;
  }

  // ---------------------------------------------------------------- reading

  read(offset: number, target: Uint8Array): void {
    checkRange(this, offset, target.length);
    let done = 0;
    while (done < target.length) {
      this.map.find(offset + done, target.length - done);
      const length = this.map.length;
      const part = length === target.length ? target : target.subarray(done, done + length);
      switch (this.map.kind) {
        case Kind.DATA:
          this.file.read(this.map.host, part);
          break;
        case Kind.ZERO:
          part.fill(0);
          break;
        case Kind.UNALLOCATED:
          this.#readBacking(offset + done, part);
          break;
        case Kind.COMPRESSED: {
          const start = (offset + done) % this.geometry.clusterSize;
          part.set(this.#unpack(this.map.high, this.map.low).subarray(start, start + length));
        }
      }
      done += length;
    }
  }

  readVectors(offset: number, targets: readonly Uint8Array[]): void {
    const length = lengthOf(targets);
    checkRange(this, offset, length);
    const cursor = new ViewCursor(targets);
    for (let done = 0; done < length; ) {
      this.map.find(offset + done, length - done);
      const { kind, host, length: part } = this.map;
      const views = part === length ? targets : cursor.take(part);
      if (kind === Kind.DATA) this.file.readVectors(host, views);
      else {
        let at = offset + done;
        for (const view of views) {
          this.read(at, view);
          at += view.length;
        }
      }
      done += part;
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
    this.map.find(offset, limit);
    const inBacking =
      this.map.kind === Kind.UNALLOCATED && this.backing !== undefined && offset < this.backing.sizeBytes;
    const zero = this.map.kind === Kind.ZERO || (this.map.kind === Kind.UNALLOCATED && !inBacking);
    return { length: this.map.length, zero };
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
      this.relieve();
    }
  }

  writeVectors(offset: number, sources: readonly Uint8Array[]): void {
    const length = lengthOf(sources);
    checkRange(this, offset, length);
    this.#writable();
    const cursor = new ViewCursor(sources);
    const { l2Coverage } = this.geometry;
    for (let done = 0; done < length; ) {
      const at = offset + done;
      const inTable = at % l2Coverage;
      const limit = Math.min(length - done, l2Coverage - inTable);
      const table = this.map.tableForWriting(Math.floor(at / l2Coverage));
      const inPlace = this.map.overwritable(table, inTable, limit);
      if (inPlace > 0) {
        const { host } = this.map;
        this.map.checkOverwrite(host, inPlace);
        this.file.writeVectors(host, inPlace === length ? sources : cursor.take(inPlace));
        done += inPlace;
        this.relieve();
      } else {
        // What needs new clusters comes in one piece, so that they are found and filled in one go.
        const part = Math.min(limit, COPY_BYTES);
        this.write(at, Buffer.concat(cursor.take(part)));
        done += part;
      }
    }
  }

  /** Write the beginning of `source`, as far as one place in the file goes; how much that was. */
  #writeSome(offset: number, source: Uint8Array): number {
    const { clusterSize, l2Coverage, entrySize, extended } = this.geometry;
    const l1Index = Math.floor(offset / l2Coverage);
    const table = this.map.tableForWriting(l1Index);
    const inTable = offset - l1Index * l2Coverage;
    const limit = Math.min(source.length, l2Coverage - inTable);
    const inPlace = this.map.overwritable(table, inTable, limit);
    if (inPlace > 0) {
      const host = this.map.host;
      this.map.checkOverwrite(host, inPlace);
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
      this.map.checkOverwrite(host, clusterSize);
      this.#place(offset, source.subarray(0, length), host, clusterSize, false);
      this.map.setEntry(table, index, host);
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
    while (usable < wanted && !this.map.isOwned(table, index + usable)) usable++;
    const { first, count, fresh } = this.map.refcounts.allocate(usable);
    const host = first * clusterSize;
    const length = Math.min(source.length, count * clusterSize - inCluster);
    try {
      this.#place(offset, source.subarray(0, length), host, count * clusterSize, fresh);
    } catch (error) {
      this.map.refcounts.cancel(first, count);
      throw error;
    }
    for (let cluster = 0; cluster < count; cluster++) {
      this.map.release(table, index + cluster);
      this.map.setEntry(table, index + cluster, host + cluster * clusterSize);
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
      const { first, fresh } = this.map.refcounts.allocate(1);
      const host = first * clusterSize;
      try {
        this.#place(offset, source, host, clusterSize, fresh);
      } catch (error) {
        this.map.refcounts.cancel(first, 1);
        throw error;
      }
      this.map.release(table, index);
      this.map.setEntry(table, index, host, 0, ALL_SUBCLUSTERS);
      return;
    }
    const allocation = owned ? undefined : this.map.refcounts.allocate(1);
    const host =
      allocation === undefined
        ? entryOffset(high, table.view.getUint32(at + 4))
        : allocation.first * clusterSize;
    const fresh = allocation?.fresh ?? false;
    if (allocation === undefined) this.map.checkOverwrite(host, clusterSize);
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
      if (allocation !== undefined) this.map.refcounts.cancel(allocation.first, 1);
      throw error;
    }
    this.#dirty = true;
    const touched = subclusterMask(firstSub, lastSub + 1);
    const zero = table.view.getUint32(at + 8) & ~touched;
    this.map.setEntry(table, index, host, zero >>> 0, (allocated | touched) >>> 0);
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
        if (!zeroCluster(this.map, this.header, this.backing, { from: at, to: next, unmap }) && !optional) {
          this.#writeZeros(at, Math.min(next, this.sizeBytes) - at);
        }
      }
      at = next;
      this.relieve();
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

  // ---------------------------------------------------------------- durability

  flush(): void {
    if (this.readOnly) return;
    if (this.#volatile) {
      this.map.refcounts.applyReleases();
      return;
    }
    const changed = this.#dirty || this.#tablesChanged();
    if (!changed) return;
    this.#commit();
  }

  #tablesChanged(): boolean {
    return this.map.changed || this.map.refcounts.changed;
  }

  /** Something was written to the file: called after each step of what may be much. Writes tables, where many changed. */
  relieve(): void {
    this.#dirty = true;
    if (this.map.full || this.map.refcounts.full) this.#commit();
  }

  #sync(): void {
    if (!this.#volatile) this.file.sync();
  }

  #commit(): void {
    const { map } = this;
    const counted = map.refcounts.writeBlocks();
    const fresh = map.writeFresh();
    // Data too: an entry may begin to show a place that was allocated before, and has something old in it.
    if (counted || fresh || (this.#dirty && map.referencesChanged)) this.#sync();
    if (map.refcounts.writeTable()) this.#sync();
    map.writeReferences();
    this.#sync();
    this.#dirty = false;
    this.map.refcounts.applyReleases();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    try {
      // A volatile image may be opened again as well.
      if (this.#volatile) this.#commit();
      else this.flush();
    } finally {
      this.file.close();
      this.backing?.close();
    }
  }

  #writable(): void {
    if (this.readOnly) throw new DiskError(`${this.file.path}: the disk is read-only`, "READ_ONLY");
  }

  #broken(what: string): DiskError {
    return new DiskError(`${this.file.path}: broken qcow2 image: ${what}`);
  }
}
