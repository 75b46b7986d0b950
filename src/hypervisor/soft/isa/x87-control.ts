/** x87 control instructions, state images and FXSAVE (SDM vol. 1, 8.3.11 and 10.5). */
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
import { physical, popStack } from "../fpu/x87-stack.js";
import { Cr0, Eflags, O, Vector } from "../vcpu-state.js";
import { I32, type I64, load16U, load32, load64 } from "../wasm/expr.js";
import type { Definition, InstrContext, OperandSize, SharedFunction } from "./context.js";
import { clearC1, notePointers, probeIfCrossing, waiting } from "./x87.js";

const call1 = (x: InstrContext, f: SharedFunction<readonly ["i32"], undefined>) =>
  x.f.callVoid(x.shared(f), x.cpu);

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
  x.withVectorsInState(() => x.f.callVoid(x.shared(fxsaveImage), x.cpu, wideFx(x)));
  storeImage(x, x.address(0), I32.const(fxBytes(x)), 8);
};

export const fxrstor: Definition = (x) => {
  x.requireFpu();
  checkFxArea(x);
  x.f.drop(x.load(1, x.address(0).add(FX_AREA - 1)));
  loadImage(x, x.address(0), I32.const(fxBytes(x)), 8);
  x.faultIf(load32(x.cpu, O.fpImage + Fxsave.MXCSR).and(~MXCSR_WRITABLE), Vector.GP, 0);
  x.withVectorsInState(() =>
    x.f.callVoid(x.shared(fxrstorImage), x.cpu, wideFx(x), I32.const(fxBytes(x) - Fxsave.XMM)),
  );
};
