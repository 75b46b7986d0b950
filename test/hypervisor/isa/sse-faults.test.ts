/** Exceptions of SSE and MMX instructions other than floating-point ones (SDM vol. 2, 2.4 and vol. 3A, tables 12-1 and 13-1). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { SSE_OPCODES } from "../../../src/hypervisor/soft/isa/sse-opcodes.js";
import { Cr4, FpuTrap, Leave, Vector } from "../../../src/hypervisor/soft/vcpu-state.js";
import { OPERAND_LINEAR } from "../fpu/bench.js";
import { bench, describe, FIRST, find, isMmx, isVector, mmx, SECOND } from "./sse-bench.js";

const { state } = bench;
const CR4 = BigInt(Cr4.OSFXSR | Cr4.OSXMMEXCPT);

/** No memory operand of these has to be aligned. */
const UNALIGNED = /^(MOVUP[SD]|MOVDQU|LDDQU|PCMP[EI]STR[IM])$/;

test("16-byte memory operands are aligned, but for the instructions that say otherwise", () => {
  let checked = 0;
  for (const { row, form, run } of bench.instructions) {
    if (!form.operands.some(({ kind, size }) => kind === "mem" && size === 16)) continue;
    for (const misalignment of [1, 8]) {
      bench.reset();
      state.cr4 = CR4;
      state.ea = OPERAND_LINEAR + BigInt(misalignment);
      run(FIRST, SECOND);
      const expected = UNALIGNED.test(row.mnemonic) ? Leave.NONE : Leave.FAULT;
      assert.equal(state.leave, expected, describe(row));
      if (expected === Leave.FAULT) assert.deepEqual([state.faultVector, state.faultCode], [Vector.GP, 0]);
    }
    checked++;
  }
  assert.ok(checked > 150, `${checked} forms`);
});

test("smaller memory operands need no alignment", () => {
  for (const { row, form, run } of bench.instructions) {
    if (!form.operands.some(({ kind, size }) => kind === "mem" && size < 16)) continue;
    bench.reset();
    state.cr4 = CR4;
    state.ea = OPERAND_LINEAR + 1n;
    run(FIRST, SECOND);
    assert.equal(state.leave, Leave.NONE, describe(row));
  }
});

/** Not stopped by CR0.EM, CR0.TS or CR4.OSFXSR. */
const ALWAYS = /^(CRC32|MOVNTI|CLFLUSH|[LMS]FENCE)$/;

test("every instruction looks at CR0.EM, CR0.TS and CR4.OSFXSR", () => {
  for (const { row, run } of bench.instructions) {
    const usesMmx = row.operands.some((c) => isMmx(c.method)) || row.mnemonic === "EMMS";
    const usesXmm = row.operands.some((c) => isVector(c.method)) || /MXCSR$/.test(row.mnemonic);
    for (const [trap, vector] of [
      [FpuTrap.UD, Vector.UD],
      [FpuTrap.NM, Vector.NM],
    ] as const) {
      bench.reset();
      state.cr4 = CR4;
      if (usesXmm) state.sseTrap = trap;
      else state.mmxTrap = trap;
      run(FIRST, SECOND);
      const fault = state.leave === Leave.FAULT ? state.faultVector : undefined;
      assert.equal(fault, ALWAYS.test(row.mnemonic) ? undefined : vector, describe(row));
    }
    assert.ok(usesMmx || usesXmm || ALWAYS.test(row.mnemonic), describe(row));
  }
});

test("LDMXCSR: reserved bits are #GP and change nothing", () => {
  for (let bit = 0; bit < 32; bit++) {
    bench.reset();
    bench.operand.setUint32(0, 2 ** bit, true);
    find("LDMXCSR", "mem", "M").run(FIRST);
    if (bit < 16) assert.equal(state.mxcsr, 2 ** bit);
    else {
      assert.deepEqual([state.leave, state.faultVector], [Leave.FAULT, Vector.GP]);
      assert.equal(state.mxcsr, 0x1f80);
    }
  }
});

test("MMX instructions raise a pending x87 exception first", () => {
  for (const { row, run } of bench.instructions) {
    // CVTPI2PS and CVTPI2PD from memory leave the x87 unit alone.
    const registers = row.operands.filter((c) => isMmx(c.method));
    if (registers.length === 0 || /^CVTPI2P[SD]$/.test(row.mnemonic)) continue;
    bench.reset();
    state.cr4 = CR4;
    state.fpuPending = 1;
    state.ftop = 5;
    run(FIRST, SECOND);
    assert.deepEqual([state.leave, state.faultVector], [Leave.FAULT, Vector.MF], describe(row));
    assert.equal(state.ftop, 5);
  }
});

test("MMX instructions leave TOP 0 and all registers valid; EMMS leaves them empty", () => {
  for (const { row, form, run } of bench.instructions) {
    const registers = row.operands.filter((c) => isMmx(c.method));
    if (registers.length === 0) continue;
    bench.reset();
    state.cr4 = CR4;
    state.ftop = 5;
    run(FIRST, SECOND);
    assert.equal(state.leave, Leave.NONE, describe(row));
    const unchanged = /^CVTPI2P[SD]$/.test(row.mnemonic) && form.operands[1].kind === "mem";
    assert.deepEqual([state.ftop, state.ftag], unchanged ? [5, 0] : [0, 0xff], describe(row));
    const [destination] = form.operands;
    if (isMmx(row.operands[0].method) && destination.kind === "reg" && !/^MASKMOV/.test(row.mnemonic)) {
      assert.deepEqual([...mmx(FIRST).subarray(8)], [0xff, 0xff], `${describe(row)}: sign and exponent`);
    }
  }
  bench.reset();
  state.ftag = 0xff;
  state.ftop = 3;
  bench.instructions.find(({ row }) => row.mnemonic === "EMMS")!.run();
  assert.deepEqual([state.ftag, state.ftop], [0, 0]);
});

test("no two rows are one encoding", () => {
  const seen = new Map<string, string>();
  for (const row of SSE_OPCODES) {
    const mods = row.mod === undefined ? ["mem", "reg"] : [row.mod];
    for (const mod of mods) {
      for (const opcode of row.opcodes) {
        const key = [row.map, row.prefix, opcode, row.digit ?? "", row.modrm ?? "", mod].join(" ");
        assert.equal(seen.get(key), undefined, `${describe(row)} and ${seen.get(key)}`);
        seen.set(key, describe(row));
      }
    }
  }
});
