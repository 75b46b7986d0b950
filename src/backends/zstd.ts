/** zstd frames, unpacked with limits (RFC 8878). */
import * as zlib from "node:zlib";
import { ZSTDDecoder } from "zstddec";

/** Node has zstd from 22.15 on; it takes half the time of the library. */
interface ZlibWithZstd {
  zstdDecompressSync?(data: Uint8Array, options: { maxOutputLength: number }): Buffer;
}

const { zstdDecompressSync } = zlib as ZlibWithZstd;

const MAGIC = 0xfd2fb528;
const MAX_BLOCK = 128 * 1024;
const BlockType = { RAW: 0, RLE: 1, COMPRESSED: 2 } as const;

export interface ZstdFrame {
  /** Bytes of the frame; what follows is not its. */
  readonly length: number;
  /** It unpacks to no more. */
  readonly bound: number;
}

/** The frame that `data` starts with, or null where it is none, or not all there (3.1.1). */
export function zstdFrame(data: Uint8Array): ZstdFrame | null {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  if (data.length < 6 || view.getUint32(0, true) !== MAGIC) return null;
  const descriptor = data[4];
  const singleSegment = (descriptor & 0x20) !== 0;
  const dictionaryId = [0, 1, 2, 4][descriptor & 3];
  const contentSize = [singleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6];
  const checksum = (descriptor & 4) !== 0 ? 4 : 0;
  let at = 5 + (singleSegment ? 0 : 1) + dictionaryId + contentSize;
  let bound = 0;
  for (;;) {
    if (at + 3 > data.length) return null;
    const header = data[at] | (data[at + 1] << 8) | (data[at + 2] << 16);
    const type = (header >> 1) & 3;
    const size = header >> 3;
    if (type > BlockType.COMPRESSED || size > MAX_BLOCK) return null;
    at += 3 + (type === BlockType.RLE ? 1 : size);
    bound += type === BlockType.COMPRESSED ? MAX_BLOCK : size;
    if ((header & 1) !== 0) break;
  }
  at += checksum;
  return at <= data.length ? { length: at, bound } : null;
}

export type ZstdUnpack = (data: Uint8Array, limit: number) => Uint8Array;

/**
 * What unpacks the frame that data starts with. It throws an `Error` where there is none, or where it unpacks to more
 * than `limit` bytes.
 */
export async function zstdUnpacker(): Promise<ZstdUnpack> {
  let decode: (data: Uint8Array, limit: number) => Uint8Array;
  if (zstdDecompressSync !== undefined) {
    decode = (data, limit) => zstdDecompressSync(data, { maxOutputLength: Math.max(limit, 1) });
  } else {
    const decoder = new ZSTDDecoder();
    await decoder.init();
    // The library finds no size where the frame has none, and says nothing of an error but by giving nothing.
    decode = (data, limit) => decoder.decode(data, Math.max(limit, 1));
  }
  return (data, limit) => {
    const frame = zstdFrame(data);
    if (frame === null) throw new Error("damaged zstd data");
    const unpacked = decode(data.subarray(0, frame.length), Math.min(frame.bound, limit));
    if (unpacked.length === 0 && frame.bound > 0) throw new Error("damaged or too large zstd data");
    return unpacked;
  };
}
