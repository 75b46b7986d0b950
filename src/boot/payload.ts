/**
 * The compressed kernel inside a bzImage, in each of the formats that Linux can use (CONFIG_KERNEL_*), unpacked with
 * libraries.
 *
 * Every payload ends with its unpacked size, 32 bits little-endian: gzip's own last field, and in the other formats
 * appended by the kernel's build (scripts/Makefile.lib, size_append). Buffers are of this size, and no decoder writes
 * more.
 */
import { promisify } from "node:util";
import * as zlib from "node:zlib";
import { lzma } from "@napi-rs/lzma";
import { decompress as decompressLz4 } from "lz4-wasm-nodejs";
import bzip from "seek-bzip";
import { ZSTDDecoder } from "zstddec";
import { formatSize } from "./boot-error.js";
import { unpackLzop } from "./lzop.js";
import { unpackXz } from "./xz.js";

/** No kernel is larger: it is mapped into 512 MiB of virtual addresses (KERNEL_IMAGE_SIZE without KASLR). */
export const UNPACKED_LIMIT = 512 * 2 ** 20;

const SIZE_FIELD = 4;

interface Compression {
  name: string;
  magic: readonly number[];
  /** `data` is the payload without the appended size; the result must be `size` bytes long. */
  unpack(data: Uint8Array, size: number): Uint8Array | Promise<Uint8Array>;
}

/** The formats by their magic numbers (boot.rst, payload_offset; lzop's own file format for lzo). */
const COMPRESSIONS: readonly Compression[] = [
  { name: "gzip", magic: [0x1f, 0x8b], unpack: unpackGzip },
  { name: "bzip2", magic: [0x42, 0x5a, 0x68], unpack: unpackBzip2 },
  { name: "lzma", magic: [0x5d, 0x00, 0x00], unpack: unpackLzma },
  { name: "xz", magic: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00], unpack: unpackXz },
  { name: "lzo", magic: [0x89, 0x4c, 0x5a, 0x4f, 0x00], unpack: unpackLzop },
  { name: "lz4", magic: [0x02, 0x21, 0x4c, 0x18], unpack: unpackLz4 },
  { name: "zstd", magic: [0x28, 0xb5, 0x2f, 0xfd], unpack: unpackZstd },
];

function find(payload: Uint8Array): Compression | undefined {
  return COMPRESSIONS.find(({ magic }) => magic.every((byte, index) => payload[index] === byte));
}

/** The name of the format that `payload` is compressed in, or undefined. */
export function compressionOf(payload: Uint8Array): string | undefined {
  return find(payload)?.name;
}

/** Unpacks a payload. Throws an `Error` where it is damaged or says that it is larger than `limit`. */
export async function unpackPayload(payload: Uint8Array, limit: number): Promise<Uint8Array> {
  const compression = find(payload);
  if (compression === undefined || payload.length < SIZE_FIELD) throw new Error("unknown format");
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const size = view.getUint32(payload.length - SIZE_FIELD, true);
  if (size > limit) throw new Error(`${formatSize(size)} when unpacked`);
  const data = compression.name === "gzip" ? payload : payload.subarray(0, -SIZE_FIELD);
  const unpacked = await compression.unpack(data, size);
  if (unpacked.length !== size) throw new Error(`${unpacked.length} bytes when unpacked instead of ${size}`);
  return unpacked;
}

/** Node's default of 16 KiB makes it two to three times as slow. */
const ZLIB_CHUNK_SIZE = 2 ** 20;

function zlibOptions(size: number) {
  return { maxOutputLength: Math.max(size, 1), chunkSize: ZLIB_CHUNK_SIZE };
}

async function unpackGzip(data: Uint8Array, size: number): Promise<Uint8Array> {
  return promisify(zlib.gunzip)(data, zlibOptions(size));
}

function unpackBzip2(data: Uint8Array, size: number): Uint8Array {
  const output = new Uint8Array(size);
  let from = 0;
  let to = 0;
  const readByte = () => {
    if (from >= data.length) throw new Error("cut off");
    return data[from++];
  };
  const read = (buffer: Uint8Array, offset: number, length: number) => {
    for (let index = 0; index < length; index++) buffer[offset + index] = readByte();
    return length;
  };
  const writeByte = (byte: number) => {
    if (to >= size) throw new Error("more data than there should be");
    output[to++] = byte;
  };
  bzip.decode({ readByte, read }, { writeByte });
  return output.subarray(0, to);
}

/** LZMA's header: properties (1), dictionary size (4), unpacked size or -1 (8) (LZMA SDK, lzma-file-format.txt). */
const LZMA_HEADER_SIZE = 13;
const LZMA_SIZE_OFFSET = 5;
const LZMA_SIZE_UNKNOWN = 0xffffffffffffffffn;

async function unpackLzma(data: Uint8Array, size: number): Promise<Uint8Array> {
  if (data.length < LZMA_HEADER_SIZE) throw new Error("the header is cut off");
  const copy = Buffer.from(data);
  const stated = copy.readBigUInt64LE(LZMA_SIZE_OFFSET);
  if (stated !== LZMA_SIZE_UNKNOWN && stated !== BigInt(size)) throw new Error("two different sizes");
  // A decoder that knows the size stops there, whatever the data say.
  copy.writeBigUInt64LE(BigInt(size), LZMA_SIZE_OFFSET);
  return lzma.decompress(copy);
}

/** The legacy frame of LZ4: a magic number, then blocks of at most 8 MiB, each after its compressed size. */
const LZ4_MAGIC_SIZE = 4;
const LZ4_BLOCK_SIZE = 8 * 2 ** 20;

function unpackLz4(data: Uint8Array, size: number): Uint8Array {
  const output = new Uint8Array(size);
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  let from = LZ4_MAGIC_SIZE;
  let to = 0;
  while (from < data.length) {
    if (from + 4 > data.length) throw new Error("a block is cut off");
    const length = view.getUint32(from, true);
    from += 4;
    if (length === 0 || from + length > data.length) throw new Error("a block is cut off");
    // The library takes a block after the size of its contents.
    const block = new Uint8Array(4 + length);
    new DataView(block.buffer).setUint32(0, Math.min(LZ4_BLOCK_SIZE, size - to), true);
    block.set(data.subarray(from, from + length), 4);
    const unpacked = decodeLz4Block(block);
    if (unpacked.length > size - to) throw new Error("more data than there should be");
    output.set(unpacked, to);
    to += unpacked.length;
    from += length;
  }
  return output.subarray(0, to);
}

function decodeLz4Block(block: Uint8Array): Uint8Array {
  try {
    return decompressLz4(block);
  } catch (error) {
    // The library throws strings.
    throw error instanceof Error ? error : new Error(String(error));
  }
}

/** Node has zstd from 22.15 on; it takes half the time of the library. */
interface ZlibWithZstd {
  zstdDecompress?(
    data: Uint8Array,
    options: { maxOutputLength: number; chunkSize: number },
    callback: (error: Error | null, result: Buffer) => void,
  ): void;
}

async function unpackZstd(data: Uint8Array, size: number): Promise<Uint8Array> {
  const { zstdDecompress } = zlib as ZlibWithZstd;
  if (zstdDecompress !== undefined) {
    return promisify(zstdDecompress)(data, zlibOptions(size));
  }
  const decoder = new ZSTDDecoder();
  await decoder.init();
  return decoder.decode(data, size);
}
