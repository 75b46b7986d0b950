/** Which of the machine's disks and partitions a `root=` means, and what is on it: found out on the host. */
import { existsSync } from "node:fs";
import { type FileSystem, probeFileSystem } from "../backends/disk/file-systems.js";
import { type DiskSpec, openDisk } from "../backends/disk/open-disk.js";
import { type Partition, readPartitions } from "../backends/disk/partitions.js";

/** A disk or partition with what is known of it. */
export interface Volume {
  /** As the guest names it: `/dev/vda`, `/dev/vda1`. */
  readonly device: string;
  readonly partition?: Partition;
  readonly fileSystem?: FileSystem;
}

/** Virtio disk number `index`, as Linux names it: vda … vdz, vdaa … (drivers/block/virtio_blk.c, virtblk_name_format). */
export function diskName(index: number): string {
  let name = "";
  for (let rest = index; rest >= 0; rest = Math.floor(rest / 26) - 1) {
    name = String.fromCharCode("a".charCodeAt(0) + (rest % 26)) + name;
  }
  return `vd${name}`;
}

/** What is on the disks now. Throws `DiskError` for images that cannot be read. */
export async function readVolumes(disks: readonly DiskSpec[]): Promise<Volume[]> {
  const volumes: Volume[] = [];
  for (const [index, spec] of disks.entries()) {
    // Without locks: the machine takes them when it opens its disks.
    const { cow, ...plain } = spec;
    const disk = await openDisk({ ...plain, ...existingOverlay(cow), readOnly: true, lock: false });
    try {
      const device = `/dev/${diskName(index)}`;
      const whole = probeFileSystem(disk, 0, disk.sizeBytes);
      volumes.push({ device, ...(whole === undefined ? {} : { fileSystem: whole }) });
      for (const partition of readPartitions(disk)) {
        const found = probeFileSystem(disk, partition.offset, partition.size);
        const name = `${device}${partition.number}`;
        volumes.push({ device: name, partition, ...(found === undefined ? {} : { fileSystem: found }) });
      }
    } finally {
      disk.close();
    }
  }
  return volumes;
}

function existingOverlay(cow: DiskSpec["cow"]): { file: string; format: "qcow2" } | undefined {
  return cow !== undefined && cow !== true && "file" in cow && existsSync(cow.file)
    ? { file: cow.file, format: "qcow2" }
    : undefined;
}

/** File systems that a Linux can have its root on. */
const ROOT_TYPES: readonly string[] = ["ext4", "xfs", "btrfs", "f2fs", "erofs", "squashfs"];

/**
 * The volume to have as root where nobody says which: the first disk, if it is one file system; the one partition of it
 * that can be.
 */
export function defaultRoot(volumes: readonly Volume[]): Volume | undefined {
  const first = volumes[0]?.device;
  if (first === undefined) return undefined;
  const candidates = volumes.filter(
    ({ device, fileSystem }) =>
      new RegExp(`^${first}\\d*$`).test(device) &&
      fileSystem !== undefined &&
      ROOT_TYPES.includes(fileSystem.type),
  );
  return candidates.length === 1 ? candidates[0] : undefined;
}

/** Names that udev gives in /dev/disk, by what they stand for. */
const BY_NAMES: Readonly<Record<string, string>> = {
  "by-uuid": "UUID",
  "by-label": "LABEL",
  "by-partuuid": "PARTUUID",
  "by-partlabel": "PARTLABEL",
};

/** The volume that the value of `root=` means; undefined where none of them is it. */
export function findRoot(volumes: readonly Volume[], root: string): Volume | undefined {
  const byName = /^\/dev\/disk\/(by-[a-z]+)\/(.+)$/.exec(root);
  const text = byName !== null && byName[1] in BY_NAMES ? `${BY_NAMES[byName[1]]}=${byName[2]}` : root;
  const [, tag, quoted] = /^(UUID|LABEL|PARTUUID|PARTLABEL)=(.*)$/s.exec(text) ?? [];
  if (tag === undefined) return volumes.find(({ device }) => device === root);
  const value = quoted.replace(/^"(.*)"$/, "$1");
  const same = (found: string | undefined) => found?.toLowerCase() === value.toLowerCase();
  return volumes.find(({ partition, fileSystem }) => {
    switch (tag) {
      case "UUID":
        return same(fileSystem?.uuid);
      case "LABEL":
        return fileSystem?.label === value;
      case "PARTUUID":
        return same(partition?.uuid);
      default:
        return partition?.label === value;
    }
  });
}
