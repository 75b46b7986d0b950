/**
 * The .xz container with the filters that Linux's build uses: LZMA2, behind the x86 branch filter in most kernels.
 * The LZMA2 data itself is decoded by a library, none of which for Node knows the branch filter.
 *
 * Document: The .xz File Format 1.2.0 (https://tukaani.org/xz/xz-file-format.txt); LZMA2's chunks as in XZ for Java
 * and the Linux kernel (lib/xz/xz_dec_lzma2.c).
 */
import * as zlib from "node:zlib";
import { lzma2 } from "@napi-rs/lzma";
import { decodeX86Branches } from "./x86-branch-filter.js";

const STREAM_HEADER_SIZE = 12;
const STREAM_FLAGS_OFFSET = 7;
const INDEX_INDICATOR = 0;
const FILTER_X86 = 0x04;
const FILTER_LZMA2 = 0x21;
/** Block flags: number of filters less one, and which sizes follow. */
const BLOCK_FILTERS = 0x03;
const BLOCK_HAS_COMPRESSED_SIZE = 0x40;
const BLOCK_HAS_UNCOMPRESSED_SIZE = 0x80;
/** Bytes of a check by its type; types in between are reserved with the size of the next larger one (2.1.1.2). */
const CHECK_SIZES = [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64] as const;
const CHECK_CRC32 = 1;

/** Decodes an .xz stream whose contents are `size` bytes long. Throws an `Error` where it is damaged. */
export async function unpackXz(data: Uint8Array, size: number): Promise<Uint8Array> {
  if (data.length < STREAM_HEADER_SIZE) throw new Error("the header is cut off");
  const check = data[STREAM_FLAGS_OFFSET] & 0x0f;
  const blocks: Uint8Array[] = [];
  let from = STREAM_HEADER_SIZE;
  let left = size;
  while (byteAt(data, from) !== INDEX_INDICATOR) {
    const header = readBlockHeader(data, from);
    from += header.size;
    const chunks = measureChunks(data, from);
    if (chunks.unpacked > left) throw new Error("more data than there should be");
    const block = await lzma2.decompress(data.subarray(from, from + chunks.packed));
    if (block.length !== chunks.unpacked) throw new Error("a block is cut off");
    from += Math.ceil(chunks.packed / 4) * 4;
    if (header.branchFilter) decodeX86Branches(block);
    if (check === CHECK_CRC32 && readU32(data, from) !== crc32(block)) throw new Error("wrong check sum");
    from += CHECK_SIZES[check];
    blocks.push(block);
    left -= block.length;
  }
  // Kernels have one; only several need copying together.
  return blocks.length === 1 ? blocks[0] : Buffer.concat(blocks);
}

function byteAt(data: Uint8Array, at: number): number {
  if (at >= data.length) throw new Error("cut off");
  return data[at];
}

function readU32(data: Uint8Array, at: number): number {
  if (at + 4 > data.length) throw new Error("cut off");
  return new DataView(data.buffer, data.byteOffset).getUint32(at, true);
}

/** A "multibyte integer" (1.2) of at most 32 bits, which is more than any here may be, and where it ends. */
function readVarint(data: Uint8Array, at: number): [value: number, end: number] {
  let value = 0;
  for (let index = 0; index < 5; index++) {
    const byte = byteAt(data, at + index);
    value += (byte & 0x7f) * 2 ** (7 * index);
    if (byte < 0x80) return [value, at + index + 1];
  }
  throw new Error("a size is too large");
}

/** 3.1, "Block Header". */
function readBlockHeader(data: Uint8Array, start: number): { size: number; branchFilter: boolean } {
  const size = (byteAt(data, start) + 1) * 4;
  const crcAt = start + size - 4;
  if (readU32(data, crcAt) !== crc32(data.subarray(start, crcAt))) throw new Error("damaged block header");
  const flags = data[start + 1];
  let at = start + 2;
  if (flags & BLOCK_HAS_COMPRESSED_SIZE) [, at] = readVarint(data, at);
  if (flags & BLOCK_HAS_UNCOMPRESSED_SIZE) [, at] = readVarint(data, at);
  const filters: number[] = [];
  for (let index = 0; index <= (flags & BLOCK_FILTERS); index++) {
    const [id, propertiesSizeAt] = readVarint(data, at);
    const [propertiesSize, properties] = readVarint(data, propertiesSizeAt);
    // The branch filter's only property is a start offset, which Linux's build does not set.
    if (id === FILTER_X86 && propertiesSize !== 0) throw new Error("a branch filter with an offset");
    filters.push(id);
    at = properties + propertiesSize;
  }
  const branchFilter = filters.length === 2 && filters[0] === FILTER_X86;
  if (filters.at(-1) !== FILTER_LZMA2 || (filters.length > 1 && !branchFilter)) {
    throw new Error(`unknown filters (${filters.map((id) => `0x${id.toString(16)}`).join(", ")})`);
  }
  return { size, branchFilter };
}

/** LZMA2's control bytes. */
const CHUNK_END = 0x00;
const CHUNK_STORED_LAST = 0x02;
const CHUNK_LZMA = 0x80;
const CHUNK_LZMA_NEW_PROPERTIES = 0xc0;

/** Walks over LZMA2 chunks to their end: bytes of them, and of what they unpack to, known before any is decoded. */
function measureChunks(data: Uint8Array, start: number): { packed: number; unpacked: number } {
  let at = start;
  let unpacked = 0;
  for (;;) {
    const control = byteAt(data, at);
    if (control === CHUNK_END) return { packed: at + 1 - start, unpacked };
    const sizeField = (byteAt(data, at + 1) << 8) | byteAt(data, at + 2);
    if (control >= CHUNK_LZMA) {
      unpacked += ((control & 0x1f) << 16) + sizeField + 1;
      const packedField = (byteAt(data, at + 3) << 8) | byteAt(data, at + 4);
      at += (control >= CHUNK_LZMA_NEW_PROPERTIES ? 6 : 5) + packedField + 1;
    } else if (control <= CHUNK_STORED_LAST) {
      unpacked += sizeField + 1;
      at += 3 + sizeField + 1;
    } else {
      throw new Error("unknown LZMA2 chunk");
    }
  }
}

const CRC32_POLYNOMIAL = 0xedb88320;
let crcTable: Uint32Array | undefined;

/** Node's own from 20.15 on, otherwise a table's. */
function crc32(data: Uint8Array): number {
  if (zlib.crc32 !== undefined) return zlib.crc32(data);
  crcTable ??= Uint32Array.from({ length: 256 }, (_, byte) => {
    for (let bit = 0; bit < 8; bit++) byte = (byte >>> 1) ^ (byte & 1 ? CRC32_POLYNOMIAL : 0);
    return byte;
  });
  let crc = 0xffffffff;
  for (const byte of data) crc = (crc >>> 8) ^ crcTable[(crc ^ byte) & 0xff];
  return ~crc >>> 0;
}
