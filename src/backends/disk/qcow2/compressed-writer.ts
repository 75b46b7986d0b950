/** Compressed clusters, for new images: one behind the other, wherever a cluster has room left. */
import { DiskError } from "../disk.js";
import type { Compress } from "./compression.js";
import { compressedHigh, compressedLimit } from "./layout.js";
import type { Qcow2Disk } from "./qcow2-disk.js";

export class CompressedWriter {
  /** The end of the last compressed cluster, in a cluster that has room for more; 0 for none. */
  #end = 0;

  /** `disk`: a new image, of which nothing is discarded meanwhile. */
  constructor(
    private readonly disk: Qcow2Disk,
    private readonly compress: Compress,
  ) {}

  /** Write a whole cluster, compressed; false where that saves nothing and nothing was done. */
  write(offset: number, cluster: Uint8Array): boolean {
    const { disk } = this;
    const { map } = disk;
    const { clusterBits, clusterSize, l2Coverage, entrySize } = map.geometry;
    const data = this.compress(cluster);
    if (data === null) return false;
    const l1Index = Math.floor(offset / l2Coverage);
    const table = map.tableForWriting(l1Index);
    const index = Math.floor((offset - l1Index * l2Coverage) / clusterSize);
    const host = this.#allocateBytes(data.length);
    disk.file.write(host, data);
    map.release(table, index);
    const at = index * entrySize;
    table.view.setUint32(at, compressedHigh(host, data.length, clusterBits));
    table.view.setUint32(at + 4, host >>> 0);
    if (entrySize === 16) {
      table.view.setUint32(at + 8, 0);
      table.view.setUint32(at + 12, 0);
    }
    map.touch(table, index);
    disk.relieve();
    return true;
  }

  /** Room for compressed data; it may share a cluster with what was there before, and go into the next one. */
  #allocateBytes(length: number): number {
    const { disk } = this;
    const { map } = disk;
    const { clusterBits, clusterSize } = map.geometry;
    const end = this.#end;
    const room = end === 0 ? 0 : clusterSize - (end % clusterSize);
    let host: number;
    if (room >= length && map.refcounts.get(Math.floor(end / clusterSize)) < map.refcounts.max) {
      const cluster = Math.floor(end / clusterSize);
      map.refcounts.set(cluster, map.refcounts.get(cluster) + 1);
      host = end;
    } else {
      const { first } = map.refcounts.allocate(1);
      const last = Math.floor((end - 1) / clusterSize);
      // The cluster behind the last one: the data begins in that one.
      if (room > 0 && first === last + 1 && map.refcounts.get(last) < map.refcounts.max) {
        map.refcounts.set(last, map.refcounts.get(last) + 1);
        host = end;
      } else {
        host = first * clusterSize;
      }
    }
    if (host + length > compressedLimit(clusterBits)) {
      throw new DiskError(
        `${disk.file.path}: the image is too large for more compressed clusters`,
        "NO_SPACE",
      );
    }
    // Data begins at whole bytes, but its length is counted in sectors of the file.
    this.#end = (host + length) % clusterSize === 0 ? 0 : host + length;
    return host;
  }

  /** The file ends with a cluster: the last compressed one may not fill its last sector. */
  end(): void {
    const { disk } = this;
    const { clusterSize } = disk.geometry;
    const size = disk.file.size();
    if (size % clusterSize !== 0) disk.file.truncate(Math.ceil(size / clusterSize) * clusterSize);
  }
}
