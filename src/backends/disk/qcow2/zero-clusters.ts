/** Clusters, and parts of them, that are to read as zeros. */
import type { Disk } from "../disk.js";
import type { ClusterMap } from "./cluster-map.js";
import type { Qcow2Header } from "./header.js";
import { ALL_SUBCLUSTERS, COMPRESSED, COPIED, entryOffset, subclusterMask, ZERO } from "./layout.js";

export interface ZeroRange {
  /** Units [from, to) of one cluster, as offsets in the disk. */
  readonly from: number;
  readonly to: number;
  /** The cluster need not stay allocated. */
  readonly unmap: boolean;
}

/** Mark units as zeros; false where the image has no way to, and zeros have to be written. */
export function zeroCluster(
  map: ClusterMap,
  header: Qcow2Header,
  backing: Disk | undefined,
  { from, to, unmap }: ZeroRange,
): boolean {
  const { clusterSize, l2Coverage, unitSize, entrySize, extended } = map.geometry;
  const l1Index = Math.floor(from / l2Coverage);
  const inBacking = backing !== undefined && from < backing.sizeBytes;
  if (map.table(l1Index) === undefined && !inBacking) return true;
  // Version 2 has no zero clusters: only one that is nowhere, with nothing below, is zeros.
  if (header.version < 3 && inBacking) return false;
  const table = map.tableForWriting(l1Index);
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
      map.touch(table, index);
      return true;
    }
    map.release(table, index);
    map.setEntry(table, index, 0, inBacking ? zero : 0, 0);
    return true;
  }
  const keep = !unmap && host !== 0 && (high & COPIED) !== 0 && header.version >= 3;
  if (!keep) map.release(table, index);
  map.setEntry(table, index, keep ? host : 0);
  if (keep || inBacking) view.setUint32(at + 4, (view.getUint32(at + 4) | ZERO) >>> 0);
  return true;
}
