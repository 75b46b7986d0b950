/** Virtqueues of both kinds: VIRTIO 2.6 to 2.8, from the driver's side. docs/virtio.md lists the clauses. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Feature, Status } from "../../../src/devices/virtio/constants.js";
import { gpa } from "../../../src/memory/guest-memory.js";
import { validateLocks } from "../support.js";
import {
  Bench,
  type DriverRing,
  echoType,
  HIGH_RAM,
  type PackedDriver,
  RAM_SIZE,
  RINGS,
  Rig,
  SplitDriver,
} from "./support.js";

validateLocks();

const RING_BASE = 0x10000;
const DATA = 0x20000;
const OUT = 0x30000;
const TABLE = 0x40000;

interface Set {
  rig: Rig;
  bench: Bench;
  type: ReturnType<typeof echoType>;
  ring: DriverRing;
}

function setUp(kind: (typeof RINGS)[number], extra: readonly number[] = [], size = 8): Set {
  const rig = new Rig();
  const type = echoType();
  const bench = new Bench(rig, type);
  bench.negotiate([...kind.bits, ...extra]);
  const ring = new kind.make(rig.ram, RING_BASE, size, bench.device.queues[0]);
  bench.driverOk();
  bench.run();
  return { rig, bench, type, ring };
}

function text(rig: Rig, address: number, value: string): { address: number; length: number } {
  rig.ram.write(gpa(address), Buffer.from(value));
  return { address, length: value.length };
}

function read(rig: Rig, address: number, length: number): string {
  return Buffer.from(rig.ram.bytes(gpa(address), length)).toString("latin1");
}

for (const kind of RINGS) {
  const { INDIRECT_DESC, EVENT_IDX } = Feature;

  test(`${kind.kind}: a request goes there and back, many times around the ring`, () => {
    const { rig, bench, ring } = setUp(kind);
    for (let i = 0; i < 100; i++) {
      const word = `request ${i}`;
      const id = ring.add([text(rig, DATA, word), { address: OUT, length: 64, write: true }]);
      bench.run();
      assert.deepEqual(ring.used(), [{ id, length: word.length }]);
      assert.equal(read(rig, OUT, word.length), word);
    }
    assert.equal(bench.interrupts[0], 100);
    rig.checkGuards();
  });

  test(`${kind.kind}: the split of a message into buffers does not matter (2.6.4)`, () => {
    const { rig, bench, ring } = setUp(kind);
    const parts = ["a", "", "bcd", "efghi", ""].map((part, i) => text(rig, DATA + 100 * i, part));
    ring.add([
      ...parts,
      { address: OUT, length: 2, write: true },
      { address: HIGH_RAM + 8, length: 50, write: true },
    ]);
    bench.run();
    assert.equal(ring.used()[0].length, 9);
    assert.equal(read(rig, OUT, 2) + read(rig, HIGH_RAM + 8, 7), "abcdefghi");
  });

  test(`${kind.kind}: indirect descriptors (2.7.5.3, 2.8.7)`, () => {
    const { rig, bench, ring } = setUp(kind, [INDIRECT_DESC]);
    for (const table of [TABLE, TABLE + 3]) {
      const id = ring.add(
        [
          text(rig, DATA, "through "),
          text(rig, DATA + 64, "a table"),
          { address: OUT, length: 64, write: true },
        ],
        { indirect: table },
      );
      bench.run();
      assert.deepEqual(ring.used(), [{ id, length: 15 }]);
      assert.equal(read(rig, OUT, 15), "through a table");
    }
  });

  test(`${kind.kind}: no indirect descriptors without the feature`, () => {
    const { rig, bench, ring } = setUp(kind);
    ring.add([text(rig, DATA, "x")], { indirect: TABLE });
    bench.run();
    assert.ok(bench.needsReset);
  });

  test(`${kind.kind}: a suppressed interrupt does not come (2.7.7, 2.8.10)`, () => {
    const { rig, bench, ring } = setUp(kind);
    ring.suppress();
    ring.add([text(rig, DATA, "quiet")]);
    bench.run();
    assert.equal(ring.used().length, 1);
    assert.equal(bench.interrupts[0], undefined);
  });

  test(`${kind.kind}: what came together is answered with one interrupt, what is broken behind it or not`, () => {
    const { rig, bench, ring } = setUp(kind);
    for (let i = 0; i < 5; i++) ring.add([text(rig, DATA + 64 * i, `request ${i}`)]);
    bench.run();
    assert.equal(ring.used().length, 5);
    assert.equal(bench.interrupts[0], 1);
    ring.add([text(rig, DATA, "whole")]);
    ring.add([{ address: 0x7fff_0000, length: 16 }]);
    bench.run();
    assert.equal(bench.interrupts[0], 2);
    assert.equal(ring.used().length, 1);
    assert.notEqual(bench.device.status & Status.NEEDS_RESET, 0);
  });

  test(`${kind.kind}: event indices say when interrupts come (2.7.7.2, 2.8.10)`, () => {
    const { rig, bench, ring } = setUp(kind, [EVENT_IDX]);
    for (let round = 0; round < 20; round++) {
      bench.interrupts.length = 0;
      ring.interruptAfter(2);
      ring.add([text(rig, DATA, "1")]);
      bench.run();
      ring.add([text(rig, DATA, "2")]);
      bench.run();
      assert.equal(bench.interrupts[0], undefined, `round ${round}`);
      ring.add([text(rig, DATA, "3")]);
      bench.run();
      assert.equal(bench.interrupts[0], 1, `round ${round}`);
      assert.equal(ring.used().length, 3);
    }
  });

  test(`${kind.kind}: the device asks for a notification when it has nothing to do (2.7.10, 2.8.10)`, () => {
    const { rig, bench, ring } = setUp(kind, [EVENT_IDX]);
    for (let i = 0; i < 30; i++) {
      assert.ok(ring.wantsNotification, `before request ${i}`);
      ring.add([text(rig, DATA, "x")]);
      bench.run();
      ring.used();
    }
  });

  test(`${kind.kind}: a readable buffer after a writable one (2.6.4.2)`, () => {
    const { rig, bench, ring } = setUp(kind);
    ring.add([{ address: OUT, length: 8, write: true }, text(rig, DATA, "late")]);
    bench.run();
    assert.ok(bench.needsReset);
  });

  for (const [what, address, length] of [
    ["beyond RAM", RAM_SIZE, 1],
    ["over the end of RAM", RAM_SIZE - 4, 8],
    ["in the hole", HIGH_RAM - 16, 4],
    ["from one slot to the next", RAM_SIZE - 1, HIGH_RAM],
    ["at the end of the address space", 2 ** 63, 16],
    ["of 4 GiB", 0, 2 ** 32 - 1],
  ] as const) {
    test(`${kind.kind}: a buffer ${what}`, () => {
      for (const write of [false, true]) {
        const { rig, bench, ring } = setUp(kind);
        ring.add([{ address, length, write }]);
        bench.run();
        assert.ok(bench.needsReset);
        assert.equal(bench.configInterrupts, 1);
        rig.checkGuards();
      }
    });
  }

  test(`${kind.kind}: a device that needs a reset serves nothing, and is whole after it`, () => {
    const { rig, bench, ring, type } = setUp(kind);
    ring.add([{ address: RAM_SIZE, length: 1 }]);
    bench.run();
    ring.add([text(rig, DATA, "no")]);
    bench.run();
    assert.equal(type.served, 0);
    bench.driverOk();
    assert.ok(bench.needsReset, "only a reset helps");
    bench.negotiate(kind.bits);
    const again = new kind.make(rig.ram, RING_BASE, 8, bench.device.queues[0]);
    bench.driverOk();
    again.add([text(rig, DATA, "yes")]);
    bench.run();
    assert.equal(again.used().length, 1);
  });

  test(`${kind.kind}: areas outside of RAM or not aligned`, () => {
    for (const base of [RAM_SIZE - 64, RAM_SIZE + 4096, HIGH_RAM - 32, 0x10008]) {
      const rig = new Rig();
      const bench = new Bench(rig, echoType());
      bench.negotiate(kind.bits);
      const queue = bench.device.queues[0];
      queue.device.locked(() => queue.resize(8));
      queue.state.descriptors[0] = base;
      queue.state.driver[0] = RING_BASE;
      queue.state.device[0] = RING_BASE + 0x100;
      queue.enable();
      bench.driverOk();
      bench.run();
      assert.ok(bench.needsReset, base.toString(16));
    }
  });

  test(`${kind.kind}: indirect tables of odd lengths, empty, huge, outside of RAM`, () => {
    for (const [table, length] of [
      [TABLE, 0],
      [TABLE, 24],
      [TABLE, 16 * 2000],
      [RAM_SIZE - 16, 32],
      [2 ** 40, 16],
    ]) {
      const { bench, ring } = setUp(kind, [INDIRECT_DESC]);
      if (ring instanceof SplitDriver) {
        ring.descriptor(0, table, length, 4);
        ring.offer(0);
      } else (ring as PackedDriver).entry(table, length, 0, 4);
      bench.run();
      assert.ok(bench.needsReset, `${table} ${length}`);
    }
  });

  test(`${kind.kind}: an indirect descriptor with NEXT (2.7.5.3.1, 2.8.7)`, () => {
    const { rig, bench, ring } = setUp(kind, [INDIRECT_DESC]);
    rig.ram.fill(gpa(TABLE), 64);
    if (ring instanceof SplitDriver) {
      ring.descriptor(0, TABLE, 16, 4 | 1, 1);
      ring.offer(0);
    } else (ring as PackedDriver).entry(TABLE, 16, 0, 4 | 1);
    bench.run();
    assert.ok(bench.needsReset);
  });
}

test("split: an index far ahead of the device's (2.7.13.3)", () => {
  const { bench, ring } = setUp(RINGS[0]);
  (ring as SplitDriver).setIndex(9);
  bench.run();
  assert.ok(bench.needsReset);
});

test("split: a head outside of the table", () => {
  const { bench, ring } = setUp(RINGS[0]);
  (ring as SplitDriver).offer(8);
  bench.run();
  assert.ok(bench.needsReset);
});

test("split: loops of descriptors (2.7.5.2)", () => {
  for (const [first, second] of [
    [0, 0],
    [1, 0],
  ]) {
    const { rig, bench, ring } = setUp(RINGS[0]);
    const split = ring as SplitDriver;
    text(rig, DATA, "loop");
    split.descriptor(0, DATA, 4, 1, first);
    split.descriptor(1, DATA, 4, 1, second);
    split.offer(0);
    bench.run();
    assert.ok(bench.needsReset);
  }
});

test("split: a next descriptor outside of its table, direct and indirect", () => {
  const direct = setUp(RINGS[0]);
  const split = direct.ring as SplitDriver;
  split.descriptor(0, DATA, 4, 1, 8);
  split.offer(0);
  direct.bench.run();
  assert.ok(direct.bench.needsReset);

  const { rig, bench, ring } = setUp(RINGS[0], [Feature.INDIRECT_DESC]);
  rig.ram.writeU64(gpa(TABLE), BigInt(DATA));
  rig.ram.writeU32(gpa(TABLE + 8), 4);
  rig.ram.writeU16(gpa(TABLE + 12), 1);
  rig.ram.writeU16(gpa(TABLE + 14), 1);
  (ring as SplitDriver).descriptor(0, TABLE, 16, 4);
  (ring as SplitDriver).offer(0);
  bench.run();
  assert.ok(bench.needsReset);
});

test("split: a table in a table (2.7.5.3.1)", () => {
  const { rig, bench, ring } = setUp(RINGS[0], [Feature.INDIRECT_DESC]);
  rig.ram.writeU64(gpa(TABLE), BigInt(TABLE));
  rig.ram.writeU32(gpa(TABLE + 8), 16);
  rig.ram.writeU16(gpa(TABLE + 12), 4);
  (ring as SplitDriver).descriptor(0, TABLE, 16, 4);
  (ring as SplitDriver).offer(0);
  bench.run();
  assert.ok(bench.needsReset);
});

test("split: direct descriptors and then a table (2.7.5.3.2)", () => {
  const { rig, bench, ring } = setUp(RINGS[0], [Feature.INDIRECT_DESC]);
  text(rig, DATA, "direct ");
  text(rig, DATA + 64, "and not");
  rig.ram.writeU64(gpa(TABLE), BigInt(DATA + 64));
  rig.ram.writeU32(gpa(TABLE + 8), 7);
  rig.ram.writeU16(gpa(TABLE + 12), 1);
  rig.ram.writeU16(gpa(TABLE + 14), 1);
  rig.ram.writeU64(gpa(TABLE + 16), BigInt(OUT));
  rig.ram.writeU32(gpa(TABLE + 24), 64);
  rig.ram.writeU16(gpa(TABLE + 28), 2);
  const split = ring as SplitDriver;
  split.descriptor(0, DATA, 7, 1, 1);
  // The WRITE flag of a table's descriptor is ignored (2.7.5.3.2).
  split.descriptor(1, TABLE, 32, 4 | 2);
  split.offer(0);
  bench.run();
  assert.equal(split.used()[0].length, 14);
  assert.equal(read(rig, OUT, 14), "direct and not");
});

test("split: queue sizes that are no power of 2 (2.7)", () => {
  for (const size of [0, 3, 6, 63]) {
    const rig = new Rig();
    const bench = new Bench(rig, echoType());
    bench.negotiate([]);
    new SplitDriver(rig.ram, RING_BASE, size, bench.device.queues[0]);
    bench.driverOk();
    bench.run();
    assert.ok(bench.needsReset, `size ${size}`);
  }
});

test("packed: any queue size (2.8.10.1)", () => {
  for (const size of [1, 3, 6, 63]) {
    const { rig, bench, ring } = setUp(RINGS[1], [], size);
    for (let i = 0; i < 3 * size; i++) {
      ring.add([text(rig, DATA, "odd")]);
      bench.run();
      assert.equal(ring.used().length, 1);
    }
  }
});

test("packed: chains that go around the end of the ring (2.8.6)", () => {
  const { rig, bench, ring } = setUp(RINGS[1], [], 5);
  for (let i = 0; i < 20; i++) {
    const id = ring.add([
      text(rig, DATA, "ab"),
      text(rig, DATA + 8, "cd"),
      { address: OUT, length: 9, write: true },
    ]);
    bench.run();
    assert.deepEqual(ring.used(), [{ id, length: 4 }]);
  }
});

test("packed: a chain without an end", () => {
  const { bench, ring } = setUp(RINGS[1], [], 4);
  for (let i = 0; i < 4; i++) (ring as PackedDriver).entry(DATA, 4, 0, 1);
  bench.run();
  assert.ok(bench.needsReset);
});

test("queues are not touched before DRIVER_OK (2.1.2), nor after a reset", () => {
  for (const kind of RINGS) {
    const rig = new Rig();
    const type = echoType();
    const bench = new Bench(rig, type);
    bench.negotiate(kind.bits);
    const ring = new kind.make(rig.ram, RING_BASE, 8, bench.device.queues[0]);
    ring.add([text(rig, DATA, "early")]);
    bench.run();
    assert.equal(type.served, 0);
    bench.driverOk();
    bench.run();
    assert.equal(type.served, 1);
    ring.add([text(rig, DATA, "late")]);
    bench.device.writeStatus(0);
    bench.run();
    assert.equal(type.served, 1);
    assert.equal(bench.device.status, 0);
  }
});

test("FEATURES_OK: only subsets of what is offered, with VERSION_1 (2.2.2, 6.1)", () => {
  const { device } = new Bench(new Rig(), echoType());
  const { ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK } = Status;
  for (const [low, high, good] of [
    [0, 1, true],
    [0, 0, false],
    [1, 1, false],
    [0, 1 | (1 << 9), false],
    [0x30000000, 5, true],
  ] as const) {
    device.writeStatus(0);
    device.writeStatus(ACKNOWLEDGE | DRIVER);
    device.setDriverFeatures(0, low);
    device.setDriverFeatures(1, high);
    device.setDriverFeatures(7, 0xffffffff);
    device.writeStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    assert.equal((device.status & FEATURES_OK) !== 0, good, `${low} ${high}`);
    device.writeStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    assert.equal((device.status & DRIVER_OK) !== 0, good);
    // Too late.
    device.setDriverFeatures(1, 0);
    if (good) assert.equal(device.driverFeatures(1), high);
  }
});

test("rings in the memory of another thread go on where they were (law 2)", () => {
  for (const kind of RINGS) {
    const rig = new Rig();
    const first = new Bench(rig, echoType());
    first.negotiate(kind.bits);
    const ring = new kind.make(rig.ram, RING_BASE, 4, first.device.queues[0]);
    first.driverOk();
    for (let i = 0; i < 6; i++) {
      ring.add([text(rig, DATA, "here")]);
      first.run();
      ring.used();
    }
    // The same objects over the same memory, as another thread makes them.
    const other = new Rig(rig);
    const second = new Bench(other, echoType(), false);
    ring.add([text(rig, DATA, "there")]);
    second.run();
    assert.equal(ring.used().length, 1);
    ring.add([text(rig, DATA, "back")]);
    first.run();
    assert.equal(ring.used().length, 1);
  }
});
