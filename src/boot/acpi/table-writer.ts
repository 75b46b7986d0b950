/** The frame of ACPI's tables: bytes in order, the common header, checksums. ACPI 6.5, 5.2. */

/** ACPI 6.5, 5.2.6: what starts each table. */
export const HEADER_SIZE = 36;
export const CHECKSUM_OFFSET = 9;

export const OEM_ID = "NLKT";
const OEM_TABLE_ID = "NLKTMACH";
const OEM_REVISION = 1;
const CREATOR_ID = "NLKT";
const CREATOR_REVISION = 1;

/** Generic address structure: address spaces and access sizes (ACPI 6.5, 5.2.3.2). */
export const AddressSpace = { SYSTEM_IO: 1 } as const;
export const AccessWidth = { UNDEFINED: 0, BYTE: 1, WORD: 2, DWORD: 3 } as const;

export interface GenericAddress {
  readonly port: number;
  /** Bytes of the register block. */
  readonly length: number;
  readonly accessWidth: number;
}

/** Appends fields, little-endian, in the order of calls. */
export class TableWriter {
  readonly #bytes: number[] = [];

  get length(): number {
    return this.#bytes.length;
  }

  u8(...values: readonly number[]): this {
    this.#bytes.push(...values);
    return this;
  }

  u16(...values: readonly number[]): this {
    for (const value of values) this.#bytes.push(value & 0xff, (value >>> 8) & 0xff);
    return this;
  }

  u32(...values: readonly number[]): this {
    for (const value of values) this.u16(value & 0xffff, value >>> 16);
    return this;
  }

  u64(...values: readonly number[]): this {
    for (const value of values) this.u32(value >>> 0, Math.floor(value / 2 ** 32));
    return this;
  }

  zeros(count: number): this {
    for (let i = 0; i < count; i++) this.#bytes.push(0);
    return this;
  }

  /** `text` and spaces up to `size` bytes. */
  text(text: string, size: number): this {
    for (const character of text.padEnd(size, " ").slice(0, size)) this.#bytes.push(character.charCodeAt(0));
    return this;
  }

  append(bytes: Uint8Array): this {
    for (const byte of bytes) this.#bytes.push(byte);
    return this;
  }

  /** A register block in the port space; without one, the structure is all zero: not there. */
  genericAddress(block?: GenericAddress): this {
    if (block === undefined) return this.zeros(12);
    return this.u8(AddressSpace.SYSTEM_IO, 8 * block.length, 0, block.accessWidth).u64(block.port);
  }

  bytes(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }
}

/** A whole table: `body` after its header, with length and checksum set. */
export function table(signature: string, revision: number, body: Uint8Array): Uint8Array {
  const bytes = new TableWriter()
    .text(signature, 4)
    .u32(HEADER_SIZE + body.length)
    .u8(revision, 0)
    .text(OEM_ID, 6)
    .text(OEM_TABLE_ID, 8)
    .u32(OEM_REVISION)
    .text(CREATOR_ID, 4)
    .u32(CREATOR_REVISION)
    .append(body)
    .bytes();
  bytes[CHECKSUM_OFFSET] = checksum(bytes);
  return bytes;
}

/** The byte that makes `bytes`, in which its place holds 0, sum to zero modulo 256. */
export function checksum(bytes: Uint8Array): number {
  return -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
}
