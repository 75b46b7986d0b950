/** Where RAM is, to the guest and in the linear memory: the map at the top of memory-map.ts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  MAX_KVM_RAM_BYTES,
  MAX_PROVIDER_ARENA_BYTES,
  MAX_RAM_BYTES,
  MIN_RAM_BYTES,
  planLinearMemory,
  ramSlots,
} from "../../src/machine/memory-map.js";
import { WASM_MEMORY_LIMIT } from "../../src/memory/shared-memory.js";

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const ARENA = 384 * MIB;

for (const ramBytes of [MIN_RAM_BYTES, 64 * MIB, 512 * MIB, 3072 * MIB, 3072 * MIB + 4096, MAX_RAM_BYTES]) {
  test(`${ramBytes / MIB} MiB of RAM`, () => {
    const plan = planLinearMemory(ramBytes, ramBytes === MAX_RAM_BYTES ? MAX_PROVIDER_ARENA_BYTES : ARENA);
    assert.ok(plan.total <= WASM_MEMORY_LIMIT);
    assert.ok(plan.stateStart > 0 && plan.stateEnd <= plan.ramOffset);
    const slots = ramSlots(ramBytes, plan);
    let guest = 0;
    let linear = plan.ramOffset;
    for (const slot of slots) {
      const end = slot.guestPhysical + slot.size;
      assert.ok(slot.size > 0);
      assert.ok(slot.guestPhysical >= guest && slot.offset >= linear, "no overlap");
      assert.ok(end <= 3 * GIB || slot.guestPhysical >= 4 * GIB, "clear of the PCI window");
      assert.ok(end <= 0xa0000 || slot.guestPhysical >= 0xc0000, "clear of video memory");
      guest = end;
      linear = slot.offset + slot.size;
    }
    assert.ok(linear <= plan.total);
    // The hole below 1 MiB is RAM that the guest does not see.
    assert.equal(
      slots.reduce((sum, slot) => sum + slot.size, 0),
      ramBytes - 0x20000,
    );
  });
}

test("all of 3 GiB is below the PCI window, what is more goes above 4 GiB", () => {
  const last = (ramBytes: number) => ramSlots(ramBytes, { ramOffset: 0, further: [] }).at(-1)!;
  assert.equal(last(3 * GIB).guestPhysical + last(3 * GIB).size, 3 * GIB);
  assert.deepEqual([last(3 * GIB + MIB).guestPhysical, last(3 * GIB + MIB).size], [4 * GIB, MIB]);
});

test("what does not fit is in further memories, each with a hole behind it in the guest's RAM", () => {
  const ramBytes = 13 * GIB;
  const plan = planLinearMemory(ramBytes, ARENA);
  assert.ok(plan.total <= WASM_MEMORY_LIMIT);
  assert.deepEqual(plan.further, [4 * GIB - 65536, 4 * GIB - 65536, 2 * GIB + 2 * 65536]);
  const high = ramSlots(ramBytes, plan).slice(2);
  assert.deepEqual(
    high.map(({ guestPhysical, size, memory, offset }) => [guestPhysical, size, memory, offset]),
    plan.further.map((size, i) => [4 * GIB * (i + 1), size, i + 1, 0]),
  );
});

test("more than the host's KVM is asked for is refused", () => {
  assert.throws(() => planLinearMemory(MAX_KVM_RAM_BYTES + 4096, ARENA), RangeError);
});
