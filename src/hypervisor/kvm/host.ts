/** The system calls that a KVM program needs, made by the calling thread through koffi. x86-64 Linux. */
import koffi from "koffi";

/** A system call that failed. */
export class HostError extends Error {
  override readonly name = "HostError";
  constructor(
    readonly call: string,
    readonly errno: number,
  ) {
    super(`${call}: ${errnoText(errno)}`);
  }

  /** The number's name: EINTR, EPERM … */
  get code(): string {
    return errnoName(this.errno);
  }
}

const NAMES = new Map(Object.entries(koffi.os.errno).map(([name, number]) => [number, name]));
export const Errno = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  ENXIO: 6,
  E2BIG: 7,
  EBADF: 9,
  EAGAIN: 11,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  ENODEV: 19,
  EINVAL: 22,
  ENOTTY: 25,
} as const;

export function errnoName(errno: number): string {
  return NAMES.get(errno) ?? `errno ${errno}`;
}

// All symbols of the process: Node is linked to the C library, whichever that is.
const libc = koffi.load(null);
const strerror = libc.func("const char *strerror(int)");

function errnoText(errno: number): string {
  return `${(strerror(errno) as string).toLowerCase()} (${errnoName(errno)})`;
}

const c = {
  open: libc.func("int open(const char *, int, int)"),
  close: libc.func("int close(int)"),
  // Two kinds of argument: ioctl is variadic in C. 32 bits are enough for the numbers, and cheaper to pass than 64.
  ioctl: libc.func("int ioctl(int, uint32_t, uint32_t)"),
  ioctlPointer: libc.func("int ioctl(int, uint32_t, void *)"),
  mmap: libc.func("void *mmap(void *, size_t, int, int, int, int64_t)"),
  munmap: libc.func("int munmap(void *, size_t)"),
  eventfd: libc.func("int eventfd(unsigned int, int)"),
  read: libc.func("int64_t read(int, void *, size_t)"),
  write: libc.func("int64_t write(int, const void *, size_t)"),
  poll: libc.func("int poll(void *, unsigned long, int)"),
  syscall: libc.func("int64_t syscall(int64_t, int64_t, int64_t, int64_t)"),
  pthread_sigmask: libc.func("int pthread_sigmask(int, const void *, void *)"),
  sigtimedwait: libc.func("int sigtimedwait(const void *, void *, const void *)"),
} as const;

/** The result of a call that returns −1 for an error. Throws `HostError`. */
function checked(result: number, call: string): number {
  if (result >= 0) return result;
  throw new HostError(call, koffi.errno());
}

const O_RDWR = 2;
const O_CLOEXEC = 0o2000000;

export function openDevice(path: string): number {
  return checked(c.open(path, O_RDWR | O_CLOEXEC, 0), path);
}

export function close(fd: number): void {
  c.close(fd);
}

/** An ioctl whose argument is a number (32 bits); the result, or −1: see `errno`. For paths where every call counts. */
export const rawIoctl: (fd: number, request: number, argument: number) => number = c.ioctl;

/** errno of this thread's last call that failed. */
export function errno(): number {
  return koffi.errno();
}

/** An ioctl whose argument is a number. `name` is for the error. Throws `HostError`. */
export function ioctl(fd: number, request: number, argument: number, name: string): number {
  return checked(c.ioctl(fd, request, argument), name);
}

/** An ioctl whose argument is a structure, read and written in place. Throws `HostError`. */
export function ioctlPointer(fd: number, request: number, argument: ArrayBufferView, name: string): number {
  return checked(c.ioctlPointer(fd, request, argument), name);
}

const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;

/** Map `length` bytes of `fd` for reading and writing, in all threads of the process; the address. */
export function mapShared(fd: number, length: number): bigint {
  const address = koffi.address(c.mmap(null, length, PROT_READ_WRITE, MAP_SHARED, fd, 0));
  if (BigInt.asIntN(64, address) === -1n) throw new HostError("mmap", koffi.errno());
  return address;
}

export function unmap(address: bigint, length: number): void {
  c.munmap(address, length);
}

/** Mapped memory as an ArrayBuffer. It must not be used after `unmap`. */
export function memoryAt(address: bigint, length: number): ArrayBuffer {
  return koffi.view(address, length);
}

/** Where in the process `view` begins. Stable for memory of WebAssembly and for buffers larger than 64 bytes. */
export function addressOf(view: ArrayBufferView): bigint {
  return koffi.address(view);
}

const EFD_CLOEXEC = 0o2000000;
const EFD_NONBLOCK = 0o4000;

export function eventfd(): number {
  return checked(c.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd");
}

/** Take an eventfd's count; 0 where it has none. */
export function readEventfd(fd: number): bigint {
  const value = new BigUint64Array(1);
  return c.read(fd, value, 8) === 8 ? value[0] : 0n;
}

export function signalEventfd(fd: number): void {
  checked(Number(c.write(fd, BigUint64Array.of(1n), 8)), "eventfd");
}

const POLLIN = 1;

/** Sleep until one of `fds` is readable; their places in the array. Throws `HostError`. */
export function pollReadable(fds: readonly number[], timeoutMilliseconds = -1): number[] {
  // struct pollfd: int fd; short events; short revents.
  const polls = new DataView(new ArrayBuffer(8 * fds.length));
  fds.forEach((fd, i) => {
    polls.setInt32(8 * i, fd, true);
    polls.setInt16(8 * i + 4, POLLIN, true);
  });
  const count = c.poll(new Uint8Array(polls.buffer), fds.length, timeoutMilliseconds);
  if (count < 0 && koffi.errno() !== Errno.EINTR) throw new HostError("poll", koffi.errno());
  return fds.map((_, i) => i).filter((i) => count > 0 && polls.getInt16(8 * i + 6, true) !== 0);
}

const SYS_GETTID = 186;
const SYS_TGKILL = 234;

export function gettid(): number {
  return Number(c.syscall(SYS_GETTID, 0, 0, 0));
}

/** Send `signal` to a thread of this process. A thread that is gone is no error. */
export function signalThread(tid: number, signal: number): void {
  c.syscall(SYS_TGKILL, process.pid, tid, signal);
}

/** Bytes of the C library's sigset_t and of the kernel's; the first bytes of both are the same. */
const SIGSET_BYTES = 128;
export const KERNEL_SIGSET_BYTES = 8;
const SIG_BLOCK = 0;

function signalSet(signal: number): Uint8Array {
  const set = new Uint8Array(SIGSET_BYTES);
  set[(signal - 1) >> 3] = 1 << ((signal - 1) & 7);
  return set;
}

/** Block `signal` in this thread; the signals blocked before, as the kernel's set. */
export function blockSignal(signal: number): Uint8Array {
  const before = new Uint8Array(SIGSET_BYTES);
  const error = c.pthread_sigmask(SIG_BLOCK, signalSet(signal), before);
  if (error !== 0) throw new HostError("pthread_sigmask", error);
  return before.slice(0, KERNEL_SIGSET_BYTES);
}

/** Take a blocked `signal` that is pending for this thread, without waiting; false where there was none. */
export function takeSignal(signal: number): boolean {
  const noTime = new BigInt64Array(2);
  return c.sigtimedwait(signalSet(signal), null, noTime) === signal;
}
