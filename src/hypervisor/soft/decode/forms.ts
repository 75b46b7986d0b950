/**
 * The forms in which the instruction of a table row can appear, each with a handler of its own: operand size, memory or
 * register, LOCK, REP, 64-bit mode or not, address size. Decoder and handler generator share this.
 */
import type { HandlerForm } from "../cold/cold-context.js";
import type { OperandForm, OperandSize } from "../isa/context.js";
import { type OpcodeRow, type OperandCode, operandBytes } from "../isa/opcode-table.js";

export type Rep = "none" | "rep" | "repne";

/** Number of a form within its row, below `FORMS_PER_ROW`. */
export function formNumber(
  size: OperandSize,
  mem: boolean,
  lock: boolean,
  rep: number,
  long: boolean,
  addressSize: 2 | 4 | 8,
): number {
  return (
    SIZE_INDEX[size] |
    (mem ? 4 : 0) |
    (lock ? 8 : 0) |
    (rep << 4) |
    (long ? 64 : 0) |
    (ADDRESS_INDEX[addressSize] << 7)
  );
}
export const FORMS_PER_ROW = 512;
const SIZE_INDEX: Record<OperandSize, number> = { 1: 0, 2: 1, 4: 2, 8: 3 };
const ADDRESS_INDEX: Record<2 | 4 | 8, number> = { 2: 0, 4: 1, 8: 2 };

const REP: readonly Rep[] = ["none", "rep", "repne"];

/** What of a form matters to a row, worked out once. */
export interface RowShape {
  /** Operand size where the row does not depend on prefixes, else undefined. */
  readonly fixedSize: OperandSize | undefined;
  /** The size is 4 or 8 only (operand code y, eAX). */
  readonly noSize2: boolean;
  readonly maxSize4: boolean;
  /** Index of the operand that ModRM may make memory, or −1. */
  readonly memoryOperand: number;
  readonly alwaysMemory: boolean;
}

const FIXED_TYPES: Record<string, OperandSize> = { b: 1, w: 2, d: 4, q: 8 };

export function rowShape(row: OpcodeRow): RowShape {
  const codes = row.operands;
  const depends =
    row.sized === true ||
    row.operand64 !== undefined ||
    codes.some((c) => "vzy".includes(c.type) && c.type !== "");
  const first = codes.find((c) => c.type in FIXED_TYPES || c.method === "AL");
  const fixedSize = depends
    ? undefined
    : first === undefined
      ? 4
      : first.method === "AL"
        ? 1
        : FIXED_TYPES[first.type];
  const memoryOperand = codes.findIndex((c) => "EMOWQ".includes(c.method) && c.method.length === 1);
  const code = memoryOperand < 0 ? undefined : codes[memoryOperand];
  return {
    fixedSize,
    noSize2: codes.some((c) => c.type === "y") && !codes.some((c) => c.type === "v"),
    maxSize4: codes.some((c) => c.method === "eAX"),
    memoryOperand,
    alwaysMemory: code !== undefined && (code.method === "M" || code.method === "O" || row.mod === "mem"),
  };
}

function operandForm(row: OpcodeRow, code: OperandCode, size: OperandSize, mem: boolean): OperandForm {
  const bytes = operandBytes(code, size);
  switch (code.method) {
    case "E":
    case "W":
    case "Q":
      return { kind: mem ? "mem" : "reg", size: bytes };
    case "M":
    case "O":
      return { kind: "mem", size: bytes };
    case "G":
    case "R":
    case "Z":
    case "V":
    case "U":
    case "P":
    case "N":
    case "AL":
    case "AX":
    case "CL":
    case "DX":
    case "eAX":
      return { kind: "reg", size: bytes };
    case "I":
    case "J":
    case "A":
      return { kind: "imm", size: immediateSize(row, code, size) };
    case "S":
    case "C":
    case "D":
    case "T":
      return { kind: "number", size: bytes };
    default:
      return { kind: "none", size: bytes };
  }
}

/** Bytes to which an immediate is extended: a byte beside an operand of size v, or pushed, takes that size. */
function immediateSize(row: OpcodeRow, code: OperandCode, size: OperandSize): number {
  if (code.type === "z" || code.type === "v") return size;
  if (code.type === "b") {
    const wide = row.operands.some((c) => c.type === "v" && "EGZ".includes(c.method));
    return wide || row.operand64 === "default" ? size : 1;
  }
  return code.type === "w" ? 2 : size;
}

/** Every form of a row that can be met, with its number. */
export function* formsOf(row: OpcodeRow): Generator<{ number: number; form: HandlerForm }> {
  const shape = rowShape(row);
  const longs = row.only === "long" ? [true] : row.only === "legacy" ? [false] : [true, false];
  const mems =
    shape.memoryOperand < 0
      ? [false]
      : shape.alwaysMemory
        ? [true]
        : row.mod === "reg"
          ? [false]
          : [false, true];
  for (const long of longs) {
    const sizes: OperandSize[] =
      shape.fixedSize !== undefined
        ? [shape.fixedSize]
        : long && row.operand64 === "force"
          ? [8]
          : ([2, 4, 8] as const).filter(
              (s) =>
                !(s === 8 && (!long || shape.maxSize4)) &&
                !(s === 2 && shape.noSize2) &&
                !(s === 4 && long && row.operand64 === "default"),
            );
    const addressSizes =
      row.addressed === true ? (long ? ([4, 8] as const) : ([2, 4] as const)) : ([4] as const);
    for (const size of sizes)
      for (const mem of mems)
        for (const lock of row.lock === true && mem ? [false, true] : [false])
          for (const rep of row.rep === true ? [0, 1, 2] : [0])
            for (const addressSize of addressSizes) {
              const modalLong = row.modal === true ? long : true;
              yield {
                number: formNumber(size, mem, lock, rep, modalLong, row.addressed === true ? addressSize : 4),
                form: {
                  size,
                  addressSize,
                  long: modalLong,
                  operands: row.operands.map((code) => operandForm(row, code, size, mem)),
                  // XCHG with memory is always locked (SDM vol. 2, XCHG).
                  lock: lock || (mem && row.mnemonic === "XCHG"),
                  rep: REP[rep],
                  args: row.args ?? [],
                },
              };
            }
  }
}
