/**
 * ELF executables as kernels come in: 32-bit and 64-bit x86, loaded at the physical addresses of their segments.
 *
 * Document: System V ABI, generic, chapters 4 ("Object Files") and 5 ("Program Loading"). Every offset and size in the
 * file is checked against the file; whether a segment fits into guest memory is `loadElf`'s to check.
 */
import { type GuestMemory, gpa } from "../memory/guest-memory.js";
import { BootError } from "./boot-error.js";
import type { Placement } from "./placement.js";

const EI_CLASS = 4;
const EI_DATA = 5;
const ELFCLASS32 = 1;
const ELFCLASS64 = 2;
const ELFDATA2LSB = 1;
const ET_EXEC = 2;
const ET_DYN = 3;
const EM_386 = 3;
const EM_X86_64 = 62;
const PT_LOAD = 1;
const PT_INTERP = 3;
const PT_NOTE = 4;

/** Machines whose kernels people may have at hand (the gABI's registry of e_machine). */
const MACHINES: Readonly<Record<number, string>> = {
  2: "SPARC",
  8: "MIPS",
  20: "PowerPC",
  21: "64-bit PowerPC",
  22: "S/390",
  40: "Arm",
  43: "64-bit SPARC",
  50: "Itanium",
  183: "Arm64",
  243: "RISC-V",
  258: "LoongArch",
};

const EHDR_SIZE = { 32: 52, 64: 64 } as const;
const PHDR_SIZE = { 32: 32, 64: 56 } as const;
const NOTE_HEADER_SIZE = 12;
/** Kernels have under 4 KiB of notes; more are not looked at. */
const NOTES_LIMIT = 65536;

/** Kernels have fewer than ten; each costs a search through the others. */
const SEGMENTS_LIMIT = 128;
/** A larger distance between segments is no alignment. */
const GAP_LIMIT = 4 * 2 ** 20;

/** A PT_LOAD segment. */
export interface ElfSegment {
  readonly physical: number;
  readonly virtual: bigint;
  /** Bytes in memory; those past the end of `data` are zero. */
  readonly size: number;
  readonly data: Uint8Array;
}

export interface ElfNote {
  readonly name: string;
  readonly type: number;
  readonly data: Uint8Array;
}

export interface ElfImage {
  readonly bits: 32 | 64;
  /** As the header has it: physical in a Linux kernel, virtual in some others. */
  readonly entry: bigint;
  readonly segments: readonly ElfSegment[];
  readonly notes: readonly ElfNote[];
  /** Whether it names a dynamic linker, as programs do. */
  readonly hasInterpreter: boolean;
}

export function isElf(file: Uint8Array): boolean {
  return file.length >= 4 && file[0] === 0x7f && file[1] === 0x45 && file[2] === 0x4c && file[3] === 0x46;
}

/** Parses the headers of an x86 executable; `name` is the file's, for messages. Throws `BootError`. */
export function parseElf(file: Uint8Array, name: string): ElfImage {
  const broken = (what: string) => new BootError(`${name}: broken ELF file: ${what}`);
  if (file.length < EHDR_SIZE[32]) throw broken("the header is cut off");
  const bits = file[EI_CLASS] === ELFCLASS32 ? 32 : file[EI_CLASS] === ELFCLASS64 ? 64 : undefined;
  if (bits === undefined) throw broken("neither 32-bit nor 64-bit");
  if (file.length < EHDR_SIZE[bits]) throw broken("the header is cut off");
  if (file[EI_DATA] !== ELFDATA2LSB) throw new BootError(`${name}: a big-endian ELF file, not an x86 kernel`);
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const u16 = (at: number) => view.getUint16(at, true);
  const u32 = (at: number) => view.getUint32(at, true);
  /** A field that is 4 bytes wide in a 32-bit file and 8 in a 64-bit one. */
  const wide = (at: number) => (bits === 64 ? view.getBigUint64(at, true) : BigInt(u32(at)));

  const type = u16(16);
  const machine = u16(18);
  if (machine !== EM_386 && machine !== EM_X86_64) {
    const known = MACHINES[machine] ?? `machine number ${machine}`;
    throw new BootError(`${name}: an ELF file for ${known}, not an x86 kernel`);
  }
  if (type !== ET_EXEC && type !== ET_DYN) {
    throw new BootError(`${name}: an ELF file, but no executable (type ${type})`);
  }
  const entry = wide(24);
  const tableOffset = Number(wide(bits === 64 ? 32 : 28));
  const entrySize = u16(bits === 64 ? 54 : 42);
  const count = u16(bits === 64 ? 56 : 44);
  if (count === 0) throw broken("no program headers");
  if (entrySize < PHDR_SIZE[bits]) throw broken(`program headers of ${entrySize} bytes`);
  if (tableOffset + count * entrySize > file.length) throw broken("the program headers are cut off");

  const segments: ElfSegment[] = [];
  const notes: ElfNote[] = [];
  let noteBytes = 0;
  let hasInterpreter = false;
  for (let index = 0; index < count; index++) {
    const at = tableOffset + index * entrySize;
    const kind = u32(at);
    if (kind === PT_INTERP) hasInterpreter = true;
    if (kind !== PT_LOAD && kind !== PT_NOTE) continue;
    const [offset, virtual, physical, fileSize, memorySize] = (
      bits === 64 ? [8, 16, 24, 32, 40] : [4, 8, 12, 16, 20]
    ).map((field) => wide(at + field));
    if (offset + fileSize > BigInt(file.length)) throw broken(`segment ${index} is cut off`);
    const data = file.subarray(Number(offset), Number(offset + fileSize));
    if (kind === PT_NOTE) {
      noteBytes += data.length;
      if (noteBytes <= NOTES_LIMIT) notes.push(...parseNotes(data));
      continue;
    }
    if (memorySize < fileSize) throw broken(`segment ${index} is larger in the file than in memory`);
    if (physical + memorySize > BigInt(Number.MAX_SAFE_INTEGER)) {
      throw broken(`segment ${index} ends past the physical address space`);
    }
    if (memorySize > 0n) {
      if (segments.length >= SEGMENTS_LIMIT) throw broken(`more than ${SEGMENTS_LIMIT} segments to load`);
      segments.push({ physical: Number(physical), virtual, size: Number(memorySize), data });
    }
  }
  if (segments.length === 0) throw broken("nothing to load");
  return { bits, entry, segments, notes, hasInterpreter };
}

function parseNotes(data: Uint8Array): ElfNote[] {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const notes: ElfNote[] = [];
  let at = 0;
  while (at + NOTE_HEADER_SIZE <= data.length) {
    const nameSize = view.getUint32(at, true);
    const dataSize = view.getUint32(at + 4, true);
    const type = view.getUint32(at + 8, true);
    const nameAt = at + NOTE_HEADER_SIZE;
    const dataAt = nameAt + align4(nameSize);
    const end = dataAt + dataSize;
    if (end > data.length) break;
    const name = Buffer.from(data.subarray(nameAt, nameAt + nameSize))
      .toString("latin1")
      .replace(/\0$/, "");
    notes.push({ name, type, data: data.subarray(dataAt, end) });
    at = dataAt + align4(dataSize);
  }
  return notes;
}

function align4(size: number): number {
  return Math.ceil(size / 4) * 4;
}

/** Lowest address and end of what `loadElf` will write. */
export function elfExtent(image: ElfImage): { start: number; end: number } {
  return {
    start: image.segments.reduce(
      (least, segment) => Math.min(least, segment.physical),
      Number.MAX_SAFE_INTEGER,
    ),
    end: image.segments.reduce((most, segment) => Math.max(most, segment.physical + segment.size), 0),
  };
}

/**
 * Copies the segments into guest memory. Throws `BootError` where one is outside of RAM or on top of another.
 */
export function loadElf(image: ElfImage, memory: GuestMemory, placement: Placement, name: string): void {
  // All are checked before the first is copied: overlapping ones would otherwise be copied as often as they repeat.
  for (const { physical, size } of image.segments) {
    if (!placement.take(physical, size)) throw new BootError(`${name}: ${placement.whyNot(physical, size)}`);
  }
  takeGaps(image, placement);
  for (const { physical, size, data } of image.segments) {
    memory.write(gpa(physical), data);
    memory.fill(gpa(physical + data.length), size - data.length);
  }
}

/**
 * Takes what lies between the segments. Linux counts these gaps, which align its segments to large pages, as its own
 * and frees or reuses them.
 */
function takeGaps(image: ElfImage, placement: Placement): void {
  const segments = [...image.segments].sort((a, b) => a.physical - b.physical);
  for (let index = 1; index < segments.length; index++) {
    const end = segments[index - 1].physical + segments[index - 1].size;
    const gap = segments[index].physical - end;
    if (gap < GAP_LIMIT) placement.take(end, gap);
  }
}

/** The physical address of the entry point, whether the header names it physically or virtually, or undefined. */
export function physicalEntry(image: ElfImage): number | undefined {
  const { entry } = image;
  for (const { physical, size } of image.segments) {
    if (entry >= BigInt(physical) && entry < BigInt(physical + size)) return Number(entry);
  }
  for (const { physical, virtual, size } of image.segments) {
    if (entry >= virtual && entry < virtual + BigInt(size)) return physical + Number(entry - virtual);
  }
  return undefined;
}
