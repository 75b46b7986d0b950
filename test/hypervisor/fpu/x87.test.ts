/**
 * x87 instructions against the host's own CPU: the whole register stack, status and tag words, memory operands and flags,
 * for random states with full and empty registers, all rounding and precision controls, exceptions masked and not.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { OpcodeRow } from "../../../src/hypervisor/soft/isa/opcode-table.js";
import { X87_OPCODES } from "../../../src/hypervisor/soft/isa/x87-opcodes.js";
import { Bench } from "./bench.js";
import { nativeUnavailable } from "./native.js";
import { Random, randomF80, randomFloat, SHAPE32, SHAPE64 } from "./operands.js";
import {
  BLOCK_BYTES,
  getState,
  IMAGE_BYTES,
  MEMORY,
  normalized,
  OUT,
  RAX,
  readImage,
  setState,
  show,
  writeImage,
  type X87,
  x87Stub,
} from "./x87-image.js";

const CASES = Number(process.env.NLKT_FUZZ_CASES ?? 250);

/** Instructions that are compared elsewhere, or not at all. */
const SKIP = new Set([
  // Pending exceptions are raised by these: tested apart.
  "FWAIT",
  // Transcendental: x87-transcendental.test
  ...["F2XM1", "FYL2X", "FPTAN", "FPATAN", "FYL2XP1", "FSINCOS", "FSIN", "FCOS"],
  ...["FXSAVE", "FXRSTOR", "FLDENV", "FRSTOR", "FNSTENV", "FNSAVE"],
]);

/** Condition codes that are undefined after an instruction (SDM vol. 1, table 8-1), and differ between processors. */
const UNDEFINED: Record<string, number> = {};

function randomState(r: Random): X87 {
  const masked = r.below(3) !== 0 ? 0x3f : r.below(64);
  const state: X87 = {
    fcw: 0x40 | masked | (r.pick([0, 2, 3, 3, 3]) << 8) | (r.below(4) << 10),
    // No exceptions pending: they would be raised at once.
    fsw: (r.below(8) << 11) | (r.below(16) & 7 ? 0 : r.pick([0x4700, 0x0100, 0x4000, 0x0200, 0x0400])),
    tags: r.below(3) === 0 ? r.below(256) : 0xff,
    st: Array.from({ length: 8 }, () => randomF80(r)),
  };
  // NaNs in two places must be comparable, and operands near each other.
  if (r.below(6) === 0) state.st[1] = { m: state.st[0].m + BigInt(r.below(3)) - 1n, se: state.st[0].se };
  if (r.below(6) === 0) state.st[1] = { ...state.st[0], se: state.st[0].se ^ (r.below(2) << 15) };
  state.st = state.st.map(({ m, se }) => ({ m: BigInt.asUintN(64, m), se }));
  return state;
}

/** Machine code: opcode and ModRM with [rdi + MEMORY], or the register form. */
function encode(row: OpcodeRow, i: number): number[] {
  const opcode = row.opcodes[0];
  const first = row.map === "0F" ? [0x0f, opcode] : [opcode];
  if (row.modrm !== undefined) return [...first, row.modrm];
  if (row.mod === "mem") return [...first, 0x87 | ((row.digit ?? 0) << 3), MEMORY & 0xff, MEMORY >> 8, 0, 0];
  return [...first, 0xc0 | ((row.digit ?? 0) << 3) | i];
}

function randomMemory(r: Random, view: DataView): void {
  for (let i = 0; i < 16; i += 4) view.setUint32(i, r.u32(), true);
  switch (r.below(5)) {
    case 0:
      view.setUint32(0, Number(randomFloat(r, SHAPE32)), true);
      break;
    case 1:
      view.setBigUint64(0, randomFloat(r, SHAPE64), true);
      break;
    case 2: {
      const { m, se } = randomF80(r);
      view.setBigUint64(0, m, true);
      view.setUint16(8, se, true);
      break;
    }
    case 3:
      view.setBigInt64(0, BigInt.asIntN(64, r.u64()) >> BigInt(r.below(64)), true);
      break;
    default:
      // Packed decimal
      for (let i = 0; i < 9; i++) view.setUint8(i, r.below(10) | (r.below(10) << 4));
      view.setUint8(9, r.below(2) << 7);
  }
}

const bench = new Bench(X87_OPCODES);
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

for (const instruction of bench.instructions) {
  const { row, form } = instruction;
  if (SKIP.has(row.mnemonic)) continue;
  const name = `${row.mnemonic} ${row.encoding} ${row.operands.map((o) => o.text).join()}`;
  test(name, { skip: nativeUnavailable ?? false }, () => {
    const r = new Random(name.length * 31 + (row.digit ?? 9) * 7 + row.opcodes[0] * 1009);
    const memory = new Uint8Array(BLOCK_BYTES);
    const view = new DataView(memory.buffer);
    const operand = new DataView(memory.buffer, MEMORY, 16);
    const registers = form.operands.some((o) => o.kind === "number") ? 8 : 1;
    // lahf, so that FCOMI shows its flags: cmp eax, eax first for known ones before; sahf loads them.
    const flags = /^F(U?COMI|CMOV)/.test(row.mnemonic);
    const stubs = Array.from({ length: registers }, (_, i) =>
      x87Stub(flags ? [0x9e, ...encode(row, i), 0x9f] : encode(row, i)),
    );
    for (let n = 0; n < CASES * registers; n++) {
      const i = n % registers;
      const before = randomState(r);
      randomMemory(r, operand);
      writeImage(view, 0, before);
      const rax = r.u32();
      view.setBigUint64(RAX, BigInt(rax), true);
      bench.reset();
      const { state } = bench;
      setState(state, before);
      for (let k = 0; k < 16; k++) bench.operand.setUint8(k, operand.getUint8(k));
      state.gpr[0] = BigInt(rax);
      if (flags) {
        // What SAHF sets
        const ah = rax >> 8;
        state.flagC = ah & 1;
        state.flagZ = (ah & 0x40) === 0 ? 1n : 0n;
        state.flagS = (BigInt(ah & 0x80) << 56n) | ((ah & 4) !== 0 ? 0n : 1n);
        state.flagA = ah & 0x10;
      }
      const memoryBefore = hex(memory.subarray(MEMORY, MEMORY + 16));
      stubs[i](memory);
      instruction.run(i);
      const expected = normalized(readImage(view, OUT));
      const got = getState(state);
      const ignore = UNDEFINED[row.mnemonic] ?? 0;
      const ours = bench.memory.u8.slice(bench.operand.byteOffset, bench.operand.byteOffset + 16);
      let oursAx = Number(state.gpr[0] & 0xffffn);
      if (flags) {
        const { flagC, flagZ, flagS, flagA } = state;
        const parity = [...(flagS & 0xffn).toString(2)].filter((b) => b === "1").length % 2 === 0;
        const ah =
          flagC |
          2 |
          (parity ? 4 : 0) |
          (flagA & 0x10) |
          (flagZ === 0n ? 0x40 : 0) |
          (flagS >> 63n ? 0x80 : 0);
        oursAx = (oursAx & 0xff) | (ah << 8);
      }
      const text = (x: X87, bytes: Uint8Array, ax: number) =>
        `${show(x, ignore)}\nmemory ${hex(bytes)} ax ${ax.toString(16)}`;
      assert.equal(
        text(got, ours, oursAx),
        text(expected, memory.subarray(MEMORY, MEMORY + 16), Number(view.getBigUint64(RAX, true) & 0xffffn)),
        `case ${n}: ${name} i=${i}\nbefore ${show(before)}\nmemory ${memoryBefore}`,
      );
      assert.equal(state.leave, 0);
      assert.equal(state.fpuPending, (expected.fsw >> 7) & 1);
    }
  });
}

test("image size", () => assert.equal(IMAGE_BYTES, 108));
