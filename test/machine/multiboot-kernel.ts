/** Kernels of a few instructions: flat multiboot images that are entered in 32-bit protected mode. */
import { writeFileSync } from "node:fs";
import path from "node:path";

/** Multiboot Specification 0.6.96, 3.1.1: bit 16 says that the address fields are valid. */
const MAGIC = 0x1badb002;
const ADDRESS_FIELDS = 0x10000;
export const LOAD_ADDRESS = 0x100000;
export const HEADER_BYTES = 32;

let count = 0;

/** A file in `directory` that is entered at the first of `code`. */
export function multibootKernel(directory: string, code: readonly number[]): string {
  const entry = LOAD_ADDRESS + HEADER_BYTES;
  const end = entry + code.length;
  const checksum = -(MAGIC + ADDRESS_FIELDS);
  const image = Buffer.alloc(HEADER_BYTES + code.length);
  [MAGIC, ADDRESS_FIELDS, checksum, LOAD_ADDRESS, LOAD_ADDRESS, end, end, entry].forEach((field, index) => {
    image.writeUInt32LE(field >>> 0, 4 * index);
  });
  image.set(code, HEADER_BYTES);
  const file = path.join(directory, `kernel-${count++}`);
  writeFileSync(file, image);
  return file;
}
