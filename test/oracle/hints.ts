/**
 * Set-ups by mnemonic: what random registers would rarely or never meet by themselves (a division that does not fault, a
 * compare-and-exchange that succeeds), and what must not be left to chance (return addresses, string pointers).
 */
import { codeAddress } from "./addressing.js";
import { DATA_BASE, DATA_WRITABLE, Fx } from "./cpu-case.js";
import type { Draft } from "./draft.js";
import { float32, float64, float80, fxImage, integer, mxcsr, packedDecimal, vector } from "./values.js";

const RAX = 0;
const RCX = 1;
const RDX = 2;
const RBX = 3;
const RSP = 4;
const RBP = 5;
const RSI = 6;
const RDI = 7;

/** MXCSR.MM, which only AMD's processors have. */
const MISALIGNED_SSE = 1 << 17;

/** RFLAGS.AC. */
const AC = 1 << 18;

const MASK: Record<number, bigint> = { 1: 0xffn, 2: 0xffffn, 4: 0xffffffffn, 8: 0xffffffffffffffffn };

export interface Hint {
  /** Mnemonics, whole. */
  readonly mnemonics: RegExp;
  /** Opcode maps it is for; all where left out (MOVSD and CMPSD are also SSE instructions). */
  readonly map?: string;
  /** Before the memory operand is encoded. */
  readonly before?: (d: Draft) => void;
  /** After: registers that address memory keep what they have. */
  readonly after?: (d: Draft) => void;
}

/** Merge `value` into the low `size` bytes of a register. */
function setLow(d: Draft, register: number, value: bigint, size: number): void {
  const mask = MASK[size];
  d.gpr[register] = (d.gpr[register] & ~mask) | (value & mask);
}

/** Bytes of operand 0. */
function operandSize(d: Draft): number {
  return d.form.row.operands[0]?.type === "b" ? 1 : d.form.size;
}

/** Number of the general register that a register operand of `size` names; AH–BH give their register and a shift. */
function byteRegister(d: Draft, number: number, size: number): { register: number; shift: bigint } {
  const high = size === 1 && number >= 4 && number < 8 && !d.rex;
  return { register: high ? number - 4 : number, shift: high ? 8n : 0n };
}

function readRm(d: Draft, size: number): bigint {
  if (d.form.mod === "mem") return d.peek(d.target, size);
  const { register, shift } = byteRegister(d, d.rm, size);
  return (d.gpr[register] >> shift) & MASK[size];
}

function strings(d: Draft): void {
  const { random, form } = d;
  const size = d.form.row.operands.some((o) => o.type === "b" || o.text === "AL") ? 1 : form.size;
  let count = BigInt(random.below(24));
  if (random.chance(0.1)) count = BigInt(random.below(0x2000 / size));
  if (random.chance(0.03)) count = integer(random);
  const reach = form.rep === "none" ? size : Math.min(Number(count), 24) * size + size;
  d.gpr[RSI] = d.pointer(reach) - d.segmentBase;
  d.gpr[RDI] = d.pointer(reach);
  // Not far apart: overlapping moves. With garbage above a 16-bit address, the processor this was written on (AMD
  // family 1Ah) takes fast paths that it should not, so that what overlaps comes out wrong.
  if (form.row.mnemonic === "MOVS" && form.addressSize === 2) {
    d.gpr[RSI] &= 0xffffn;
    d.gpr[RDI] &= 0xffffn;
  }
  if (random.chance(0.2)) d.gpr[RDI] = d.gpr[RSI] + d.segmentBase + BigInt(random.below(64) - 32);
  if (form.rep !== "none") {
    const garbage = form.bitness === 64 && form.addressSize === 4 ? random.u64() & ~0xffffffffn : 0n;
    d.gpr[RCX] = (count & MASK[form.addressSize]) | garbage;
  }
  if (random.chance(0.5)) {
    // Equal strings, with a difference somewhere, for REPE; all equal to the accumulator, for SCAS.
    const element = random.chance(0.5) ? random.bytes(size) : bytesOf(d.gpr[RAX], size);
    const run = new Uint8Array(24 * size);
    for (let i = 0; i < run.length; i++) run[i] = element[i % size];
    for (const register of [RSI, RDI]) {
      const copy = run.slice();
      if (random.chance(0.5)) copy[random.below(copy.length)] ^= 1 << random.below(8);
      const back = (d.rflags & 0x400) !== 0 ? BigInt(copy.length - size) : 0n;
      const base = register === RSI ? d.segmentBase : 0n;
      d.patch((d.gpr[register] & MASK[Math.min(form.addressSize, 4)]) + base - back, copy);
    }
  }
}

function bytesOf(value: bigint, size: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
}

/** Half of the divisions get a dividend whose quotient fits. */
function division(d: Draft): void {
  const size = operandSize(d);
  if (d.random.chance(0.3)) return;
  const bits = BigInt(8 * size);
  const isSigned = d.form.row.mnemonic === "IDIV";
  let divisor = readRm(d, size);
  if (isSigned) divisor = BigInt.asIntN(Number(bits), divisor);
  if (divisor === 0n) return;
  let quotient = integer(d.random) & MASK[size];
  if (isSigned) quotient = BigInt.asIntN(Number(bits), quotient);
  const magnitude = divisor < 0n ? -divisor : divisor;
  let remainder = integer(d.random) % magnitude;
  if (isSigned && quotient < 0n !== divisor < 0n) remainder = -remainder;
  const dividend = quotient * divisor + remainder;
  if (d.addressing.has(RAX) || d.addressing.has(RDX)) return;
  if (size === 1) {
    if (d.form.mod === "mem" || d.rm % 4 !== RAX) setLow(d, RAX, dividend, 2);
    return;
  }
  if (d.form.mod === "reg" && (d.rm === RAX || d.rm === RDX)) return;
  setLow(d, RAX, dividend, size);
  setLow(d, RDX, dividend >> bits, size);
}

/** A return address or branch target in the register or memory that the instruction takes it from. */
function branchTarget(d: Draft): bigint {
  const target = codeAddress(d.random, d.entry, 16, d.form.bitness === 64);
  if (BigInt.asIntN(48, target) !== BigInt.asIntN(64, target)) d.badTarget = true;
  return target;
}

function stackPointer(d: Draft, bytes: number): void {
  if (!d.addressing.has(RSP)) {
    const { form, random } = d;
    d.gpr[RSP] = random.chance(0.6)
      ? d.gpr[RSP]
      : d.dataAddress(bytes, form.bitness === 64) + (random.chance(0.5) ? BigInt(bytes) : 0n);
  }
}

const FLOAT_BYTES: Record<string, (d: Draft) => Uint8Array> = {
  t: (d) => float80(d.random),
  "10": (d) => float80(d.random),
  d: (d) => (d.random.chance(0.7) ? bytesOf(BigInt(float32(d.random)), 4) : bytesOf(integer(d.random), 4)),
  "4": (d) => bytesOf(BigInt(float32(d.random)), 4),
  q: (d) => (d.random.chance(0.7) ? bytesOf(float64(d.random), 8) : bytesOf(integer(d.random), 8)),
  "8": (d) => (d.random.chance(0.7) ? bytesOf(float64(d.random), 8) : bytesOf(integer(d.random), 8)),
  w: (d) => bytesOf(integer(d.random), 2),
};

/** Selectors that mean the same on both CPUs, whatever else the host's descriptor table holds. */
const DATA_SELECTORS = [
  0, 1, 3, 0x2b, 0x2b, 0x2b, 0x2b, 0x28, 0x33, 0x23, 0x10, 0x18, 0x1b, 0x04, 0xfff8,
] as const;
const CODE_SELECTORS = [
  0x33, 0x33, 0x33, 0x23, 0x23, 0x23, 0x30, 0x20, 0x2b, 0x10, 0x13, 0, 0x07, 0xfff8,
] as const;

const codeSelector = (d: Draft) => BigInt(d.random.pick(CODE_SELECTORS));

/** Offset of the operand's size, then a selector. */
export function farPointer(d: Draft): bigint {
  const offset = branchTarget(d) & MASK[d.form.size];
  return offset | (codeSelector(d) << BigInt(8 * d.form.size));
}

/** Far CALL and JMP through memory. */
const isFarIndirect = (d: Draft) => d.form.row.operands[0]?.method === "M";
/** RET with CS, by its opcode. */
const isFarReturn = (d: Draft) => d.form.row.opcodes[0] === 0xca || d.form.row.opcodes[0] === 0xcb;

export const HINTS: readonly Hint[] = [
  { mnemonics: /^(MOVS|CMPS|STOS|LODS|SCAS|INS|OUTS)[BWDQ]?$/, map: "", before: strings },
  { mnemonics: /^I?DIV$/, after: division },
  {
    mnemonics: /^CMPXCHG$/,
    after: (d) => {
      const size = operandSize(d);
      if (d.random.chance(0.5) && !d.addressing.has(RAX)) setLow(d, RAX, readRm(d, size), size);
    },
  },
  {
    mnemonics: /^CMPXCHG(8B|16B)$/,
    after: (d) => {
      const half = d.targetBytes / 2;
      d.patchInteger(d.target, integer(d.random), half);
      if (d.random.chance(0.4) || d.addressing.has(RAX) || d.addressing.has(RDX)) return;
      setLow(d, RAX, d.peek(d.target, half), half);
      setLow(d, RDX, d.peek(d.target + BigInt(half), half), half);
    },
  },
  {
    // A bit offset in a register reaches beyond the operand: (SDM vol. 2, BT).
    mnemonics: /^BT[SRC]?$/,
    before: (d) => {
      const { form, random } = d;
      if (form.mod !== "mem" || form.row.operands[1].method !== "G") return;
      const bits = 8 * form.size;
      d.keep.add(d.reg);
      const limit = Math.min(1 << 21, form.size === 2 ? 1 << 15 : 1 << 21);
      const offset = random.chance(0.8) ? random.below(2 * limit) - limit : random.below(64);
      const full = random.chance(0.1) ? BigInt.asIntN(bits, integer(random)) : BigInt(offset);
      const garbage = integer(random) & ~MASK[form.size];
      d.gpr[d.reg] = (full & MASK[form.size]) | garbage;
      d.bias = (full >> BigInt(Math.log2(bits))) * BigInt(form.size);
    },
  },
  {
    mnemonics: /^(SH|SA|RO|RC)[LR]$|^SAL$/,
    after: (d) => {
      if (d.form.row.operands[1]?.method !== "CL" || d.addressing.has(RCX)) return;
      if (d.random.chance(0.8)) setLow(d, RCX, BigInt(d.random.below(d.form.size === 8 ? 72 : 40)), 1);
    },
  },
  {
    mnemonics: /^XLATB?$/,
    before: (d) => {
      d.gpr[RBX] = d.pointer(1) - d.segmentBase;
      const index = d.gpr[RAX] & 0xffn;
      if (d.form.addressSize !== 2) d.gpr[RBX] -= index;
    },
  },
  {
    mnemonics: /^MASKMOV(DQU|Q)$/,
    before: (d) => {
      // Whether bytes that are not stored are looked at, for faults and alignment, is each processor's own choice.
      const bytes = d.form.row.mnemonic === "MASKMOVQ" ? 8 : 16;
      do d.gpr[RDI] = d.pointer(bytes);
      while (!d.isWritable(d.gpr[RDI], bytes));
      d.gpr[RDI] -= d.segmentBase;
      d.rflags &= ~AC;
    },
  },
  {
    mnemonics: /^PCMP[EI]STR[IM]$/,
    before: (d) => {
      for (const register of [RAX, RDX]) {
        if (d.random.chance(0.8)) d.gpr[register] = BigInt.asUintN(64, BigInt(d.random.below(40) - 20));
      }
    },
  },
  { mnemonics: /^(PUSH|POP)(F|A)?[DQ]?$|^(PUSH|POP)FQ?$/, after: (d) => stackPointer(d, d.form.size) },
  {
    mnemonics: /^POPF[DQ]?$/,
    after: (d) => {
      // TF would make the INT3 that follows a question of two traps at once; the single-step tests have it.
      const flags = integer(d.random) & ~0x100n;
      d.patchInteger(d.gpr[RSP], flags, d.form.size);
    },
  },
  {
    mnemonics: /^CALL$|^JMP$/,
    before: (d) => {
      d.branch = isFarIndirect(d) ? farPointer(d) : branchTarget(d);
      if (d.form.mod === "reg") {
        if (d.rm !== RSP) d.gpr[d.rm] = d.branch;
        d.keep.add(d.rm);
      } else if (d.badTarget || isFarIndirect(d)) d.keep.add(RSP);
    },
    after: (d) => {
      if (d.form.mod === "mem") d.patchInteger(d.target, d.branch, d.form.size + (isFarIndirect(d) ? 2 : 0));
      // A bad target beside a bad stack: which is found first is not documented.
      const alone = !d.badTarget && !isFarIndirect(d);
      if (d.form.row.mnemonic === "CALL" && alone) stackPointer(d, d.form.size);
    },
  },
  {
    mnemonics: /^RETN?$/,
    after: (d) => {
      const { size } = d.form;
      stackPointer(d, size);
      d.patchInteger(d.gpr[RSP], branchTarget(d), 8);
      // Before it finds fault with CS, AMD's processors read the stack that a return outward would take over.
      if (isFarReturn(d)) d.immediates.set(0, BigInt(8 * d.random.below(8)));
      if (isFarReturn(d)) d.patchInteger(d.gpr[RSP] + BigInt(size), codeSelector(d), size);
    },
  },
  {
    mnemonics: /^IRET$/,
    after: (d) => {
      // RIP, CS, RFLAGS and, in 64-bit mode always, RSP and SS. TF as for POPF.
      const { size } = d.form;
      const flags = (integer(d.random) & ~0x100n) | 2n;
      const stack = d.random.chance(0.8) ? 0x2b : d.random.pick(DATA_SELECTORS);
      const words = [branchTarget(d), codeSelector(d), flags, BigInt(DATA_BASE + 0x800), BigInt(stack)];
      words.forEach((word, i) => {
        d.patchInteger(d.gpr[RSP] + BigInt(i * size), word, size);
      });
    },
  },
  {
    mnemonics: /^L[DEFGS]S$/,
    after: (d) => {
      d.patchInteger(d.target + BigInt(d.form.size), BigInt(d.random.pick(DATA_SELECTORS)), 2);
    },
  },
  {
    mnemonics: /^POP$/,
    after: (d) => {
      if (d.form.row.operands.length > 0) return;
      d.patchInteger(d.gpr[RSP], BigInt(d.random.pick(DATA_SELECTORS)), d.form.size);
    },
  },
  {
    mnemonics: /^LEAVE$/,
    before: (d) => {
      d.gpr[RBP] = d.dataAddress(8, d.form.bitness === 64);
    },
  },
  {
    mnemonics: /^ENTER$/,
    before: (d) => {
      d.gpr[RBP] = BigInt(DATA_BASE + 0x800 + d.random.below(DATA_WRITABLE - 0x1000));
      const frame = d.random.chance(0.8) ? BigInt(d.random.below(0x400)) : integer(d.random) & 0xffffn;
      d.immediates.set(0, frame | (BigInt(d.random.chance(0.6) ? 0 : d.random.below(40)) << 16n));
    },
    after: (d) => stackPointer(d, d.form.size),
  },
  {
    mnemonics: /^(J(R|E)?CXZ|LOOP(N?[EZ])?)$/,
    before: (d) => {
      if (d.random.chance(0.7)) setLow(d, RCX, BigInt(d.random.below(3)), d.form.addressSize);
    },
  },
  {
    mnemonics: /^INT$/,
    before: (d) => {
      // INT 3 and INT 4 are open to user programs on Linux, INT 80h is a system call.
      const vector = d.random.below(256);
      d.immediates.set(0, BigInt([3, 4, 0x80].includes(vector) ? 13 : vector));
    },
  },
  {
    mnemonics: /^BOUND$/,
    after: (d) => {
      const size = d.form.size;
      const index = BigInt.asIntN(8 * size, d.gpr[d.reg]);
      if (d.random.chance(0.3)) return;
      d.patchInteger(d.target, index - BigInt(d.random.below(3)) + 1n, size);
      d.patchInteger(d.target + BigInt(size), index + BigInt(d.random.below(3)) - 1n, size);
    },
  },
  {
    mnemonics: /^LDMXCSR$/,
    after: (d) =>
      d.patchInteger(
        d.target,
        BigInt(d.random.chance(0.9) ? mxcsr(d.random) : (d.random.u32() & ~MISALIGNED_SSE) >>> 0),
        4,
      ),
  },
  {
    mnemonics: /^FLDCW$/,
    after: (d) => d.patchInteger(d.target, BigInt(0x37f ^ (d.random.u32() & 0xfc3f)), 2),
  },
  {
    // A misaligned area is #GP, or #AC with alignment checks, before or after other faults (SDM vol. 2, FXSAVE); in which
    // order the parts of the other ones are checked is each processor's own.
    mnemonics: /^F(XSAVE|XRSTOR|NSAVE|RSTOR|NSTENV|LDENV)$/,
    before: (d) => {
      d.rflags &= ~AC;
      if (d.target > 0xffffffffn) d.target &= ~15n;
    },
  },
  {
    mnemonics: /^FXRSTOR$/,
    after: (d) => {
      const image = fxImage(d.random);
      // Reserved bits of MXCSR are #GP.
      if (d.random.chance(0.1)) image[Fx.MXCSR + 2] = 1 << (2 + d.random.below(6));
      d.patch(d.target, image);
    },
  },
  {
    mnemonics: /^(FRSTOR|FLDENV)$/,
    after: (d) => {
      const word = d.form.size === 2 ? 2 : 4;
      const image = fxImage(d.random);
      const put = (index: number, from: number) =>
        d.patch(d.target + BigInt(index * word), image.subarray(from, from + 2));
      put(0, Fx.FCW);
      put(1, Fx.FSW);
      d.patchInteger(d.target + BigInt(2 * word), BigInt(d.random.u32() & 0xffff), 2);
      if (d.form.row.mnemonic === "FLDENV") return;
      for (let i = 0; i < 8; i++) d.patch(d.target + BigInt(7 * word + 10 * i), float80(d.random));
    },
  },
  { mnemonics: /^FBLD$/, after: (d) => d.patch(d.target, packedDecimal(d.random)) },
  {
    // Values of the operand's type for everything else on the x87.
    mnemonics: /^F(?!XRSTOR|BLD$|LDCW|RSTOR|LDENV)\w+$/,
    after: (d) => {
      if (d.form.mod !== "mem") return;
      const operand = d.form.row.operands.find((o) => o.method === "M" || o.method === "E");
      const make = FLOAT_BYTES[operand?.type ?? ""];
      if (make !== undefined) d.patch(d.target, make(d));
    },
  },
  {
    mnemonics: /^(MOV|POP|PUSH|VERR|VERW|LAR|LSL)$/,
    after: (d) => {
      // Only where a segment register is the destination, or the operand is a selector.
      const { row } = d.form;
      const loadsSegment = row.operands[0]?.method === "S" || /^(VER|LAR|LSL)/.test(row.mnemonic);
      if (!loadsSegment) return;
      const selector = BigInt(d.random.pick(DATA_SELECTORS));
      if (d.form.mod === "mem") d.patchInteger(d.target, selector, 2);
      else if (d.rm !== RSP) setLow(d, d.rm, selector, 2);
    },
  },
];

/** Sixteen bytes for an operand of a vector instruction, of the elements that its mnemonic speaks of. */
export function vectorOperand(d: Draft): Uint8Array {
  return vector(d.random, vectorKind(d.form.row.mnemonic));
}

export function vectorKind(mnemonic: string): "integer" | "f32" | "f64" | undefined {
  if (/^CVTT?[PS]S2/.test(mnemonic)) return "f32";
  if (/^CVTT?[PS]D2/.test(mnemonic)) return "f64";
  if (/^P|^MOV[DQ]|^CVT/.test(mnemonic)) return "integer";
  if (/[PS]S$/.test(mnemonic)) return "f32";
  if (/[PS]D$/.test(mnemonic)) return "f64";
  return undefined;
}
