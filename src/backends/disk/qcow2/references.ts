/** All references of a qcow2 image to its clusters, counted: what its refcounts should be. */
import { DiskError } from "../disk.js";
import type { HostFile } from "../host-file.js";
import { getU64, type Qcow2Header } from "./header.js";
import { COMPRESSED, COPIED, compressedExtent, entryOffset, geometryOf, ZERO } from "./layout.js";
import { checkSnapshot, readSnapshots } from "./snapshots.js";

const PAGE = 256;
/** A gigabyte of counts. */
const MAX_PAGES = 2 ** 20;

/** Counts of clusters; takes memory for pages in which there are any. */
export class ReferenceCounts {
  readonly #pages = new Map<number, Uint32Array>();
  /** One more than the last cluster counted. */
  end = 0;

  get(cluster: number): number {
    return this.#pages.get(Math.floor(cluster / PAGE))?.[cluster % PAGE] ?? 0;
  }

  add(cluster: number, count = 1): void {
    const index = Math.floor(cluster / PAGE);
    let page = this.#pages.get(index);
    if (page === undefined) {
      if (this.#pages.size >= MAX_PAGES) throw new DiskError("too many clusters to check");
      page = new Uint32Array(PAGE);
      this.#pages.set(index, page);
    }
    page[cluster % PAGE] += count;
    if (cluster >= this.end) this.end = cluster + 1;
  }

  /** Clusters counted at least once, page by page. */
  *clusters(): Generator<number> {
    for (const [index, page] of this.#pages) {
      for (let entry = 0; entry < PAGE; entry++) if (page[entry] > 0) yield index * PAGE + entry;
    }
  }
}

/** An entry of the active L1 table, or of an L2 table below it, for which the COPIED flag means something. */
export interface ActiveEntry {
  readonly what: "L1" | "L2";
  /** Of the entry in the file. */
  readonly at: number;
  readonly high: number;
  /** Of what it refers to. */
  readonly cluster: number;
}

export interface Walk {
  readonly counts: ReferenceCounts;
  readonly allocatedClusters: number;
  readonly compressedClusters: number;
  readonly fragmentedClusters: number;
}

/** Reports of something wrong; the walk goes on without it. */
export interface WalkEvents {
  corruption(message: string): void;
  active(entry: ActiveEntry): void;
}

/** Entries of L1 tables, all snapshots' taken together, that are looked at. */
const MAX_L1_ENTRIES = 2 ** 25;

interface TableUse {
  references: number;
  active: boolean;
}

/** Count all references but those of the refcount table to its blocks. Throws `DiskError` for what cannot be read. */
export function countReferences(file: HostFile, header: Qcow2Header, events: WalkEvents): Walk {
  const geometry = geometryOf(header);
  const { clusterSize, clusterBits, entrySize } = geometry;
  const counts = new ReferenceCounts();
  const fileEnd = Math.ceil(file.size() / clusterSize) * clusterSize;
  const addRange = (offset: number, length: number, count = 1) => {
    const last = Math.floor((offset + length - 1) / clusterSize);
    for (let cluster = Math.floor(offset / clusterSize); cluster <= last; cluster++)
      counts.add(cluster, count);
  };
  /** A reference to a whole cluster; whether it can be one. */
  const check = (offset: number, what: string): boolean => {
    if (offset % clusterSize === 0 && offset < fileEnd) return true;
    const where =
      offset % clusterSize !== 0 ? "is not at a cluster's beginning" : "is beyond the end of the file";
    events.corruption(`${what} at offset ${offset} ${where}`);
    return false;
  };

  counts.add(0);
  addRange(header.refcountTableOffset, header.refcountTableClusters * clusterSize);

  const tables = new Map<number, TableUse>();
  let l1Total = 0;
  const walkL1 = (l1Offset: number, l1Entries: number, active: boolean) => {
    if (l1Entries === 0) return;
    l1Total += l1Entries;
    if (l1Total > MAX_L1_ENTRIES) throw new DiskError(`${file.path}: too many L1 tables to check`);
    addRange(l1Offset, l1Entries * 8);
    const bytes = new Uint8Array(l1Entries * 8);
    file.read(l1Offset, bytes);
    const view = new DataView(bytes.buffer);
    for (let index = 0; index < l1Entries; index++) {
      const high = view.getUint32(index * 8);
      const offset = entryOffset(high, view.getUint32(index * 8 + 4));
      if (offset === 0 || !check(offset, "an L2 table")) continue;
      const use = tables.get(offset);
      if (use === undefined) tables.set(offset, { references: 1, active });
      else {
        use.references++;
        use.active ||= active;
      }
      if (active) {
        const cluster = offset / clusterSize;
        events.active({ what: "L1", at: l1Offset + index * 8, high, cluster });
      }
    }
  };
  walkL1(header.l1Offset, header.l1Entries, true);
  if (header.snapshotCount > 0) {
    const { snapshots, tableBytes } = readSnapshots(file, header);
    addRange(header.snapshotsOffset, tableBytes);
    for (const snapshot of snapshots) {
      checkSnapshot(file, header, snapshot);
      walkL1(snapshot.l1Offset, snapshot.l1Entries, false);
    }
  }
  if (header.bitmapDirectory !== undefined) addBitmaps(file, header, addRange, check);

  let allocatedClusters = 0;
  let compressedClusters = 0;
  let fragmentedClusters = 0;
  const bytes = new Uint8Array(clusterSize);
  const view = new DataView(bytes.buffer);
  for (const [tableOffset, { references, active }] of tables) {
    counts.add(tableOffset / clusterSize, references);
    if (file.isHole(tableOffset, clusterSize)) continue;
    file.read(tableOffset, bytes);
    // Where the next cluster would be, were the table's all in a row. As QEMU counts, table by table.
    let expected = 0;
    for (let at = 0; at < clusterSize; at += entrySize) {
      const high = view.getUint32(at);
      const low = view.getUint32(at + 4);
      if ((high & COMPRESSED) !== 0) {
        const extent = compressedExtent(high, low, clusterBits);
        if (extent.offset >= fileEnd) {
          events.corruption(`a compressed cluster at offset ${extent.offset} is beyond the end of the file`);
          continue;
        }
        if (active && (high & COPIED) !== 0) {
          events.corruption(`the compressed cluster at offset ${extent.offset} has the flag COPIED`);
        }
        // The last sector may be cut off by the file's end.
        addRange(extent.offset, Math.min(extent.length, fileEnd - extent.offset), references);
        if (active) {
          allocatedClusters++;
          compressedClusters++;
          fragmentedClusters++;
        }
        continue;
      }
      const offset = entryOffset(high, low);
      if (header.version === 2 && (low & ZERO) !== 0) {
        events.corruption(`a zero cluster in a version 2 image, in the L2 table at offset ${tableOffset}`);
      }
      if (entrySize === 16) {
        const allocated = view.getUint32(at + 12);
        if ((allocated & view.getUint32(at + 8)) !== 0 || (offset === 0 && allocated !== 0)) {
          events.corruption(`a subcluster in two states, in the L2 table at offset ${tableOffset}`);
        }
      }
      if (offset === 0 || !check(offset, "a data cluster")) continue;
      counts.add(offset / clusterSize, references);
      if (!active) continue;
      allocatedClusters++;
      if (expected !== 0 && offset !== expected) fragmentedClusters++;
      expected = offset + clusterSize;
      events.active({ what: "L2", at: tableOffset + at, high, cluster: offset / clusterSize });
    }
  }
  return { counts, allocatedClusters, compressedClusters, fragmentedClusters };
}

const MAX_BITMAP_DIRECTORY = 2 ** 26;
const BITMAP_ENTRY = 24;
/** Of all bitmaps' tables together. */
const MAX_BITMAP_TABLE_ENTRIES = 2 ** 27 / 8;

/** Bitmaps' clusters: NLKT makes no use of them, and leaves them alone (qcow2.rst, "Bitmaps"). */
function addBitmaps(
  file: HostFile,
  header: Qcow2Header,
  addRange: (offset: number, length: number) => void,
  check: (offset: number, what: string) => boolean,
): void {
  const { bitmapDirectory } = header;
  if (bitmapDirectory === undefined) return;
  const { offset, length, count } = bitmapDirectory;
  const broken = (what: string) => new DiskError(`${file.path}: broken qcow2 image: ${what}`);
  if (length > MAX_BITMAP_DIRECTORY || offset + length > file.size()) throw broken("the bitmap directory");
  if (!check(offset, "the bitmap directory")) return;
  addRange(offset, length);
  const bytes = new Uint8Array(length);
  file.read(offset, bytes);
  const view = new DataView(bytes.buffer);
  const clusterSize = 2 ** header.clusterBits;
  let at = 0;
  let total = 0;
  for (let index = 0; index < count; index++) {
    if (at + BITMAP_ENTRY > length) throw broken("the bitmap directory is cut off");
    const tableOffset = getU64(view, at);
    const entries = view.getUint32(at + 8);
    at += Math.ceil((BITMAP_ENTRY + view.getUint16(at + 18) + view.getUint32(at + 20)) / 8) * 8;
    total += entries;
    if (total > MAX_BITMAP_TABLE_ENTRIES || tableOffset + entries * 8 > file.size() + clusterSize) {
      throw broken("a bitmap's table");
    }
    if (entries === 0 || !check(tableOffset, "a bitmap's table")) continue;
    addRange(tableOffset, entries * 8);
    const table = new Uint8Array(entries * 8);
    file.read(tableOffset, table);
    const tableView = new DataView(table.buffer);
    for (let entry = 0; entry < entries; entry++) {
      const data = entryOffset(tableView.getUint32(entry * 8), tableView.getUint32(entry * 8 + 4));
      if (data !== 0 && check(data, "a bitmap's data")) addRange(data, clusterSize);
    }
  }
}
