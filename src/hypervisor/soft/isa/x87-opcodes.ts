/** Opcode table of the x87 instructions (SDM vol. 1, 8.3; vol. 2, tables ), FWAIT, FXSAVE and FXRSTOR. */

import { x87Abs, x87Chs, x87Examine, x87RoundInt, x87Sqrt } from "../fpu/x87-basic.js";
import { x87Constants } from "../fpu/x87-constants.js";
import { x87Extract, x87Scale } from "../fpu/x87-scale.js";
import {
  x87Atan,
  x87Cos,
  x87Exp2Minus1,
  x87Sin,
  x87SinCos,
  x87Tan,
  x87Yl2x,
  x87Yl2xp1,
} from "../fpu/x87-transcendental.js";
import { type OpcodeOptions, type OpcodeRow, op } from "./opcode-table.js";
import * as a from "./x87-arithmetic.js";
import * as c from "./x87-control.js";
import * as t from "./x87-transfer.js";

const { add, sub, mul, div } = a.x87Operations;
const REVERSE = { reverse: true };
const POP = { pop: true };
const QUIET = { quiet: true };
/** The form of the environment depends on the operand size, and in 16- and 32-bit modes on the mode. */
const SIZED: OpcodeOptions = { sized: true, modal: true };

/** The six arithmetic operations and two comparisons that a group with a memory operand has, in the order of ModRM.reg. */
const memoryGroup = (byte: string, code: string, form: a.MemoryForm, letter: string): OpcodeRow[] => [
  op(`${byte} /0 mem`, `F${letter}ADD`, code, a.withMemory(add, form)),
  op(`${byte} /1 mem`, `F${letter}MUL`, code, a.withMemory(mul, form)),
  op(`${byte} /2 mem`, `F${letter}COM`, code, a.compareMemory(form)),
  op(`${byte} /3 mem`, `F${letter}COMP`, code, a.compareMemory(form, { pops: 1 })),
  op(`${byte} /4 mem`, `F${letter}SUB`, code, a.withMemory(sub, form)),
  op(`${byte} /5 mem`, `F${letter}SUBR`, code, a.withMemory(sub, form, REVERSE)),
  op(`${byte} /6 mem`, `F${letter}DIV`, code, a.withMemory(div, form)),
  op(`${byte} /7 mem`, `F${letter}DIVR`, code, a.withMemory(div, form, REVERSE)),
];

/** FCMOVcc in DA, and in DB with the opposite conditions: B, E, BE, U as condition codes of Jcc. */
const MOVES = [
  ["B", 0x2],
  ["E", 0x4],
  ["BE", 0x6],
  ["U", 0xa],
] as const;

const CONSTANTS = ["FLD1", "FLDL2T", "FLDL2E", "FLDPI", "FLDLG2", "FLDLN2", "FLDZ"];

export const X87_OPCODES: OpcodeRow[] = [
  ...memoryGroup("D8", "Md", "f32", ""),
  ...memoryGroup("DC", "Mq", "f64", ""),
  ...memoryGroup("DA", "Md", "i32", "I"),
  ...memoryGroup("DE", "Mw", "i16", "I"),

  op("D8 /0 reg", "FADD", "T", a.toTop(add)),
  op("D8 /1 reg", "FMUL", "T", a.toTop(mul)),
  op("D8 /2 reg", "FCOM", "T", a.compareRegister()),
  op("D8 /3 reg", "FCOMP", "T", a.compareRegister({ pops: 1 })),
  op("D8 /4 reg", "FSUB", "T", a.toTop(sub)),
  op("D8 /5 reg", "FSUBR", "T", a.toTop(sub, REVERSE)),
  op("D8 /6 reg", "FDIV", "T", a.toTop(div)),
  op("D8 /7 reg", "FDIVR", "T", a.toTop(div, REVERSE)),

  op("D9 /0 mem", "FLD", "Md", t.load("f32")),
  op("D9 /2 mem", "FST", "Md", t.store("f32", false)),
  op("D9 /3 mem", "FSTP", "Md", t.store("f32", true)),
  op("D9 /4 mem", "FLDENV", "M28", c.loadEnvironment(false), SIZED),
  op("D9 /5 mem", "FLDCW", "Mw", c.loadControl),
  op("D9 /6 mem", "FNSTENV", "M28", c.storeEnvironment(false), SIZED),
  op("D9 /7 mem", "FNSTCW", "Mw", c.storeControl),
  op("D9 /0 reg", "FLD", "T", t.loadRegister),
  op("D9 /1 reg", "FXCH", "T", t.exchange),
  op("D9 =D0", "FNOP", "", c.noOperation),
  op("D9 /3 reg", "FSTP", "T", t.storeRegisterQuietly),
  op("D9 =E0", "FCHS", "", a.whole(x87Chs)),
  op("D9 =E1", "FABS", "", a.whole(x87Abs)),
  op("D9 =E4", "FTST", "", a.test),
  op("D9 =E5", "FXAM", "", a.whole(x87Examine)),
  ...CONSTANTS.map((name, i) =>
    op(`D9 =${(0xe8 + i).toString(16).toUpperCase()}`, name, "", t.loadConstant(x87Constants[i])),
  ),
  op("D9 =F0", "F2XM1", "", a.whole(x87Exp2Minus1)),
  op("D9 =F1", "FYL2X", "", a.whole(x87Yl2x)),
  op("D9 =F2", "FPTAN", "", a.whole(x87Tan)),
  op("D9 =F3", "FPATAN", "", a.whole(x87Atan)),
  op("D9 =F4", "FXTRACT", "", a.whole(x87Extract)),
  op("D9 =F5", "FPREM1", "", a.remainder(true)),
  op("D9 =F6", "FDECSTP", "", c.moveTop(-1)),
  op("D9 =F7", "FINCSTP", "", c.moveTop(1)),
  op("D9 =F8", "FPREM", "", a.remainder(false)),
  op("D9 =F9", "FYL2XP1", "", a.whole(x87Yl2xp1)),
  op("D9 =FA", "FSQRT", "", a.whole(x87Sqrt)),
  op("D9 =FB", "FSINCOS", "", a.whole(x87SinCos)),
  op("D9 =FC", "FRNDINT", "", a.whole(x87RoundInt)),
  op("D9 =FD", "FSCALE", "", a.whole(x87Scale)),
  op("D9 =FE", "FSIN", "", a.whole(x87Sin)),
  op("D9 =FF", "FCOS", "", a.whole(x87Cos)),

  ...MOVES.flatMap(([name, condition], i) => [
    op(`DA /${i} reg`, `FCMOV${name}`, "T", t.moveIf(condition)),
    op(`DB /${i} reg`, `FCMOVN${name}`, "T", t.moveIf(condition + 1)),
  ]),
  op("DA =E9", "FUCOMPP", "", a.compareRegister({ ...QUIET, pops: 2 })),

  op("DB /0 mem", "FILD", "Md", t.load("i32")),
  op("DB /1 mem", "FISTTP", "Md", t.storeInteger(4, { pop: true, truncate: true })),
  op("DB /2 mem", "FIST", "Md", t.storeInteger(4, { pop: false })),
  op("DB /3 mem", "FISTP", "Md", t.storeInteger(4, POP)),
  op("DB /5 mem", "FLD", "Mt", t.loadExtended),
  op("DB /7 mem", "FSTP", "Mt", t.storeExtended),
  // 8087 and 80287 instructions that do nothing since (SDM vol. 3B, 23.18.8).
  op("DB =E0", "FNENI", "", c.ignored),
  op("DB =E1", "FNDISI", "", c.ignored),
  op("DB =E2", "FNCLEX", "", c.clearExceptions),
  op("DB =E3", "FNINIT", "", c.initialize),
  op("DB =E4", "FNSETPM", "", c.ignored),
  op("DB /5 reg", "FUCOMI", "T", a.compareToFlags(QUIET)),
  op("DB /6 reg", "FCOMI", "T", a.compareToFlags()),

  op("DC /0 reg", "FADD", "T", a.toOther(add)),
  op("DC /1 reg", "FMUL", "T", a.toOther(mul)),
  op("DC /2 reg", "FCOM", "T", a.compareRegister()),
  op("DC /3 reg", "FCOMP", "T", a.compareRegister({ pops: 1 })),
  op("DC /4 reg", "FSUBR", "T", a.toOther(sub, REVERSE)),
  op("DC /5 reg", "FSUB", "T", a.toOther(sub)),
  op("DC /6 reg", "FDIVR", "T", a.toOther(div, REVERSE)),
  op("DC /7 reg", "FDIV", "T", a.toOther(div)),

  op("DD /0 mem", "FLD", "Mq", t.load("f64")),
  op("DD /1 mem", "FISTTP", "Mq", t.storeInteger(8, { pop: true, truncate: true })),
  op("DD /2 mem", "FST", "Mq", t.store("f64", false)),
  op("DD /3 mem", "FSTP", "Mq", t.store("f64", true)),
  op("DD /4 mem", "FRSTOR", "M108", c.loadEnvironment(true), SIZED),
  op("DD /6 mem", "FNSAVE", "M108", c.storeEnvironment(true), SIZED),
  op("DD /7 mem", "FNSTSW", "Mw", c.storeStatus),
  op("DD /0 reg", "FFREE", "T", c.free(false)),
  op("DD /1 reg", "FXCH", "T", t.exchange),
  op("DD /2 reg", "FST", "T", t.storeRegister(false)),
  op("DD /3 reg", "FSTP", "T", t.storeRegister(true)),
  op("DD /4 reg", "FUCOM", "T", a.compareRegister(QUIET)),
  op("DD /5 reg", "FUCOMP", "T", a.compareRegister({ ...QUIET, pops: 1 })),

  op("DE /0 reg", "FADDP", "T", a.toOther(add, POP)),
  op("DE /1 reg", "FMULP", "T", a.toOther(mul, POP)),
  op("DE /2 reg", "FCOMP", "T", a.compareRegister({ pops: 1 })),
  op("DE =D9", "FCOMPP", "", a.compareRegister({ pops: 2 })),
  op("DE /4 reg", "FSUBRP", "T", a.toOther(sub, { ...REVERSE, ...POP })),
  op("DE /5 reg", "FSUBP", "T", a.toOther(sub, POP)),
  op("DE /6 reg", "FDIVRP", "T", a.toOther(div, { ...REVERSE, ...POP })),
  op("DE /7 reg", "FDIVP", "T", a.toOther(div, POP)),

  op("DF /0 mem", "FILD", "Mw", t.load("i16")),
  op("DF /1 mem", "FISTTP", "Mw", t.storeInteger(2, { pop: true, truncate: true })),
  op("DF /2 mem", "FIST", "Mw", t.storeInteger(2, { pop: false })),
  op("DF /3 mem", "FISTP", "Mw", t.storeInteger(2, POP)),
  op("DF /4 mem", "FBLD", "Mt", t.loadBcd),
  op("DF /5 mem", "FILD", "Mq", t.load("i64")),
  op("DF /6 mem", "FBSTP", "Mt", t.storeBcd),
  op("DF /7 mem", "FISTP", "Mq", t.storeInteger(8, POP)),
  op("DF /0 reg", "FFREEP", "T", c.free(true)),
  op("DF /1 reg", "FXCH", "T", t.exchange),
  op("DF /2 reg", "FSTP", "T", t.storeRegister(true)),
  op("DF /3 reg", "FSTP", "T", t.storeRegister(true)),
  op("DF =E0", "FNSTSW", "", c.storeStatus),
  op("DF /5 reg", "FUCOMIP", "T", a.compareToFlags({ ...QUIET, pops: 1 })),
  op("DF /6 reg", "FCOMIP", "T", a.compareToFlags({ pops: 1 })),

  op("9B", "FWAIT", "", c.wait),

  op("NP 0F AE /0 mem", "FXSAVE", "M512", c.fxsave, SIZED),
  op("NP 0F AE /1 mem", "FXRSTOR", "M512", c.fxrstor, SIZED),
];
