/**
 * What x87 instructions other than the transcendental ones do with the register stack (SDM vol. 2, under each name).
 * Each function is an instruction without its fetch, memory operand and #NM/#MF checks; stack indices are relative to TOP.
 * Those with a result give non-zero where an unmasked exception kept the instruction from its effect (and from its pop).
 */

import { sharedFunction } from "../isa/shared-function.js";
import { O } from "../vcpu-state.js";
import { type I32, type I64, load32 } from "../wasm/expr.js";
import type { FunctionBuilder } from "../wasm/module.js";
import { controlOfFcw, FpFlag, raise } from "./control.js";
import { Relation } from "./core.js";
import { i32, i64 } from "./define.js";
import {
  f80Add,
  f80Compare,
  f80Div,
  f80Mul,
  f80Nan,
  f80RoundInt,
  f80Sqrt,
  f80Sub,
  INDEFINITE_M,
  INDEFINITE_SE,
  isNan80,
  isUnsupported80,
  Operand,
  setExponent,
} from "./f80.js";
import {
  BEFORE_COMPUTING,
  CONDITION_CODES,
  Fsw,
  fcwOf,
  physical,
  raiseIfEmpty,
  readSt,
  setCodes,
  slot,
  x87Commit,
  x87Push,
  x87Set,
} from "./x87-stack.js";

const EXPONENT = 0x7fff;

function arithmetic(name: string, operation: typeof f80Add) {
  return sharedFunction(
    name,
    ["i32", "i32", "i64", "i32", "i64", "i32"],
    "i32",
    (f, use, cpu, to, am, ase, bm, bse) => {
      const control = f.let(controlOfFcw(fcwOf(cpu)));
      f.returnCall(use(x87Set), cpu, to, f.let(f.call(use(operation), cpu, am, ase, bm, bse, control)));
    },
  );
}

/** (cpu, to, am, ase, bm, bse): ST(to) = a op b. */
export const x87Add = arithmetic("x87_add", f80Add);
export const x87Sub = arithmetic("x87_sub", f80Sub);
export const x87Mul = arithmetic("x87_mul", f80Mul);
export const x87Div = arithmetic("x87_div", f80Div);

function unary(name: string, operation: typeof f80Sqrt) {
  return sharedFunction(name, ["i32"], "i32", (f, use, cpu) => {
    const a = readSt(f, cpu, 0);
    const control = f.let(controlOfFcw(fcwOf(cpu)));
    f.returnCall(use(x87Set), cpu, i32(0), f.let(f.call(use(operation), cpu, a.m, a.se, control)));
  });
}
export const x87Sqrt = unary("x87_sqrt", f80Sqrt);
export const x87RoundInt = unary("x87_round_int", f80RoundInt);

/** FCHS and FABS: no exception but a stack underflow. */
function signChange(name: string, change: (se: I32) => I32) {
  return sharedFunction(name, ["i32"], "i32", (f, use, cpu) => {
    const a = readSt(f, cpu, 0);
    f.if(raiseIfEmpty(f, cpu, a.se), () => {
      setExponent(f, cpu, i32(INDEFINITE_SE));
      f.returnCall(use(x87Set), cpu, i32(0), i64(INDEFINITE_M));
    });
    setExponent(f, cpu, change(a.se));
    f.returnCall(use(x87Set), cpu, i32(0), a.m);
  });
}
export const x87Chs = signChange("x87_chs", (se) => se.xor(0x8000));
export const x87Abs = signChange("x87_abs", (se) => se.and(EXPONENT));

/** Relation → C3, C2, C0 (SDM vol. 2, FCOM). */
const codesOf = (relation: I32): I32 =>
  i32(0)
    .or(relation.eqz().mul(Fsw.C3))
    .or(relation.eq(Relation.LESS).mul(Fsw.C0))
    .or(relation.eq(Relation.UNORDERED).mul(Fsw.C0 | Fsw.C2 | Fsw.C3));

/** FCOMI and FCMOV leave C1 alone but for a stack fault: do `commit`, which clears it, and put it back. */
function keepC1(f: FunctionBuilder, cpu: I32, commit: () => I32): I32 {
  const c1 = f.let(load32(cpu, O.fsw).and(Fsw.C1));
  const fault = f.let(load32(cpu, O.fpFlags).and(FpFlag.SF));
  const blocked = commit();
  f.store32(cpu, load32(cpu, O.fsw).or(i32(0).select(fault, c1)), O.fsw);
  return blocked;
}

const COMPARE = ["i32", "i64", "i32", "i64", "i32", "i32"] as const;

/** FCOM, FUCOM (`quiet` not 0): compare a with b, set the condition codes. */
export const x87Compare = sharedFunction(
  "x87_compare",
  COMPARE,
  "i32",
  (f, use, cpu, am, ase, bm, bse, quiet) => {
    const relation = f.let(f.call(use(f80Compare), cpu, am, ase, bm, bse, quiet));
    const blocked = f.let(f.call(use(x87Commit), cpu, i32(BEFORE_COMPUTING)));
    setCodes(f, cpu, codesOf(relation));
    f.return(blocked);
  },
);

/** FCOMI, FUCOMI: ZF, PF, CF in their EFLAGS places; bit 31 set where an unmasked exception keeps the stack from its pop. */
export const x87CompareFlags = sharedFunction(
  "x87_compare_flags",
  COMPARE,
  "i32",
  (f, use, cpu, am, ase, bm, bse, quiet) => {
    const relation = f.let(f.call(use(f80Compare), cpu, am, ase, bm, bse, quiet));
    const blocked = keepC1(f, cpu, () => f.let(f.call(use(x87Commit), cpu, i32(BEFORE_COMPUTING))));
    // Equal ZF, less CF, greater none, unordered all.
    const flags = i32(0x45_00_01_40).shrU(relation.shl(3)).and(0xff);
    f.return(flags.or(blocked.ne(0).shl(31)));
  },
);

/** FXAM: the class of ST(0) (SDM vol. 2, table 3-35). */
export const x87Examine = sharedFunction("x87_xam", ["i32"], "i32", (f, _use, cpu) => {
  const { m, se } = readSt(f, cpu, 0);
  const codes = f.local("i32");
  const exponent = f.let(se.and(EXPONENT));
  const when = (condition: I32, value: number) => f.set(codes, i32(value).select(condition, codes.get));
  f.set(codes, i32(Fsw.C2));
  when(exponent.eqz(), Fsw.C2 | Fsw.C3);
  when(exponent.eqz().and(m.eqz()), Fsw.C3);
  when(exponent.eq(EXPONENT), Fsw.C0 | Fsw.C2);
  when(isNan80(m, se), Fsw.C0);
  when(isUnsupported80(m, se), 0);
  when(se.and(Operand.EMPTY), Fsw.C0 | Fsw.C3);
  const c1 = se.shrU(15).and(1).mul(Fsw.C1);
  f.store32(cpu, load32(cpu, O.fsw).and(~CONDITION_CODES).or(codes.get).or(c1), O.fsw);
  f.return(i32(0));
});

/** FST, FSTP ST(i), FLD ST(i) and FCMOV's move: the bits as they are; no exception but a stack fault. */
export const x87Copy = sharedFunction("x87_copy", ["i32", "i32", "i32"], "i32", (f, use, cpu, to, from) => {
  const a = readSt(f, cpu, from);
  const m = f.local("i64");
  f.set(m, a.m);
  setExponent(f, cpu, a.se.and(0xffff));
  f.if(raiseIfEmpty(f, cpu, a.se), () => {
    setExponent(f, cpu, i32(INDEFINITE_SE));
    f.set(m, i64(INDEFINITE_M));
  });
  f.returnCall(use(x87Set), cpu, to, m.get);
});

/** FCMOVcc ST(0), ST(i): an empty register is a stack underflow whether or not the condition holds. */
export const x87MoveIf = sharedFunction("x87_cmov", ["i32", "i32", "i32"], "i32", (f, use, cpu, i, holds) => {
  const a = readSt(f, cpu, 0);
  const b = readSt(f, cpu, i);
  const m = f.local("i64");
  f.set(m, b.m.select(holds, a.m));
  setExponent(f, cpu, b.se.select(holds, a.se).and(0xffff));
  f.if(raiseIfEmpty(f, cpu, a.se.or(b.se)), () => {
    setExponent(f, cpu, i32(INDEFINITE_SE));
    f.set(m, i64(INDEFINITE_M));
  });
  f.return(keepC1(f, cpu, () => f.let(f.call(use(x87Set), cpu, i32(0), m.get))));
});

export const x87LoadSt = sharedFunction("x87_load_st", ["i32", "i32"], "i32", (f, use, cpu, from) => {
  const a = readSt(f, cpu, from);
  const m = f.local("i64");
  f.set(m, a.m);
  setExponent(f, cpu, a.se.and(0xffff));
  f.if(raiseIfEmpty(f, cpu, a.se), () => {
    setExponent(f, cpu, i32(INDEFINITE_SE));
    f.set(m, i64(INDEFINITE_M));
  });
  f.returnCall(use(x87Push), cpu, m.get);
});

/** FXCH ST(i). An empty register is filled with the default NaN first (SDM vol. 2, FXCH; masked response). */
export const x87Exchange = sharedFunction("x87_xch", ["i32", "i32"], undefined, (f, use, cpu, i) => {
  const a = readSt(f, cpu, 0);
  const b = readSt(f, cpu, i);
  raiseIfEmpty(f, cpu, a.se.or(b.se));
  f.if(f.call(use(x87Commit), cpu, i32(BEFORE_COMPUTING)), () => f.return());
  const put = (index: I32 | number, { m, se }: { m: I64; se: I32 }) => {
    const at = f.let(slot(cpu, f.let(physical(cpu, index))));
    const empty = f.let(se.and(Operand.EMPTY));
    f.store64(at, i64(INDEFINITE_M).select(empty, m), O.fpr);
    f.store16(at, i32(INDEFINITE_SE).select(empty, se), O.fpr + 8);
  };
  put(0, b);
  put(i, a);
  const tags = i32(1)
    .shl(physical(cpu, 0))
    .or(i32(1).shl(physical(cpu, i)));
  f.store32(cpu, load32(cpu, O.ftag).or(tags), O.ftag);
});

/** FLD m32fp, m64fp: push operand m, fpExp, which f80FromF32 or f80FromF64 made. */
export const x87LoadWidened = sharedFunction("x87_load", ["i32", "i64"], "i32", (f, use, cpu, m) => {
  const se = f.let(load32(cpu, O.fpExp));
  f.if(isNan80(m, se), () => f.returnCall(use(x87Push), cpu, f.let(f.call(use(f80Nan), cpu, m, se, m, se))));
  raise(f, cpu, se.and(Operand.DENORMAL).shrU(15));
  f.returnCall(use(x87Push), cpu, m);
});
