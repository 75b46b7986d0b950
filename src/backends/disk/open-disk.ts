/** From a disk's description to the disk. */
import type { Disk } from "./disk.js";

export type DiskFormat = "raw" | "qcow2";

/** A plain object that can be posted to a Worker. */
export interface DiskSpec {
  readonly file: string;
  readonly readOnly?: boolean;
  /** The file stays untouched: writes go to a temporary overlay, or to the qcow2 overlay of this name. */
  readonly cow?: true | { readonly file: string };
  /** Found out from the file's first bytes where it is left out. */
  readonly format?: DiskFormat;
}

/** Opens a disk and locks its files. Throws `DiskError`, one line that names the file and what is wrong with it. */
export async function openDisk(spec: DiskSpec): Promise<Disk> {
  throw new Error(`not written yet: ${spec.file}`);
}
