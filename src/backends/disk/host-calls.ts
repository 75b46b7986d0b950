/** The C library's calls on files that Node lacks or is slow at, made by the calling thread through koffi. x86-64 Linux. */
import koffi from "koffi";

const libc = koffi.load(null);

/** preadv(2) and pwritev(2); `vectors` are `struct iovec`s. */
type Vectored = (fd: number, vectors: Uint32Array, count: number, offset: number) => number;

/** Address in this process of the first byte of `buffer`. */
export function addressOf(buffer: ArrayBufferLike): bigint {
  return koffi.address(new Uint8Array(buffer));
}

export const calls = {
  pread: libc.func("int64_t pread(int, void *, size_t, int64_t)") as (
    fd: number,
    target: Uint8Array,
    length: number,
    offset: number,
  ) => number,
  pwrite: libc.func("int64_t pwrite(int, const void *, size_t, int64_t)") as (
    fd: number,
    source: Uint8Array,
    length: number,
    offset: number,
  ) => number,
  preadv: libc.func("int64_t preadv(int, const void *, int, int64_t)") as Vectored,
  pwritev: libc.func("int64_t pwritev(int, const void *, int, int64_t)") as Vectored,
  fdatasync: libc.func("int fdatasync(int)") as (fd: number) => number,
  fallocate: libc.func("int fallocate(int, int, int64_t, int64_t)") as (
    fd: number,
    mode: number,
    offset: number,
    length: number,
  ) => number,
  lseek: libc.func("int64_t lseek(int, int64_t, int)") as (
    fd: number,
    offset: number,
    whence: number,
  ) => number,
  // Variadic in C; the third argument is passed alike on x86-64.
  fcntl: libc.func("int fcntl(int, int, void *)") as (
    fd: number,
    command: number,
    argument: Uint8Array,
  ) => number,
} as const;

export const Errno = {
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  EACCES: 13,
  EAGAIN: 11,
  EFBIG: 27,
  EINVAL: 22,
  ENOSPC: 28,
  EOPNOTSUPP: 95,
  EDQUOT: 122,
} as const;

/** fallocate(2), mode. */
export const Fallocate = { KEEP_SIZE: 0x01, PUNCH_HOLE: 0x02, ZERO_RANGE: 0x10 } as const;

/** lseek(2), whence. */
export const Seek = { END: 2, DATA: 3, HOLE: 4 } as const;

const strerror = libc.func("const char *strerror(int)") as (errno: number) => string;

/** errno of this thread's last call that failed. */
export function errno(): number {
  return koffi.errno();
}

export function errnoText(number: number): string {
  return strerror(number).toLowerCase();
}
