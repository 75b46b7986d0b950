/** PCMPESTRI and its kin against the text of SDM vol. 2, 4.1, written out element by element; CRC32 against known values. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { bench, FIRST, find, fromDwords, hex, run, SECOND, xmm } from "./sse-bench.js";

interface Result {
  readonly bits: number;
  readonly count: number;
  readonly flags: { cf: boolean; zf: boolean; sf: boolean; of: boolean };
}

/** 4.1.2–4.1.6, with lengths already limited to the number of elements. */
function compare(aBytes: Uint8Array, bBytes: Uint8Array, la: number, lb: number, imm: number): Result {
  const wide = (imm & 1) !== 0;
  const isSigned = (imm & 2) !== 0;
  const count = wide ? 8 : 16;
  const element = (bytes: Uint8Array, i: number): number => {
    const value = wide ? bytes[2 * i] | (bytes[2 * i + 1] << 8) : bytes[i];
    const shift = wide ? 16 : 24;
    return isSigned ? (value << shift) >> shift : value;
  };
  const a = (i: number) => element(aBytes, i);
  const b = (j: number) => element(bBytes, j);
  let bits = 0;
  for (let j = 0; j < count; j++) {
    let result: boolean;
    switch ((imm >> 2) & 3) {
      case 0:
        result = false;
        for (let i = 0; i < count; i++) if (i < la && j < lb && a(i) === b(j)) result = true;
        break;
      case 1:
        result = false;
        for (let i = 0; i + 1 < count; i += 2) {
          if (i + 1 < la && j < lb && a(i) <= b(j) && b(j) <= a(i + 1)) result = true;
        }
        break;
      case 2:
        result = j < la && j < lb ? a(j) === b(j) : j >= la && j >= lb;
        break;
      default:
        result = true;
        for (let i = 0; i + j < count; i++) {
          if (i < la && !(i + j < lb && a(i) === b(i + j))) result = false;
        }
    }
    const negate = (imm & 0x10) !== 0 && ((imm & 0x20) === 0 || j < lb);
    if (result !== negate) bits |= 1 << j;
  }
  return { bits, count, flags: { cf: bits !== 0, zf: lb < count, sf: la < count, of: (bits & 1) !== 0 } };
}

function flags(): Result["flags"] & { pf: boolean; af: boolean } {
  const { flagC, flagZ, flagS, flagO, flagA } = bench.state;
  const ones = [...(flagS & 0xffn).toString(2)].filter((digit) => digit === "1").length;
  return {
    cf: flagC === 1,
    zf: flagZ === 0n,
    sf: flagS >> 63n === 1n,
    of: flagO === 1,
    pf: ones % 2 === 0,
    af: (flagA & 0x10) !== 0,
  };
}

let seed = 0x6b8b4567;
function random(limit: number): number {
  seed ^= seed << 13;
  seed ^= seed >>> 17;
  seed ^= seed << 5;
  return (seed >>> 0) % limit;
}

function text(alphabet: number, wide: boolean): Uint8Array {
  return Uint8Array.from({ length: 16 }, (_, i) => {
    if (wide && i % 2 === 1) return random(6) === 0 ? 0xff : 0;
    if (random(12) === 0) return 0;
    return random(4) === 0 ? 0x80 + random(alphabet) : 1 + random(alphabet);
  });
}

function implicitLength(bytes: Uint8Array, wide: boolean): number {
  const count = wide ? 8 : 16;
  for (let i = 0; i < count; i++)
    if (bytes[wide ? 2 * i : i] === 0 && (!wide || bytes[2 * i + 1] === 0)) return i;
  return count;
}

for (const implicit of [true, false]) {
  test(`${implicit ? "PCMPISTR" : "PCMPESTR"}: every control byte`, () => {
    const name = implicit ? "PCMPISTR" : "PCMPESTR";
    for (let imm = 0; imm < 256; imm++) {
      for (let n = 0; n < 12; n++) {
        const wide = (imm & 1) !== 0;
        const count = wide ? 8 : 16;
        const alphabet = 1 + random(4);
        const a = text(alphabet, wide);
        const b = text(alphabet, wide);
        const eax = random(44) - 22;
        const edx = random(44) - 22;
        const la = implicit ? implicitLength(a, wide) : Math.min(Math.abs(eax), count);
        const lb = implicit ? implicitLength(b, wide) : Math.min(Math.abs(edx), count);
        const expected = compare(a, b, la, lb, imm);
        const execute = (mnemonic: string) => {
          bench.reset();
          bench.immediate = (imm << 24) >> 24;
          bench.state.gpr[0] = BigInt.asUintN(32, BigInt(eax)) | (0xabcdn << 32n);
          bench.state.gpr[2] = BigInt.asUintN(32, BigInt(edx));
          bench.state.gpr[1] = (1n << 64n) - 1n;
          xmm(FIRST).set(a);
          xmm(SECOND).set(b);
          find(mnemonic).run(FIRST, SECOND);
          assert.deepEqual(flags(), { ...expected.flags, pf: false, af: false }, mnemonic);
        };
        const title = `imm ${imm.toString(16)} a ${hex(a)} ${la} b ${hex(b)} ${lb}`;
        execute(`${name}I`);
        const { bits } = expected;
        const last = (imm & 0x40) !== 0;
        const index = bits === 0 ? count : last ? 31 - Math.clz32(bits) : 31 - Math.clz32(bits & -bits);
        assert.equal(bench.state.gpr[1], BigInt(index), title);
        execute(`${name}M`);
        const mask = last
          ? Uint8Array.from({ length: 16 }, (_, i) => ((bits >> (wide ? i >> 1 : i)) & 1 ? 0xff : 0))
          : fromDwords(bits);
        assert.equal(hex(xmm(0)), hex(mask), title);
      }
    }
  });
}

test("PCMPESTRI with REX.W takes 64-bit lengths", () => {
  const wide = bench.instructions.find(
    ({ row, form }) => row.mnemonic === "PCMPESTRI" && form.size === 8 && form.operands[1].kind === "reg",
  )!;
  bench.reset();
  bench.immediate = 0x08;
  bench.state.gpr[0] = 1n << 32n;
  bench.state.gpr[2] = 1n << 32n;
  wide.run(FIRST, SECOND);
  assert.deepEqual([flags().zf, flags().sf], [false, false], "both are longer than 16");
});

test("CRC32: the check value of CRC-32C, in steps of every size", () => {
  const message = new TextEncoder().encode("123456789");
  const view = new DataView(message.buffer);
  const step = (crc: number, bytes: 1 | 2 | 4 | 8, value: bigint): number => {
    const instruction = bench.instructions.find(
      ({ row, form }) =>
        row.mnemonic === "CRC32" &&
        form.operands[1].kind === "reg" &&
        form.operands[1].size === bytes &&
        (bytes < 8 || form.operands[0].size === 8),
    )!;
    bench.reset();
    bench.state.gpr[6] = BigInt(crc) | (7n << 32n);
    bench.state.gpr[7] = value | (bytes < 8 ? 0xffn << BigInt(8 * bytes) : 0n);
    instruction.run(6, 7);
    assert.equal(bench.state.gpr[6] >> 32n, 0n, "the upper half is cleared");
    return Number(bench.state.gpr[6]);
  };
  const finish = (crc: number) => ~crc >>> 0;
  // The catalogue's check value of CRC-32C ("CRC-32/ISCSI").
  const CHECK = 0xe3069283;
  let crc = 0xffffffff;
  for (const byte of message) crc = step(crc, 1, BigInt(byte));
  assert.equal(finish(crc), CHECK);
  assert.equal(finish(step(step(0xffffffff, 8, view.getBigUint64(0, true)), 1, BigInt(message[8]))), CHECK);
  crc = step(0xffffffff, 4, BigInt(view.getUint32(0, true)));
  crc = step(crc, 2, BigInt(view.getUint16(4, true)));
  crc = step(crc, 2, BigInt(view.getUint16(6, true)));
  assert.equal(finish(step(crc, 1, BigInt(message[8]))), CHECK);
});

test("PTEST, COMISD: flags", () => {
  const ptest = (a: Uint8Array, b: Uint8Array) => {
    run(find("PTEST"), { a, b });
    return [flags().zf, flags().cf];
  };
  const low = fromDwords(1);
  const high = fromDwords(0, 0, 0, 0x80000000);
  assert.deepEqual(ptest(low, high), [true, false]);
  assert.deepEqual(ptest(low, low), [false, true]);
  assert.deepEqual(ptest(fromDwords(), fromDwords()), [true, true]);
  const double = (value: number) => new Uint8Array(Float64Array.of(value, 0).buffer);
  const relation = (a: number, b: number) => {
    run(find("UCOMISD"), { a: double(a), b: double(b) });
    const { zf, pf, cf } = flags();
    return [zf, pf, cf].map(Number).join("");
  };
  // SDM vol. 2, COMISD: unordered 111, greater 000, less 001, equal 100 (ZF, PF, CF).
  assert.equal(relation(NaN, 1), "111");
  assert.equal(relation(2, 1), "000");
  assert.equal(relation(1, 2), "001");
  assert.equal(relation(-0, 0), "100");
  assert.equal(relation(Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY), "001");
});
