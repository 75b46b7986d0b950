/** New qcow2 images. */
import { DiskError } from "../disk.js";
import type { HostFile } from "../host-file.js";
import { type CompressionType, l1EntriesFor, readHeader, setU64 } from "./header.js";
import { encodeHeader, type NewHeader } from "./header-encoder.js";
import { ALL_SUBCLUSTERS } from "./layout.js";
import { Qcow2Disk } from "./qcow2-disk.js";

export const PREALLOCATIONS = ["off", "metadata", "falloc", "full"] as const;
export type Preallocation = (typeof PREALLOCATIONS)[number];

export interface Qcow2CreateOptions {
  /** Bytes. */
  readonly size: number;
  readonly version?: 2 | 3;
  /** Bytes. Default 64 KiB. */
  readonly clusterSize?: number;
  /** Default 16. */
  readonly refcountBits?: number;
  readonly lazyRefcounts?: boolean;
  readonly extendedL2?: boolean;
  readonly compression?: CompressionType;
  readonly preallocation?: Preallocation;
  /** As it is to stand in the image. */
  readonly backingFile?: string;
  readonly backingFormat?: string;
}

const DEFAULT_CLUSTER_SIZE = 65536;
const DEFAULT_REFCOUNT_BITS = 16;
const MIN_CLUSTER_SIZE = 512;
const MAX_CLUSTER_SIZE = 2 ** 21;
const MIN_EXTENDED_CLUSTER_SIZE = 2 ** 14;
/** QEMU's limit. */
const MAX_L1_BYTES = 32 * 2 ** 20;

const isPowerOfTwo = (value: number) => value > 0 && Math.log2(value) % 1 === 0;

/** Throws `DiskError` for options that no image can have. */
function checkOptions(options: Qcow2CreateOptions): void {
  const {
    size,
    version = 3,
    clusterSize = DEFAULT_CLUSTER_SIZE,
    refcountBits = DEFAULT_REFCOUNT_BITS,
  } = options;
  const refuse = (what: string) => {
    throw new DiskError(what);
  };
  if (!Number.isSafeInteger(size) || size < 0) refuse(`${size} bytes is no size of a disk`);
  if (!isPowerOfTwo(clusterSize) || clusterSize < MIN_CLUSTER_SIZE || clusterSize > MAX_CLUSTER_SIZE) {
    refuse(`cluster size ${clusterSize}: it has to be a power of two from 512 bytes to 2 MiB`);
  }
  if (!isPowerOfTwo(refcountBits) || refcountBits > 64) {
    refuse(`${refcountBits} refcount bits: it has to be a power of two up to 64`);
  }
  if (options.extendedL2 && clusterSize < MIN_EXTENDED_CLUSTER_SIZE) {
    refuse("extended L2 entries need clusters of at least 16 KiB");
  }
  if (
    options.preallocation !== undefined &&
    options.preallocation !== "off" &&
    options.backingFile !== undefined
  ) {
    refuse("an image with a backing file cannot be preallocated");
  }
  if (version === 2) {
    if (refcountBits !== DEFAULT_REFCOUNT_BITS) refuse("version 2 has 16 refcount bits");
    if (options.lazyRefcounts) refuse("version 2 has no lazy refcounts");
    if (options.extendedL2) refuse("version 2 has no extended L2 entries");
    if (options.compression === "zstd") refuse("version 2 has no zstd compression");
  }
  if (l1EntriesFor(size, Math.log2(clusterSize), options.extendedL2 ?? false) * 8 > MAX_L1_BYTES) {
    refuse(`${size} bytes is too large for a qcow2 image with clusters of ${clusterSize} bytes`);
  }
}

/**
 * Make an image of the empty `file`: the header's cluster, the refcount table, the refcount blocks that count all this, the L1
 * table. The header comes last, so that what was interrupted is no image. Throws `DiskError`.
 */
export async function createQcow2(file: HostFile, options: Qcow2CreateOptions): Promise<void> {
  checkOptions(options);
  const {
    size,
    version = 3,
    clusterSize = DEFAULT_CLUSTER_SIZE,
    refcountBits = DEFAULT_REFCOUNT_BITS,
  } = options;
  const clusterBits = Math.log2(clusterSize);
  const blockEntries = (clusterSize * 8) / refcountBits;
  const l1Entries = l1EntriesFor(size, clusterBits, options.extendedL2 ?? false);
  const l1Clusters = Math.max(1, Math.ceil((l1Entries * 8) / clusterSize));
  let blocks = 1;
  let tableClusters = 1;
  for (;;) {
    const needed = Math.ceil((1 + tableClusters + blocks + l1Clusters) / blockEntries);
    const neededTable = Math.ceil((needed * 8) / clusterSize);
    if (needed <= blocks && neededTable <= tableClusters) break;
    blocks = Math.max(blocks, needed);
    tableClusters = Math.max(tableClusters, neededTable);
  }
  const used = 1 + tableClusters + blocks + l1Clusters;
  const header: NewHeader = {
    version,
    clusterBits,
    size,
    backingFile: options.backingFile,
    backingFormat: options.backingFormat,
    l1Entries,
    l1Offset: (1 + tableClusters + blocks) * clusterSize,
    refcountTableOffset: clusterSize,
    refcountTableClusters: tableClusters,
    refcountOrder: Math.log2(refcountBits),
    extendedL2: options.extendedL2 ?? false,
    lazyRefcounts: options.lazyRefcounts ?? false,
    compression: options.compression ?? "deflate",
  };
  const first = encodeHeader(header);

  const table = new Uint8Array(tableClusters * clusterSize);
  const tableView = new DataView(table.buffer);
  for (let block = 0; block < blocks; block++) {
    setU64(tableView, block * 8, (1 + tableClusters + block) * clusterSize);
  }
  const counts = new Uint8Array(blocks * clusterSize);
  for (let cluster = 0; cluster < used; cluster++) setOne(counts, cluster, refcountBits);
  // The L1 table is a hole, which reads as zeros; a block device has what it had.
  if (file.blockDevice) file.zeroRange(0, used * clusterSize);
  else file.truncate(used * clusterSize);
  file.write(clusterSize, table);
  file.write((1 + tableClusters) * clusterSize, counts);
  file.sync();
  file.write(0, first);
  file.sync();

  const { preallocation = "off" } = options;
  if (preallocation === "off") return;
  const disk = await Qcow2Disk.open(file, readHeader(file));
  preallocate(disk, (offset, length) => {
    if (preallocation === "full") file.zeroData(offset, length);
    if (preallocation === "falloc" && !file.allocate(offset, length)) {
      throw new DiskError(`${file.path}: the file system cannot reserve space (preallocation=falloc)`);
    }
  });
  disk.flush();
}

/** Allocate every cluster of the disk, and with `reserve` its space in the file system; it reads as zeros. */
function preallocate(disk: Qcow2Disk, reserve: (offset: number, length: number) => void): void {
  const { map, sizeBytes } = disk;
  const { clusterSize, l2Coverage, l2Entries, extended } = map.geometry;
  let end = 0;
  for (let start = 0; start < sizeBytes; start += l2Coverage) {
    const table = map.tableForWriting(start / l2Coverage);
    const wanted = Math.min(l2Entries, Math.ceil((sizeBytes - start) / clusterSize));
    for (let index = 0; index < wanted; ) {
      const { first, count } = map.refcounts.allocate(wanted - index);
      reserve(first * clusterSize, count * clusterSize);
      for (let cluster = first; cluster < first + count; cluster++) {
        map.setEntry(table, index++, cluster * clusterSize, 0, extended ? ALL_SUBCLUSTERS : 0);
      }
      end = Math.max(end, (first + count) * clusterSize);
    }
    disk.relieve();
  }
  if (end > disk.file.size()) disk.file.truncate(end);
}

/** A refcount of 1. */
function setOne(counts: Uint8Array, cluster: number, bits: number): void {
  if (bits < 8) counts[Math.floor((cluster * bits) / 8)] |= 1 << ((cluster * bits) % 8);
  else counts[((cluster + 1) * bits) / 8 - 1] = 1;
}
