/**
 * Kernel images: finds out what a file is, puts it and what belongs to it into guest memory, and says in which state
 * the first vCPU enters it.
 *
 *   bzImage     bzimage.ts    Linux's boot protocol; the kernel inside is unpacked here
 *   ELF         vmlinux.ts    with a PVH note (pvh.ts), otherwise as a Linux vmlinux
 *   multiboot   multiboot.ts  32-bit ELF, or anything with the header's address fields
 */
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import type { GuestMemory } from "../memory/guest-memory.js";
import { BootError, formatSize } from "./boot-error.js";
import { isBzImage, loadBzImage } from "./bzimage.js";
import type { E820Entry } from "./e820.js";
import { isElf, parseElf } from "./elf.js";
import type { EntryState } from "./entry-state.js";
import type { Initrd } from "./linux-params.js";
import { findMultibootHeader, loadMultiboot } from "./multiboot.js";
import { compressionOf } from "./payload.js";
import { Placement } from "./placement.js";
import { loadPvh, pvhEntry } from "./pvh.js";
import { loadVmlinux } from "./vmlinux.js";

export type KernelFormat = "bzImage" | "vmlinux" | "PVH" | "multiboot";

/** How a bzImage is entered: the kernel inside, unpacked by us; or the image's own 64-bit or 32-bit entry point. */
export type BzImageEntry = "kernel" | "64-bit" | "32-bit";

export interface LoadOptions {
  kernelPath: string;
  kernel: Uint8Array;
  initrdPath?: string;
  initrd?: Uint8Array;
  commandLine: string;
  /** Guest-physical address of the ACPI RSDP, or 0. */
  rsdp: number;
  e820: readonly E820Entry[];
  /** For a bzImage; default: the first of the three that the image has. */
  entry?: BzImageEntry;
}

/** What loaders are given: `LoadOptions` and where things are put. */
export interface LoadContext {
  readonly memory: GuestMemory;
  readonly placement: Placement;
  /** The kernel's path, for messages. */
  readonly name: string;
  readonly kernel: Uint8Array;
  readonly initrd: Initrd | undefined;
  readonly commandLine: string;
  readonly rsdp: number;
  readonly e820: readonly E820Entry[];
  readonly entry: BzImageEntry | undefined;
}

/** The state in which the first vCPU starts; everything it needs is in guest memory. */
export interface BootState extends EntryState {
  format: KernelFormat;
  /** One line for the log: what was loaded where. */
  description: string;
}

/** Loads a kernel into `memory`. Throws `BootError`, one line that names the file and what is wrong with it. */
export async function loadKernel(memory: GuestMemory, options: LoadOptions): Promise<BootState> {
  const { kernelPath: name, kernel, initrd } = options;
  const context: LoadContext = {
    memory,
    placement: new Placement(memory, options.e820),
    name,
    kernel,
    initrd: initrd && { path: options.initrdPath ?? "initrd", bytes: initrd },
    commandLine: options.commandLine,
    rsdp: options.rsdp,
    e820: options.e820,
    entry: options.entry,
  };
  if (isBzImage(kernel)) return loadBzImage(context);
  const multiboot = findMultibootHeader(kernel);
  if (multiboot?.addresses !== undefined) return loadMultiboot(context, multiboot);
  if (isElf(kernel)) {
    const image = parseElf(kernel, name);
    if (multiboot !== undefined && image.bits === 32) return loadMultiboot(context, multiboot, image);
    const entry = pvhEntry(image, name);
    return entry === undefined ? loadVmlinux(context, image) : loadPvh(context, image, entry);
  }
  throw new BootError(`${name}: ${describeForeign(kernel)}`);
}

/** Signatures of files that are taken for kernels by mistake: offset, bytes, what it is. */
const FOREIGN: readonly (readonly [offset: number, bytes: string, what: string])[] = [
  [56, "ARM\x64", "an Arm64 kernel image, not an x86 kernel"],
  [56, "RSC\x05", "a RISC-V kernel image, not an x86 kernel"],
  [0x24, "\x18\x28\x6f\x01", "an Arm kernel image, not an x86 kernel"],
  [0, "\x27\x05\x19\x56", "a U-Boot image, not an x86 kernel"],
  [0, "MZ", "a PE (EFI or Windows) program without a Linux setup header"],
  [0, "070701", "a cpio archive, perhaps an initrd, not a kernel"],
  [0, "!<arch>\n", "an archive, perhaps a Debian package, not a kernel"],
];

function describeForeign(file: Uint8Array): string {
  if (file.length === 0) return "the file is empty";
  for (const [offset, bytes, what] of FOREIGN) {
    const found = Buffer.from(file.subarray(offset, offset + bytes.length)).toString("latin1");
    if (found === bytes) return what;
  }
  const compression = compressionOf(file);
  if (compression !== undefined)
    return `a file compressed with ${compression}, not a kernel image: unpack it first`;
  return "not a kernel image (bzImage, x86 ELF or multiboot)";
}

/** Larger files are no kernels or initrds, and Node reads no more than 2 GiB at once. */
const FILE_SIZE_LIMIT = 2 ** 31 - 1;

/** What to say instead of "ENOENT: no such file or directory, open …". */
const FILE_ERRORS: Readonly<Record<string, string>> = {
  ENOENT: "no such file",
  EACCES: "permission denied",
  EISDIR: "is a directory",
  ENOTDIR: "no such file",
};

/** Reads a kernel or an initrd; `what` is which, for messages. Throws `BootError`. */
export async function readImageFile(path: string, what: "kernel" | "initrd"): Promise<Uint8Array> {
  if (path === "") throw new BootError(`${what}: its file name is empty`);
  try {
    // O_NONBLOCK: to open a pipe would wait for its writer.
    const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const status = await handle.stat();
      if (status.isDirectory()) throw new BootError(`${what} ${path}: is a directory`);
      // A device may never end.
      if (!status.isFile()) throw new BootError(`${what} ${path}: is not a regular file`);
      if (status.size > FILE_SIZE_LIMIT) {
        throw new BootError(`${what} ${path}: ${formatSize(status.size)} is too large`);
      }
      return await handle.readFile();
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (error instanceof BootError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    throw new BootError(`${what} ${path}: ${(code && FILE_ERRORS[code]) ?? message}`);
  }
}
