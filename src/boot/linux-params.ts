/**
 * What Linux is told at its entry: `struct boot_params` (the "zero page"), the command line and the initrd.
 *
 * Documents: Linux, Documentation/arch/x86/boot.rst and zero-page.rst; arch/x86/include/uapi/asm/bootparam.h.
 */
import { type GuestMemory, gpa } from "../memory/guest-memory.js";
import { BootError, formatSize } from "./boot-error.js";
import type { E820Entry } from "./e820.js";
import { allocate } from "./entry-state.js";
import type { Placement } from "./placement.js";

const BOOT_PARAMS_SIZE = 4096;
const E820_MAX_ENTRIES = 128;
const E820_ENTRY_SIZE = 20;

/** Offsets in `struct boot_params`. */
const Offset = {
  ACPI_RSDP_ADDR: 0x070,
  E820_ENTRIES: 0x1e8,
  SETUP_HEADER: 0x1f1,
  VID_MODE: 0x1fa,
  BOOT_FLAG: 0x1fe,
  HEADER: 0x202,
  VERSION: 0x206,
  TYPE_OF_LOADER: 0x210,
  LOADFLAGS: 0x211,
  CODE32_START: 0x214,
  RAMDISK_IMAGE: 0x218,
  RAMDISK_SIZE: 0x21c,
  CMD_LINE_PTR: 0x228,
  KERNEL_ALIGNMENT: 0x230,
  CMDLINE_SIZE: 0x238,
  SETUP_HEADER_END: 0x290,
  E820_TABLE: 0x2d0,
} as const;

const BOOT_FLAG_MAGIC = 0xaa55;
const HEADER_MAGIC = 0x53726448;
/** The protocol of which a kernel without a setup header is told: 2.12, the first with a 64-bit entry. */
const PROTOCOL_64BIT = 0x020c;
const LOADER_UNDEFINED = 0xff;
const LOADED_HIGH = 1 << 0;
const KASLR_FLAG = 1 << 1;
const VID_MODE_NORMAL = 0xffff;
const KERNEL_ALIGNMENT = 0x200000;

/** Linux's COMMAND_LINE_SIZE on x86 without the final NUL, the limit where no setup header names another. */
export const LINUX_COMMAND_LINE_LIMIT = 2047;
/** The highest address for an initrd where no setup header names another (boot.rst, initrd_addr_max). */
export const LINUX_INITRD_ADDRESS_MAX = 0x7fffffff;

const PAGE_SIZE = 4096;

/** An initrd and the file it was read from. */
export interface Initrd {
  readonly path: string;
  readonly bytes: Uint8Array;
}

export interface PlacedInitrd {
  readonly address: number;
  readonly size: number;
}

/** Puts the initrd as high as it may be, its last byte at or below `addressMax`. Throws `BootError`. */
export function loadInitrd(
  memory: GuestMemory,
  placement: Placement,
  initrd: Initrd | undefined,
  addressMax = LINUX_INITRD_ADDRESS_MAX,
): PlacedInitrd | undefined {
  if (initrd === undefined || initrd.bytes.length === 0) return undefined;
  const { path, bytes } = initrd;
  const address = placement.takeHigh(bytes.length, PAGE_SIZE, PAGE_SIZE, addressMax + 1);
  if (address === undefined) {
    throw new BootError(
      `initrd ${path} (${formatSize(bytes.length)}) does not fit into ${placement.memorySize} beside the kernel`,
    );
  }
  memory.write(gpa(address), bytes);
  return { address, size: bytes.length };
}

/** Puts the command line, NUL-terminated, into low memory. Throws `BootError` where it is longer than `limit` bytes. */
export function writeCommandLine(
  memory: GuestMemory,
  placement: Placement,
  commandLine: string,
  limit: number,
): number {
  const bytes = Buffer.from(`${commandLine}\0`);
  const length = bytes.length - 1;
  if (length > limit) {
    throw new BootError(
      `the kernel command line is ${length} bytes long, but this kernel takes at most ${limit}`,
    );
  }
  if (bytes.indexOf(0) !== length) throw new BootError("the kernel command line contains a NUL character");
  const address = allocate(placement, bytes.length, 16);
  memory.write(gpa(address), bytes);
  return address;
}

export interface BootParams {
  /** The kernel file from offset 0 on, where it is a bzImage; its setup header is handed over. */
  setup?: Uint8Array;
  commandLine: number;
  initrd: PlacedInitrd | undefined;
  rsdp: number;
  e820: readonly E820Entry[];
  /** Where the 32-bit code was loaded, if it was. */
  code32Start?: number;
}

/** Writes `struct boot_params` and returns its address. */
export function writeBootParams(memory: GuestMemory, placement: Placement, params: BootParams): number {
  const page = Buffer.alloc(BOOT_PARAMS_SIZE);
  if (params.setup !== undefined) {
    // The jump instruction at 0x200 leads past the header, so its operand tells where that ends (boot.rst).
    const end = Math.min(Offset.HEADER + params.setup[0x201], Offset.SETUP_HEADER_END);
    page.set(params.setup.subarray(Offset.SETUP_HEADER, end), Offset.SETUP_HEADER);
  } else {
    page.writeUInt16LE(BOOT_FLAG_MAGIC, Offset.BOOT_FLAG);
    page.writeUInt32LE(HEADER_MAGIC, Offset.HEADER);
    page.writeUInt16LE(PROTOCOL_64BIT, Offset.VERSION);
    page.writeUInt32LE(KERNEL_ALIGNMENT, Offset.KERNEL_ALIGNMENT);
    page.writeUInt32LE(LINUX_COMMAND_LINE_LIMIT, Offset.CMDLINE_SIZE);
    page[Offset.LOADFLAGS] = LOADED_HIGH;
  }
  page.writeUInt16LE(VID_MODE_NORMAL, Offset.VID_MODE);
  page[Offset.TYPE_OF_LOADER] = LOADER_UNDEFINED;
  // Set by Linux's own unpacker where it has moved the kernel to a random address; a clear bit keeps the kernel from
  // randomizing its memory layout on the strength of a choice that nobody made.
  page[Offset.LOADFLAGS] &= ~KASLR_FLAG;
  page.writeUInt32LE(params.commandLine, Offset.CMD_LINE_PTR);
  page.writeUInt32LE(params.initrd?.address ?? 0, Offset.RAMDISK_IMAGE);
  page.writeUInt32LE(params.initrd?.size ?? 0, Offset.RAMDISK_SIZE);
  if (params.code32Start !== undefined) page.writeUInt32LE(params.code32Start, Offset.CODE32_START);
  page.writeBigUInt64LE(BigInt(params.rsdp), Offset.ACPI_RSDP_ADDR);
  if (params.e820.length > E820_MAX_ENTRIES) {
    throw new BootError(`${params.e820.length} memory ranges are more than Linux can be told of`);
  }
  page[Offset.E820_ENTRIES] = params.e820.length;
  params.e820.forEach((entry, index) => {
    const at = Offset.E820_TABLE + index * E820_ENTRY_SIZE;
    page.writeBigUInt64LE(BigInt(entry.address), at);
    page.writeBigUInt64LE(BigInt(entry.size), at + 8);
    page.writeUInt32LE(entry.type, at + 16);
  });
  const address = allocate(placement, BOOT_PARAMS_SIZE, PAGE_SIZE);
  memory.write(gpa(address), page);
  return address;
}
