/**
 * The form of the opcode tables. A row reads as the instruction's line in SDM vol. 2: encoding, mnemonic, operands in
 * the codes of appendix A.2, and the definition of what it does.
 *
 *     op("01", "ADD", "Ev,Gv", add, { lock: true })
 *     op("66 0F 58", "ADDPD", "Vx,Wx", addpd)
 *     op("F7 /4", "MUL", "Ev", mul)
 *
 * Encoding: an optional mandatory prefix (NP for "none of 66, F2, F3"), the opcode bytes, then any of
 * `/0`–`/7` (ModRM.reg), `mem` or `reg` (ModRM.mod is not 3, is 3), `=D0` (this very ModRM byte), `+r` (register in the
 * opcode's low bits: eight opcodes).
 */
import type { Definition, OperandSize } from "./context.js";

export type OpcodeMap = "" | "0F" | "0F38" | "0F3A";
export type MandatoryPrefix = "any" | "NP" | "66" | "F3" | "F2";

export interface OpcodeOptions {
  /** LOCK is allowed where operand 0 is memory. */
  lock?: boolean;
  /** Not valid in 64-bit mode (i64), or valid only there (o64). */
  only?: "legacy" | "long";
  /** 64-bit mode: the operand size defaults to 64 bits (d64), or is always 64 bits (f64). */
  operand64?: "default" | "force";
  /** The definition uses `x.size` though no operand code has a v. */
  sized?: boolean;
  /** A different handler for 64-bit mode and for the others: stacks, branches, string instructions. */
  modal?: boolean;
  /** The memory operand is an address only (LEA) or a hint: no segment base, no segment checks. */
  noSegment?: boolean;
  /** Operand 1 is a register that counts bits from the memory operand on, beyond its size (BT with a register). */
  bitOffset?: boolean;
  /** The definition uses `x.addressSize`. */
  addressed?: boolean;
  /** Takes REP/REPE/REPNE. */
  rep?: boolean;
  /** Ends a run of records: nothing that follows is reached by falling through. */
  ends?: boolean;
  args?: readonly number[];
}

export interface OpcodeRow extends OpcodeOptions {
  readonly encoding: string;
  readonly map: OpcodeMap;
  readonly prefix: MandatoryPrefix;
  readonly opcodes: readonly number[];
  readonly hasModrm: boolean;
  /** Required ModRM.reg, or undefined. */
  readonly digit: number | undefined;
  readonly mod: "mem" | "reg" | undefined;
  readonly modrm: number | undefined;
  readonly mnemonic: string;
  readonly operands: readonly OperandCode[];
  readonly definition: Definition;
}

/**
 * Operand codes: addressing method and type (SDM vol. 2, appendix A.2.1 and A.2.2).
 *
 * Methods: E ModRM general register or memory; G ModRM.reg general register; M memory only; R register in ModRM.rm only;
 * I immediate; J relative branch; O memory at a displacement; Z register in the opcode (with +r); A far pointer;
 * S segment register in ModRM.reg; C, D control or debug register in ModRM.reg; V ModRM.reg XMM; W XMM or memory; U XMM in
 * ModRM.rm only; P ModRM.reg MMX; Q MMX or memory; N MMX in ModRM.rm only; X DS:rSI; Y ES:rDI;
 * and by name: AL, AX (rAX of operand size), CL, DX, eAX (4 or 2 bytes), 1 (constant), ES CS SS DS FS GS, T (x87 ST(i) in ModRM.rm).
 */
export interface OperandCode {
  readonly text: string;
  readonly method: string;
  /** b w d q v z y a p s (as the SDM), x (16 bytes), t (10 bytes), or a fixed number of bytes; "" for none. */
  readonly type: string;
}

const OPERAND = /^([EGMRIJOZASCDVWUPQNXYT])([bwdqvzyxtpas]|\d+)?$/;
const NAMED = new Set(["AL", "AX", "CL", "DX", "eAX", "1", "3", "ES", "CS", "SS", "DS", "FS", "GS"]);

function parseOperand(text: string): OperandCode {
  if (NAMED.has(text)) return { text, method: text, type: text === "AX" ? "v" : "" };
  const match = OPERAND.exec(text);
  if (match === null) throw new Error(`opcode table: operand ${text}`);
  return { text, method: match[1], type: match[2] ?? "" };
}

const MODRM_METHODS = new Set([..."EGMRSCDVWUPQNT"]);

export function op(
  encoding: string,
  mnemonic: string,
  operands: string,
  definition: Definition,
  options: OpcodeOptions = {},
): OpcodeRow {
  const words = encoding.split(" ");
  let prefix: MandatoryPrefix = "any";
  if (words[0] === "NP" || (["66", "F3", "F2"].includes(words[0]) && words[1] === "0F")) {
    prefix = words.shift() as MandatoryPrefix;
  }
  let map: OpcodeMap = "";
  const escapes = (byte: string) => words.at(0) === byte && /^[0-9A-F]{2}/.test(words.at(1) ?? "");
  if (escapes("0F")) {
    words.shift();
    map = "0F";
    if (escapes("38") || escapes("3A")) map = `0F${words.shift()}` as OpcodeMap;
  }
  const byte = words.shift() ?? "";
  if (!/^[0-9A-F]{2}(\+r)?$/.test(byte)) throw new Error(`opcode table: encoding ${encoding}`);
  const first = Number.parseInt(byte.slice(0, 2), 16);
  const opcodes = byte.endsWith("+r") ? Array.from({ length: 8 }, (_, i) => first + i) : [first];
  let digit: number | undefined;
  let mod: "mem" | "reg" | undefined;
  let modrm: number | undefined;
  for (const word of words) {
    if (/^\/[0-7]$/.test(word)) digit = Number(word[1]);
    else if (word === "mem" || word === "reg") mod = word;
    else if (/^=[0-9A-F]{2}$/.test(word)) modrm = Number.parseInt(word.slice(1), 16);
    else throw new Error(`opcode table: encoding ${encoding}`);
  }
  const codes = operands === "" ? [] : operands.split(",").map(parseOperand);
  if (mod === undefined) {
    if (codes.some((c) => c.method === "M")) mod = "mem";
    else if (codes.some((c) => "RUN".includes(c.method))) mod = "reg";
  }
  const hasModrm =
    digit !== undefined ||
    mod !== undefined ||
    modrm !== undefined ||
    codes.some((c) => MODRM_METHODS.has(c.method));
  return {
    encoding,
    map,
    prefix,
    opcodes,
    hasModrm,
    digit,
    mod,
    modrm,
    mnemonic,
    operands: codes,
    definition,
    ...options,
  };
}

/** Bytes of an operand of this type code at operand size `size`. */
export function operandBytes(code: OperandCode, size: OperandSize): number {
  switch (code.type) {
    case "b":
      return 1;
    case "w":
      return 2;
    case "d":
      return 4;
    case "q":
      return 8;
    case "v":
      return size;
    case "z":
      return Math.min(size, 4);
    case "y":
      return size === 8 ? 8 : 4;
    case "x":
      return 16;
    case "t":
      return 10;
    case "p":
      return size + 2;
    case "a":
      return 2 * size;
    case "s":
      return PSEUDO_DESCRIPTOR_BYTES;
    case "":
      return NAMED_SIZE[code.method] ?? size;
    default:
      return Number(code.type);
  }
}

/** Limit and 32-bit base; segment limits, the only use of the number, are not checked where the base has 64 bits. */
const PSEUDO_DESCRIPTOR_BYTES = 6;
const NAMED_SIZE: Record<string, number> = { AL: 1, CL: 1, DX: 2 };
