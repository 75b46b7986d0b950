/** A function's configuration space against PCI Local Bus Specification 3.0, chapter 6. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { AccessSize } from "../../src/devices/bus.js";
import type { BarDefinition } from "../../src/devices/pci/bars.js";
import { ConfigSpace, type FunctionDefinition } from "../../src/devices/pci/config-space.js";
import { allocatorOver, newMemory, random, validateLocks } from "./support.js";

validateLocks();

const COMMAND = 0x04;
const STATUS = 0x06;
const BAR0 = 0x10;
const ALL_ONES = 0xffffffff;

const IDENTITY: FunctionDefinition = {
  vendorId: 0x1af4,
  deviceId: 0x1041,
  revisionId: 1,
  classCode: 0x020000,
  subsystemVendorId: 0x1234,
  subsystemId: 0x5678,
  interruptPin: 2,
};

function make(definition: Partial<FunctionDefinition> = {}): ConfigSpace {
  const config = new ConfigSpace(allocatorOver(newMemory()), "test", { ...IDENTITY, ...definition });
  config.reset();
  return config;
}

describe("header", () => {
  test("fields are where figure 6-1 has them", () => {
    const config = make({ multifunction: true });
    assert.equal(config.readConfig(0x00, 4), 0x10411af4);
    assert.equal(config.readConfig(0x08, 1), 1);
    assert.equal(config.readConfig(0x08, 4), 0x02000001);
    assert.equal(config.readConfig(0x0b, 1), 0x02);
    assert.equal(config.readConfig(0x0e, 1), 0x80);
    assert.equal(config.readConfig(0x2c, 4), 0x56781234);
    assert.equal(config.readConfig(0x3d, 1), 2);
    assert.equal(config.readConfig(0x34, 1), 0);
    assert.equal(config.readConfig(STATUS, 2), 0);
    assert.equal(config.readConfig(COMMAND, 2), 0);
  });

  test("identity, header type, pin and pointer are read-only", () => {
    const config = make();
    const before = Array.from({ length: 64 }, (_, i) => config.readConfig(i, 1));
    for (let i = 0; i < 64; i++) config.writeConfig(i, 1, ~before[i] & 0xff);
    const writable = new Set([COMMAND, COMMAND + 1, 0x0c, 0x3c]);
    for (let i = 0; i < 64; i++) {
      if (!writable.has(i)) assert.equal(config.readConfig(i, 1), before[i], `byte ${i}`);
    }
  });

  test("cache line size and interrupt line keep what is written", () => {
    const config = make();
    config.writeConfig(0x0c, 1, 0x10);
    config.writeConfig(0x3c, 1, 0x0b);
    assert.equal(config.readConfig(0x0c, 1), 0x10);
    assert.equal(config.readConfig(0x3c, 4), 0x0000020b);
  });

  test("command has the enable bits of what the function decodes, and no other", () => {
    const bars: BarDefinition[] = [{ index: 0, kind: "io", size: 32 }];
    const both: BarDefinition[] = [...bars, { index: 1, kind: "memory32", size: 4096 }];
    const written = (config: ConfigSpace) => {
      config.writeConfig(COMMAND, 2, 0xffff);
      return config.readConfig(COMMAND, 2);
    };
    const masterAndErrors = (1 << 2) | (1 << 6) | (1 << 8);
    assert.equal(written(make()), masterAndErrors | (1 << 10));
    assert.equal(written(make({ interruptPin: 0 })), masterAndErrors);
    assert.equal(written(make({ bars, interruptPin: 0 })), masterAndErrors | 1);
    assert.equal(written(make({ bars: both, interruptPin: 0 })), masterAndErrors | 3);
  });

  test("command bits that are always on cannot be cleared", () => {
    const config = make({ alwaysOn: 6 });
    config.writeConfig(COMMAND, 2, 0);
    assert.equal(config.readConfig(COMMAND, 2), 6);
  });

  test("a write of command as a dword does not touch the status bits written 0", () => {
    const config = make({ capabilities: [{ id: 9, body: new Uint8Array(2) }] });
    config.writeConfig(COMMAND, 4, 0x0000_0004);
    assert.equal(config.readConfig(COMMAND, 4), 0x0010_0004);
    config.writeConfig(COMMAND, 4, ALL_ONES);
    assert.equal(config.readConfig(STATUS, 2), 0x0010);
  });
});

describe("base address registers", () => {
  const size = (config: ConfigSpace, at: number) => {
    config.writeConfig(at, 4, ALL_ONES);
    return config.readConfig(at, 4);
  };

  test("32-bit memory: sizing shows the size and the type", () => {
    for (let shift = 4; shift <= 31; shift++) {
      const bytes = 2 ** shift;
      const config = make({ bars: [{ index: 0, kind: "memory32", size: bytes }] });
      assert.equal(size(config, BAR0), (ALL_ONES - bytes + 1) >>> 0);
      const prefetchable = make({
        bars: [{ index: 0, kind: "memory32", size: bytes, prefetchable: true }],
      });
      assert.equal(size(prefetchable, BAR0), ((ALL_ONES - bytes + 1) | 8) >>> 0);
    }
  });

  test("64-bit memory: two registers, one mask", () => {
    for (let shift = 4; shift <= 40; shift++) {
      const bytes = 2 ** shift;
      const config = make({ bars: [{ index: 2, kind: "memory64", size: bytes, prefetchable: true }] });
      const mask = (BigInt(size(config, BAR0 + 12)) << 32n) | BigInt(size(config, BAR0 + 8));
      assert.equal(mask & 0xfn, 0b1100n);
      assert.equal(BigInt.asUintN(64, -(mask & ~0xfn)), BigInt(bytes), `size ${bytes}`);
    }
  });

  test("I/O: sizing shows the size and bit 0", () => {
    for (const bytes of [4, 8, 64, 256]) {
      const config = make({ bars: [{ index: 5, kind: "io", size: bytes }] });
      assert.equal(size(config, BAR0 + 20), ((ALL_ONES - bytes + 1) | 1) >>> 0);
    }
  });

  test("registers that are not used read 0 whatever is written", () => {
    const config = make({ bars: [{ index: 0, kind: "memory64", size: 4096 }] });
    for (let index = 2; index < 6; index++) assert.equal(size(config, BAR0 + 4 * index), 0);
    assert.equal(size(config, 0x30), 0, "expansion ROM");
  });

  test("a region is decoded at its address while its command bit is set", () => {
    const config = make({
      bars: [
        { index: 0, kind: "memory32", size: 0x1000 },
        { index: 1, kind: "memory64", size: 0x4000 },
        { index: 3, kind: "io", size: 0x20 },
      ],
    });
    config.writeConfig(BAR0, 4, 0xc0001fff);
    config.writeConfig(BAR0 + 4, 4, 0x00008000);
    config.writeConfig(BAR0 + 8, 4, 0x12);
    config.writeConfig(BAR0 + 12, 4, 0x1020);
    assert.equal(config.regionAddress(0), undefined);
    config.writeConfig(COMMAND, 2, 2);
    assert.equal(config.regionAddress(0), 0xc0001000);
    assert.equal(config.regionAddress(1), 0x12_0000_8000);
    assert.equal(config.regionAddress(3), undefined);
    config.writeConfig(COMMAND, 2, 1);
    assert.equal(config.regionAddress(0), undefined);
    assert.equal(config.regionAddress(3), 0x1020);
    assert.equal(config.regionAddress(2), undefined, "the upper half is no region");
  });

  test("address bits can be written byte by byte", () => {
    const config = make({ bars: [{ index: 0, kind: "memory32", size: 0x1000 }] });
    for (const [i, byte] of [0xef, 0xcd, 0xab, 0xd0].entries()) config.writeConfig(BAR0 + i, 1, byte);
    assert.equal(config.readConfig(BAR0, 4), 0xd0abc000);
  });

  test("impossible regions are refused", () => {
    const refused: BarDefinition[][] = [
      [{ index: 0, kind: "memory32", size: 24 }],
      [{ index: 0, kind: "memory32", size: 8 }],
      [{ index: 0, kind: "memory32", size: 2 ** 32 }],
      [{ index: 0, kind: "io", size: 512 }],
      [{ index: 6, kind: "io", size: 16 }],
      [{ index: -1, kind: "io", size: 16 }],
      [{ index: 5, kind: "memory64", size: 4096 }],
      [
        { index: 0, kind: "memory64", size: 4096 },
        { index: 1, kind: "memory32", size: 4096 },
      ],
    ];
    for (const bars of refused) assert.throws(() => make({ bars }), RangeError);
  });
});

describe("capabilities", () => {
  const bodies = [new Uint8Array(14).fill(1), new Uint8Array(10).fill(2), new Uint8Array(3).fill(3)];

  test("the list can be walked: aligned, in order, ended by 0", () => {
    const config = make({ capabilities: bodies.map((body, i) => ({ id: 9 + i, body })) });
    assert.equal(config.readConfig(STATUS, 2) & 0x10, 0x10);
    let at = config.readConfig(0x34, 1);
    for (const [i, body] of bodies.entries()) {
      assert.ok(at >= 0x40 && at % 4 === 0);
      assert.equal(config.capabilityOffsets[i], at);
      assert.equal(config.readConfig(at, 1), 9 + i);
      for (let k = 0; k < body.length; k++) assert.equal(config.readConfig(at + 2 + k, 1), i + 1);
      at = config.readConfig(at + 1, 1);
    }
    assert.equal(at, 0);
  });

  test("only the bits that say so can be written or cleared", () => {
    const config = make({
      capabilities: [
        {
          id: 0x11,
          body: Uint8Array.of(0x03, 0x00, 0xff, 0xff),
          writable: Uint8Array.of(0, 0xc0),
          writeOneToClear: Uint8Array.of(0, 0, 0x0f),
        },
      ],
    });
    const [at] = config.capabilityOffsets;
    config.writeConfig(at, 4, ALL_ONES);
    assert.equal(config.readConfig(at, 4), 0xc003_0011);
    config.writeConfig(at + 4, 2, 0x0003);
    assert.equal(config.readConfig(at + 4, 2), 0xfffc);
    config.writeConfig(at + 2, 2, 0);
    assert.equal(config.readConfig(at, 4), 0x0003_0011);
  });

  test("what does not fit 256 bytes is refused", () => {
    assert.throws(() => make({ capabilities: [{ id: 9, body: new Uint8Array(191) }] }), RangeError);
    make({ capabilities: [{ id: 9, body: new Uint8Array(190) }] });
  });
});

test("extended configuration space is there and has no capability", () => {
  const config = make();
  assert.equal(config.readConfig(0x100, 4), 0);
  config.writeConfig(0x100, 4, ALL_ONES);
  config.writeConfig(0xffc, 4, ALL_ONES);
  assert.equal(config.readConfig(0x100, 4), 0);
  assert.equal(config.readConfig(0xffc, 4), 0);
});

test("state is shared: a second object over it sees writes, and attaching changes nothing", () => {
  const memory = newMemory();
  const make = () => new ConfigSpace(allocatorOver(memory), "test", IDENTITY);
  const first = make();
  first.reset();
  first.writeConfig(0x3c, 1, 11);
  const second = make();
  assert.equal(second.readConfig(0x3c, 1), 11);
  assert.equal(second.readConfig(0x00, 4), 0x10411af4);
  second.reset();
  assert.equal(first.readConfig(0x3c, 1), 0);
});

test("random writes only ever change writable bits", () => {
  const definition: Partial<FunctionDefinition> = {
    bars: [
      { index: 0, kind: "memory32", size: 0x1000 },
      { index: 1, kind: "memory64", size: 2 ** 33 },
      { index: 4, kind: "io", size: 0x40 },
    ],
    capabilities: [{ id: 0x11, body: new Uint8Array(10), writable: Uint8Array.of(0, 0xc0) }],
  };
  const config = make(definition);
  const initial = Array.from({ length: 1024 }, (_, i) => config.readConfig(4 * i, 4));
  const changeable = initial.map((_, i) => {
    const offset = 4 * i;
    if (offset === COMMAND) return 0x0547;
    if (offset === 0x0c || offset === 0x3c) return 0xff;
    if (offset === BAR0) return 0xfffff000;
    if (offset === BAR0 + 8) return 0xfffffffe;
    if (offset === BAR0 + 16) return 0xffffffc0;
    return offset === config.capabilityOffsets[0] ? 0xc000_0000 : 0;
  });
  const next = random(1);
  const sizes: readonly AccessSize[] = [1, 2, 4];
  for (let i = 0; i < 100_000; i++) {
    const size = sizes[next() % 3];
    // Most accesses to the header, where registers are.
    const range = next() % 4 === 0 ? 4096 : 80;
    const offset = (next() % (range / size)) * size;
    config.writeConfig(offset, size, next());
    const dword = offset >>> 2;
    const changed = (config.readConfig(4 * dword, 4) ^ initial[dword]) >>> 0;
    assert.equal((changed & ~changeable[dword]) >>> 0, 0, `offset ${4 * dword}`);
  }
});
