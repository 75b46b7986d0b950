import assert from "node:assert/strict";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { BootError } from "../../src/boot/boot-error.js";
import {
  codeLike,
  load,
  makeBzImage,
  makeElf,
  makeMemory,
  makeMultibootHeader,
  makeNote,
  random,
} from "./images.js";

const TEXT = codeLike(2000, 40);
const SECONDS = 1.8;

function seeds(): Buffer[] {
  const segments = [
    { physical: 0x1000000, virtual: 0xffffffff81000000n, data: TEXT },
    { physical: 0x1200000, data: TEXT, size: 0x10000 },
  ];
  const elf64 = makeElf({ bits: 64, segments });
  const elf32 = makeElf({ bits: 32, segments: [{ physical: 0x100000, data: TEXT }] });
  const notes = makeNote("Xen", 18, Uint8Array.of(0, 0, 0, 1));
  const header = makeMultibootHeader({ flags: 3 });
  const addresses = [0x100040, 0x100000, 0, 0x110000, 0x100060];
  return [
    elf64,
    elf32,
    makeElf({ bits: 64, segments, notes }),
    makeElf({ bits: 32, segments: [{ physical: 0x100000, data: Buffer.concat([header, TEXT]) }] }),
    Buffer.concat([Buffer.alloc(64), makeMultibootHeader({ flags: 0x10003, addresses }), TEXT]),
    makeBzImage({ payload: elf64 }),
    makeBzImage({ payload: gzipSync(elf64) }),
    makeBzImage({ payload: elf32 }),
    makeBzImage({ payload: Buffer.from("unknown") }),
    makeBzImage({ payload: Buffer.from("unknown"), xloadflags: 0 }),
  ];
}

/** Numbers at which sums and comparisons go wrong. */
const EDGES = [
  0, 1, 3, 4, 0x7f, 0x80, 0xff, 0xfff, 0x1000, 0x7fff, 0x8000, 0xffff, 0x9fc00, 0xa0000, 0xfffff,
];
const LARGE_EDGES = [0x1000000, 0x1fff000, 0x7fffffff, 0x80000000, 0xfffff000, 0xfffffffc, 0xffffffff];

test("mutated headers end in a BootError or in a state whose entry point is in memory", async (t) => {
  const next = random(41);
  const originals = seeds();
  const memory = makeMemory(32);
  const initrd = codeLike(5000, 42);
  const deadline = Date.now() + SECONDS * 1000;
  let [cases, loaded] = [0, 0];
  while (Date.now() < deadline) {
    const original = originals[next() % originals.length];
    const file = Buffer.from(original.subarray(0, next() % 8 === 0 ? next() % original.length : undefined));
    for (let changes = next() % 4; changes >= 0 && file.length >= 8; changes--) {
      // Most of what is looked at is in the ELF header, the first program headers, and the setup header.
      const starts = [0, 0, 0x1f0, 0x1f0, next() % file.length];
      const at = Math.min(starts[next() % starts.length] + (next() % 0x90), file.length - 8);
      const edges = next() % 2 ? EDGES : LARGE_EDGES;
      const value = edges[next() % edges.length];
      const kind = next() % 4;
      if (kind === 0) file[at] ^= 1 << (next() % 8);
      else if (kind === 1) file.writeUInt16LE(value & 0xffff, at);
      else if (kind === 2) file.writeUInt32LE(value, at & ~3);
      else file.writeBigUInt64LE((BigInt(value) << 32n) | BigInt(next()), at & ~7);
    }
    cases++;
    try {
      const { regs } = await load(memory, file, { initrd });
      assert.ok(memory.contains(Number(regs.rip), 1), `entry point 0x${regs.rip.toString(16)}`);
      loaded++;
    } catch (error) {
      assert.ok(error instanceof BootError, (error as Error).stack);
      assert.ok(!error.message.includes("\n"));
    }
  }
  t.diagnostic(`${cases} images, ${loaded} of them loadable`);
  assert.ok(loaded > 0 && loaded < cases);
});
