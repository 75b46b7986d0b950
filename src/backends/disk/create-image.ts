/** New images of any format. */
import { rmSync } from "node:fs";
import { DiskError, SECTOR_SIZE } from "./disk.js";
import { HostFile } from "./host-file.js";
import type { ImageOptions } from "./image-options.js";
import { type DiskFormat, detectFormat, openDisk, resolveBacking } from "./open-disk.js";
import { createQcow2 } from "./qcow2/create.js";

export interface CreateImageOptions extends ImageOptions {
  readonly file: string;
  readonly format: DiskFormat;
  /** Bytes; that of the backing file where it is left out. */
  readonly size?: number | undefined;
  /** As it is to stand in the image: relative to the image's directory. */
  readonly backing?: string | undefined;
  readonly backingFormat?: DiskFormat | undefined;
}

/** Make an image. A file that is there is replaced, unless it is in use. Throws `DiskError`. */
export async function createImage(options: CreateImageOptions): Promise<void> {
  const { file: name, format, backing } = options;
  if (format === "raw" && backing !== undefined) {
    throw new DiskError(`${name}: raw images have no backing files`);
  }
  let { size, backingFormat, ...others } = options;
  if (backing !== undefined) {
    const file = resolveBacking(name, backing);
    const below = await openDisk({
      file,
      readOnly: true,
      ...(backingFormat === undefined ? {} : { format: backingFormat }),
    });
    size ??= below.sizeBytes;
    below.close();
    backingFormat ??= formatOf(file);
  }
  if (size === undefined) throw new DiskError(`${name}: no size`);
  if (size % SECTOR_SIZE !== 0) size = Math.ceil(size / SECTOR_SIZE) * SECTOR_SIZE;
  const made = replaceFile(name);
  try {
    if (format === "raw") createRaw(made.file, size, options);
    else {
      await createQcow2(made.file, {
        ...others,
        size,
        ...(backing === undefined ? {} : { backingFile: backing }),
        ...(backingFormat === undefined ? {} : { backingFormat }),
      });
    }
  } catch (error) {
    // What is there is no image. Not a device, nor what was there before.
    if (made.isNew) rmSync(name, { force: true });
    if (error instanceof DiskError && !error.message.startsWith(name)) {
      throw new DiskError(`${name}: ${error.message}`, error.code);
    }
    throw error;
  } finally {
    made.file.close();
  }
}

function replaceFile(name: string): { file: HostFile; isNew: boolean } {
  try {
    return { file: HostFile.open(name, { write: true, create: "new" }), isNew: true };
  } catch {
    return { file: HostFile.open(name, { write: true, create: "replace" }), isNew: false };
  }
}

function createRaw(file: HostFile, size: number, { preallocation = "off" }: ImageOptions): void {
  if (preallocation === "metadata") throw new DiskError("raw images have no metadata to preallocate");
  if (file.blockDevice) {
    if (size > file.size()) throw new DiskError(`the device has ${file.size()} bytes, not ${size}`);
    return;
  }
  file.truncate(size);
  if (preallocation === "falloc" && !file.allocate(0, size)) {
    throw new DiskError("the file system cannot reserve space (preallocation=falloc)");
  }
  if (preallocation === "full") file.zeroData(0, size);
  file.sync();
}

/** The format of the image in a file. */
export function formatOf(name: string): DiskFormat {
  const file = HostFile.open(name, { write: false, lock: false });
  try {
    return detectFormat(file);
  } finally {
    file.close();
  }
}
