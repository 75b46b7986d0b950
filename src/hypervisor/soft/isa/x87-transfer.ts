/** x87 loads, stores and moves (SDM vol. 1, 8.3.3). */
import { controlOfFcw, MXCSR_RC_ZERO } from "../fpu/control.js";
import { f80ToF32, f80ToF64, f80ToInt, INDEFINITE_M, INDEFINITE_SE, Operand } from "../fpu/f80.js";
import { x87Copy, x87Exchange, x87LoadSt, x87LoadWidened, x87MoveIf } from "../fpu/x87-basic.js";
import { f80FromBcd, f80ToBcd } from "../fpu/x87-bcd.js";
import { BEFORE_STORING, fcwOf, popStack, raiseIfEmpty, x87Commit, x87Push } from "../fpu/x87-stack.js";
import { O } from "../vcpu-state.js";
import { I32, I64 } from "../wasm/expr.js";
import type { Definition, InstrContext, SharedFunction } from "./context.js";
import { begin, clearC1, notePointers, popUnless, probeIfCrossing, st, unmaskedAmong } from "./x87.js";
import { type MemoryForm, memoryOperand } from "./x87-arithmetic.js";

const push = (x: InstrContext, m: I64) => x.f.drop(x.f.call(x.shared(x87Push), x.cpu, m));

/** FLD m32fp, m64fp; FILD. */
export const load =
  (form: MemoryForm): Definition =>
  (x) => {
    begin(x);
    const { m } = memoryOperand(x, form);
    if (form === "f32" || form === "f64") x.f.drop(x.f.call(x.shared(x87LoadWidened), x.cpu, m));
    else push(x, m);
  };

/** FLD m80fp. */
export const loadExtended: Definition = (x) => {
  begin(x);
  const address = x.address(0);
  const m = x.load(8, address) as I64;
  const se = x.load(2, address.add(8)).toI32();
  notePointers(x, address);
  x.setField32(O.fpExp, se);
  push(x, m);
};

export const loadRegister: Definition = (x) => {
  begin(x);
  notePointers(x);
  x.f.drop(x.f.call(x.shared(x87LoadSt), x.cpu, x.number(0)));
};

export const loadConstant =
  (constant: SharedFunction<readonly ["i32"], "i32">): Definition =>
  (x) => {
    begin(x);
    notePointers(x);
    x.f.drop(x.f.call(x.shared(constant), x.cpu));
  };

/**
 * Store `write`s `bytes` to memory unless an unmasked exception forbids it; then record the exceptions, then pop. A page
 * fault comes before the exception, as on processors.
 */
function finishStore(x: InstrContext, bytes: number, pop: boolean, write: () => void): void {
  const blocked = unmaskedAmong(x, BEFORE_STORING);
  x.f.if(blocked, () => x.probeWrite(x.address(0), bytes), write);
  notePointers(x, x.address(0));
  x.f.drop(x.f.call(x.shared(x87Commit), x.cpu, I32.const(0)));
  if (pop) popUnless(x, blocked);
}

/** FST, FSTP m32fp, m64fp. */
export const store =
  (form: "f32" | "f64", pop: boolean): Definition =>
  (x) => {
    begin(x);
    const a = st(x, 0);
    const control = controlOfFcw(fcwOf(x.cpu));
    const narrow = form === "f32" ? f80ToF32 : f80ToF64;
    const bits = x.f.let(x.f.call(x.shared(narrow), x.cpu, a.m, a.se, control));
    finishStore(x, form === "f32" ? 4 : 8, pop, () => {
      if (form === "f32") x.store(4, x.address(0), bits.toI32());
      else x.store(8, x.address(0), bits);
    });
  };

/** FIST, FISTP, FISTTP. */
export const storeInteger =
  (size: 2 | 4 | 8, { pop, truncate = false }: { pop: boolean; truncate?: boolean }): Definition =>
  (x) => {
    begin(x);
    const a = st(x, 0);
    const ofFcw = controlOfFcw(fcwOf(x.cpu));
    const control = truncate ? ofFcw.or(MXCSR_RC_ZERO) : ofFcw;
    const value = x.f.let(x.f.call(x.shared(f80ToInt), x.cpu, a.m, a.se, control, I32.const(8 * size)));
    finishStore(x, size, pop, () => x.store(size, x.address(0), size === 8 ? value : value.toI32()));
  };

/** FSTP m80fp: the bits as they are. */
export const storeExtended: Definition = (x) => {
  begin(x);
  const a = st(x, 0);
  const empty = raiseIfEmpty(x.f, x.cpu, a.se);
  const m = x.f.let(I64.const(INDEFINITE_M).select(empty, a.m));
  const se = x.f.let(I32.const(INDEFINITE_SE).select(empty, a.se));
  finishStore(x, 10, true, () => storeTen(x, m, se));
};

function storeTen(x: InstrContext, low: I64, high: I32): void {
  const address = x.address(0);
  probeIfCrossing(x, address, 10);
  x.store(8, address, low);
  x.store(2, address.add(8), high);
}

/** FST, FSTP ST(i). */
export const storeRegister =
  (pop: boolean): Definition =>
  (x) => {
    begin(x);
    notePointers(x);
    const blocked = x.f.let(x.f.call(x.shared(x87Copy), x.cpu, x.number(0), I32.const(0)));
    if (pop) popUnless(x, blocked);
  };

/** D9 D8+i, an undocumented FSTP ST(i): of an empty ST(0) it stores nothing and raises nothing. */
export const storeRegisterQuietly: Definition = (x) => {
  begin(x);
  notePointers(x);
  clearC1(x);
  x.f.if(st(x, 0).se.and(Operand.EMPTY).eqz(), () =>
    x.f.drop(x.f.call(x.shared(x87Copy), x.cpu, x.number(0), I32.const(0))),
  );
  popStack(x.f, x.cpu);
};

export const loadBcd: Definition = (x) => {
  begin(x);
  const address = x.address(0);
  const low = x.load(8, address) as I64;
  const high = x.load(2, address.add(8)).toI32();
  notePointers(x, address);
  push(x, x.f.let(x.f.call(x.shared(f80FromBcd), x.cpu, low, high)));
};

export const storeBcd: Definition = (x) => {
  begin(x);
  const a = st(x, 0);
  const control = controlOfFcw(fcwOf(x.cpu));
  const low = x.f.let(x.f.call(x.shared(f80ToBcd), x.cpu, a.m, a.se, control));
  const high = x.field32(O.fpExp);
  finishStore(x, 10, true, () => storeTen(x, low, high));
};

export const exchange: Definition = (x) => {
  begin(x);
  notePointers(x);
  x.f.callVoid(x.shared(x87Exchange), x.cpu, x.number(0));
};

export const moveIf =
  (condition: number): Definition =>
  (x) => {
    begin(x);
    notePointers(x);
    x.f.drop(x.f.call(x.shared(x87MoveIf), x.cpu, x.number(0), x.condition(condition)));
  };
