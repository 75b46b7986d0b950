/** The machine's devices under several vCPUs at once: bare (test/smp/guest/devices.c), and as Linux uses them. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { Machine } from "../../src/api/index.js";
import { buildKernel, noCompiler } from "./support/program.js";

const directory = mkdtempSync(path.join(tmpdir(), "nlkt-test-"));
after(() => rmSync(directory, { recursive: true, force: true }));

/** What `finish(GOOD)` makes of the debug-exit port. */
const GOOD = 0x21;
const CPUS = 4;

for (const tier of ["auto", "hot"] as const) {
  test(`${tier}: four vCPUs at the same devices: no torn register, no lost interrupt`, {
    skip: noCompiler(),
  }, async () => {
    const machine = await Machine.create({
      accel: "soft",
      tier,
      cpus: CPUS,
      memoryMiB: 32,
      kernel: buildKernel("devices", directory),
      isaDebugExit: true,
      timeoutSeconds: 120,
    });
    let text = "";
    machine.console.on("data", (chunk: Uint8Array) => {
      text += Buffer.from(chunk).toString("latin1");
    });
    await machine.start();
    const { reason, code, message } = await machine.wait();
    assert.equal(`${reason} ${code} ${text}${message ?? ""}`, `debug-exit ${GOOD} `);
  });
}
