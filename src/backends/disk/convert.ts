/** Copies of disks: from any image to a new one. Holes and zeros are left out. */
import { setImmediate } from "node:timers/promises";
import { createImage } from "./create-image.js";
import { DiskError, type ImageDisk } from "./disk.js";
import { HostFile } from "./host-file.js";
import type { ImageOptions } from "./image-options.js";
import { type DiskFormat, openDisk } from "./open-disk.js";
import { CompressedWriter } from "./qcow2/compressed-writer.js";
import { compressor } from "./qcow2/compression.js";
import { Qcow2Disk } from "./qcow2/qcow2-disk.js";
import { isZero } from "./raw.js";

export interface ConvertOptions {
  readonly source: string;
  readonly sourceFormat?: DiskFormat | undefined;
  /** Id or name of an internal snapshot. */
  readonly snapshot?: string | undefined;
  readonly target: string;
  readonly format: DiskFormat;
  readonly compressed?: boolean;
  readonly backing?: string | undefined;
  readonly backingFormat?: DiskFormat | undefined;
  readonly options: ImageOptions;
  /** Called now and then, with bytes. */
  readonly progress?: (done: number, total: number) => void;
}

/** A multiple of the largest cluster. */
const CHUNK = 2 ** 21;
/** Runs of zeros shorter than this are copied. */
const ZERO_RUN = 4096;

/** Throws `DiskError`; the target is not complete then. */
export async function convertImage(options: ConvertOptions): Promise<void> {
  const { source: sourceName, target: targetName, format, backing, sourceFormat, snapshot } = options;
  if (options.compressed && format !== "qcow2") {
    throw new DiskError(`${targetName}: only qcow2 images can be compressed`);
  }
  const compress = options.compressed ? compressor(options.options.compression ?? "deflate") : undefined;
  if (options.compressed && compress === undefined) {
    throw new DiskError(
      `${targetName}: Node.js ${process.versions.node} cannot compress with zstd: 22.15 and later can`,
    );
  }
  refuseSource(options);
  const source = await openDisk({
    file: sourceName,
    readOnly: true,
    ...(sourceFormat === undefined ? {} : { format: sourceFormat }),
    ...(snapshot === undefined ? {} : { snapshot }),
  });
  try {
    await createImage({
      ...options.options,
      file: targetName,
      format,
      size: source.sizeBytes,
      backing,
      backingFormat: options.backingFormat,
    });
    const target = await openDisk({ file: targetName, format });
    try {
      if (target instanceof Qcow2Disk && compress !== undefined) {
        await copyCompressed(source, target, new CompressedWriter(target, compress), options);
      } else {
        await copy(source, target, options);
      }
      target.flush();
    } finally {
      target.close();
    }
  } finally {
    source.close();
  }
}

/** A file cannot be made into itself: it would be emptied first. */
function refuseSource({ source, target }: ConvertOptions): void {
  const identity = (name: string): string | undefined => {
    try {
      const file = HostFile.open(name, { write: false, lock: false });
      const found = file.identity();
      file.close();
      return found;
    } catch {
      return undefined;
    }
  };
  const found = identity(target);
  if (found !== undefined && found === identity(source)) {
    throw new DiskError(`${target}: source and target are the same file`);
  }
}

async function copy(source: ImageDisk, target: ImageDisk, options: ConvertOptions): Promise<void> {
  const { sizeBytes } = source;
  const buffer = new Uint8Array(CHUNK);
  const old = new Uint8Array(CHUNK);
  const overlay = options.backing !== undefined;
  // What a device or preallocated space had before has to go.
  const sparse = target.extent(0, Math.min(CHUNK, sizeBytes)).zero || sizeBytes === 0;
  const unmap = (options.options.preallocation ?? "off") === "off";
  for (let offset = 0; offset < sizeBytes; ) {
    const limit = Math.min(CHUNK - (offset % CHUNK), sizeBytes - offset);
    const { length, zero } = source.extent(offset, limit);
    const chunk = buffer.subarray(0, length);
    if (zero) {
      if (overlay || !sparse) target.writeZeroes(offset, length, unmap);
    } else {
      source.read(offset, chunk);
      const below = overlay ? old.subarray(0, length) : undefined;
      if (below !== undefined) target.read(offset, below);
      copyRuns(target, offset, chunk, below, sparse);
    }
    offset += length;
    options.progress?.(offset, sizeBytes);
    // Signals get their turn.
    await setImmediate();
  }
}

/** Write of `chunk` what is not there yet: not zeros, or not what is `below`. */
function copyRuns(
  target: ImageDisk,
  offset: number,
  chunk: Uint8Array,
  below: Uint8Array | undefined,
  sparse: boolean,
): void {
  const needless = (from: number, to: number) => {
    const part = chunk.subarray(from, to);
    return below === undefined
      ? sparse && isZero(part)
      : Buffer.compare(part, below.subarray(from, to)) === 0;
  };
  for (let from = 0; from < chunk.length; ) {
    let to = Math.min(from + ZERO_RUN, chunk.length);
    if (!needless(from, to)) {
      while (to < chunk.length && !needless(to, Math.min(to + ZERO_RUN, chunk.length))) {
        to = Math.min(to + ZERO_RUN, chunk.length);
      }
      target.write(offset + from, chunk.subarray(from, to));
    }
    from = to;
  }
}

async function copyCompressed(
  source: ImageDisk,
  target: Qcow2Disk,
  writer: CompressedWriter,
  options: ConvertOptions,
): Promise<void> {
  const { sizeBytes } = source;
  const { clusterSize } = target.geometry;
  const overlay = options.backing !== undefined;
  for (let offset = 0; offset < sizeBytes; offset += clusterSize) {
    const length = Math.min(clusterSize, sizeBytes - offset);
    // The last cluster is filled up with zeros.
    const cluster = new Uint8Array(clusterSize);
    const { length: alike, zero } = source.extent(offset, length);
    if (!zero || alike < length) source.read(offset, cluster.subarray(0, length));
    if (overlay) {
      const old = new Uint8Array(clusterSize);
      target.read(offset, old.subarray(0, length));
      if (Buffer.compare(old, cluster) !== 0) putCluster(target, offset, cluster, length, writer);
    } else if (!isZero(cluster)) {
      putCluster(target, offset, cluster, length, writer);
    }
    if (offset % CHUNK === 0) {
      options.progress?.(offset + length, sizeBytes);
      await setImmediate();
    }
  }
  writer.end();
}

function putCluster(
  target: Qcow2Disk,
  offset: number,
  cluster: Uint8Array,
  length: number,
  writer: CompressedWriter,
): void {
  if (!writer.write(offset, cluster)) target.write(offset, cluster.subarray(0, length));
}
