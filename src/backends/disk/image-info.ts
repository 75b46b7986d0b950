/** What an image is, in qemu-img's words (`qemu-img info --output=json`), for people and scripts that know them. */

import { DiskError } from "./disk.js";
import { HostFile } from "./host-file.js";
import { type DiskFormat, detectFormat, resolveBacking } from "./open-disk.js";
import { type CheckResult, checkQcow2, type Repair } from "./qcow2/check.js";
import { readHeader } from "./qcow2/header.js";
import { readSnapshots } from "./qcow2/snapshots.js";

export interface SnapshotInfo {
  readonly id: string;
  readonly name: string;
  readonly "vm-state-size": number;
  readonly "date-sec": number;
  readonly "date-nsec": number;
  readonly "vm-clock-sec": number;
  readonly "vm-clock-nsec": number;
  readonly "virtual-size": number;
}

export interface ImageInfo {
  readonly filename: string;
  readonly format: DiskFormat;
  readonly "virtual-size": number;
  readonly "actual-size": number;
  readonly "cluster-size"?: number;
  readonly "dirty-flag": boolean;
  readonly "backing-filename"?: string;
  readonly "full-backing-filename"?: string;
  readonly "backing-filename-format"?: string;
  readonly snapshots?: readonly SnapshotInfo[];
  readonly "format-specific"?: {
    readonly type: "qcow2";
    readonly data: {
      readonly compat: "0.10" | "1.1";
      readonly "compression-type": "zlib" | "zstd";
      readonly "lazy-refcounts"?: boolean;
      readonly "refcount-bits": number;
      readonly corrupt?: boolean;
      readonly "extended-l2"?: boolean;
    };
  };
}

/** No locks are taken: an image in use can be looked at. Throws `DiskError`. */
export function imageInfo(name: string, wanted?: DiskFormat): ImageInfo {
  const file = HostFile.open(name, { write: false, lock: false });
  try {
    const format = wanted ?? detectFormat(file);
    const common = { filename: name, format, "actual-size": file.allocatedBytes() };
    if (format === "raw") return { ...common, "virtual-size": file.size(), "dirty-flag": false };
    const header = readHeader(file);
    const { version, backingFile, backingFormat } = header;
    const { snapshots } = readSnapshots(file, header);
    return {
      ...common,
      "virtual-size": header.size,
      "cluster-size": 2 ** header.clusterBits,
      "dirty-flag": header.dirty,
      ...(backingFile === undefined
        ? {}
        : { "backing-filename": backingFile, "full-backing-filename": fullName(name, backingFile) }),
      ...(backingFormat === undefined ? {} : { "backing-filename-format": backingFormat }),
      ...(snapshots.length === 0
        ? {}
        : {
            snapshots: snapshots.map((snapshot) => ({
              id: snapshot.id,
              name: snapshot.name,
              "vm-state-size": snapshot.vmStateSize,
              "date-sec": snapshot.dateSeconds,
              "date-nsec": snapshot.dateNanoseconds,
              "vm-clock-sec": Number(snapshot.guestTime / 1_000_000_000n),
              "vm-clock-nsec": Number(snapshot.guestTime % 1_000_000_000n),
              "virtual-size": snapshot.size,
            })),
          }),
      "format-specific": {
        type: "qcow2",
        data: {
          compat: version === 2 ? "0.10" : "1.1",
          "compression-type": header.compression === "deflate" ? "zlib" : header.compression,
          ...(version === 2 ? {} : { "lazy-refcounts": header.lazyRefcounts }),
          "refcount-bits": 2 ** header.refcountOrder,
          ...(version === 2 ? {} : { corrupt: header.corrupt, "extended-l2": header.extendedL2 }),
        },
      },
    };
  } finally {
    file.close();
  }
}

/** A name that cannot be resolved is shown as it is. */
function fullName(overlay: string, name: string): string {
  try {
    return resolveBacking(overlay, name);
  } catch {
    return name;
  }
}

const MAX_CHAIN = 64;

/** The image and its backing files. Throws `DiskError`. */
export function imageChain(name: string, format?: DiskFormat): ImageInfo[] {
  const chain = [imageInfo(name, format)];
  for (;;) {
    const last = chain[chain.length - 1];
    const backing = last["full-backing-filename"];
    if (backing === undefined) return chain;
    if (chain.length >= MAX_CHAIN)
      throw new DiskError(`${name}: more than ${MAX_CHAIN} backing files, or a loop`);
    const known = last["backing-filename-format"];
    chain.push(imageInfo(backing, known === "raw" || known === "qcow2" ? known : undefined));
  }
}

/** Check the qcow2 image `name`, and repair it. Throws `DiskError` where it cannot be checked. */
export function checkImage(name: string, repair: Repair, wanted?: DiskFormat): CheckResult {
  const file = HostFile.open(name, { write: repair !== "none" });
  try {
    const format = wanted ?? detectFormat(file);
    if (format !== "qcow2") throw new DiskError(`${name}: a ${format} image has nothing to check`);
    return checkQcow2(file, repair);
  } finally {
    file.close();
  }
}
