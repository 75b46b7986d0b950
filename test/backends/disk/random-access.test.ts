/** Random reads, writes, discards and zeros on images of every kind, made by QEMU and by NLKT, and read by both. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { test } from "node:test";
import { openDisk } from "../../../src/backends/disk/open-disk.js";
import {
  contents,
  ModelledDisk,
  NO_QEMU_IMG,
  qemuCheck,
  qemuContents,
  qemuImg,
  random,
  scratch,
} from "./support.js";

const SIZE = 3 * 2 ** 20 + 512;

interface Case {
  readonly name: string;
  readonly options: string;
  readonly backing?: "raw" | "qcow2";
  readonly snapshot?: boolean;
  readonly compressed?: boolean;
}

const CASES: readonly Case[] = [
  { name: "version 3", options: "" },
  { name: "version 2", options: "compat=0.10" },
  { name: "clusters of 512 bytes", options: "cluster_size=512" },
  { name: "clusters of 4 KiB, refcounts of 1 bit", options: "cluster_size=4096,refcount_bits=1" },
  { name: "refcounts of 2 bits", options: "cluster_size=4096,refcount_bits=2" },
  { name: "refcounts of 8 bits", options: "cluster_size=1024,refcount_bits=8" },
  { name: "refcounts of 32 bits", options: "cluster_size=1024,refcount_bits=32" },
  { name: "refcounts of 64 bits", options: "cluster_size=512,refcount_bits=64" },
  { name: "clusters of 2 MiB", options: "cluster_size=2M" },
  { name: "lazy refcounts", options: "lazy_refcounts=on" },
  { name: "extended L2", options: "extended_l2=on" },
  { name: "extended L2, 16 KiB", options: "extended_l2=on,cluster_size=16384" },
  { name: "preallocated", options: "preallocation=metadata,cluster_size=4096" },
  { name: "preallocated, extended L2", options: "preallocation=metadata,extended_l2=on" },
  { name: "fully preallocated", options: "preallocation=full" },
  { name: "over raw", options: "cluster_size=4096", backing: "raw" },
  { name: "over qcow2", options: "", backing: "qcow2" },
  { name: "version 2 over qcow2", options: "compat=0.10,cluster_size=8192", backing: "qcow2" },
  { name: "extended L2 over raw", options: "extended_l2=on,cluster_size=16384", backing: "raw" },
  { name: "snapshots", options: "cluster_size=4096", snapshot: true },
  { name: "snapshots, version 2", options: "cluster_size=4096,compat=0.10", snapshot: true },
  { name: "snapshots, extended L2", options: "cluster_size=16384,extended_l2=on", snapshot: true },
  { name: "compressed", options: "cluster_size=4096", compressed: true },
  { name: "compressed, 64 KiB, snapshots", options: "", compressed: true, snapshot: true },
  { name: "compressed zstd", options: "compression_type=zstd", compressed: true },
  { name: "compressed, extended L2", options: "extended_l2=on", compressed: true },
  { name: "compressed over raw", options: "cluster_size=4096", compressed: true, backing: "raw" },
];

/** Text, zeros and noise, each in runs. */
function sample(size: number, next: () => number): Buffer {
  const bytes = Buffer.alloc(size);
  for (let at = 0; at < size; ) {
    const length = Math.min(size - at, 512 + Math.floor(next() * 40000));
    const kind = next();
    if (kind < 0.4) for (let i = 0; i < length; i++) bytes[at + i] = next() * 256;
    else if (kind < 0.7) bytes.fill(`line ${at} of a text\n`, at, at + length);
    at += length;
  }
  return bytes;
}

for (const [index, { name, options, backing, snapshot, compressed }] of CASES.entries()) {
  test(`random accesses: ${name}`, { skip: NO_QEMU_IMG }, async (t) => {
    const file = scratch(t);
    const next = random(index + 1);
    const image = file("image.qcow2");
    const base = file("base");
    const args = options === "" ? [] : ["-o", options];
    if (backing !== undefined) {
      const bytes = sample(SIZE - 100_352, next);
      writeFileSync(file("base.raw"), bytes);
      qemuImg("convert", "-f", "raw", "-O", backing, file("base.raw"), base);
      args.push("-b", "base", "-F", backing);
    }
    if (compressed) {
      writeFileSync(file("source.raw"), sample(SIZE, next));
      const target = backing === undefined ? [] : ["-B", "base", "-F", backing];
      const only = options === "" ? [] : ["-o", options];
      qemuImg("convert", "-c", ...target, ...only, "-f", "raw", "-O", "qcow2", file("source.raw"), image);
    } else {
      qemuImg("create", "-q", "-f", "qcow2", ...args, image, String(SIZE));
    }
    let saved: Buffer | undefined;
    for (let round = 0; round < 3; round++) {
      if (snapshot && round === 1) {
        saved = qemuContents(image, "qcow2", file("saved.raw"));
        qemuImg("snapshot", "-c", "one", image);
      }
      const disk = await openDisk({ file: image });
      assert.equal(disk.sizeBytes, SIZE);
      const modelled = new ModelledDisk(disk, next);
      for (let step = 0; step < 120; step++) modelled.step();
      disk.close();
      assert.equal(qemuCheck(image), 0, "leaks");
      assert.ok(
        qemuContents(image, "qcow2", file("out.raw")).equals(modelled.model),
        "QEMU reads something else",
      );
      const again = await openDisk({ file: image, readOnly: true });
      assert.ok(contents(again).equals(modelled.model), "NLKT reads something else");
      again.close();
    }
    if (saved !== undefined) {
      const disk = await openDisk({ file: image, snapshot: "one" });
      assert.ok(contents(disk).equals(saved), "the snapshot changed");
      disk.close();
      qemuImg("snapshot", "-a", "one", image);
      assert.equal(qemuCheck(image), 0);
      assert.ok(
        qemuContents(image, "qcow2", file("out.raw")).equals(saved),
        "QEMU finds the snapshot changed",
      );
    }
  });
}

test("random accesses: raw", async (t) => {
  const file = scratch(t);
  writeFileSync(file("raw"), Buffer.alloc(SIZE));
  const disk = await openDisk({ file: file("raw"), format: "raw" });
  const modelled = new ModelledDisk(disk, random(99));
  for (let step = 0; step < 300; step++) modelled.step();
  disk.close();
  const again = await openDisk({ file: file("raw") });
  assert.ok(contents(again).equals(modelled.model));
  again.close();
});

test("random accesses: a temporary overlay", { skip: NO_QEMU_IMG }, async (t) => {
  const file = scratch(t);
  const bytes = sample(SIZE, random(7));
  writeFileSync(file("base"), bytes);
  const disk = await openDisk({ file: file("base"), cow: true });
  const modelled = new ModelledDisk(disk, random(100));
  assert.ok(modelled.model.equals(bytes));
  for (let step = 0; step < 300; step++) modelled.step();
  assert.ok(contents(disk).equals(modelled.model));
  disk.close();
  const below = await openDisk({ file: file("base"), readOnly: true });
  assert.ok(contents(below).equals(bytes), "the file below changed");
  below.close();
});
