/** Every opcode table of the software CPU, and the forms to fuzz. */
import { INTEGER_OPCODES } from "../../src/hypervisor/soft/isa/integer-opcodes.js";
import type { OpcodeRow } from "../../src/hypervisor/soft/isa/opcode-table.js";
import { OPCODES, SPECIAL_ROWS } from "../../src/hypervisor/soft/isa/opcodes.js";
import { SYSTEM_OPCODES } from "../../src/hypervisor/soft/isa/system-opcodes.js";
import { exclusion } from "./exclusions.js";
import { type Form, formsOf } from "./forms.js";

const GENERAL = new Set([...INTEGER_OPCODES, ...SYSTEM_OPCODES]);

export const TABLES = {
  integer: [...INTEGER_OPCODES, ...SPECIAL_ROWS],
  system: SYSTEM_OPCODES,
  "x87, MMX and SSE": OPCODES.filter((row) => !GENERAL.has(row)),
} as const satisfies Record<string, readonly OpcodeRow[]>;

/** The forms that are compared. */
export function comparedForms(rows: readonly OpcodeRow[] = Object.values(TABLES).flat()): Form[] {
  return rows.flatMap(formsOf).filter((form) => exclusion(form) === undefined);
}

/** Instructions that go into blocks: those that a user program runs without a fault. */
export const BLOCK_ROWS: readonly OpcodeRow[] = [...TABLES.integer, ...TABLES["x87, MMX and SSE"]];
