/** Partition tables: GPT (UEFI 2.10, 5.3) and MBR with extended partitions (UEFI 2.10, 5.2), numbered as Linux does. */
import { type Disk, SECTOR_SIZE } from "./disk.js";
import { uuidText } from "./file-systems.js";

export interface Partition {
  /** 1, 2, … as in /dev/vda1. */
  readonly number: number;
  /** Bytes. */
  readonly offset: number;
  readonly size: number;
  /** As in `root=PARTUUID=`. */
  readonly uuid: string;
  readonly label?: string;
}

const BOOT_SIGNATURE = 0xaa55;
const SIGNATURE_AT = 510;
const MBR_ENTRIES = 446;
const MBR_DISK_ID = 440;
const TYPE_GPT = 0xee;
const EXTENDED: readonly number[] = [0x05, 0x0f, 0x85];
/** Links of the chain of logical partitions that are followed. */
const MAX_LOGICAL = 64;
const GPT_SIGNATURE = "EFI PART";
const MAX_GPT_ENTRIES = 256;

/** The partitions of a disk; none where it has no table. Entries that are not inside the disk are left out. */
export function readPartitions(disk: Disk): Partition[] {
  const mbr = sector(disk, 0);
  if (mbr === undefined || mbr.getUint16(SIGNATURE_AT, true) !== BOOT_SIGNATURE) return [];
  const entries = [0, 1, 2, 3].map((index) => mbrEntry(mbr, index));
  const found = entries.some(({ type }) => type === TYPE_GPT) ? readGpt(disk) : readMbr(disk, mbr);
  return found.filter(({ offset, size }) => size > 0 && offset > 0 && offset + size <= disk.sizeBytes);
}

function sector(disk: Disk, number: number): DataView | undefined {
  if ((number + 1) * SECTOR_SIZE > disk.sizeBytes) return undefined;
  const bytes = new Uint8Array(SECTOR_SIZE);
  disk.read(number * SECTOR_SIZE, bytes);
  return new DataView(bytes.buffer);
}

function mbrEntry(view: DataView, index: number): { type: number; first: number; count: number } {
  const at = MBR_ENTRIES + index * 16;
  return {
    type: view.getUint8(at + 4),
    first: view.getUint32(at + 8, true),
    count: view.getUint32(at + 12, true),
  };
}

function readMbr(disk: Disk, mbr: DataView): Partition[] {
  const id = mbr.getUint32(MBR_DISK_ID, true).toString(16).padStart(8, "0");
  const partitions: Partition[] = [];
  const add = (number: number, first: number, count: number) => {
    const uuid = `${id}-${number.toString(16).padStart(2, "0")}`;
    partitions.push({ number, offset: first * SECTOR_SIZE, size: count * SECTOR_SIZE, uuid });
  };
  let logical = 5;
  for (let index = 0; index < 4; index++) {
    const { type, first, count } = mbrEntry(mbr, index);
    if (type === 0 || count === 0) continue;
    if (!EXTENDED.includes(type)) {
      add(index + 1, first, count);
      continue;
    }
    // Each link has a partition, relative to itself, and the next link, relative to the first.
    let link = first;
    for (let step = 0; step < MAX_LOGICAL; step++) {
      const view = sector(disk, link);
      if (view === undefined || view.getUint16(SIGNATURE_AT, true) !== BOOT_SIGNATURE) break;
      const part = mbrEntry(view, 0);
      const next = mbrEntry(view, 1);
      if (part.type !== 0 && part.count > 0) add(logical++, link + part.first, part.count);
      if (!EXTENDED.includes(next.type) || next.first === 0) break;
      link = first + next.first;
    }
  }
  return partitions;
}

function readGpt(disk: Disk): Partition[] {
  const header = sector(disk, 1);
  if (header === undefined) return [];
  const signature = Buffer.from(header.buffer, 0, GPT_SIGNATURE.length).toString("latin1");
  if (signature !== GPT_SIGNATURE) return [];
  const start = Number(header.getBigUint64(72, true)) * SECTOR_SIZE;
  const count = Math.min(header.getUint32(80, true), MAX_GPT_ENTRIES);
  const entrySize = header.getUint32(84, true);
  if (entrySize < 128 || entrySize > 4096 || start + count * entrySize > disk.sizeBytes) return [];
  const bytes = new Uint8Array(count * entrySize);
  disk.read(start, bytes);
  const view = new DataView(bytes.buffer);
  const partitions: Partition[] = [];
  for (let index = 0; index < count; index++) {
    const at = index * entrySize;
    if (bytes.subarray(at, at + 16).every((byte) => byte === 0)) continue;
    const first = Number(view.getBigUint64(at + 32, true));
    const last = Number(view.getBigUint64(at + 40, true));
    const label = Buffer.from(bytes.subarray(at + 56, at + 128))
      .toString("utf16le")
      .replace(/\0.*$/s, "");
    partitions.push({
      number: index + 1,
      offset: first * SECTOR_SIZE,
      size: (last - first + 1) * SECTOR_SIZE,
      uuid: guidText(bytes.subarray(at + 16, at + 32)),
      ...(label === "" ? {} : { label }),
    });
  }
  return partitions;
}

/** The first three fields of a GUID are little-endian (UEFI 2.10, appendix A). */
function guidText(bytes: Uint8Array): string {
  const order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
  return uuidText(Uint8Array.from(order, (index) => bytes[index]));
}
