/** Images made, copied, described, checked and repaired, beside qemu-img. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { convertImage } from "../../../src/backends/disk/convert.js";
import { createImage } from "../../../src/backends/disk/create-image.js";
import { HostFile } from "../../../src/backends/disk/host-file.js";
import { checkImage, imageChain, imageInfo } from "../../../src/backends/disk/image-info.js";
import { parseBytes, parseImageOptions } from "../../../src/backends/disk/image-options.js";
import { openDisk } from "../../../src/backends/disk/open-disk.js";
import { compressor } from "../../../src/backends/disk/qcow2/compression.js";
import {
  contents,
  must,
  NO_QEMU_IMG,
  qemuCheck,
  qemuContents,
  qemuImg,
  random,
  run,
  scratch,
} from "./support.js";

const OPTIONS = [
  "",
  "compat=0.10",
  "cluster_size=512",
  "cluster_size=2M",
  "cluster_size=4096,refcount_bits=1",
  "refcount_bits=64,lazy_refcounts=on",
  "extended_l2=on",
  "preallocation=metadata,cluster_size=4096",
  "preallocation=metadata,extended_l2=on",
  "preallocation=falloc",
  "preallocation=full",
  "compression_type=zstd",
];

interface QemuInfo {
  readonly "virtual-size": number;
  readonly "cluster-size": number;
  readonly "format-specific": { readonly data: object };
}

const qemuInfo = (file: string) => JSON.parse(qemuImg("info", "--output=json", file)) as QemuInfo;

/** Some of everything: text, noise, zeros. */
function sample(size: number): Buffer {
  const next = random(3);
  const bytes = Buffer.alloc(size);
  for (let at = 0; at < size; at += 20_000) {
    const part = bytes.subarray(at, at + 7000 + Math.floor(next() * 13_000));
    const kind = next();
    if (kind < 0.3) part.fill(`at ${at} a text\n`);
    else if (kind < 0.5) for (let i = 0; i < part.length; i++) part[i] = next() * 256;
  }
  return bytes;
}

for (const options of OPTIONS) {
  test(`images with ${options || "no options"}, as qemu-img makes and reads them`, {
    skip: NO_QEMU_IMG,
  }, async (t) => {
    const file = scratch(t);
    const size = 2 * 2 ** 20 + 512;
    const ours = file("ours");
    const theirs = file("theirs");
    const parsed = parseImageOptions("qcow2", options);
    const args = options === "" ? [] : ["-o", options];
    await createImage({ ...parsed, file: ours, format: "qcow2", size });
    qemuImg("create", "-q", "-f", "qcow2", ...args, theirs, String(size));
    assert.equal(qemuCheck(ours), 0);
    assert.deepEqual(checkImage(theirs, "none").messages, []);
    for (const image of [ours, theirs]) {
      const mine = imageInfo(image);
      const qemu = qemuInfo(image);
      assert.equal(mine["virtual-size"], qemu["virtual-size"]);
      assert.equal(mine["cluster-size"], qemu["cluster-size"]);
      assert.deepEqual(mine["format-specific"]?.data, qemu["format-specific"].data);
    }

    const raw = file("raw");
    writeFileSync(raw, sample(size));
    const compressed =
      compressor(parsed.compression ?? "deflate") !== undefined && !options.includes("prealloc");
    await convertImage({ source: raw, target: ours, format: "qcow2", options: parsed, compressed });
    assert.equal(qemuCheck(ours), 0);
    assert.ok(qemuContents(ours, "qcow2", file("out")).equals(readFileSync(raw)), "QEMU reads ours");
    qemuImg("convert", ...(compressed ? ["-c"] : []), ...args, "-f", "raw", "-O", "qcow2", raw, theirs);
    await convertImage({ source: theirs, target: file("back"), format: "raw", options: {} });
    assert.ok(readFileSync(file("back")).equals(readFileSync(raw)), "we read QEMU's");
    const { messages, ...found } = checkImage(theirs, "none");
    assert.deepEqual(messages, []);
    const qemu = JSON.parse(must("qemu-img", "check", "--output=json", theirs)) as Record<string, number>;
    assert.equal(found.allocatedClusters, qemu["allocated-clusters"] ?? 0);
    assert.equal(found.compressedClusters, qemu["compressed-clusters"] ?? 0);
    assert.equal(found.fragmentedClusters, qemu["fragmented-clusters"] ?? 0);
    assert.equal(found.totalClusters, qemu["total-clusters"]);
    assert.equal(found.imageEnd, qemu["image-end-offset"]);
  });
}

test("a copy is as sparse as QEMU's", { skip: NO_QEMU_IMG }, async (t) => {
  const file = scratch(t);
  writeFileSync(file("raw"), sample(8 * 2 ** 20));
  await convertImage({ source: file("raw"), target: file("ours"), format: "raw", options: {} });
  qemuImg("convert", "-f", "raw", "-O", "raw", file("raw"), file("theirs"));
  assert.ok(readFileSync(file("ours")).equals(readFileSync(file("raw"))));
  assert.ok(statSync(file("ours")).blocks <= statSync(file("theirs")).blocks);
});

test("overlays: chains, sizes, copies of what is different only", { skip: NO_QEMU_IMG }, async (t) => {
  const file = scratch(t);
  const bytes = sample(2 ** 20);
  writeFileSync(file("base.raw"), bytes);
  await createImage({ file: file("one"), format: "qcow2", backing: "base.raw" });
  await createImage({ file: file("two"), format: "qcow2", backing: "one", size: 2 ** 21 });
  assert.equal(imageInfo(file("one"))["backing-filename-format"], "raw");
  assert.deepEqual(
    imageChain(file("two")).map((info) => [info.filename, info.format, info["virtual-size"]]),
    [
      [file("two"), "qcow2", 2 ** 21],
      [file("one"), "qcow2", 2 ** 20],
      [file("base.raw"), "raw", 2 ** 20],
    ],
  );
  const disk = await openDisk({ file: file("two") });
  disk.write(1000, Buffer.from("changed"));
  disk.close();
  const expected = Buffer.concat([bytes, Buffer.alloc(2 ** 20)]);
  expected.write("changed", 1000);
  assert.ok(qemuContents(file("two"), "qcow2", file("out")).equals(expected));
  await convertImage({
    source: file("two"),
    target: file("delta"),
    format: "qcow2",
    backing: "base.raw",
    options: {},
  });
  assert.ok(qemuContents(file("delta"), "qcow2", file("out")).equals(expected));
  assert.equal(checkImage(file("delta"), "none").allocatedClusters, 1);
  assert.ok(readFileSync(file("base.raw")).equals(bytes));
});

test("internal snapshots are listed and readable", { skip: NO_QEMU_IMG }, async (t) => {
  const file = scratch(t);
  const image = file("image");
  writeFileSync(file("raw"), sample(2 ** 20));
  qemuImg("convert", "-f", "raw", "-O", "qcow2", file("raw"), image);
  qemuImg("snapshot", "-c", "before", image);
  must("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 300k", image);
  qemuImg("snapshot", "-c", "after", image);
  const listed = JSON.parse(qemuImg("info", "--output=json", image)) as {
    snapshots: Record<string, unknown>[];
  };
  const { snapshots = [] } = imageInfo(image);
  assert.deepEqual(
    snapshots.map(({ id, name, "date-sec": date, "vm-state-size": state }) => ({ id, name, date, state })),
    listed.snapshots.map((s) => ({ id: s.id, name: s.name, date: s["date-sec"], state: s["vm-state-size"] })),
  );
  for (const snapshot of ["before", "1"]) {
    await convertImage({ source: image, snapshot, target: file("out"), format: "raw", options: {} });
    assert.ok(readFileSync(file("out")).equals(readFileSync(file("raw"))));
  }
  await assert.rejects(openDisk({ file: image, snapshot: "never" }), /no snapshot never/);
  await assert.rejects(openDisk({ file: file("raw"), snapshot: "x" }), /has no snapshots/);
});

test("cow=FILE: an overlay that is made once and used again", { skip: NO_QEMU_IMG }, async (t) => {
  const file = scratch(t);
  writeFileSync(file("base"), Buffer.alloc(2 ** 20, "base"));
  const spec = { file: file("base"), cow: { file: file("overlay") } };
  const first = await openDisk(spec);
  first.write(0, Buffer.from("over"));
  first.close();
  const second = await openDisk(spec);
  assert.equal(contents(second).toString("latin1", 0, 8), "overbase");
  second.close();
  assert.equal(qemuCheck(file("overlay")), 0);
  assert.equal(readFileSync(file("base"), "latin1").slice(0, 8), "basebase");
  writeFileSync(file("other"), Buffer.alloc(2 ** 20));
  await assert.rejects(
    openDisk({ file: file("other"), cow: { file: file("overlay") } }),
    /is an overlay of .*base/,
  );
  await assert.rejects(openDisk({ file: file("none"), cow: { file: file("new") } }), /none: no such file/);
  assert.ok(!existsSync(file("new")));
  const nowhere = file("no/such/overlay");
  await assert.rejects(openDisk({ file: file("base"), cow: { file: nowhere } }), {
    name: "DiskError",
    message: `${nowhere}: no such directory`,
  });
  // Several at once: one makes it, and one has it.
  const several = { file: file("base"), cow: { file: file("several") } };
  const opened = await Promise.allSettled(Array.from({ length: 4 }, () => openDisk(several)));
  const winners = opened.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  assert.equal(winners.length, 1);
  for (const result of opened) {
    if (result.status === "rejected") assert.match(`${result.reason}`, /DiskError: .*several: cannot lock/);
  }
  winners[0].close();
  assert.deepEqual(
    readdirSync(path.dirname(file("several"))).filter((name) => name.includes(".tmp-")),
    [],
  );
});

test("a temporary overlay leaves nothing behind, and its base as it was, when its process is killed", async (t) => {
  const file = scratch(t);
  const base = Buffer.alloc(2 ** 20, "base");
  writeFileSync(file("base"), base);
  const before = statSync(file("base"));
  mkdirSync(file("tmp"));
  const openDiskUrl = new URL("../../../src/backends/disk/open-disk.js", import.meta.url);
  const script = `
    import { openDisk } from ${JSON.stringify(openDiskUrl.href)};
    const disk = await openDisk({ file: process.argv[1], cow: true });
    for (let at = 0; at < disk.sizeBytes; at += 4096) disk.write(at, Buffer.alloc(4096, "over"));
    disk.flush();
    console.log("written");
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script, file("base")], {
    env: { ...process.env, TMPDIR: file("tmp") },
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(child.stdout, "data");
  assert.deepEqual(readdirSync(file("tmp")), [], "the file has no name while it is used");
  child.kill("SIGKILL");
  await once(child, "exit");
  assert.deepEqual(readdirSync(file("tmp")), []);
  assert.ok(readFileSync(file("base")).equals(base));
  assert.equal(statSync(file("base")).mtimeMs, before.mtimeMs);
});

test("a temporary overlay that is kept has its contents when it is opened again", async (t) => {
  const file = scratch(t);
  writeFileSync(file("base"), Buffer.alloc(2 ** 20, "base"));
  const overlay = HostFile.temporary();
  const spec = { file: file("base"), cow: { descriptor: overlay.descriptor } };
  const first = await openDisk(spec);
  first.write(4, Buffer.from("over"));
  first.writeZeroes(2 ** 19, 2 ** 18, true);
  first.close();
  const second = await openDisk(spec);
  const bytes = contents(second);
  assert.equal(bytes.toString("latin1", 0, 12), "baseoverbase");
  assert.ok(bytes.subarray(2 ** 19, 2 ** 19 + 2 ** 18).every((byte) => byte === 0));
  second.close();
  overlay.close();
  assert.equal(readFileSync(file("base"), "latin1").slice(0, 12), "basebasebase");
});

test("lazy refcounts: what a killed QEMU left behind is put in order", { skip: NO_QEMU_IMG }, async (t) => {
  const file = scratch(t);
  const image = file("image");
  qemuImg("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on,cluster_size=4096", image, "4M");
  run("qemu-io", "-f", "qcow2", "-c", "write -P 5 0 1M", "-c", "flush", "-c", "abort", image);
  assert.equal(imageInfo(image)["dirty-flag"], true);
  assert.ok(checkImage(image, "none").corruptions > 0);
  const reader = await openDisk({ file: image, readOnly: true });
  assert.ok(
    contents(reader)
      .subarray(0, 2 ** 20)
      .every((byte) => byte === 5),
  );
  reader.close();
  const writer = await openDisk({ file: image });
  writer.write(2 ** 21, Buffer.alloc(100_000, 6));
  writer.close();
  assert.equal(imageInfo(image)["dirty-flag"], false);
  assert.equal(qemuCheck(image), 0);
  const bytes = qemuContents(image, "qcow2", file("out"));
  assert.ok(bytes.subarray(0, 2 ** 20).every((byte) => byte === 5));
});

test("repairs: leaks, lost refcounts, wrong flags", { skip: NO_QEMU_IMG }, async (t) => {
  const file = scratch(t);
  const image = file("image");
  const make = (patch: (bytes: Buffer, block: number, l2: number) => void) => {
    qemuImg("create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", image, "1M");
    must("qemu-io", "-f", "qcow2", "-c", "write -P 3 0 200k", image);
    const bytes = readFileSync(image);
    const table = Number(bytes.readBigUInt64BE(48));
    const l1 = Number(bytes.readBigUInt64BE(40));
    const offset = (at: number) => Number(bytes.readBigUInt64BE(at) & 0x00fffffffffffe00n);
    patch(bytes, offset(table), offset(l1));
    writeFileSync(image, bytes);
  };
  const same = () => {
    const bytes = qemuContents(image, "qcow2", file("out"));
    assert.ok(bytes.subarray(0, 200 * 1024).every((byte) => byte === 3));
  };
  // A cluster at the end that nothing uses.
  make((bytes, block) => bytes.writeUInt16BE(1, block + 2 * 200));
  assert.deepEqual([checkImage(image, "none").leaks, checkImage(image, "none").corruptions], [1, 0]);
  assert.equal(checkImage(image, "leaks").leaksFixed, 1);
  assert.equal(qemuCheck(image), 0);
  // Counts lost.
  make((bytes, block) => bytes.fill(0, block + 20, block + 60));
  assert.equal(checkImage(image, "leaks").corruptionsFixed, 0);
  const lost = checkImage(image, "all");
  assert.ok(lost.corruptions >= 20 && lost.corruptionsFixed === lost.corruptions);
  assert.equal(qemuCheck(image), 0);
  same();
  // A flag lost.
  make((bytes, _block, l2) => bytes.writeUInt8(bytes[l2] & 0x7f, l2));
  assert.equal(checkImage(image, "none").corruptions, 1);
  assert.equal(checkImage(image, "all").corruptionsFixed, 1);
  assert.equal(qemuCheck(image), 0);
  same();
  // The refcount block itself is nowhere.
  make((bytes) => bytes.writeBigUInt64BE(1n << 40n, Number(bytes.readBigUInt64BE(48))));
  const rebuilt = checkImage(image, "all");
  assert.equal(rebuilt.corruptionsFixed, rebuilt.corruptions);
  assert.equal(qemuCheck(image), 0);
  same();
});

test("bitmaps of others are left alone, and given up when the image is written to", {
  skip: NO_QEMU_IMG,
}, async (t) => {
  const file = scratch(t);
  const image = file("image");
  qemuImg("create", "-q", "-f", "qcow2", image, "16M");
  qemuImg("bitmap", "--add", image, "b0");
  assert.deepEqual(checkImage(image, "none").messages, []);
  const reader = await openDisk({ file: image, readOnly: true });
  reader.close();
  assert.equal(run("qemu-img", "check", image).status, 0);
  const disk = await openDisk({ file: image });
  disk.write(0, Buffer.alloc(4096, 1));
  disk.close();
  // QEMU says itself that they are inconsistent, and that their clusters are leaked.
  assert.ok(checkImage(image, "none").leaks > 0);
  assert.ok(qemuCheck(image) > 0);
  assert.equal(checkImage(image, "none").corruptions, 0);
});

test("options and sizes", () => {
  assert.equal(parseBytes("1.5G", "size"), 1.5 * 2 ** 30);
  assert.equal(parseBytes("4k", "size"), 4096);
  for (const text of ["", "-1", "1Q", "1e9", "9999999P", "0x10"]) {
    assert.throws(() => parseBytes(text, "size"), /not a size/);
  }
  assert.deepEqual(parseImageOptions("qcow2", "cluster_size=4K,compat=1.1"), {
    clusterSize: 4096,
    version: 3,
  });
  assert.throws(() => parseImageOptions("qcow2", "colour=red"), /no option "colour"/);
  assert.throws(() => parseImageOptions("qcow2", "__proto__=1"), /no option/);
  assert.throws(() => parseImageOptions("raw", "cluster_size=4K"), /raw images have no option/);
  assert.throws(() => parseImageOptions("qcow2", "extended_l2=maybe"), /on or off/);
});

test("images that cannot be made", async (t) => {
  const file = scratch(t);
  const make = (options: string, size = 2 ** 20) =>
    createImage({ ...parseImageOptions("qcow2", options), file: file("image"), format: "qcow2", size });
  await assert.rejects(make("cluster_size=1000"), /image: cluster size 1000/);
  await assert.rejects(make("cluster_size=4M"), /cluster size/);
  await assert.rejects(make("refcount_bits=3"), /refcount bits/);
  await assert.rejects(make("extended_l2=on,cluster_size=4096"), /16 KiB/);
  await assert.rejects(make("compat=0.10,extended_l2=on"), /version 2/);
  await assert.rejects(make("cluster_size=512", 2 ** 50), /too large/);
  assert.ok(!existsSync(file("image")));
  await assert.rejects(
    createImage({ file: file("image"), format: "qcow2", backing: "none", size: 2 ** 20 }),
    /none: no such file/,
  );
  writeFileSync(file("raw"), "");
  await assert.rejects(
    convertImage({ source: file("raw"), target: file("raw"), format: "qcow2", options: {} }),
    /the same file/,
  );
});
