import assert from "node:assert/strict";
import { test } from "node:test";
import { type AccessSize, type BusDevice, type BusTrace, MmioBus, PortBus } from "../../src/devices/bus.js";
import { printingTrace } from "../../src/devices/bus-trace.js";
import { newExit, random } from "./support.js";

/** A device of plain bytes that writes down what it was asked. */
class Bytes implements BusDevice {
  readonly bytes: Uint8Array;
  readonly log: string[] = [];

  constructor(size: number) {
    this.bytes = new Uint8Array(size);
  }

  read(offset: number, size: AccessSize): number {
    this.log.push(`r${size}@${offset}`);
    let value = 0;
    for (let i = size - 1; i >= 0; i--) value = value * 256 + this.bytes[offset + i];
    return value;
  }

  write(offset: number, size: AccessSize, value: number): void {
    this.log.push(`w${size}@${offset}=${value.toString(16)}`);
    for (let i = 0; i < size; i++) this.bytes[offset + i] = value >>> (8 * i);
  }
}

function readPort(bus: PortBus, port: number, size: number): number {
  const exit = newExit({ port, size });
  bus.serveIo(exit);
  return Number(new DataView(exit.data.buffer).getBigUint64(0, true) & ((1n << BigInt(8 * size)) - 1n));
}

function writePort(bus: PortBus, port: number, size: number, value: number): void {
  const exit = newExit({ port, size, isWrite: true });
  new DataView(exit.data.buffer).setUint32(0, value, true);
  bus.serveIo(exit);
}

function mmio(address: number, size: number, isWrite: boolean, ...bytes: number[]) {
  const exit = newExit({ address, size, isWrite });
  exit.data.set(bytes);
  return exit;
}

test("unclaimed ports read as ones and swallow writes", () => {
  const bus = new PortBus();
  assert.equal(readPort(bus, 0x80, 1), 0xff);
  assert.equal(readPort(bus, 0x80, 2), 0xffff);
  assert.equal(readPort(bus, 0x80, 4), 0xffffffff);
  writePort(bus, 0x80, 4, 0x12345678);
});

test("an overlap names both owners and leaves the bus as it was", () => {
  const bus = new PortBus();
  bus.register({ owner: "com1", start: 0x3f8, size: 8, device: new Bytes(8), maxSize: 1 });
  for (const [start, size] of [
    [0x3f8, 8],
    [0x3ff, 1],
    [0x3f0, 9],
    [0x3f0, 0x20],
  ]) {
    assert.throws(
      () => bus.register({ owner: "floppy", start, size, device: new Bytes(32), maxSize: 1 }),
      /overlaps 0x3f8-0x3ff of com1/,
    );
    assert.throws(
      () => bus.register({ owner: "floppy", start, size, device: new Bytes(32), maxSize: 1 }),
      /of floppy/,
    );
  }
  assert.equal(readPort(bus, 0x3f7, 1), 0xff);
  bus.register({ owner: "floppy", start: 0x3f0, size: 8, device: new Bytes(8), maxSize: 1 });
  assert.deepEqual(
    bus.ranges.map((range) => range.owner),
    ["floppy", "com1"],
  );
});

test("ranges that do not fit the bus are refused", () => {
  const bus = new PortBus();
  for (const [start, size] of [
    [0xffff, 2],
    [-1, 2],
    [0x10, 0],
    [0x10, -1],
    [Number.NaN, 1],
    [0x10, Number.POSITIVE_INFINITY],
  ]) {
    assert.throws(
      () => bus.register({ owner: "bad", start, size, device: new Bytes(1), maxSize: 1 }),
      /range.*bad/,
    );
  }
  bus.register({ owner: "last", start: 0xffff, size: 1, device: new Bytes(1), maxSize: 1 });
  assert.equal(readPort(bus, 0xffff, 1), 0);
});

test("a device gets accesses no wider than it declares, lowest address first", () => {
  const bus = new PortBus();
  const narrow = new Bytes(8);
  const middle = new Bytes(8);
  const wide = new Bytes(8);
  bus.register({ owner: "narrow", start: 0x100, size: 8, device: narrow, maxSize: 1 });
  bus.register({ owner: "middle", start: 0x200, size: 8, device: middle, maxSize: 2 });
  bus.register({ owner: "wide", start: 0x300, size: 8, device: wide, maxSize: 4 });
  for (const base of [0x100, 0x200, 0x300]) {
    writePort(bus, base, 4, 0xdeadbeef);
    assert.equal(readPort(bus, base, 4), 0xdeadbeef);
    assert.equal(readPort(bus, base + 1, 1), 0xbe);
  }
  assert.deepEqual(narrow.log.slice(0, 4), ["w1@0=ef", "w1@1=be", "w1@2=ad", "w1@3=de"]);
  assert.deepEqual(middle.log.slice(0, 2), ["w2@0=beef", "w2@2=dead"]);
  assert.deepEqual(wide.log.slice(0, 2), ["w4@0=deadbeef", "r4@0"]);
});

test("unaligned accesses and accesses over the edges of ranges are split", () => {
  const bus = new PortBus();
  const low = new Bytes(4);
  const high = new Bytes(4);
  bus.register({ owner: "low", start: 0x60, size: 4, device: low, maxSize: 4 });
  bus.register({ owner: "high", start: 0x66, size: 2, device: high, maxSize: 4 });
  low.bytes.set([1, 2, 3, 4]);
  high.bytes.set([5, 6]);
  assert.equal(readPort(bus, 0x61, 2), 0x0302);
  assert.deepEqual(low.log, ["r1@1", "r1@2"]);
  assert.equal(readPort(bus, 0x62, 4), 0xffff0403);
  assert.equal(readPort(bus, 0x64, 4), 0x0605ffff);
  assert.equal(readPort(bus, 0x65, 4), 0xff0605ff);
  assert.equal(readPort(bus, 0xfffe, 4), 0xffffffff);
});

test("a device with several ranges sees its own offsets", () => {
  const bus = new PortBus();
  const device = new Bytes(8);
  bus.register({ owner: "kbc", start: 0x60, size: 1, device, maxSize: 1 });
  bus.register({ owner: "kbc", start: 0x64, size: 1, device, maxSize: 1, deviceOffset: 4 });
  readPort(bus, 0x60, 1);
  readPort(bus, 0x64, 1);
  assert.deepEqual(device.log, ["r1@0", "r1@4"]);
});

test("string I/O moves each unit in order", () => {
  const bus = new PortBus();
  const device = new Bytes(2);
  bus.register({ owner: "data", start: 0x1f0, size: 2, device, maxSize: 2 });
  const out = newExit({ port: 0x1f0, size: 2, count: 3, isWrite: true });
  out.data.set([1, 2, 3, 4, 5, 6]);
  bus.serveIo(out);
  assert.deepEqual(device.log, ["w2@0=201", "w2@0=403", "w2@0=605"]);
  const input = newExit({ port: 0x1f0, size: 2, count: 3 });
  bus.serveIo(input);
  assert.deepEqual(Array.from(input.data.subarray(0, 7)), [5, 6, 5, 6, 5, 6, 0]);
});

test("MMIO of 8 bytes is two accesses of 4, and odd sizes are made of whole parts", () => {
  const bus = new MmioBus();
  const device = new Bytes(16);
  bus.register({ owner: "device", start: 0xfed00000, size: 16, device, maxSize: 4 });
  bus.serveMmio(mmio(0xfed00008, 8, true, 1, 2, 3, 4, 5, 6, 7, 8));
  assert.deepEqual(device.log, ["w4@8=4030201", "w4@12=8070605"]);
  device.log.length = 0;
  const read = mmio(0xfed00009, 7, false);
  bus.serveMmio(read);
  assert.deepEqual(device.log, ["r1@9", "r2@10", "r4@12"]);
  assert.deepEqual(Array.from(read.data.subarray(0, 8)), [2, 3, 4, 5, 6, 7, 8, 0]);
  const over = mmio(0xfed0000c, 8, false);
  bus.serveMmio(over);
  assert.deepEqual(Array.from(over.data.subarray(0, 8)), [5, 6, 7, 8, 255, 255, 255, 255]);
});

test("MMIO look-up finds the right one of many ranges, in any order of asking", () => {
  const bus = new MmioBus();
  const next = random(1);
  const starts = Array.from({ length: 50 }, (_, i) => 0xc0000000 + i * 0x2000);
  // Registered in a shuffled order.
  for (const start of [...starts].sort(() => (next() & 1) - 0.5)) {
    const device = new Bytes(0x1000);
    device.bytes.fill(starts.indexOf(start) + 1);
    bus.register({ owner: `d${start}`, start, size: 0x1000, device, maxSize: 4 });
  }
  bus.register({ owner: "high", start: 2 ** 40, size: 4, device: new Bytes(4), maxSize: 4 });
  for (let i = 0; i < 2000; i++) {
    const at = 0xc0000000 + (next() % (51 * 0x2000));
    const exit = mmio(at, 1, false);
    bus.serveMmio(exit);
    const offset = at - 0xc0000000;
    const inRange = offset % 0x2000 < 0x1000 && offset < 50 * 0x2000;
    assert.equal(exit.data[0], inRange ? Math.floor(offset / 0x2000) + 1 : 0xff);
  }
  const high = mmio(2 ** 40 + 2, 8, false);
  bus.serveMmio(high);
  assert.deepEqual(Array.from(high.data.subarray(0, 4)), [0, 0, 255, 255]);
  assert.throws(
    () => bus.register({ owner: "x", start: 2 ** 40 - 1, size: 2, device: new Bytes(4), maxSize: 4 }),
    /MMIO range .* of x overlaps .* of high/,
  );
});

test("a trace gets claimed and unclaimed accesses, and none after it was taken off", () => {
  const bus = new PortBus();
  bus.register({ owner: "com1", start: 0x3f8, size: 8, device: new Bytes(8), maxSize: 1 });
  const seen: Parameters<BusTrace>[] = [];
  bus.trace = (...access) => seen.push(access);
  writePort(bus, 0x3f8, 1, 0x41);
  readPort(bus, 0x80, 2);
  readPort(bus, 0x3f8, 1);
  bus.trace = undefined;
  readPort(bus, 0x3f8, 1);
  assert.deepEqual(seen, [
    ["com1", 0x3f8, 1, 0x41, true],
    [undefined, 0x80, 2, 0xffff, false],
    ["com1", 0x3f8, 1, 0x41, false],
  ]);
});

test("the printed trace names direction, address, size, value and owner", () => {
  const lines: string[] = [];
  const ports = new PortBus();
  ports.trace = printingTrace("ioport", (line) => lines.push(line));
  writePort(ports, 0x80, 1, 5);
  const memory = new MmioBus();
  memory.register({ owner: "pci", start: 0xe0000000, size: 4, device: new Bytes(4), maxSize: 4 });
  memory.trace = printingTrace("mmio", (line) => lines.push(line));
  memory.serveMmio(mmio(0xe0000000, 4, false));
  assert.deepEqual(lines, [
    "ioport write 0x0080 1 0x05 (unclaimed)",
    "mmio read  0xe0000000 4 0x00000000 pci",
  ]);
});

test("hostile sizes, counts and addresses end, stay in the data and reach devices only inside of their ranges", () => {
  const ports = new PortBus();
  const memory = new MmioBus();
  const checking: BusDevice = {
    read(offset, size) {
      assert.ok(offset >= 0 && offset + size <= 5 && offset % size === 0);
      return -1;
    },
    write(offset, size, value) {
      assert.ok(offset >= 0 && offset + size <= 5 && offset % size === 0 && value >= 0 && value < 2 ** 32);
    },
  };
  ports.register({ owner: "d", start: 0x20, size: 5, device: checking, maxSize: 4 });
  memory.register({ owner: "d", start: 0x20, size: 5, device: checking, maxSize: 4 });
  const next = random(2);
  for (let i = 0; i < 20000; i++) {
    const exit = newExit({
      port: next() % 64,
      address: next() % 8 === 0 ? next() * 2 ** 21 : next() % 64,
      size: next() % 9,
      count: next() % 200,
      isWrite: next() % 2 === 0,
    });
    ports.serveIo(exit);
    memory.serveMmio(exit);
  }
  ports.serveIo(newExit({ port: 0x10ffff, size: 4, count: 0xffffffff }));
  memory.serveMmio(newExit({ address: 2 ** 53, size: 1000 }));
  memory.serveMmio(newExit({ address: 0x20, size: -1 }));
});
