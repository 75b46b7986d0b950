/** The examples of docs/library.md do what the page says. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { FAKE_PROVIDER, POWER_OFF, scriptKernel } from "../machine/script-kernel.js";

/** This file runs as dist/test/api/library-doc.test.js. */
const page = readFileSync(new URL("../../../docs/library.md", import.meta.url), "utf8");
const examples = [...page.matchAll(/```js\n(.*?)```/gs)].map((match) => match[1]);

/** Run an example with a scripted guest in place of a kernel. */
function runExample(t: { after(fn: () => void): void }, number: number, ...script: string[]) {
  // In the package's own directory, where `import "nlkt"` finds it.
  const directory = path.dirname(fileURLToPath(import.meta.url));
  const file = path.join(directory, `example-${number}.mjs`);
  writeFileSync(file, examples[number]);
  t.after(() => rmSync(file));
  const { status, stdout, stderr } = spawnSync(process.execPath, [file, scriptKernel(...script)], {
    encoding: "utf8",
    env: { ...process.env, NLKT_PROVIDER_MODULE: FAKE_PROVIDER },
    timeout: 60_000,
  });
  return { status, stdout, stderr };
}

test("the page has the examples that are run here", () => {
  assert.equal(examples.length, 2);
});

test("run a guest to its end", (t) => {
  const { status, stdout, stderr } = runExample(t, 0, "print hello", POWER_OFF);
  assert.deepEqual({ status, stdout }, { status: 0, stdout: "hello\r\n" });
  assert.match(stderr, /^ended: poweroff, code 0/);
});

test("talk to it", (t) => {
  const { status, stdout } = runExample(t, 1, "echo 0x0a", POWER_OFF);
  assert.deepEqual({ status, stdout }, { status: 0, stdout: "hello" });
});
