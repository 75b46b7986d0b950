/** The qcow2 header of a new image, with its extensions (docs/interop/qcow2.rst, "Header", "Header extensions"). */
import { DiskError } from "../disk.js";
import {
  COMPRESSION_TYPE_OFFSET,
  COMPRESSION_TYPES,
  Extension,
  FEATURE_ENTRY,
  HeaderOffset,
  Incompatible,
  LAZY_REFCOUNTS,
  MAX_BACKING_NAME,
  MIN_CLUSTER_BITS,
  QCOW2_MAGIC,
  type Qcow2Header,
  setU64,
  VERSION_2_LENGTH,
} from "./header.js";

/** With the compression type and its padding. */
const WRITTEN_LENGTH = 112;

export type NewHeader = Pick<
  Qcow2Header,
  | "version"
  | "clusterBits"
  | "size"
  | "backingFile"
  | "backingFormat"
  | "l1Entries"
  | "l1Offset"
  | "refcountTableOffset"
  | "refcountTableClusters"
  | "refcountOrder"
  | "extendedL2"
  | "lazyRefcounts"
  | "compression"
>;

/** The names that QEMU too gives to the features. */
const FEATURE_NAMES: readonly (readonly [type: number, bit: number, name: string])[] = [
  [0, 0, "dirty bit"],
  [0, 1, "corrupt bit"],
  [0, 2, "external data file"],
  [0, 3, "compression type"],
  [0, 4, "extended L2 entries"],
  [1, 0, "lazy refcounts"],
  [2, 0, "bitmaps"],
  [2, 1, "raw external data"],
];

/** The first cluster of a new image, or what of it is not zeros. Throws `DiskError` where the backing file's name is too long. */
export function encodeHeader(header: NewHeader): Uint8Array {
  const { version, clusterBits, backingFile, backingFormat } = header;
  const length = version === 2 ? VERSION_2_LENGTH : WRITTEN_LENGTH;
  const parts: Uint8Array[] = [new Uint8Array(length)];
  if (backingFile !== undefined && backingFormat !== undefined) {
    parts.push(...extension(Extension.BACKING_FORMAT, Buffer.from(backingFormat)));
  }
  // A version 2 image has no features, and clusters of 512 bytes have no room for their names.
  if (version === 3 && clusterBits > MIN_CLUSTER_BITS)
    parts.push(...extension(Extension.FEATURE_NAMES, featureTable()));
  parts.push(...extension(Extension.END, new Uint8Array()));
  const nameAt = parts.reduce((sum, part) => sum + part.length, 0);
  if (backingFile !== undefined) parts.push(Buffer.from(backingFile));
  const bytes = new Uint8Array(Buffer.concat(parts));
  const nameLength = bytes.length - nameAt;
  if (nameLength > MAX_BACKING_NAME || bytes.length > 2 ** clusterBits) {
    throw new DiskError(`the backing file name is too long: ${backingFile}`);
  }
  const view = new DataView(bytes.buffer);
  view.setUint32(0, QCOW2_MAGIC);
  view.setUint32(4, version);
  if (backingFile !== undefined) {
    setU64(view, 8, nameAt);
    view.setUint32(16, nameLength);
  }
  view.setUint32(20, clusterBits);
  setU64(view, 24, header.size);
  view.setUint32(HeaderOffset.L1_SIZE, header.l1Entries);
  setU64(view, HeaderOffset.L1_TABLE, header.l1Offset);
  setU64(view, HeaderOffset.REFCOUNT_TABLE, header.refcountTableOffset);
  view.setUint32(HeaderOffset.REFCOUNT_TABLE + 8, header.refcountTableClusters);
  if (version === 3) {
    const compressionType = COMPRESSION_TYPES.indexOf(header.compression);
    const incompatible =
      (compressionType === 0 ? 0 : Incompatible.COMPRESSION_TYPE) |
      (header.extendedL2 ? Incompatible.EXTENDED_L2 : 0);
    setU64(view, HeaderOffset.INCOMPATIBLE, incompatible);
    setU64(view, 80, header.lazyRefcounts ? LAZY_REFCOUNTS : 0);
    view.setUint32(96, header.refcountOrder);
    view.setUint32(100, length);
    bytes[COMPRESSION_TYPE_OFFSET] = compressionType;
  }
  return bytes;
}

function extension(type: number, data: Uint8Array): Uint8Array[] {
  const head = new Uint8Array(8);
  const view = new DataView(head.buffer);
  view.setUint32(0, type);
  view.setUint32(4, data.length);
  return [head, data, new Uint8Array(-data.length & 7)];
}

function featureTable(): Uint8Array {
  const table = new Uint8Array(FEATURE_NAMES.length * FEATURE_ENTRY);
  FEATURE_NAMES.forEach(([type, bit, name], index) => {
    table[index * FEATURE_ENTRY] = type;
    table[index * FEATURE_ENTRY + 1] = bit;
    table.set(Buffer.from(name), index * FEATURE_ENTRY + 2);
  });
  return table;
}
