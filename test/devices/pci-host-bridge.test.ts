/**
 * The host bridge against PCI Local Bus Specification 3.0, 3.2.2.3.2 (configuration mechanism #1), PCI
 * Express Base 4.0, 7.2.2 (ECAM) and the ICH9 data sheet, 13.7 (RST_CNT) (reset control register).
 */
import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";
import type { AccessSize } from "../../src/devices/bus.js";
import { ConfigSpace } from "../../src/devices/pci/config-space.js";
import { ECAM_SIZE, intxGsi, PciHostBridge } from "../../src/devices/pci/host-bridge.js";
import type { SharedMemory } from "../../src/memory/shared-memory.js";
import { allocatorOver, newMemory, random, validateLocks } from "./support.js";

validateLocks();

/** Offsets from port 0xCF8. */
const ADDRESS = 0;
const RESET = 1;
const DATA = 4;

const ENABLE = 0x80000000;
const NO_FUNCTION = 0xffffffff;
const HOST_BRIDGE_ID = 0x0d578086;
const DEVICE_ID = 0x10411af4;

let memory: SharedMemory;
let resets: number;
let bridge: PciHostBridge;
let device: ConfigSpace;

/** The bridge as one thread has it, with a device at 00:03.2. */
function attach(): PciHostBridge {
  const allocator = allocatorOver(memory);
  const result = new PciHostBridge(allocator, () => resets++);
  device = new ConfigSpace(allocator, "device", { vendorId: 0x1af4, deviceId: 0x1041, classCode: 0 });
  result.addFunction(3, 2, device);
  return result;
}

beforeEach(() => {
  memory = newMemory();
  resets = 0;
  bridge = attach();
  bridge.reset();
  device.reset();
});

function select(bus: number, slot: number, fn: number, register: number): void {
  bridge.ports.write(ADDRESS, 4, (ENABLE | (bus << 16) | (slot << 11) | (fn << 8) | register) >>> 0);
}

function ecamOffset(bus: number, slot: number, fn: number, register: number): number {
  return (bus << 20) | (slot << 15) | (fn << 12) | register;
}

describe("configuration mechanism #1", () => {
  test("reads the host bridge: vendor, device, class", () => {
    select(0, 0, 0, 0);
    assert.equal(bridge.ports.read(DATA, 4), HOST_BRIDGE_ID);
    select(0, 0, 0, 8);
    assert.equal(bridge.ports.read(DATA, 4) >>> 8, 0x060000);
  });

  test("CONFIG_ADDRESS reads back, with the reserved bits 0", () => {
    bridge.ports.write(ADDRESS, 4, 0xffffffff);
    assert.equal(bridge.ports.read(ADDRESS, 4), 0x80fffffc);
    bridge.ports.write(ADDRESS, 4, 0x00123457);
    assert.equal(bridge.ports.read(ADDRESS, 4), 0x00123454);
  });

  test("bytes and words at 0xCF8 are no accesses to CONFIG_ADDRESS", () => {
    select(0, 0, 0, 0x10);
    const before = bridge.ports.read(ADDRESS, 4);
    for (const [offset, size] of [
      [0, 1],
      [2, 1],
      [3, 1],
      [0, 2],
      [2, 2],
    ] as [number, AccessSize][]) {
      bridge.ports.write(offset, size, 0x55);
      assert.equal(bridge.ports.read(offset, size), size === 1 ? 0xff : 0xffff);
    }
    assert.equal(bridge.ports.read(ADDRESS, 4), before);
    assert.equal(resets, 0);
  });

  test("the probe for mechanism #1 that systems make: a byte to 0xCFB, then CONFIG_ADDRESS as a dword", () => {
    bridge.ports.write(3, 1, 0x01);
    bridge.ports.write(ADDRESS, 4, ENABLE);
    assert.equal(bridge.ports.read(ADDRESS, 4), ENABLE);
  });

  test("bytes and words of CONFIG_DATA select parts of the dword", () => {
    select(0, 3, 2, 0);
    assert.equal(bridge.ports.read(DATA, 2), 0x1af4);
    assert.equal(bridge.ports.read(DATA + 2, 2), 0x1041);
    assert.deepEqual(
      [0, 1, 2, 3].map((i) => bridge.ports.read(DATA + i, 1)),
      [0xf4, 0x1a, 0x41, 0x10],
    );
    select(0, 3, 2, 0x3c);
    bridge.ports.write(DATA, 1, 0x77);
    assert.equal(device.readConfig(0x3c, 1), 0x77);
    select(0, 3, 2, 0x04);
    bridge.ports.write(DATA + 1, 1, 0x01);
    assert.equal(device.readConfig(0x04, 2), 0x0100);
  });

  test("without the enable bit CONFIG_DATA is not there", () => {
    bridge.ports.write(ADDRESS, 4, 0);
    assert.equal(bridge.ports.read(DATA, 4), NO_FUNCTION);
    bridge.ports.write(ADDRESS, 4, (3 << 11) | (2 << 8) | 0x3c);
    bridge.ports.write(DATA, 1, 0x77);
    assert.equal(device.readConfig(0x3c, 1), 0);
  });

  test("absent functions, devices and buses read all ones and take nothing", () => {
    for (const [bus, slot, fn] of [
      [0, 0, 1],
      [0, 3, 0],
      [0, 3, 3],
      [0, 31, 7],
      [1, 0, 0],
      [255, 31, 7],
    ]) {
      select(bus, slot, fn, 0);
      assert.equal(bridge.ports.read(DATA, 4), NO_FUNCTION);
      assert.equal(bridge.ports.read(DATA + 1, 1), 0xff);
      assert.equal(bridge.ports.read(DATA + 2, 2), 0xffff);
      bridge.ports.write(DATA, 4, 0);
    }
  });

  test("the address is shared by all threads", () => {
    select(0, 3, 2, 0);
    assert.equal(attach().ports.read(DATA, 4), DEVICE_ID);
  });
});

describe("ECAM", () => {
  test("bus, device, function and register are bits of the address", () => {
    assert.equal(bridge.ecam.read(ecamOffset(0, 0, 0, 0), 4), HOST_BRIDGE_ID);
    assert.equal(bridge.ecam.read(ecamOffset(0, 3, 2, 0), 4), DEVICE_ID);
    assert.equal(bridge.ecam.read(ecamOffset(0, 3, 2, 2), 2), 0x1041);
    bridge.ecam.write(ecamOffset(0, 3, 2, 0x3c), 1, 0x66);
    assert.equal(device.readConfig(0x3c, 1), 0x66);
  });

  test("reaches the extended registers", () => {
    assert.equal(bridge.ecam.read(ecamOffset(0, 0, 0, 0x100), 4), 0);
    assert.equal(bridge.ecam.read(ecamOffset(0, 3, 2, 0xffc), 4), 0);
  });

  test("absent functions read all ones, on every bus", () => {
    assert.equal(bridge.ecam.read(ecamOffset(0, 3, 3, 0), 4), NO_FUNCTION);
    for (let bus = 1; bus < 256; bus++) {
      assert.equal(bridge.ecam.read(bus * 2 ** 20, 4), NO_FUNCTION);
      assert.equal(bridge.ecam.read(bus * 2 ** 20 + ecamOffset(0, 3, 2, 0), 4), NO_FUNCTION);
    }
    assert.equal(bridge.ecam.read(ECAM_SIZE - 1, 1), 0xff);
  });

  test("accesses that cross a dword are no configuration requests", () => {
    const at = ecamOffset(0, 3, 2, 0);
    assert.equal(bridge.ecam.read(at + 1, 4), NO_FUNCTION);
    assert.equal(bridge.ecam.read(at + 3, 2), 0xffff);
    bridge.ecam.write(at + 0x3b, 2, 0x5555);
    assert.equal(device.readConfig(0x3c, 1), 0);
  });

  test("shows the same registers as mechanism #1", () => {
    for (let register = 0; register < 256; register += 4) {
      select(0, 3, 2, register);
      assert.equal(bridge.ports.read(DATA, 4), bridge.ecam.read(ecamOffset(0, 3, 2, register), 4));
    }
  });
});

describe("host bridge function", () => {
  test("always forwards to memory and from bus masters, and has no regions", () => {
    const command = ecamOffset(0, 0, 0, 4);
    assert.equal(bridge.ecam.read(command, 2), 6);
    bridge.ecam.write(command, 2, 0);
    assert.equal(bridge.ecam.read(command, 2), 6);
    for (let bar = 0x10; bar < 0x28; bar += 4) {
      bridge.ecam.write(ecamOffset(0, 0, 0, bar), 4, 0xffffffff);
      assert.equal(bridge.ecam.read(ecamOffset(0, 0, 0, bar), 4), 0);
    }
  });

  test("places are given out once, and only those that exist", () => {
    assert.throws(() => bridge.addFunction(0, 0, device), RangeError);
    assert.throws(() => bridge.addFunction(3, 2, device), RangeError);
    assert.throws(() => bridge.addFunction(32, 0, device), RangeError);
    assert.throws(() => bridge.addFunction(0, 8, device), RangeError);
    assert.throws(() => bridge.addFunction(-1, 0, device), RangeError);
  });

  test("INTx pins lead to GSIs 16 to 23", () => {
    const used = new Set<number>();
    for (let slot = 0; slot < 32; slot++) for (let pin = 0; pin < 4; pin++) used.add(intxGsi(slot, pin));
    assert.deepEqual([...used].sort(), [16, 17, 18, 19, 20, 21, 22, 23]);
  });
});

describe("reset control register", () => {
  test("0x06 and 0x0E reset", () => {
    for (const value of [0x06, 0x0e]) {
      resets = 0;
      bridge.reset();
      bridge.ports.write(RESET, 1, value);
      assert.equal(resets, 1);
    }
  });

  test("the two writes that systems make, the kind of reset first, reset once", () => {
    bridge.ports.write(RESET, 1, 0x02);
    assert.equal(resets, 0);
    bridge.ports.write(RESET, 1, 0x06);
    assert.equal(resets, 1);
    bridge.ports.write(RESET, 1, 0x06);
    assert.equal(resets, 1, "RST_CPU has to go from 0 to 1");
  });

  test("reads back its three bits", () => {
    bridge.ports.write(RESET, 1, 0xfb);
    assert.equal(bridge.ports.read(RESET, 1), 0x0a);
    assert.equal(resets, 0);
  });

  test("is not part of CONFIG_ADDRESS", () => {
    bridge.ports.write(ADDRESS, 4, 0xffffffff);
    assert.equal(resets, 0);
    assert.equal(bridge.ports.read(RESET, 1), 0);
  });
});

test("random accesses neither throw nor reset nor leave the 8 to 32 bits of an answer", () => {
  const next = random(0xcf8);
  const sizes: readonly AccessSize[] = [1, 2, 4];
  for (let i = 0; i < 100_000; i++) {
    const size = sizes[next() % 3];
    const window = next() % 3 === 0 ? bridge.ecam : bridge.ports;
    // Unaligned and straddling accesses as well; the bus makes none, but nothing may depend on it.
    const offset = window === bridge.ports ? next() % 8 : next() % (next() % 2 === 0 ? ECAM_SIZE : 0x20000);
    if (next() % 2 === 0) {
      const value = size === 1 ? next() & 0xff : size === 2 ? next() & 0xffff : next();
      if (window === bridge.ports && offset === RESET && size === 1) continue;
      window.write(offset, size, value);
    } else {
      const value = window.read(offset, size);
      assert.ok(Number.isInteger(value) && value >= 0 && value < 2 ** (8 * size));
    }
  }
  assert.equal(resets, 0);
  assert.equal(bridge.ecam.read(0, 4), HOST_BRIDGE_ID);
  assert.equal(bridge.ecam.read(ecamOffset(0, 3, 2, 0), 4), DEVICE_ID);
});
