/**
 * Refcounts of a qcow2 image's clusters, and with them the allocation of clusters.
 *
 * What a crash may leave behind is decided here and in `Qcow2Disk`: a count in the file is never lower than the
 * number of references in it. Counts go up in the file before a reference is written (`writeBlocks`, `writeTable`), and down
 * after the last one is gone (`applyReleases`); until then a released cluster is not used again.
 *
 * Document: QEMU, docs/interop/qcow2.rst ("Host cluster management").
 */
import { DiskError } from "../disk.js";
import type { HostFile } from "../host-file.js";
import { getU64, HeaderOffset, type Qcow2Header, setU64 } from "./header.js";
import { type Table, TableCache } from "./table-cache.js";

const ENTRY_SIZE = 8;
/** QEMU's limit. */
const MAX_TABLE_BYTES = 8 * 2 ** 20;
/** Host offsets have 56 bits; numbers have 53. */
const MAX_OFFSET = Number.MAX_SAFE_INTEGER;

export interface Allocation {
  readonly first: number;
  readonly count: number;
  /** Nothing was ever there: the clusters read as zeros. */
  readonly fresh: boolean;
}

export class Refcounts {
  readonly #cache: TableCache;
  readonly #clusterSize: number;
  readonly #order: number;
  readonly #blockEntries: number;
  #table: DataView;
  #tableOffset: number;
  /** Entries of the table that are not in the file yet. */
  readonly #newBlocks = new Set<number>();
  readonly #blocks = new Set<number>();
  /** Clusters to count down once nothing refers to them in the file. */
  #releases: number[] = [];
  /** No cluster below is free. */
  #searchFrom = 0;
  /** No cluster from here on was ever used. */
  #freshFrom: number;
  #lastIndex = -1;
  #lastBlock: Table | undefined;

  /** `reserved`: clusters that are in use, whatever their refcount says. */
  constructor(
    private readonly file: HostFile,
    header: Pick<
      Qcow2Header,
      "clusterBits" | "refcountOrder" | "refcountTableOffset" | "refcountTableClusters"
    >,
    private readonly reserved: (cluster: number) => boolean,
  ) {
    this.#clusterSize = 2 ** header.clusterBits;
    this.#order = header.refcountOrder;
    this.#blockEntries = (this.#clusterSize * 8) / 2 ** this.#order;
    this.#cache = new TableCache(file, this.#clusterSize);
    this.#tableOffset = header.refcountTableOffset;
    const table = new Uint8Array(header.refcountTableClusters * this.#clusterSize);
    file.read(this.#tableOffset, table);
    this.#table = new DataView(table.buffer);
    this.#freshFrom = Math.ceil(file.size() / this.#clusterSize);
    // Only writers ask which clusters they are.
    for (let index = 0; index < (file.writable ? this.tableEntries : 0); index++) {
      const offset = getU64(this.#table, index * ENTRY_SIZE);
      if (offset !== 0) this.#blocks.add(Math.floor(offset / this.#clusterSize));
    }
  }

  /** The highest count that an entry can hold. */
  get max(): number {
    return 2 ** (2 ** this.#order) - 1;
  }

  get tableEntries(): number {
    return this.#table.byteLength / ENTRY_SIZE;
  }

  /** Clusters of the table, as a range. */
  get tableRange(): { first: number; count: number } {
    const count = this.#table.byteLength / this.#clusterSize;
    return { first: this.#tableOffset / this.#clusterSize, count };
  }

  get changed(): boolean {
    return this.#cache.dirty.size > 0 || this.#releases.length > 0 || this.#newBlocks.size > 0;
  }

  get full(): boolean {
    return this.#cache.full || this.#releases.length > MAX_RELEASES;
  }

  /** Whether the cluster holds refcounts or their table. */
  holds(cluster: number): boolean {
    const { first, count } = this.tableRange;
    return (cluster >= first && cluster < first + count) || this.#blocks.has(cluster);
  }

  /** Offset of a block in the file, 0 where there is none. Throws `DiskError` for one that cannot be. */
  blockOffset(index: number): number {
    if (index >= this.tableEntries) return 0;
    const offset = getU64(this.#table, index * ENTRY_SIZE);
    if (offset === 0) return 0;
    if (offset % this.#clusterSize !== 0 || offset >= this.#freshFrom * this.#clusterSize) {
      throw this.#broken(`refcount block ${index} is at offset ${offset}`);
    }
    return offset;
  }

  /** Forget a block that cannot be used; its counts are 0 from then on. For repairs. */
  dropBlock(index: number): void {
    this.#blocks.delete(Math.floor(getU64(this.#table, index * ENTRY_SIZE) / this.#clusterSize));
    setU64(this.#table, index * ENTRY_SIZE, 0);
    this.#newBlocks.add(index);
    this.#lastIndex = -1;
  }

  get(cluster: number): number {
    const block = this.#block(Math.floor(cluster / this.#blockEntries));
    return block === undefined ? 0 : this.#read(block, cluster % this.#blockEntries);
  }

  /** Calls `visit` for each cluster whose count is not 0. */
  forEachCounted(visit: (cluster: number) => void): void {
    for (let index = 0; index < this.tableEntries; index++) {
      const offset = this.blockOffset(index);
      if (offset === 0 || this.file.isHole(offset, this.#clusterSize)) continue;
      for (let entry = 0; entry < this.#blockEntries; entry++) {
        const cluster = index * this.#blockEntries + entry;
        if (this.get(cluster) !== 0) visit(cluster);
      }
    }
  }

  #block(index: number): Table | undefined {
    if (index === this.#lastIndex) return this.#lastBlock;
    const offset = this.blockOffset(index);
    const block = offset === 0 ? undefined : this.#cache.get(offset);
    this.#lastIndex = index;
    this.#lastBlock = block;
    return block;
  }

  #read({ view, bytes }: Table, entry: number): number {
    switch (this.#order) {
      case 3:
        return bytes[entry];
      case 4:
        return view.getUint16(entry * 2);
      case 5:
        return view.getUint32(entry * 4);
      case 6:
        return getU64(view, entry * 8);
      default: {
        // The entries of a byte begin at its least significant bit.
        const bit = entry << this.#order;
        return (bytes[bit >> 3] >> (bit & 7)) & (2 ** (2 ** this.#order) - 1);
      }
    }
  }

  #write(block: Table, entry: number, value: number): void {
    const { view, bytes } = block;
    const bit = entry * 2 ** this.#order;
    const at = Math.floor(bit / 8);
    switch (this.#order) {
      case 3:
        bytes[at] = value;
        break;
      case 4:
        view.setUint16(at, value);
        break;
      case 5:
        view.setUint32(at, value);
        break;
      case 6:
        setU64(view, at, value);
        break;
      default: {
        const shift = bit & 7;
        bytes[at] = (bytes[at] & ~((2 ** (2 ** this.#order) - 1) << shift)) | (value << shift);
      }
    }
    this.#cache.touch(block, at, at + Math.max(1, 2 ** this.#order / 8));
  }

  /** Set a count at once. Throws `DiskError` where it does not fit into an entry. */
  set(cluster: number, value: number): void {
    if (value > this.max) {
      throw new DiskError(
        `${this.file.path}: a refcount of ${value} does not fit into ${2 ** this.#order} bits`,
      );
    }
    const index = Math.floor(cluster / this.#blockEntries);
    let block = this.#block(index);
    if (block === undefined) {
      if (value === 0) return;
      block = this.#addBlock(index);
    }
    this.#write(block, cluster % this.#blockEntries, value);
    if (value === 0) this.#searchFrom = Math.min(this.#searchFrom, cluster);
    else this.#freshFrom = Math.max(this.#freshFrom, cluster + 1);
  }

  /**
   * Up to `wanted` free clusters in a row, at least one, counted once. Throws `DiskError` where there can be no more.
   */
  allocate(wanted: number): Allocation {
    let first = this.#findFree();
    // The block of counts may have to be made, and takes a free cluster itself.
    while (this.#block(Math.floor(first / this.#blockEntries)) === undefined) {
      this.#addBlock(Math.floor(first / this.#blockEntries));
      first = this.#findFree();
    }
    let count = 1;
    // Not beyond the block, so that no other has to be made for the rest.
    const limit = Math.min(wanted, this.#blockEntries - (first % this.#blockEntries));
    while (count < limit && this.#isFree(first + count)) count++;
    if ((first + count) * this.#clusterSize > MAX_OFFSET) {
      throw new DiskError(`${this.file.path}: the image cannot grow any further`, "NO_SPACE");
    }
    const fresh = first >= this.#freshFrom;
    for (let cluster = first; cluster < first + count; cluster++) this.set(cluster, 1);
    this.#searchFrom = first + count;
    return { first, count, fresh };
  }

  #isFree(cluster: number): boolean {
    return this.get(cluster) === 0 && !this.reserved(cluster) && !this.holds(cluster);
  }

  #findFree(): number {
    let cluster = this.#searchFrom;
    for (;;) {
      const index = Math.floor(cluster / this.#blockEntries);
      const block = this.#block(index);
      if (block !== undefined) {
        const next = this.#firstZero(block, cluster % this.#blockEntries);
        cluster = index * this.#blockEntries + next;
        if (next === this.#blockEntries) continue;
      }
      if (!this.reserved(cluster) && !this.holds(cluster)) break;
      cluster++;
    }
    this.#searchFrom = cluster;
    return cluster;
  }

  /** The first entry from `from` on that is 0, or the number of entries. */
  #firstZero(block: Table, from: number): number {
    const { buffer } = block.bytes;
    const typed =
      this.#order === 3
        ? block.bytes
        : this.#order === 4
          ? new Uint16Array(buffer)
          : this.#order === 5
            ? new Uint32Array(buffer)
            : undefined;
    if (typed !== undefined) {
      const found = typed.indexOf(0, from);
      return found < 0 ? this.#blockEntries : found;
    }
    let entry = from;
    while (entry < this.#blockEntries && this.#read(block, entry) !== 0) entry++;
    return entry;
  }

  /** Make the block for clusters from `index` × entries on: in the first free one of them, which none is counted in. */
  #addBlock(index: number): Table {
    if (index >= this.tableEntries) {
      this.#growTable(index);
      const block = this.#block(index);
      if (block !== undefined) return block;
    }
    const start = index * this.#blockEntries;
    let cluster = start;
    while (this.reserved(cluster) || this.holds(cluster)) cluster++;
    // All taken, though none is counted: happens in repairs. Then somewhere at the end.
    if (cluster >= start + this.#blockEntries) {
      cluster = Math.max(cluster, this.#freshFrom);
      const last = Math.floor(cluster / this.#blockEntries);
      if (this.#block(last) === undefined) this.#addBlock(last);
      while (!this.#isFree(cluster)) cluster++;
    }
    const block = this.#register(index, cluster);
    this.set(cluster, 1);
    return block;
  }

  #register(index: number, cluster: number): Table {
    const block = this.#cache.create(cluster * this.#clusterSize);
    setU64(this.#table, index * ENTRY_SIZE, cluster * this.#clusterSize);
    this.#newBlocks.add(index);
    this.#blocks.add(cluster);
    this.#freshFrom = Math.max(this.#freshFrom, cluster + 1);
    this.#lastIndex = -1;
    return block;
  }

  /** Move to a larger table that has an entry `index`. It is in the file, and in use there, when this returns. */
  #growTable(index: number): void {
    const old = this.tableRange;
    // Half as much again, so that it seldom happens; at the end of what the larger table counts.
    const start = Math.max(index, this.tableEntries) * this.#blockEntries;
    let blocks = 1;
    let clusters: number;
    for (;;) {
      const entries = Math.max(Math.floor(this.tableEntries * 1.5), start / this.#blockEntries + blocks);
      clusters = Math.ceil((entries * ENTRY_SIZE) / this.#clusterSize);
      const needed = Math.ceil((blocks + clusters) / this.#blockEntries);
      if (needed <= blocks) break;
      blocks = needed;
    }
    const size = clusters * this.#clusterSize;
    if (size > MAX_TABLE_BYTES || (start + blocks + clusters) * this.#clusterSize > MAX_OFFSET) {
      throw new DiskError(`${this.file.path}: the image cannot grow any further`, "NO_SPACE");
    }
    const table = new Uint8Array(size);
    table.set(new Uint8Array(this.#table.buffer));
    this.#table = new DataView(table.buffer);
    for (let block = 0; block < blocks; block++) {
      this.#register(start / this.#blockEntries + block, start + block);
    }
    for (let cluster = start; cluster < start + blocks + clusters; cluster++) this.set(cluster, 1);
    this.#tableOffset = (start + blocks) * this.#clusterSize;
    this.writeBlocks();
    this.file.write(this.#tableOffset, table);
    this.file.sync();
    const header = new DataView(new ArrayBuffer(12));
    setU64(header, 0, this.#tableOffset);
    header.setUint32(8, clusters);
    this.file.write(HeaderOffset.REFCOUNT_TABLE, new Uint8Array(header.buffer));
    this.file.sync();
    this.#newBlocks.clear();
    this.release(old.first, old.count);
  }

  /** Count clusters down, once `applyReleases` is called: they are not referred to any more. */
  release(first: number, count: number): void {
    for (let cluster = first; cluster < first + count; cluster++) this.#releases.push(cluster);
  }

  /** Count clusters down at once: nothing in the file ever referred to them. */
  cancel(first: number, count: number): void {
    for (let cluster = first; cluster < first + count; cluster++) this.set(cluster, this.get(cluster) - 1);
  }

  /** Write all counts that changed; whether there were any. */
  writeBlocks(): boolean {
    if (this.#cache.dirty.size === 0) return false;
    for (const block of this.#cache.dirty) {
      this.#cache.write(block);
      block.fresh = false;
    }
    return true;
  }

  /** Write the table's entries of new blocks, which are in the file by now; whether there were any. */
  writeTable(): boolean {
    if (this.#newBlocks.size === 0) return false;
    for (const index of this.#newBlocks) {
      const at = index * ENTRY_SIZE;
      this.file.write(this.#tableOffset + at, new Uint8Array(this.#table.buffer, at, ENTRY_SIZE));
    }
    this.#newBlocks.clear();
    return true;
  }

  /** Count down what was released. Clusters that are free now give their space back to the host. */
  applyReleases(): void {
    if (this.#releases.length === 0) return;
    const releases = this.#releases.sort((a, b) => a - b);
    this.#releases = [];
    let start = 0;
    let end = 0;
    for (const cluster of releases) {
      const count = this.get(cluster);
      if (count === 0) throw this.#broken(`cluster ${cluster} is in use and has a refcount of 0`);
      this.set(cluster, count - 1);
      if (count > 1) continue;
      if (cluster !== end) {
        this.#punch(start, end);
        start = cluster;
      }
      end = cluster + 1;
    }
    this.writeBlocks();
    this.#punch(start, end);
  }

  #punch(start: number, end: number): void {
    if (end > start) this.file.punchHole(start * this.#clusterSize, (end - start) * this.#clusterSize);
  }

  #broken(what: string): DiskError {
    return new DiskError(`${this.file.path}: broken qcow2 image: ${what}`);
  }
}

/** So that the list of released clusters stays small. */
const MAX_RELEASES = 65536;
