/**
 * The host crashes, in a simulation: of what was written to the file since the last fdatasync, any part is lost. After a
 * crash at any call, the image is one without errors, and has what was flushed.
 */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { calls } from "../../../src/backends/disk/host-calls.js";
import { checkImage } from "../../../src/backends/disk/image-info.js";
import { openDisk } from "../../../src/backends/disk/open-disk.js";
import { contents, NO_QEMU_IMG, qemuCheck, qemuImg, random, scratch } from "./support.js";

const SIZE = 2 ** 20;
const BLOCK = 4096;
const CRASHES = 60;
/** Every so many crashes QEMU looks too; our own check is faster. */
const QEMU_EVERY = 6;

/** A file whose writes are lost unless they are synced: what is in it after a crash. */
class Platter {
  readonly #durable: Buffer;
  #pending: { offset: number; data: Buffer }[] = [];

  constructor(bytes: Buffer) {
    this.#durable = Buffer.alloc(8 * SIZE);
    bytes.copy(this.#durable);
    this.#size = bytes.length;
  }
  #size: number;

  write(offset: number, data: Uint8Array): void {
    // Sectors are lost or kept as a whole, each by itself.
    for (let at = 0; at < data.length; ) {
      const length = Math.min(data.length - at, 512 - ((offset + at) % 512));
      this.#pending.push({ offset: offset + at, data: Buffer.from(data.subarray(at, at + length)) });
      at += length;
    }
  }

  sync(): void {
    for (const write of this.#pending) this.#apply(write);
    this.#pending = [];
  }

  /** What a crash leaves. */
  crash(next: () => number): Buffer {
    const chance = next();
    for (const write of this.#pending) if (next() < chance) this.#apply(write);
    this.#pending = [];
    return this.#durable.subarray(0, this.#size);
  }

  #apply({ offset, data }: { offset: number; data: Buffer }): void {
    data.copy(this.#durable, offset);
    this.#size = Math.max(this.#size, offset + data.length);
  }
}

class Crash extends Error {}

/** Runs `action` with the calls on files going to `platter` too, until call number `last`. */
function crashing(platter: Platter, last: number, action: () => void): boolean {
  const real = { ...calls };
  const hooked = calls as { -readonly [K in keyof typeof calls]: (typeof calls)[K] };
  let count = 0;
  const step = () => {
    if (++count > last) throw new Crash();
  };
  hooked.pwrite = (fd, source, length, offset) => {
    step();
    platter.write(offset, source.subarray(0, length));
    return real.pwrite(fd, source, length, offset);
  };
  hooked.fdatasync = () => {
    step();
    platter.sync();
    return 0;
  };
  hooked.fallocate = (fd, mode, offset, length) => {
    step();
    platter.write(offset, new Uint8Array(length));
    return real.fallocate(fd, mode, offset, length);
  };
  try {
    action();
    return false;
  } catch (error) {
    if (error instanceof Crash) return true;
    throw error;
  } finally {
    Object.assign(hooked, real);
  }
}

const CASES: readonly (readonly [name: string, options: string, snapshot: boolean])[] = [
  ["clusters of 4 KiB", "cluster_size=4096", false],
  ["clusters of 512 bytes: tables grow", "cluster_size=512,refcount_bits=64", false],
  ["a snapshot", "cluster_size=4096", true],
  ["extended L2", "extended_l2=on,cluster_size=16384", false],
];

for (const [index, [name, options, snapshot]] of CASES.entries()) {
  test(`the host crashes ${CRASHES} times: ${name}`, { skip: NO_QEMU_IMG }, async (t) => {
    const file = scratch(t);
    const image = file("image");
    qemuImg("create", "-q", "-f", "qcow2", "-o", options, image, String(SIZE));
    const next = random(40 + index);
    if (snapshot) {
      const disk = await openDisk({ file: image });
      disk.write(0, Buffer.alloc(SIZE / 2, 0x55));
      disk.close();
      qemuImg("snapshot", "-c", "s", image);
    }
    let certain: Buffer = Buffer.alloc(SIZE);
    if (snapshot) certain.fill(0x55, 0, SIZE / 2);
    let leaks = 0;
    for (let crash = 0; crash < CRASHES; crash++) {
      const platter = new Platter(readFileSync(image));
      const disk = await openDisk({ file: image });
      const now = Buffer.from(certain);
      /** Blocks written since the last flush: each may have the old or a newer contents. */
      const open = new Map<number, Buffer[]>();
      let flushed: Buffer = certain;
      const crashed = crashing(platter, Math.floor(next() * 250), () => {
        for (let step = 0; step < 200; step++) {
          const block = Math.floor(next() * (SIZE / BLOCK));
          const what = next();
          if (what < 0.2) {
            disk.flush();
            flushed = Buffer.from(now);
            open.clear();
            continue;
          }
          const data = Buffer.alloc(BLOCK, what < 0.85 ? 1 + Math.floor(next() * 255) : 0);
          const before = open.get(block) ?? [Buffer.from(now.subarray(block * BLOCK, (block + 1) * BLOCK))];
          open.set(block, [...before, data]);
          data.copy(now, block * BLOCK);
          if (what < 0.85) disk.write(block * BLOCK, data);
          else disk.writeZeroes(block * BLOCK, BLOCK, what < 0.93);
        }
      });
      // The locks go with the file; what the disk still wants to write goes nowhere.
      crashing(platter, 0, () => disk.close());
      writeFileSync(image, platter.crash(next));
      const { corruptions, messages, leaks: found } = checkImage(image, "leaks");
      assert.equal(corruptions, 0, `crash ${crash} (${crashed}): ${messages.join("; ")}`);
      leaks += found;
      if (crash % QEMU_EVERY === 0) assert.equal(qemuCheck(image), 0);
      const after = await openDisk({ file: image, readOnly: true });
      certain = contents(after);
      after.close();
      for (let sector = 0; sector < SIZE / 512; sector++) {
        const at = sector * 512;
        const is = certain.subarray(at, at + 512);
        const versions = open.get(Math.floor(at / BLOCK)) ?? [];
        const may = [flushed.subarray(at, at + 512), ...versions.map((v) => v.subarray(0, 512))];
        assert.ok(
          may.some((version) => version.equals(is)),
          `crash ${crash}: sector ${sector} has ${is[0]}, and should have ${may.map((version) => version[0]).join(" or ")}`,
        );
      }
    }
    t.diagnostic(`${leaks} leaked clusters`);
  });
}
