/** `nlkt image`, as a user runs it. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { nlkt } from "./nlkt.js";

function scratch(t: TestContext): string {
  const directory = mkdtempSync(path.join(tmpdir(), "nlkt-image-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

test("create, info, convert, check", (t) => {
  const cwd = scratch(t);
  const image = (...args: string[]) => nlkt(["image", ...args], { cwd });
  assert.deepEqual(image("create", "disk.qcow2", "64M"), { code: 0, stdout: "", stderr: "" });
  assert.equal(image("create", "-b", "disk.qcow2", "-o", "cluster_size=4K", "over.qcow2").code, 0);
  const chain = JSON.parse(image("info", "--json", "--backing-chain", "over.qcow2").stdout) as Record<
    string,
    unknown
  >[];
  assert.deepEqual(
    chain.map((info) => [info.format, info["virtual-size"], info["cluster-size"], info["backing-filename"]]),
    [
      ["qcow2", 64 * 2 ** 20, 4096, "disk.qcow2"],
      ["qcow2", 64 * 2 ** 20, 65536, undefined],
    ],
  );
  const text = image("info", "over.qcow2").stdout;
  assert.match(text, /^image: +over\.qcow2\nformat: +qcow2\ndisk size: +64 MiB \(67108864 bytes\)\n/);
  assert.match(text, /backing file: +disk\.qcow2/);

  writeFileSync(path.join(cwd, "raw"), Buffer.alloc(2 ** 20, "some text "));
  assert.deepEqual(image("convert", "-c", "raw", "small.qcow2"), { code: 0, stdout: "", stderr: "" });
  assert.deepEqual(image("check", "small.qcow2").stdout.split("\n").slice(0, 2), [
    "no errors",
    "16 of 16 clusters allocated, 16 compressed",
  ]);
  assert.equal(image("convert", "-O", "raw", "small.qcow2", "back").code, 0);
  assert.ok(readFileSync(path.join(cwd, "back")).equals(readFileSync(path.join(cwd, "raw"))));

  // A cluster counted that nothing uses: behind the last one, in the refcount block.
  const bytes = readFileSync(path.join(cwd, "disk.qcow2"));
  bytes.writeUInt16BE(1, 2 * 65536 + 2 * 100);
  writeFileSync(path.join(cwd, "disk.qcow2"), bytes);
  const leaks = image("check", "--json", "disk.qcow2");
  assert.equal(leaks.code, 3);
  assert.equal((JSON.parse(leaks.stdout) as { leaks: number }).leaks, 1);
  assert.match(
    image("check", "--repair", "leaks", "disk.qcow2").stdout,
    /repaired: 0 errors, 1 leak\nno errors/,
  );
  assert.equal(image("check", "disk.qcow2").code, 0);
});

test("what cannot be done", (t) => {
  const cwd = scratch(t);
  const refused = (args: string[], code: number, message: RegExp) => {
    const result = nlkt(["image", ...args], { cwd });
    assert.equal(result.code, code, args.join(" "));
    assert.match(result.stderr, message);
    assert.equal(result.stdout, "");
  };
  refused(["create", "disk"], 2, /no SIZE/);
  refused(["create", "disk", "10X"], 1, /nlkt: size "10X": not a size/);
  refused(["create", "-f", "vmdk", "disk", "10M"], 2, /vmdk/);
  refused(["create", "-o", "cluster_size=3", "disk", "10M"], 1, /disk: cluster size 3/);
  refused(["create", "-f", "raw", "-b", "x", "disk", "1M"], 1, /raw images have no backing files/);
  refused(["info", "none"], 1, /^nlkt: none: no such file\n$/);
  refused(["convert", "none", "disk"], 1, /none: no such file/);
  writeFileSync(path.join(cwd, "raw"), "hello");
  refused(["check", "raw"], 1, /a raw image has nothing to check/);
  refused(["convert", "-O", "raw", "-c", "raw", "disk"], 1, /only qcow2 images can be compressed/);
  refused(["convert", "raw", "raw"], 1, /the same file/);
  assert.ok(!existsSync(path.join(cwd, "disk")));
});

test("help has examples", () => {
  for (const command of [[], ["create"], ["info"], ["convert"], ["check"]]) {
    const { code, stdout } = nlkt(["image", ...command, "--help"]);
    assert.equal(code, 0);
    assert.match(stdout, /Examples:\n {2}nlkt image /);
  }
});
