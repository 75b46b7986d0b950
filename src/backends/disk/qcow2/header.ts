/**
 * The qcow2 header and its extensions, read and checked.
 *
 * Document: QEMU, docs/interop/qcow2.rst ("Header", "Additional fields", "Header extensions"). Implementation limits are
 * QEMU's own, so that whatever one opens the other does.
 */
import { DiskError } from "../disk.js";
import type { HostFile } from "../host-file.js";

export const QCOW2_MAGIC = 0x514649fb;
export const VERSION_2_LENGTH = 72;
const VERSION_3_LENGTH = 104;
export const COMPRESSION_TYPE_OFFSET = 104;

export const MIN_CLUSTER_BITS = 9;
const MAX_CLUSTER_BITS = 21;
const MIN_EXTENDED_CLUSTER_BITS = 14;
const MAX_REFCOUNT_ORDER = 6;
export const MAX_BACKING_NAME = 1023;
/** QEMU's limits, in bytes. */
const MAX_L1_BYTES = 32 * 2 ** 20;
const MAX_REFCOUNT_TABLE_BYTES = 8 * 2 ** 20;
const MAX_SNAPSHOTS = 65536;
/** A header and its extensions fit into the first cluster. */
const MAX_HEADER_BYTES = 1 << MAX_CLUSTER_BITS;

/** Bits of incompatible_features. */
export const Incompatible = {
  DIRTY: 1,
  CORRUPT: 2,
  EXTERNAL_DATA: 4,
  COMPRESSION_TYPE: 8,
  EXTENDED_L2: 16,
} as const;
const KNOWN_INCOMPATIBLE = 0x1fn;
/** Bit of compatible_features. */
export const LAZY_REFCOUNTS = 1;
/** Where the fields are that change while an image is in use. */
export const HeaderOffset = {
  L1_SIZE: 36,
  L1_TABLE: 40,
  REFCOUNT_TABLE: 48,
  SNAPSHOTS: 60,
  INCOMPATIBLE: 72,
  AUTOCLEAR: 88,
} as const;

export const Extension = {
  END: 0,
  BACKING_FORMAT: 0xe2792aca,
  FEATURE_NAMES: 0x6803f857,
  BITMAPS: 0x23852875,
  ENCRYPTION: 0x0537be77,
  EXTERNAL_DATA_FILE: 0x44415441,
} as const;

export type CompressionType = "deflate" | "zstd";
export const COMPRESSION_TYPES: readonly CompressionType[] = ["deflate", "zstd"];

export interface Qcow2Header {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  /** As the header has it; disks are whole sectors. */
  readonly size: number;
  readonly backingFile: string | undefined;
  readonly backingFormat: string | undefined;
  readonly l1Entries: number;
  readonly l1Offset: number;
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
  readonly snapshotCount: number;
  readonly snapshotsOffset: number;
  readonly dirty: boolean;
  readonly corrupt: boolean;
  readonly extendedL2: boolean;
  readonly lazyRefcounts: boolean;
  readonly autoclear: bigint;
  readonly refcountOrder: number;
  readonly headerLength: number;
  readonly compression: CompressionType;
  /** Of the bitmaps, which NLKT neither reads nor keeps up to date, where they are consistent. */
  readonly bitmapDirectory:
    | { readonly offset: number; readonly length: number; readonly count: number }
    | undefined;
}

/** 64 bits as a number; past 2^53 they are rounded, and out of any range that is checked. */
export function getU64(view: DataView, at: number): number {
  return view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);
}

export function setU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 2 ** 32));
  view.setUint32(at + 4, value >>> 0);
}

export function isQcow2(start: Uint8Array): boolean {
  return start.length >= 4 && new DataView(start.buffer, start.byteOffset).getUint32(0) === QCOW2_MAGIC;
}

/** Entries of an L1 table that maps `size` bytes. */
export function l1EntriesFor(size: number, clusterBits: number, extendedL2: boolean): number {
  const l2Entries = 2 ** clusterBits / (extendedL2 ? 16 : 8);
  return Math.ceil(size / (2 ** clusterBits * l2Entries));
}

/** Reads and checks the header of an image. Throws `DiskError` for what is broken or not supported. */
export function readHeader(file: HostFile): Qcow2Header {
  const fileSize = file.size();
  const bytes = new Uint8Array(Math.min(fileSize, MAX_HEADER_BYTES));
  file.read(0, bytes);
  return parseHeader(bytes, fileSize, file.path);
}

/** `bytes`: the first cluster of the file, at least. */
export function parseHeader(bytes: Uint8Array, fileSize: number, name: string): Qcow2Header {
  const broken = (what: string): DiskError => new DiskError(`${name}: broken qcow2 image: ${what}`);
  const refused = (what: string): DiskError => new DiskError(`${name}: ${what}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < VERSION_2_LENGTH) throw broken("the header is cut off");
  if (!isQcow2(bytes)) throw refused("not a qcow2 image");
  const version = view.getUint32(4);
  if (version !== 2 && version !== 3)
    throw refused(`qcow2 version ${version} is not supported (2 and 3 are)`);
  if (version === 3 && bytes.length < VERSION_3_LENGTH) throw broken("the header is cut off");

  const clusterBits = view.getUint32(20);
  if (clusterBits < MIN_CLUSTER_BITS || clusterBits > MAX_CLUSTER_BITS) {
    throw refused(`qcow2 cluster size 2^${clusterBits} is not supported (2^9 to 2^21 are)`);
  }
  const clusterSize = 2 ** clusterBits;
  const headerLength = version === 2 ? VERSION_2_LENGTH : view.getUint32(100);
  if (headerLength < (version === 2 ? VERSION_2_LENGTH : VERSION_3_LENGTH) || headerLength % 8 !== 0) {
    throw broken(`a header length of ${headerLength}`);
  }
  if (headerLength > clusterSize || headerLength > bytes.length) {
    throw broken(`a header of ${headerLength} bytes, more than its cluster`);
  }

  const incompatible = version === 2 ? 0n : view.getBigUint64(HeaderOffset.INCOMPATIBLE);
  const area = bytes.subarray(0, clusterSize);
  const extensions = readExtensions(area, headerLength, broken);
  const unknown = incompatible & ~KNOWN_INCOMPATIBLE;
  if (unknown !== 0n) throw refused(`unknown qcow2 features: ${featureNames(unknown, extensions)}`);
  const has = (bit: number) => (incompatible & BigInt(bit)) !== 0n;

  const cryptMethod = view.getUint32(32);
  if (cryptMethod === 1) throw refused("an image with AES encryption is not supported");
  if (cryptMethod === 2) throw refused("an image with LUKS encryption is not supported");
  if (cryptMethod !== 0) throw refused(`unknown qcow2 encryption method ${cryptMethod}`);
  if (has(Incompatible.EXTERNAL_DATA)) throw refused("an image with an external data file is not supported");

  const typeNumber = headerLength > COMPRESSION_TYPE_OFFSET ? bytes[COMPRESSION_TYPE_OFFSET] : 0;
  if (has(Incompatible.COMPRESSION_TYPE) !== (typeNumber !== 0)) {
    throw broken("the compression type and its feature bit contradict each other");
  }
  const compression = COMPRESSION_TYPES[typeNumber];
  if (compression === undefined) throw refused(`unknown qcow2 compression type ${typeNumber}`);

  const extendedL2 = has(Incompatible.EXTENDED_L2);
  if (extendedL2 && clusterBits < MIN_EXTENDED_CLUSTER_BITS) {
    throw broken(`extended L2 entries with clusters of 2^${clusterBits} bytes`);
  }
  const refcountOrder = version === 2 ? 4 : view.getUint32(96);
  if (refcountOrder > MAX_REFCOUNT_ORDER) throw broken(`a refcount order of ${refcountOrder}`);

  const size = getU64(view, 24);
  if (!Number.isSafeInteger(size) || size > Number.MAX_SAFE_INTEGER - 2 * clusterSize) {
    throw refused(`a disk size of ${size} bytes is not supported`);
  }
  const l1Entries = view.getUint32(HeaderOffset.L1_SIZE);
  const l1Offset = getU64(view, HeaderOffset.L1_TABLE);
  if (l1Entries * 8 > MAX_L1_BYTES) throw refused(`an L1 table of ${l1Entries} entries is not supported`);
  const needed = l1EntriesFor(size, clusterBits, extendedL2);
  if (l1Entries < needed) {
    throw broken(`the L1 table has ${l1Entries} entries; the disk's size needs ${needed}`);
  }
  checkTable("L1 table", l1Offset, l1Entries * 8, clusterSize, fileSize, broken);

  const refcountTableOffset = getU64(view, HeaderOffset.REFCOUNT_TABLE);
  const refcountTableClusters = view.getUint32(HeaderOffset.REFCOUNT_TABLE + 8);
  if (refcountTableClusters * clusterSize > MAX_REFCOUNT_TABLE_BYTES) {
    throw refused(`a refcount table of ${refcountTableClusters} clusters is not supported`);
  }
  if (refcountTableClusters === 0) throw broken("no refcount table");
  checkTable(
    "refcount table",
    refcountTableOffset,
    refcountTableClusters * clusterSize,
    clusterSize,
    fileSize,
    broken,
  );

  const snapshotCount = view.getUint32(HeaderOffset.SNAPSHOTS);
  const snapshotsOffset = getU64(view, HeaderOffset.SNAPSHOTS + 4);
  if (snapshotCount > MAX_SNAPSHOTS) throw refused(`${snapshotCount} snapshots are not supported`);
  if (snapshotCount > 0) checkTable("snapshot table", snapshotsOffset, 0, clusterSize, fileSize, broken);

  return {
    version,
    clusterBits,
    size,
    ...backingOf(view, area, headerLength, extensions, broken),
    l1Entries,
    l1Offset,
    refcountTableOffset,
    refcountTableClusters,
    snapshotCount,
    snapshotsOffset,
    dirty: has(Incompatible.DIRTY),
    corrupt: has(Incompatible.CORRUPT),
    extendedL2,
    lazyRefcounts: version === 3 && (view.getUint32(84) & LAZY_REFCOUNTS) !== 0,
    autoclear: version === 2 ? 0n : view.getBigUint64(HeaderOffset.AUTOCLEAR),
    refcountOrder,
    headerLength,
    compression,
    bitmapDirectory: bitmapsOf(view, version, extensions, broken),
  };
}

type Broken = (what: string) => DiskError;

function checkTable(
  what: string,
  offset: number,
  length: number,
  clusterSize: number,
  fileSize: number,
  broken: Broken,
): void {
  if (length === 0 && offset === 0) return;
  if (offset === 0 || offset % clusterSize !== 0) throw broken(`the ${what} is at offset ${offset}`);
  // The end of a file may be missing where it is all zeros: QEMU leaves it so after preallocation.
  if (offset >= fileSize) throw broken(`the ${what} at ${offset} is beyond the end of the file`);
  if (offset + length > Math.ceil(fileSize / clusterSize) * clusterSize) {
    throw broken(`the ${what} at ${offset} goes beyond the end of the file`);
  }
}

type Extensions = ReadonlyMap<number, Uint8Array>;

function readExtensions(area: Uint8Array, start: number, broken: Broken): Extensions {
  const extensions = new Map<number, Uint8Array>();
  const view = new DataView(area.buffer, area.byteOffset, area.byteLength);
  let at = start;
  // Version 2 images of old have no extensions, nor an end of them; the backing file's name ends the area too.
  const nameAt = getU64(view, 8);
  const end = nameAt > 0 && nameAt <= area.length ? nameAt : area.length;
  while (at + 8 <= end) {
    const type = view.getUint32(at);
    const length = view.getUint32(at + 4);
    if (type === Extension.END) break;
    if (length > end - at - 8) throw broken(`header extension 0x${type.toString(16)} is cut off`);
    extensions.set(type, area.subarray(at + 8, at + 8 + length));
    at += 8 + Math.ceil(length / 8) * 8;
  }
  return extensions;
}

function backingOf(
  view: DataView,
  area: Uint8Array,
  headerLength: number,
  extensions: Extensions,
  broken: Broken,
): { backingFile: string | undefined; backingFormat: string | undefined } {
  const offset = getU64(view, 8);
  if (offset === 0) return { backingFile: undefined, backingFormat: undefined };
  const length = view.getUint32(16);
  if (length > MAX_BACKING_NAME) throw broken(`a backing file name of ${length} bytes`);
  if (length === 0) return { backingFile: undefined, backingFormat: undefined };
  if (offset < headerLength || offset + length > area.length) {
    throw broken("the backing file name is outside of the header's cluster");
  }
  const backingFile = text(area.subarray(offset, offset + length));
  if (backingFile.includes("\0")) throw broken("a NUL in the backing file name");
  const format = extensions.get(Extension.BACKING_FORMAT);
  return { backingFile, backingFormat: format && text(format) };
}

const BITMAPS_CONSISTENT = 1;
const BITMAPS_EXTENSION_SIZE = 24;

function bitmapsOf(
  view: DataView,
  version: number,
  extensions: Extensions,
  broken: Broken,
): Qcow2Header["bitmapDirectory"] {
  const consistent = version === 3 && (view.getUint32(HeaderOffset.AUTOCLEAR + 4) & BITMAPS_CONSISTENT) !== 0;
  if (!consistent) return undefined;
  const data = extensions.get(Extension.BITMAPS);
  if (data === undefined || data.length < BITMAPS_EXTENSION_SIZE)
    throw broken("the bitmaps extension is missing");
  const fields = new DataView(data.buffer, data.byteOffset, data.byteLength);
  return { count: fields.getUint32(0), length: getU64(fields, 8), offset: getU64(fields, 16) };
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8");
}

export const FEATURE_ENTRY = 48;

/** Names from the image's own table, as the specification wants it for features that a program does not know. */
function featureNames(bits: bigint, extensions: Extensions): string {
  const table = extensions.get(Extension.FEATURE_NAMES) ?? new Uint8Array();
  const names: string[] = [];
  for (let bit = 0; bit < 64; bit++) {
    if ((bits & (1n << BigInt(bit))) === 0n) continue;
    let name = `incompatible feature bit ${bit}`;
    for (let at = 0; at + FEATURE_ENTRY <= table.length; at += FEATURE_ENTRY) {
      if (table[at] !== 0 || table[at + 1] !== bit) continue;
      // Printable characters only: this goes to a terminal.
      const found = text(table.subarray(at + 2, at + FEATURE_ENTRY)).replace(/\0.*$/s, "");
      if (/^[\x20-\x7e]+$/.test(found)) name = found;
    }
    names.push(name);
  }
  return names.join(", ");
}
