/**
 * x87 instructions (SDM vol. 1, chapter 8; vol. 2, under each name): operands, memory and exception checks. What is done
 * with the register stack is in fpu/.
 */
import { Fcw } from "../fpu/control.js";
import type { StackOperand } from "../fpu/x87-stack.js";
import { Fsw, popStack, readSt } from "../fpu/x87-stack.js";
import { Cr0, O, Vector } from "../vcpu-state.js";
import { I32, type I64, load32 } from "../wasm/expr.js";
import type { InstrContext } from "./context.js";

/** #UD and #NM, and for waiting instructions a pending exception (SDM vol. 1, 8.6), which CR0.NE makes #MF. */
export function waiting(x: InstrContext): void {
  x.requireFpu();
  x.f.if(load32(x.cpu, O.fpuPending), () => x.faultIf(x.field32(O.cr0).and(Cr0.NE), Vector.MF));
}

/** The start of an instruction that may raise exceptions: no flags so far. */
export function begin(x: InstrContext): void {
  waiting(x);
  x.setField32(O.fpFlags, I32.const(0));
}

/** Note the instruction's address, and its operand's: after all that can fault (SDM vol. 1, 8.1.8). */
export function notePointers(x: InstrContext, memory?: I64): void {
  x.setField64(O.fip, x.rip());
  if (memory !== undefined) x.setField64(O.fdp, memory);
}

export const st = (x: InstrContext, i: I32 | number): StackOperand => readSt(x.f, x.cpu, i);

/** Pop, where `blocked` (an unmasked exception) is zero. */
export function popUnless(x: InstrContext, blocked: I32, pops = 1): void {
  x.f.if(blocked.eqz(), () => {
    for (let i = 0; i < pops; i++) popStack(x.f, x.cpu);
  });
}

/** Exceptions in fpFlags that are unmasked and among `blocking`. */
export const unmaskedAmong = (x: InstrContext, blocking: number): I32 =>
  x.f.let(load32(x.cpu, O.fpFlags).and(load32(x.cpu, O.fcw).and(Fcw.MASKS).not()).and(blocking));

export const clearC1 = (x: InstrContext) => x.setField32(O.fsw, x.field32(O.fsw).and(~Fsw.C1));

const PAGE = 4096;

/** Before several stores: within one page the first of them faults or none. */
export function probeIfCrossing(x: InstrContext, address: I64, bytes: number): void {
  x.f.if(
    address
      .toI32()
      .and(PAGE - 1)
      .gtU(PAGE - bytes),
    () => x.probeWrite(address, bytes),
  );
}
