/**
 * SSE floating point on special values, from SDM vol. 1, 4.8, 10.2.3 and 11.5: results bit for bit, exception flags, masked and
 * not. Each case runs with MXCSR.PE clear and set, as definitions take different paths then.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Cr4, Vector } from "../../../src/hypervisor/soft/vcpu-state.js";
import { dword, find, fromDwords, fromQwords, hex, qword, run } from "./sse-bench.js";

const IE = 1;
const DE = 2;
const ZE = 4;
const OE = 8;
const UE = 16;
const PE = 32;
const DAZ = 0x40;
const FTZ = 0x8000;
const DOWN = 0x2000;
const UP = 0x4000;
const ZERO = 0x6000;
const MASKED = 0x1f80;

const ONE = 0x3ff0000000000000n;
const TWO = 0x4000000000000000n;
const THREE = 0x4008000000000000n;
const THIRD = 0x3fd5555555555555n;
const NEGATIVE = 1n << 63n;
const INFINITY = 0x7ff0000000000000n;
const MAX = 0x7fefffffffffffffn;
const MIN_NORMAL = 0x0010000000000000n;
const MIN_DENORMAL = 1n;
const DENORMAL = 0x000fffffffffffffn;
const QNAN = 0x7ff8000000000123n;
const SNAN = 0x7ff0000000000456n;
const SNAN_QUIETED = 0x7ff8000000000456n;
/** The QNaN floating-point indefinite (SDM vol. 1, table 4-3). */
const INDEFINITE = 0xfff8000000000000n;

type Case = readonly [mnemonic: string, a: bigint, b: bigint, control: number, result: bigint, flags: number];

const CASES: readonly Case[] = [
  ["ADDSD", ONE, TWO, 0, THREE, 0],
  ["ADDSD", ONE, 0x3ca0000000000000n, 0, ONE, PE], // 1 + 2^-53: a tie, to even
  ["ADDSD", ONE, 0x3ca0000000000000n, UP, ONE + 1n, PE],
  ["ADDSD", ONE | NEGATIVE, 0x3ca0000000000000n | NEGATIVE, DOWN, (ONE + 1n) | NEGATIVE, PE],
  ["ADDSD", ONE, 0x3ca0000000000000n, ZERO, ONE, PE],
  ["ADDSD", MAX, MAX, 0, INFINITY, OE | PE],
  ["ADDSD", MAX, MAX, ZERO, MAX, OE | PE],
  ["ADDSD", MAX | NEGATIVE, MAX | NEGATIVE, UP, MAX | NEGATIVE, OE | PE],
  ["ADDSD", INFINITY, INFINITY | NEGATIVE, 0, INDEFINITE, IE],
  ["ADDSD", INFINITY, ONE, 0, INFINITY, 0],
  ["ADDSD", ONE, ONE | NEGATIVE, 0, 0n, 0],
  ["ADDSD", ONE, ONE | NEGATIVE, DOWN, NEGATIVE, 0],
  ["ADDSD", 0n, NEGATIVE, 0, 0n, 0],
  ["ADDSD", NEGATIVE, NEGATIVE, 0, NEGATIVE, 0],
  ["ADDSD", DENORMAL, ONE, 0, ONE, DE | PE],
  ["ADDSD", DENORMAL, ONE, DAZ, ONE, 0],
  ["ADDSD", MIN_DENORMAL, MIN_DENORMAL, 0, 2n, DE],
  ["ADDSD", MIN_DENORMAL, MIN_DENORMAL, FTZ, 0n, DE | UE | PE],
  ["SUBSD", MIN_NORMAL, MIN_NORMAL + 1n, 0, MIN_DENORMAL | NEGATIVE, 0],
  ["SUBSD", MIN_NORMAL, MIN_NORMAL + 1n, FTZ, NEGATIVE, UE | PE],
  // The first operand that is a NaN, quieted (table 4-7); a signaling one is invalid.
  ["ADDSD", QNAN, SNAN, 0, QNAN, IE],
  ["ADDSD", SNAN, QNAN, 0, SNAN_QUIETED, IE],
  ["ADDSD", ONE, SNAN, 0, SNAN_QUIETED, IE],
  ["ADDSD", ONE, QNAN | NEGATIVE, 0, QNAN | NEGATIVE, 0],
  ["MULSD", QNAN, INFINITY, 0, QNAN, 0],
  ["MULSD", INFINITY, 0n, 0, INDEFINITE, IE],
  ["MULSD", THREE, THIRD, 0, ONE, PE],
  ["MULSD", THREE, THIRD, ZERO, ONE - 1n, PE],
  ["MULSD", MIN_NORMAL, 0x3fe0000000000000n, 0, 0x0008000000000000n, 0], // tiny, exact: no underflow where masked
  ["MULSD", MIN_NORMAL + 1n, 0x3fe0000000000000n, 0, 0x0008000000000000n, UE | PE],
  ["MULSD", MIN_NORMAL + 1n, 0x3fe0000000000000n, FTZ, 0n, UE | PE],
  ["MULSD", MIN_NORMAL, MIN_NORMAL, UP, MIN_DENORMAL, UE | PE],
  ["MULSD", 0n, DENORMAL, 0, 0n, DE],
  ["MULSD", TWO, THREE | NEGATIVE, 0, 0xc018000000000000n, 0],
  ["DIVSD", ONE, THREE, 0, THIRD, PE],
  ["DIVSD", ONE, THREE, UP, THIRD + 1n, PE],
  ["DIVSD", ONE, NEGATIVE, 0, INFINITY | NEGATIVE, ZE],
  ["DIVSD", 0n, 0n, 0, INDEFINITE, IE],
  ["DIVSD", INFINITY, 0n, 0, INFINITY, 0],
  ["DIVSD", ONE, DENORMAL, DAZ, INFINITY, ZE],
  ["DIVSD", THREE, TWO, 0, 0x3ff8000000000000n, 0],
  ["SQRTSD", 0n, TWO, 0, 0x3ff6a09e667f3bcdn, PE],
  ["SQRTSD", 0n, TWO, DOWN, 0x3ff6a09e667f3bccn, PE],
  ["SQRTSD", 0n, 0x4010000000000000n, 0, TWO, 0],
  ["SQRTSD", 0n, ONE | NEGATIVE, 0, INDEFINITE, IE],
  ["SQRTSD", 0n, NEGATIVE, 0, NEGATIVE, 0],
  ["SQRTSD", 0n, SNAN, 0, SNAN_QUIETED, IE],
  ["SQRTSD", 0n, MIN_DENORMAL, 0, 0x1e60000000000000n, DE],
  // MIN and MAX: the source where both are zero or one is a NaN, not quieted.
  ["MINSD", 0n, NEGATIVE, 0, NEGATIVE, 0],
  ["MINSD", NEGATIVE, 0n, 0, 0n, 0],
  ["MAXSD", ONE, QNAN, 0, QNAN, IE],
  ["MAXSD", QNAN, ONE, 0, ONE, IE],
  ["MAXSD", ONE, SNAN, 0, SNAN, IE],
  ["MINSD", ONE, TWO, 0, ONE, 0],
  ["MAXSD", ONE, INFINITY, 0, INFINITY, 0],
  ["MINSD", DENORMAL, ONE, 0, DENORMAL, DE],
  ["MINSD", DENORMAL, ONE, DAZ, 0n, 0],
  ["CVTSD2SS", 0n, ONE, 0, 0x3f800000n, 0],
  ["CVTSD2SS", 0n, THIRD, 0, 0x3eaaaaabn, PE],
  ["CVTSD2SS", 0n, MAX, 0, 0x7f800000n, OE | PE],
  ["CVTSD2SS", 0n, SNAN | (1n << 40n), 0, 0x7fc00800n, IE],
];

test("double-precision arithmetic on special values", async (t) => {
  for (const [mnemonic, a, b, control, result, flags] of CASES) {
    const title = `${mnemonic} ${a.toString(16)} ${b.toString(16)} MXCSR ${control.toString(16)}`;
    await t.test(title, () => {
      for (const sticky of [0, PE]) {
        for (const source of ["reg", "mem"] as const) {
          const mxcsr = MASKED | control | sticky;
          const out = run(find(mnemonic, source), { a: fromQwords(a, 7n), b: fromQwords(b, 9n), mxcsr });
          assert.equal(out.fault, undefined);
          assert.equal(qword(out.first).toString(16), result.toString(16));
          assert.equal(qword(out.first, 1), 7n, "the upper half stays");
          assert.equal(out.mxcsr.toString(16), (mxcsr | flags).toString(16));
        }
      }
    });
  }
});

test("an exception that is not masked leaves the destination and sets its flags", () => {
  const cases: readonly [string, bigint, bigint, flag: number, flags: number][] = [
    ["DIVSD", ONE, 0n, ZE, ZE],
    ["ADDSD", SNAN, ONE, IE, IE],
    ["ADDSD", DENORMAL, ONE, DE, DE],
    ["ADDSD", MAX, MAX, OE, OE],
    ["MULSD", MIN_NORMAL, MIN_NORMAL, UE, UE],
    ["DIVSD", ONE, THREE, PE, PE],
    // A masked one found at the same step is recorded too; one found after an unmasked one is not (11.5.2).
    ["DIVSD", ONE, THREE, PE | ZE, PE],
    ["ADDSD", DENORMAL, ONE, DE | PE, DE],
  ];
  for (const [mnemonic, a, b, unmasked, flags] of cases) {
    for (const cr4 of [Cr4.OSFXSR, Cr4.OSFXSR | Cr4.OSXMMEXCPT]) {
      const mxcsr = MASKED & ~(unmasked << 7);
      const out = run(find(mnemonic), { a: fromQwords(a), b: fromQwords(b), mxcsr, cr4 });
      assert.equal(out.fault, (cr4 & Cr4.OSXMMEXCPT) !== 0 ? Vector.XM : Vector.UD, mnemonic);
      assert.equal(qword(out.first), a, mnemonic);
      assert.equal(out.mxcsr & flags, flags, mnemonic);
      if (unmasked !== PE && unmasked !== OE && unmasked !== UE) {
        assert.equal(out.mxcsr, mxcsr | flags, mnemonic);
      }
    }
  }
});

test("a sticky flag alone raises nothing", () => {
  const mxcsr = (MASKED & ~(ZE << 7)) | ZE;
  const out = run(find("ADDSD"), { a: fromQwords(ONE), b: fromQwords(TWO), mxcsr });
  assert.equal(out.fault, undefined);
  assert.equal(qword(out.first), THREE);
});

test("packed: one bad lane does not change the others", () => {
  const singles = fromDwords(0x3f800000, 0x7f800001, 0x00000001, 0x40400000);
  const out = run(find("ADDPS"), { a: singles, b: fromDwords(0x3f800000, 0x3f800000, 0, 0xbf800000) });
  assert.equal(hex(out.first), hex(fromDwords(0x40000000, 0x7fc00001, 0x00000001, 0x40000000)));
  assert.equal(out.mxcsr, MASKED | IE | DE);
});

/** SDM vol. 2, CMPPD, table 3-1: by predicate, whether less, equal, greater, unordered are true. */
const PREDICATES = ["0100", "1000", "1100", "0001", "1011", "0111", "0011", "1110"];
test("CMPSD and CMPPD: all predicates", () => {
  const b = TWO;
  PREDICATES.forEach((truth, imm) => {
    [ONE, TWO, THREE, QNAN].forEach((a, relation) => {
      // Predicates 1, 2, 5, 6 take a quiet NaN for invalid.
      const invalid = a === QNAN && (imm & 3) !== 0 && (imm & 3) !== 3 ? IE : 0;
      const expected = truth[relation] === "1" ? (1n << 64n) - 1n : 0n;
      const scalar = run(find("CMPSD"), { a: fromQwords(a, 5n), b: fromQwords(b, 6n), imm });
      assert.equal(qword(scalar.first), expected, `predicate ${imm} relation ${relation}`);
      assert.equal(qword(scalar.first, 1), 5n);
      assert.equal(scalar.mxcsr, MASKED | invalid);
      const packed = run(find("CMPPD"), { a: fromQwords(ONE, a), b: fromQwords(ONE, b), imm });
      assert.equal(qword(packed.first, 1), expected);
      assert.equal(packed.mxcsr, MASKED | invalid);
    });
  });
});

test("ROUNDSD: the immediate's modes, MXCSR's, and suppressed precision", () => {
  const HALF = 0x3fe0000000000000n;
  const value = 0x4004000000000000n; // 2.5
  const cases: readonly [imm: number, control: number, result: bigint, flags: number][] = [
    [0, UP, TWO, PE],
    [1, 0, TWO, PE],
    [2, 0, THREE, PE],
    [3, UP, TWO, PE],
    [4, UP, THREE, PE],
    [4, ZERO, TWO, PE],
    [8, 0, TWO, 0],
    [12, UP, THREE, 0],
  ];
  for (const [imm, control, result, flags] of cases) {
    const mxcsr = MASKED | control;
    const out = run(find("ROUNDSD"), { a: fromQwords(0n), b: fromQwords(value), imm, mxcsr });
    assert.equal(qword(out.first), result, `imm ${imm} MXCSR ${control.toString(16)}`);
    assert.equal(out.mxcsr, mxcsr | flags);
  }
  const negative = run(find("ROUNDSD"), { a: fromQwords(0n), b: fromQwords(HALF | NEGATIVE), imm: 8 });
  assert.equal(qword(negative.first), NEGATIVE, "−0.5 rounds to −0");
});

test("conversions to integers: rounding, truncation, and what does not fit", () => {
  const cases: readonly [string, bigint, number, number, number][] = [
    ["CVTPD2DQ", 0x4004000000000000n, 0, 2, PE],
    ["CVTPD2DQ", 0x4004000000000000n, UP, 3, PE],
    ["CVTTPD2DQ", 0xc007ffffffffffffn, UP, -2, PE],
    ["CVTPD2DQ", 0x41dfffffffc00000n, 0, 0x7fffffff, 0],
    ["CVTPD2DQ", 0x41e0000000000000n, 0, 0x80000000, IE],
    ["CVTPD2DQ", 0xc1e0000000000000n, 0, 0x80000000, 0],
    ["CVTTPD2DQ", QNAN, 0, 0x80000000, IE],
    ["CVTTPD2DQ", INFINITY, 0, 0x80000000, IE],
    ["CVTTPD2DQ", MIN_DENORMAL, 0, 0, PE],
    ["CVTTPD2DQ", MIN_DENORMAL, DAZ, 0, 0],
  ];
  for (const [mnemonic, value, control, result, flags] of cases) {
    for (const sticky of [0, PE]) {
      const mxcsr = MASKED | control | sticky;
      const out = run(find(mnemonic), { a: fromQwords(-1n & 0xffn), b: fromQwords(value, ONE), mxcsr });
      assert.equal(dword(out.first), result >>> 0, `${mnemonic} ${value.toString(16)}`);
      assert.equal(dword(out.first, 1), 1);
      assert.equal(qword(out.first, 1), 0n);
      assert.equal(out.mxcsr, mxcsr | flags);
    }
  }
});

test("RCPPS and RSQRTPS: special values, and an error of at most 1.5 · 2^-12", () => {
  const special = fromDwords(0x00000000, 0x80000001, 0x7f800000, 0x7f800123);
  const reciprocal = run(find("RCPPS"), { a: special, b: special });
  assert.equal(hex(reciprocal.first), hex(fromDwords(0x7f800000, 0xff800000, 0x00000000, 0x7fc00123)));
  const negative = fromDwords(0x80000000, 0xbf800000, 0xff800000, 0x80000001);
  const root = run(find("RSQRTPS"), { a: negative, b: negative });
  assert.equal(hex(root.first), hex(fromDwords(0xff800000, 0xffc00000, 0xffc00000, 0xff800000)));
  assert.equal(root.mxcsr, MASKED, "no exceptions");
  const values = Float32Array.of(3, 0.1, 1e30, 12345.678);
  for (const [mnemonic, exact] of [
    ["RCPPS", (x: number) => 1 / x],
    ["RSQRTPS", (x: number) => 1 / Math.sqrt(x)],
  ] as const) {
    const bytes = new Uint8Array(values.buffer);
    const got = new Float32Array(run(find(mnemonic), { a: bytes, b: bytes }).first.buffer);
    values.forEach((x, i) => {
      assert.ok(Math.abs(got[i] / exact(x) - 1) <= 1.5 * 2 ** -12, `${mnemonic} ${x}`);
    });
  }
});
