/**
 * The control word that the soft float functions take: MXCSR's layout (SDM vol. 1, 10.2.3) with the result's format in
 * bits 16–18. The x87 control word is turned into it by `controlOfFcw`.
 */

import { O } from "../vcpu-state.js";
import type { I32 } from "../wasm/expr.js";
import { load32 } from "../wasm/expr.js";
import type { FunctionBuilder } from "../wasm/module.js";
import { i32 } from "./define.js";

/** Exceptions as MXCSR and the x87 status word number them (SDM vol. 1, 8.1.3 and 10.2.3). */
export const FpFlag = {
  IE: 1 << 0,
  DE: 1 << 1,
  ZE: 1 << 2,
  OE: 1 << 3,
  UE: 1 << 4,
  PE: 1 << 5,
  /** x87: stack fault. */
  SF: 1 << 6,
  /** x87: the result was rounded up in magnitude, or the stack fault was an overflow. */
  C1: 1 << 9,
} as const;

/** MXCSR (SDM vol. 1, figure 10-3). */
export const Mxcsr = {
  FLAGS: 0x3f,
  DAZ: 1 << 6,
  MASK_SHIFT: 7,
  MASKS: 0x3f << 7,
  RC_SHIFT: 13,
  RC: 3 << 13,
  FTZ: 1 << 15,
  RESET: 0x1f80,
} as const;

/** Rounding control (SDM vol. 1, table 4-8). */
export const Rounding = { NEAREST: 0, DOWN: 1, UP: 2, ZERO: 3 } as const;

/** MXCSR with this ORed in truncates, as CVTT… does. */
export const MXCSR_RC_ZERO = Rounding.ZERO << Mxcsr.RC_SHIFT;

/**
 * Format of a result. The first four are the values of the x87 control word's PC field (SDM vol. 1, table 8-2): an
 * 80-bit number of 24, 64 (reserved value), 53 or 64 bits of precision.
 */
export const Target = { F80_24: 0, F80_RESERVED: 1, F80_53: 2, F80: 3, F32: 4, F64: 5 } as const;
export const TARGET_SHIFT = 16;
const TARGET_BITS = 7;
/** Bit of the control word for x87 stores to memory: an unmasked overflow or underflow is reported without PE. */
export const CONTROL_STORE = 1 << 19;

export const targetOf = (control: I32): I32 => control.shrU(TARGET_SHIFT).and(TARGET_BITS);

/** x87 control word (SDM vol. 1, 8.1.5). */
export const Fcw = {
  MASKS: 0x3f,
  PC_SHIFT: 8,
  PC: 3 << 8,
  RC_SHIFT: 10,
  RC: 3 << 10,
  /** Infinity control: stored, without effect. */
  X: 1 << 12,
  RESET: 0x37f,
} as const;

/** The control word for results rounded as the x87 control word says. */
export function controlOfFcw(fcw: I32): I32 {
  return fcw
    .and(Fcw.MASKS)
    .shl(Mxcsr.MASK_SHIFT)
    .or(fcw.and(Fcw.RC).shl(Mxcsr.RC_SHIFT - Fcw.RC_SHIFT))
    .or(fcw.and(Fcw.PC).shl(TARGET_SHIFT - Fcw.PC_SHIFT));
}

/** `control` with another result format. */
export function withTarget(control: I32, target: number): I32 {
  return control.and(0xffff).or(target << TARGET_SHIFT);
}

export const roundingOf = (control: I32): I32 => control.shrU(Mxcsr.RC_SHIFT).and(Rounding.ZERO);

/** 0 where exception `flag` is unmasked in `control`. */
export const maskOf = (control: I32, flag: number): I32 => control.and(flag << Mxcsr.MASK_SHIFT);

/** OR `flags` into the state's fpFlags. */
export function raise(f: FunctionBuilder, cpu: I32, flags: I32 | number): void {
  f.store32(cpu, load32(cpu, O.fpFlags).or(typeof flags === "number" ? i32(flags) : flags), O.fpFlags);
}
