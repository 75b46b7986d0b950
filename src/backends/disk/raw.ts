/** Raw images: the file's bytes are the disk's. Holes stay holes. */
import { checkRange, DiskError, type ImageDisk, SECTOR_SIZE } from "./disk.js";
import type { HostFile } from "./host-file.js";
import { lengthOf } from "./io-vectors.js";

/** First bytes of the formats that an image's format is guessed by: see `RawDisk`'s `guessed`. */
const GUESSED_MAGIC = [0x51, 0x46, 0x49, 0xfb] as const; // "QFI\xfb"

const ZERO_CHECK = new Uint8Array(4096);

export class RawDisk implements ImageDisk {
  readonly readOnly: boolean;
  readonly blockSize: number;
  readonly discardGranularity: number;
  readonly sizeBytes: number;
  /** Bytes of the file; the last sector of the disk may go beyond. */
  #fileSize: number;
  #dirty = false;

  /**
   * `guessed`: nobody said that this is a raw image. Then a guest must not make another format of it, whose backing file
   * the next run would show to it: writes that do so are refused.
   */
  constructor(
    readonly file: HostFile,
    private readonly guessed: boolean,
  ) {
    this.#fileSize = file.size();
    this.sizeBytes = Math.ceil(this.#fileSize / SECTOR_SIZE) * SECTOR_SIZE;
    this.readOnly = !file.writable;
    this.blockSize = file.blockSize();
    this.discardGranularity = this.blockSize;
  }

  read(offset: number, target: Uint8Array): void {
    checkRange(this, offset, target.length);
    this.file.read(offset, target);
  }

  extent(offset: number, limit: number): { length: number; zero: boolean } {
    checkRange(this, offset, limit);
    const data = this.file.nextData(offset);
    if (data === undefined || data.start >= offset + limit) return { length: limit, zero: true };
    if (data.start > offset) return { length: data.start - offset, zero: true };
    return { length: Math.min(limit, data.end - offset), zero: false };
  }

  write(offset: number, source: Uint8Array): void {
    checkRange(this, offset, source.length);
    this.#writable();
    if (this.guessed && offset < GUESSED_MAGIC.length) this.#checkFormat(offset, source);
    this.file.write(offset, source);
    this.#dirty = true;
  }

  readVectors(offset: number, targets: readonly Uint8Array[]): void {
    checkRange(this, offset, lengthOf(targets));
    this.file.readVectors(offset, targets);
  }

  writeVectors(offset: number, sources: readonly Uint8Array[]): void {
    checkRange(this, offset, lengthOf(sources));
    this.#writable();
    if (this.guessed && offset < GUESSED_MAGIC.length) {
      for (const source of sources) {
        this.write(offset, source);
        offset += source.length;
      }
      return;
    }
    this.file.writeVectors(offset, sources);
    this.#dirty = true;
  }

  #checkFormat(offset: number, source: Uint8Array): void {
    const start = new Uint8Array(GUESSED_MAGIC.length);
    this.file.read(0, start);
    start.set(source.subarray(0, start.length - offset), offset);
    if (GUESSED_MAGIC.every((byte, at) => start[at] === byte)) {
      throw new DiskError(
        `${this.file.path}: a write that would make a qcow2 image of a raw one; format=raw allows it`,
      );
    }
  }

  flush(): void {
    if (!this.#dirty) return;
    this.file.sync();
    this.#dirty = false;
  }

  discard(offset: number, length: number): void {
    checkRange(this, offset, length);
    this.#writable();
    if (this.file.punchHole(offset, length)) this.#dirty = true;
  }

  writeZeroes(offset: number, length: number, unmap: boolean): void {
    checkRange(this, offset, length);
    this.#writable();
    this.#dirty = true;
    if (unmap && this.file.punchHole(offset, length)) return;
    this.file.zeroRange(offset, length);
  }

  #writable(): void {
    if (this.readOnly) throw new DiskError(`${this.file.path}: the disk is read-only`, "READ_ONLY");
  }

  close(): void {
    try {
      this.flush();
    } finally {
      this.file.close();
    }
  }
}

/** Whether all bytes are zero. */
export function isZero(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; at += ZERO_CHECK.length) {
    const part = bytes.subarray(at, at + ZERO_CHECK.length);
    if (Buffer.compare(part, ZERO_CHECK.subarray(0, part.length)) !== 0) return false;
  }
  return true;
}
