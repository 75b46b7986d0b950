/**
 * Where the clusters of a qcow2 disk are in its file: the L1 table, and the L2 tables that are in memory.
 *
 * Document: QEMU, docs/interop/qcow2.rst ("Cluster mapping", "Extended L2 Entries").
 */
import { DiskError } from "../disk.js";
import type { HostFile } from "../host-file.js";
import type { Qcow2Header } from "./header.js";
import {
  COMPRESSED,
  COPIED,
  compressedExtent,
  entryOffset,
  type Geometry,
  geometryOf,
  Kind,
  ZERO,
} from "./layout.js";
import { Refcounts } from "./refcounts.js";
import { type Table, TableCache } from "./table-cache.js";

/** An L1 table. */
export interface L1Place {
  readonly l1Offset: number;
  readonly l1Entries: number;
}

export class ClusterMap {
  readonly geometry: Geometry;
  readonly refcounts: Refcounts;
  readonly #l1: DataView;
  readonly #l1Offset: number;
  /** Entries [#l1From, #l1To) of the L1 table changed. */
  #l1From = Number.POSITIVE_INFINITY;
  #l1To = 0;
  readonly #tables: TableCache;
  /** Clusters of L2 tables, for the check that no allocation and no write gets into them. */
  readonly #tableClusters = new Set<number>();

  /** Told that the compressed cluster at this offset of the file is used no more; others may come to the place. */
  onCompressedReleased: ((offset: number) => void) | undefined;

  /** What the last lookup found: members, so that lookups make no garbage. */
  kind: Kind = Kind.UNALLOCATED;
  /** Offset in the file. */
  host = 0;
  length = 0;
  /** Of a compressed cluster: its entry. */
  high = 0;
  low = 0;

  /** `writable`: the tables are going to be changed. */
  constructor(
    private readonly file: HostFile,
    private readonly header: Qcow2Header,
    { l1Offset, l1Entries }: L1Place,
    writable: boolean,
  ) {
    this.geometry = geometryOf(header);
    this.#tables = new TableCache(file, this.geometry.clusterSize);
    this.#l1Offset = l1Offset;
    const l1 = new Uint8Array(l1Entries * 8);
    file.read(l1Offset, l1);
    this.#l1 = new DataView(l1.buffer);
    this.refcounts = new Refcounts(file, header, (cluster) => this.#reserved(cluster));
    for (let index = 0; index < (writable ? l1Entries : 0); index++) {
      const offset = this.#tableOffset(index);
      if (offset !== 0) this.#tableClusters.add(Math.floor(offset / this.geometry.clusterSize));
    }
  }

  /** There is something that `writeFresh` and `writeReferences` would write. */
  get changed(): boolean {
    return this.#tables.dirty.size > 0 || this.#l1To > 0;
  }

  /** There are so many changed tables that they should be written. */
  get full(): boolean {
    return this.#tables.full;
  }

  #tableOffset(l1Index: number): number {
    return entryOffset(this.#l1.getUint32(l1Index * 8), this.#l1.getUint32(l1Index * 8 + 4));
  }

  /** The L2 table that maps `offset`, undefined where there is none. */
  table(l1Index: number): Table | undefined {
    const offset = this.#tableOffset(l1Index);
    if (offset === 0) return undefined;
    if (offset % this.geometry.clusterSize !== 0) throw this.#broken(`an L2 table is at offset ${offset}`);
    if (!Number.isSafeInteger(offset)) throw this.#broken(`an L2 table is beyond the end of the file`);
    return this.#tables.get(offset);
  }

  /**
   * Find where `offset` is: sets `kind`, `host` and `length`, which is at most `limit` and as much as is alike. Where the
   * cluster is compressed, `high` and `low` are its entry.
   */
  find(offset: number, limit: number): void {
    const { clusterSize, l2Coverage, l2Entries, unitSize } = this.geometry;
    const l1Index = Math.floor(offset / l2Coverage);
    const inTable = offset - l1Index * l2Coverage;
    limit = Math.min(limit, l2Coverage - inTable);
    const table = this.table(l1Index);
    if (table === undefined) {
      this.kind = Kind.UNALLOCATED;
      this.length = limit;
      return;
    }
    const units = clusterSize / unitSize;
    let unit = Math.floor(inTable / unitSize);
    const inUnit = inTable - unit * unitSize;
    this.#findUnit(table, unit, units);
    const kind = this.kind;
    const host = this.host;
    if (kind === Kind.COMPRESSED) {
      this.length = Math.min(limit, clusterSize - (inTable % clusterSize));
      return;
    }
    const high = this.high;
    const low = this.low;
    let length = unitSize - inUnit;
    while (length < limit && ++unit < l2Entries * units) {
      this.#findUnit(table, unit, units);
      if (this.kind !== kind || (kind === Kind.DATA && this.host !== host + inUnit + length)) break;
      length += unitSize;
    }
    this.kind = kind;
    this.host = host + inUnit;
    this.length = Math.min(length, limit);
    this.high = high;
    this.low = low;
  }

  /** As `find`, for one subcluster, or cluster where there are none. `host` is where the unit begins. */
  #findUnit(table: Table, unit: number, units: number): void {
    const index = units === 1 ? unit : Math.floor(unit / units);
    const at = index * this.geometry.entrySize;
    const high = table.view.getUint32(at);
    const low = table.view.getUint32(at + 4);
    this.high = high;
    this.low = low;
    if ((high & COMPRESSED) !== 0) {
      this.kind = Kind.COMPRESSED;
      return;
    }
    const host = entryOffset(high, low);
    if (host % this.geometry.clusterSize !== 0 || !Number.isSafeInteger(host)) {
      throw this.#broken(`a cluster is at offset ${host}`);
    }
    if (units === 1) {
      if ((low & ZERO) !== 0) {
        if (this.header.version < 3) throw this.#broken("a zero cluster in a version 2 image");
        this.kind = Kind.ZERO;
      } else {
        this.kind = host === 0 ? Kind.UNALLOCATED : Kind.DATA;
      }
      this.host = host;
      return;
    }
    const sub = unit % units;
    const zero = (table.view.getUint32(at + 8) >>> sub) & 1;
    const allocated = (table.view.getUint32(at + 12) >>> sub) & 1;
    if (allocated !== 0 && (zero !== 0 || host === 0)) throw this.#broken("a subcluster is in two states");
    this.kind = zero !== 0 ? Kind.ZERO : allocated !== 0 ? Kind.DATA : Kind.UNALLOCATED;
    this.host = host + sub * this.geometry.unitSize;
  }

  /**
   * How many bytes at `inTable`, at most `limit`, are in clusters of this image's own, allocated and in a row; sets
   * `host` to the first.
   */
  overwritable(table: Table, inTable: number, limit: number): number {
    const { clusterSize, unitSize, l2Entries } = this.geometry;
    const units = clusterSize / unitSize;
    let unit = Math.floor(inTable / unitSize);
    const inUnit = inTable - unit * unitSize;
    let length = 0;
    let host = 0;
    while (length < limit && unit < l2Entries * units) {
      this.#findUnit(table, unit, units);
      if (this.kind !== Kind.DATA || (this.high & COPIED) === 0) break;
      if (length === 0) {
        host = this.host + inUnit;
        length = unitSize - inUnit;
      } else {
        if (this.host !== host + length) break;
        length += unitSize;
      }
      unit++;
    }
    this.host = host;
    return Math.min(length, limit);
  }

  isOwned(table: Table, index: number): boolean {
    const at = index * this.geometry.entrySize;
    const high = table.view.getUint32(at);
    return (
      (high & COMPRESSED) === 0 &&
      (high & COPIED) !== 0 &&
      entryOffset(high, table.view.getUint32(at + 4)) !== 0
    );
  }

  /** The entry of a cluster that is at `host` of the file from now on, and only this image's. 0: nowhere. */
  setEntry(table: Table, index: number, host: number, zero = 0, allocated = 0): void {
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
  release(table: Table, index: number): void {
    const { entrySize, clusterBits, clusterSize } = this.geometry;
    const high = table.view.getUint32(index * entrySize);
    const low = table.view.getUint32(index * entrySize + 4);
    if ((high & COMPRESSED) !== 0) {
      const { offset, length } = compressedExtent(high, low, clusterBits);
      const first = Math.floor(offset / clusterSize);
      this.refcounts.release(first, Math.floor((offset + length - 1) / clusterSize) - first + 1);
      this.onCompressedReleased?.(offset);
      return;
    }
    const host = entryOffset(high, low);
    if (host !== 0) this.refcounts.release(host / clusterSize, 1);
  }

  /** The L2 table for entry `l1Index`, made or copied so that it is this image's own. */
  tableForWriting(l1Index: number): Table {
    const { clusterSize } = this.geometry;
    const at = l1Index * 8;
    const owned = (this.#l1.getUint32(at) & COPIED) !== 0;
    const old = this.table(l1Index);
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

  /** The table's bytes of entry `index` were changed. */
  touch(table: Table, index: number): void {
    const { entrySize } = this.geometry;
    this.#tables.touch(table, index * entrySize, (index + 1) * entrySize);
  }

  /** Write the tables that nothing in the file refers to yet; whether there were any. */
  writeFresh(): boolean {
    let written = false;
    for (const table of this.#tables.dirty) {
      if (!table.fresh) continue;
      this.#tables.write(table);
      written = true;
    }
    return written;
  }

  /** Some table that is in use in the file changed. */
  get referencesChanged(): boolean {
    for (const table of this.#tables.dirty) if (!table.fresh) return true;
    return false;
  }

  /** Write all other tables and the L1 table; what they refer to is in the file by now. */
  writeReferences(): void {
    for (const table of this.#tables.dirty) if (!table.fresh) this.#tables.write(table);
    if (this.#l1To === 0) return;
    const from = this.#l1From * 8;
    this.file.write(this.#l1Offset + from, new Uint8Array(this.#l1.buffer, from, this.#l1To * 8 - from));
    for (let index = this.#l1From; index < this.#l1To; index++) {
      const table = this.table(index);
      if (table !== undefined) table.fresh = false;
    }
    this.#l1From = Number.POSITIVE_INFINITY;
    this.#l1To = 0;
  }

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
  checkOverwrite(host: number, length: number): void {
    const { clusterSize } = this.geometry;
    for (let at = host - (host % clusterSize); at < host + length; at += clusterSize) {
      const cluster = at / clusterSize;
      if (this.#reserved(cluster) || this.refcounts.holds(cluster)) {
        throw this.#broken(`a data cluster is where a table is, at ${at}`);
      }
      if (this.refcounts.get(cluster) === 0) throw this.#broken(`a data cluster at ${at} is not counted`);
    }
  }

  #broken(what: string): DiskError {
    return new DiskError(`${this.file.path}: broken qcow2 image: ${what}`);
  }
}
