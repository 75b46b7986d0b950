/** x87 loads, stores, moves and control instructions (SDM vol. 1, 8.3.3 and 8.3.11). */
import { controlOfFcw, MXCSR_RC_ZERO } from "../fpu/control.js";
import { f80ToF32, f80ToF64, f80ToInt, INDEFINITE_M, INDEFINITE_SE, Operand } from "../fpu/f80.js";
import { x87Copy, x87Exchange, x87LoadSt, x87LoadWidened, x87MoveIf } from "../fpu/x87-basic.js";
import { f80FromBcd, f80ToBcd } from "../fpu/x87-bcd.js";
import {
  Environment,
  Fxsave,
  fxrstorImage,
  fxsaveImage,
  MXCSR_WRITABLE,
  statusWord,
  x87Clear,
  x87Init,
  x87LoadEnvironment,
  x87LoadRegisters,
  x87MaskAll,
  x87SetFcw,
  x87StoreEnvironment,
  x87StoreRegisters,
} from "../fpu/x87-environment.js";
import { x87Remainder } from "../fpu/x87-scale.js";
import {
  BEFORE_STORING,
  Fsw,
  fcwOf,
  physical,
  popStack,
  raiseIfEmpty,
  x87Commit,
  x87Push,
} from "../fpu/x87-stack.js";
import { Cr0, Eflags, O, Vector } from "../vcpu-state.js";
import { I32, I64, load16U, load32, load64 } from "../wasm/expr.js";
import type { Definition, InstrContext, OperandSize, SharedFunction } from "./context.js";
import { begin, notePointers, popUnless, st, unmaskedAmong, waiting } from "./x87.js";
import { type MemoryForm, memoryOperand } from "./x87-arithmetic.js";

const PAGE = 4096;

const call1 = (x: InstrContext, f: SharedFunction<readonly ["i32"], undefined>) =>
  x.f.callVoid(x.shared(f), x.cpu);

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

/** Before several stores: within one page the first of them faults or none. */
function probeIfCrossing(x: InstrContext, address: I64, bytes: number): void {
  x.f.if(
    address
      .toI32()
      .and(PAGE - 1)
      .gtU(PAGE - bytes),
    () => x.probeWrite(address, bytes),
  );
}

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

/** FPREM, FPREM1. */
export const remainder =
  (nearest: boolean): Definition =>
  (x) => {
    begin(x);
    notePointers(x);
    x.f.drop(x.f.call(x.shared(x87Remainder), x.cpu, I32.const(nearest ? 1 : 0)));
  };

const clearC1 = (x: InstrContext) => x.setField32(O.fsw, x.field32(O.fsw).and(~Fsw.C1));

/** FINCSTP, FDECSTP. */
export const moveTop =
  (by: number): Definition =>
  (x) => {
    waiting(x);
    notePointers(x);
    x.setField32(O.ftop, physical(x.cpu, by));
    clearC1(x);
  };

/** FFREE, and FFREEP, which pops. */
export const free =
  (pop: boolean): Definition =>
  (x) => {
    waiting(x);
    notePointers(x);
    const bit = I32.const(1).shl(physical(x.cpu, x.number(0)));
    x.setField32(O.ftag, x.field32(O.ftag).and(bit.not()));
    clearC1(x);
    if (pop) popStack(x.f, x.cpu);
  };

export const wait: Definition = (x) => {
  // MP and TS together: FWAIT alone looks at MP (SDM vol. 3A, table 2-2).
  const both = Cr0.MP | Cr0.TS;
  x.faultIf(x.field32(O.cr0).and(both).eq(both), Vector.NM);
  x.f.if(load32(x.cpu, O.fpuPending), () => x.faultIf(x.field32(O.cr0).and(Cr0.NE), Vector.MF));
};

/** FNENI, FNDISI, FNSETPM: nothing, and no wait for a pending exception. */
export const ignored: Definition = (x) => x.requireFpu();

export const noOperation: Definition = (x) => {
  waiting(x);
  notePointers(x);
};

// --- control ---

export const loadControl: Definition = (x) => {
  waiting(x);
  x.f.callVoid(x.shared(x87SetFcw), x.cpu, x.load(2, x.address(0)).toI32());
};

export const storeControl: Definition = (x) => {
  x.requireFpu();
  x.store(2, x.address(0), x.field32(O.fcw));
};

export const storeStatus: Definition = (x) => {
  x.requireFpu();
  const status = x.f.let(statusWord(x.cpu));
  if (x.operands.length > 0 && x.operands[0].kind === "mem") x.store(2, x.address(0), status);
  else x.setGpr(0, status, 2);
};

export const clearExceptions: Definition = (x) => {
  x.requireFpu();
  call1(x, x87Clear);
};

export const initialize: Definition = (x) => {
  x.requireFpu();
  call1(x, x87Init);
};

/** Between fpImage and guest memory at `address`, in steps of `size` bytes. */
function storeImage(x: InstrContext, address: I64, bytes: I32, size: OperandSize): void {
  const { f } = x;
  const at = f.local("i32");
  f.set(at, I32.const(0));
  f.loop((start) => {
    const from = x.cpu.add(at.get);
    const value =
      size === 8 ? load64(from, O.fpImage) : size === 4 ? load32(from, O.fpImage) : load16U(from, O.fpImage);
    x.store(size, address.add(at.get.toI64U()), value);
    f.set(at, at.get.add(size));
    f.brIf(start, at.get.ltU(bytes));
  });
}

function loadImage(x: InstrContext, address: I64, bytes: I32, size: OperandSize): void {
  const { f } = x;
  const at = f.local("i32");
  f.set(at, I32.const(0));
  f.loop((start) => {
    const value = x.load(size, address.add(at.get.toI64U()));
    const to = x.cpu.add(at.get);
    if (size === 8) f.store64(to, value as I64, O.fpImage);
    else if (size === 4) f.store32(to, value, O.fpImage);
    else f.store16(to, value, O.fpImage);
    f.set(at, at.get.add(size));
    f.brIf(start, at.get.ltU(bytes));
  });
}

/** The form of an environment: 32-bit, and real mode's. */
function environmentForm(x: InstrContext): { wide: I32; real: I32; size: OperandSize } {
  const wide = x.size !== 2;
  const real = x.long
    ? I32.const(0)
    : x.f.let(x.field32(O.cr0).and(Cr0.PE).eqz().or(x.field32(O.eflags).and(Eflags.VM).ne(0)));
  return { wide: I32.const(wide ? 1 : 0), real, size: wide ? 4 : 2 };
}

/** FNSTENV; FNSAVE, which stores the registers, too, and initializes. */
export const storeEnvironment =
  (registers: boolean): Definition =>
  (x) => {
    x.requireFpu();
    const { wide, real, size } = environmentForm(x);
    const environment = size === 4 ? Environment.BYTES32 : Environment.BYTES16;
    const bytes = registers ? environment + 80 : environment;
    probeIfCrossing(x, x.address(0), bytes);
    x.f.callVoid(x.shared(x87StoreEnvironment), x.cpu, wide, real);
    if (registers) x.f.callVoid(x.shared(x87StoreRegisters), x.cpu, I32.const(environment));
    storeImage(x, x.address(0), I32.const(bytes), size);
    call1(x, registers ? x87Init : x87MaskAll);
  };

/** FLDENV, FRSTOR. */
export const loadEnvironment =
  (registers: boolean): Definition =>
  (x) => {
    waiting(x);
    const { wide, real, size } = environmentForm(x);
    const environment = size === 4 ? Environment.BYTES32 : Environment.BYTES16;
    loadImage(x, x.address(0), I32.const(registers ? environment + 80 : environment), size);
    x.f.callVoid(x.shared(x87LoadEnvironment), x.cpu, wide, real);
    if (registers) x.f.callVoid(x.shared(x87LoadRegisters), x.cpu, I32.const(environment));
  };

/** Bytes of the FXSAVE area, with what is reserved at its end. */
const FX_AREA = 512;

const checkFxArea = (x: InstrContext) => x.faultIf(x.address(0).toI32().and(15), Vector.GP, 0);
const fxBytes = (x: InstrContext) => (x.long ? Fxsave.BYTES64 : Fxsave.BYTES);
const wideFx = (x: InstrContext) => I32.const(x.size === 8 ? 1 : 0);

/** FXSAVE, FXSAVE64 (SDM vol. 2). */
export const fxsave: Definition = (x) => {
  x.requireFpu();
  checkFxArea(x);
  // The whole area has to be there, though its end is left alone.
  probeIfCrossing(x, x.address(0), FX_AREA);
  x.f.callVoid(x.shared(fxsaveImage), x.cpu, wideFx(x));
  storeImage(x, x.address(0), I32.const(fxBytes(x)), 8);
};

export const fxrstor: Definition = (x) => {
  x.requireFpu();
  checkFxArea(x);
  x.f.drop(x.load(1, x.address(0).add(FX_AREA - 1)));
  loadImage(x, x.address(0), I32.const(fxBytes(x)), 8);
  x.faultIf(load32(x.cpu, O.fpImage + Fxsave.MXCSR).and(~MXCSR_WRITABLE), Vector.GP, 0);
  x.f.callVoid(x.shared(fxrstorImage), x.cpu, wideFx(x), I32.const(fxBytes(x) - Fxsave.XMM));
};
