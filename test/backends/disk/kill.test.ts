/**
 * A flush is a flush: whenever the process is killed, the image is one without errors, and has what was flushed.
 * Each image is written to by one process after another, hundreds in all, each killed at some moment.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { openDisk } from "../../../src/backends/disk/open-disk.js";
import { BLOCK, FLUSHED } from "./killed-writer.js";
import { contents, NO_QEMU_IMG, qemuCheck, qemuImg, random, scratch } from "./support.js";

const WRITER = fileURLToPath(new URL("./killed-writer.js", import.meta.url));
const SIZE = 16 * 2 ** 20;
const KILLS = 50;
const MAX_MILLISECONDS = 40;

/** What each block may contain: numbers of writes. */
class Expected {
  readonly #certain = new Uint32Array(SIZE / BLOCK);
  /** Blocks that a write was interrupted in, with what their sectors have, until they are written again and flushed. */
  readonly #torn = new Map<number, Set<number>>();
  /** Blocks written since the last flush: what was certain, or torn, and these writes. */
  readonly #possible = new Map<number, Set<number>>();
  readonly #last = new Uint32Array(SIZE / BLOCK);

  /** Take in what a process says it did. */
  apply(log: Buffer): void {
    for (let at = 0; at + 12 <= log.length; at += 12) {
      const block = log.readUInt32LE(at);
      const count = log.readUInt32LE(at + 4);
      const sequence = log.readUInt32LE(at + 8);
      if (block === FLUSHED) {
        for (const index of this.#possible.keys()) {
          this.#certain[index] = this.#last[index];
          this.#torn.delete(index);
        }
        this.#possible.clear();
        continue;
      }
      for (let index = block; index < block + count; index++) {
        this.#allowed(index).add(sequence);
        this.#last[index] = sequence;
      }
    }
  }

  #allowed(block: number): Set<number> {
    let allowed = this.#possible.get(block);
    if (allowed === undefined) {
      allowed = new Set(this.#torn.get(block) ?? [this.#certain[block]]);
      this.#possible.set(block, allowed);
    }
    return allowed;
  }

  /** Compare with the disk, which is what is certain from then on, but where a write was interrupted half-way. */
  check(disk: Buffer): void {
    for (let block = 0; block < SIZE / BLOCK; block++) {
      const allowed = this.#possible.get(block) ?? this.#torn.get(block);
      const found = new Set<number>();
      for (let at = block * BLOCK; at < (block + 1) * BLOCK; at += 512) {
        const number = disk.readUInt32LE(at);
        const sequence = disk.readUInt32LE(at + 4);
        const right = sequence === 0 ? number === 0 : number === block;
        if (right && (allowed?.has(sequence) ?? sequence === this.#certain[block])) found.add(sequence);
        else {
          const wanted = allowed === undefined ? this.#certain[block] : [...allowed].join(" or ");
          assert.fail(`block ${block} has write ${sequence} of block ${number}, and should have ${wanted}`);
        }
      }
      this.#possible.delete(block);
      if (found.size > 1) this.#torn.set(block, found);
      else {
        this.#torn.delete(block);
        this.#certain[block] = [...found][0];
        this.#last[block] = this.#certain[block];
      }
    }
  }
}

const CASES: readonly (readonly [name: string, options: string, backing: boolean])[] = [
  ["clusters of 64 KiB", "", false],
  ["clusters of 4 KiB over a backing file", "cluster_size=4096", true],
  ["clusters of 512 bytes, the refcount table grows", "cluster_size=512", false],
  ["extended L2", "extended_l2=on", false],
  ["version 2", "compat=0.10,cluster_size=8192", false],
];

for (const [index, [name, options, backing]] of CASES.entries()) {
  test(`killed ${KILLS} times: ${name}`, { skip: NO_QEMU_IMG }, async (t) => {
    const file = scratch(t);
    const image = file("image.qcow2");
    const args = options === "" ? [] : ["-o", options];
    if (backing) {
      writeFileSync(file("base"), Buffer.alloc(SIZE));
      args.push("-b", "base", "-F", "raw");
    }
    qemuImg("create", "-q", "-f", "qcow2", ...args, image, String(SIZE));
    const expected = new Expected();
    const next = random(index + 1);
    let leaks = 0;
    for (let kill = 1; kill <= KILLS; kill++) {
      const log = file("log");
      const child = spawn(process.execPath, [WRITER, image, log, String(kill)], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      const ended = once(child, "exit");
      await once(child.stdout, "data");
      await new Promise((resolve) => setTimeout(resolve, next() * MAX_MILLISECONDS));
      child.kill("SIGKILL");
      const [status, signal] = await ended;
      assert.equal(signal, "SIGKILL", `the writer ended by itself with ${status}`);
      leaks += qemuCheck(image);
      if (existsSync(log)) expected.apply(readFileSync(log));
      rmSync(log, { force: true });
      const disk = await openDisk({ file: image, readOnly: true });
      expected.check(contents(disk));
      disk.close();
      // What is leaked would only be found again by later checks.
      if (leaks > 0) qemuImg("check", "-q", "-r", "leaks", image);
    }
    t.diagnostic(`${leaks} leaked clusters in ${KILLS} kills`);
  });
}
