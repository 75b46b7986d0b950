import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { gzipSync } from "node:zlib";
import { readImageFile } from "../../src/boot/kernel-image.js";
import { load, makeMemory } from "./images.js";

const directory = mkdtempSync(path.join(tmpdir(), "nlkt-test-"));
after(() => rmSync(directory, { recursive: true, force: true }));

async function refused(promise: Promise<unknown>, message: string | RegExp): Promise<void> {
  await assert.rejects(promise, (error: Error) => {
    assert.equal(error.name, "BootError", error.stack);
    if (typeof message === "string") assert.equal(error.message, message);
    else assert.match(error.message, message);
    assert.ok(!error.message.includes("\n"), "one line");
    return true;
  });
}

test("files that are no kernels are named for what they are", async () => {
  const at = (offset: number, text: string) => {
    const file = Buffer.alloc(1024);
    file.write(text, offset, "latin1");
    return file;
  };
  const cases: [Uint8Array, string][] = [
    [new Uint8Array(), "kernel: the file is empty"],
    [Buffer.from("#!/bin/sh\necho hello\n"), "kernel: not a kernel image (bzImage, x86 ELF or multiboot)"],
    [Buffer.alloc(100_000), "kernel: not a kernel image (bzImage, x86 ELF or multiboot)"],
    [at(56, "ARM\x64"), "kernel: an Arm64 kernel image, not an x86 kernel"],
    [at(0x24, "\x18\x28\x6f\x01"), "kernel: an Arm kernel image, not an x86 kernel"],
    [at(0, "MZ"), "kernel: a PE (EFI or Windows) program without a Linux setup header"],
    [at(0, "070701"), "kernel: a cpio archive, perhaps an initrd, not a kernel"],
    [gzipSync(Buffer.alloc(50)), "kernel: a file compressed with gzip, not a kernel image: unpack it first"],
  ];
  for (const [file, message] of cases) await refused(load(makeMemory(16), file), message);
});

test("files of one to a thousand bytes are refused", async () => {
  for (const magic of ["", "\x7fELF", "MZ", "ARM\x64", "\x02\xb0\xad\x1b", "\x1f\x8b"]) {
    for (const length of [1, 2, 3, 4, 5, 8, 15, 16, 31, 32, 51, 63, 64, 511, 512, 513, 520, 1000]) {
      const file = Buffer.alloc(length);
      file.write(magic, 0, "latin1");
      await refused(load(makeMemory(16), file), /^kernel: /);
    }
  }
});

test("what cannot be read is refused with its name", async () => {
  const missing = path.join(directory, "missing");
  await refused(readImageFile(missing, "kernel"), `kernel ${missing}: no such file`);
  await refused(readImageFile(directory, "kernel"), `kernel ${directory}: is a directory`);
  await refused(readImageFile(path.join(directory, "a", "b"), "initrd"), /^initrd .*: no such file$/);
  await refused(readImageFile("/dev/zero", "initrd"), "initrd /dev/zero: is not a regular file");
});

test("a file without read permission is refused", async (t) => {
  if (process.getuid?.() === 0) return t.skip("root may read everything");
  const file = path.join(directory, "secret");
  writeFileSync(file, "secret");
  chmodSync(file, 0);
  await refused(readImageFile(file, "initrd"), `initrd ${file}: permission denied`);
});

test("a pipe is refused, not waited for", async (t) => {
  const fifo = path.join(directory, "fifo");
  try {
    execFileSync("mkfifo", [fifo]);
  } catch {
    return t.skip("no mkfifo on this machine");
  }
  await refused(readImageFile(fifo, "kernel"), `kernel ${fifo}: is not a regular file`);
});

test("a file is read as it is", async () => {
  const file = path.join(directory, "file");
  writeFileSync(file, "contents");
  assert.equal(Buffer.from(await readImageFile(file, "kernel")).toString(), "contents");
});
