/**
 * Entries of qcow2's tables. They are 64 bits, big-endian, and are handled here as two halves of 32 bits: BigInts would
 * cost more than the rest of a lookup.
 *
 * Document: QEMU, docs/interop/qcow2.rst ("Cluster mapping", "Extended L2 Entries").
 */
import type { Qcow2Header } from "./header.js";

/** Bits of the upper half of L1 and L2 entries. */
export const COPIED = 0x80000000;
export const COMPRESSED = 0x40000000;
/** Bits 32 to 55. */
const OFFSET_HIGH = 0x00ffffff;
/** Bits 9 to 31. */
const OFFSET_LOW = 0xfffffe00;
/** Of the lower half: the cluster reads as zeros. Not in version 2 nor in extended entries. */
export const ZERO = 1;

export const SUBCLUSTERS = 32;
/** Of a subcluster bitmap's half. */
export const ALL_SUBCLUSTERS = 0xffffffff;
const COMPRESSED_SECTOR = 512;

/** What a table entry of a guest cluster, or the part of one for a subcluster, says. */
export const Kind = { UNALLOCATED: 0, ZERO: 1, DATA: 2, COMPRESSED: 3 } as const;
export type Kind = (typeof Kind)[keyof typeof Kind];

/** Sizes that follow from the header, in bytes where nothing else is said. */
export interface Geometry {
  readonly clusterBits: number;
  readonly clusterSize: number;
  /** Of an L2 entry. */
  readonly entrySize: 8 | 16;
  readonly l2Entries: number;
  /** What an L2 table maps. */
  readonly l2Coverage: number;
  /** What can be allocated by itself: a subcluster with extended L2 entries, else a cluster. */
  readonly unitSize: number;
  readonly extended: boolean;
}

export function geometryOf(header: Pick<Qcow2Header, "clusterBits" | "extendedL2">): Geometry {
  const clusterSize = 2 ** header.clusterBits;
  const entrySize = header.extendedL2 ? 16 : 8;
  const l2Entries = clusterSize / entrySize;
  return {
    clusterBits: header.clusterBits,
    clusterSize,
    entrySize,
    l2Entries,
    l2Coverage: l2Entries * clusterSize,
    unitSize: header.extendedL2 ? clusterSize / SUBCLUSTERS : clusterSize,
    extended: header.extendedL2,
  };
}

/** The offset in a standard L2 entry, or in one of the L1 table. */
export function entryOffset(high: number, low: number): number {
  return (high & OFFSET_HIGH) * 2 ** 32 + ((low & OFFSET_LOW) >>> 0);
}

export interface CompressedExtent {
  readonly offset: number;
  readonly length: number;
}

/** Where a compressed cluster is: up to the end of its last sector. */
export function compressedExtent(high: number, low: number, clusterBits: number): CompressedExtent {
  // The offset has 70 - clusterBits bits, 32 of them in the lower half.
  const offsetBits = 62 - (clusterBits - 8) - 32;
  const bits = high & 0x3fffffff;
  const offset = (bits & (2 ** offsetBits - 1)) * 2 ** 32 + low;
  const sectors = (bits >>> offsetBits) + 1;
  return { offset, length: sectors * COMPRESSED_SECTOR - (offset % COMPRESSED_SECTOR) };
}

/** The upper half of a compressed cluster's entry; the lower half is the offset's. */
export function compressedHigh(offset: number, length: number, clusterBits: number): number {
  const offsetBits = 62 - (clusterBits - 8) - 32;
  const sectors = Math.ceil(((offset % COMPRESSED_SECTOR) + length) / COMPRESSED_SECTOR) - 1;
  return (COMPRESSED | (sectors << offsetBits) | Math.floor(offset / 2 ** 32)) >>> 0;
}

/** Offsets of compressed clusters end here. */
export function compressedLimit(clusterBits: number): number {
  return 2 ** Math.min(70 - clusterBits, 56);
}

/** Bits [from, to) of a subcluster bitmap's half. */
export function subclusterMask(from: number, to: number): number {
  const bits = to - from;
  return bits === SUBCLUSTERS ? ALL_SUBCLUSTERS : (((1 << bits) - 1) << from) >>> 0;
}
