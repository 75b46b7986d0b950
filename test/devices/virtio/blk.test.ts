/** The block device: VIRTIO 5.2. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { BlkDevice, BlkFeature, BlkRequest, BlkStatus } from "../../../src/devices/virtio/blk.js";
import { gpa } from "../../../src/memory/guest-memory.js";
import { random, validateLocks } from "../support.js";
import { MemoryDisk } from "./fakes.js";
import { Bench, type Buffer_, Rig, SplitDriver } from "./support.js";

validateLocks();

const SECTORS = 256;
const HEADER = 0x20000;
const DATA = 0x30000;
const STATUS = 0x2f000;

class BlkBench {
  readonly rig = new Rig();
  readonly disk: MemoryDisk;
  readonly type: BlkDevice;
  readonly bench: Bench;
  readonly ring: SplitDriver;

  constructor({ readOnly = false, queues = 1, features = [BlkFeature.FLUSH] as readonly number[] } = {}) {
    this.disk = new MemoryDisk(SECTORS * 512, readOnly);
    const next = random(1);
    for (let i = 0; i < this.disk.bytes.length; i++) this.disk.bytes[i] = next();
    this.type = new BlkDevice(this.rig.allocator, "blk", { queues, readOnly, serial: "a serial number" });
    this.type.describe(this.disk);
    this.type.attach(this.disk);
    this.bench = new Bench(this.rig, this.type);
    this.bench.negotiate(features);
    this.ring = new SplitDriver(this.rig.ram, 0x10000, 16, this.bench.device.queues[0]);
    this.bench.driverOk();
  }

  header(type: number, sector: number | bigint): Buffer_ {
    this.rig.ram.writeU32(gpa(HEADER), type);
    this.rig.ram.writeU32(gpa(HEADER + 4), 0);
    this.rig.ram.writeU64(gpa(HEADER + 8), BigInt(sector));
    return { address: HEADER, length: 16 };
  }

  /** Make a request; its status and the used length are returned. */
  request(
    type: number,
    sector: number | bigint,
    data: readonly Buffer_[],
  ): { status: number; length: number } {
    this.rig.ram.writeU8(gpa(STATUS), 0xee);
    this.ring.add([this.header(type, sector), ...data, { address: STATUS, length: 1, write: true }]);
    this.bench.run();
    const [used] = this.ring.used();
    this.rig.checkGuards();
    return { status: this.rig.ram.readU8(gpa(STATUS)), length: used.length };
  }

  bytes(length: number, address = DATA): Uint8Array {
    return this.rig.ram.bytes(gpa(address), length).slice();
  }
}

const OK = BlkStatus.OK;

test("reads, into one buffer and into many (5.2.6)", () => {
  const blk = new BlkBench();
  const whole = blk.request(BlkRequest.IN, 3, [{ address: DATA, length: 4096, write: true }]);
  assert.deepEqual(whole, { status: OK, length: 4097 });
  assert.deepEqual(blk.bytes(4096), blk.disk.bytes.slice(3 * 512, 3 * 512 + 4096));
  const pieces = Array.from({ length: 8 }, (_, i) => ({
    address: DATA + 0x1000 * i,
    length: 512,
    write: true,
  }));
  assert.equal(blk.request(BlkRequest.IN, 9, pieces).status, OK);
  for (let i = 0; i < 8; i++) {
    const at = (9 + i) * 512;
    assert.deepEqual(blk.bytes(512, DATA + 0x1000 * i), blk.disk.bytes.slice(at, at + 512), `piece ${i}`);
  }
});

test("writes, from one buffer and from many", () => {
  const blk = new BlkBench();
  const data = Uint8Array.from({ length: 6 * 512 }, (_, i) => i * 7);
  for (let i = 0; i < 6; i++)
    blk.rig.ram.write(gpa(DATA + 0x1000 * i), data.subarray(512 * i, 512 * (i + 1)));
  const pieces = Array.from({ length: 6 }, (_, i) => ({ address: DATA + 0x1000 * i, length: 512 }));
  assert.deepEqual(blk.request(BlkRequest.OUT, 10, pieces), { status: OK, length: 1 });
  assert.deepEqual(blk.disk.bytes.slice(10 * 512, 16 * 512), data);
  assert.equal(blk.request(BlkRequest.OUT, 20, pieces.slice(0, 2)).status, OK);
  assert.deepEqual(blk.disk.bytes.slice(20 * 512, 22 * 512), data.slice(0, 1024));
});

test("header, data and status in any framing (2.6.4, 5.2.6.1)", () => {
  const blk = new BlkBench();
  blk.header(BlkRequest.IN, 5);
  const parts = [7, 1, 8];
  let at = HEADER;
  const header = parts.map((length) => {
    const part = { address: at, length };
    at += length;
    return part;
  });
  // Data and status in one buffer.
  blk.ring.add([...header, { address: DATA, length: 513, write: true }]);
  blk.bench.run();
  assert.equal(blk.ring.used()[0].length, 513);
  assert.deepEqual(blk.bytes(512), blk.disk.bytes.slice(5 * 512, 6 * 512));
  assert.equal(blk.rig.ram.readU8(gpa(DATA + 512)), OK);
});

test("the capacity ends where it says (5.2.6.1)", () => {
  const blk = new BlkBench();
  const one = [{ address: DATA, length: 512, write: true }];
  assert.equal(blk.request(BlkRequest.IN, SECTORS - 1, one).status, OK);
  for (const sector of [SECTORS, SECTORS + 1, 2n ** 32n, 2n ** 55n, 2n ** 64n - 1n]) {
    assert.equal(blk.request(BlkRequest.IN, sector, one).status, BlkStatus.IOERR, `${sector}`);
  }
  const two = [{ address: DATA, length: 1024, write: true }];
  assert.equal(blk.request(BlkRequest.IN, SECTORS - 1, two).status, BlkStatus.IOERR);
  assert.equal(
    blk.request(BlkRequest.OUT, SECTORS - 1, [{ address: DATA, length: 1024 }]).status,
    BlkStatus.IOERR,
  );
  assert.ok(!blk.disk.log.some((line) => line.startsWith("write")));
});

test("lengths that are no whole sectors", () => {
  const blk = new BlkBench();
  assert.equal(
    blk.request(BlkRequest.IN, 0, [{ address: DATA, length: 100, write: true }]).status,
    BlkStatus.IOERR,
  );
  assert.equal(blk.request(BlkRequest.OUT, 0, [{ address: DATA, length: 511 }]).status, BlkStatus.IOERR);
});

test("flush, and an unknown request (5.2.6.2)", () => {
  const blk = new BlkBench();
  assert.deepEqual(blk.request(BlkRequest.FLUSH, 0, []), { status: OK, length: 1 });
  assert.deepEqual(blk.disk.log, ["flush"]);
  assert.equal(blk.request(99, 0, []).status, BlkStatus.UNSUPP);
  assert.equal(blk.request(BlkRequest.OUT | 0x80000000, 0, [{ address: DATA, length: 512 }]).status, OK);
});

test("the ID has 20 bytes, filled up with zeros (5.2.6.2)", () => {
  const blk = new BlkBench();
  const id = blk.request(BlkRequest.GET_ID, 0, [{ address: DATA, length: 20, write: true }]);
  assert.deepEqual(id, { status: OK, length: 21 });
  assert.equal(Buffer.from(blk.bytes(20)).toString("latin1"), "a serial number\0\0\0\0\0");
  assert.equal(blk.request(BlkRequest.GET_ID, 0, [{ address: DATA, length: 4, write: true }]).status, OK);
});

function range(
  blk: BlkBench,
  entries: readonly (readonly [sector: number, sectors: number, flags: number])[],
): Buffer_ {
  entries.forEach(([sector, sectors, flags], i) => {
    blk.rig.ram.writeU64(gpa(DATA + 16 * i), BigInt(sector));
    blk.rig.ram.writeU32(gpa(DATA + 16 * i + 8), sectors);
    blk.rig.ram.writeU32(gpa(DATA + 16 * i + 12), flags);
  });
  return { address: DATA, length: 16 * entries.length };
}

test("discard and write zeroes (5.2.6.2)", () => {
  const blk = new BlkBench();
  const { DISCARD, WRITE_ZEROES } = BlkRequest;
  assert.equal(
    blk.request(DISCARD, 0, [
      range(blk, [
        [8, 8, 0],
        [64, 16, 0],
      ]),
    ]).status,
    OK,
  );
  assert.equal(blk.request(WRITE_ZEROES, 0, [range(blk, [[16, 8, 0]])]).status, OK);
  assert.equal(blk.request(WRITE_ZEROES, 0, [range(blk, [[24, 8, 1]])]).status, OK);
  assert.deepEqual(blk.disk.log, [
    "discard 4096 4096",
    "discard 32768 8192",
    "zeroes 8192 4096 false",
    "zeroes 12288 4096 true",
  ]);
});

test("discards and write zeroes that are no good change nothing", () => {
  const blk = new BlkBench();
  const { DISCARD, WRITE_ZEROES } = BlkRequest;
  for (const [type, entries, status] of [
    [DISCARD, [[0, 8, 1]], BlkStatus.UNSUPP],
    [DISCARD, [[0, 8, 2]], BlkStatus.UNSUPP],
    [WRITE_ZEROES, [[0, 8, 2]], BlkStatus.UNSUPP],
    [DISCARD, [[SECTORS - 1, 2, 0]], BlkStatus.IOERR],
    [
      DISCARD,
      [
        [0, 8, 0],
        [SECTORS, 1, 0],
      ],
      BlkStatus.IOERR,
    ],
    [WRITE_ZEROES, [[0, 0xffffffff, 0]], BlkStatus.IOERR],
    [DISCARD, Array.from({ length: 33 }, () => [0, 8, 0]), BlkStatus.UNSUPP],
  ] as [number, [number, number, number][], number][]) {
    assert.equal(blk.request(type, 0, [range(blk, entries)]).status, status, JSON.stringify(entries));
  }
  assert.equal(blk.request(DISCARD, 0, [{ address: DATA, length: 15 }]).status, BlkStatus.UNSUPP);
  assert.equal(blk.request(DISCARD, 0, []).status, BlkStatus.UNSUPP);
  assert.deepEqual(blk.disk.log, []);
});

test("a read-only disk takes no write of any kind (5.2.6.2)", () => {
  const blk = new BlkBench({ readOnly: true });
  assert.equal(blk.request(BlkRequest.OUT, 0, [{ address: DATA, length: 512 }]).status, BlkStatus.IOERR);
  for (const type of [BlkRequest.DISCARD, BlkRequest.WRITE_ZEROES]) {
    assert.equal(blk.request(type, 0, [range(blk, [[0, 8, 0]])]).status, BlkStatus.IOERR);
  }
  assert.ok(blk.type.features.includes(BlkFeature.RO));
  assert.ok(!blk.type.features.includes(BlkFeature.DISCARD));
  assert.equal(blk.request(BlkRequest.IN, 0, [{ address: DATA, length: 512, write: true }]).status, OK);
});

test("a disk that fails is an I/O error, and the device goes on", () => {
  const blk = new BlkBench();
  blk.disk.broken = true;
  const read = [{ address: DATA, length: 512, write: true }];
  assert.equal(blk.request(BlkRequest.IN, 0, read).status, BlkStatus.IOERR);
  assert.equal(blk.request(BlkRequest.FLUSH, 0, []).status, BlkStatus.IOERR);
  blk.disk.broken = false;
  assert.equal(blk.request(BlkRequest.IN, 0, read).status, OK);
});

test("without FLUSH, and with the cache off, writes are flushed (5.2.6.2)", () => {
  const without = new BlkBench({ features: [] });
  assert.equal(without.request(BlkRequest.OUT, 0, [{ address: DATA, length: 512 }]).status, OK);
  assert.deepEqual(without.disk.log, ["write 0 512", "flush"]);
  const off = new BlkBench({ features: [BlkFeature.FLUSH, BlkFeature.CONFIG_WCE] });
  assert.equal(off.bench.device.readConfig(32, 1), 1);
  off.bench.device.writeConfig(32, 1, 0);
  assert.equal(off.request(BlkRequest.OUT, 0, [{ address: DATA, length: 512 }]).status, OK);
  assert.deepEqual(off.disk.log, ["write 0 512", "flush"]);
  off.bench.device.writeStatus(0);
  assert.equal(off.bench.device.readConfig(32, 1), 1);
});

test("requests that are too short are answered where they can be", () => {
  const blk = new BlkBench();
  blk.rig.ram.writeU8(gpa(STATUS), 0xee);
  blk.ring.add([
    { address: HEADER, length: 15 },
    { address: STATUS, length: 1, write: true },
  ]);
  blk.bench.run();
  assert.equal(blk.rig.ram.readU8(gpa(STATUS)), BlkStatus.IOERR);
  blk.ring.used();
  blk.ring.add([blk.header(BlkRequest.FLUSH, 0)]);
  blk.bench.run();
  assert.equal(blk.ring.used()[0].length, 0);
});

test("the configuration (5.2.4)", () => {
  const { bench } = new BlkBench({ queues: 3 });
  const { device } = bench;
  assert.equal(device.readConfig(0, 4), SECTORS);
  assert.equal(device.readConfig(4, 4), 0);
  assert.equal(device.readConfig(12, 4), 254);
  assert.equal(device.readConfig(20, 4), 512);
  assert.equal(device.readConfig(24, 1), 3);
  assert.equal(device.readConfig(34, 2), 3);
  assert.equal(device.queues.length, 3);
  device.writeConfig(0, 4, 0xffffffff);
  assert.equal(device.readConfig(0, 4), SECTORS);
  assert.equal(device.readConfig(60, 4), 0);
  assert.equal(device.readConfig(58, 4), 0);
});
