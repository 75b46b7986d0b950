/** Which file system is on a disk or partition, by its superblock. Nothing else of it is read. */
import type { Disk } from "./disk.js";

export interface FileSystem {
  /** As Linux's mount has it. */
  readonly type: string;
  readonly uuid?: string;
  readonly label?: string;
}

interface Kind {
  readonly type: string;
  /** Where the magic is, from the volume's beginning. */
  readonly at: number;
  readonly magic: readonly number[];
  /** Where the UUID of 16 bytes is. */
  readonly uuid?: number;
  readonly label?: readonly [at: number, length: number];
}

const ascii = (text: string) => [...Buffer.from(text)];

/**
 * Superblocks, as Linux documents them: Documentation/filesystems/ext4/super.rst; fs/xfs/libxfs/xfs_format.h;
 * include/uapi/linux/btrfs_tree.h; fs/squashfs/squashfs_fs.h; fs/erofs/erofs_fs.h; include/linux/f2fs_fs.h; ECMA-119, 8.4.
 */
const KINDS: readonly Kind[] = [
  // ext2 and ext3 too: the one driver mounts all three.
  { type: "ext4", at: 1080, magic: [0x53, 0xef], uuid: 1128, label: [1144, 16] },
  { type: "xfs", at: 0, magic: ascii("XFSB"), uuid: 32, label: [108, 12] },
  { type: "btrfs", at: 65600, magic: ascii("_BHRfS_M"), uuid: 65568, label: [65835, 256] },
  { type: "squashfs", at: 0, magic: ascii("hsqs") },
  { type: "erofs", at: 1024, magic: [0xe2, 0xe1, 0xf5, 0xe0], uuid: 1072, label: [1088, 16] },
  { type: "f2fs", at: 1024, magic: [0x10, 0x20, 0xf5, 0xf2], uuid: 1132 },
  { type: "iso9660", at: 32769, magic: ascii("CD001"), label: [32808, 32] },
  { type: "vfat", at: 82, magic: ascii("FAT32   "), label: [71, 11] },
  { type: "vfat", at: 54, magic: ascii("FAT1"), label: [43, 11] },
];

/** Everything that is looked at is in so many bytes. */
const PROBED = 66560;

/** The kernel modules of a file system, which say themselves what they need. */
export const FILE_SYSTEM_MODULES: Readonly<Record<string, readonly string[]>> = {
  ext4: ["ext4"],
  ext3: ["ext4"],
  ext2: ["ext4", "ext2"],
  xfs: ["xfs"],
  btrfs: ["btrfs"],
  squashfs: ["squashfs"],
  erofs: ["erofs"],
  f2fs: ["f2fs"],
  iso9660: ["isofs"],
  vfat: ["vfat", "nls_cp437", "nls_ascii", "nls_iso8859-1"],
};

/** The file system at `offset` of a disk, or undefined. */
export function probeFileSystem(disk: Disk, offset: number, size: number): FileSystem | undefined {
  const bytes = new Uint8Array(PROBED);
  const there = Math.max(0, Math.min(PROBED, size, disk.sizeBytes - offset));
  disk.read(offset, bytes.subarray(0, there));
  const kind = KINDS.find(({ at, magic }) => magic.every((byte, i) => bytes[at + i] === byte));
  if (kind === undefined) return undefined;
  const label = kind.label && text(bytes.subarray(kind.label[0], kind.label[0] + kind.label[1]));
  return {
    type: kind.type,
    ...(kind.uuid === undefined ? {} : { uuid: uuidText(bytes.subarray(kind.uuid, kind.uuid + 16)) }),
    ...(label === undefined || label === "" ? {} : { label }),
  };
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("utf8").replace(/\0.*$/s, "").trimEnd();
}

/** Bytes in the order in which they are written (RFC 9562, 4). */
export function uuidText(bytes: Uint8Array): string {
  const hex = Buffer.from(bytes).toString("hex");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
