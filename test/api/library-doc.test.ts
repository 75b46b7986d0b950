/** The examples of docs/library.md do what the page says. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Machine } from "../../src/api/index.js";
import { FAKE_PROVIDER, POWER_OFF, scriptKernel } from "../machine/script-kernel.js";

/** This file runs as dist/test/api/library-doc.test.js. */
const page = readFileSync(new URL("../../../docs/library.md", import.meta.url), "utf8");
const examples = [...page.matchAll(/```js\n(.*?)```/gs)].map((match) => match[1]);

function writeExample(t: { after(fn: () => void): void }, number: number): string {
  // In the package's own directory, where `import "nlkt"` finds it.
  const directory = path.dirname(fileURLToPath(import.meta.url));
  const file = path.join(directory, `example-${number}.mjs`);
  writeFileSync(file, examples[number]);
  t.after(() => rmSync(file));
  return file;
}

/** Run an example with a scripted guest in place of a kernel. */
function runExample(t: { after(fn: () => void): void }, number: number, ...script: string[]) {
  const file = writeExample(t, number);
  const { status, stdout, stderr } = spawnSync(process.execPath, [file, scriptKernel(...script)], {
    encoding: "utf8",
    env: { ...process.env, NLKT_PROVIDER_MODULE: FAKE_PROVIDER },
    timeout: 60_000,
  });
  return { status, stdout, stderr };
}

test("the page has the examples that are run here", () => {
  assert.equal(examples.length, 3);
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

test("running instances", async (t) => {
  const runtime = mkdtempSync(path.join(tmpdir(), "nlkt-test-"));
  t.after(() => rmSync(runtime, { recursive: true }));
  process.env.XDG_RUNTIME_DIR = runtime;
  const machine = await Machine.create({
    name: "web",
    control: true,
    kernel: scriptKernel("wait"),
    providerModule: FAKE_PROVIDER,
  });
  await machine.start();
  const file = writeExample(t, 2);
  const example = spawn(process.execPath, [file], { stdio: ["ignore", "pipe", "inherit"] });
  const [output, [code]] = await Promise.all([text(example.stdout), once(example, "exit")]);
  assert.equal(code, 0);
  assert.match(output, /^web running\nvCPU 0:\nRAX /);
  assert.equal(machine.info().state, "running");
  await machine.stop();
});
