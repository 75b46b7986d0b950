import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { mkdir, utimes, writeFile } from "node:fs/promises";
import { homedir, tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { BootError } from "../../src/boot/boot-error.js";
import { cacheDirectory, makeOnce } from "../../src/boot/cache-directory.js";
import { fetchKernel, listKernels, removeKernel } from "../../src/boot/default-guest.js";

const directory = mkdtempSync(path.join(tmpdir(), "nlkt-test-"));
const saved = process.env.XDG_CACHE_HOME;
after(() => {
  rmSync(directory, { recursive: true, force: true });
  if (saved === undefined) delete process.env.XDG_CACHE_HOME;
  else process.env.XDG_CACHE_HOME = saved;
});

test("XDG_CACHE_HOME is followed, unless it is relative or empty", () => {
  process.env.XDG_CACHE_HOME = "/somewhere";
  assert.equal(cacheDirectory(), "/somewhere/nlkt");
  for (const useless of ["", "relative/path"]) {
    process.env.XDG_CACHE_HOME = useless;
    assert.equal(cacheDirectory(), path.join(homedir(), ".cache", "nlkt"));
  }
});

test("a directory is made once, complete or not at all", async () => {
  const target = path.join(directory, "a", "b");
  await assert.rejects(
    makeOnce(target, async (temporary) => {
      await writeFile(path.join(temporary, "half"), "");
      throw new Error("interrupted");
    }),
    /interrupted/,
  );
  assert.deepEqual(readdirSync(path.dirname(target)), []);
  await makeOnce(target, (temporary) => writeFile(path.join(temporary, "file"), "first"));
  await makeOnce(target, () => Promise.reject(new Error("made again")));
  assert.equal(readFileSync(path.join(target, "file"), "utf8"), "first");
});

test("where no directory can be made: one line that says what to do", async () => {
  const file = path.join(directory, "file");
  await writeFile(file, "");
  const cases: readonly (readonly [base: string, reason: string])[] = [
    [file, "its path leads through a file"],
    // No directory can be made there, and what is missing is said to be missing for ever.
    ["/proc/nowhere", "it cannot be made"],
    ["/dev/null", "its path leads through a file"],
  ];
  for (const [base, reason] of cases) {
    const parent = path.join(base, "a", "b");
    await assert.rejects(
      makeOnce(path.join(parent, "c"), () => Promise.resolve()),
      new BootError(
        `cache directory ${parent}: ${reason}: set XDG_CACHE_HOME to a directory of yours, or name a kernel with -k`,
      ),
    );
  }
});

test("of several that make it at the same time one wins, and nothing is left of the others", async () => {
  const target = path.join(directory, "race");
  await Promise.all(
    [1, 2, 3, 4].map((number) =>
      makeOnce(target, async (temporary) => {
        await new Promise((resolve) => setTimeout(resolve, 10));
        await writeFile(path.join(temporary, "one"), String(number));
        await writeFile(path.join(temporary, "two"), String(number));
      }),
    ),
  );
  assert.equal(
    readFileSync(path.join(target, "one"), "utf8"),
    readFileSync(path.join(target, "two"), "utf8"),
  );
  assert.deepEqual(
    readdirSync(directory).filter((name) => name.startsWith("race")),
    ["race"],
  );
});

test("what an interrupted process left behind is removed after an hour", async () => {
  const [old, recent] = [`${directory}/stale.tmp-old`, `${directory}/stale.tmp-recent`];
  for (const name of [old, recent]) await mkdir(name);
  const twoHoursAgo = Date.now() / 1000 - 7200;
  await utimes(old, twoHoursAgo, twoHoursAgo);
  await makeOnce(path.join(directory, "stale"), () => Promise.resolve());
  assert.ok(!existsSync(old));
  assert.ok(existsSync(recent), "it may belong to a process that is at work");
});

test("cached kernels are listed, used without a network, and removed", async () => {
  process.env.XDG_CACHE_HOME = directory;
  assert.deepEqual(await listKernels(), []);
  const facts = {
    suite: "bookworm",
    package: "linux-image-test",
    image: "linux-image-9",
    version: "9",
    release: "9-test",
  };
  const target = path.join(directory, "nlkt", "kernels", "bookworm", "linux-image-test");
  await makeOnce(target, (temporary) =>
    writeFile(path.join(temporary, "kernel.json"), JSON.stringify(facts)),
  );
  const request = { suite: "bookworm", package: "linux-image-test" };
  await assert.rejects(
    fetchKernel(request),
    /^BootError: the cached kernel is broken; remove \/.*linux-image-test$/,
  );
  await writeFile(path.join(target, "vmlinuz"), "");
  const kernel = await fetchKernel(request);
  assert.equal(kernel.vmlinuz, path.join(target, "vmlinuz"));
  assert.equal(kernel.release, "9-test");
  assert.deepEqual(await listKernels(), [kernel]);
  await removeKernel(kernel);
  assert.deepEqual(await listKernels(), []);
});

test("requests that are no package or suite names are refused before anything runs", async () => {
  process.env.XDG_CACHE_HOME = directory;
  for (const request of [
    { package: "../../etc" },
    { package: "bash" },
    { package: "linux-image-x; id" },
    { suite: "../x" },
    { suite: "-o" },
  ]) {
    await assert.rejects(fetchKernel({ suite: "bookworm", ...request }), { name: "BootError" });
  }
  assert.deepEqual(readdirSync(path.join(directory, "nlkt", "kernels")), ["bookworm"]);
});
