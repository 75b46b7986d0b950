/**
 * From a disk's description to the disk: formats, backing files, overlays.
 *
 * A backing file is opened for reading only, whatever it is.
 */
import { accessSync, constants, existsSync, linkSync, renameSync, rmSync, statSync } from "node:fs";
import path from "node:path";
import { DiskError, type ImageDisk } from "./disk.js";
import { HostFile } from "./host-file.js";
import { repairDirty } from "./qcow2/check.js";
import { createQcow2 } from "./qcow2/create.js";
import { isQcow2, type Qcow2Header, readHeader } from "./qcow2/header.js";
import { Qcow2Disk } from "./qcow2/qcow2-disk.js";
import { findSnapshot } from "./qcow2/snapshots.js";
import { RawDisk } from "./raw.js";

export const DISK_FORMATS = ["raw", "qcow2"] as const;
export type DiskFormat = (typeof DISK_FORMATS)[number];

/** An overlay that is kept from one opening of its disk to the next, in one process: a `HostFile.temporary()`. */
export interface TemporaryOverlay {
  readonly descriptor: number;
}

/** A plain object that can be posted to a Worker. */
export interface DiskSpec {
  readonly file: string;
  readonly readOnly?: boolean;
  /** The file stays untouched: writes go to a temporary overlay, or to the qcow2 overlay of this name. */
  readonly cow?: true | TemporaryOverlay | { readonly file: string };
  /** Found out from the file's first bytes where it is left out. */
  readonly format?: DiskFormat;
  /** Id or name of an internal snapshot, which is shown instead; read-only. */
  readonly snapshot?: string;
  /** Default true. Without locks what is read may be changing (for `nlkt image info`). */
  readonly lock?: boolean;
}

/** Images of a chain, the first included. */
const MAX_CHAIN = 64;

/** Formats that are no raw images, by their first bytes: offset, bytes, name. */
const FOREIGN: readonly (readonly [offset: number, bytes: string, what: string])[] = [
  [0, "QFI\xfb\x00\x00\x00\x01", "a qcow (version 1) image"],
  [0, "QED\0", "a QED image"],
  [0, "KDMV", "a VMDK image"],
  [0, "# Disk DescriptorFile", "a VMDK image"],
  [0, "vhdxfile", "a VHDX image"],
  [0, "conectix", "a VHD image"],
  [64, "\x7f\x10\xda\xbe", "a VDI image"],
  [0, "WithoutFreeSpace", "a Parallels image"],
  [0, "WithouFreSpacExt", "a Parallels image"],
  [0, "LUKS\xba\xbe", "a LUKS container"],
];

/** The format of a file, by its first bytes. Throws `DiskError` for the formats of others, which are no raw disks. */
export function detectFormat(file: HostFile): DiskFormat {
  const start = new Uint8Array(512);
  file.read(0, start);
  for (const [offset, bytes, what] of FOREIGN) {
    if (Buffer.from(start.subarray(offset, offset + bytes.length)).toString("latin1") === bytes) {
      throw new DiskError(`${file.path}: ${what}, which is not supported: convert it, or say format=raw`);
    }
  }
  return isQcow2(start) ? "qcow2" : "raw";
}

/**
 * Where the backing file of the image `overlay` is: `name` is as the image has it. Names are of files, relative to the
 * overlay's directory; QEMU's `protocol:` and `json:` names are refused. Throws `DiskError`.
 */
export function resolveBacking(overlay: string, name: string): string {
  // As QEMU: a colon before the first slash makes it a protocol.
  if (/^[^/]*:/.test(name)) {
    if (name.startsWith("file:")) return resolveBacking(overlay, name.slice("file:".length));
    throw new DiskError(
      `${overlay}: the backing file ${printable(name)} is not a plain file, which is not supported`,
    );
  }
  return path.resolve(path.dirname(overlay), name);
}

function printable(text: string): string {
  return JSON.stringify(text);
}

interface OpenImage {
  readonly file: HostFile;
  readonly format: DiskFormat;
}

/** Opens a file as an image of `format`, or of the one that it has. */
function openImage(name: string, write: boolean, format: DiskFormat | undefined, lock: boolean): OpenImage {
  const file = openToUse(name, write, lock);
  try {
    return { file, format: format ?? detectFormat(file) };
  } catch (error) {
    file.close();
    throw error;
  }
}

/** A file that its user may read and not write can still be a disk: the message says how. */
function openToUse(name: string, write: boolean, lock: boolean): HostFile {
  try {
    return HostFile.open(name, { write, lock });
  } catch (error) {
    const mayWrite = !write || isAllowed(name, constants.W_OK) || !isAllowed(name, constants.R_OK);
    if (!(error instanceof DiskError) || mayWrite) throw error;
    throw new DiskError(`${name}: may only be read: use it with \`ro\` or \`cow\``);
  }
}

function isAllowed(name: string, mode: number): boolean {
  try {
    accessSync(name, mode);
    return true;
  } catch {
    return false;
  }
}

/** `seen`: the identities of the images above. */
async function openChain(
  image: OpenImage,
  guessed: boolean,
  spec: Pick<DiskSpec, "snapshot" | "lock">,
  seen: readonly string[],
): Promise<ImageDisk> {
  const { file, format } = image;
  if (format === "raw") {
    if (spec.snapshot !== undefined) throw new DiskError(`${file.path}: a raw image has no snapshots`);
    return new RawDisk(file, guessed);
  }
  let header = readHeader(file);
  if (header.dirty && file.writable) {
    await repairDirty(file);
    header = readHeader(file);
  }
  const snapshot = spec.snapshot === undefined ? undefined : findSnapshot(file, header, spec.snapshot);
  const backing = await openBacking(file, header, spec.lock ?? true, [...seen, file.identity()]);
  try {
    return await Qcow2Disk.open(file, header, { backing, snapshot });
  } catch (error) {
    backing?.close();
    throw error;
  }
}

async function openBacking(
  overlay: HostFile,
  header: Qcow2Header,
  lock: boolean,
  seen: readonly string[],
): Promise<ImageDisk | undefined> {
  if (header.backingFile === undefined) return undefined;
  const name = resolveBacking(overlay.path, header.backingFile);
  const where = `${overlay.path}: its backing file`;
  if (seen.length >= MAX_CHAIN) throw new DiskError(`${where} is the ${MAX_CHAIN}th in a row: too many`);
  const format = backingFormat(overlay.path, header.backingFormat);
  const identity = identityOf(name);
  if (identity !== undefined && seen.includes(identity)) {
    throw new DiskError(`${where} ${name} has the image itself as a backing file: a loop`);
  }
  let image: OpenImage;
  try {
    image = openImage(name, false, format, lock);
  } catch (error) {
    throw error instanceof DiskError ? new DiskError(`${where}: ${error.message}`) : error;
  }
  try {
    return await openChain(image, format === undefined, { lock }, seen);
  } catch (error) {
    image.file.close();
    throw error;
  }
}

function backingFormat(overlay: string, format: string | undefined): DiskFormat | undefined {
  switch (format) {
    case undefined:
    case "raw":
    case "qcow2":
      return format;
    // Names of QEMU's for files and devices as they are.
    case "file":
    case "host_device":
      return "raw";
    default:
      throw new DiskError(`${overlay}: a backing file of format ${printable(format)} is not supported`);
  }
}

/** Opens a disk and locks its files. Throws `DiskError`, one line that names the file and what is wrong with it. */
export async function openDisk(spec: DiskSpec): Promise<ImageDisk> {
  const { file: name, cow, format } = spec;
  if (cow === undefined) {
    const write = spec.readOnly !== true && spec.snapshot === undefined;
    return await openPlain(name, write, format, spec);
  }
  if (spec.readOnly) throw new DiskError(`${name}: ro and cow exclude each other`);
  if (cow !== true && "file" in cow) return await openNamedOverlay(spec, cow.file);
  const below = await openPlain(name, false, format, spec);
  try {
    const file = cow === true ? HostFile.temporary() : HostFile.lend(cow.descriptor);
    try {
      if (file.size() === 0) await createQcow2(file, { size: below.sizeBytes });
      return await Qcow2Disk.open(file, readHeader(file), { backing: below, volatile: true });
    } catch (error) {
      file.close();
      throw error;
    }
  } catch (error) {
    below.close();
    throw error;
  }
}

async function openPlain(
  name: string,
  write: boolean,
  format: DiskFormat | undefined,
  spec: Pick<DiskSpec, "snapshot" | "lock">,
): Promise<ImageDisk> {
  const image = openImage(name, write, format, spec.lock ?? true);
  try {
    return await openChain(image, format === undefined, spec, []);
  } catch (error) {
    image.file.close();
    throw error;
  }
}

/** The overlay `overlay` of the spec's file, made where it is not there yet. */
async function openNamedOverlay(spec: DiskSpec, overlay: string): Promise<ImageDisk> {
  if (spec.snapshot !== undefined) throw new DiskError(`${spec.file}: cow=FILE cannot be over a snapshot`);
  if (!existsSync(overlay)) await createOverlay(spec, overlay);
  const image = openImage(overlay, true, "qcow2", true);
  try {
    const { backingFile } = readHeader(image.file);
    const wanted = identityOf(spec.file);
    if (wanted === undefined) throw new DiskError(`${spec.file}: no such file`);
    const found = backingFile && identityOf(resolveBacking(overlay, backingFile));
    if (found !== wanted) {
      const what =
        backingFile === undefined ? "has no backing file" : `is an overlay of ${printable(backingFile)}`;
      throw new DiskError(`${overlay}: the image is there already and ${what}, not of ${spec.file}`);
    }
    return await openChain(image, false, spec, []);
  } catch (error) {
    image.file.close();
    throw error;
  }
}

/** As `HostFile.identity`, without opening. */
function identityOf(name: string): string | undefined {
  const status = statSync(name, { bigint: true, throwIfNoEntry: false });
  return status && `${status.dev}:${status.ino}`;
}

async function createOverlay(spec: DiskSpec, overlay: string): Promise<void> {
  const below = openImage(spec.file, false, spec.format, false);
  let size: number;
  try {
    const disk = await openChain(below, true, { lock: false }, []);
    size = disk.sizeBytes;
    disk.close();
  } finally {
    below.file.close();
  }
  // Under another name until it is whole, so that no half of an image stays behind.
  const temporary = `${overlay}.tmp-${process.pid}-${Math.random().toString(36).slice(2)}`;
  const file = makeBeside(overlay, temporary);
  try {
    const backingFile = path.resolve(spec.file);
    await createQcow2(file, { size, backingFile, backingFormat: below.format });
    giveName(temporary, overlay);
  } finally {
    file.close();
    rmSync(temporary, { force: true });
  }
}

/** The new file `temporary`, which is to become `overlay`: that one is in the message where it cannot be made. */
function makeBeside(overlay: string, temporary: string): HostFile {
  if (!existsSync(path.dirname(overlay))) throw new DiskError(`${overlay}: no such directory`);
  try {
    return HostFile.open(temporary, { write: true, create: "new" });
  } catch (error) {
    throw error instanceof DiskError ? new DiskError(error.message.replace(temporary, overlay)) : error;
  }
}

/** Another process may have been faster; then its file stays, and what is wrong with it shows when it is opened. */
function giveName(temporary: string, name: string): void {
  try {
    linkSync(temporary, name);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === "EEXIST") return;
    // File systems without links.
    if (code !== "EPERM" && code !== "EOPNOTSUPP") throw new DiskError(`${name}: ${message}`);
    if (!existsSync(name)) renameSync(temporary, name);
  }
}
