/**
 * Compressed clusters: raw deflate, or one zstd frame; whatever follows in the last sector is not theirs (qcow2.rst,
 * "Compressed Clusters Descriptor").
 */
import * as zlib from "node:zlib";
import { ZSTDDecoder } from "zstddec";
import type { CompressionType } from "./header.js";

/** Node has zstd from 22.15 on. */
interface ZlibWithZstd {
  zstdCompressSync?(data: Uint8Array): Buffer;
  zstdDecompressSync?(data: Uint8Array, options: { maxOutputLength: number }): Buffer;
}

const { zstdCompressSync, zstdDecompressSync } = zlib as ZlibWithZstd;

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

const ZSTD_MAGIC = 0xfd2fb528;
const MAX_ZSTD_BLOCK = 128 * 1024;

/** The length of the zstd frame that `data` starts with, or null (RFC 8878, 3.1.1). */
function zstdFrameLength(data: Uint8Array): number | null {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  if (data.length < 6 || view.getUint32(0, true) !== ZSTD_MAGIC) return null;
  const descriptor = data[4];
  const singleSegment = (descriptor & 0x20) !== 0;
  const dictionaryId = [0, 1, 2, 4][descriptor & 3];
  const contentSize = [singleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6];
  const checksum = (descriptor & 4) !== 0 ? 4 : 0;
  let at = 5 + (singleSegment ? 0 : 1) + dictionaryId + contentSize;
  for (;;) {
    if (at + 3 > data.length) return null;
    const header = data[at] | (data[at + 1] << 8) | (data[at + 2] << 16);
    const type = (header >> 1) & 3;
    const size = header >> 3;
    // 1: one byte, repeated `size` times. 3: reserved.
    if (type === 3 || size > MAX_ZSTD_BLOCK) return null;
    at += 3 + (type === 1 ? 1 : size);
    if ((header & 1) !== 0) break;
  }
  at += checksum;
  return at <= data.length ? at : null;
}

async function zstdDecompressor(): Promise<Decompress> {
  let unpack: (data: Uint8Array, clusterSize: number) => Uint8Array;
  if (zstdDecompressSync !== undefined) {
    unpack = (data, clusterSize) => zstdDecompressSync(data, { maxOutputLength: clusterSize });
  } else {
    const decoder = new ZSTDDecoder();
    await decoder.init();
    unpack = (data, clusterSize) => decoder.decode(data, clusterSize);
  }
  return (data, clusterSize) => {
    const length = zstdFrameLength(data);
    if (length === null) return null;
    try {
      const cluster = unpack(data.subarray(0, length), clusterSize);
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
