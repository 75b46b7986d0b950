/** Kernel modules: found, in order, unpacked. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { gzipSync } from "node:zlib";
import { listKernels } from "../../src/boot/default-guest.js";
import { findModules, moduleDirectories, packageModules } from "../../src/boot/find-modules.js";
import { moduleInfo, unpackModule } from "../../src/boot/kernel-module.js";
import { kernelRelease } from "../../src/boot/kernel-release.js";
import { ModuleTree } from "../../src/boot/module-tree.js";
import { hasTool, pipe } from "./tools.js";

const RELEASE = "6.99.0-test";

/** A relocatable ELF file of 64 bits with a section .modinfo. */
function module(info: Readonly<Record<string, string>>): Buffer {
  const modinfo = Buffer.from(
    Object.entries(info)
      .map(([tag, value]) => `${tag}=${value}\0`)
      .join(""),
  );
  const names = Buffer.from("\0.modinfo\0.shstrtab\0");
  const bytes = Buffer.alloc(64 + 3 * 64 + modinfo.length + names.length);
  bytes.write("\x7fELF\x02\x01\x01", "latin1");
  bytes.writeUInt16LE(1, 16);
  bytes.writeBigUInt64LE(64n, 0x28);
  bytes.writeUInt16LE(64, 0x3a);
  bytes.writeUInt16LE(3, 0x3c);
  bytes.writeUInt16LE(2, 0x3e);
  const section = (index: number, name: number, at: number, length: number) => {
    bytes.writeUInt32LE(name, 64 + index * 64);
    bytes.writeBigUInt64LE(BigInt(at), 64 + index * 64 + 0x18);
    bytes.writeBigUInt64LE(BigInt(length), 64 + index * 64 + 0x20);
  };
  section(1, 1, 256, modinfo.length);
  section(2, 10, 256 + modinfo.length, names.length);
  modinfo.copy(bytes, 256);
  names.copy(bytes, 256 + modinfo.length);
  return bytes;
}

function directory(t: TestContext): string {
  const made = mkdtempSync(path.join(tmpdir(), "nlkt-modules-"));
  t.after(() => rmSync(made, { recursive: true, force: true }));
  return made;
}

function write(root: string, files: Readonly<Record<string, Uint8Array | string>>): void {
  for (const [name, bytes] of Object.entries(files)) {
    mkdirSync(path.dirname(path.join(root, name)), { recursive: true });
    writeFileSync(path.join(root, name), bytes);
  }
}

test("modules are unpacked", async () => {
  const plain = module({ depends: "", name: "m" });
  assert.deepEqual(Buffer.from(await unpackModule(plain, "m.ko")), plain);
  assert.deepEqual(Buffer.from(await unpackModule(gzipSync(plain), "m.ko.gz")), plain);
  if (hasTool("xz")) {
    const xz = pipe(["xz", "--check=crc32", "--lzma2=dict=1MiB"], plain);
    assert.deepEqual(Buffer.from(await unpackModule(xz, "m.ko.xz")), plain);
  }
  if (hasTool("zstd")) {
    assert.deepEqual(Buffer.from(await unpackModule(pipe(["zstd", "-q"], plain), "m.ko.zst")), plain);
  }
  for (const file of ["m.ko.gz", "m.ko.xz"]) {
    await assert.rejects(
      unpackModule(Buffer.from("nonsense of some length"), file),
      /m\.ko\.\w+: broken kernel module/,
    );
  }
  assert.deepEqual(moduleInfo(plain, "m.ko").get("name"), ["m"]);
  assert.throws(() => moduleInfo(Buffer.alloc(100), "m.ko"), /m\.ko: not a kernel module/);
  const broken = Buffer.from(plain);
  broken.writeBigUInt64LE(0xffff_ffff_ffff_fff0n, 0x28);
  assert.throws(() => moduleInfo(broken, "m.ko"), /not a kernel module/);
});

test("the order of loading comes from modules.dep", async (t) => {
  const root = directory(t);
  const plain = module({ depends: "" });
  write(root, {
    "modules.dep":
      "kernel/a.ko: kernel/b-b.ko kernel/c.ko\nkernel/b-b.ko: kernel/c.ko\nkernel/c.ko:\nkernel/d.ko:\n",
    "modules.builtin": "kernel/virtio.ko\n",
    "kernel/a.ko": plain,
    "kernel/b-b.ko": plain,
    "kernel/c.ko": plain,
  });
  const tree = await ModuleTree.open(root, RELEASE);
  assert.deepEqual(
    (await tree.load(["a"])).map(({ name }) => name),
    ["c", "b_b", "a"],
  );
  assert.deepEqual(
    (await tree.load(["b_b", "a", "none", "virtio"])).map(({ name }) => name),
    ["c", "b_b", "a"],
  );
  assert.ok(tree.isBuiltin("virtio") && !tree.isBuiltin("a"));
  await assert.rejects(tree.load(["d"]), /cannot read the kernel module .*kernel\/d\.ko/);
});

test("without modules.dep the modules say what they need", async (t) => {
  const root = directory(t);
  write(root, {
    "modules.builtin": "kernel/lib/core.ko\n",
    "kernel/fs/fine.ko.gz": gzipSync(
      module({ depends: "mb-cache,journal,core", softdep: "pre: crypto-crc32c" }),
    ),
    "kernel/fs/mb_cache.ko": module({ depends: "" }),
    "kernel/fs/journal.ko": module({ depends: "mb_cache" }),
    "kernel/crypto/crc32c_generic.ko": module({ depends: "" }),
    "kernel/loop.ko": module({ depends: "loop2" }),
    "kernel/loop2.ko": module({ depends: "loop" }),
  });
  const tree = await ModuleTree.open(root, RELEASE);
  const names = async (...wanted: string[]) => (await tree.load(wanted)).map(({ name }) => name);
  assert.deepEqual(await names("fine"), ["crc32c_generic", "mb_cache", "journal", "fine"]);
  assert.deepEqual(await names("loop"), ["loop2", "loop"]);
});

test("trees are found beside the kernel", async (t) => {
  const root = directory(t);
  write(root, {
    [`lib/modules/${RELEASE}/modules.builtin`]: "kernel/a.ko\n",
    "boot/vmlinuz": "",
    vmlinuz: "",
  });
  for (const kernel of ["vmlinuz", "boot/vmlinuz"]) {
    const tree = await findModules(path.join(root, kernel), RELEASE);
    assert.equal(tree?.directory, path.join(root, "lib/modules", RELEASE));
  }
  assert.equal(await findModules(path.join(root, "boot/vmlinuz"), "6.99.0-none"), undefined);
  assert.deepEqual(moduleDirectories("/x/boot/vmlinuz", "R"), [
    "/x/boot/lib/modules/R",
    "/x/lib/modules/R",
    "/lib/modules/R",
    "/usr/lib/modules/R",
  ]);
});

test("kernels say which they are", async (t) => {
  assert.equal(kernelRelease(Buffer.alloc(4096)), undefined);
  const header = Buffer.alloc(4096);
  header.writeUInt32LE(0x53726448, 0x202);
  header.writeUInt16LE(0x400, 0x20e);
  header.write("6.1.0-1-cloud-amd64 (builder@host) #1 SMP", 0x600);
  assert.equal(kernelRelease(header), "6.1.0-1-cloud-amd64");
  header.write("../../../etc \0", 0x600);
  assert.equal(kernelRelease(header), undefined);
  header.writeUInt16LE(0xffff, 0x20e);
  assert.equal(kernelRelease(header), undefined);
  const kernels = await listKernels();
  if (kernels.length === 0) return t.diagnostic("no kernels in the cache");
  for (const { vmlinuz, release } of kernels) assert.equal(kernelRelease(readFileSync(vmlinuz)), release);
});

test("a kernel's package has what its disks need", async (t) => {
  const [kernel] = (await listKernels()).filter(({ package: name }) => name === "linux-image-cloud-amd64");
  if (kernel === undefined) return t.skip("no kernel in the cache");
  const tree = await packageModules(kernel);
  const names = (await tree.load(["virtio_pci", "virtio_blk", "xfs"])).map(({ name }) => name);
  assert.ok(names.includes("virtio_blk") && names.includes("xfs"));
  assert.ok(names.indexOf("libcrc32c") < names.indexOf("xfs"));
  for (const [needed, by] of [
    ["virtio_ring", "virtio"],
    ["virtio", "virtio_blk"],
  ]) {
    assert.ok(tree.isBuiltin(needed) || names.indexOf(needed) < names.indexOf(by), `${needed} before ${by}`);
  }
});
