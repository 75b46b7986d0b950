/** The table of internal snapshots (docs/interop/qcow2.rst, "Snapshots"). */
import { DiskError } from "../disk.js";
import type { HostFile } from "../host-file.js";
import { getU64, l1EntriesFor, type Qcow2Header } from "./header.js";

export interface Snapshot {
  readonly id: string;
  readonly name: string;
  /** Since the Epoch. */
  readonly dateSeconds: number;
  readonly dateNanoseconds: number;
  /** Nanoseconds that the guest had run. */
  readonly guestTime: bigint;
  /** Bytes of saved machine state, which NLKT does not read. */
  readonly vmStateSize: number;
  /** Bytes of the disk. */
  readonly size: number;
  readonly l1Offset: number;
  readonly l1Entries: number;
  /** -1 or absent where instructions were not counted. */
  readonly icount: bigint | undefined;
}

const ENTRY_SIZE = 40;
/** QEMU's limits. */
const MAX_TABLE_BYTES = 64 * 2 ** 20;
const MAX_EXTRA_BYTES = 1024;
const MAX_L1_BYTES = 32 * 2 ** 20;

/** The snapshots, and how long their table is. Throws `DiskError`. */
export function readSnapshots(
  file: HostFile,
  header: Qcow2Header,
): { snapshots: Snapshot[]; tableBytes: number } {
  const snapshots: Snapshot[] = [];
  const broken = (what: string) => new DiskError(`${file.path}: broken qcow2 image: ${what}`);
  const end = file.size();
  let at = header.snapshotsOffset;
  for (let index = 0; index < header.snapshotCount; index++) {
    const fixed = new Uint8Array(ENTRY_SIZE);
    if (at + ENTRY_SIZE > end) throw broken("the snapshot table is cut off");
    file.read(at, fixed);
    const view = new DataView(fixed.buffer);
    const idLength = view.getUint16(12);
    const nameLength = view.getUint16(14);
    const extraLength = view.getUint32(36);
    if (extraLength > MAX_EXTRA_BYTES) throw broken(`${extraLength} bytes of extra data for a snapshot`);
    const rest = new Uint8Array(extraLength + idLength + nameLength);
    if (at + ENTRY_SIZE + rest.length > end) throw broken("the snapshot table is cut off");
    file.read(at + ENTRY_SIZE, rest);
    const extra = new DataView(rest.buffer);
    const text = (from: number, length: number) =>
      Buffer.from(rest.buffer, extraLength + from, length).toString("utf8");
    snapshots.push({
      id: text(0, idLength),
      name: text(idLength, nameLength),
      dateSeconds: view.getUint32(16),
      dateNanoseconds: view.getUint32(20),
      guestTime: view.getBigUint64(24),
      vmStateSize: extraLength >= 8 ? getU64(extra, 0) : view.getUint32(32),
      // Version 2 does not say: a disk could not change its size then.
      size: extraLength >= 16 ? getU64(extra, 8) : header.size,
      icount: extraLength >= 24 ? extra.getBigInt64(16) : undefined,
      l1Offset: getU64(view, 0),
      l1Entries: view.getUint32(8),
    });
    at += Math.ceil((ENTRY_SIZE + rest.length) / 8) * 8;
    if (at - header.snapshotsOffset > MAX_TABLE_BYTES) throw broken("the snapshot table is too large");
  }
  return { snapshots, tableBytes: at - header.snapshotsOffset };
}

/** Throws `DiskError` for a snapshot whose L1 table cannot be used. */
export function checkSnapshot(file: HostFile, header: Qcow2Header, snapshot: Snapshot): void {
  const { l1Offset, l1Entries, size } = snapshot;
  const clusterSize = 2 ** header.clusterBits;
  const needed = l1EntriesFor(size, header.clusterBits, header.extendedL2);
  const fits =
    Number.isSafeInteger(size) &&
    l1Entries * 8 <= MAX_L1_BYTES &&
    l1Entries >= needed &&
    l1Offset % clusterSize === 0 &&
    l1Offset + l1Entries * 8 <= Math.ceil(file.size() / clusterSize) * clusterSize;
  if (!fits) throw new DiskError(`${file.path}: broken qcow2 image: the L1 table of snapshot ${snapshot.id}`);
}

/** The snapshot with this id, or else this name. Throws `DiskError` where there is none. */
export function findSnapshot(file: HostFile, header: Qcow2Header, wanted: string): Snapshot {
  const { snapshots } = readSnapshots(file, header);
  const found = snapshots.find(({ id }) => id === wanted) ?? snapshots.find(({ name }) => name === wanted);
  if (found === undefined) throw new DiskError(`${file.path}: no snapshot ${wanted}`);
  checkSnapshot(file, header, found);
  return found;
}
