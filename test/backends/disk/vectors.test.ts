/** Several buffers in one call: the same bytes as one by one, up to the end of a file that has no whole sectors. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { openDisk } from "../../../src/backends/disk/open-disk.js";

test("readVectors and writeVectors of a raw disk", async () => {
  const directory = mkdtempSync(path.join(tmpdir(), "nlkt-vectors-"));
  try {
    const file = path.join(directory, "disk");
    const content = Uint8Array.from({ length: 10_000 }, (_, i) => i * 13);
    writeFileSync(file, content);
    for (const format of [undefined, "raw"] as const) {
      const disk = await openDisk({ file, ...(format === undefined ? {} : { format }) });
      const memory = new Uint8Array(new SharedArrayBuffer(1 << 16));
      const views = [memory.subarray(100, 612), memory.subarray(5000, 8000), memory.subarray(20_000, 20_001)];
      disk.readVectors!(512, views);
      let at = 512;
      for (const view of views) {
        assert.deepEqual(Uint8Array.from(view), content.slice(at, at + view.length));
        at += view.length;
      }
      // The last sector goes beyond the file and reads as zeros there.
      const last = [memory.subarray(0, 200).fill(7), memory.subarray(300, 612).fill(7)];
      disk.readVectors!(disk.sizeBytes - 512, last);
      const tail = new Uint8Array(512);
      tail.set(content.slice(disk.sizeBytes - 512));
      assert.deepEqual(Uint8Array.from([...last[0], ...last[1]]), tail);
      assert.throws(() => disk.readVectors!(disk.sizeBytes - 100, last), { name: "DiskError" });
      assert.throws(() => disk.writeVectors!(disk.sizeBytes - 100, last), { name: "DiskError" });
      for (const [i, view] of views.entries()) view.fill(0x40 + i);
      disk.writeVectors!(0, views);
      disk.close();
      const written = readFileSync(file);
      assert.ok(written.subarray(0, 512).every((byte) => byte === 0x40));
      assert.ok(written.subarray(512, 3512).every((byte) => byte === 0x41));
      assert.equal(written[3512], 0x42);
      writeFileSync(file, content);
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("buffers in several memories", async () => {
  const directory = mkdtempSync(path.join(tmpdir(), "nlkt-vectors-"));
  try {
    const file = path.join(directory, "disk");
    const content = Uint8Array.from({ length: 8192 }, (_, i) => i * 7 + (i >> 8));
    writeFileSync(file, content);
    const disk = await openDisk({ file, format: "raw" });
    // As RAM past 4 GiB has it: WebAssembly memories.
    const memories = [0, 1, 2].map(
      () => new Uint8Array(new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true }).buffer),
    );
    const views = Array.from({ length: 8 }, (_, i) => memories[i % 3].subarray(1024 * i, 1024 * (i + 1)));
    disk.readVectors!(0, views);
    const got = Uint8Array.from(views.flatMap((view) => [...view]));
    assert.deepEqual(got, content);
    disk.writeVectors!(0, views.toReversed());
    disk.close();
    const reversed = views.toReversed().flatMap((view) => [...view]);
    assert.deepEqual(Uint8Array.from(readFileSync(file)), Uint8Array.from(reversed));
  } finally {
    rmSync(directory, { recursive: true });
  }
});
