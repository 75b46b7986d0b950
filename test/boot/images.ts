/** Guest memory and kernel images for the tests, made byte by byte from the specifications. */
import { e820Map } from "../../src/boot/e820.js";
import { type BootState, type LoadOptions, loadKernel } from "../../src/boot/kernel-image.js";
import { GuestMemory, gpa, type MemorySlot } from "../../src/memory/guest-memory.js";
import { SharedMemory } from "../../src/memory/shared-memory.js";

const MIB = 2 ** 20;

/** A machine's RAM as NLKT lays it out: a hole for video memory, then all of it below 4 GiB. */
export function makeMemory(mib: number): GuestMemory {
  const size = mib * MIB;
  const slot = (index: number, start: number, end: number): MemorySlot => ({
    slot: index,
    guestPhysical: gpa(start),
    size: end - start,
    offset: start,
    readonly: false,
    logDirty: false,
  });
  return new GuestMemory(SharedMemory.create(size), [slot(0, 0, 0xa0000), slot(1, 0xc0000, size)]);
}

export function load(
  memory: GuestMemory,
  kernel: Uint8Array,
  options: Partial<LoadOptions> = {},
): Promise<BootState> {
  return loadKernel(memory, {
    kernelPath: "kernel",
    kernel,
    commandLine: "console=ttyS0",
    rsdp: 0xe0000,
    e820: e820Map(memory),
    ...options,
  });
}

export interface Segment {
  physical: number;
  virtual?: bigint;
  data: Uint8Array;
  /** Bytes in memory; default: as in the file. */
  size?: number;
}

export interface ElfOptions {
  bits: 32 | 64;
  machine?: number;
  type?: number;
  entry?: bigint;
  segments: Segment[];
  /** Contents of a PT_NOTE segment. */
  notes?: Uint8Array;
  /** Contents of a PT_INTERP segment. */
  interpreter?: Uint8Array;
}

/** An ELF executable; data of segments follows the headers, without alignment. */
export function makeElf(options: ElfOptions): Buffer {
  const { bits, segments, notes, interpreter } = options;
  const wide = bits === 64;
  const headerSize = wide ? 64 : 52;
  const entrySize = wide ? 56 : 32;
  const others = [
    ...(notes ? [{ type: 4, data: notes }] : []),
    ...(interpreter ? [{ type: 3, data: interpreter }] : []),
  ];
  const count = segments.length + others.length;
  const parts: Uint8Array[] = [];
  let at = headerSize + entrySize * count;
  const table = Buffer.alloc(at);
  const put = (value: bigint, offset: number) =>
    wide ? table.writeBigUInt64LE(value, offset) : table.writeUInt32LE(Number(value), offset);
  table.set([0x7f, 0x45, 0x4c, 0x46, wide ? 2 : 1, 1, 1]);
  table.writeUInt16LE(options.type ?? 2, 16);
  table.writeUInt16LE(options.machine ?? (wide ? 62 : 3), 18);
  table.writeUInt32LE(1, 20);
  put(options.entry ?? BigInt(segments[0]?.physical ?? 0), 24);
  put(BigInt(headerSize), wide ? 32 : 28);
  table.writeUInt16LE(headerSize, wide ? 52 : 40);
  table.writeUInt16LE(entrySize, wide ? 54 : 42);
  table.writeUInt16LE(count, wide ? 56 : 44);
  const program = (index: number, type: number, part: Segment) => {
    const base = headerSize + index * entrySize;
    const [offset, virtual, physical, fileSize, memorySize] = wide ? [8, 16, 24, 32, 40] : [4, 8, 12, 16, 20];
    table.writeUInt32LE(type, base);
    put(BigInt(at), base + offset);
    put(part.virtual ?? BigInt(part.physical), base + virtual);
    put(BigInt(part.physical), base + physical);
    put(BigInt(part.data.length), base + fileSize);
    put(BigInt(part.size ?? part.data.length), base + memorySize);
    parts.push(part.data);
    at += part.data.length;
  };
  segments.forEach((segment, index) => {
    program(index, 1, segment);
  });
  others.forEach(({ type, data }, index) => {
    program(segments.length + index, type, { physical: 0, data });
  });
  return Buffer.concat([table, ...parts]);
}

/** An ELF note (gABI, "Note Section"). */
export function makeNote(name: string, type: number, data: Uint8Array): Buffer {
  const nameBytes = Buffer.from(`${name}\0`);
  const pad = (bytes: Uint8Array) => Buffer.concat([bytes, new Uint8Array(-bytes.length & 3)]);
  const header = Buffer.alloc(12);
  header.writeUInt32LE(nameBytes.length, 0);
  header.writeUInt32LE(data.length, 4);
  header.writeUInt32LE(type, 8);
  return Buffer.concat([header, pad(nameBytes), pad(data)]);
}

export interface BzImageOptions {
  payload: Uint8Array;
  version?: number;
  xloadflags?: number;
  loadflags?: number;
  commandLineSize?: number;
  initrdAddressMax?: number;
  initSize?: number;
  preferredAddress?: number;
  relocatable?: number;
}

/** Where in the protected-mode code `makeBzImage` puts the payload. */
export const PAYLOAD_OFFSET = 0x400;

/** A bzImage with four setup sectors (boot.rst, "The Real-Mode Kernel Header"). */
export function makeBzImage(options: BzImageOptions): Buffer {
  const code = Buffer.alloc(Math.ceil((PAYLOAD_OFFSET + options.payload.length) / 16) * 16, 0x90);
  code.set(options.payload, PAYLOAD_OFFSET);
  const setup = Buffer.alloc(5 * 512);
  setup[0x1ef] = 0xff; // the sentinel, not to be copied
  setup[0x1f1] = 4;
  setup.writeUInt32LE(code.length / 16, 0x1f4);
  setup.writeUInt16LE(0xaa55, 0x1fe);
  setup.set([0xeb, 0x6a], 0x200);
  setup.write("HdrS", 0x202, "latin1");
  setup.writeUInt16LE(options.version ?? 0x020f, 0x206);
  setup[0x211] = options.loadflags ?? 0x03;
  setup.writeUInt32LE(0x100000, 0x214);
  setup.writeUInt32LE(options.initrdAddressMax ?? 0x7fffffff, 0x22c);
  setup.writeUInt32LE(0x200000, 0x230);
  setup[0x234] = options.relocatable ?? 1;
  setup[0x235] = 21;
  setup.writeUInt16LE(options.xloadflags ?? 0x7f, 0x236);
  setup.writeUInt32LE(options.commandLineSize ?? 2047, 0x238);
  setup.writeUInt32LE(PAYLOAD_OFFSET, 0x248);
  setup.writeUInt32LE(options.payload.length, 0x24c);
  setup.writeBigUInt64LE(BigInt(options.preferredAddress ?? 0x1000000), 0x258);
  setup.writeUInt32LE(options.initSize ?? 0x200000, 0x260);
  return Buffer.concat([setup, code]);
}

export interface MultibootOptions {
  flags: number;
  /** header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr. */
  addresses?: readonly number[];
}

/** A multiboot header (Multiboot 0.6.96, 3.1.1). */
export function makeMultibootHeader({ flags, addresses = [] }: MultibootOptions): Buffer {
  const magic = 0x1badb002;
  const words = [magic, flags, -(magic + flags) >>> 0, ...addresses];
  const header = Buffer.alloc(words.length * 4);
  words.forEach((word, index) => {
    header.writeUInt32LE(word, index * 4);
  });
  return header;
}

/** A small generator of pseudo-random numbers (mulberry32): 32 bits from a seed. */
export function random(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  };
}

/** Bytes that compress, but not to nothing; with branches for the x86 filter. */
export function codeLike(length: number, seed: number): Buffer {
  const next = random(seed);
  const data = Buffer.alloc(length);
  for (let at = 0; at < length; ) {
    const kind = next() % 4;
    const count = Math.min(length - at, 1 + (next() % 12));
    if (kind === 0 && length - at >= 5) {
      data[at] = next() % 2 ? 0xe8 : 0xe9;
      // Near targets, forwards and backwards, so that the operand's highest byte is 00 or FF.
      data.writeInt32LE((next() % 65536) - 32768, at + 1);
      at += 5;
    } else {
      data.fill(kind === 1 ? 0 : next() & 0xff, at, at + count);
      at += count;
    }
  }
  return data;
}
