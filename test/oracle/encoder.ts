/** Encodes an instruction from a draft: prefixes, REX, opcode, ModRM and immediates (SDM vol. 2, 2.1 and 2.2). */
import type { OpcodeRow, OperandCode } from "../../src/hypervisor/soft/isa/opcode-table.js";
import { codeAddress, type EncodedOperand } from "./addressing.js";
import type { Draft } from "./draft.js";
import { type Form, isWordSized, REG_METHODS, RM_METHODS } from "./forms.js";

/** The most bytes an instruction can have (SDM vol. 2, 2.3.11). */
export const LONGEST = 15;

const GS_PREFIX = 0x65;
const SEGMENT_PREFIX = { ES: 0x26, CS: 0x2e, SS: 0x36, DS: 0x3e } as const;

function immediateSize(code: OperandCode, form: Form): number {
  switch (code.type) {
    case "b":
      return 1;
    case "w":
      return 2;
    case "d":
      return 4;
    case "z":
      return Math.min(form.size, 4);
    case "v":
      return form.size;
    default:
      // A number of bytes: ENTER's two immediates are one operand of three.
      return Number(code.type);
  }
}

const little = (value: bigint, size: number) =>
  Array.from({ length: size }, (_, i) => Number((BigInt.asUintN(64, value) >> BigInt(8 * i)) & 0xffn));

function prefixes(d: Draft): number[] {
  const { form, random } = d;
  const { row, size, bitness } = form;
  const list: number[] = [];
  if (form.lock) list.push(0xf0);
  if (form.rep === "rep") list.push(0xf3);
  if (form.rep === "repne") list.push(0xf2);
  const byteOnly = row.map === "" && row.operands.length > 0 && row.operands.every((o) => o.type === "b");
  const needs66 = bitness === 16 ? size === 4 && isWordSized(row) : size === 2;
  if (needs66) list.push(0x66);
  // Ignored: beside REX.W, and where every operand is a byte.
  else if (row.prefix === "any" && row.operand64 === undefined && random.chance(0.05)) {
    if ((size === 8 && d.rexW) || byteOnly) list.push(0x66);
  }
  if (8 * form.addressSize !== bitness) list.push(0x67);
  if (d.gs) list.push(GS_PREFIX);
  else if (form.mod === "mem" && !d.plain && random.chance(0.04)) {
    const name = random.pick(["ES", "CS", "SS", "DS"] as const);
    // Through CS, ARPL faults only where it has something to change, POP only after the stack was read, and the x87 and
    // MMX after their own faults: not worth checks of their own.
    const late = /^(ARPL|POP)$/.test(row.mnemonic) || d.fx !== undefined;
    if (!late || name !== "CS") list.push(SEGMENT_PREFIX[name]);
  }
  for (let i = list.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [list[i], list[j]] = [list[j], list[i]];
  }
  if (row.prefix === "66" || row.prefix === "F2" || row.prefix === "F3") {
    list.push(Number.parseInt(row.prefix, 16));
  }
  if (row.mnemonic === "PAUSE") list.push(0xf3);
  // A REX prefix that is not the last one is ignored (SDM vol. 2, 2.2.1).
  if (bitness === 64 && list.length > 0 && random.chance(0.01)) list.unshift(0x40 | random.below(16));
  // LOCK where it is not allowed is #UD. AMD reads LOCK MOV CR0 as CR8 (APM vol. 3, MOV CRn).
  const lockable = row.lock === true && form.mod === "mem";
  if (!lockable && !d.plain && random.chance(0.005) && !row.operands.some((o) => o.method === "C"))
    list.unshift(0xf0);
  return list;
}

const MAP_BYTES: Record<OpcodeRow["map"], readonly number[]> = {
  "": [],
  "0F": [0x0f],
  "0F38": [0x0f, 0x38],
  "0F3A": [0x0f, 0x3a],
};

/** Encode what the draft says. */
export function encode(d: Draft, memory: EncodedOperand | undefined): Uint8Array {
  const { form, random } = d;
  const { row } = form;
  const bytes = prefixes(d);
  const usesReg = row.operands.some((o) => REG_METHODS.includes(o.method));
  const usesRm = row.operands.some((o) => RM_METHODS.includes(o.method)) && form.mod === "reg";
  const usesOpcode = row.opcodes.length > 1 && row.operands.some((o) => o.method === "Z");
  let rex = 0;
  if (d.rexW) rex |= 8;
  if (usesReg && d.reg >= 8) rex |= 4;
  if (memory?.rexX === true) rex |= 2;
  if (memory?.rexB === true || (usesRm && d.rm >= 8) || (usesOpcode && d.opcodeRegister >= 8)) rex |= 1;
  if (form.bitness === 64 && d.rex) bytes.push(0x40 | rex);
  bytes.push(...MAP_BYTES[row.map]);
  const opcode = usesOpcode
    ? row.opcodes[d.opcodeRegister & 7]
    : row.opcodes.length > 1
      ? random.pick(row.opcodes)
      : row.opcodes[0];
  bytes.push(opcode);
  let ripAt = -1;
  if (row.modrm !== undefined) bytes.push(row.modrm);
  else if (row.hasModrm) {
    const reg = (row.digit ?? (usesReg ? d.reg & 7 : random.below(8))) << 3;
    if (memory !== undefined) {
      bytes.push(memory.bytes[0] | reg, ...memory.bytes.slice(1));
      if (memory.ripRelative) ripAt = bytes.length - 4;
    } else {
      bytes.push(0xc0 | reg | (d.rm & 7));
    }
  }
  row.operands.forEach((operand, i) => {
    const immediate = d.immediates.get(i);
    if (operand.method === "A") bytes.push(...little(immediate ?? 0n, form.size + 2));
    else if (immediate !== undefined) bytes.push(...little(immediate, immediateSize(operand, form)));
    if (operand.method === "O") bytes.push(...little(d.target - d.bias, form.addressSize));
  });
  const jump = row.operands.find((o) => o.method === "J");
  if (jump !== undefined) bytes.push(...relative(d, jump, bytes.length));
  if (ripAt >= 0) {
    const end = BigInt(d.entry + bytes.length);
    bytes.splice(ripAt, 4, ...little(d.target - d.bias - end, 4));
  }
  return Uint8Array.from(bytes);
}

/** Displacement of a relative branch: far from the instruction, so that it ends at an INT3. */
function relative(d: Draft, operand: OperandCode, before: number): number[] {
  const { random, form } = d;
  const size = operand.type === "b" ? 1 : form.size === 2 ? 2 : 4;
  const end = d.entry + before + size;
  if (size === 1) {
    const away = random.below(128);
    return little(BigInt(random.chance(0.5) ? away : -Math.max(away, LONGEST + 1)), 1);
  }
  const target = codeAddress(random, d.entry, LONGEST, false);
  return little(target - BigInt(end), size);
}

/** Decide on the REX prefix: where it is needed, and now and then where it is not. */
export function chooseRex(d: Draft, memory: EncodedOperand | undefined): void {
  const { form, random } = d;
  const { row } = form;
  const rm = form.mod === "reg" && d.rm >= 8;
  const usesReg = row.operands.some((o) => REG_METHODS.includes(o.method)) && row.digit === undefined;
  const usesOpcode = row.operands.some((o) => o.method === "Z");
  const high =
    rm || (usesReg && d.reg >= 8) || (usesOpcode && d.opcodeRegister >= 8) || memory?.rexX || memory?.rexB;
  d.rex = form.bitness === 64 && (d.rexW || high === true || random.chance(0.15));
}
