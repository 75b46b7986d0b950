/**
 * A process to be killed: writes blocks to an image, at random, and flushes now and then. Before each write and after each flush it
 * says so in a log, which is what the disk must be true to whenever the process dies.
 *
 * Arguments: image, log, seed.
 */
import { openSync, writeSync } from "node:fs";
import { openDisk } from "../../../src/backends/disk/open-disk.js";
import { random } from "./support.js";

/** A block carries its number and that of the write. */
export const BLOCK = 4096;
export const FLUSHED = 0xffffffff;

export function fillBlock(bytes: Buffer, block: number, sequence: number): void {
  for (let at = 0; at < bytes.length; at += 512) {
    bytes.writeUInt32LE(block, at);
    bytes.writeUInt32LE(sequence, at + 4);
  }
}

function pagesOf(bytes: Buffer): Uint8Array[] {
  const count = bytes.length / BLOCK;
  return Array.from({ length: count }, (_, i) => bytes.subarray(i * BLOCK, (i + 1) * BLOCK));
}

async function main(image: string, logFile: string, seed: number): Promise<void> {
  const next = random(seed);
  const log = openSync(logFile, "a");
  const disk = await openDisk({ file: image });
  const blocks = disk.sizeBytes / BLOCK;
  const say = (block: number, count: number, sequence: number) => {
    writeSync(log, Uint32Array.of(block, count, sequence));
  };
  process.stdout.write("ready\n");
  for (let sequence = seed * 1_000_000; ; sequence++) {
    // Mostly near each other, so that tables and clusters are shared.
    const block = Math.floor(next() < 0.3 ? next() * blocks : (next() * blocks) / 16);
    const count = Math.min(blocks - block, next() < 0.7 ? 1 : 1 + Math.floor(next() * 40));
    const what = next();
    if (what < 0.75) {
      const bytes = Buffer.alloc(count * BLOCK);
      for (let i = 0; i < count; i++) {
        fillBlock(bytes.subarray(i * BLOCK, (i + 1) * BLOCK), block + i, sequence);
      }
      say(block, count, sequence);
      // As a request comes from a guest: whole, or in pages.
      if (what < 0.4 || disk.writeVectors === undefined) disk.write(block * BLOCK, bytes);
      else disk.writeVectors(block * BLOCK, pagesOf(bytes));
    } else if (what < 0.85) {
      // Zeros are the write of number 0.
      say(block, count, 0);
      disk.writeZeroes(block * BLOCK, count * BLOCK, what < 0.8);
    } else {
      disk.flush();
      say(FLUSHED, 0, 0);
    }
  }
}

if (process.argv[1]?.endsWith("killed-writer.js")) {
  const [image, log, seed] = process.argv.slice(2);
  await main(image, log, Number(seed));
}
