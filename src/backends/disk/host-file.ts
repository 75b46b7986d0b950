/** A file or block device of the host that holds an image. All calls are synchronous; errors are `DiskError`. */
import { closeSync, constants, fstatSync, ftruncateSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { DiskError, type DiskErrorCode } from "./disk.js";
import { calls, Errno, errno, errnoText, Fallocate, Seek } from "./host-calls.js";
import { lockImage } from "./image-lock.js";
import { IoVectors } from "./io-vectors.js";

const CODES: Readonly<Record<number, DiskErrorCode>> = {
  [Errno.ENOSPC]: "NO_SPACE",
  [Errno.EDQUOT]: "NO_SPACE",
  [Errno.EFBIG]: "NO_SPACE",
};

/** What to say instead of "ENOENT: no such file or directory, open …". */
const OPEN_ERRORS: Readonly<Record<string, string>> = {
  ENOENT: "no such file",
  ENOTDIR: "no such file",
  EACCES: "permission denied",
  EPERM: "permission denied",
  EROFS: "the file system is read-only",
  EISDIR: "is a directory",
  EEXIST: "exists already",
  ENXIO: "is not a regular file or block device",
  ELOOP: "too many symbolic links",
};

/** Linux's transfers end at this many bytes (read(2), NOTES). */
const MAX_TRANSFER = 0x7ffff000;

export interface OpenOptions {
  readonly write: boolean;
  /** Make a new, empty file; an existing one is an error, or with "replace" emptied once it is locked. */
  readonly create?: "new" | "replace";
  /** Default true. */
  readonly lock?: boolean;
}

export class HostFile {
  readonly #fd: number;
  #open = true;
  #canPunch = true;
  #canZero = true;
  #syncFailed = false;
  readonly #vectors = new IoVectors();

  private constructor(
    fd: number,
    /** As the user gave it, for messages. */
    readonly path: string,
    readonly blockDevice: boolean,
    readonly writable: boolean,
    /** `close` leaves it open. */
    private readonly lent = false,
  ) {
    this.#fd = fd;
  }

  /** A file that is open for reading and writing, and stays open. */
  static lend(descriptor: number): HostFile {
    return new HostFile(descriptor, "temporary overlay", false, true, true);
  }

  /** Its number in this process, for `lend`. */
  get descriptor(): number {
    return this.#fd;
  }

  /** Open and lock. Throws `DiskError`. */
  static open(file: string, { write, create, lock = true }: OpenOptions): HostFile {
    const flags =
      (write ? constants.O_RDWR : constants.O_RDONLY) |
      (create === undefined ? 0 : constants.O_CREAT) |
      (create === "new" ? constants.O_EXCL : 0) |
      // To open a pipe would wait for its other end.
      constants.O_NONBLOCK |
      constants.O_NOCTTY;
    let fd: number;
    try {
      fd = openSync(file, flags, 0o644);
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      throw new DiskError(`${file}: ${(code && OPEN_ERRORS[code]) ?? message}`);
    }
    try {
      const status = fstatSync(fd);
      if (status.isDirectory()) throw new DiskError(`${file}: is a directory`);
      if (!status.isFile() && !status.isBlockDevice()) {
        throw new DiskError(`${file}: is not a regular file or block device`);
      }
      if (lock) {
        const inTheWay = lockImage(fd, write);
        if (inTheWay !== undefined) {
          const why = inTheWay === "a writer" ? "it is being written to" : "it is in use";
          throw new DiskError(`${file}: cannot lock the image: ${why} by another process or disk`);
        }
      }
      if (create === "replace" && status.isFile()) ftruncateSync(fd, 0);
      return new HostFile(fd, file, status.isBlockDevice(), write);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** A file without a name, which is gone with this process, however that ends. */
  static temporary(): HostFile {
    // Not /tmp, which is memory on many machines (file-hierarchy(7)).
    const directory = process.env.TMPDIR ?? "/var/tmp";
    for (const where of [directory, tmpdir()]) {
      try {
        const fd = openSync(where, O_TMPFILE | constants.O_RDWR, 0o600);
        return new HostFile(fd, `${where} (temporary overlay)`, false, true);
      } catch {
        // File systems without O_TMPFILE, such as overlayfs of old kernels.
      }
      try {
        const name = path.join(where, `.nlkt-overlay-${process.pid}-${Math.random().toString(36).slice(2)}`);
        const fd = openSync(name, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
        rmSync(name);
        return new HostFile(fd, `${where} (temporary overlay)`, false, true);
      } catch {
        // The next directory.
      }
    }
    throw new DiskError(
      `${directory}: cannot make a file for a temporary overlay there; TMPDIR names another`,
    );
  }

  /** The host's numbers for the file, equal for two names of one file. */
  identity(): string {
    const { dev, ino } = fstatSync(this.#fd, { bigint: true });
    return `${dev}:${ino}`;
  }

  /** Bytes. */
  size(): number {
    const size = calls.lseek(this.#fd, 0, Seek.END);
    if (size < 0) throw this.#error("lseek");
    return Number(size);
  }

  /** Bytes of the file system that the file takes. */
  allocatedBytes(): number {
    return fstatSync(this.#fd).blocks * 512;
  }

  /** The preferred size of requests. */
  blockSize(): number {
    const { blksize } = fstatSync(this.#fd);
    return blksize >= 512 && blksize <= 65536 ? blksize : 4096;
  }

  /** Reads what there is; beyond the end of the file are zeros. */
  read(offset: number, target: Uint8Array): void {
    let done = 0;
    while (done < target.length) {
      const part = done === 0 && target.length <= MAX_TRANSFER ? target : target.subarray(done);
      const count = calls.pread(this.#fd, part, Math.min(part.length, MAX_TRANSFER), offset + done);
      if (count > 0) done += count;
      else if (count === 0) {
        target.fill(0, done);
        return;
      } else if (errno() !== Errno.EINTR) throw this.#error("read");
    }
  }

  /** As `read`, into up to `MAX_VECTORS` views of shared memory, one after the other. */
  readVectors(offset: number, targets: readonly Uint8Array[]): void {
    const { words, length } = this.#vectors.fill(targets);
    if (calls.preadv(this.#fd, words, targets.length, offset) === length) return;
    // A short count, at the file's end or for another reason: each by itself.
    for (const target of targets) {
      this.read(offset, target);
      offset += target.length;
    }
  }

  /** As `write`, from up to `MAX_VECTORS` views of shared memory. */
  writeVectors(offset: number, sources: readonly Uint8Array[]): void {
    const { words, length } = this.#vectors.fill(sources);
    if (calls.pwritev(this.#fd, words, sources.length, offset) === length) return;
    for (const source of sources) {
      this.write(offset, source);
      offset += source.length;
    }
  }

  write(offset: number, source: Uint8Array): void {
    let done = 0;
    while (done < source.length) {
      const part = done === 0 && source.length <= MAX_TRANSFER ? source : source.subarray(done);
      const count = calls.pwrite(this.#fd, part, Math.min(part.length, MAX_TRANSFER), offset + done);
      if (count > 0) done += count;
      else if (count === 0 || errno() !== Errno.EINTR) throw this.#error("write");
    }
  }

  /**
   * All that was written is on the disk, and the size of the file with it. After a failure Linux forgets which data did
   * not get there, so all later calls fail too (fsync(2), ERRORS).
   */
  sync(): void {
    if (this.#syncFailed) throw new DiskError(`${this.path}: an earlier fdatasync failed`);
    while (calls.fdatasync(this.#fd) < 0) {
      if (errno() === Errno.EINTR) continue;
      this.#syncFailed = true;
      throw this.#error("fdatasync");
    }
  }

  /** Give the space of a range back, where the file system can; false where it cannot. The range then reads as zeros. */
  punchHole(offset: number, length: number): boolean {
    if (!this.#canPunch) return false;
    if (length === 0) return true;
    this.#canPunch = this.#fallocate(Fallocate.PUNCH_HOLE | Fallocate.KEEP_SIZE, offset, length);
    return this.#canPunch;
  }

  /** Zeros, in space of their own where the file system can tell them from data; else written. */
  zeroRange(offset: number, length: number): void {
    if (length === 0) return;
    if (this.#canZero) {
      this.#canZero = this.#fallocate(Fallocate.ZERO_RANGE, offset, length);
      if (this.#canZero) return;
    }
    this.zeroData(offset, length);
  }

  /** Write zeros. */
  zeroData(offset: number, length: number): void {
    const zeros = new Uint8Array(Math.min(length, ZERO_CHUNK));
    for (let done = 0; done < length; done += zeros.length) {
      this.write(offset + done, zeros.subarray(0, Math.min(zeros.length, length - done)));
    }
  }

  /** Reserve space, which reads as zeros and changes no data; the file grows to its end. False where it cannot be done. */
  allocate(offset: number, length: number): boolean {
    return length === 0 || this.#fallocate(0, offset, length);
  }

  #fallocate(mode: number, offset: number, length: number): boolean {
    while (calls.fallocate(this.#fd, mode, offset, length) < 0) {
      const number = errno();
      if (number in CODES) throw this.#error("fallocate");
      // Not of this file system, or not of this device: each says it in its own way.
      if (number !== Errno.EINTR) return false;
    }
    return true;
  }

  truncate(size: number): void {
    if (this.blockDevice) return;
    try {
      ftruncateSync(this.#fd, size);
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      throw new DiskError(
        `${this.path}: ${message}`,
        code === "ENOSPC" || code === "EFBIG" ? "NO_SPACE" : "IO",
      );
    }
  }

  /** The next range of data at or after `offset`; undefined where only holes follow. Files without holes are all data. */
  nextData(offset: number): { start: number; end: number } | undefined {
    const size = this.size();
    if (offset >= size) return undefined;
    const start = calls.lseek(this.#fd, offset, Seek.DATA);
    if (start < 0) return errno() === Errno.ENXIO ? undefined : { start: offset, end: size };
    const end = calls.lseek(this.#fd, start, Seek.HOLE);
    return { start: Number(start), end: end < 0 ? size : Number(end) };
  }

  /** Whether there is no data in a range, so that it reads as zeros. */
  isHole(offset: number, length: number): boolean {
    const data = this.nextData(offset);
    return data === undefined || data.start >= offset + length;
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    if (!this.lent) closeSync(this.#fd);
  }

  #error(call: string): DiskError {
    const number = errno();
    return new DiskError(`${this.path}: ${call}: ${errnoText(number)}`, CODES[number] ?? "IO");
  }
}

/** open(2); Node does not name it. */
const O_TMPFILE = 0o20200000;
const ZERO_CHUNK = 2 ** 20;
