/**
 * Hostile drivers: random register accesses, rings, descriptors and payloads at every device on every transport. No exception leaves a
 * device, nothing outside of guest RAM is written, every call comes to an end, other devices go on, and a device that a driver broke
 * says that it needs a reset.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { AccessSize } from "../../../src/devices/bus.js";
import { BalloonDevice } from "../../../src/devices/virtio/balloon.js";
import { BlkDevice } from "../../../src/devices/virtio/blk.js";
import { ConsoleDevice } from "../../../src/devices/virtio/console.js";
import { Feature, Status } from "../../../src/devices/virtio/constants.js";
import type { DeviceType, VirtioDevice } from "../../../src/devices/virtio/device.js";
import { VirtioMmio } from "../../../src/devices/virtio/mmio.js";
import { VirtioPci } from "../../../src/devices/virtio/pci.js";
import { RngDevice } from "../../../src/devices/virtio/rng.js";
import { VsockDevice } from "../../../src/devices/virtio/vsock.js";
import { gpa } from "../../../src/memory/guest-memory.js";
import { RecordedLine, random, validateLocks } from "../support.js";
import { FakeHost, FakeStream, MemoryDisk } from "./fakes.js";
import { BellVm, Bench, echoType, HIGH_RAM, RAM_SIZE, RINGS, Rig } from "./support.js";

validateLocks();

const GUEST_CID = 5;
const SECONDS = Number(process.env.NLKT_FUZZ_SECONDS ?? 0.25);
const SEED = Number(process.env.NLKT_FUZZ_SEED ?? 1);

const TYPES: Readonly<
  Record<string, (rig: Rig) => { type: DeviceType; attach?: (device: VirtioDevice) => void }>
> = {
  blk: (rig) => {
    const type = new BlkDevice(rig.allocator, "blk", { queues: 2, readOnly: false, serial: "fuzz" });
    const disk = new MemoryDisk(64 * 512);
    type.describe(disk);
    type.attach(disk);
    return { type };
  },
  "blk read-only": (rig) => {
    const type = new BlkDevice(rig.allocator, "blk", { queues: 1, readOnly: true, serial: "fuzz" });
    const disk = new MemoryDisk(64 * 512, true);
    type.describe(disk);
    type.attach(disk);
    return { type };
  },
  console: (rig) => {
    const type = new ConsoleDevice(rig.allocator, "console", [
      { console: true, name: "" },
      { console: false, name: "org.nlkt.a" },
      { console: false, name: "org.nlkt.b" },
    ]);
    for (let i = 0; i < 3; i++) {
      type.streams[i] = new FakeStream();
      (type.streams[i] as FakeStream).input = Buffer.alloc(100_000, "input");
    }
    return { type };
  },
  rng: () => ({ type: new RngDevice() }),
  balloon: (rig) => {
    const release = (offset: number, length: number) => {
      assert.ok(offset % 4096 === 0 && length % 4096 === 0 && length > 0);
      const inside = rig.ram.slots.some(
        (slot) => offset >= slot.offset && offset + length <= slot.offset + slot.size,
      );
      assert.ok(inside, "pages outside of RAM were given back");
    };
    const type = new BalloonDevice(rig.allocator, "balloon", release);
    type.want(10 * 4096);
    return { type };
  },
  vsock: (rig) => {
    const type = new VsockDevice(rig.allocator, "vsock", GUEST_CID);
    return { type, attach: (device) => type.attach(device, new FakeHost(new Set([1, 2, 3]))) };
  },
};

/** Numbers that mean something more often than not. */
class Chance {
  readonly next: () => number;

  constructor(seed: number) {
    this.next = random(seed);
  }

  below(limit: number): number {
    return this.next() % limit;
  }

  one<T>(values: readonly T[]): T {
    return values[this.below(values.length)];
  }

  address(): number {
    return this.one([
      this.below(RAM_SIZE),
      this.below(RAM_SIZE / 4096) * 4096,
      HIGH_RAM + this.below(RAM_SIZE),
      RAM_SIZE - this.below(64),
      HIGH_RAM - this.below(64),
      this.next() * 2 ** this.below(32),
    ]);
  }

  length(): number {
    return this.one([0, 1, 4, 16, 44, this.below(128), this.below(4096), this.below(2 ** 20), this.next()]);
  }

  bytes(count: number): Uint8Array {
    return Uint8Array.from({ length: count }, () => this.next());
  }
}

/** Run `round` with new seeds until the time is over; a failure names the seed. */
function fuzz(round: (chance: Chance) => void): void {
  const end = performance.now() + SECONDS * 1000;
  for (let seed = SEED; performance.now() < end; seed++) {
    try {
      round(new Chance(seed));
    } catch (error) {
      throw new Error(`NLKT_FUZZ_SEED=${seed}: ${(error as Error).stack}`);
    }
  }
}

function serve(device: VirtioDevice, rounds = 3): void {
  for (let i = 0; i < rounds; i++) if (!device.serve()) return;
}

/** Payloads that devices understand: headers of requests with some of their fields at random. */
function payload(chance: Chance, kind: string): Uint8Array {
  const bytes = chance.bytes(64);
  const fields = new DataView(bytes.buffer);
  if (kind.startsWith("blk")) {
    fields.setUint32(0, chance.one([0, 1, 4, 8, 11, 13, chance.next()]), true);
    fields.setBigUint64(8, BigInt(chance.one([chance.below(64), chance.next(), 2 ** 52])), true);
    fields.setBigUint64(16, BigInt(chance.below(80)), true);
    fields.setUint32(24, chance.one([chance.below(80), chance.next()]), true);
    fields.setUint32(28, chance.one([0, 1, chance.next()]), true);
  } else if (kind === "console") {
    fields.setUint32(0, chance.one([0, 1, 2, 3, chance.next()]), true);
    fields.setUint16(4, chance.below(9), true);
    fields.setUint16(6, chance.below(3), true);
  } else if (kind === "vsock") {
    fields.setBigUint64(0, BigInt(chance.one([GUEST_CID, GUEST_CID, 2, chance.next()])), true);
    fields.setBigUint64(8, BigInt(chance.one([2, 2, 2, chance.next()])), true);
    fields.setUint32(16, chance.below(4), true);
    fields.setUint32(20, chance.below(5), true);
    fields.setUint32(24, chance.one([0, 20, chance.length()]), true);
    fields.setUint16(28, chance.one([1, 1, 1, 2, chance.next() & 0xffff]), true);
    fields.setUint16(30, chance.below(9), true);
  } else if (kind === "balloon") {
    for (let at = 0; at < 64; at += 4)
      fields.setUint32(at, chance.one([chance.below(600), 4096 + chance.below(300), chance.next()]), true);
  }
  return bytes;
}

for (const [kind, make] of Object.entries(TYPES)) {
  for (const ringKind of RINGS) {
    test(`${kind}, ${ringKind.kind} rings of random requests, some of them good`, () => {
      const rig = new Rig();
      const { type, attach } = make(rig);
      const bench = new Bench(rig, type);
      attach?.(bench.device);
      // Another device beside it, which has to go on.
      const neighbour = echoType();
      const other = new Bench(rig, neighbour);
      let broken = 0;
      let served = 0;
      fuzz((chance) => {
        const optional = [Feature.INDIRECT_DESC, Feature.EVENT_IDX, ...type.features].filter(
          () => chance.below(3) > 0,
        );
        bench.negotiate([...ringKind.bits, ...optional]);
        const size = chance.one([1, 2, 4, 8, 16]);
        const rings = type.queueSizes.map((_, i) => {
          const base = 0x1000 + 0x1000 * i;
          return new ringKind.make(rig.ram, base, size, bench.device.queues[i]);
        });
        bench.driverOk();
        for (let step = 0; step < 12 && !bench.needsReset; step++) {
          const ring = chance.one(rings);
          const data = 0x40000 + 0x1000 * chance.below(16);
          rig.ram.write(gpa(data), payload(chance, kind));
          const head = { address: data, length: chance.one([8, 16, 32, 44, 64]) };
          const writable = {
            address: 0x60000 + 0x800 * chance.below(32),
            length: chance.one([1, 17, 513, 1025, 5000]),
            write: true,
          };
          const wild = { address: chance.address(), length: chance.length(), write: chance.below(2) === 0 };
          const buffers = chance.one([
            [head, writable],
            [head],
            [writable],
            [head, { address: data, length: chance.below(2048) }, writable],
            [head, wild, writable],
            [wild],
          ]);
          const indirect = chance.below(2) === 0 ? { indirect: 0x80000 + chance.below(4096) } : {};
          if (buffers.length <= size) {
            try {
              ring.used();
              ring.add(buffers, indirect);
            } catch {
              // The test's own ring is full, or was written over.
            }
          }
          if (chance.below(8) === 0)
            rig.ram.write(
              gpa(0x1000 * (1 + chance.below(rings.length)) + chance.below(300)),
              chance.bytes(chance.below(16)),
            );
          serve(bench.device);
          served += bench.needsReset ? 0 : 1;
        }
        if (bench.needsReset) {
          broken++;
          assert.ok(bench.configInterrupts > 0);
        }
        other.negotiate(ringKind.bits);
        const fine = new ringKind.make(rig.ram, 0xa0000, 4, other.device.queues[0]);
        other.driverOk();
        fine.add([{ address: 0xa1000, length: 10 }]);
        other.run();
        assert.equal(fine.used().length, 1, "the other device stopped");
      });
      rig.checkGuards();
      assert.ok(served > 0 && broken > 0, `${served} served, ${broken} broken: the fuzzer tells nothing`);
    });

    test(`${kind}, ${ringKind.kind} rings of random bytes`, () => {
      const rig = new Rig();
      const { type, attach } = make(rig);
      const bench = new Bench(rig, type);
      attach?.(bench.device);
      fuzz((chance) => {
        bench.negotiate([...ringKind.bits, Feature.INDIRECT_DESC, Feature.EVENT_IDX, ...type.features]);
        type.queueSizes.forEach((_, i) => {
          new ringKind.make(rig.ram, 0x1000 + 0x1000 * i, chance.one([1, 4, 16]), bench.device.queues[i]);
        });
        bench.driverOk();
        for (let i = 0; i < 8; i++) {
          rig.ram.write(
            gpa(0x1000 * (1 + chance.below(type.queueSizes.length))),
            chance.bytes(chance.below(700)),
          );
          serve(bench.device);
        }
      });
      rig.checkGuards();
    });
  }

  const SIZES: readonly AccessSize[] = [1, 2, 4];
  /** Values that drivers write. */
  const value = (chance: Chance) =>
    chance.one([0, 1, 2, 3, 7, 15, 0x10, 0xffff, 0x1000, 0x20000, chance.below(RAM_SIZE), chance.next()]);

  test(`${kind}, random accesses to PCI functions of every flavour`, () => {
    for (const flavour of ["modern", "transitional", "legacy"] as const) {
      const rig = new Rig();
      const { type, attach } = make(rig);
      const device = rig.device(type);
      attach?.(device);
      const line = new RecordedLine();
      let messages = 0;
      const vm = Object.assign(new BellVm(), {
        signalMsi: () => {
          messages++;
          if (messages % 3 === 0) throw new Error("KVM refuses some messages");
        },
      });
      const pci = new VirtioPci(rig.allocator, { device, flavour, vm, line });
      pci.reset();
      // I/O, memory, bus master.
      pci.writeConfig(4, 2, 7);
      fuzz((chance) => {
        for (let i = 0; i < 200; i++) {
          const size = chance.one(SIZES);
          if (chance.below(4) === 0) {
            const offset = chance.below(chance.one([64, 256, 4096]) / size) * size;
            if (chance.below(2) === 0)
              pci.writeConfig(offset, size, value(chance) & (size === 4 ? -1 : 2 ** (8 * size) - 1));
            else pci.readConfig(offset, size);
          } else {
            const region = chance.one(pci.regions);
            const span = chance.one([64, region.size]);
            const page = region.size > 4096 ? 4096 * chance.below(4) : 0;
            const offset = Math.min(page + chance.below(span / size) * size, region.size - size);
            if (chance.below(3) > 0) region.device.write(offset, size, value(chance) >>> 0);
            else {
              const got = region.device.read(offset, size);
              assert.ok(Number.isInteger(got) && got >= 0 && got <= 0xffffffff, `read ${got}`);
            }
          }
          if (chance.below(16) === 0) {
            device.writeStatus(chance.one([0, Status.ACKNOWLEDGE | Status.DRIVER, 11, 15]));
          }
          serve(device);
        }
      });
      rig.checkGuards();
    }
  });

  test(`${kind}, random accesses to MMIO registers`, () => {
    const rig = new Rig();
    const { type, attach } = make(rig);
    const device = rig.device(type);
    attach?.(device);
    const mmio = new VirtioMmio(rig.allocator, device, new RecordedLine(), new BellVm(), 0xfe000000);
    mmio.reset();
    fuzz((chance) => {
      for (let i = 0; i < 200; i++) {
        const size = chance.one([4, 4, 4, ...SIZES]) as AccessSize;
        const offset = chance.below(chance.one([0x100, 0x120, 0x1000]) / size) * size;
        if (chance.below(3) > 0) mmio.write(offset, size, value(chance) >>> 0);
        else mmio.read(offset, size);
        serve(device);
      }
    });
    rig.checkGuards();
  });
}
