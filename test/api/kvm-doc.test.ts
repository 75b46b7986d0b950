/** The example of docs/kvm.md does what the page says. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { noKvm } from "../hypervisor/kvm/support/kvm-machine.js";

/** This file runs as dist/test/api/kvm-doc.test.js. */
const page = readFileSync(new URL("../../../docs/kvm.md", import.meta.url), "utf8");
const examples = [...page.matchAll(/```js\n(.*?)```/gs)].map((match) => match[1]);

test("KVM from TypeScript: a guest of three instructions", { skip: noKvm }, (t) => {
  assert.equal(examples.length, 1);
  // In the package's own directory, where `import "nlkt/kvm"` finds it.
  const file = path.join(path.dirname(fileURLToPath(import.meta.url)), "kvm-example.mjs");
  writeFileSync(file, examples[0]);
  t.after(() => rmSync(file));
  const { status, stdout, stderr } = spawnSync(process.execPath, [file], {
    encoding: "utf8",
    timeout: 60_000,
  });
  assert.deepEqual({ status, stdout, stderr }, { status: 0, stdout: "port 0x10: A\n", stderr: "" });
});
