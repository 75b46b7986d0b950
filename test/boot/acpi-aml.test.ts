/** The AML writer against ACPI 6.5, chapter 20 (encodings), and the resource descriptors against 6.4. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  arg,
  buffer,
  concat,
  createDwordField,
  device,
  eisaId,
  equal,
  integer,
  method,
  name,
  not,
  or,
  otherwise,
  path,
  pkg,
  resourceTemplate,
  returns,
  scope,
  string,
  uuid,
  when,
  withPackageLength,
} from "../../src/boot/acpi/aml.js";
import {
  busNumbers,
  io,
  ioWindow,
  irq,
  irqShared,
  memory32Fixed,
  memoryWindow,
} from "../../src/boot/acpi/resources.js";

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

describe("names, 20.2.2", () => {
  test("segments are filled up to four characters", () => {
    assert.equal(hex(path("_HID")), hex(Buffer.from("_HID")));
    assert.equal(hex(path("RTC")), hex(Buffer.from("RTC_")));
    assert.equal(hex(path("C")), hex(Buffer.from("C___")));
  });

  test("roots, parents, two and more segments have their prefixes", () => {
    assert.equal(hex(path("\\_SB")), hex(Buffer.from("\\_SB_")));
    assert.equal(hex(path("\\")), "5c00");
    assert.equal(hex(path("^^FOO")), hex(Buffer.from("^^FOO_")));
    assert.equal(hex(path("\\_SB.PCI0")), hex(Buffer.from("\\.\u{5f}SB_PCI0")));
    assert.equal(hex(path("A.B.C")), `2f03${hex(Buffer.from("A___B___C___"))}`);
  });

  test("what is no name is refused", () => {
    for (const bad of ["abcd", "1ABC", "TOOLONG", "A..B", "A B", "A\\B"]) {
      assert.throws(() => path(bad), RangeError);
    }
  });
});

describe("data, 20.2.3", () => {
  test("integers take their shortest form", () => {
    const forms: [number | bigint, string][] = [
      [0, "00"],
      [1, "01"],
      [2, "0a02"],
      [0xff, "0aff"],
      [0x100, "0b0001"],
      [0xffff, "0bffff"],
      [0x10000, "0c00000100"],
      [0xffffffff, "0cffffffff"],
      [0x100000000, "0e0000000001000000"],
      [0xffffffffffffffffn, "0effffffffffffffff"],
    ];
    for (const [value, encoding] of forms) assert.equal(hex(integer(value)), encoding);
    for (const bad of [-1, 1n << 64n]) assert.throws(() => integer(bad), RangeError);
  });

  test("strings end with a null and hold ASCII", () => {
    assert.equal(hex(string("ACPI0007")), `0d${hex(Buffer.from("ACPI0007"))}00`);
    for (const bad of ["\u{e9}", "a\0b"]) assert.throws(() => string(bad), RangeError);
  });

  test("EISA IDs", () => {
    assert.equal(hex(eisaId("PNP0A08")), "0c41d00a08");
    assert.equal(hex(eisaId("PNP0501")), "0c41d00501");
    assert.equal(hex(eisaId("ABC1234")), "0c04431234");
    for (const bad of ["PNP0A0", "pnp0a08", "PNP0A0G", "ACPI0007"]) {
      assert.throws(() => eisaId(bad), RangeError);
    }
  });

  test("UUIDs have their first three groups byte-swapped", () => {
    const bytes = "ddccbbaaffee" + "1100" + "2233445566778899";
    assert.equal(hex(uuid("aabbccdd-eeff-0011-2233-445566778899")), `11130a10${bytes}`);
    assert.throws(() => uuid("aabbccdd"), RangeError);
  });
});

describe("package lengths, 20.2.4", () => {
  const decode = (bytes: Uint8Array): { length: number; size: number } => {
    const following = bytes[0] >> 6;
    let length = following === 0 ? bytes[0] & 0x3f : bytes[0] & 0x0f;
    for (let i = 0; i < following; i++) length |= bytes[1 + i] << (4 + 8 * i);
    return { length, size: 1 + following };
  };

  test("counts itself and uses the fewest bytes, at each border", () => {
    const borders: [body: number, size: number][] = [
      [0, 1],
      [62, 1],
      [63, 2],
      [4093, 2],
      [4094, 3],
      [(1 << 20) - 4, 3],
      [(1 << 20) - 3, 4],
    ];
    for (const [body, size] of borders) {
      const bytes = withPackageLength(new Uint8Array(body));
      assert.deepEqual(decode(bytes), { length: body + size, size }, `body of ${body}`);
      assert.equal(bytes.length, body + size);
      if (size > 1) assert.equal(bytes[0] & 0x30, 0, "reserved bits");
    }
  });
});

describe("terms", () => {
  test("objects", () => {
    assert.equal(hex(name("_UID", 3)), `08${hex(Buffer.from("_UID"))}0a03`);
    assert.equal(hex(scope("\\_SB")), `1006${hex(Buffer.from("\\_SB_"))}`);
    assert.equal(hex(device("PCI0")), `5b8205${hex(Buffer.from("PCI0"))}`);
    assert.equal(hex(buffer(Uint8Array.of(1, 2))), "11050a020102");
    assert.equal(hex(pkg(5, 0, "a")), "1208030a05000d6100");
    assert.throws(() => pkg(...new Array<number>(256).fill(0)), RangeError);
  });

  test("methods hold the number of arguments and whether they are serialized", () => {
    const named = hex(Buffer.from("_OSC"));
    assert.equal(hex(method("_OSC", { args: 4, serialized: true })), `1406${named}0c`);
    assert.equal(hex(method("_OSC", { args: 2 }, returns(arg(1)))), `1408${named}02a469`);
    assert.throws(() => method("_OSC", { args: 8 }), RangeError);
  });

  test("operators", () => {
    assert.equal(hex(equal(arg(0), 1)), "936801");
    assert.equal(hex(not(arg(0))), "9268");
    assert.equal(hex(or(arg(0), 4, arg(0))), "7d680a0468");
    assert.equal(hex(concat(when(arg(0), returns(1)), otherwise(returns(0)))), "a00468a401a103a400");
    assert.equal(hex(createDwordField(arg(3), 0, "CDW1")), `8a6b00${hex(Buffer.from("CDW1"))}`);
  });
});

describe("resource descriptors, 6.4", () => {
  test("I/O ports and interrupts", () => {
    assert.equal(hex(io(0x3f8, 8)), "4701f803f8030108");
    assert.equal(hex(irq(4)), "221000");
    assert.equal(hex(irq(12)), "220010");
    assert.equal(hex(irqShared(3)), "23080011");
  });

  test("memory", () => {
    assert.equal(hex(memory32Fixed(0xe0000000, 0x10000000)), "86090001000000e000000010");
  });

  test("address spaces: width, type, flags, granularity, minimum, maximum, translation, length", () => {
    assert.equal(hex(busNumbers(0, 256)), `880d0002${"0c00"}0000${"0000"}ff00${"0000"}0001`);
    assert.equal(hex(ioWindow(0xd00, 0xf300)), `880d00010c030000${"000d"}ffff${"0000"}00f3`);
    assert.equal(
      hex(memoryWindow(0xc0000000, 0x20000000)),
      "871700000c0100000000000000c0ffffffdf0000000000000020",
    );
    assert.equal(
      hex(memoryWindow(0x100000000, 0x80000000)),
      `8a2b00000c01${"00".repeat(8)}0000000001000000ffffff7f01000000${"00".repeat(8)}0000008000000000`,
    );
  });

  test("a template ends with the end tag", () => {
    assert.equal(hex(resourceTemplate(irq(1))), "11080a052202007900");
  });
});
