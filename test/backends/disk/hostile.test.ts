/** Images that are broken, hostile, or of a kind that is not supported: one clear error, soon, and nothing else. */
import assert from "node:assert/strict";
import { readFileSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { type Disk, DiskError } from "../../../src/backends/disk/disk.js";
import { checkImage, imageChain, imageInfo } from "../../../src/backends/disk/image-info.js";
import { type DiskSpec, openDisk } from "../../../src/backends/disk/open-disk.js";
import { hasQemuImg, must, NO_QEMU_IMG, qemuImg, random, run, scratch } from "./support.js";

async function refused(spec: DiskSpec, pattern: RegExp): Promise<void> {
  await assert.rejects(
    async () => {
      const disk = await openDisk(spec);
      disk.close();
    },
    (error: unknown) => {
      assert.ok(error instanceof DiskError, String(error));
      assert.ok(!error.message.includes("\n"), "one line");
      assert.match(error.message, pattern);
      return true;
    },
  );
}

/** An image of 1 MiB, and what is changed in it. */
function image(path: string, patch: (view: DataView, bytes: Buffer) => void, options = ""): string {
  qemuImg("create", "-q", "-f", "qcow2", ...(options === "" ? [] : ["-o", options]), path, "1M");
  const bytes = readFileSync(path);
  patch(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), bytes);
  writeFileSync(path, bytes);
  return path;
}

const HEADERS: readonly (readonly [string, (view: DataView) => void, RegExp])[] = [
  ["version 4", (v) => v.setUint32(4, 4), /version 4 is not supported/],
  ["cluster bits 8", (v) => v.setUint32(20, 8), /cluster size 2\^8/],
  ["cluster bits 22", (v) => v.setUint32(20, 22), /cluster size 2\^22/],
  ["AES", (v) => v.setUint32(32, 1), /AES encryption is not supported/],
  ["LUKS", (v) => v.setUint32(32, 2), /LUKS encryption is not supported/],
  ["encryption 9", (v) => v.setUint32(32, 9), /unknown qcow2 encryption method 9/],
  ["external data file", (v) => v.setUint32(76, 4), /external data file is not supported/],
  ["unknown feature", (v) => v.setUint32(76, 0x80), /unknown qcow2 features: incompatible feature bit 7/],
  ["compression type without its bit", (v) => v.setUint8(104, 1), /compression type/],
  [
    "compression type 2",
    (v) => {
      v.setUint32(76, 8);
      v.setUint8(104, 2);
    },
    /unknown qcow2 compression type 2/,
  ],
  ["refcount order 7", (v) => v.setUint32(96, 7), /refcount order of 7/],
  ["header length 100", (v) => v.setUint32(100, 100), /header length of 100/],
  ["header length of a gigabyte", (v) => v.setUint32(100, 2 ** 30), /header of 1073741824 bytes/],
  ["L1 of 4 billion entries", (v) => v.setUint32(36, 0xffffffff), /L1 table of 4294967295 entries/],
  ["L1 too short", (v) => v.setUint32(36, 0), /L1 table has 0 entries/],
  ["L1 not aligned", (v) => v.setUint32(44, 0x30001), /L1 table is at offset 196609/],
  ["L1 outside", (v) => v.setUint32(40, 0x100), /L1 table at .* beyond the end/],
  ["refcount table outside", (v) => v.setUint32(48, 0x7fffffff), /refcount table at .* beyond the end/],
  ["refcount table huge", (v) => v.setUint32(56, 0xffffffff), /refcount table of 4294967295 clusters/],
  ["refcount table missing", (v) => v.setUint32(56, 0), /no refcount table/],
  ["a disk of 2^63 bytes", (v) => v.setUint32(24, 0x7fffffff), /disk size of .* not supported/],
  ["4 billion snapshots", (v) => v.setUint32(60, 0xffffffff), /4294967295 snapshots/],
  [
    "backing name outside",
    (v) => {
      v.setUint32(12, 0xfff0);
      v.setUint32(16, 1000);
    },
    /backing file name/,
  ],
  [
    "backing name too long",
    (v) => {
      v.setUint32(12, 0x400);
      v.setUint32(16, 5000);
    },
    /name of 5000 bytes/,
  ],
];

test("headers that are refused", { skip: NO_QEMU_IMG }, async (t) => {
  const file = scratch(t);
  for (const [name, patch, pattern] of HEADERS) {
    const path = image(file("image"), patch);
    for (const readOnly of [true, false]) {
      await refused({ file: path, readOnly, format: "qcow2" }, pattern).catch((error: Error) => {
        error.message = `${name}: ${error.message}`;
        throw error;
      });
    }
  }
});

test("a feature is called by the name that the image gives it", { skip: NO_QEMU_IMG }, async (t) => {
  const file = scratch(t);
  const path = image(file("image"), (view, bytes) => {
    view.setUint32(76, 0x20);
    const at = bytes.indexOf("extended L2 entries");
    bytes[at - 1] = 5;
    bytes.fill(0, at, at + 46);
    bytes.write("time travel", at);
  });
  await refused({ file: path }, /unknown qcow2 features: time travel/);
});

test("files that are no images", async (t) => {
  const file = scratch(t);
  await refused({ file: file("none") }, /none: no such file/);
  await refused({ file: file("") }, /is a directory/);
  writeFileSync(file("short"), "QFI\xfb", "latin1");
  await refused({ file: file("short"), format: "qcow2" }, /header is cut off|not a qcow2/);
  writeFileSync(file("text"), "hello");
  await refused({ file: file("text"), format: "qcow2" }, /header is cut off/);
  symlinkSync(file("loop"), file("loop"));
  await refused({ file: file("loop") }, /too many symbolic links/);
  must("mkfifo", file("fifo"));
  await refused({ file: file("fifo"), readOnly: true }, /not a regular file/);
  await refused({ file: "/dev/zero", readOnly: true }, /not a regular file/);
  for (const [bytes, pattern] of [
    ["KDMV", /a VMDK image/],
    ["vhdxfile", /a VHDX image/],
    ["conectix", /a VHD image/],
    ["QED\0", /a QED image/],
    ["LUKS\xba\xbe", /a LUKS container/],
  ] as const) {
    writeFileSync(file("foreign"), Buffer.concat([Buffer.from(bytes, "latin1"), Buffer.alloc(1024)]));
    await refused({ file: file("foreign") }, pattern);
    const disk = await openDisk({ file: file("foreign"), format: "raw" });
    disk.close();
  }
});

test("backing files: missing, in loops, of other kinds, too many", { skip: NO_QEMU_IMG }, async (t) => {
  const file = scratch(t);
  const overlay = (name: string, backing: string, format = "qcow2") =>
    qemuImg("create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", format, file(name), "1M");
  overlay("a", "missing");
  await refused({ file: file("a") }, /a: its backing file: .*missing: no such file/);
  overlay("a", "b");
  overlay("b", "a");
  await refused({ file: file("a") }, /a loop/);
  assert.throws(() => imageChain(file("a")), DiskError);
  overlay("self", "self");
  await refused({ file: file("self") }, /a loop/);
  overlay("a", "nbd://localhost/disk", "raw");
  await refused({ file: file("a") }, /not a plain file/);
  overlay("a", 'json:{"driver":"file"}', "raw");
  await refused({ file: file("a") }, /not a plain file/);
  overlay("a", "b", "vmdk");
  await refused({ file: file("a") }, /format "vmdk" is not supported/);
  overlay("a", "/dev/zero", "raw");
  await refused({ file: file("a") }, /not a regular file/);
  writeFileSync(file("c0"), Buffer.alloc(1024));
  for (let i = 1; i <= 70; i++) overlay(`c${i}`, `c${i - 1}`, i === 1 ? "raw" : "qcow2");
  await refused({ file: file("c70") }, /too many/);
  const disk = await openDisk({ file: file("c60") });
  disk.close();
});

test("an image marked corrupt is read and not written", { skip: NO_QEMU_IMG }, async (t) => {
  const file = scratch(t);
  const path = image(file("image"), (view) => view.setUint32(76, 2));
  await refused({ file: path }, /marked as corrupt/);
  const disk = await openDisk({ file: path, readOnly: true });
  disk.read(0, new Uint8Array(512));
  disk.close();
});

test("tables that contradict themselves give errors where they are met", { skip: NO_QEMU_IMG }, async (t) => {
  const file = scratch(t);
  const path = file("image");
  qemuImg("create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", path, "1M");
  must("qemu-io", "-f", "qcow2", "-c", "write 0 64k", path);
  const good = readFileSync(path);
  const view = (bytes: Buffer) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const l1 = Number(view(good).getBigUint64(40));
  const l2 = Number(view(good).getBigUint64(l1) & 0x00fffffffffffe00n);
  const broken = async (at: number, value: bigint, use: (disk: Disk) => void, pattern: RegExp) => {
    const bytes = Buffer.from(good);
    view(bytes).setBigUint64(at, value);
    writeFileSync(path, bytes);
    const disk = await openDisk({ file: path });
    assert.throws(() => use(disk), pattern);
    disk.close();
  };
  const read = (disk: Disk) => disk.read(0, new Uint8Array(512));
  const write = (disk: Disk) => disk.write(0, new Uint8Array(512));
  const COPIED = 1n << 63n;
  await broken(l1, COPIED | 0x200n, read, /an L2 table is at offset 512/);
  await broken(l2, COPIED | 0x200n, read, /a cluster is at offset 512/);
  // Data over the header, the L1 table, and far outside of the file.
  await broken(l2, COPIED | BigInt(l1), write, /where a table is/);
  await broken(l2, COPIED | BigInt(l2), write, /where a table is/);
  await broken(l2, COPIED | (1n << 50n), write, /not counted/);
  await broken(l1, COPIED | (1n << 50n), write, /not counted/);
  // A compressed cluster that is none.
  await broken(l2, (1n << 62n) | BigInt(l1), read, /cannot be unpacked/);
  assert.ok(readFileSync(path).length <= good.length + 65536, "the file grew");
});

test("a guest cannot make a qcow2 image of a raw disk whose format was guessed", async (t) => {
  const file = scratch(t);
  writeFileSync(file("raw"), Buffer.alloc(65536));
  const disk = await openDisk({ file: file("raw") });
  const header = Buffer.alloc(512);
  header.write("QFI\xfb", "latin1");
  assert.throws(() => disk.write(0, header), /would make a qcow2 image/);
  disk.write(0, Buffer.from("QF"));
  assert.throws(() => disk.write(2, Buffer.from("I\xfb", "latin1")), /would make a qcow2 image/);
  disk.write(512, header);
  disk.close();
  const said = await openDisk({ file: file("raw"), format: "raw" });
  said.write(0, header);
  said.close();
});

test("accesses outside of a disk", async (t) => {
  const file = scratch(t);
  writeFileSync(file("raw"), Buffer.alloc(65536));
  const disk = await openDisk({ file: file("raw") });
  const buffer = new Uint8Array(512);
  for (const offset of [65536, 65535, -1, 0.5, Number.NaN, 2 ** 60]) {
    assert.throws(() => disk.read(offset, buffer), DiskError);
    assert.throws(() => disk.write(offset, buffer), DiskError);
    assert.throws(() => disk.discard(offset, 512), DiskError);
    assert.throws(() => disk.writeZeroes(offset, 512, true), DiskError);
  }
  disk.close();
});

/** Milliseconds that the fuzzer may take. */
const FUZZ_MILLISECONDS = 2000;

test("bytes changed at random", { skip: NO_QEMU_IMG }, async (t) => {
  const file = scratch(t);
  const source = file("source");
  const path = file("image");
  const next = random(20);
  const end = Date.now() + FUZZ_MILLISECONDS;
  const kinds = [
    "cluster_size=4096",
    "cluster_size=512,refcount_bits=1",
    "extended_l2=on,cluster_size=16384",
    "",
  ];
  let opened = 0;
  let rounds = 0;
  for (const options of kinds) {
    const args = options === "" ? [] : ["-o", options];
    writeFileSync(file("raw"), Buffer.alloc(300_000, "some text that can be compressed "));
    qemuImg("convert", "-c", ...args, "-f", "raw", "-O", "qcow2", file("raw"), source);
    if (!options.includes("refcount_bits=1")) qemuImg("snapshot", "-c", "one", source);
    must("qemu-io", "-f", "qcow2", "-c", "write 0 100k", source);
    const good = readFileSync(source);
    const limit = Date.now() + (end - Date.now()) / (kinds.length - kinds.indexOf(options));
    while (Date.now() < limit) {
      rounds++;
      const bytes = Buffer.from(good);
      // The header, the tables that it names, anything.
      const tables = [0, Number(bytes.readBigUInt64BE(40)), Number(bytes.readBigUInt64BE(48))];
      for (let change = 1 + Math.floor(next() * 4); change > 0; change--) {
        const base =
          next() < 0.8 ? tables[Math.floor(next() * tables.length)] : Math.floor(next() * bytes.length);
        const at = base + Math.floor(next() * (next() < 0.7 ? 112 : 4096));
        if (at < bytes.length) bytes[at] = next() < 0.3 ? 0xff : next() * 256;
      }
      writeFileSync(path, bytes);
      try {
        imageInfo(path, "qcow2");
        const disk = await openDisk({ file: path, format: "qcow2" });
        opened++;
        try {
          const buffer = new Uint8Array(4096);
          const size = Math.min(disk.sizeBytes, 400_000);
          for (let access = 0; access < 12 && size > 8192; access++) {
            const at = Math.floor(next() * (size - 4096));
            try {
              if (access % 3 === 0) disk.write(at, buffer);
              else if (access % 5 === 0) disk.discard(at, 4096);
              else disk.read(at, buffer);
            } catch (error) {
              if (!(error instanceof DiskError)) throw error;
            }
          }
        } finally {
          disk.close();
        }
      } catch (error) {
        assert.ok(error instanceof DiskError, (error as Error).stack);
      }
      try {
        checkImage(path, next() < 0.5 ? "all" : "none", "qcow2");
      } catch (error) {
        assert.ok(error instanceof DiskError, (error as Error).stack);
      }
    }
  }
  t.diagnostic(`${rounds} images, ${opened} of them could be opened`);
});

test("a sparse file of many terabytes is no reason to take memory or time", {
  skip: !hasQemuImg,
}, async (t) => {
  const file = scratch(t);
  const path = file("image");
  qemuImg("create", "-q", "-f", "qcow2", path, "1M");
  truncateSync(path, 2 ** 43);
  const disk = await openDisk({ file: path });
  disk.write(0, new Uint8Array(4096));
  disk.close();
  assert.equal(checkImage(path, "none").corruptions, 0);
});

test("locks: one writer, or readers, with QEMU among them", { skip: NO_QEMU_IMG }, async (t) => {
  const file = scratch(t);
  qemuImg("create", "-q", "-f", "qcow2", file("base"), "1M");
  qemuImg("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", file("image"));
  const image = file("image");
  const qemuIo = (...args: string[]) => run("qemu-io", "-f", "qcow2", ...args, image);
  const writer = await openDisk({ file: image });
  for (const args of [
    ["-c", "read 0 512"],
    ["-r", "-c", "read 0 512"],
  ]) {
    assert.match(qemuIo(...args).stderr, /Failed to get .*lock/);
  }
  await refused({ file: image }, /cannot lock the image: it is being written to/);
  await refused({ file: image, readOnly: true }, /cannot lock the image/);
  await refused({ file: file("base") }, /cannot lock the image: it is in use/);
  assert.match(run("qemu-io", "-f", "qcow2", "-c", "write 0 512", file("base")).stderr, /lock/);
  imageInfo(image);
  writer.close();
  assert.equal(qemuIo("-c", "read 0 512").stderr, "");

  const reader = await openDisk({ file: image, readOnly: true });
  assert.equal(qemuIo("-r", "-c", "read 0 512").stderr, "");
  (await openDisk({ file: image, readOnly: true })).close();
  assert.match(qemuIo("-c", "write 0 512").stderr, /lock/);
  await refused({ file: image }, /cannot lock the image: it is in use/);
  reader.close();
});
