import assert from "node:assert/strict";
import { test } from "node:test";
import { E820Type, e820Map } from "../../src/boot/e820.js";
import { GuestMemory, gpa } from "../../src/memory/guest-memory.js";
import { SharedMemory } from "../../src/memory/shared-memory.js";
import { makeMemory } from "./images.js";

const { RAM, RESERVED } = E820Type;

test("a small machine: RAM below and above the legacy hole, firmware and ECAM reserved", () => {
  assert.deepEqual(e820Map(makeMemory(64)), [
    { address: 0, size: 0x9fc00, type: RAM },
    { address: 0x9fc00, size: 0x400, type: RESERVED },
    { address: 0xe0000, size: 0x20000, type: RESERVED },
    { address: 0x100000, size: 63 * 2 ** 20, type: RAM },
    { address: 0xe0000000, size: 0x10000000, type: RESERVED },
  ]);
});

test("RAM above 4 GiB is a range of its own; adjoining slots are one range; read-only ones are none", () => {
  const memory = new GuestMemory(SharedMemory.create(65536), [
    { slot: 0, guestPhysical: gpa(0), size: 0xa0000, offset: 0, readonly: false, logDirty: false },
    { slot: 3, guestPhysical: gpa(2 ** 32), size: 2 ** 30, offset: 0, readonly: false, logDirty: false },
    {
      slot: 2,
      guestPhysical: gpa(0x10000000),
      size: 0xb0000000,
      offset: 0,
      readonly: false,
      logDirty: false,
    },
    { slot: 1, guestPhysical: gpa(0xc0000), size: 0x0ff40000, offset: 0, readonly: false, logDirty: false },
    { slot: 4, guestPhysical: gpa(0xff000000), size: 0x100000, offset: 0, readonly: true, logDirty: false },
  ]);
  assert.deepEqual(
    e820Map(memory).filter(({ type }) => type === RAM),
    [
      { address: 0, size: 0x9fc00, type: RAM },
      { address: 0x100000, size: 0xbff00000, type: RAM },
      { address: 2 ** 32, size: 2 ** 30, type: RAM },
    ],
  );
});

test("the map is in ascending order and nothing overlaps", () => {
  for (const mib of [1, 2, 16, 512]) {
    const map = e820Map(makeMemory(mib));
    for (let index = 1; index < map.length; index++) {
      assert.ok(map[index].address >= map[index - 1].address + map[index - 1].size);
    }
  }
});
