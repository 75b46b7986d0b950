/**
 * What the manuals leave undefined, or what differs between AMD's and Intel's processors, so that it is not compared.
 * Each entry can be checked against "Flags Affected" (and the notes) of the instruction in SDM vol. 2.
 */
import type { CpuCase } from "./cpu-case.js";
import type { Form } from "./forms.js";

const CF = 0x001;
const PF = 0x004;
const AF = 0x010;
const ZF = 0x040;
const SF = 0x080;
const OF = 0x800;
const RF = 0x10000;
export const ARITHMETIC_FLAGS = CF | PF | AF | ZF | SF | OF;

/** Condition code bits of the x87 status word (SDM vol. 1, 8.1.3.1). */
const C0 = 0x0100;
const C1 = 0x0200;
const C2 = 0x0400;
const C3 = 0x4000;
export const CONDITION_CODES = C0 | C1 | C2 | C3;

export interface Undefined {
  /** RFLAGS bits. */
  flags: number;
  /** x87 status word bits. */
  fsw: number;
  /** General registers: bits not compared, by register number. */
  gpr: Map<number, bigint>;
  /** CR2 and the error code's P bit, where an access of many parts may meet any of its pages first. */
  faultAddress: boolean;
  /** x87 registers, tags and TOP. */
  x87: boolean;
  /** Bytes below the stack pointer. */
  belowStack: number;
  /** Bytes of the memory operand: [offset, length]. */
  memory: (readonly [number, number])[];
  /** The case says nothing: not compared at all. */
  everything: boolean;
  /** The x87, MMX or SSE result may be off by this much (units in the last place of 80-bit values; relative for RCP). */
  tolerance: "none" | "ulp80" | "approximate";
}

const FLAGS: readonly (readonly [RegExp, number])[] = [
  [/^(AND|OR|XOR|TEST)$/, AF],
  [/^I?MUL$/, SF | ZF | AF | PF],
  [/^I?DIV$/, ARITHMETIC_FLAGS],
  [/^BS[FR]$/, CF | OF | SF | AF | PF],
  [/^BT[SRC]?$/, OF | SF | AF | PF],
  [/^(LZCNT|TZCNT)$/, OF | SF | AF | PF],
  [/^AA[AS]$/, OF | SF | ZF | PF],
  [/^AA[MD]$/, OF | AF | CF],
  [/^DA[AS]$/, OF],
  // The image that a trap between two elements pushes: Intel's processors set RF, AMD's do not (SDM vol. 3B, 18.3.1.1).
  [/^(MOVS|STOS|LODS|CMPS|SCAS|INS|OUTS)$/, RF],
];

/** The count of a shift or rotate as the processor masks it. */
function shiftCount(form: Form, test: CpuCase): number {
  const mask = form.row.operands[0].type !== "b" && form.size === 8 ? 0x3f : 0x1f;
  const last = form.row.operands.at(-1)!;
  if (last.method === "CL") return Number(test.gpr[1] & 0xffn) & mask;
  if (last.method === "I") return (test.code.at(-1) ?? 0) & mask;
  return 1;
}

function operandBits(form: Form): number {
  return form.row.operands[0].type === "b" ? 8 : 8 * form.size;
}

/** CF is undefined where a shift's count is as large as the operand; OF is defined only for a count of 1. */
function shifts(form: Form, test: CpuCase, out: Undefined): void {
  const count = shiftCount(form, test);
  if (count === 0) return;
  out.flags |= AF;
  if (count !== 1) out.flags |= OF;
  if (/^(SH[LR]|SAL)$/.test(form.row.mnemonic) && count >= operandBits(form)) out.flags |= CF;
}

function rotates(form: Form, test: CpuCase, out: Undefined): void {
  if (shiftCount(form, test) > 1) out.flags |= OF;
}

function doubleShifts(form: Form, test: CpuCase, out: Undefined): void {
  const count = shiftCount(form, test);
  if (count === 0) return;
  out.flags |= AF;
  if (count !== 1) out.flags |= OF;
  // A count above the operand size leaves the result undefined too.
  if (count > operandBits(form)) out.everything = true;
}

/** Bits 16–19 of what LAR gives are undefined (SDM vol. 2, LAR). */
const LAR_UNDEFINED = 0x000f0000n;

const SPECIAL: readonly (readonly [RegExp, (form: Form, test: CpuCase, out: Undefined) => void])[] = [
  [/^(SH[LR]|SA[LR])$/, shifts],
  [/^(RO|RC)[LR]$/, rotates],
  [/^SH[LR]D$/, doubleShifts],
  [
    /^LAR$/,
    (_form, _test, out) => {
      for (let i = 0; i < 16; i++) out.gpr.set(i, LAR_UNDEFINED);
    },
  ],
  // BSWAP of a 16-bit register is undefined.
  [
    /^BSWAP$/,
    (form, _test, out) => {
      if (form.size === 2) out.everything = true;
    },
  ],
  // The last instruction's opcode and pointers: AMD's processors keep them only with an exception pending (APM vol. 2,
  // 11.4.4), and Intel's newer ones have other rules for FOP, FCS and FDS. MXCSR_MASK is the processor's.
  [
    /^F(NSAVE|NSTENV)$/,
    (form, _test, out) => {
      out.memory.push(form.size === 2 ? [6, 8] : [12, 16]);
    },
  ],
  [
    /^FXSAVE$/,
    (_form, _test, out) => {
      out.memory.push([6, 18], [28, 4]);
    },
  ],
  [
    /^F(FREEP?|NOP|NCLEX|WAIT|LDCW|NENI|NDISI|NSETPM)$/,
    (_form, _test, out) => {
      out.fsw |= C0 | C1 | C2 | C3;
    },
  ],
  // The x87 leaves C0, C2, C3 undefined after most instructions; C1 where no rounding is told.
  [
    /^F(ADD|SUB|MUL|DIV|IADD|ISUB|IMUL|IDIV|LD|ST|IST|ILD|BLD|BST|CHS|ABS|SQRT|RNDINT|SCALE|XTRACT|XCH|INCSTP|DECSTP|CMOV|2XM1|YL2X|PATAN|PTAN|SIN|COS)\w*$/,
    (form, _test, out) => {
      // FLDENV loads them; FPTAN, FSIN, FCOS and FSINCOS define C2.
      if (form.row.mnemonic === "FLDENV") return;
      out.fsw |= C0 | C3;
      if (!/^F(PTAN|SIN|COS|SINCOS)$/.test(form.row.mnemonic)) out.fsw |= C2;
    },
  ],
  [
    /^F(2XM1|YL2X|YL2XP1|PATAN|PTAN|SIN|COS|SINCOS)$/,
    (_form, _test, out) => {
      // Computed to within one unit in the last place; processors differ in the last bits and so in PE and C1.
      out.tolerance = "ulp80";
      out.fsw |= C1;
    },
  ],
  [
    /^(RCP|RSQRT)[PS]S$/,
    (_form, _test, out) => {
      // Relative error below 1.5 × 2^-12; the tables in the processor are its own.
      out.tolerance = "approximate";
    },
  ],
];

export function nothingUndefined(): Undefined {
  return {
    flags: 0,
    fsw: 0,
    gpr: new Map(),
    faultAddress: false,
    x87: false,
    belowStack: 0,
    memory: [],
    everything: false,
    tolerance: "none",
  };
}

/** After a fault: the instruction was not done, so hardly anything. */
export function undefinedAtFault(form: Form): Undefined {
  const out = nothingUndefined();
  const { mnemonic } = form.row;
  // Many accesses, in an order that is each processor's own.
  out.faultAddress =
    /^(F(XSAVE|XRSTOR|NSAVE|RSTOR|NSTENV|LDENV)|MASKMOVQ|MASKMOVDQU|IRET)$/.test(mnemonic) ||
    /^(CA|CB|9A|FF \/3)$/.test(form.row.encoding);
  // AMD's processors are in MMX mode by the time the store faults.
  out.x87 = mnemonic === "MASKMOVQ";
  // AMD's processors push the return address before they check the target.
  if (/^(9A|FF \/3)$/.test(form.row.encoding)) out.belowStack = 16;
  return out;
}

export function undefinedAfter(form: Form, test: CpuCase): Undefined {
  const out = nothingUndefined();
  const { mnemonic } = form.row;
  for (const [pattern, flags] of FLAGS) if (pattern.test(mnemonic)) out.flags |= flags;
  for (const [pattern, apply] of SPECIAL) if (pattern.test(mnemonic)) apply(form, test, out);
  return out;
}
