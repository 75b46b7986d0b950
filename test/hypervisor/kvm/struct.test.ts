import assert from "node:assert/strict";
import { test } from "node:test";
import {
  anonymousUnion,
  array,
  bytes,
  decodeList,
  encodeList,
  Struct,
  union,
} from "../../../src/hypervisor/kvm/abi/struct.js";

const INNER = new Struct("inner", { a: "u8", b: "u32" });

test("fields are aligned to their size, and the structure's size to its largest", () => {
  const s = new Struct("s", { a: "u8", b: "u16", c: "u8", d: "u64", e: "u8" });
  assert.deepEqual(s.offset, { a: 0, b: 2, c: 4, d: 8, e: 16 });
  assert.equal(s.size, 24);
  assert.equal(s.align, 8);
});

test("nested structures, arrays and unions take their members' alignment", () => {
  const s = new Struct("s", {
    a: "u8",
    inner: array(INNER, 2),
    u: union({ big: "u64", raw: bytes(12) }),
    last: "u8",
  });
  assert.deepEqual(s.offset, { a: 0, inner: 4, u: 24, last: 40 });
  assert.equal(s.size, 48);
});

test("what is written is read again", () => {
  const s = new Struct("s", {
    small: "u16",
    negative: "s32",
    wide: "u64",
    list: array("u16", 3),
    raw: bytes(4),
    inner: INNER,
    either: anonymousUnion({ one: "u32", two: array("u8", 4) }),
  });
  const data = s.encode({
    small: 0xbeef,
    negative: -2,
    wide: 0x1122334455667788n,
    list: [1, 2],
    raw: Uint8Array.of(9, 8),
    inner: { b: 7 },
    either: { one: 0x04030201 },
  });
  assert.deepEqual(s.decode(data), {
    small: 0xbeef,
    negative: -2,
    wide: 0x1122334455667788n,
    list: [1, 2, 0],
    raw: Uint8Array.of(9, 8, 0, 0),
    inner: { a: 0, b: 7 },
    either: { one: 0x04030201, two: [1, 2, 3, 4] },
  });
});

test("bytes are little-endian", () => {
  const s = new Struct("s", { a: "u32", b: "u16" });
  assert.deepEqual([...s.encode({ a: 0x01020304, b: 0x0506 })], [4, 3, 2, 1, 6, 5, 0, 0]);
});

test("writing clears what is left out", () => {
  const s = new Struct("s", { a: "u32", b: "u32" });
  const data = new DataView(new ArrayBuffer(12));
  data.setUint32(8, 0xffffffff, true);
  s.write(data, { a: 5 }, 4);
  assert.deepEqual(s.read(data, 4), { a: 5, b: 0 });
});

test("an array takes no more elements than it has room for", () => {
  const s = new Struct("s", { list: array("u8", 2) });
  assert.throws(() => s.encode({ list: [1, 2, 3] }), RangeError);
});

test("lists with a flexible array", () => {
  const header = new Struct("header", { count: "u32", pad: "u32" });
  const data = encodeList(header, { count: 2 }, INNER, [{ a: 1, b: 2 }, { b: 3 }]);
  assert.equal(data.length, 8 + 2 * 8);
  assert.equal(header.decode(data).count, 2);
  assert.deepEqual(decodeList(header, data, INNER, 2), [
    { a: 1, b: 2 },
    { a: 0, b: 3 },
  ]);
});
