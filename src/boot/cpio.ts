/**
 * A writer of cpio archives in the "newc" format that Linux unpacks as its initramfs.
 *
 * Format: Linux, Documentation/driver-api/early-userspace/buffer-format.rst; file types: POSIX <cpio.h>.
 */
import { gzipSync } from "node:zlib";
import { BootError } from "./boot-error.js";

const MAGIC = "070701";
const HEADER_SIZE = 110;
const TRAILER = "TRAILER!!!";
/** Linux refuses longer names (PATH_MAX, the final NUL counted: init/initramfs.c, do_header). */
const NAME_LIMIT = 4096;
/** c_filesize has eight hexadecimal digits. */
const FILE_LIMIT = 0xffffffff;

/** The file type bits of c_mode. */
const FileType = {
  DIRECTORY: 0o040000,
  CHARACTER_DEVICE: 0o020000,
  BLOCK_DEVICE: 0o060000,
  REGULAR: 0o100000,
  SYMLINK: 0o120000,
} as const;

const MODE_BITS = 0o7777;

interface Entry {
  name: string;
  mode: number;
  data: Uint8Array;
  links: number;
  major: number;
  minor: number;
}

/**
 * Collects entries and makes the archive of them. Names are relative to the root, with or without a leading slash;
 * directories that are missing on the way to an entry are added with mode 0755. Owner is root and times are zero, so
 * the same entries make the same bytes.
 */
export class CpioArchive {
  readonly #entries = new Map<string, Entry>();

  file(name: string, data: Uint8Array | string, mode = 0o644): this {
    return this.#add(name, FileType.REGULAR, mode, typeof data === "string" ? Buffer.from(data) : data);
  }

  directory(name: string, mode = 0o755): this {
    return this.#add(name, FileType.DIRECTORY, mode, new Uint8Array());
  }

  symlink(name: string, target: string): this {
    return this.#add(name, FileType.SYMLINK, 0o777, Buffer.from(target));
  }

  /** A device node; Linux gives majors 12 bits and minors 20. */
  device(name: string, type: "character" | "block", major: number, minor: number, mode = 0o600): this {
    const bits = type === "character" ? FileType.CHARACTER_DEVICE : FileType.BLOCK_DEVICE;
    return this.#add(name, bits, mode, new Uint8Array(), major, minor);
  }

  #add(path: string, type: number, mode: number, data: Uint8Array, major = 0, minor = 0): this {
    const name = path.split("/").filter((part) => part !== "" && part !== ".");
    if (name.length === 0 || name.includes("..") || path.includes("\0")) {
      throw new BootError(`initramfs: not a usable file name: ${JSON.stringify(path)}`);
    }
    const key = name.join("/");
    if (Buffer.byteLength(key) + 1 > NAME_LIMIT) throw new BootError(`initramfs: name too long: ${key}`);
    if (data.length > FILE_LIMIT) throw new BootError(`initramfs: ${key} is too large for a cpio archive`);
    const parent = name.slice(0, -1).join("/");
    if (parent !== "" && !this.#entries.has(parent)) this.directory(parent);
    // The first link count of a directory is of no use to Linux; 2 is what find | cpio writes for an empty one.
    const links = type === FileType.DIRECTORY ? 2 : 1;
    this.#entries.set(key, { name: key, mode: type | (mode & MODE_BITS), data, links, major, minor });
    return this;
  }

  /** The archive's bytes, a multiple of four, so that another archive can follow. */
  toBytes(): Uint8Array {
    const trailer = { name: TRAILER, mode: 0, data: new Uint8Array(), links: 1, major: 0, minor: 0 };
    const parts: Uint8Array[] = [];
    // Hard links are found by equal inode numbers, so every entry gets one of its own.
    let inode = 1;
    for (const entry of this.#entries.values()) parts.push(...encode(entry, inode++));
    parts.push(...encode(trailer, 0));
    return Buffer.concat(parts);
  }

  /** The archive compressed with gzip, with a zero time stamp. */
  toGzip(): Uint8Array {
    return gzipSync(this.toBytes());
  }
}

function encode(entry: Entry, inode: number): Uint8Array[] {
  const name = Buffer.from(`${entry.name}\0`);
  const fields = [
    inode,
    entry.mode,
    0, // c_uid
    0, // c_gid
    entry.links,
    0, // c_mtime
    entry.data.length,
    0, // c_maj
    0, // c_min
    entry.major,
    entry.minor,
    name.length,
    0, // c_chksum, used by the "crc" variant only
  ];
  const header = MAGIC + fields.map((field) => field.toString(16).toUpperCase().padStart(8, "0")).join("");
  return [
    Buffer.from(header),
    name,
    padding(HEADER_SIZE + name.length),
    entry.data,
    padding(entry.data.length),
  ];
}

function padding(length: number): Uint8Array {
  return new Uint8Array(-length & 3);
}

/**
 * Several archives, plain or compressed, as one initramfs image. Linux unpacks them in order, later entries replacing
 * earlier ones, and wants each to start at a multiple of four; zero bytes between them are skipped (buffer-format.rst).
 */
export function concatArchives(archives: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(archives.flatMap((archive) => [archive, padding(archive.length)]));
}
