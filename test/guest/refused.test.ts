/** What cannot be booted is refused: one line that names the file or option, the right exit code, no stack trace. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { type Files, guestFiles, runGuest } from "./guests.js";

const MIB = 2 ** 20;

const directory = mkdtempSync(path.join(tmpdir(), "nlkt-test-"));
after(() => rmSync(directory, { recursive: true, force: true }));

const file = (name: string, bytes: Uint8Array = new Uint8Array()) => {
  const full = path.join(directory, name);
  writeFileSync(full, bytes);
  return full;
};

describe("what cannot be booted", { concurrency: 2 }, () => {
  let files: Files | string;
  before(async () => {
    files = await guestFiles();
  });

  const refused = (name: string, message: RegExp, args: (files: Files) => readonly string[]) =>
    test(name, async (t) => {
      if (typeof files === "string") return t.skip(files);
      const { code, stdout, stderr } = await runGuest(args(files));
      assert.match(stderr, message);
      assert.match(stderr, /^nlkt: [^\n]{1,300}\n$/, "one line");
      assert.deepEqual({ code, stdout }, { code: 1, stdout: "" });
    });

  refused("a truncated kernel", /short: truncated kernel: 4\.8 MiB of 13\.\d MiB are there/, ({ kernel }) => [
    "-k",
    file("short", readFileSync(kernel).subarray(0, 5_000_000)),
  ]);
  refused(
    "a kernel without its last byte",
    /almost: truncated kernel: its last byte is missing/,
    ({ kernel }) => ["-k", file("almost", readFileSync(kernel).subarray(0, -1))],
  );
  refused("a corrupt kernel", /corrupt: broken kernel: the lz4 data in it: /, ({ kernel }) => {
    const bytes = readFileSync(kernel);
    for (let at = 3_000_000; at < 3_000_400; at++) bytes[at] ^= 0xff;
    return ["-k", file("corrupt", bytes)];
  });
  refused("an empty kernel", /empty: the file is empty/, () => ["-k", file("empty")]);
  refused("a script", /script: not a kernel image/, () => ["-k", file("script", Buffer.from("#!/bin/sh\n"))]);
  refused("a program", /: a program, not a kernel/, () => ["-k", process.execPath]);
  refused("an Arm64 kernel", /arm64: an Arm64 kernel image, not an x86 kernel/, () => {
    const image = Buffer.alloc(4096);
    image.write("ARM\x64", 56);
    return ["-k", file("arm64", image)];
  });
  refused("an empty name", /kernel: its file name is empty/, () => ["-k", ""]);
  refused("no such kernel", /kernel \/nonexistent: no such file/, () => ["-k", "/nonexistent"]);
  refused("a directory", /kernel \/tmp: is a directory/, () => ["-k", "/tmp"]);
  refused("no such initrd", /initrd \/nonexistent: no such file/, ({ kernel }) => [
    "-k",
    kernel,
    "-i",
    "/nonexistent",
  ]);
  refused("an initrd that is larger than memory", /large.*(initrd|memory)/, ({ kernel }) => {
    const large = file("large");
    truncateSync(large, 200 * MIB);
    return ["-m", "128", "-k", kernel, "-i", large];
  });
  refused("too little memory for the kernel", /too large for 32 MiB of memory/, ({ kernel }) => [
    "-m",
    "32",
    "-k",
    kernel,
  ]);
  refused("too little memory for anything", /--mem: 1 MiB is too small/, () => ["-m", "1"]);
  refused("too much memory", /--mem: 8192 MiB is too large/, () => ["-m", "8G"]);
  refused("a command line that is too long", /command line is \d+ bytes long/, ({ kernel }) => [
    "-k",
    kernel,
    "-p",
    "x".repeat(5000),
  ]);
  refused("no kernel with --nodefaults", /--nodefaults/, () => ["--nodefaults"]);

  test("an initrd that is none: the kernel's own panic", async (t) => {
    if (typeof files === "string") return t.skip(files);
    const none = file("zeros", new Uint8Array(100_000));
    const { code, stderr } = await runGuest(["-k", files.kernel, "-i", none, "-p", "quiet"]);
    assert.match(stderr, /^nlkt: the guest's kernel panicked: VFS: Unable to mount root fs [^\n]*\n$/);
    assert.equal(code, 1);
  });
});
