/** What a set-up for some mnemonics is, and what set-ups share. */
import type { Draft } from "./draft.js";

/** Numbers of general registers in encodings. */
export const Gpr = { RAX: 0, RCX: 1, RDX: 2, RBX: 3, RSP: 4, RBP: 5, RSI: 6, RDI: 7 } as const;

/** RFLAGS.AC. */
export const AC = 1 << 18;

/** All ones of an operand's bytes. */
export const MASK: Record<number, bigint> = { 1: 0xffn, 2: 0xffffn, 4: 0xffffffffn, 8: 0xffffffffffffffffn };

export interface Hint {
  /** Mnemonics, whole. */
  readonly mnemonics: RegExp;
  /** Opcode maps it is for; all where left out (MOVSD and CMPSD are also SSE instructions). */
  readonly map?: string;
  /** Before the memory operand is encoded. */
  readonly before?: (d: Draft) => void;
  /** After: registers that address memory keep what they have. */
  readonly after?: (d: Draft) => void;
}

/** Merge `value` into the low `size` bytes of a register. */
export function setLow(d: Draft, register: number, value: bigint, size: number): void {
  const mask = MASK[size];
  d.gpr[register] = (d.gpr[register] & ~mask) | (value & mask);
}

/** Little-endian bytes of an integer. */
export function bytesOf(value: bigint, size: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
}
