/** Transports: VIRTIO 4.1 (PCI, modern and legacy) and 4.2 (MMIO), driven by register accesses alone. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { AccessSize, BusDevice } from "../../../src/devices/bus.js";
import { BlkDevice } from "../../../src/devices/virtio/blk.js";
import { Status } from "../../../src/devices/virtio/constants.js";
import type { DeviceType } from "../../../src/devices/virtio/device.js";
import { MmioRegister, VirtioMmio } from "../../../src/devices/virtio/mmio.js";
import { type PciFlavour, VirtioPci } from "../../../src/devices/virtio/pci.js";
import type { Msi } from "../../../src/hypervisor/seam.js";
import { gpa } from "../../../src/memory/guest-memory.js";
import { RecordedLine, validateLocks } from "../support.js";
import { MemoryDisk } from "./fakes.js";
import { BellVm, echoType, Rig, SplitDriver } from "./support.js";

validateLocks();

const { ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK, NEEDS_RESET } = Status;
const DATA = 0x20000;

/** Bits of the command register, PCI 3.0, 6.2.2. */
const BUS_MASTER = 1 << 2;
const INTERRUPT_DISABLE = 1 << 10;

function blkType(rig: Rig): DeviceType {
  const type = new BlkDevice(rig.allocator, "blk", { queues: 1, readOnly: false, serial: "s" });
  const disk = new MemoryDisk(8192);
  type.describe(disk);
  type.attach(disk);
  return type;
}

class PciBench {
  readonly rig = new Rig();
  readonly line = new RecordedLine();
  readonly messages: Msi[] = [];
  readonly bells = new BellVm();
  readonly pci: VirtioPci;

  constructor(flavour: PciFlavour, type?: DeviceType) {
    const device = this.rig.device(type ?? blkType(this.rig));
    const vm = Object.assign(this.bells, { signalMsi: (msi: Msi) => void this.messages.push(msi) });
    this.pci = new VirtioPci(this.rig.allocator, { device, flavour, vm, line: this.line });
    this.pci.reset();
  }

  get device() {
    return this.pci.device;
  }

  region(bar: number): BusDevice {
    const region = this.pci.regions.find((each) => each.bar === bar);
    assert.ok(region, `no region ${bar}`);
    return region.device;
  }

  /** Vendor-specific capabilities by their type (4.1.4). */
  structures(): Map<number, { bar: number; offset: number; length: number; at: number; size: number }> {
    const found = new Map<
      number,
      { bar: number; offset: number; length: number; at: number; size: number }
    >();
    const { pci } = this;
    for (let at = pci.readConfig(0x34, 1), i = 0; at !== 0 && i < 32; at = pci.readConfig(at + 1, 1), i++) {
      if (pci.readConfig(at, 1) !== 9) continue;
      found.set(pci.readConfig(at + 3, 1), {
        at,
        size: pci.readConfig(at + 2, 1),
        bar: pci.readConfig(at + 4, 1),
        offset: pci.readConfig(at + 8, 4),
        length: pci.readConfig(at + 12, 4),
      });
    }
    return found;
  }

  /** A structure's registers. */
  structure(type: number) {
    const found = this.structures().get(type);
    assert.ok(found);
    const device = this.region(found.bar);
    return {
      ...found,
      read: (offset: number, size: AccessSize) => device.read(found.offset + offset, size),
      write: (offset: number, size: AccessSize, value: number) =>
        device.write(found.offset + offset, size, value),
    };
  }

  enableMsix(): void {
    for (let at = this.pci.readConfig(0x34, 1); at !== 0; at = this.pci.readConfig(at + 1, 1)) {
      if (this.pci.readConfig(at, 1) === 0x11) this.pci.writeConfig(at + 2, 2, 0x8000);
    }
  }
}

test("modern: identity (4.1.2)", () => {
  const { pci } = new PciBench("modern");
  assert.equal(pci.readConfig(0, 4), 0x10421af4);
  assert.ok(pci.readConfig(8, 1) >= 1);
  assert.ok(pci.readConfig(0x2e, 2) >= 0x40);
});

test("legacy and transitional: identity (4.1.2.3)", () => {
  for (const flavour of ["legacy", "transitional"] as const) {
    const { pci } = new PciBench(flavour);
    assert.equal(pci.readConfig(0, 4), 0x10011af4);
    assert.equal(pci.readConfig(8, 1), 0);
    assert.equal(pci.readConfig(0x2e, 2), 2);
    assert.equal(pci.readConfig(0x10, 4) & 1, 1, "BAR 0 is I/O");
  }
});

test("modern: the structures lie in their regions, aligned, in order (4.1.4)", () => {
  const bench = new PciBench("modern");
  const structures = bench.structures();
  assert.deepEqual([...structures.keys()].sort(), [1, 2, 3, 4, 5]);
  for (const [type, { bar, offset, length, size }] of structures) {
    if (type === 5) continue;
    assert.ok(size >= 16);
    const region = bench.pci.regions.find((each) => each.bar === bar);
    assert.ok(region && offset + length <= region.size);
    assert.equal(offset % 4, 0);
  }
  // 4.1.4.4.1: room for a notification.
  assert.ok(structures.get(2)!.length >= 2);
});

test("modern: features, 32 bits at a time; beyond them zero (4.1.4.3.1)", () => {
  const common = new PciBench("modern").structure(1);
  common.write(0, 4, 1);
  assert.equal(common.read(4, 4) & 1, 1, "VERSION_1");
  common.write(0, 4, 2);
  assert.equal(common.read(4, 4), 0);
  common.write(8, 4, 1);
  common.write(12, 4, 1);
  assert.equal(common.read(12, 4), 1);
  common.write(8, 4, 5);
  common.write(12, 4, 7);
  assert.equal(common.read(12, 4), 0);
});

/** Set a modern device up through its registers; the driver of queue 0 is returned. */
function start(bench: PciBench, vector = 0xffff): SplitDriver {
  bench.pci.writeConfig(4, 2, bench.pci.readConfig(4, 2) | BUS_MASTER);
  const common = bench.structure(1);
  common.write(20, 1, 0);
  assert.equal(common.read(20, 1), 0);
  common.write(20, 1, ACKNOWLEDGE);
  common.write(20, 1, ACKNOWLEDGE | DRIVER);
  common.write(8, 4, 0);
  common.write(12, 4, 0);
  common.write(8, 4, 1);
  common.write(12, 4, 1);
  common.write(20, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK);
  assert.ok((common.read(20, 1) & FEATURES_OK) !== 0);
  common.write(22, 2, 0);
  assert.ok(common.read(24, 2) >= 8);
  common.write(24, 2, 8);
  assert.equal(common.read(24, 2), 8);
  common.write(26, 2, vector);
  const driver = new SplitDriver(bench.rig.ram, 0x10000, 8);
  [driver.descriptors, driver.available, driver.usedRing].forEach((address, i) => {
    common.write(32 + 8 * i, 4, address);
    common.write(36 + 8 * i, 4, 0);
    assert.equal(common.read(32 + 8 * i, 4), address);
  });
  common.write(28, 2, 1);
  assert.equal(common.read(28, 2), 1);
  common.write(20, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
  return driver;
}

test("modern: a queue is served after its notification, with INTx (4.1.5.3, 4.1.4.5)", () => {
  const bench = new PciBench("modern", echoType());
  const driver = start(bench);
  bench.rig.ram.write(gpa(DATA), Buffer.from("ping"));
  driver.add([
    { address: DATA, length: 4 },
    { address: DATA + 64, length: 4, write: true },
  ]);
  const rings = bench.rig.rings;
  bench.structure(2).write(0, 2, 0);
  assert.equal(bench.rig.rings, rings + 1);
  bench.device.serve();
  assert.equal(driver.used().length, 1);
  assert.equal(bench.line.level, true);
  assert.equal(bench.pci.readConfig(6, 2) & 8, 8, "interrupt status");
  const isr = bench.structure(3);
  assert.equal(isr.read(0, 1), 1);
  assert.equal(bench.line.level, false);
  assert.equal(isr.read(0, 1), 0);
  assert.equal(bench.pci.readConfig(6, 2) & 8, 0);
});

test("INTx can be disabled in the command register (PCI 3.0, 6.2.2)", () => {
  const bench = new PciBench("modern", echoType());
  const driver = start(bench);
  bench.pci.writeConfig(4, 2, BUS_MASTER | INTERRUPT_DISABLE);
  driver.add([{ address: DATA, length: 4 }]);
  bench.device.serve();
  assert.equal(bench.line.level, false);
  bench.pci.writeConfig(4, 2, BUS_MASTER);
  assert.equal(bench.line.level, true);
});

test("no request is served and no message sent by a function that is no bus master (PCI 3.0, 6.2.2)", () => {
  const bench = new PciBench("modern", echoType());
  const table = bench.region(1);
  table.write(16, 4, 0xfee00000);
  table.write(24, 4, 0x41);
  table.write(28, 4, 0);
  bench.enableMsix();
  const driver = start(bench, 1);
  bench.pci.writeConfig(4, 2, 0);
  driver.add([{ address: DATA, length: 4 }]);
  bench.device.serve();
  assert.equal(driver.used().length, 0);
  const rings = bench.rig.rings;
  bench.pci.writeConfig(4, 2, BUS_MASTER);
  assert.ok(bench.rig.rings > rings, "the io thread is woken");
  bench.device.serve();
  assert.equal(driver.used().length, 1);
  assert.equal(bench.messages.length, 1);
  // A message that comes up meanwhile is sent later.
  bench.pci.writeConfig(4, 2, 0);
  bench.device.locked(() => bench.device.interrupts.queue(0));
  assert.equal(bench.messages.length, 1);
  assert.equal(table.read(0x800, 4), 2, "pending");
  bench.pci.writeConfig(4, 2, BUS_MASTER);
  assert.equal(bench.messages.length, 2);
});

test("legacy: drivers need not make the function a bus master", () => {
  const { pci, ...bench } = new PciBench("legacy");
  assert.equal(pci.readConfig(4, 2) & BUS_MASTER, 0);
  const registers = pci.regions.find(({ bar }) => bar === 0)!.device;
  registers.write(18, 1, ACKNOWLEDGE);
  assert.equal(pci.readConfig(4, 2) & BUS_MASTER, 0);
  registers.write(18, 1, ACKNOWLEDGE | DRIVER);
  assert.equal(pci.readConfig(4, 2) & BUS_MASTER, BUS_MASTER);
  assert.equal(bench.messages.length, 0);
});

test("modern: MSI-X messages, masked ones later (4.1.5.1.2; PCI 3.0, 6.8.2)", () => {
  const bench = new PciBench("modern", echoType());
  const table = bench.region(1);
  table.write(16, 4, 0xfee00000);
  table.write(20, 4, 0);
  table.write(24, 4, 0x41);
  bench.enableMsix();
  const driver = start(bench, 1);
  assert.equal(bench.structure(1).read(26, 2), 1);
  driver.add([{ address: DATA, length: 4 }]);
  bench.device.serve();
  assert.deepEqual(bench.messages, [], "the vector is masked");
  assert.equal(table.read(0x800, 4), 2, "and pending");
  table.write(28, 4, 0);
  assert.deepEqual(bench.messages, [{ address: 0xfee00000n, data: 0x41 }]);
  assert.equal(table.read(0x800, 4), 0);
  driver.add([{ address: DATA, length: 4 }]);
  bench.device.serve();
  assert.equal(bench.messages.length, 2);
  assert.equal(bench.line.level, false);
  assert.equal(bench.structure(3).read(0, 1), 0, "no ISR bit for queues with MSI-X");
});

test("modern: a vector that there is not reads back as none (4.1.5.1.2.1)", () => {
  const common = new PciBench("modern").structure(1);
  for (const offset of [16, 26]) {
    common.write(offset, 2, 1);
    assert.equal(common.read(offset, 2), 1);
    common.write(offset, 2, 2);
    assert.equal(common.read(offset, 2), 0xffff);
  }
});

test("modern: a queue that there is not has size 0 (4.1.4.3.1)", () => {
  const common = new PciBench("modern").structure(1);
  assert.equal(common.read(18, 2), 1);
  common.write(22, 2, 1);
  assert.equal(common.read(24, 2), 0);
  common.write(28, 2, 1);
  assert.equal(common.read(28, 2), 0);
});

test("modern: what is enabled is not changed (4.1.4.3.2)", () => {
  const bench = new PciBench("modern", echoType());
  start(bench);
  const common = bench.structure(1);
  const before = common.read(32, 4);
  common.write(32, 4, 0xdead000);
  common.write(24, 2, 4);
  common.write(28, 2, 0);
  assert.equal(common.read(32, 4), before);
  assert.equal(common.read(24, 2), 8);
  assert.equal(common.read(28, 2), 1);
});

test("modern: a reset takes everything back (2.4.1, 4.1.4.3.1)", () => {
  const bench = new PciBench("modern", echoType());
  const driver = start(bench, 0);
  const common = bench.structure(1);
  driver.add([{ address: DATA, length: 4 }]);
  common.write(20, 1, 0);
  bench.device.serve();
  assert.equal(driver.usedIndex, 0);
  assert.equal(common.read(20, 1), 0);
  assert.equal(common.read(28, 2), 0);
  assert.equal(common.read(24, 2), 64);
  assert.equal(common.read(26, 2), 0xffff);
  assert.equal(common.read(16, 2), 0xffff);
  assert.equal(bench.line.level, false);
});

test("modern: NEEDS_RESET comes with a configuration interrupt (2.1.2)", () => {
  const bench = new PciBench("modern", echoType());
  const driver = start(bench);
  driver.setIndex(100);
  bench.device.serve();
  assert.ok((bench.structure(1).read(20, 1) & NEEDS_RESET) !== 0);
  assert.equal(bench.structure(3).read(0, 1), 2);
});

test("modern: the generation changes with the configuration (2.5.3)", () => {
  const bench = new PciBench("modern", echoType());
  const common = bench.structure(1);
  const before = common.read(21, 1);
  bench.device.locked(() => bench.device.configChanged());
  assert.notEqual(common.read(21, 1), before);
});

test("modern: accesses by configuration space alone (4.1.4.9)", () => {
  const bench = new PciBench("modern");
  const { at } = bench.structures().get(5)!;
  const common = bench.structures().get(1)!;
  const { pci } = bench;
  const access = (offset: number, length: number) => {
    pci.writeConfig(at + 4, 1, common.bar);
    pci.writeConfig(at + 8, 4, common.offset + offset);
    pci.writeConfig(at + 12, 4, length);
  };
  access(18, 2);
  assert.equal(pci.readConfig(at + 16, 4), 1);
  access(20, 1);
  pci.writeConfig(at + 16, 4, ACKNOWLEDGE);
  assert.equal(bench.device.status, ACKNOWLEDGE);
  assert.equal(pci.readConfig(at + 16, 1), ACKNOWLEDGE);
  for (const [bar, offset, length] of [
    [2, 0, 4],
    [4, 0x4000, 4],
    [4, 1, 4],
    [4, 0, 3],
    [4, 0, 8],
    [0xff, 0, 1],
  ]) {
    pci.writeConfig(at + 4, 1, bar);
    pci.writeConfig(at + 8, 4, offset);
    pci.writeConfig(at + 12, 4, length);
    assert.equal(pci.readConfig(at + 16, 4), 0);
    pci.writeConfig(at + 16, 4, 0);
  }
  assert.equal(bench.device.status, ACKNOWLEDGE);
});

test("accesses of other widths than the registers' give their parts", () => {
  const common = new PciBench("modern").structure(1);
  common.write(20, 1, ACKNOWLEDGE);
  assert.equal(common.read(20, 4) & 0xff, ACKNOWLEDGE);
  assert.equal(common.read(16, 4), 0x0001ffff);
  common.write(8, 1, 1);
  assert.equal(common.read(8, 4), 1);
  assert.equal(common.read(19, 1), 0);
});

test("doorbells are where the driver's notifications go, while it is there", () => {
  const modern = new PciBench("modern", echoType());
  const { bells } = modern.bells;
  modern.pci.writeConfig(0x20, 4, 0xc0000000);
  modern.pci.writeConfig(4, 2, 2);
  assert.deepEqual(bells, []);
  start(modern);
  const { offset } = modern.structures().get(2)!;
  const bell = { space: "mmio", size: 2, word: modern.rig.io.word } as const;
  assert.deepEqual(bells, [{ ...bell, address: 0xc0000000 + offset }]);
  modern.pci.writeConfig(0x20, 4, 0xd0000000);
  assert.deepEqual(bells, [{ ...bell, address: 0xd0000000 + offset }]);
  modern.pci.writeConfig(4, 2, 0);
  assert.deepEqual(bells, []);
  // Where another device is already, there is none, and nothing else happens.
  modern.bells.addDoorbell({ ...bell, address: 0xd0000000 + offset });
  modern.pci.writeConfig(4, 2, 2);
  assert.equal(bells.length, 1);
  modern.structure(1).write(20, 1, 0);
  assert.equal(bells.length, 1);

  const legacy = new PciBench("legacy", echoType());
  legacy.pci.writeConfig(0x10, 4, 0x1000);
  legacy.pci.writeConfig(4, 2, 1);
  legacy.region(0).write(18, 1, ACKNOWLEDGE | DRIVER);
  assert.deepEqual(legacy.bells.bells, [
    { space: "port", size: 2, word: legacy.rig.io.word, address: 0x1010 },
  ]);
});

test("legacy: set up by page number, without FEATURES_OK, served before DRIVER_OK (3.1.2, 4.1.4.8)", () => {
  for (const flavour of ["legacy", "transitional"] as const) {
    const bench = new PciBench(flavour, echoType());
    const io = bench.region(0);
    io.write(18, 1, 0);
    io.write(18, 1, ACKNOWLEDGE);
    io.write(18, 1, ACKNOWLEDGE | DRIVER);
    assert.equal(io.read(0, 4), 0x38000000, "ANY_LAYOUT, INDIRECT_DESC, EVENT_IDX");
    io.write(4, 4, 0xffffffff);
    assert.equal(io.read(4, 4), 0x38000000, "what is not offered does not count");
    io.write(4, 4, 0);
    io.write(14, 2, 0);
    const size = io.read(12, 2);
    assert.equal(size, 64);
    const base = 0x40000;
    io.write(8, 4, base / 4096);
    assert.equal(io.read(8, 4), base / 4096);
    const driver = new SplitDriver(bench.rig.ram, base, size);
    const used = base + ((16 * size + 6 + 2 * size + 4095) & ~4095);
    bench.rig.ram.write(gpa(DATA), Buffer.from("old"));
    driver.add([
      { address: DATA, length: 3 },
      { address: DATA + 16, length: 3, write: true },
    ]);
    io.write(16, 2, 0);
    bench.device.serve();
    assert.equal(bench.rig.ram.readU16(gpa(used + 2)), 1);
    assert.equal(Buffer.from(bench.rig.ram.bytes(gpa(DATA + 16), 3)).toString(), "old");
    assert.equal(bench.line.level, true);
    assert.equal(io.read(19, 1), 1);
    assert.equal(bench.line.level, false);
    io.write(18, 1, ACKNOWLEDGE | DRIVER | DRIVER_OK);
    io.write(8, 4, 0);
    assert.equal(io.read(8, 4), 0, "a page number of 0 takes the queue away");
    io.write(18, 1, 0);
    assert.equal(io.read(18, 1), 0);
  }
});

test("legacy: the configuration moves when MSI-X is enabled (4.1.4.8)", () => {
  const bench = new PciBench("legacy");
  const io = bench.region(0);
  assert.equal(io.read(20, 4), 16, "capacity");
  bench.enableMsix();
  assert.equal(io.read(24, 4), 16);
  assert.equal(io.read(20, 4), 0xffffffff, "vectors");
  io.write(22, 2, 1);
  assert.equal(io.read(22, 2), 1);
  io.write(20, 2, 9);
  assert.equal(io.read(20, 2), 0xffff);
});

test("transitional: a modern driver gets the modern interface after a legacy one", () => {
  const bench = new PciBench("transitional", echoType());
  const io = bench.region(0);
  io.write(18, 1, ACKNOWLEDGE | DRIVER);
  io.write(18, 1, 0);
  const driver = start(bench);
  driver.add([{ address: DATA, length: 4 }]);
  bench.device.serve();
  assert.equal(driver.used().length, 1);
});

class MmioBench {
  readonly rig = new Rig();
  readonly line = new RecordedLine();
  readonly bells = new BellVm();
  readonly device = this.rig.device(echoType());
  readonly mmio = new VirtioMmio(this.rig.allocator, this.device, this.line, this.bells, 0xfe000000);

  constructor() {
    this.mmio.reset();
  }

  get(offset: number): number {
    return this.mmio.read(offset, 4);
  }

  set(offset: number, value: number): void {
    this.mmio.write(offset, 4, value);
  }
}

test("MMIO: identity, version 2 (4.2.2.1)", () => {
  const bench = new MmioBench();
  assert.equal(bench.get(MmioRegister.MAGIC), 0x74726976);
  assert.equal(bench.get(MmioRegister.VERSION), 2);
  assert.equal(bench.get(MmioRegister.DEVICE_ID), 63);
  assert.equal(bench.get(MmioRegister.SHM_LEN_LOW), 0xffffffff);
  assert.equal(bench.mmio.read(0, 1), 0, "only 32-bit accesses (4.2.2.2)");
  assert.equal(bench.mmio.read(MmioRegister.CONFIG + 3, 1), 4);
});

test("MMIO: a request through the registers, and its interrupt until it is acknowledged (4.2.3)", () => {
  const bench = new MmioBench();
  const R = MmioRegister;
  bench.set(R.STATUS, 0);
  bench.set(R.STATUS, ACKNOWLEDGE | DRIVER);
  bench.set(R.DEVICE_FEATURES_SEL, 1);
  assert.equal(bench.get(R.DEVICE_FEATURES) & 1, 1);
  bench.set(R.DRIVER_FEATURES_SEL, 1);
  bench.set(R.DRIVER_FEATURES, 1);
  bench.set(R.STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
  assert.ok((bench.get(R.STATUS) & FEATURES_OK) !== 0);
  bench.set(R.QUEUE_SEL, 5);
  assert.equal(bench.get(R.QUEUE_SIZE_MAX), 0, "no such queue");
  bench.set(R.QUEUE_SEL, 0);
  assert.equal(bench.get(R.QUEUE_READY), 0);
  assert.equal(bench.get(R.QUEUE_SIZE_MAX), 64);
  bench.set(R.QUEUE_SIZE, 8);
  const driver = new SplitDriver(bench.rig.ram, 0x10000, 8);
  bench.set(R.QUEUE_DESC_LOW, driver.descriptors);
  bench.set(R.QUEUE_DRIVER_LOW, driver.available);
  bench.set(R.QUEUE_DEVICE_LOW, driver.usedRing);
  bench.set(R.QUEUE_READY, 1);
  assert.equal(bench.get(R.QUEUE_READY), 1);
  bench.set(R.STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
  driver.add([{ address: DATA, length: 4 }]);
  const rings = bench.rig.rings;
  bench.set(R.QUEUE_NOTIFY, 0);
  assert.equal(bench.rig.rings, rings + 1);
  bench.device.serve();
  assert.equal(driver.used().length, 1);
  assert.equal(bench.line.level, true);
  assert.equal(bench.get(R.INTERRUPT_STATUS), 1);
  bench.set(R.INTERRUPT_ACK, 2);
  assert.equal(bench.line.level, true);
  bench.set(R.INTERRUPT_ACK, 1);
  assert.equal(bench.line.level, false);
  bench.set(R.QUEUE_READY, 0);
  assert.equal(bench.get(R.QUEUE_READY), 0);
  driver.add([{ address: DATA, length: 4 }]);
  bench.device.serve();
  assert.equal(driver.used().length, 0, "the queue is not the device's any more");
  bench.set(R.STATUS, 0);
  assert.equal(bench.get(R.STATUS), 0);
});
