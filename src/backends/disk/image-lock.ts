/**
 * Locks on image files: one writer, or readers, of any number of processes, QEMU's among them.
 *
 * QEMU (block/file-posix.c, "RAW_LOCK_PERM_BASE") takes shared open-file-description locks on single bytes of the image
 * file: byte 100 + P says "I use permission P", byte 200 + P says "nobody else may use permission P". Who has taken its
 * own then asks, with an exclusive lock that is only tested, whether anybody holds the byte on the other side. Nothing
 * is ever stored in those bytes. The kernel drops the locks when the process ends in any way (fcntl(2), "Open file
 * description locks").
 */
import { calls, Errno, errno } from "./host-calls.js";

const USED_BASE = 100;
const UNSHARED_BASE = 200;

/** Permissions of QEMU's block layer (include/block/block-common.h), as bit numbers. */
const Permission = { CONSISTENT_READ: 0, WRITE: 1, RESIZE: 3 } as const;

const UNSHARED = [Permission.WRITE, Permission.RESIZE] as const;
const READER = [Permission.CONSISTENT_READ] as const;
const WRITER = [Permission.CONSISTENT_READ, Permission.WRITE, Permission.RESIZE] as const;

/** fcntl(2). */
const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const LockType = { READ: 0, WRITE: 1, UNLOCK: 2 } as const;

/** struct flock of x86-64: l_type, l_whence (16 bits each), l_start, l_len (64 bits), l_pid. */
const FLOCK_SIZE = 32;

function flock(type: number, byte: number): Uint8Array {
  const bytes = new Uint8Array(FLOCK_SIZE);
  const view = new DataView(bytes.buffer);
  view.setInt16(0, type, true);
  view.setBigInt64(8, BigInt(byte), true);
  view.setBigInt64(16, 1n, true);
  return bytes;
}

/** Whether somebody else holds a lock on `byte`. */
function heldByOthers(fd: number, byte: number): boolean {
  const probe = flock(LockType.WRITE, byte);
  if (calls.fcntl(fd, F_OFD_GETLK, probe) < 0) return false;
  return new DataView(probe.buffer).getInt16(0, true) !== LockType.UNLOCK;
}

/** File systems without locks: images on them are used without, as QEMU does. */
const NO_LOCKS: ReadonlySet<number> = new Set([
  37 /* ENOLCK */,
  Errno.EOPNOTSUPP,
  Errno.EINVAL,
  38 /* ENOSYS */,
]);

/** Lock the image open at `fd` until it is closed. Undefined, or who is in the way. */
export function lockImage(fd: number, write: boolean): "a writer" | "another user" | undefined {
  const used = write ? WRITER : READER;
  const bytes = [...used.map((bit) => USED_BASE + bit), ...UNSHARED.map((bit) => UNSHARED_BASE + bit)];
  for (const byte of bytes) {
    if (calls.fcntl(fd, F_OFD_SETLK, flock(LockType.READ, byte)) < 0) {
      if (NO_LOCKS.has(errno())) return undefined;
      unlock(fd, bytes);
      return "another user";
    }
  }
  const writer = UNSHARED.some((bit) => heldByOthers(fd, USED_BASE + bit));
  const refused = used.some((bit) => heldByOthers(fd, UNSHARED_BASE + bit));
  if (!writer && !refused) return undefined;
  unlock(fd, bytes);
  return writer ? "a writer" : "another user";
}

function unlock(fd: number, bytes: readonly number[]): void {
  for (const byte of bytes) calls.fcntl(fd, F_OFD_SETLK, flock(LockType.UNLOCK, byte));
}
