/**
 * FNSTENV, FLDENV, FNSAVE, FRSTOR, FXSAVE and FXRSTOR against the host's own CPU; pending exceptions; the forms that a
 * 64-bit host cannot run, from SDM vol. 1, figures 8-9 to 8-12.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { X87_OPCODES } from "../../../src/hypervisor/soft/isa/x87-opcodes.js";
import { Cr0, FpuTrap, Leave, Vector } from "../../../src/hypervisor/soft/vcpu-state.js";
import { Bench, type BenchInstruction } from "./bench.js";
import { nativeUnavailable } from "./native.js";
import { Random, randomF80 } from "./operands.js";
import {
  getState,
  normalized,
  OUT,
  readImage,
  setState,
  show,
  writeImage,
  type X87,
  x87Stub,
} from "./x87-image.js";

const CASES = Number(process.env.NLKT_FUZZ_CASES ?? 300);
/** The operand's place in the native block, on 16 bytes. */
const OPERAND = 1024;
const OPERAND_BYTES = 512;

const skip = nativeUnavailable ?? false;
const bench = new Bench(X87_OPCODES);

function find(mnemonic: string, size?: number, from = bench): BenchInstruction {
  const found = from.instructions.find(
    ({ row, form }) => row.mnemonic === mnemonic && (size === undefined || form.size === size),
  );
  assert.ok(found, mnemonic);
  return found;
}

function randomState(r: Random): X87 {
  return {
    fcw: r.below(2) === 0 ? 0x37f : 0x40 | r.below(64) | (r.below(4) << 8) | (r.below(4) << 10),
    fsw: r.u32() & 0x7f7f,
    tags: r.below(256),
    st: Array.from({ length: 8 }, () => randomF80(r)),
  };
}

/** Page-aligned: FXSAVE needs 16. */
const block = new Uint8Array(new WebAssembly.Memory({ initial: 1 }).buffer);
const view = new DataView(block.buffer);
const ours = new Uint8Array(bench.operand.buffer, bench.operand.byteOffset, OPERAND_BYTES);
const theirs = block.subarray(OPERAND, OPERAND + OPERAND_BYTES);
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

/** Zero the code and data pointers, selectors and opcode of an image: this host's are its own. */
function forgetPointers(bytes: Uint8Array, from: number, to: number): Uint8Array {
  const copy = bytes.slice();
  copy.fill(0, from, to);
  return copy;
}

interface ImageCase {
  readonly name: string;
  readonly mnemonic: string;
  readonly size: number;
  readonly code: number[];
  /** Where pointers are. */
  readonly pointers: [number, number];
}

const displacement = [OPERAND & 0xff, OPERAND >> 8, 0, 0];
const CASES_BY_FORM: ImageCase[] = [
  { name: "FNSTENV", mnemonic: "FNSTENV", size: 4, code: [0xd9, 0xb7], pointers: [12, 28] },
  { name: "FNSTENV 16", mnemonic: "FNSTENV", size: 2, code: [0x66, 0xd9, 0xb7], pointers: [6, 14] },
  { name: "FNSAVE", mnemonic: "FNSAVE", size: 4, code: [0xdd, 0xb7], pointers: [12, 28] },
  { name: "FNSAVE 16", mnemonic: "FNSAVE", size: 2, code: [0x66, 0xdd, 0xb7], pointers: [6, 14] },
  { name: "FXSAVE", mnemonic: "FXSAVE", size: 4, code: [0x0f, 0xae, 0x87], pointers: [6, 24] },
  { name: "FXSAVE64", mnemonic: "FXSAVE", size: 8, code: [0x48, 0x0f, 0xae, 0x87], pointers: [6, 24] },
  { name: "FLDENV", mnemonic: "FLDENV", size: 4, code: [0xd9, 0xa7], pointers: [0, 0] },
  { name: "FLDENV 16", mnemonic: "FLDENV", size: 2, code: [0x66, 0xd9, 0xa7], pointers: [0, 0] },
  { name: "FRSTOR", mnemonic: "FRSTOR", size: 4, code: [0xdd, 0xa7], pointers: [0, 0] },
  { name: "FRSTOR 16", mnemonic: "FRSTOR", size: 2, code: [0x66, 0xdd, 0xa7], pointers: [0, 0] },
  { name: "FXRSTOR", mnemonic: "FXRSTOR", size: 4, code: [0x0f, 0xae, 0x8f], pointers: [0, 0] },
  { name: "FXRSTOR64", mnemonic: "FXRSTOR", size: 8, code: [0x48, 0x0f, 0xae, 0x8f], pointers: [0, 0] },
];

for (const c of CASES_BY_FORM) {
  test(c.name, { skip }, () => {
    const r = new Random(c.name.length * 101 + c.code.length);
    const instruction = find(c.mnemonic, c.size);
    const stub = x87Stub([...c.code, ...displacement]);
    const loads = c.mnemonic.startsWith("FLD") || c.mnemonic.includes("RSTOR");
    for (let n = 0; n < CASES; n++) {
      const before = randomState(r);
      // A waiting instruction raises what is pending: tested below.
      if (loads) before.fcw |= 0x3f;
      for (let i = 0; i < OPERAND_BYTES; i++) theirs[i] = r.u32();
      if (c.mnemonic === "FXRSTOR") {
        // The native stub's caller needs its MXCSR, and random floating-point registers serve nobody.
        view.setUint32(OPERAND + 24, 0x1f80, true);
      }
      bench.reset();
      ours.set(theirs);
      const input = hex(theirs.subarray(0, 108));
      writeImage(view, 0, before);
      setState(bench.state, normalized(before));
      stub(block);
      instruction.run();
      const context = `case ${n}: ${c.name}\nbefore ${show(before)}\nmemory ${input}`;
      assert.equal(bench.state.leave, 0);
      if (loads) {
        assert.equal(show(getState(bench.state)), show(normalized(readImage(view, OUT))), context);
        if (c.mnemonic === "FXRSTOR") assert.equal(bench.state.mxcsr, 0x1f80);
        continue;
      }
      assert.equal(show(getState(bench.state)), show(normalized(readImage(view, OUT))), context);
      const expected = forgetPointers(theirs, ...c.pointers);
      const got = forgetPointers(ours, ...c.pointers);
      if (c.mnemonic === "FXSAVE") {
        // MXCSR, its mask and the XMM registers are this process's.
        for (const bytes of [expected, got]) bytes.fill(0, 24, 32).fill(0, 160, 416);
      }
      assert.equal(hex(got), hex(expected), context);
    }
  });
}

test("FXSAVE and FXRSTOR carry MXCSR, XMM registers and pointers", () => {
  const r = new Random(77);
  for (const size of [4, 8]) {
    bench.reset();
    const { state } = bench;
    for (let i = 0; i < 32; i++) state.xmm[i] = r.u64();
    const xmm = [...state.xmm];
    state.mxcsr = 0xffbf;
    state.fip = 0x1234_5678_9abc_def0n;
    state.fdp = 0xfedc_ba98_7654_3210n;
    state.fop = 0x5a5;
    find("FXSAVE", size).run();
    assert.equal(bench.operand.getUint32(24, true), 0xffbf);
    assert.equal(bench.operand.getUint32(28, true), 0xffff);
    assert.equal(bench.operand.getUint16(6, true), 0x5a5);
    state.xmm.fill(0n);
    state.mxcsr = 0;
    state.fip = 0n;
    state.fdp = 0n;
    state.fop = 0;
    find("FXRSTOR", size).run();
    assert.deepEqual([...state.xmm], xmm);
    assert.equal(state.mxcsr, 0xffbf);
    assert.equal(state.fip, size === 8 ? 0x1234_5678_9abc_def0n : 0x9abc_def0n);
    assert.equal(state.fdp, size === 8 ? 0xfedc_ba98_7654_3210n : 0x7654_3210n);
    assert.equal(state.fop, 0x5a5);
  }
});

test("FXRSTOR with reserved bits of MXCSR is #GP and changes nothing", () => {
  bench.reset();
  bench.operand.setUint32(24, 0x10000, true);
  bench.operand.setUint16(0, 0x40, true);
  find("FXRSTOR", 4).run();
  assert.equal(bench.state.leave, Leave.FAULT);
  assert.equal(bench.state.faultVector, Vector.GP);
  assert.equal(bench.state.fcw, 0x37f);
});

const IE = 1;
const ES_B = 0x8080;

test("an unmasked exception waits for the next waiting instruction", () => {
  bench.reset();
  const { state } = bench;
  state.fcw = 0x37e;
  // FSQRT of an empty register: stack underflow.
  find("FSQRT").run();
  assert.equal(state.leave, 0);
  assert.equal(state.fpuPending, 1);
  assert.equal(state.fsw & (ES_B | IE), ES_B | IE);
  for (const mnemonic of ["FADD", "FWAIT", "FLDZ", "FLDCW", "FNOP", "FLDENV", "FRSTOR"]) {
    find(mnemonic).run(0);
    assert.equal(state.leave, Leave.FAULT, mnemonic);
    assert.equal(state.faultVector, Vector.MF, mnemonic);
  }
  // FNSTSW, FNSTCW, FNSTENV, FXSAVE do not wait.
  for (const mnemonic of ["FNSTSW", "FNSTCW", "FXSAVE", "FNSTENV"]) {
    find(mnemonic).run();
    assert.equal(state.leave, 0, mnemonic);
  }
  // FNSTENV has masked it.
  assert.equal(state.fpuPending, 0);
  assert.equal(state.fcw, 0x37f);
  // FLDCW unmasks again, FNCLEX clears.
  bench.operand.setUint16(0, 0x37e, true);
  find("FLDCW", 2).run();
  assert.equal(state.fpuPending, 1);
  find("FNCLEX").run();
  assert.equal(state.fpuPending, 0);
  assert.equal(state.fsw & (ES_B | IE), 0);
});

test("with CR0.NE clear nothing is raised inside", () => {
  bench.reset();
  const { state } = bench;
  state.cr0 &= ~BigInt(Cr0.NE);
  state.fcw = 0x37e;
  find("FSQRT").run();
  find("FWAIT").run();
  assert.equal(state.leave, 0);
});

test("#NM and #UD come before all else", () => {
  for (const [trap, vector] of [
    [FpuTrap.UD, Vector.UD],
    [FpuTrap.NM, Vector.NM],
  ]) {
    bench.reset();
    bench.state.fpuTrap = trap;
    bench.state.fpuPending = 1;
    for (const mnemonic of ["FADD", "FNSTSW", "FNINIT", "FXSAVE", "FLDENV"]) {
      find(mnemonic).run(0);
      assert.equal(bench.state.faultVector, vector, mnemonic);
      assert.equal(bench.state.leave, Leave.FAULT, mnemonic);
    }
  }
});

test("code and data pointers are those of the last instruction that is not a control instruction", () => {
  bench.reset();
  const { state } = bench;
  state.pageRip = 0x40_0000n;
  find("FLDZ").run();
  assert.equal(state.fip, 0x40_0000n);
  state.pageRip = 0x50_0000n;
  find("FLD", 8).run();
  assert.equal(state.fip, 0x50_0000n);
  assert.equal(state.fdp, state.ea);
  state.pageRip = 0x60_0000n;
  for (const mnemonic of ["FNSTCW", "FNSTSW", "FWAIT"]) find(mnemonic).run();
  assert.equal(state.fip, 0x50_0000n);
});

// --- 16- and 32-bit modes ---

const legacy = new Bench(X87_OPCODES, false);

function legacyEnvironment(size: 2 | 4, real: boolean): DataView {
  legacy.reset();
  const { state } = legacy;
  if (real) state.cr0 &= ~BigInt(Cr0.PE);
  state.fcw = 0x37f;
  state.fsw = 0x4100;
  state.ftop = 3;
  state.ftag = 1 << 3;
  state.fpr[6] = 1n << 63n;
  state.fpr[7] = 0x3fffn;
  state.fip = 0x000a_bcden;
  state.fdp = 0x0009_8765n;
  state.fop = 0x5a5;
  find("FNSTENV", size, legacy).run();
  return legacy.operand;
}

test("environment in 32-bit protected mode", () => {
  const image = legacyEnvironment(4, false);
  const words = Array.from({ length: 5 }, (_, i) => image.getUint32([0, 4, 8, 12, 20][i], true));
  assert.deepEqual(words, [0xffff037f, 0xffff5900, 0xffffff3f, 0x000abcde, 0x00098765]);
  assert.equal(image.getUint16(18, true), 0x5a5);
});

test("environment in real mode, 32-bit operand size", () => {
  const image = legacyEnvironment(4, true);
  assert.equal(image.getUint16(12, true), 0xbcde);
  assert.equal(image.getUint32(16, true), (0xa << 12) | 0x5a5);
  assert.equal(image.getUint16(20, true), 0x8765);
  assert.equal(image.getUint32(24, true), 0x9 << 12);
});

test("environment in real mode, 16-bit operand size", () => {
  const image = legacyEnvironment(2, true);
  const words = Array.from({ length: 7 }, (_, i) => image.getUint16(2 * i, true));
  assert.deepEqual(words, [0x37f, 0x5900, 0xff3f, 0xbcde, 0xa5a5, 0x8765, 0x9000]);
});

for (const [size, real] of [
  [2, true],
  [2, false],
  [4, true],
  [4, false],
] as const) {
  test(`FLDENV takes back what FNSTENV stored: ${8 * size} bits, ${real ? "real" : "protected"} mode`, () => {
    legacyEnvironment(size, real);
    const { state } = legacy;
    const before = { fsw: state.fsw, ftop: state.ftop, ftag: state.ftag };
    state.fsw = 0;
    state.ftop = 0;
    state.ftag = 0;
    state.fip = 0n;
    state.fdp = 0n;
    state.fop = 0;
    find("FLDENV", size, legacy).run();
    assert.deepEqual({ fsw: state.fsw, ftop: state.ftop, ftag: state.ftag }, before);
    const pointerBits = size === 4 ? 0xffffffffn : real ? 0xfffffn : 0xffffn;
    assert.equal(state.fip, 0xabcden & pointerBits);
    assert.equal(state.fdp, 0x98765n & pointerBits);
    assert.equal(state.fop, size === 2 && !real ? 0 : 0x5a5);
  });
}
