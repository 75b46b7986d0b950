/**
 * lzop files with LZO1X data, as Linux's build makes them for CONFIG_KERNEL_LZO. Written here because every LZO
 * library there is carries a licence (GPL) that this project cannot take.
 *
 * Documents: Linux, Documentation/staging/lzo.rst (the compressed data) and lib/decompress_unlzo.c (the container,
 * that is lzop's file format).
 */

const MAGIC_SIZE = 9;
const VERSION_WITH_LEVEL = 0x0940;
/** Header flags. */
const FLAG_ADLER32_UNPACKED = 0x0001;
const FLAG_ADLER32_PACKED = 0x0002;
const FLAG_EXTRA_FIELD = 0x0040;
const FLAG_CRC32_UNPACKED = 0x0100;
const FLAG_CRC32_PACKED = 0x0200;
const FLAG_FILTER = 0x0800;

/** Unpacks an lzop file whose contents are `size` bytes long. Throws an `Error` where it is damaged. */
export function unpackLzop(data: Uint8Array, size: number): Uint8Array {
  const output = new Uint8Array(size);
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const u32 = (at: number) => {
    if (at + 4 > data.length) throw new Error("cut off");
    return view.getUint32(at, false);
  };
  const header = readHeader(u32);
  let from = header.size;
  let to = 0;
  for (;;) {
    const unpackedSize = u32(from);
    if (unpackedSize === 0) break;
    const packedSize = u32(from + 4);
    const stored = packedSize === unpackedSize;
    from += 8 + 4 * (header.unpackedSums + (stored ? 0 : header.packedSums));
    if (packedSize > unpackedSize || from + packedSize > data.length) throw new Error("a block is cut off");
    if (unpackedSize > size - to) throw new Error("more data than there should be");
    const block = data.subarray(from, from + packedSize);
    const target = output.subarray(to, to + unpackedSize);
    if (stored) target.set(block);
    else decodeLzo1x(block, target);
    from += packedSize;
    to += unpackedSize;
  }
  return output.subarray(0, to);
}

function readHeader(u32: (at: number) => number) {
  const version = u32(MAGIC_SIZE) >>> 16;
  const late = version >= VERSION_WITH_LEVEL;
  // Version, library version, version needed (2 bytes each, the last from 0.940 on as the level), method.
  let at = MAGIC_SIZE + (late ? 8 : 5);
  const flags = u32(at);
  at += flags & FLAG_FILTER ? 8 : 4;
  at += late ? 12 : 8; // mode, time
  const nameLength = u32(at) >>> 24;
  at += 1 + nameLength + 4; // name, check sum of the header
  if (flags & FLAG_EXTRA_FIELD) throw new Error("an extra field");
  const count = (...bits: number[]) => bits.filter((bit) => flags & bit).length;
  return {
    size: at,
    unpackedSums: count(FLAG_ADLER32_UNPACKED, FLAG_CRC32_UNPACKED),
    packedSums: count(FLAG_ADLER32_PACKED, FLAG_CRC32_PACKED),
  };
}

/** What the "state" of lzo.rst is after a long run of literals. */
const STATE_LITERAL_RUN = 4;
/** A distance of 16384, which only a 0001HLLL instruction can have, ends the stream. */
const END_DISTANCE = 16384;

/** Decodes one LZO1X block (bitstream version 0) that must fill `output`. Throws where it does not. */
export function decodeLzo1x(input: Uint8Array, output: Uint8Array): void {
  let from = 0;
  let to = 0;
  let state = 0;

  const next = () => {
    if (from >= input.length) throw new Error("cut off");
    return input[from++];
  };
  /** A length of `bits` bits in the instruction, or more bytes if these are zero ("Description"). */
  const length = (instruction: number, bits: number) => {
    const mask = (1 << bits) - 1;
    let value = instruction & mask;
    if (value !== 0) return value;
    value = mask;
    let byte = next();
    while (byte === 0) {
      value += 255;
      byte = next();
    }
    return value + byte;
  };
  const literals = (count: number) => {
    if (from + count > input.length || to + count > output.length) throw new Error("literals without room");
    output.set(input.subarray(from, from + count), to);
    from += count;
    to += count;
  };
  const copy = (distance: number, count: number) => {
    if (distance > to || to + count > output.length) throw new Error("a copy from or to outside");
    // Byte by byte: source and target may overlap, and repeat then.
    for (let index = 0; index < count; index++, to++) output[to] = output[to - distance];
  };
  const copyThenLiterals = (distance: number, count: number, following: number) => {
    copy(distance, count);
    state = following;
    literals(following);
  };

  // "First byte encoding".
  if (input[0] > 17) {
    const count = next() - 17;
    literals(count);
    state = Math.min(count, STATE_LITERAL_RUN);
  }
  for (;;) {
    const op = next();
    if (op >= 64) {
      const count = op >= 128 ? 5 + ((op >> 5) & 3) : 3 + ((op >> 5) & 1);
      copyThenLiterals((next() << 3) + ((op >> 2) & 7) + 1, count, op & 3);
    } else if (op >= 32) {
      const count = 2 + length(op, 5);
      const operand = next() | (next() << 8);
      copyThenLiterals((operand >> 2) + 1, count, operand & 3);
    } else if (op >= 16) {
      const count = 2 + length(op, 3);
      const operand = next() | (next() << 8);
      const distance = END_DISTANCE + ((op & 8) << 11) + (operand >> 2);
      if (distance === END_DISTANCE) break;
      copyThenLiterals(distance, count, operand & 3);
    } else if (state === 0) {
      literals(3 + length(op, 4));
      state = STATE_LITERAL_RUN;
    } else if (state === STATE_LITERAL_RUN) {
      copyThenLiterals((next() << 2) + (op >> 2) + 2049, 3, op & 3);
    } else {
      copyThenLiterals((next() << 2) + (op >> 2) + 1, 2, op & 3);
    }
  }
  if (to !== output.length) throw new Error("a block is cut off");
}
