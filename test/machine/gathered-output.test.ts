/** When the console's writes gather, and who serves them. */
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import type { CoalescedWrites, Vm, VmExit } from "../../src/hypervisor/seam.js";
import { GatheredOutput } from "../../src/machine/gathered-output.js";
import type { Clock } from "../../src/memory/clock.js";
import { SharedMemory } from "../../src/memory/shared-memory.js";
import { StateAllocator } from "../../src/memory/state-allocator.js";
import { Timers } from "../../src/memory/timers.js";

const PORT = 0x3f8;
const MILLISECOND = 1e6;

let now: number;
let events: string[];
let ring: number[];
let waits: number;
let timers: Timers;
let output: GatheredOutput;
let memory: SharedMemory;

beforeEach(() => {
  now = 1000 * MILLISECOND;
  events = [];
  ring = [];
  waits = 0;
  const clock = { now: () => now } as Clock;
  const coalesced: CoalescedWrites = {
    setPort: (port, on) => void events.push(`${on ? "on" : "off"} ${port.toString(16)}`),
    get pending() {
      return ring.length > 0;
    },
    drain(serve) {
      for (; ring.length > 0; ring.shift())
        serve({ port: PORT, data: Uint8Array.of(ring[0]) } as unknown as VmExit);
    },
  };
  const vm = { coalesced, vcpu: (id: number) => ({ kick: () => void events.push(`kick ${id}`) }) };
  memory = SharedMemory.create(65536);
  const allocator = new StateAllocator(memory, 64, 65536);
  timers = new Timers(memory, allocator, clock);
  timers.reset();
  output = new GatheredOutput(memory, allocator, timers, clock, vm as unknown as Vm, PORT, (sleep) => {
    waits++;
    sleep();
  });
});

function write(count: number): void {
  for (let i = 0; i < count; i++) output.written();
}

function pass(milliseconds: number): void {
  now += milliseconds * MILLISECOND;
  timers.expire();
}

test("a few writes now and then make exits", () => {
  for (let i = 0; i < 20; i++) {
    write(3);
    pass(100);
  }
  assert.deepEqual(events, []);
});

test("a burst turns gathering on, silence turns it off, and so again", () => {
  for (let round = 0; round < 2; round++) {
    write(50);
    assert.deepEqual(events, ["on 3f8"]);
    for (let i = 0; i < 20; i++) pass(5);
    assert.deepEqual(events, ["on 3f8", "off 3f8"]);
    events = [];
    assert.equal(timers.expire(), Number.POSITIVE_INFINITY, "an idle guest is not looked at");
  }
});

test("what waits longer than some milliseconds makes a vCPU come out, which serves it in order", () => {
  write(50);
  ring.push(1, 2, 3);
  pass(5);
  assert.deepEqual(events, ["on 3f8", "kick 0"]);
  const served: number[] = [];
  output.serve(
    ({ data }) => void served.push(data[0]),
    () => false,
  );
  assert.deepEqual(served, [1, 2, 3]);
});

test("a second vCPU waits until the first has served, or the machine has ended", () => {
  ring.push(1, 2);
  const served: number[] = [];
  let inner = 0;
  output.serve(
    ({ data }) => {
      served.push(data[0]);
      // Another thread comes here meanwhile: it must not serve the same.
      output.serve(
        () => assert.fail("served twice"),
        () => ++inner > 1,
      );
    },
    () => false,
  );
  assert.deepEqual(served, [1, 2]);
  assert.ok(waits > 0);
});
