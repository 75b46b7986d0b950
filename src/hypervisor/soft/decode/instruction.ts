/**
 * Decodes one instruction (SDM vol. 2, chapter 2) to what its records will say. One `Instruction` object is reused for
 * every call, as decoding is a hot path.
 */
import type { HandlerTable } from "../cold/handler-module.js";
import { Special } from "../cold/special-handlers.js";
import type { OperandSize } from "../isa/context.js";
import { type MandatoryPrefix, type OpcodeMap, type OpcodeRow, operandBytes } from "../isa/opcode-table.js";
import { CMPXCHG16B, NOP, PAUSE } from "../isa/opcodes.js";
import { CodeMode, fprOffset, gprOffset, O, Seg, xmmOffset } from "../vcpu-state.js";
import { FORMS_PER_ROW, formNumber, type RowShape, rowShape } from "./forms.js";

export const MAX_INSTRUCTION_BYTES = 15;

/** How decoding ended. */
export const DecodeStatus = { OK: 0, UNDEFINED: 1, TOO_LONG: 2, NEEDS_MORE: 3 } as const;
export type DecodeStatus = (typeof DecodeStatus)[keyof typeof DecodeStatus];

const MAPS: readonly OpcodeMap[] = ["", "0F", "0F38", "0F3A"];
const PREFIX_CLASSES: readonly Exclude<MandatoryPrefix, "any">[] = ["NP", "66", "F3", "F2"];
const NO_ROW = 0xffff;
/** Index: map, opcode, prefix class, ModRM.reg, whether ModRM names memory. */
const rowIndex = (map: number, opcode: number, prefix: number, reg: number, mem: number) =>
  (((((map << 8) | opcode) << 2) | prefix) << 4) | (reg << 1) | mem;
const ROW_TABLE_SIZE = 4 << 14;

/** The opcode tables of one kind of mode, spread out for look-up. */
class RowTable {
  readonly rows = new Uint16Array(ROW_TABLE_SIZE).fill(NO_ROW);
  readonly needsModrm = new Uint8Array(4 * 256);
  /** Rows for one ModRM byte only, by map, opcode and byte; then by prefix class. */
  readonly exact = new Map<number, Uint16Array>();

  constructor(table: readonly OpcodeRow[], long: boolean, special: ReadonlySet<OpcodeRow>) {
    // Rows that name a prefix are put over those for any.
    for (const general of [true, false]) {
      table.forEach((row, number) => {
        if ((row.prefix === "any") !== general || special.has(row)) return;
        if (row.only !== undefined && (row.only === "long") !== long) return;
        this.#add(row, number);
      });
    }
  }

  #add(row: OpcodeRow, number: number): void {
    const map = MAPS.indexOf(row.map);
    const classes = row.prefix === "any" ? [0, 1, 2, 3] : [PREFIX_CLASSES.indexOf(row.prefix)];
    for (const opcode of row.opcodes) {
      if (row.hasModrm) this.needsModrm[(map << 8) | opcode] = 1;
      if (row.modrm !== undefined) {
        const key = (map << 16) | (opcode << 8) | row.modrm;
        const byPrefix = this.exact.get(key) ?? new Uint16Array(4).fill(NO_ROW);
        for (const c of classes) byPrefix[c] = number;
        this.exact.set(key, byPrefix);
        continue;
      }
      for (const c of classes)
        for (let reg = 0; reg < 8; reg++) {
          if (row.digit !== undefined && row.digit !== reg) continue;
          if (row.mod !== "reg") this.rows[rowIndex(map, opcode, c, reg, 1)] = number;
          if (row.mod !== "mem") this.rows[rowIndex(map, opcode, c, reg, 0)] = number;
        }
    }
  }
}

/** How an operand gets its record field. */
const Field = {
  NONE: 0,
  RM: 1,
  REG: 2,
  OPCODE: 3,
  FIXED: 4,
  IMMEDIATE: 5,
  BRANCH: 6,
  FAR: 7,
  OFFSET: 8,
} as const;
/** What a register number names. */
const File = { GPR: 0, XMM: 1, MMX: 2, NUMBER: 3, NUMBER_HIGH: 4 } as const;

interface OperandPlan {
  readonly field: number;
  readonly file: number;
  /** Bytes where the type fixes them, 0: operand size; for immediates, bytes in the instruction (−1: z, −2: v). */
  readonly bytes: number;
  /** FIXED: register offset in the state. */
  readonly fixed: number;
}

const METHOD_FIELD: Record<string, [field: number, file: number]> = {
  E: [Field.RM, File.GPR],
  M: [Field.RM, File.GPR],
  R: [Field.RM, File.GPR],
  W: [Field.RM, File.XMM],
  U: [Field.RM, File.XMM],
  Q: [Field.RM, File.MMX],
  N: [Field.RM, File.MMX],
  T: [Field.RM, File.NUMBER],
  G: [Field.REG, File.GPR],
  V: [Field.REG, File.XMM],
  P: [Field.REG, File.MMX],
  S: [Field.REG, File.NUMBER],
  C: [Field.REG, File.NUMBER_HIGH],
  D: [Field.REG, File.NUMBER_HIGH],
  Z: [Field.OPCODE, File.GPR],
  I: [Field.IMMEDIATE, 0],
  J: [Field.BRANCH, 0],
  A: [Field.FAR, 0],
  O: [Field.OFFSET, 0],
};
const FIXED_REGISTERS: Record<string, number> = {
  AL: gprOffset(0),
  AX: gprOffset(0),
  eAX: gprOffset(0),
  CL: gprOffset(1),
  DX: gprOffset(2),
};
const TYPE_BYTES: Record<string, number> = { b: 1, w: 2, d: 4, q: 8, z: -1, v: -2, "3": 3 };

interface RowPlan {
  readonly row: OpcodeRow;
  readonly shape: RowShape;
  readonly operands: readonly OperandPlan[];
  readonly base: number;
}

function planRow(row: OpcodeRow, number: number): RowPlan {
  return {
    row,
    shape: rowShape(row),
    base: number * FORMS_PER_ROW,
    operands: row.operands.map((code) => {
      if (code.method in FIXED_REGISTERS) {
        return { field: Field.FIXED, file: 0, bytes: 0, fixed: FIXED_REGISTERS[code.method] };
      }
      const [field, file] = METHOD_FIELD[code.method] ?? [Field.NONE, 0];
      const bytes = TYPE_BYTES[code.type] ?? 0;
      return { field, file, bytes, fixed: 0 };
    }),
  };
}

/** Base and index registers of 16-bit addressing (SDM vol. 2, table 2-1); −1: none. */
const ADDRESS16: readonly (readonly [base: number, index: number])[] = [
  [3, 6],
  [3, 7],
  [5, 6],
  [5, 7],
  [6, -1],
  [7, -1],
  [5, -1],
  [3, -1],
];

const RSP = 4;
const RBP = 5;
/** ModRM.reg values that segment and control registers do not have. */
const VALID_CR = 0b1_0001_1101;

export class InstructionDecoder {
  readonly #tables: readonly [legacy: RowTable, long: RowTable];
  readonly #plans: readonly RowPlan[];
  readonly #nop: RowPlan;
  readonly #pause: RowPlan;
  readonly #cmpxchg16b: RowPlan;

  // The instruction decoded last:
  length = 0;
  handler = 0;
  row: OpcodeRow;
  /** Register-file offsets or numbers of operands 0–2. */
  readonly registers = new Uint16Array(3);
  immLow = 0;
  immHigh = 0;
  /** Relative branch: `imm` is a displacement from the next instruction. */
  relative = false;
  hasMemory = false;
  writesMemory = false;
  memoryBytes = 0;
  /** State offsets of base and index register values. */
  base = 0;
  index = 0;
  shift = 0;
  displacement = 0;
  /** The displacement is `immLow/High` in full (MOV moffs). */
  wideDisplacement = false;
  ripRelative = false;
  addressSize: 2 | 4 | 8 = 8;
  segment = 0;
  /** The address goes through SS. */
  stackSegment = false;

  #bytes: Uint8Array = new Uint8Array(0);
  #at = 0;
  #end = 0;

  constructor(readonly table: HandlerTable) {
    const special = new Set([NOP, PAUSE, CMPXCHG16B]);
    this.#tables = [new RowTable(table.rows, false, special), new RowTable(table.rows, true, special)];
    this.#plans = table.rows.map(planRow);
    const plan = (row: OpcodeRow) => this.#plans[table.rows.indexOf(row)];
    this.#nop = plan(NOP);
    this.#pause = plan(PAUSE);
    this.#cmpxchg16b = plan(CMPXCHG16B);
    this.row = NOP;
  }

  /** Decode the instruction at `bytes[at]`; bytes from `end` on are not available. */
  decode(bytes: Uint8Array, at: number, end: number, mode: number): DecodeStatus {
    const long = mode === CodeMode.LONG64;
    const start = at;
    const limit = Math.min(end, start + MAX_INSTRUCTION_BYTES);
    const short = limit === end ? DecodeStatus.NEEDS_MORE : DecodeStatus.TOO_LONG;
    this.#bytes = bytes;
    this.#end = limit;
    let operandPrefix = false;
    let addressPrefix = false;
    let lock = false;
    let rep = 0;
    let segment = -1;
    let rex = 0;
    let opcode: number;
    prefixes: for (;;) {
      if (at >= limit) return short;
      opcode = bytes[at++];
      switch (opcode) {
        case 0x66:
          operandPrefix = true;
          break;
        case 0x67:
          addressPrefix = true;
          break;
        case 0xf0:
          lock = true;
          break;
        case 0xf2:
          rep = 2;
          break;
        case 0xf3:
          rep = 1;
          break;
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e:
          // ES, CS, SS, DS: ignored in 64-bit mode, and there they do not undo FS or GS (AMD vol. 3, 1.2.4).
          if (!long) segment = (opcode >> 3) & 3;
          break;
        case 0x64:
        case 0x65:
          segment = opcode - 0x60;
          break;
        default:
          if (!long || (opcode & 0xf0) !== 0x40) break prefixes;
          if (at >= limit) return short;
          // A REX prefix counts only right before the opcode (SDM vol. 2, 2.2.1).
          rex = opcode;
          if (!isPrefix(bytes[at])) {
            opcode = bytes[at++];
            break prefixes;
          }
          rex = 0;
      }
    }
    let map = 0;
    if (opcode === 0x0f) {
      if (at >= limit) return short;
      opcode = bytes[at++];
      map = 1;
      if (opcode === 0x38 || opcode === 0x3a) {
        map = opcode === 0x38 ? 2 : 3;
        if (at >= limit) return short;
        opcode = bytes[at++];
      }
    }
    const table = this.#tables[long ? 1 : 0];
    const prefixClass = rep !== 0 ? rep + 1 : operandPrefix ? 1 : 0;
    let modrm = -1;
    let number: number;
    if (table.needsModrm[(map << 8) | opcode] !== 0) {
      if (at >= limit) return short;
      modrm = bytes[at++];
      // MOV to and from control and debug registers: whatever mod says, rm is a register (SDM vol. 2, MOV).
      if (map === 1 && (opcode & 0xfc) === 0x20) modrm |= 0xc0;
      number = table.rows[rowIndex(map, opcode, prefixClass, (modrm >> 3) & 7, modrm < 0xc0 ? 1 : 0)];
      if (modrm >= 0xc0) {
        const exact = table.exact.get((map << 16) | (opcode << 8) | modrm);
        if (exact !== undefined && exact[prefixClass] !== NO_ROW) number = exact[prefixClass];
      }
    } else number = table.rows[rowIndex(map, opcode, prefixClass, 0, 0)];
    if (number === NO_ROW) return this.#undefined(at - start);
    let plan = this.#plans[number];
    if (map === 0 && opcode === 0x90 && (rex & 1) === 0) plan = rep === 1 ? this.#pause : this.#nop;
    let { row, shape } = plan;

    // Operand size (SDM vol. 1, 3.6.1)
    let size: OperandSize;
    if (shape.fixedSize !== undefined) size = shape.fixedSize;
    else if (long) {
      if (row.operand64 === "force" || (rex & 8) !== 0) size = 8;
      else if (operandPrefix && row.prefix !== "66") size = 2;
      else if (operandPrefix && row.operand64 === undefined && !shape.noSize2) size = 2;
      else size = row.operand64 === "default" ? 8 : 4;
    } else size = (mode === CodeMode.LEGACY32) !== operandPrefix ? 4 : 2;
    if (shape.noSize2 && size === 2) size = 4;
    if (shape.maxSize4 && size === 8) size = 4;
    if (row.mnemonic === "CMPXCHG8B" && (rex & 8) !== 0) {
      plan = this.#cmpxchg16b;
      ({ row, shape } = plan);
      size = shape.fixedSize ?? 4;
    }
    const addressSize: 2 | 4 | 8 = long
      ? addressPrefix
        ? 4
        : 8
      : (mode === CodeMode.LEGACY32) !== addressPrefix
        ? 4
        : 2;
    this.row = row;
    this.addressSize = addressSize;
    this.hasMemory = false;
    this.wideDisplacement = false;
    this.relative = false;
    this.immLow = 0;
    this.immHigh = 0;
    this.memoryBytes = 0;
    this.#at = at;
    const mem = modrm >= 0 && modrm < 0xc0;
    if (mem) {
      if (!this.#address(modrm, rex, addressSize, segment, long)) return short;
    }
    let immediateBytes = 0;
    const { registers } = this;
    registers[2] = long ? (segment >= Seg.FS ? segment : Seg.LDTR) : segment >= 0 ? segment : Seg.DS;
    for (let i = 0; i < plan.operands.length; i++) {
      const operand = plan.operands[i];
      let n: number;
      switch (operand.field) {
        case Field.RM:
          if (mem) {
            this.memoryBytes = operand.bytes > 0 ? operand.bytes : operandBytes(row.operands[i], size);
            continue;
          }
          n = (modrm & 7) | ((rex & 1) << 3);
          break;
        case Field.REG:
          n = ((modrm >> 3) & 7) | ((rex & 4) << 1);
          break;
        case Field.OPCODE:
          n = (opcode & 7) | ((rex & 1) << 3);
          break;
        case Field.FIXED:
          registers[i] = operand.fixed;
          continue;
        case Field.IMMEDIATE:
          immediateBytes =
            operand.bytes === -1 ? Math.min(size, 4) : operand.bytes === -2 ? size : operand.bytes;
          if (!this.#immediate(immediateBytes)) return short;
          continue;
        case Field.BRANCH:
          if (!this.#immediate(operand.bytes === -1 ? Math.min(size, 4) : operand.bytes)) return short;
          this.relative = true;
          continue;
        case Field.FAR: {
          if (!this.#immediate(size)) return short;
          const offset = size === 2 ? this.immLow & 0xffff : this.immLow;
          if (!this.#immediate(2)) return short;
          this.immHigh = this.immLow & 0xffff;
          this.immLow = offset;
          continue;
        }
        case Field.OFFSET:
          if (!this.#immediate(addressSize)) return short;
          this.hasMemory = true;
          this.wideDisplacement = true;
          this.base = this.index = O.zero;
          this.shift = 0;
          this.ripRelative = false;
          this.stackSegment = false;
          if (addressSize !== 8) this.immHigh = 0;
          if (addressSize === 2) this.immLow &= 0xffff;
          this.segment = segment >= 0 ? segment : Seg.DS;
          this.memoryBytes = operand.bytes > 0 ? operand.bytes : size;
          continue;
        default:
          continue;
      }
      switch (operand.file) {
        case File.GPR: {
          const bytes = operand.bytes > 0 ? operand.bytes : size;
          // Without REX, byte registers 4–7 are AH, CH, DH, BH (SDM vol. 2, 2.2.1.2).
          registers[i] = bytes === 1 && rex === 0 && n >= 4 && n < 8 ? gprOffset(n - 4) + 1 : gprOffset(n);
          break;
        }
        case File.XMM:
          registers[i] = xmmOffset(n);
          break;
        case File.MMX:
          registers[i] = fprOffset(n & 7);
          break;
        case File.NUMBER:
          registers[i] = n & 7;
          // Sreg 6 and 7 do not exist, and CS is not loaded by MOV (SDM vol. 2, MOV).
          if (row.operands[i].method === "S" && ((n & 7) > Seg.GS || ((n & 7) === Seg.CS && i === 0))) {
            return this.#undefined(this.#at - start);
          }
          break;
        default:
          registers[i] = n;
          if (row.operands[i].method === "C" && ((VALID_CR >> n) & 1) === 0)
            return this.#undefined(this.#at - start);
          if (row.operands[i].method === "D" && n > 7) return this.#undefined(this.#at - start);
      }
    }
    this.length = this.#at - start;
    if (lock && !(row.lock === true && mem)) return this.#undefined(this.length);
    // POP to memory computes an address that uses RSP after the pop (SDM vol. 2, POP).
    if (row.mnemonic === "POP" && mem && this.base === gprOffset(RSP) && this.hasMemory)
      this.displacement += size;
    const formMem = mem || (this.hasMemory && this.wideDisplacement);
    this.handler =
      this.table.handlers[
        plan.base +
          formNumber(
            size,
            formMem && shape.memoryOperand >= 0,
            lock,
            row.rep === true ? rep : 0,
            row.modal === true ? long : true,
            row.addressed === true ? addressSize : 4,
          )
      ];
    if (this.handler === 0) return this.#undefined(this.length);
    this.writesMemory = this.table.writesMemory[this.handler] !== 0;
    return DecodeStatus.OK;
  }

  #undefined(length: number): DecodeStatus {
    this.length = length;
    this.handler = Special.UNDEFINED;
    this.hasMemory = false;
    this.relative = false;
    return DecodeStatus.UNDEFINED;
  }

  /** Read an immediate of `bytes`, sign-extended to 64 bits; false where it is not all there. */
  #immediate(bytes: number): boolean {
    const b = this.#bytes;
    const at = this.#at;
    if (at + bytes > this.#end) return false;
    this.#at = at + bytes;
    switch (bytes) {
      case 1:
        this.immLow = (b[at] << 24) >> 24;
        break;
      case 2:
        this.immLow = ((b[at] | (b[at + 1] << 8)) << 16) >> 16;
        break;
      case 3:
        // ENTER: 16 bits, and 8 that go to the high half.
        this.immLow = b[at] | (b[at + 1] << 8);
        this.immHigh = b[at + 2];
        return true;
      case 8:
        this.immLow = b[at] | (b[at + 1] << 8) | (b[at + 2] << 16) | (b[at + 3] << 24);
        this.immHigh = b[at + 4] | (b[at + 5] << 8) | (b[at + 6] << 16) | (b[at + 7] << 24);
        return true;
      default:
        this.immLow = b[at] | (b[at + 1] << 8) | (b[at + 2] << 16) | (b[at + 3] << 24);
    }
    this.immHigh = this.immLow >> 31;
    return true;
  }

  #byte(): number {
    return this.#at < this.#end ? this.#bytes[this.#at++] : -1;
  }

  #displacement(bytes: number): boolean {
    const b = this.#bytes;
    const at = this.#at;
    if (at + bytes > this.#end) return false;
    this.#at = at + bytes;
    this.displacement =
      bytes === 0
        ? 0
        : bytes === 1
          ? (b[at] << 24) >> 24
          : bytes === 2
            ? ((b[at] | (b[at + 1] << 8)) << 16) >> 16
            : b[at] | (b[at + 1] << 8) | (b[at + 2] << 16) | (b[at + 3] << 24);
    return true;
  }

  /** The memory operand of ModRM and SIB (SDM vol. 2, 2.1.5). False where bytes are missing. */
  #address(modrm: number, rex: number, addressSize: 2 | 4 | 8, segment: number, long: boolean): boolean {
    const mod = modrm >> 6;
    const rm = modrm & 7;
    this.hasMemory = true;
    this.ripRelative = false;
    this.shift = 0;
    let base = -1;
    let index = -1;
    let displacementBytes = mod === 1 ? 1 : mod === 2 ? (addressSize === 2 ? 2 : 4) : 0;
    if (addressSize === 2) {
      [base, index] = ADDRESS16[rm];
      if (mod === 0 && rm === 6) {
        base = -1;
        displacementBytes = 2;
      }
    } else if (rm === 4) {
      const sib = this.#byte();
      if (sib < 0) return false;
      this.shift = sib >> 6;
      index = ((sib >> 3) & 7) | ((rex & 2) << 2);
      if (index === RSP) index = -1;
      base = (sib & 7) | ((rex & 1) << 3);
      if ((sib & 7) === RBP && mod === 0) {
        base = -1;
        displacementBytes = 4;
      }
    } else if (rm === RBP && mod === 0) {
      displacementBytes = 4;
      this.ripRelative = long;
    } else base = rm | ((rex & 1) << 3);
    if (!this.#displacement(displacementBytes)) return false;
    this.base = base < 0 ? O.zero : gprOffset(base);
    this.index = index < 0 ? O.zero : gprOffset(index);
    const stack = base === RSP || base === RBP;
    this.segment = segment >= 0 ? segment : stack ? Seg.SS : Seg.DS;
    this.stackSegment = this.segment === Seg.SS;
    return true;
  }
}

function isPrefix(byte: number): boolean {
  return (
    (byte & 0xf0) === 0x40 ||
    byte === 0x66 ||
    byte === 0x67 ||
    byte === 0xf0 ||
    byte === 0xf2 ||
    byte === 0xf3 ||
    (byte & 0xe7) === 0x26 ||
    byte === 0x64 ||
    byte === 0x65
  );
}
