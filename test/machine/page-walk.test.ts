/** Page-table walks in each paging mode (SDM vol. 3A, 4.3 to 4.5), over tables written here by hand. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Sregs } from "../../src/hypervisor/seam.js";
import { ramSlots } from "../../src/machine/memory-map.js";
import { walkPageTables } from "../../src/machine/page-walk.js";
import { GuestMemory, gpa } from "../../src/memory/guest-memory.js";
import { SharedMemory } from "../../src/memory/shared-memory.js";

const MIB = 2 ** 20;
const P = 1n;
const W = 2n;
const PS = 0x80n;
const PG = 1n << 31n;

function machine() {
  return new GuestMemory(SharedMemory.create(16 * MIB), ramSlots(8 * MIB, { ramOffset: 0, further: [] }));
}

function walk(memory: GuestMemory, control: Partial<Sregs>, linear: bigint): string[] {
  return walkPageTables(memory, { cr0: PG, cr3: 0x1000n, cr4: 0n, efer: 0n, ...control } as Sregs, linear);
}

test("paging off", () => {
  assert.deepEqual(walk(machine(), { cr0: 1n }, 0x1234n), ["paging is off"]);
});

test("32-bit: a 4 KiB page, a 4 MiB page with PSE-36", () => {
  const memory = machine();
  memory.writeU32(gpa(0x1000 + 1 * 4), 0x2003);
  memory.writeU32(gpa(0x2000 + 2 * 4), 0x5001);
  assert.deepEqual(walk(memory, {}, 0x402abcn), [
    "PDE   [001] at 1004: 00002003 P W",
    "PTE   [002] at 2008: 00005001 P",
    "physical 5abc",
  ]);
  // Bits 20:13 of the entry are bits 39:32 of the address.
  memory.writeU32(gpa(0x1000 + 2 * 4), 0x00c00000 | (0x12 << 13) | Number(PS | W | P));
  assert.equal(walk(memory, { cr4: 1n << 4n }, 0x812345n).at(-1), `physical ${(0x1200c12345).toString(16)}`);
  // Without CR4.PSE the bit means nothing.
  assert.match(walk(memory, {}, 0x812345n)[1], /^PTE/);
});

test("PAE: CR3 is aligned to 32 bytes; a 2 MiB page", () => {
  const memory = machine();
  memory.writeU64(gpa(0x1020 + 3 * 8), 0x3001n);
  memory.writeU64(gpa(0x3000 + 5 * 8), 0x60_0000n | PS | P);
  const lines = walk(memory, { cr3: 0x1020n, cr4: 1n << 5n }, 0xc0a12345n);
  assert.match(lines[0], /^PDPTE \[003\] at 1038: 0000000000003001 P$/);
  assert.equal(lines.at(-1), "physical 612345");
});

test("4-level: 4 KiB, 2 MiB and 1 GiB pages, NX, and what is not there", () => {
  const memory = machine();
  const long = { cr4: 1n << 5n, efer: 1n << 10n };
  memory.writeU64(gpa(0x1000 + 511 * 8), 0x2003n);
  memory.writeU64(gpa(0x2000 + 510 * 8), 0x3003n);
  memory.writeU64(gpa(0x3000 + 8), 0x4003n);
  memory.writeU64(gpa(0x4000 + 2 * 8), 0x5003n | (1n << 63n));
  memory.writeU64(gpa(0x3000 + 16), 0x60_0000n | PS | P);
  memory.writeU64(gpa(0x2000 + 511 * 8), 0x4000_0000n | PS | P);
  const kernel = (offset: bigint) => walk(memory, long, 0xffff_ffff_8000_0000n + offset);
  assert.deepEqual(kernel(0x202abcn), [
    "PML4E [1ff] at 1ff8: 0000000000002003 P W",
    "PDPTE [1fe] at 2ff0: 0000000000003003 P W",
    "PDE   [001] at 3008: 0000000000004003 P W",
    "PTE   [002] at 4010: 8000000000005003 P W NX",
    "physical 5abc",
  ]);
  assert.equal(kernel(0x412345n).at(-1), "physical 612345");
  assert.equal(kernel(0x4123_4567n).at(-1), "physical 41234567");
  assert.equal(kernel(0x600000n).at(-1), "not present");
  assert.equal(walk(memory, long, 0n).at(-1), "not present");
});

test("a table outside of RAM is said to be", () => {
  const lines = walk(machine(), { cr3: 0xffff_f000n, cr4: 1n << 5n, efer: 1n << 10n }, 0n);
  assert.deepEqual(lines, ["PML4E [000] at fffff000: outside of RAM"]);
});

test("whatever is in memory, a walk ends", () => {
  const memory = machine();
  let seed = 1;
  const random = () => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return seed >>> 1;
  };
  const random64 = () => (BigInt(random()) << 40n) ^ (BigInt(random()) << 20n) ^ BigInt(random());
  for (let i = 0; i < MIB; i++) memory.memory.u32[i] = (random() & random() & 0x7fffff) | (random() & 0x83);
  for (let round = 0; round < 20_000; round++) {
    const control = {
      cr3: random64() & (round % 2 === 0 ? 0x3f_ffffn : 2n ** 64n - 1n),
      cr4: BigInt(random()) & 0x1030n,
      efer: BigInt(random()) & 0x400n,
    };
    const lines = walk(memory, control, BigInt.asUintN(64, random64() << BigInt(round % 20)));
    assert.ok(lines.length >= 1 && lines.length <= 6);
  }
});
