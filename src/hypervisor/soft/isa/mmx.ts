/**
 * MMX: its registers are the low 8 bytes of the x87 registers, by physical number (SDM vol. 1, 9.2 and 9.5), and every
 * MMX instruction but EMMS leaves the x87 unit with TOP 0, all tags valid and the register's other 16 bits set (9.5.1, 9.5.2).
 */
import { Cr0, O, Vector } from "../vcpu-state.js";
import { I32, type V128 } from "../wasm/expr.js";
import { fromInt, load64Zero, store64 } from "../wasm/simd.js";
import type { Definition, InstrContext } from "./context.js";

const TAGS_ALL_VALID = 0xff;
const TAGS_ALL_EMPTY = 0;
const EXPONENT_OFFSET = 8;
const EXPONENT_ONES = 0xffff;

/** #UD or #NM by CR0, then #MF for an x87 exception that is pending (SDM vol. 3A, 12.1 and table 12-1). */
export function requireMmx(x: InstrContext): void {
  x.requireMmx();
  // Without CR0.NE the exception goes to the interrupt controller, which the machine does not model.
  x.f.if(x.field32(O.fpuPending), () => x.faultIf(x.field32(O.cr0).and(Cr0.NE), Vector.MF));
}

/** To be called once all that can fault is done. */
export function enterMmx(x: InstrContext): void {
  x.setField32(O.ftop, I32.const(0));
  x.setField32(O.ftag, I32.const(TAGS_ALL_VALID));
}

/** MMX register or memory operand `i` in the low half of a vector; the high half is zero. */
export function readMmx(x: InstrContext, i: number): V128 {
  if (x.operands[i].kind === "reg") return x.f.let(load64Zero(x.registerAddress(i)));
  return x.f.let(fromInt(x.read(i)));
}

/** Set MMX register operand `i` to the low half of `value`. */
export function writeMmx(x: InstrContext, i: number, value: V128): void {
  const address = x.registerAddress(i);
  x.f.emit(store64(address, value));
  x.f.store16(address, I32.const(EXPONENT_ONES), EXPONENT_OFFSET);
}

/** EMMS: all x87 registers are empty, TOP is 0 (SDM vol. 3A, table 12-2). */
export const emms: Definition = (x) => {
  requireMmx(x);
  x.setField32(O.ftop, I32.const(0));
  x.setField32(O.ftag, I32.const(TAGS_ALL_EMPTY));
};
