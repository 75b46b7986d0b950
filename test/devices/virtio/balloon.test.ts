/** The balloon: VIRTIO 5.5. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { BalloonDevice, BalloonFeature } from "../../../src/devices/virtio/balloon.js";
import { RngDevice } from "../../../src/devices/virtio/rng.js";
import { gpa } from "../../../src/memory/guest-memory.js";
import { validateLocks } from "../support.js";
import { Bench, HIGH_RAM, RAM_SIZE, RINGS, Rig } from "./support.js";

validateLocks();

const LIST = 0x40000;
const QUEUE = { inflate: 0, deflate: 1, stats: 2, reporting: 4 } as const;

for (const kind of RINGS) {
  const setUp = () => {
    const rig = new Rig();
    const released: [number, number][] = [];
    const type = new BalloonDevice(rig.allocator, "balloon", (offset, length) =>
      released.push([offset, length]),
    );
    const bench = new Bench(rig, type);
    bench.negotiate([...kind.bits, ...Object.values(BalloonFeature)]);
    const rings = bench.device.queues.map((queue, i) => new kind.make(rig.ram, 0x1000 * (i + 1), 8, queue));
    bench.driverOk();
    const at = (address: number) => rig.ram.offset(gpa(address), 1);
    return { rig, released, type, bench, rings, at };
  };

  test(`${kind.kind}: inflated pages go back to the host, runs of them at once; nonsense is left alone (5.5.6)`, () => {
    const { rig, released, bench, rings, at } = setUp();
    const pages = [16, 17, 18, 40, 39, RAM_SIZE / 4096, 0xffffffff, HIGH_RAM / 4096];
    pages.forEach((page, i) => {
      rig.ram.writeU32(gpa(LIST + 4 * i), page);
    });
    rings[QUEUE.inflate].add([{ address: LIST, length: 4 * pages.length + 3 }]);
    bench.run();
    assert.equal(rings[QUEUE.inflate].used().length, 1);
    assert.deepEqual(released, [
      [at(16 * 4096), 3 * 4096],
      [at(39 * 4096), 2 * 4096],
      [at(HIGH_RAM), 4096],
    ]);
    rings[QUEUE.deflate].add([{ address: LIST, length: 12 }]);
    bench.run();
    assert.equal(rings[QUEUE.deflate].used().length, 1);
    assert.equal(released.length, 3);
  });

  test(`${kind.kind}: reported ranges, their whole pages (5.5.6.7)`, () => {
    const { released, bench, rings, at } = setUp();
    rings[QUEUE.reporting].add([
      { address: 0x20000, length: 0x4000, write: true },
      { address: 0x30010, length: 0x2000, write: true },
      { address: 0x50000, length: 100, write: true },
    ]);
    bench.run();
    assert.equal(rings[QUEUE.reporting].used().length, 1);
    assert.deepEqual(released, [
      [at(0x20000), 0x4000],
      [at(0x31000), 0x1000],
    ]);
  });

  test(`${kind.kind}: the wanted size is configuration; the actual one is the driver's (5.5.4)`, () => {
    const { type, bench } = setUp();
    type.want(5 * 4096 + 100);
    bench.run();
    assert.equal(bench.device.readConfig(0, 4), 5);
    assert.equal(bench.configInterrupts, 1);
    bench.device.writeConfig(4, 4, 3);
    assert.deepEqual(type.size, { wanted: 5 * 4096, actual: 3 * 4096 });
    bench.device.writeConfig(0, 4, 99);
    assert.equal(bench.device.readConfig(0, 4), 5);
  });

  test(`${kind.kind}: statistics are asked for by giving the buffer back (5.5.6.3)`, () => {
    const { rig, type, bench, rings } = setUp();
    const ring = rings[QUEUE.stats];
    const tell = (free: bigint) => {
      rig.ram.writeU16(gpa(LIST), 4);
      rig.ram.writeU64(gpa(LIST + 2), free);
      rig.ram.writeU16(gpa(LIST + 10), 0x7777);
      rig.ram.writeU64(gpa(LIST + 12), 1n);
      ring.add([{ address: LIST, length: 20 }]);
      bench.run();
    };
    const version = type.statsVersion;
    tell(1000n);
    assert.deepEqual(type.stats, { freeMemory: 1000 });
    assert.notEqual(type.statsVersion, version);
    assert.equal(ring.used().length, 0, "the device keeps the buffer");
    bench.run();
    assert.equal(ring.used().length, 0);
    type.askForStats();
    bench.run();
    assert.equal(ring.used().length, 1);
    tell(2000n);
    assert.deepEqual(type.stats, { freeMemory: 2000 });
    assert.equal(ring.used().length, 0);
  });
}

test("entropy fills what it is given and says how much (5.4.6)", () => {
  const rig = new Rig();
  const bench = new Bench(rig, new RngDevice());
  bench.negotiate([]);
  const ring = new RINGS[0].make(rig.ram, 0x1000, 8, bench.device.queues[0]);
  bench.driverOk();
  ring.add([
    { address: LIST, length: 64, write: true },
    { address: LIST + 128, length: 64, write: true },
  ]);
  bench.run();
  assert.deepEqual(
    ring.used().map(({ length }) => length),
    [128],
  );
  const bytes = rig.ram.bytes(gpa(LIST), 192);
  assert.ok(new Set(bytes.subarray(0, 64)).size > 20 && new Set(bytes.subarray(128)).size > 20);
  assert.ok(bytes.subarray(64, 128).every((byte) => byte === 0));
  ring.add([{ address: LIST, length: 1 << 19, write: true }]);
  bench.run();
  assert.ok(ring.used()[0].length >= 1);
});
