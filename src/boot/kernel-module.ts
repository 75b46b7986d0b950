/**
 * Kernel modules as files: unpacked, and what they say of themselves in their section .modinfo
 * (Linux, include/linux/module.h, MODULE_INFO; scripts/mod/modpost.c).
 */
import { promisify } from "node:util";
import * as zlib from "node:zlib";
import { zstdUnpacker } from "../backends/zstd.js";
import { BootError, formatSize } from "./boot-error.js";
import { unpackXz } from "./xz.js";

/** No module is larger. */
const MODULE_LIMIT = 256 * 2 ** 20;

/** A module's file name: its name and how it is compressed (Linux, scripts/Makefile.modinst). */
export const MODULE_FILE = /\.ko(\.xz|\.gz|\.zst)?$/;

const gunzip = promisify(zlib.gunzip);

/** The module in a file, unpacked. `file` is its name, which says how. Throws `BootError`. */
export async function unpackModule(data: Uint8Array, file: string): Promise<Uint8Array> {
  let module: Uint8Array;
  try {
    if (file.endsWith(".xz")) module = await unpackXz(data, MODULE_LIMIT);
    else if (file.endsWith(".gz")) module = await gunzip(data, { maxOutputLength: MODULE_LIMIT });
    else if (file.endsWith(".zst")) module = (await zstdUnpacker())(data, MODULE_LIMIT);
    else module = data;
  } catch (error) {
    throw new BootError(`${file}: broken kernel module: ${(error as Error).message}`);
  }
  if (module.length > MODULE_LIMIT) throw new BootError(`${file}: ${formatSize(module.length)} is too large`);
  return module;
}

/** Of the module, by tag: `depends`, `alias`, `softdep`, `vermagic`, … each in its order. */
export type ModuleInfo = ReadonlyMap<string, readonly string[]>;

/** ELF (System V gABI, 4): what of the headers is needed, for both classes. */
const ELF_CLASS = 4;
const ELFCLASS64 = 2;
const LAYOUTS = {
  32: { shoff: 0x20, shentsize: 0x2e, shnum: 0x30, shstrndx: 0x32, offset: 0x10, size: 0x14 },
  64: { shoff: 0x28, shentsize: 0x3a, shnum: 0x3c, shstrndx: 0x3e, offset: 0x18, size: 0x20 },
} as const;

/** The section .modinfo: strings `tag=value`, each with a NUL at its end. Throws `BootError`. */
export function moduleInfo(module: Uint8Array, file: string): ModuleInfo {
  const section = findSection(module, ".modinfo");
  if (section === undefined) throw new BootError(`${file}: not a kernel module`);
  const info = new Map<string, string[]>();
  for (const text of Buffer.from(section).toString("utf8").split("\0")) {
    const equals = text.indexOf("=");
    if (equals <= 0) continue;
    const tag = text.slice(0, equals);
    const values = info.get(tag);
    if (values === undefined) info.set(tag, [text.slice(equals + 1)]);
    else values.push(text.slice(equals + 1));
  }
  return info;
}

function findSection(elf: Uint8Array, wanted: string): Uint8Array | undefined {
  const view = new DataView(elf.buffer, elf.byteOffset, elf.byteLength);
  if (elf.length < 0x40 || view.getUint32(0) !== 0x7f454c46) return undefined;
  const bits = elf[ELF_CLASS] === ELFCLASS64 ? 64 : 32;
  const layout = LAYOUTS[bits];
  const word = (at: number): number =>
    at + bits / 8 > elf.length
      ? 0
      : bits === 64
        ? Number(view.getBigUint64(at, true))
        : view.getUint32(at, true);
  const table = word(layout.shoff);
  const entrySize = view.getUint16(layout.shentsize, true);
  const count = view.getUint16(layout.shnum, true);
  const section = (index: number): { name: number; bytes: Uint8Array } | undefined => {
    const at = table + index * entrySize;
    if (at + entrySize > elf.length || entrySize < layout.size + bits / 8) return undefined;
    const start = word(at + layout.offset);
    return { name: view.getUint32(at, true), bytes: elf.subarray(start, start + word(at + layout.size)) };
  };
  const names = section(view.getUint16(layout.shstrndx, true))?.bytes;
  if (names === undefined) return undefined;
  const pattern = Buffer.from(`${wanted}\0`);
  for (let index = 0; index < count; index++) {
    const found = section(index);
    if (found === undefined) return undefined;
    if (Buffer.from(names.subarray(found.name, found.name + pattern.length)).equals(pattern))
      return found.bytes;
  }
  return undefined;
}
