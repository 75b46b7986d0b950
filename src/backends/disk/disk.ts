/**
 * What a disk device stands on. Every call is synchronous and runs on the thread that opened the disk, the io Worker's:
 * measured on Node 20, a 4 KiB pread through FFI into guest memory takes 1.2 µs, through fs.readSync 4 µs, and through
 * fs.promises 44 µs (8 µs each with a hundred in flight).
 */

/** What went wrong, as a device tells its guest. */
export type DiskErrorCode = "IO" | "NO_SPACE" | "READ_ONLY" | "RANGE";

/** An image that cannot be used, or an access that failed: one line, which names the file. */
export class DiskError extends Error {
  override readonly name = "DiskError";
  constructor(
    message: string,
    readonly code: DiskErrorCode = "IO",
  ) {
    super(message);
  }
}

export interface Disk {
  /** A multiple of 512. */
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Bytes: requests of this size at multiples of it cost least; 512 at least. */
  readonly blockSize: number;
  /** Bytes: what `discard` can give back, at multiples of it. */
  readonly discardGranularity: number;

  /**
   * Any offset and length inside the disk; no alignment needed. `target` may be a view of shared memory. Throws
   * `DiskError`, when `target`'s contents are undefined.
   */
  read(offset: number, target: Uint8Array): void;
  /** Throws `DiskError`, when the range holds old data, new data or some of both. */
  write(offset: number, source: Uint8Array): void;
  /**
   * As `read` and `write`, of 1 to `MAX_VECTORS` views of shared memory, one after the other, where a disk can do it in few
   * calls.
   */
  readVectors?(offset: number, targets: readonly Uint8Array[]): void;
  writeVectors?(offset: number, sources: readonly Uint8Array[]): void;
  /** When it returns, everything written before survives the end of this process and of the host. Throws `DiskError`. */
  flush(): void;
  /** The range's contents are no longer wanted; they may read as anything that was there, or zeros. */
  discard(offset: number, length: number): void;
  /** The range reads as zeros from now on. `unmap`: it need not keep its space. */
  writeZeroes(offset: number, length: number, unmap: boolean): void;
  /** Flushes, and gives the files and their locks back. Does nothing the second time. Throws `DiskError`. */
  close(): void;
}

/** A disk over image files, which can be copied without reading what it does not have. */
export interface ImageDisk extends Disk {
  /** How many of at most `limit` bytes at `offset` are alike, and whether they are zeros that need not be read. */
  extent(offset: number, limit: number): { length: number; zero: boolean };
}

export const SECTOR_SIZE = 512;

/** Throws `DiskError` for a range that is not inside the disk. */
export function checkRange(disk: Disk, offset: number, length: number): void {
  const fits =
    Number.isSafeInteger(offset) &&
    Number.isSafeInteger(length) &&
    offset >= 0 &&
    length >= 0 &&
    offset + length <= disk.sizeBytes;
  if (!fits) throw new DiskError(`access outside of the disk: ${length} bytes at ${offset}`, "RANGE");
}
