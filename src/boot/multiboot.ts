/**
 * Multiboot images: 32-bit ELF files, or files of any format with the header's address fields.
 *
 * Document: Multiboot Specification 0.6.96; sections are named where they matter.
 */
import { gpa } from "../memory/guest-memory.js";
import { BootError, formatSize } from "./boot-error.js";
import { E820Type } from "./e820.js";
import { type ElfImage, elfExtent, loadElf, physicalEntry } from "./elf.js";
import { allocate, protectedModeEntry } from "./entry-state.js";
import type { BootState, LoadContext } from "./kernel-image.js";
import { loadInitrd, writeCommandLine } from "./linux-params.js";

/** 3.1: the header is within the first 8192 bytes, at a multiple of four. */
const SEARCH_LIMIT = 8192;
const HEADER_SIZE = 12;
const HEADER_SIZE_WITH_ADDRESSES = 32;
const HEADER_MAGIC = 0x1badb002;
/** 3.2: in EAX at entry. */
const LOADER_MAGIC = 0x2badb002n;

/** 3.1.2: bits 0–15 of the flags are demands; of them this loader meets page alignment and memory information. */
const FLAG_MODULES_PAGE_ALIGNED = 1 << 0;
const FLAG_MEMORY_INFORMATION = 1 << 1;
const REQUIREMENTS = 0xffff;
const FLAG_ADDRESSES = 1 << 16;

/** 3.3: flags of the boot information. */
const INFO_MEMORY = 1 << 0;
const INFO_COMMAND_LINE = 1 << 2;
const INFO_MODULES = 1 << 3;
const INFO_MEMORY_MAP = 1 << 6;
const INFO_LOADER_NAME = 1 << 9;
/** Up to and with the framebuffer's fields, which stay zero. */
const INFO_SIZE = 116;
const MODULE_SIZE = 16;
/** An entry's `size` field does not count itself. */
const MMAP_ENTRY_SIZE = 24;
const MMAP_ENTRY_COUNTED = 20;

const LOADER_NAME = "nlkt";
/** The specification has no limit; this is what fits into low memory with room to spare. */
const STRING_LIMIT = 65535;
const ADDRESS_MAX = 0xffffffff;
const LOWER_MEMORY_LIMIT = 0xa0000;
const UPPER_MEMORY_START = 0x100000;

/** 3.1.3, the address fields, all physical. */
export interface MultibootAddresses {
  header: number;
  load: number;
  loadEnd: number;
  bssEnd: number;
  entry: number;
}

export interface MultibootHeader {
  /** Where in the file it is. */
  offset: number;
  flags: number;
  addresses?: MultibootAddresses;
}

/** The multiboot header of a file, or undefined where it has none. */
export function findMultibootHeader(file: Uint8Array): MultibootHeader | undefined {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const limit = Math.min(file.length, SEARCH_LIMIT);
  for (let offset = 0; offset + HEADER_SIZE <= limit; offset += 4) {
    const u32 = (field: number) => view.getUint32(offset + field, true);
    if (u32(0) !== HEADER_MAGIC) continue;
    const flags = u32(4);
    if ((HEADER_MAGIC + flags + u32(8)) >>> 0 !== 0) continue;
    if ((flags & FLAG_ADDRESSES) === 0) return { offset, flags };
    if (offset + HEADER_SIZE_WITH_ADDRESSES > file.length) continue;
    const addresses = { header: u32(12), load: u32(16), loadEnd: u32(20), bssEnd: u32(24), entry: u32(28) };
    return { offset, flags, addresses };
  }
  return undefined;
}

/** Loads a multiboot kernel: by the header's address fields, otherwise as `elf`. Throws `BootError`. */
export function loadMultiboot(context: LoadContext, header: MultibootHeader, elf?: ElfImage): BootState {
  const { memory, placement, name } = context;
  const unmet = header.flags & REQUIREMENTS & ~(FLAG_MODULES_PAGE_ALIGNED | FLAG_MEMORY_INFORMATION);
  if (unmet !== 0) {
    throw new BootError(
      `${name}: this multiboot kernel demands what NLKT does not have (flags 0x${unmet.toString(16)})`,
    );
  }
  const loaded =
    header.addresses !== undefined
      ? loadFlat(context, header.offset, header.addresses)
      : loadAsElf(context, elf!);
  const info = BigInt(writeInformation(context));
  const regs = { rip: BigInt(loaded.entry), rax: LOADER_MAGIC, rbx: info };
  return {
    ...protectedModeEntry(memory, placement, regs),
    format: "multiboot",
    description:
      `multiboot kernel of ${formatSize(loaded.end - loaded.start)} at 0x${loaded.start.toString(16)}, ` +
      `entry 0x${loaded.entry.toString(16)}`,
  };
}

interface Loaded {
  start: number;
  end: number;
  entry: number;
}

function loadAsElf(context: LoadContext, elf: ElfImage): Loaded {
  const entry = physicalEntry(elf);
  if (entry === undefined) throw new BootError(`${context.name}: the entry point is outside of the kernel`);
  loadElf(elf, context.memory, context.placement, context.name);
  return { ...elfExtent(elf), entry };
}

/** 3.1.3: which part of the file goes where. */
function loadFlat(context: LoadContext, offset: number, addresses: MultibootAddresses): Loaded {
  const { kernel: file, memory, placement, name } = context;
  const broken = (what: string) => new BootError(`${name}: broken multiboot header: ${what}`);
  const { header, load, bssEnd, entry } = addresses;
  if (load > header) throw broken("the load address is above the header's");
  const from = offset - (header - load);
  if (from < 0) throw broken("the load address is before the file's first byte");
  const loadEnd = addresses.loadEnd === 0 ? load + file.length - from : addresses.loadEnd;
  if (loadEnd < load) throw broken("the load end is below the load address");
  if (from + loadEnd - load > file.length) throw broken("the load end is past the end of the file");
  const end = bssEnd === 0 ? loadEnd : bssEnd;
  if (end < loadEnd) throw broken("the end of the bss is below the load end");
  if (entry < load || entry >= end) throw broken("the entry point is outside of the kernel");
  if (!placement.take(load, end - load)) {
    throw new BootError(`${name}: ${placement.whyNot(load, end - load)}`);
  }
  memory.write(gpa(load), file.subarray(from, from + loadEnd - load));
  memory.fill(gpa(loadEnd), end - loadEnd);
  return { start: load, end, entry };
}

/** 3.3: writes the boot information and what it points to; returns its address. */
function writeInformation(context: LoadContext): number {
  const { memory, placement, name, initrd, e820 } = context;
  const string = (text: string) => writeCommandLine(memory, placement, text, STRING_LIMIT);
  const info = Buffer.alloc(INFO_SIZE);
  let flags = INFO_MEMORY | INFO_COMMAND_LINE | INFO_MEMORY_MAP | INFO_LOADER_NAME;

  // KiB of RAM from address 0, and from 1 MiB to the first hole.
  const ramFrom = (start: number) =>
    e820.find((range) => range.type === E820Type.RAM && range.address === start);
  const lower = Math.min(ramFrom(0)?.size ?? 0, LOWER_MEMORY_LIMIT);
  info.writeUInt32LE(lower >>> 10, 4);
  info.writeUInt32LE(Math.floor((ramFrom(UPPER_MEMORY_START)?.size ?? 0) / 1024), 8);
  // As GRUB and QEMU have it, the first word is the kernel's own name.
  info.writeUInt32LE(string(`${name} ${context.commandLine}`.trimEnd()), 16);

  const module = loadInitrd(memory, placement, initrd, ADDRESS_MAX);
  if (module !== undefined) {
    flags |= INFO_MODULES;
    const list = Buffer.alloc(MODULE_SIZE);
    list.writeUInt32LE(module.address, 0);
    list.writeUInt32LE(module.address + module.size, 4);
    list.writeUInt32LE(string(initrd?.path ?? ""), 8);
    const at = allocate(placement, MODULE_SIZE, 4);
    memory.write(gpa(at), list);
    info.writeUInt32LE(1, 20);
    info.writeUInt32LE(at, 24);
  }

  const map = Buffer.alloc(e820.length * MMAP_ENTRY_SIZE);
  e820.forEach((range, index) => {
    const at = index * MMAP_ENTRY_SIZE;
    map.writeUInt32LE(MMAP_ENTRY_COUNTED, at);
    map.writeBigUInt64LE(BigInt(range.address), at + 4);
    map.writeBigUInt64LE(BigInt(range.size), at + 12);
    map.writeUInt32LE(range.type, at + 20);
  });
  const mapAt = allocate(placement, map.length, 4);
  memory.write(gpa(mapAt), map);
  info.writeUInt32LE(map.length, 44);
  info.writeUInt32LE(mapAt, 48);

  info.writeUInt32LE(string(LOADER_NAME), 64);
  info.writeUInt32LE(flags, 0);
  const address = allocate(placement, INFO_SIZE, 8);
  memory.write(gpa(address), info);
  return address;
}
