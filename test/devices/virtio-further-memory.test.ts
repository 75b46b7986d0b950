/** Virtqueues in RAM that is spread over several memories: machines on KVM with more than fits into one. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { PackedRing } from "../../src/devices/virtio/packed-ring.js";
import { VIRTQUEUE, type VirtqueueState } from "../../src/devices/virtio/ring.js";
import { SplitRing } from "../../src/devices/virtio/split-ring.js";
import { GuestMemory, gpa } from "../../src/memory/guest-memory.js";
import { SharedMemory } from "../../src/memory/shared-memory.js";
import { StateAllocator } from "../../src/memory/state-allocator.js";

const GIB = 2 ** 30;
const RAM = 1 << 16;
/** Guest-physical places: of the machine's memory, and of two further ones. */
const HERE = 0;
const THERE = 4 * GIB;
const YONDER = 8 * GIB;
const FEATURES = { indirect: true, eventIndex: false };

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;

function make() {
  const own = SharedMemory.create(2 * RAM);
  const further = [SharedMemory.create(RAM), SharedMemory.create(RAM)];
  const slot = (index: number, start: number, memory: number, offset: number) => ({
    slot: index,
    guestPhysical: gpa(start),
    size: RAM,
    memory,
    offset,
    readonly: false,
    logDirty: false,
  });
  const slots = [slot(0, HERE, 0, RAM), slot(1, THERE, 1, 0), slot(2, YONDER, 2, 0)];
  const memory = new GuestMemory(own, slots, further);
  const state = new StateAllocator(own, 64, RAM).alloc(VIRTQUEUE, "queue");
  const marks: number[] = [];
  memory.onWrite((offset) => marks.push(Math.floor(offset / 2 ** 32)));
  return { memory, state, marks };
}

function place(words: Uint32Array, address: number): void {
  words.set([address % 2 ** 32, Math.floor(address / 2 ** 32)]);
}

function areas(state: VirtqueueState, descriptors: number, driver: number, device: number): void {
  state.size = 4;
  place(state.descriptors, descriptors);
  place(state.driver, driver);
  place(state.device, device);
}

function descriptor(memory: GuestMemory, at: number, address: number, words: [number, number, number]): void {
  memory.writeU64(gpa(at), BigInt(address));
  memory.writeU32(gpa(at + 8), words[0]);
  memory.writeU16(gpa(at + 12), words[1]);
  memory.writeU16(gpa(at + 14), words[2]);
}

test("a split queue: each area and each buffer in a memory of its own", () => {
  const { memory, state, marks } = make();
  areas(state, THERE + 0x100, YONDER + 0x200, HERE + 0x300);
  // A buffer in one memory, then an indirect table in another, whose buffer is in the third.
  descriptor(memory, THERE + 0x100, YONDER + 0x1000, [5, NEXT, 1]);
  descriptor(memory, THERE + 0x110, YONDER + 0x2000, [32, INDIRECT, 0]);
  descriptor(memory, YONDER + 0x2000, HERE + 0x1000, [3, NEXT, 1]);
  descriptor(memory, YONDER + 0x2010, THERE + 0x3000, [4, WRITE, 0]);
  memory.write(gpa(YONDER + 0x1000), Buffer.from("hello"));
  memory.write(gpa(HERE + 0x1000), Buffer.from(" yo"));
  memory.writeU16(gpa(YONDER + 0x202), 1);
  const ring = new SplitRing({ memory, state, features: FEATURES });
  const chain = ring.pop();
  assert.ok(chain !== undefined);
  const text = new Uint8Array(8);
  assert.equal(chain.readable.copyTo(text), 8);
  assert.equal(Buffer.from(text).toString(), "hello yo");
  marks.length = 0;
  assert.equal(chain.writable.copyFrom(Buffer.from("okay")), 4);
  assert.deepEqual(marks, [1], "the page that is marked is in the second memory");
  assert.equal(Buffer.from(memory.bytes(gpa(THERE + 0x3000), 4)).toString(), "okay");
  ring.push(chain, 4);
  assert.equal(memory.readU16(gpa(HERE + 0x302)), 1);
  assert.equal(memory.readU32(gpa(HERE + 0x308)), 4);
  assert.equal(ring.wantsInterrupt(), true);
  assert.equal(ring.pop(), undefined);
});

test("a packed queue in a further memory", () => {
  const { memory, state } = make();
  const AVAILABLE = 1 << 7;
  state.availableWrap = 1;
  state.usedWrap = 1;
  areas(state, YONDER + 0x100, HERE + 0x200, THERE + 0x300);
  memory.writeU64(gpa(YONDER + 0x100), BigInt(THERE + 0x1000));
  memory.writeU32(gpa(YONDER + 0x108), 6);
  memory.writeU16(gpa(YONDER + 0x10c), 7);
  memory.writeU16(gpa(YONDER + 0x10e), AVAILABLE | WRITE);
  const ring = new PackedRing({ memory, state, features: FEATURES });
  const chain = ring.pop();
  assert.ok(chain !== undefined);
  chain.writable.fill(0x5a, 0, 6);
  assert.deepEqual([...memory.bytes(gpa(THERE + 0x1000), 7)], [...Array(6).fill(0x5a), 0]);
  ring.push(chain, 6);
  assert.equal(memory.readU16(gpa(YONDER + 0x10c)), 7);
  assert.equal(memory.readU16(gpa(YONDER + 0x10e)) & 0x8000, 0x8000, "used");
  ring.disableNotifications();
  assert.equal(memory.readU16(gpa(THERE + 0x302)), 1);
});
