/** Runs single SSE and MMX instructions with chosen operands through the cold tier's handlers. */
import assert from "node:assert/strict";
import type { OpcodeRow } from "../../../src/hypervisor/soft/isa/opcode-table.js";
import { SSE_OPCODES } from "../../../src/hypervisor/soft/isa/sse-opcodes.js";
import { Cr4, Leave } from "../../../src/hypervisor/soft/vcpu-state.js";
import { Bench, type BenchInstruction } from "../fpu/bench.js";

export const bench = new Bench(SSE_OPCODES);

/** The vector registers that operands 0 and 1 are in, where they are registers. */
export const FIRST = 3;
export const SECOND = 5;

export interface Outcome {
  /** Vector of the exception, or undefined. */
  readonly fault: number | undefined;
  readonly mxcsr: number;
  /** XMM register FIRST. */
  readonly first: Uint8Array;
}

export const isVector = (method: string) => "VWU".includes(method);
export const isMmx = (method: string) => "PQN".includes(method);

/** Forms of `mnemonic` whose register operands are of the class of `method`; `source`: what operand 1 is. */
export function find(mnemonic: string, source: "reg" | "mem" = "reg", method = "V"): BenchInstruction {
  const found = bench.instructions.find(
    ({ row, form }) =>
      row.mnemonic === mnemonic &&
      row.operands.some((c) => c.method === method) &&
      (form.operands[1] ?? form.operands[0]).kind === source,
  );
  assert.ok(found !== undefined, `${mnemonic} ${source} is in no table`);
  return found;
}

export const xmm = (n: number): Uint8Array =>
  new Uint8Array(bench.state.xmm.buffer, bench.state.xmm.byteOffset + 16 * n, 16);
/** MMX register n: physical x87 register n. */
export const mmx = (n: number): Uint8Array =>
  new Uint8Array(bench.state.fpr.buffer, bench.state.fpr.byteOffset + 16 * n, 10);

export interface Setup {
  readonly a: Uint8Array;
  /** Source: register SECOND and memory. */
  readonly b: Uint8Array;
  readonly imm?: number;
  readonly mxcsr?: number;
  readonly cr4?: number;
}

/** Run with operand 0 holding `a` and operand 1 `b`. */
export function run(instruction: BenchInstruction, setup: Setup): Outcome {
  bench.reset();
  const { state } = bench;
  state.cr4 = BigInt(setup.cr4 ?? Cr4.OSFXSR | Cr4.OSXMMEXCPT);
  state.mxcsr = setup.mxcsr ?? 0x1f80;
  bench.immediate = ((setup.imm ?? 0) << 24) >> 24;
  const wide = instruction.row.operands.some((c) => isVector(c.method));
  const place = (n: number, value: Uint8Array) =>
    (wide ? xmm(n) : mmx(n)).set(value.subarray(0, wide ? 16 : 8));
  place(FIRST, setup.a);
  place(SECOND, setup.b);
  new Uint8Array(bench.operand.buffer, bench.operand.byteOffset, 16).set(setup.b);
  instruction.run(FIRST, SECOND);
  return {
    fault: state.leave === Leave.FAULT ? state.faultVector : undefined,
    mxcsr: state.mxcsr,
    first: (wide ? xmm(FIRST) : mmx(FIRST)).slice(),
  };
}

export const describe = (row: OpcodeRow): string =>
  `${row.mnemonic} ${row.encoding} ${row.operands.map((c) => c.text).join()}`;

// --- vectors from numbers ---

export const fromDoubles = (...lanes: number[]): Uint8Array =>
  new Uint8Array(Float64Array.of(lanes[0], lanes[1] ?? 0).buffer);
export const fromQwords = (...lanes: bigint[]): Uint8Array =>
  new Uint8Array(BigUint64Array.of(lanes[0], lanes[1] ?? 0n).buffer);
export const fromDwords = (...lanes: number[]): Uint8Array =>
  new Uint8Array(Uint32Array.from({ length: 4 }, (_, i) => lanes[i] ?? 0).buffer);
export const qword = (bytes: Uint8Array, n = 0): bigint =>
  new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(8 * n, true);
export const dword = (bytes: Uint8Array, n = 0): number =>
  new DataView(bytes.buffer, bytes.byteOffset).getUint32(4 * n, true);
export const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
