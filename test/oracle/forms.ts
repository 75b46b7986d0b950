/** The forms of an opcode table's row: every mode, operand size, address size, prefix and kind of operand that decodes differently. */
import type { OpcodeRow } from "../../src/hypervisor/soft/isa/opcode-table.js";
import type { Bitness } from "./cpu-case.js";

export type Size = 2 | 4 | 8;

export interface Form {
  readonly row: OpcodeRow;
  readonly bitness: Bitness;
  readonly size: Size;
  readonly addressSize: Size;
  /** Which ModRM.mod: a memory or a register operand; undefined where there is no ModRM byte or its value is given. */
  readonly mod: "mem" | "reg" | undefined;
  readonly lock: boolean;
  readonly rep: "none" | "rep" | "repne";
}

/** Operand methods whose operand is in ModRM.rm. */
export const RM_METHODS = "EMRWUQNT";
/** Operand methods whose operand is in ModRM.reg. */
export const REG_METHODS = "GSCDVP";

const rmCanBeMemory = (row: OpcodeRow) => !row.operands.some((o) => "RUNT".includes(o.method));
const rmCanBeRegister = (row: OpcodeRow) => !row.operands.some((o) => o.method === "M");

/** Whether the operand may have 16 bits, by its prefixes and the mode. */
export function isWordSized(row: OpcodeRow): boolean {
  return dependsOnWord(row) && (row.prefix === "any" || row.prefix === "F2" || row.prefix === "F3");
}

const dependsOnWord = (row: OpcodeRow) =>
  row.sized === true || row.operands.some((o) => o.type === "v" || o.type === "z" || o.method === "eAX");

function operandSizes(row: OpcodeRow, bitness: Bitness): Size[] {
  if (row.mnemonic === "CMPXCHG16B") return [8];
  if (!dependsOnWord(row) && !row.operands.some((o) => o.type === "y")) return [4];
  const words: Size[] = isWordSized(row) ? [2] : [];
  if (bitness !== 64) return [...words, 4];
  // Intel ignores 66 on near branches and AMD does not; nothing in use has it there.
  if (row.operand64 === "force") return [8];
  if (row.operand64 === "default") return [...words, 8];
  return [...words, 4, 8];
}

function mods(row: OpcodeRow): ("mem" | "reg" | undefined)[] {
  if (!row.hasModrm || row.modrm !== undefined) return [undefined];
  if (row.mod !== undefined) return [row.mod];
  const list: ("mem" | "reg")[] = [];
  if (rmCanBeMemory(row)) list.push("mem");
  if (rmCanBeRegister(row)) list.push("reg");
  return list;
}

/** What an address-size prefix makes of the default. */
export const otherAddressSize = (bitness: Bitness): Size => (bitness === 32 ? 2 : 4);

export function formsOf(row: OpcodeRow): Form[] {
  const forms: Form[] = [];
  const bitnesses: Bitness[] = row.only === "legacy" ? [32, 16] : row.only === "long" ? [64] : [64, 32, 16];
  for (const bitness of bitnesses) {
    const natural = (bitness / 8) as Size;
    const chooses = row.addressed === true || row.operands.some((o) => o.method === "O");
    const addressSizes: Size[] = chooses ? [natural, otherAddressSize(bitness)] : [natural];
    for (const size of operandSizes(row, bitness)) {
      for (const addressSize of addressSizes) {
        for (const mod of mods(row)) {
          for (const rep of row.rep === true ? (["none", "rep", "repne"] as const) : (["none"] as const)) {
            const base = { row, bitness, size, addressSize, mod, rep };
            forms.push({ ...base, lock: false });
            if (row.lock === true && mod === "mem") forms.push({ ...base, lock: true });
          }
        }
      }
    }
  }
  return forms;
}

export function describeForm(form: Form): string {
  const { row } = form;
  const parts = [row.encoding, row.mnemonic];
  const operands = row.operands.map((o) => o.text).join(",");
  if (operands !== "") parts.push(operands);
  const notes = [`${form.bitness}-bit`, `operand ${8 * form.size}`];
  if (form.addressSize * 8 !== form.bitness) notes.push(`address ${8 * form.addressSize}`);
  if (form.mod !== undefined) notes.push(form.mod);
  if (form.lock) notes.push("lock");
  if (form.rep !== "none") notes.push(form.rep);
  return `${parts.join(" ")} (${notes.join(", ")})`;
}
