/**
 * Encodings that no row of the opcode tables has must be #UD. (That no row is missing was seen on a host's CPU: what it
 * runs beside the rows are extensions beyond x86-64-v2 and XSAVE.)
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { MandatoryPrefix, OpcodeMap } from "../../src/hypervisor/soft/isa/opcode-table.js";
import { vectorName } from "./compare.js";
import { CODE_BASE, type CpuCase, DATA_BASE, PAGE } from "./cpu-case.js";
import { SoftCpu } from "./soft-cpu.js";
import { TABLES } from "./tables.js";

const UD = 6;
const DIGITS = Array.from({ length: 8 }, (_, i) => i << 3);
const REGISTER_FORMS = Array.from({ length: 64 }, (_, i) => 0xc0 | i);
const ROWS = Object.values(TABLES).flat();

const PREFIXES = ["NP", "66", "F3", "F2"] as const;
const MAPS: readonly OpcodeMap[] = ["", "0F", "0F38", "0F3A"];
const MAP_BYTES: Record<OpcodeMap, number[]> = {
  "": [],
  "0F": [0x0f],
  "0F38": [0x0f, 0x38],
  "0F3A": [0x0f, 0x3a],
};

/** One-byte opcodes that are no instructions: prefixes, escapes, and VEX, EVEX and XOP. */
const NOT_OPCODES: Record<OpcodeMap, (opcode: number, bitness: 32 | 64) => boolean> = {
  "": (opcode, bitness) =>
    [0x0f, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0xc4, 0xc5, 0x62, 0x8f].includes(
      opcode,
    ) ||
    (bitness === 64 && opcode >= 0x40 && opcode <= 0x4f),
  "0F": (opcode) => opcode === 0x38 || opcode === 0x3a,
  "0F38": () => false,
  "0F3A": () => false,
};

interface Encoding {
  readonly prefix: (typeof PREFIXES)[number];
  readonly map: OpcodeMap;
  readonly opcode: number;
  readonly modrm: number;
}

/** Whether some row may decode this. */
function defined({ prefix, map, opcode, modrm }: Encoding, bitness: 32 | 64): boolean {
  // MOV to and from control and debug registers ignores mod.
  const control = map === "0F" && (opcode & 0xfc) === 0x20;
  const mod = modrm >= 0xc0 || control ? "reg" : "mem";
  const allows = (wanted: MandatoryPrefix) => wanted === "any" || wanted === prefix;
  return ROWS.some(
    (row) =>
      row.map === map &&
      row.opcodes.includes(opcode) &&
      allows(row.prefix) &&
      (row.only === undefined || (row.only === "long") === (bitness === 64)) &&
      (row.digit === undefined || row.digit === ((modrm >> 3) & 7)) &&
      (row.mod === undefined || row.mod === mod) &&
      (row.modrm === undefined || row.modrm === modrm),
  );
}

/** ModRM bytes that tell the rows of an opcode apart: memory as [rax], and registers. */
function modrmBytes(map: OpcodeMap, opcode: number): number[] {
  const rows = ROWS.filter((row) => row.map === map && row.opcodes.includes(opcode));
  if (rows.some((row) => row.modrm !== undefined)) return [...DIGITS, ...REGISTER_FORMS];
  if (rows.some((row) => row.digit !== undefined)) return [...DIGITS, ...DIGITS.map((m) => m | 0xc0)];
  return [0, 0xc0];
}

function undefinedEncodings(bitness: 32 | 64): Encoding[] {
  const list: Encoding[] = [];
  for (const map of MAPS) {
    for (let opcode = 0; opcode < 256; opcode++) {
      if (NOT_OPCODES[map](opcode, bitness)) continue;
      for (const prefix of PREFIXES) {
        for (const modrm of modrmBytes(map, opcode)) {
          const encoding = { prefix, map, opcode, modrm };
          if (!defined(encoding, bitness)) list.push(encoding);
        }
      }
    }
  }
  return list;
}

function bytesOf({ prefix, map, opcode, modrm }: Encoding): number[] {
  const lead = prefix === "NP" ? [] : [Number.parseInt(prefix, 16)];
  // No immediate is the address of anything, and INT3s end what takes none.
  return [...lead, ...MAP_BYTES[map], opcode, modrm];
}

const describe = (e: Encoding) =>
  bytesOf(e)
    .map((b) => b.toString(16).padStart(2, "0"))
    .join(" ");

function caseOf(encoding: Encoding, bitness: 32 | 64): CpuCase {
  const gpr = new BigUint64Array(16);
  gpr[0] = BigInt(DATA_BASE + PAGE / 2);
  gpr[4] = BigInt(DATA_BASE + PAGE);
  return {
    title: describe(encoding),
    bitness,
    entry: CODE_BASE + PAGE,
    code: Uint8Array.from(bytesOf(encoding)),
    gpr,
    rflags: 0x202,
    fx: undefined,
    patches: [],
    usesLow: false,
    segments: false,
    operand: undefined,
  };
}

for (const bitness of [64, 32] as const) {
  test(`encodings that are no instructions are #UD, ${bitness}-bit`, () => {
    const soft = new SoftCpu({ lowMemory: false, code16: false });
    const wrong: string[] = [];
    for (const encoding of undefinedEncodings(bitness)) {
      const { vector } = soft.run(caseOf(encoding, bitness));
      if (vector !== UD) wrong.push(`${describe(encoding)}: ${vectorName(vector)}`);
    }
    assert.deepEqual(wrong.slice(0, 50), []);
  });
}
