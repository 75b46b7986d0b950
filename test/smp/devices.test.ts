/** The machine's devices under several vCPUs at once: bare (test/smp/guest/devices.c), and as Linux uses them. */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { Machine } from "../../src/api/index.js";
import { fetchDefaultGuest } from "../../src/boot/default-guest.js";
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

const DISK_PART = 256 * 4096;
/** Each of the processors: a part of the disk, a request at a time, each by a queue of its own; then the one queue of the rng. */
const VIRTIO = `
for cpu in 0 1 2 3; do (
  mask=$((1 << cpu))
  taskset $mask dd if=/dev/vda bs=4k skip=$((cpu * 256)) count=256 iflag=direct 2>/dev/null | sha256sum >/tmp/$cpu
  taskset $mask dd if=/dev/hwrng bs=64 count=50 2>/dev/null | wc -c >>/tmp/$cpu
) & done; wait; cat /tmp/[0-3]`;

test("Linux on four processors uses virtio devices from all at once: every request is answered", async (t) => {
  try {
    await fetchDefaultGuest();
  } catch (error) {
    return t.skip(`no default guest: ${(error as Error).message}`);
  }
  const disk = path.join(directory, "disk");
  const content = randomBytes(CPUS * DISK_PART);
  writeFileSync(disk, content);
  const machine = await Machine.create({
    accel: "soft",
    cpus: CPUS,
    disks: [{ file: disk, readOnly: true }],
    command: ["sh", "-c", VIRTIO],
    timeoutSeconds: 300,
  });
  let text = "";
  machine.console.on("data", (chunk: Uint8Array) => {
    text += Buffer.from(chunk).toString("latin1");
  });
  await machine.start();
  const { code } = await machine.wait();
  const sums = Array.from({ length: CPUS }, (_, cpu) =>
    createHash("sha256")
      .update(content.subarray(cpu * DISK_PART, (cpu + 1) * DISK_PART))
      .digest("hex"),
  );
  assert.equal(code, 0);
  assert.deepEqual(
    text.trim().split(/[\s-]+/),
    sums.flatMap((sum) => [sum, "3200"]),
  );
});
