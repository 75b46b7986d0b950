/** Set-ups of integer instructions: divisions that do not fault, compares that succeed, bit offsets that stay in the data. */
import type { Draft } from "./draft.js";
import { Gpr, type Hint, MASK, setLow } from "./hint.js";
import { integer } from "./values.js";

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
  if (d.addressing.has(Gpr.RAX) || d.addressing.has(Gpr.RDX)) return;
  if (size === 1) {
    if (d.form.mod === "mem" || d.rm % 4 !== Gpr.RAX) setLow(d, Gpr.RAX, dividend, 2);
    return;
  }
  if (d.form.mod === "reg" && (d.rm === Gpr.RAX || d.rm === Gpr.RDX)) return;
  setLow(d, Gpr.RAX, dividend, size);
  setLow(d, Gpr.RDX, dividend >> bits, size);
}

export const INTEGER_HINTS: readonly Hint[] = [
  { mnemonics: /^I?DIV$/, after: division },
  {
    mnemonics: /^CMPXCHG$/,
    after: (d) => {
      const size = operandSize(d);
      if (d.random.chance(0.5) && !d.addressing.has(Gpr.RAX)) setLow(d, Gpr.RAX, readRm(d, size), size);
    },
  },
  {
    mnemonics: /^CMPXCHG(8B|16B)$/,
    after: (d) => {
      const half = d.targetBytes / 2;
      d.patchInteger(d.target, integer(d.random), half);
      if (d.random.chance(0.4) || d.addressing.has(Gpr.RAX) || d.addressing.has(Gpr.RDX)) return;
      setLow(d, Gpr.RAX, d.peek(d.target, half), half);
      setLow(d, Gpr.RDX, d.peek(d.target + BigInt(half), half), half);
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
      if (d.form.row.operands[1]?.method !== "CL" || d.addressing.has(Gpr.RCX)) return;
      if (d.random.chance(0.8)) setLow(d, Gpr.RCX, BigInt(d.random.below(d.form.size === 8 ? 72 : 40)), 1);
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
];
