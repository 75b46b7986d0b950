/** Soft float for SSE against the host's own CPU: results and exception flags, all rounding modes, DAZ and FTZ. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { mxcsrCommit, SF32, SF64 } from "../../../src/hypervisor/soft/fpu/sse-float.js";
import { CPU_ADDRESS, instantiate } from "./harness.js";
import { compileNative, nativeUnavailable } from "./native.js";
import { nearFloat, Random, randomFloat, SHAPE32, SHAPE64 } from "./operands.js";

const CASES = Number(process.env.NLKT_FUZZ_CASES ?? 3000);

const A = 16;
const B = 32;
const OUT = 48;
const IN_INTEGER = 64;
const OUT_INTEGER = 72;
const DEFAULT_MXCSR = 8;

/** MXCSR loaded from the block; xmm0, xmm1 and rax from it; `code`; xmm0, rax and MXCSR stored. */
function stub(code: number[]) {
  return compileNative([
    ...[0x0f, 0xae, 0x17], // ldmxcsr [rdi]
    ...[0xf3, 0x0f, 0x6f, 0x47, A], // movdqu xmm0, [rdi+A]
    ...[0xf3, 0x0f, 0x6f, 0x4f, B],
    ...[0x48, 0x8b, 0x47, IN_INTEGER], // mov rax, [rdi+IN]
    ...code,
    ...[0xf3, 0x0f, 0x7f, 0x47, OUT],
    ...[0x48, 0x89, 0x47, OUT_INTEGER],
    ...[0x0f, 0xae, 0x5f, 0x04], // stmxcsr [rdi+4]
    ...[0x0f, 0xae, 0x57, DEFAULT_MXCSR],
    0xc3,
  ]);
}

const functions = instantiate([...Object.values(SF32), ...Object.values(SF64), mxcsrCommit]);

type Size = 32 | 64;
interface Case {
  readonly name: string;
  readonly code: number[];
  /** Where operands come from and the result goes. */
  readonly from: Size | "int";
  readonly binary: boolean;
  readonly to: Size | "i32" | "i64" | "flags" | "mask32" | "mask64";
  run(a: bigint, b: bigint, mxcsr: number): bigint;
}

const arg = (size: Size, v: bigint) => (size === 32 ? Number(BigInt.asIntN(32, v)) : v);
const cases: Case[] = [];
for (const size of [32, 64] as const) {
  const scalar = size === 32 ? 0xf3 : 0xf2;
  const prefix66 = size === 32 ? [] : [0x66];
  const sf = `sf${size}`;
  const call = (name: string, ...args: (number | bigint)[]): bigint =>
    BigInt(functions.call[`${sf}_${name}`](CPU_ADDRESS, ...args));
  const two = (name: string, opcode: number) =>
    cases.push({
      name: `${sf}_${name}`,
      code: [scalar, 0x0f, opcode, 0xc1],
      from: size,
      binary: true,
      to: size,
      run: (a, b, mxcsr) => call(name, arg(size, a), arg(size, b), mxcsr),
    });
  two("add", 0x58);
  two("mul", 0x59);
  two("sub", 0x5c);
  two("min", 0x5d);
  two("div", 0x5e);
  two("max", 0x5f);
  cases.push({
    name: `${sf}_sqrt`,
    code: [scalar, 0x0f, 0x51, 0xc1],
    from: size,
    binary: true,
    to: size,
    run: (_a, b, mxcsr) => call("sqrt", arg(size, b), mxcsr),
  });
  for (let predicate = 0; predicate < 8; predicate++) {
    cases.push({
      name: `${sf}_cmp ${predicate}`,
      code: [scalar, 0x0f, 0xc2, 0xc1, predicate],
      from: size,
      binary: true,
      to: size === 32 ? "mask32" : "mask64",
      run: (a, b, mxcsr) => call("cmp", arg(size, a), arg(size, b), mxcsr, predicate),
    });
  }
  for (const [name, opcode, signaling] of [
    ["ucomis", 0x2e, 0],
    ["comis", 0x2f, 1],
  ] as const) {
    cases.push({
      name: `${sf}_compare ${name}`,
      code: [...prefix66, 0x0f, opcode, 0xc1, 0x9f], // lahf
      from: size,
      binary: true,
      to: "flags",
      run: (a, b, mxcsr) =>
        [0x40n, 0x01n, 0n, 0x45n][Number(call("compare", arg(size, a), arg(size, b), mxcsr, signaling))],
    });
  }
  for (const truncate of [false, true]) {
    for (const to of ["i32", "i64"] as const) {
      cases.push({
        name: `${sf}_to_${to} ${truncate ? "truncated" : ""}`,
        code: [scalar, ...(to === "i64" ? [0x48] : []), 0x0f, truncate ? 0x2c : 0x2d, 0xc1],
        from: size,
        binary: true,
        to,
        run: (_a, b, mxcsr) => call(`to_${to}`, arg(size, b), truncate ? mxcsr | 0x6000 : mxcsr),
      });
    }
  }
  for (const from of ["i32", "i64"] as const) {
    cases.push({
      name: `${sf}_from_${from}`,
      code: [scalar, ...(from === "i64" ? [0x48] : []), 0x0f, 0x2a, 0xc0],
      from: "int",
      binary: false,
      to: size,
      run: (a, _b, mxcsr) => call(`from_${from}`, arg(from === "i32" ? 32 : 64, BigInt.asIntN(64, a)), mxcsr),
    });
  }
  for (let immediate = 0; immediate < 16; immediate++) {
    cases.push({
      name: `${sf}_round ${immediate}`,
      code: [0x66, 0x0f, 0x3a, size === 32 ? 0x0a : 0x0b, 0xc1, immediate],
      from: size,
      binary: true,
      to: size,
      run: (_a, b, mxcsr) => call("round", arg(size, b), mxcsr, immediate),
    });
  }
  cases.push({
    name: `${sf}_to_f${96 - size}`,
    code: [scalar, 0x0f, 0x5a, 0xc1],
    from: size,
    binary: true,
    to: size === 32 ? 64 : 32,
    run: (_a, b, mxcsr) => call(`to_f${96 - size}`, arg(size, b), mxcsr),
  });
}

const WIDTH = { 32: 32, 64: 64, i32: 32, i64: 64, flags: 8, mask32: 32, mask64: 64 } as const;

for (const c of cases) {
  test(c.name, { skip: nativeUnavailable ?? false }, () => {
    const native = stub(c.code);
    const block = new Uint8Array(128);
    const view = new DataView(block.buffer);
    view.setUint32(DEFAULT_MXCSR, 0x1f80, true);
    const r = new Random(c.name.length * 7919 + c.code[c.code.length - 1]);
    for (let i = 0; i < CASES; i++) {
      const shape = c.from === 32 ? SHAPE32 : SHAPE64;
      const a = c.from === "int" ? BigInt.asIntN(64, r.u64()) >> BigInt(r.below(64)) : randomFloat(r, shape);
      const b = r.below(4) === 0 ? nearFloat(r, BigInt.asUintN(64, a), shape) : randomFloat(r, shape);
      // All exceptions masked; RC, DAZ, FTZ at random.
      const mxcsr =
        0x1f80 | (r.below(4) << 13) | (r.below(4) === 0 ? 0x40 : 0) | (r.below(4) === 0 ? 0x8000 : 0);
      view.setUint32(0, mxcsr, true);
      view.setBigUint64(A, BigInt.asUintN(64, a), true);
      view.setBigUint64(B, BigInt.asUintN(64, b), true);
      view.setBigUint64(IN_INTEGER, BigInt.asUintN(64, a), true);
      native(block);
      const width = WIDTH[c.to];
      let expected =
        c.to === "i32" || c.to === "i64"
          ? view.getBigUint64(OUT_INTEGER, true)
          : c.to === "flags"
            ? (view.getBigUint64(OUT_INTEGER, true) >> 8n) & 0x45n
            : view.getBigUint64(OUT, true);
      expected = BigInt.asUintN(width, expected);
      const expectedFlags = view.getUint32(4, true) & 0x3f;
      functions.state.fpFlags = 0;
      const got = BigInt.asUintN(width, c.run(a, b, mxcsr));
      const flags = functions.state.fpFlags & 0x3f;
      const hex = (v: bigint) => BigInt.asUintN(64, v).toString(16);
      assert.equal(
        `${hex(got)} flags ${flags.toString(16)}`,
        `${hex(expected)} flags ${expectedFlags.toString(16)}`,
        `case ${i}: ${c.name}(${hex(a)}, ${hex(b)}) mxcsr ${mxcsr.toString(16)}`,
      );
    }
  });
}

/**
 * Unmasked exceptions: what MXCSR holds at #XM, or after the instruction where none is raised. SDM vol. 1, 11.5.2–11.5.4;
 * whether PE goes with an unmasked OE or UE was read from hardware.
 */
const LEAST = 0x0010_0000_0000_0000n;
const GREATEST = 0x7fef_ffff_ffff_ffffn;
const THIRD = 0x3fd5_5555_5555_5555n;
const ONE = 0x3ff0_0000_0000_0000n;
const TWO = 0x4000_0000_0000_0000n;
const DENORMAL = 5n;
const SIGNALING = 0x7ff0_0000_0000_0001n;
const [IE, DE, ZE, OE, UE, PE] = [1, 2, 4, 8, 16, 32];
const UNMASKED: [
  operation: string,
  a: bigint,
  b: bigint,
  unmasked: number,
  flags: number,
  raised: boolean,
][] = [
  ["mul", LEAST, THIRD, UE, UE, true],
  ["mul", DENORMAL, THIRD, UE, UE | PE | DE, true],
  ["mul", LEAST, THIRD, PE, UE | PE, true],
  ["mul", GREATEST, GREATEST, OE, OE | PE, true],
  ["mul", GREATEST, TWO, OE, OE, true],
  ["mul", DENORMAL, THIRD, DE, DE, true],
  ["div", DENORMAL, 0n, DE, ZE, false],
  ["div", DENORMAL, 0n, ZE, ZE, true],
  ["add", SIGNALING, DENORMAL, DE, IE, false],
  ["add", ONE, DENORMAL, PE, DE | PE, true],
  ["add", ONE, DENORMAL, PE | DE, DE, true],
];
for (const [operation, a, b, unmasked, flags, raised] of UNMASKED) {
  test(`${operation}(${a.toString(16)}, ${b.toString(16)}) with exceptions ${unmasked} unmasked`, () => {
    const mxcsr = 0x1f80 & ~(unmasked << 7);
    functions.state.mxcsr = mxcsr;
    functions.state.fpFlags = 0;
    functions.call[`sf64_${operation}`](CPU_ADDRESS, a, b, mxcsr);
    const trap = functions.call.mxcsr_commit(CPU_ADDRESS);
    assert.equal(functions.state.mxcsr, mxcsr | flags);
    assert.equal(trap !== 0, raised);
  });
}
