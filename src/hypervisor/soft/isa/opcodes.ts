/** All opcode tables. */
import * as c from "./control.js";
import { CMPXCHG16B, INTEGER_OPCODES } from "./integer-opcodes.js";
import { type OpcodeRow, op } from "./opcode-table.js";
import { SSE_OPCODES } from "./sse-opcodes.js";
import { SYSTEM_OPCODES } from "./system-opcodes.js";
import * as t from "./transfer.js";
import { X87_OPCODES } from "./x87-opcodes.js";

/** 90 without REX.B: the decoder takes these in place of XCHG. */
export const NOP = op("90", "NOP", "", t.nop);
export const PAUSE = op("90", "PAUSE", "", c.pause);

export { CMPXCHG16B };
export const OPCODES: readonly OpcodeRow[] = [
  ...INTEGER_OPCODES,
  ...SYSTEM_OPCODES,
  ...X87_OPCODES,
  ...SSE_OPCODES,
];
/** Rows that the decoder chooses by more than the encoding. */
export const SPECIAL_ROWS: readonly OpcodeRow[] = [NOP, PAUSE, CMPXCHG16B];
