/** What the tests of disk images share: files in a temporary directory, qemu-img, random accesses beside a model. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type { TestContext } from "node:test";
import type { Disk } from "../../../src/backends/disk/disk.js";

export const hasQemuImg = spawnSync("qemu-img", ["--version"]).status === 0;
export const NO_QEMU_IMG = hasQemuImg ? false : "needs qemu-img (package qemu-utils)";

/** Memory, where there is such a place: its files take no time to sync. */
const FAST_DIRECTORY = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();

/** A directory that goes with the test; its files' names in it. */
export function scratch(t: TestContext, parent = FAST_DIRECTORY): (name: string) => string {
  const directory = mkdtempSync(path.join(parent, "nlkt-disk-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return (name) => path.join(directory, name);
}

export interface ToolResult {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export function run(program: string, ...args: string[]): ToolResult {
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: "utf8", maxBuffer: 64 * 2 ** 20 });
  return { status, stdout, stderr };
}

/** Throws where the tool fails. */
export function must(program: string, ...args: string[]): string {
  const { status, stdout, stderr } = run(program, ...args);
  if (status !== 0) throw new Error(`${program} ${args.join(" ")}: ${status}: ${stderr}${stdout}`);
  return stdout;
}

export const qemuImg = (...args: string[]) => must("qemu-img", ...args);

/** What `qemu-img check` finds: throws for errors, returns the number of leaks. */
export function qemuCheck(file: string): number {
  const { status, stdout, stderr } = run("qemu-img", "check", "--output=json", "-f", "qcow2", file);
  if (status !== 0 && status !== 3) throw new Error(`qemu-img check ${file}: ${status}: ${stderr}${stdout}`);
  const result = JSON.parse(stdout) as { leaks?: number; corruptions?: number; "check-errors": number };
  if ((result.corruptions ?? 0) !== 0 || result["check-errors"] !== 0) throw new Error(stdout + stderr);
  return result.leaks ?? 0;
}

/** The disk's contents as QEMU reads it. */
export function qemuContents(file: string, format: string, raw: string): Buffer {
  qemuImg("convert", "-f", format, "-O", "raw", file, raw);
  return readFileSync(raw);
}

/** Mulberry32: numbers from 0 to 1 that a seed decides. */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = state;
    x = Math.imul(x ^ (x >>> 15), x | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Reads a whole disk. */
export function contents(disk: Disk): Buffer {
  const bytes = Buffer.alloc(disk.sizeBytes);
  disk.read(0, bytes);
  return bytes;
}

/** Random accesses to a disk, and what it should contain then. */
export class ModelledDisk {
  readonly model: Buffer;
  constructor(
    readonly disk: Disk,
    private readonly next: () => number,
    private readonly maxLength = 300_000,
  ) {
    this.model = contents(disk);
  }

  #int(limit: number): number {
    return Math.floor(this.next() * limit);
  }

  #range(): { offset: number; length: number } {
    const { sizeBytes } = this.disk;
    const sectors = this.next() < 0.5;
    const offset = sectors ? this.#int(sizeBytes / 512) * 512 : this.#int(sizeBytes);
    // Mostly small, some large.
    const limit = Math.min(sizeBytes - offset, this.next() < 0.7 ? 8192 : this.maxLength);
    const length = 1 + this.#int(limit);
    return { offset, length: sectors ? Math.min(Math.ceil(length / 512) * 512, sizeBytes - offset) : length };
  }

  /** Views of all of `data`, some short and some long. */
  #split(data: Buffer): Uint8Array[] {
    const views: Uint8Array[] = [];
    for (let at = 0; at < data.length; ) {
      const length = views.length < 20 ? 1 + this.#int(20_000) : data.length;
      views.push(data.subarray(at, at + length));
      at += length;
    }
    return views;
  }

  /** One access; throws where a read has something else than the model. */
  step(): void {
    const { disk, model } = this;
    const { offset, length } = this.#range();
    const what = this.next();
    if (what < 0.4) {
      const data = Buffer.alloc(length);
      const value = this.#int(256);
      for (let at = 0; at < length; at++) data[at] = value + (at >> 9) + at * 7;
      if (disk.writeVectors === undefined || this.next() < 0.5) disk.write(offset, data);
      else disk.writeVectors(offset, this.#split(data));
      data.copy(model, offset);
    } else if (what < 0.7) {
      const data = Buffer.alloc(length, 0xee);
      if (disk.readVectors === undefined || this.next() < 0.5) disk.read(offset, data);
      else disk.readVectors(offset, this.#split(data));
      const expected = model.subarray(offset, offset + length);
      if (!data.equals(expected)) {
        const at = data.findIndex((byte, index) => byte !== expected[index]);
        throw new Error(`read of ${length} at ${offset}: byte ${at} is ${data[at]}, not ${expected[at]}`);
      }
    } else if (what < 0.82) {
      disk.writeZeroes(offset, length, this.next() < 0.5);
      model.fill(0, offset, offset + length);
    } else if (what < 0.92) {
      disk.discard(offset, length);
      // Anything may be there now; what it is stays.
      disk.read(offset, model.subarray(offset, offset + length));
    } else {
      disk.flush();
    }
  }
}
