import assert from "node:assert/strict";
import { test } from "node:test";
import { gunzipSync } from "node:zlib";
import { BootError } from "../../src/boot/boot-error.js";
import { CpioArchive, concatArchives } from "../../src/boot/cpio.js";
import { hasTool, pipe } from "./tools.js";

interface Parsed {
  mode: number;
  inode: number;
  links: number;
  uid: number;
  major: number;
  minor: number;
  data: Buffer;
}

/** A reader written from buffer-format.rst, apart from the writer. */
function parse(archive: Uint8Array): Map<string, Parsed> {
  const bytes = Buffer.from(archive);
  const entries = new Map<string, Parsed>();
  for (let at = 0; ; ) {
    assert.equal(at % 4, 0, "each header is at a multiple of four");
    assert.equal(bytes.toString("latin1", at, at + 6), "070701");
    const field = (index: number) => {
      const text = bytes.toString("latin1", at + 6 + index * 8, at + 14 + index * 8);
      assert.match(text, /^[0-9A-F]{8}$/);
      return Number.parseInt(text, 16);
    };
    const [size, nameSize] = [field(6), field(11)];
    const name = bytes.toString("utf8", at + 110, at + 110 + nameSize - 1);
    assert.equal(bytes[at + 110 + nameSize - 1], 0);
    const data = Math.ceil((at + 110 + nameSize) / 4) * 4;
    if (name === "TRAILER!!!") return entries;
    assert.ok(!entries.has(name), name);
    entries.set(name, {
      inode: field(0),
      mode: field(1),
      uid: field(2),
      links: field(4),
      major: field(9),
      minor: field(10),
      data: bytes.subarray(data, data + size),
    });
    at = Math.ceil((data + size) / 4) * 4;
  }
}

function sample(): CpioArchive {
  return new CpioArchive()
    .file("init", "#!/bin/sh\n", 0o755)
    .directory("dev")
    .device("dev/console", "character", 5, 1)
    .device("/dev/vda", "block", 254, 3, 0o660)
    .symlink("bin/sh", "/bin/busybox")
    .directory("tmp", 0o1777)
    .file("a/b/c", Buffer.alloc(1001, 7), 0o4644)
    .file("ümlaut", "x");
}

test("files, directories, links and devices with their modes", () => {
  const entries = parse(sample().toBytes());
  const mode = (name: string) => entries.get(name)?.mode.toString(8);
  assert.equal(mode("init"), "100755");
  assert.equal(mode("dev"), "40755");
  assert.equal(mode("dev/console"), "20600");
  assert.equal(mode("dev/vda"), "60660");
  assert.equal(mode("bin/sh"), "120777");
  assert.equal(mode("tmp"), "41777");
  assert.equal(mode("a/b/c"), "104644");
  assert.deepEqual([entries.get("dev/vda")?.major, entries.get("dev/vda")?.minor], [254, 3]);
  assert.equal(entries.get("bin/sh")?.data.toString(), "/bin/busybox");
  assert.ok(entries.get("a/b/c")?.data.equals(Buffer.alloc(1001, 7)));
  assert.equal(new Set([...entries.values()].map(({ inode }) => inode)).size, entries.size);
  assert.ok([...entries.values()].every(({ uid }) => uid === 0));
});

test("directories that are missing are added, before what is in them", () => {
  const names = [...parse(sample().toBytes()).keys()];
  for (const name of names) {
    const parent = name.split("/").slice(0, -1).join("/");
    if (parent !== "")
      assert.ok(names.indexOf(parent) >= 0 && names.indexOf(parent) < names.indexOf(name), name);
  }
});

test("an entry that is added again replaces the first", () => {
  const entries = parse(new CpioArchive().file("x", "one").file("/x", "two").toBytes());
  assert.equal(entries.get("x")?.data.toString(), "two");
});

test("the same entries make the same bytes, compressed or not", () => {
  assert.deepEqual(sample().toBytes(), sample().toBytes());
  assert.deepEqual(sample().toGzip(), sample().toGzip());
  assert.deepEqual(gunzipSync(sample().toGzip()), sample().toBytes());
});

test("names that Linux would not take are refused", () => {
  for (const name of ["", "/", ".", "../x", "a/../b", "a\0b", `${"x/".repeat(2048)}y`]) {
    assert.throws(() => new CpioArchive().file(name, ""), BootError, JSON.stringify(name.slice(0, 20)));
  }
});

test("cpio lists it", (t) => {
  if (!hasTool("cpio")) return t.skip("no cpio on this machine");
  const listing = pipe(["cpio", "-itv", "--quiet"], sample().toBytes()).toString();
  assert.match(listing, /^-rwxr-xr-x .* init$/m);
  assert.match(listing, /^crw------- .* 5, +1 .* dev\/console$/m);
  assert.match(listing, /^brw-rw---- .* 254, +3 .* dev\/vda$/m);
  assert.match(listing, /^lrwxrwxrwx .* bin\/sh -> \/bin\/busybox$/m);
  assert.match(listing, /^drwxrwxrwt .* tmp$/m);
  assert.match(listing, /^-rwSr--r-- .* 1001 .* a\/b\/c$/m);
});

test("archives that follow each other start at multiples of four", () => {
  const gzip = sample().toGzip();
  const second = new CpioArchive().file("second", "2").toBytes();
  const both = concatArchives([gzip, second]);
  const start = Math.ceil(gzip.length / 4) * 4;
  assert.equal(both.length, start + second.length);
  assert.ok(parse(both.subarray(start)).has("second"));
  assert.ok(both.subarray(gzip.length, start).every((byte) => byte === 0));
});
