/** Moves, lanes in and out, AES and carry-less products, from SDM vol. 2 and FIPS 197. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Leave } from "../../../src/hypervisor/soft/vcpu-state.js";
import type { BenchInstruction } from "../fpu/bench.js";
import {
  bench,
  FIRST,
  find,
  fromDwords,
  fromQwords,
  hex,
  mmx,
  qword,
  run,
  SECOND,
  xmm,
} from "./sse-bench.js";

const { state } = bench;
const bytes = (text: string) => Uint8Array.from(Buffer.from(text.replaceAll(" ", ""), "hex"));
const OLD = bytes("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff");
const NEW = bytes("000102030405060708090a0b0c0d0e0f");
const memory = () => new Uint8Array(bench.operand.buffer, bench.operand.byteOffset, 32);

/** The row of `encoding` with operand kinds as given. */
function form(encoding: string, ...kinds: string[]): BenchInstruction {
  const found = bench.instructions.find(
    (i) => i.row.encoding === encoding && kinds.every((kind, n) => i.form.operands[n].kind === kind),
  );
  assert.ok(found !== undefined, encoding);
  return found;
}

test("a scalar load clears the rest, a scalar move between registers keeps it", () => {
  const cases: readonly [string, fromRegister: string, fromMemory: string][] = [
    ["F3 0F 10", "00010203f4f5f6f7f8f9fafbfcfdfeff", "00010203000000000000000000000000"],
    ["F2 0F 10", "0001020304050607f8f9fafbfcfdfeff", "00010203040506070000000000000000"],
    ["F3 0F 7E", "00010203040506070000000000000000", "00010203040506070000000000000000"],
  ];
  for (const [encoding, fromRegister, fromMemory] of cases) {
    assert.equal(hex(run(form(encoding, "reg", "reg"), { a: OLD, b: NEW }).first), fromRegister, encoding);
    assert.equal(hex(run(form(encoding, "reg", "mem"), { a: OLD, b: NEW }).first), fromMemory, encoding);
  }
});

test("half moves", () => {
  const cases: readonly [string, string, string][] = [
    ["NP 0F 12", "mem", "0001020304050607f8f9fafbfcfdfeff"],
    ["NP 0F 12", "reg", "08090a0b0c0d0e0ff8f9fafbfcfdfeff"],
    ["NP 0F 16", "mem", "f0f1f2f3f4f5f6f70001020304050607"],
    ["NP 0F 16", "reg", "f0f1f2f3f4f5f6f70001020304050607"],
  ];
  for (const [encoding, source, expected] of cases) {
    assert.equal(hex(run(form(encoding, "reg", source), { a: OLD, b: NEW }).first), expected);
  }
});

test("stores touch only their own bytes", () => {
  for (const { row, form: shape, run: execute } of bench.instructions) {
    if (!/^(MOV|EXTRACT|PEXTR|STMXCSR)/.test(row.mnemonic) || shape.operands[0].kind !== "mem") continue;
    bench.reset();
    bench.immediate = 0;
    memory().fill(0xee);
    xmm(SECOND).set(NEW);
    mmx(SECOND).set(NEW.subarray(0, 8));
    execute(0, SECOND);
    assert.equal(state.leave, Leave.NONE, row.mnemonic);
    const { size } = shape.operands[0];
    const after = memory();
    assert.ok(
      after.subarray(size).every((byte) => byte === 0xee),
      `${row.mnemonic} of ${size} bytes`,
    );
  }
});

test("MOVMSKPS, MOVMSKPD, PMOVMSKB write a doubleword register", () => {
  const signs = fromDwords(0x80000000, 0, 0x80000080, 0xffffffff);
  const mask = (mnemonic: string, source: "U" | "N") => {
    bench.reset();
    xmm(SECOND).set(signs);
    mmx(SECOND).set(signs.subarray(8));
    state.gpr[7] = (1n << 64n) - 1n;
    find(mnemonic, "reg", source).run(7, SECOND);
    return state.gpr[7];
  };
  assert.equal(mask("MOVMSKPS", "U"), 0b1101n);
  assert.equal(mask("MOVMSKPD", "U"), 0b10n);
  assert.equal(mask("PMOVMSKB", "U"), 0b1111_1001_0000_1000n);
  assert.equal(mask("PMOVMSKB", "N"), 0b1111_1001n);
});

test("PEXTR and PINSR: lane numbers wrap, the rest stays", () => {
  const shapes = { B: 1, W: 2 } as const;
  for (const [suffix, width] of Object.entries(shapes)) {
    const count = 16 / width;
    for (let imm = 0; imm < 256; imm += 7) {
      bench.reset();
      bench.immediate = (imm << 24) >> 24;
      xmm(SECOND).set(NEW);
      state.gpr[7] = (1n << 64n) - 1n;
      const at = width * (imm % count);
      form(suffix === "B" ? "66 0F 3A 14" : "66 0F C5", "reg").run(7, SECOND);
      assert.equal(state.gpr[7], BigInt(width === 1 ? NEW[at] : NEW[at] | (NEW[at + 1] << 8)));
      xmm(FIRST).set(OLD);
      state.gpr[6] = 0x1122334455667788n;
      form(suffix === "B" ? "66 0F 3A 20" : "66 0F C4", "reg", "reg").run(FIRST, 6);
      const expected = OLD.slice();
      expected.set([0x88, 0x77].slice(0, width), at);
      assert.equal(hex(xmm(FIRST)), hex(expected));
    }
  }
});

test("INSERTPS: source lane of a register, destination lane, zero mask; memory has one lane", () => {
  const a = fromDwords(1, 2, 3, 4);
  const b = fromDwords(11, 12, 13, 14);
  const insert = (imm: number, source: "reg" | "mem") =>
    hex(run(find("INSERTPS", source), { a, b, imm }).first);
  assert.equal(insert(0b10_01_0000, "reg"), hex(fromDwords(1, 13, 3, 4)));
  assert.equal(insert(0b10_01_0000, "mem"), hex(fromDwords(1, 11, 3, 4)));
  assert.equal(insert(0b11_00_1010, "reg"), hex(fromDwords(14, 0, 3, 0)));
  assert.equal(insert(0b00_11_1000, "reg"), hex(fromDwords(1, 2, 3, 0)));
});

test("BLENDV takes its mask from XMM0", () => {
  const blend = (mnemonic: string, mask: Uint8Array) => {
    bench.reset();
    xmm(0).set(mask);
    xmm(FIRST).set(OLD);
    xmm(SECOND).set(NEW);
    find(mnemonic).run(FIRST, SECOND);
    return hex(xmm(FIRST));
  };
  const mask = bytes("80 00 7f 80 00000080 ff000000 0000007f");
  assert.equal(blend("PBLENDVB", mask), "00f1f203f4f5f60708f9fafbfcfdfeff");
  assert.equal(blend("BLENDVPS", mask), "0001020304050607f8f9fafbfcfdfeff");
  assert.equal(blend("BLENDVPD", mask), "0001020304050607f8f9fafbfcfdfeff");
});

test("AES: the example of FIPS 197, appendix B, there and back", () => {
  // Appendix A.1 and B.
  const key = bytes("2b7e151628aed2a6abf7158809cf4f3c");
  const plain = bytes("3243f6a8885a308d313198a2e0370734");
  const cipher = "3925841d02dc09fbdc118597196a0b32";
  const RCON = [1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80, 0x1b, 0x36];
  const step = (mnemonic: string, a: Uint8Array, b: Uint8Array, imm = 0) =>
    run(find(mnemonic), { a, b, imm }).first;
  const words = (b: Uint8Array) => new Uint32Array(b.slice().buffer);
  const keys = [key];
  for (const constant of RCON) {
    const previous = keys[keys.length - 1];
    let carry = words(step("AESKEYGENASSIST", previous, previous, constant))[3];
    const next = words(previous).map((word) => {
      carry ^= word;
      return carry;
    });
    keys.push(new Uint8Array(next.buffer));
  }
  assert.equal(hex(keys[10]), "d014f9a8c9ee2589e13f0cc8b6630ca6");
  const xor = (a: Uint8Array, b: Uint8Array) => a.map((byte, i) => byte ^ b[i]);
  let block: Uint8Array = xor(plain, key);
  for (let i = 1; i < 10; i++) block = step("AESENC", block, keys[i]);
  block = step("AESENCLAST", block, keys[10]);
  assert.equal(hex(block), cipher);
  // The equivalent inverse cipher (5.3.5): middle keys go through InvMixColumns.
  block = xor(block, keys[10]);
  for (let i = 9; i > 0; i--) block = step("AESDEC", block, step("AESIMC", keys[i], keys[i]));
  assert.equal(hex(step("AESDECLAST", block, key)), hex(plain));
});

test("PCLMULQDQ: polynomials over GF(2), halves by the immediate", () => {
  const product = (a: bigint, b: bigint) => {
    let result = 0n;
    for (let i = 0n; i < 64n; i++) if ((b >> i) & 1n) result ^= a << i;
    return result;
  };
  const a = [0xffffffffffffffffn, 0x8000000000000001n];
  const b = [0x123456789abcdef0n, 0xffffffffffffffffn];
  for (const imm of [0x00, 0x01, 0x10, 0x11, 0xee]) {
    const out = run(find("PCLMULQDQ"), { a: fromQwords(...a), b: fromQwords(...b), imm });
    const expected = product(a[imm & 1], b[(imm >> 4) & 1]);
    assert.equal((qword(out.first, 1) << 64n) | qword(out.first, 0), expected, imm.toString(16));
  }
});
