/** x87 arithmetic, comparison and transcendental instructions (SDM vol. 1, 8.3.5–8.3.7). */
import { f80FromF32, f80FromF64, f80FromInt } from "../fpu/f80.js";
import { x87Add, x87Compare, x87CompareFlags, x87Div, x87Mul, x87Sub } from "../fpu/x87-basic.js";
import { x87Remainder } from "../fpu/x87-scale.js";
import type { StackOperand } from "../fpu/x87-stack.js";
import { O } from "../vcpu-state.js";
import { I32, I64, load32 } from "../wasm/expr.js";
import type { Definition, InstrContext, SharedFunction } from "./context.js";
import { begin, notePointers, popUnless, st } from "./x87.js";

/** How a memory operand becomes an 80-bit operand. */
export type MemoryForm = "f32" | "f64" | "i16" | "i32" | "i64";

/** The operand in memory, read and widened. */
export function memoryOperand(x: InstrContext, form: MemoryForm): StackOperand {
  const address = x.address(0);
  let m: I64;
  switch (form) {
    case "f32":
      m = x.f.call(x.shared(f80FromF32), x.cpu, x.load(4, address).toI64U());
      break;
    case "f64":
      m = x.f.call(x.shared(f80FromF64), x.cpu, x.load(8, address).toI64U());
      break;
    case "i16":
      m = x.f.call(x.shared(f80FromInt), x.cpu, x.load(2, address).extend16S().toI64S());
      break;
    case "i32":
      m = x.f.call(x.shared(f80FromInt), x.cpu, x.load(4, address).toI64S());
      break;
    case "i64":
      m = x.f.call(x.shared(f80FromInt), x.cpu, x.load(8, address).toI64S());
      break;
  }
  const fraction = x.f.let(m);
  notePointers(x, address);
  return { m: fraction, se: x.f.let(load32(x.cpu, O.fpExp)) };
}

type Arithmetic = typeof x87Add;
interface ArithmeticOptions {
  /** FSUBR, FDIVR: the operands change places. */
  reverse?: boolean;
  pop?: boolean;
}

function arithmetic(
  x: InstrContext,
  operation: Arithmetic,
  to: I32,
  a: StackOperand,
  b: StackOperand,
  { reverse = false, pop = false }: ArithmeticOptions,
): void {
  const [l, r] = reverse ? [b, a] : [a, b];
  const blocked = x.f.let(x.f.call(x.shared(operation), x.cpu, to, l.m, l.se, r.m, r.se));
  if (pop) popUnless(x, blocked);
}

/** ST(0) = ST(0) op memory. */
export const withMemory =
  (operation: Arithmetic, form: MemoryForm, options: ArithmeticOptions = {}): Definition =>
  (x) => {
    begin(x);
    const source = memoryOperand(x, form);
    arithmetic(x, operation, I32.const(0), st(x, 0), source, options);
  };

/** ST(0) = ST(0) op ST(i). */
export const toTop =
  (operation: Arithmetic, options: ArithmeticOptions = {}): Definition =>
  (x) => {
    begin(x);
    notePointers(x);
    arithmetic(x, operation, I32.const(0), st(x, 0), st(x, x.number(0)), options);
  };

/** ST(i) = ST(i) op ST(0), and maybe a pop. */
export const toOther =
  (operation: Arithmetic, options: ArithmeticOptions = {}): Definition =>
  (x) => {
    begin(x);
    notePointers(x);
    const i = x.number(0);
    arithmetic(x, operation, i, st(x, i), st(x, 0), options);
  };

export const x87Operations = { add: x87Add, sub: x87Sub, mul: x87Mul, div: x87Div };

interface CompareOptions {
  /** FUCOM: quiet NaNs are not invalid. */
  quiet?: boolean;
  pops?: number;
}

function compare(x: InstrContext, source: StackOperand, { quiet = false, pops = 0 }: CompareOptions): void {
  const a = st(x, 0);
  const blocked = x.f.let(
    x.f.call(x.shared(x87Compare), x.cpu, a.m, a.se, source.m, source.se, I32.const(quiet ? 1 : 0)),
  );
  if (pops > 0) popUnless(x, blocked, pops);
}

export const compareMemory =
  (form: MemoryForm, options: CompareOptions = {}): Definition =>
  (x) => {
    begin(x);
    compare(x, memoryOperand(x, form), options);
  };

/** FCOM ST(i); FCOMPP and FUCOMPP compare with ST(1). */
export const compareRegister =
  (options: CompareOptions = {}): Definition =>
  (x) => {
    begin(x);
    notePointers(x);
    compare(x, st(x, x.operands.length > 0 ? x.number(0) : 1), options);
  };

/** FTST: with +0. */
export const test: Definition = (x) => {
  begin(x);
  notePointers(x);
  compare(x, { m: I64.const(0), se: I32.const(0) }, {});
};

const BLOCKED = 0x80000000;

/** FCOMI, FUCOMI (SDM vol. 2): ZF, PF and CF; OF, SF and AF are cleared. */
export const compareToFlags =
  ({ quiet = false, pops = 0 }: CompareOptions = {}): Definition =>
  (x) => {
    begin(x);
    notePointers(x);
    const a = st(x, 0);
    const b = st(x, x.number(0));
    const flags = x.f.let(
      x.f.call(x.shared(x87CompareFlags), x.cpu, a.m, a.se, b.m, b.se, I32.const(quiet ? 1 : 0)),
    );
    x.setFlagsWord(x.f.let(flags.and(0xff)));
    if (pops > 0) popUnless(x, flags.and(BLOCKED), pops);
  };

/** An instruction on ST(0), or on ST(0) and ST(1), that its function does whole. */
export const whole =
  (operation: SharedFunction<readonly ["i32"], "i32">): Definition =>
  (x) => {
    begin(x);
    notePointers(x);
    x.f.drop(x.f.call(x.shared(operation), x.cpu));
  };

/** FPREM, FPREM1. */
export const remainder =
  (nearest: boolean): Definition =>
  (x) => {
    begin(x);
    notePointers(x);
    x.f.drop(x.f.call(x.shared(x87Remainder), x.cpu, I32.const(nearest ? 1 : 0)));
  };
