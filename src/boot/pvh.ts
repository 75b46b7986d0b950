/**
 * Kernels with a PVH entry point: ELF files with the note XEN_ELFNOTE_PHYS32_ENTRY, entered in 32-bit protected mode
 * with EBX pointing at a `struct hvm_start_info`.
 *
 * Documents: Xen, docs/misc/pvh.pandoc ("x86/HVM direct boot ABI"), xen/include/public/arch-x86/hvm/start_info.h and
 * public/elfnote.h.
 */
import { gpa } from "../memory/guest-memory.js";
import { BootError, formatSize } from "./boot-error.js";
import { type ElfImage, elfExtent, loadElf } from "./elf.js";
import { allocate, protectedModeEntry } from "./entry-state.js";
import type { BootState, LoadContext } from "./kernel-image.js";
import { LINUX_COMMAND_LINE_LIMIT, loadInitrd, writeCommandLine } from "./linux-params.js";

const NOTE_NAME = "Xen";
const XEN_ELFNOTE_PHYS32_ENTRY = 18;

const START_MAGIC = 0x336ec578;
/** Version 1 has the memory map. */
const START_INFO_VERSION = 1;
const START_INFO_SIZE = 56;
const MODULE_SIZE = 32;
const MEMMAP_ENTRY_SIZE = 24;
/** Modules and start info must be below 4 GiB. */
const ADDRESS_MAX = 0xffffffff;

/** The entry point that the image's PVH note names, or undefined where it has none. Throws `BootError`. */
export function pvhEntry(image: ElfImage, name: string): number | undefined {
  const note = image.notes.find((item) => item.name === NOTE_NAME && item.type === XEN_ELFNOTE_PHYS32_ENTRY);
  if (note === undefined) return undefined;
  // Linux makes it as wide as a pointer; the ABI has 32 bits.
  if (note.data.length < 4) throw new BootError(`${name}: broken PVH note`);
  const view = new DataView(note.data.buffer, note.data.byteOffset, note.data.byteLength);
  const entry = view.getUint32(0, true);
  const inside = image.segments.some(({ physical, size }) => entry >= physical && entry < physical + size);
  if (!inside) throw new BootError(`${name}: the PVH entry point is outside of the kernel`);
  return entry;
}

/** Loads a PVH kernel. Throws `BootError`. */
export function loadPvh(context: LoadContext, image: ElfImage, entry: number): BootState {
  const { memory, placement, name, e820 } = context;
  loadElf(image, memory, placement, name);
  const commandLine = writeCommandLine(memory, placement, context.commandLine, LINUX_COMMAND_LINE_LIMIT);
  const initrd = loadInitrd(memory, placement, context.initrd, ADDRESS_MAX);

  const size = START_INFO_SIZE + MODULE_SIZE + e820.length * MEMMAP_ENTRY_SIZE;
  const address = allocate(placement, size, 8);
  const modules = address + START_INFO_SIZE;
  const memmap = modules + MODULE_SIZE;
  const info = Buffer.alloc(size);
  info.writeUInt32LE(START_MAGIC, 0);
  info.writeUInt32LE(START_INFO_VERSION, 4);
  info.writeBigUInt64LE(BigInt(commandLine), 24);
  info.writeBigUInt64LE(BigInt(context.rsdp), 32);
  info.writeBigUInt64LE(BigInt(memmap), 40);
  info.writeUInt32LE(e820.length, 48);
  if (initrd !== undefined) {
    info.writeUInt32LE(1, 12); // nr_modules
    info.writeBigUInt64LE(BigInt(modules), 16);
    info.writeBigUInt64LE(BigInt(initrd.address), START_INFO_SIZE);
    info.writeBigUInt64LE(BigInt(initrd.size), START_INFO_SIZE + 8);
  }
  e820.forEach((range, index) => {
    const at = START_INFO_SIZE + MODULE_SIZE + index * MEMMAP_ENTRY_SIZE;
    info.writeBigUInt64LE(BigInt(range.address), at);
    info.writeBigUInt64LE(BigInt(range.size), at + 8);
    info.writeUInt32LE(range.type, at + 16);
  });
  memory.write(gpa(address), info);

  const { start, end } = elfExtent(image);
  return {
    ...protectedModeEntry(memory, placement, { rip: BigInt(entry), rbx: BigInt(address) }),
    format: "PVH",
    description: `PVH kernel of ${formatSize(end - start)} at 0x${start.toString(16)}, entry 0x${entry.toString(16)}`,
  };
}
