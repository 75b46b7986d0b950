/**
 * Compressed clusters: raw deflate, or one zstd frame; whatever follows in the last sector is not theirs (qcow2.rst,
 * "Compressed Clusters Descriptor").
 */
import * as zlib from "node:zlib";
import { zstdUnpacker } from "../../zstd.js";
import type { CompressionType } from "./header.js";

/** Node has zstd from 22.15 on. */
interface ZlibWithZstd {
  zstdCompressSync?(data: Uint8Array): Buffer;
}

const { zstdCompressSync } = zlib as ZlibWithZstd;

/** Unpacks one cluster; null where the data does not unpack to `clusterSize` bytes. */
export type Decompress = (data: Uint8Array, clusterSize: number) => Uint8Array | null;

/** Packs a cluster; null where that makes it no smaller. */
export type Compress = (cluster: Uint8Array) => Uint8Array | null;

/** QEMU's: other programs may have less memory for the window than the default's. */
const DEFLATE_WINDOW_BITS = 12;

function inflate(data: Uint8Array, clusterSize: number): Uint8Array | null {
  try {
    // Z_SYNC_FLUSH: the data may end without the end of the stream, as the cluster is all that counts.
    const options = {
      maxOutputLength: clusterSize,
      chunkSize: clusterSize,
      finishFlush: zlib.constants.Z_SYNC_FLUSH,
    };
    const cluster = zlib.inflateRawSync(data, options);
    return cluster.length === clusterSize ? cluster : null;
  } catch {
    return null;
  }
}

async function zstdDecompressor(): Promise<Decompress> {
  const unpack = await zstdUnpacker();
  return (data, clusterSize) => {
    try {
      const cluster = unpack(data, clusterSize);
      return cluster.length === clusterSize ? cluster : null;
    } catch {
      return null;
    }
  };
}

/** What unpacks clusters of `type`. */
export async function decompressor(type: CompressionType): Promise<Decompress> {
  return type === "zstd" ? await zstdDecompressor() : inflate;
}

/** What packs clusters, or undefined where this Node cannot. */
export function compressor(type: CompressionType): Compress | undefined {
  if (type === "deflate")
    return smaller((cluster) => zlib.deflateRawSync(cluster, { windowBits: DEFLATE_WINDOW_BITS }));
  return zstdCompressSync && smaller((cluster) => zstdCompressSync(cluster));
}

function smaller(pack: (cluster: Uint8Array) => Uint8Array): Compress {
  return (cluster) => {
    const packed = pack(cluster);
    return packed.length < cluster.length ? packed : null;
  };
}
