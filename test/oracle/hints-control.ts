/** Set-ups of branches, stack operations and loads of selectors: where they lead is never left to chance. */
import { codeAddress } from "./addressing.js";
import { CODE_BASE, DATA_BASE, DATA_WRITABLE, Selector } from "./cpu-case.js";
import type { Draft } from "./draft.js";
import { Gpr, type Hint, MASK, setLow } from "./hint.js";
import { integer } from "./values.js";

/** A return address or branch target in the register or memory that the instruction takes it from. */
function branchTarget(d: Draft): bigint {
  const linear = codeAddress(d.random, d.entry, 16, d.form.bitness === 64);
  return d.form.bitness === 16 ? BigInt.asUintN(32, linear - BigInt(CODE_BASE)) : linear;
}

function stackPointer(d: Draft, bytes: number): void {
  if (!d.addressing.has(Gpr.RSP)) {
    const { form, random } = d;
    d.gpr[Gpr.RSP] = random.chance(0.6)
      ? d.gpr[Gpr.RSP]
      : d.dataAddress(bytes, form.bitness === 64) + (random.chance(0.5) ? BigInt(bytes) : 0n);
  }
}

/** Selectors that mean the same on both CPUs, whatever else the host's descriptor table holds. */
const DATA_SELECTORS = [
  0, 1, 3, 0x2b, 0x2b, 0x2b, 0x2b, 0x28, 0x33, 0x23, 0x10, 0x18, 0x1b, 0x04, 0xfff8,
] as const;
const CODE_SELECTORS = [
  0x33, 0x33, 0x33, 0x23, 0x23, 0x23, 0x30, 0x20, 0x2b, 0x10, 0x13, 0, 0x07, 0xfff8,
] as const;

/** A selector for CS, and an offset that fits the segment. */
function farTarget(d: Draft): { offset: bigint; selector: bigint } {
  const { bitness } = d.form;
  const offset = branchTarget(d);
  if (bitness === 16 && d.random.chance(0.5)) return { offset, selector: BigInt(Selector.CODE16) };
  const flat = bitness === 16 ? BigInt.asUintN(32, offset + BigInt(CODE_BASE)) : offset;
  return { offset: flat, selector: BigInt(d.random.pick(CODE_SELECTORS)) };
}

/** Offset of the operand's size, then a selector. */
export function farPointer(d: Draft): bigint {
  const { offset, selector } = farTarget(d);
  return (offset & MASK[d.form.size]) | (selector << BigInt(8 * d.form.size));
}

/** Far CALL and JMP through memory. */
const isFarIndirect = (d: Draft) => d.form.row.operands[0]?.method === "M";
/** RET with CS, by its opcode. */
const isFarReturn = (d: Draft) => d.form.row.opcodes[0] === 0xca || d.form.row.opcodes[0] === 0xcb;

export const CONTROL_HINTS: readonly Hint[] = [
  { mnemonics: /^(PUSH|POP)(F|A)?[DQ]?$|^(PUSH|POP)FQ?$/, after: (d) => stackPointer(d, d.form.size) },
  {
    mnemonics: /^POPF[DQ]?$/,
    after: (d) => {
      // TF would make the INT3 that follows a question of two traps at once; the single-step tests have it.
      const flags = integer(d.random) & ~0x100n;
      d.patchInteger(d.gpr[Gpr.RSP], flags, d.form.size);
    },
  },
  {
    mnemonics: /^CALL$|^JMP$/,
    before: (d) => {
      d.branch = isFarIndirect(d) ? farPointer(d) : branchTarget(d);
      if (d.form.mod === "reg") {
        if (d.rm !== Gpr.RSP) d.gpr[d.rm] = d.branch;
        d.keep.add(d.rm);
      } else if (isFarIndirect(d)) d.keep.add(Gpr.RSP);
    },
    after: (d) => {
      if (d.form.mod === "mem") d.patchInteger(d.target, d.branch, d.form.size + (isFarIndirect(d) ? 2 : 0));
      // Far calls with a bad stack and a bad target: which is found first is not documented.
      const near = /[EJ]/.test(d.form.row.operands[0].method);
      if (!near) d.gpr[Gpr.RSP] &= ~15n;
      else if (d.form.row.mnemonic === "CALL") stackPointer(d, d.form.size);
    },
  },
  {
    mnemonics: /^RETN?$/,
    after: (d) => {
      const { size } = d.form;
      stackPointer(d, size);
      d.patchInteger(d.gpr[Gpr.RSP], branchTarget(d), 8);
      // Before it finds fault with CS, AMD's processors read the stack that a return outward would take over.
      if (!isFarReturn(d)) return;
      d.immediates.set(0, BigInt(8 * d.random.below(8)));
      const { offset, selector } = farTarget(d);
      d.patchInteger(d.gpr[Gpr.RSP], offset, size);
      d.patchInteger(d.gpr[Gpr.RSP] + BigInt(size), selector, size);
    },
  },
  {
    mnemonics: /^IRET$/,
    after: (d) => {
      // RIP, CS, RFLAGS and, in 64-bit mode always, Gpr.RSP and SS. TF as for POPF.
      const { size } = d.form;
      const flags = (integer(d.random) & ~0x100n) | 2n;
      const stack = d.random.chance(0.8) ? 0x2b : d.random.pick(DATA_SELECTORS);
      const { offset, selector } = farTarget(d);
      const words = [offset, selector, flags, BigInt(DATA_BASE + 0x800), BigInt(stack)];
      words.forEach((word, i) => {
        d.patchInteger(d.gpr[Gpr.RSP] + BigInt(i * size), word, size);
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
      d.patchInteger(d.gpr[Gpr.RSP], BigInt(d.random.pick(DATA_SELECTORS)), d.form.size);
    },
  },
  {
    mnemonics: /^LEAVE$/,
    before: (d) => {
      d.gpr[Gpr.RBP] = d.dataAddress(8, d.form.bitness === 64);
    },
  },
  {
    mnemonics: /^ENTER$/,
    before: (d) => {
      d.gpr[Gpr.RBP] = BigInt(DATA_BASE + 0x800 + d.random.below(DATA_WRITABLE - 0x1000));
      const frame = d.random.chance(0.8) ? BigInt(d.random.below(0x400)) : integer(d.random) & 0xffffn;
      d.immediates.set(0, frame | (BigInt(d.random.chance(0.6) ? 0 : d.random.below(40)) << 16n));
    },
    after: (d) => stackPointer(d, d.form.size),
  },
  {
    mnemonics: /^(J(R|E)?CXZ|LOOP(N?[EZ])?)$/,
    before: (d) => {
      if (d.random.chance(0.7)) setLow(d, Gpr.RCX, BigInt(d.random.below(3)), d.form.addressSize);
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
    mnemonics: /^(MOV|POP|PUSH|VERR|VERW|LAR|LSL)$/,
    after: (d) => {
      // Only where a segment register is the destination, or the operand is a selector.
      const { row } = d.form;
      const loadsSegment = row.operands[0]?.method === "S" || /^(VER|LAR|LSL)/.test(row.mnemonic);
      if (!loadsSegment) return;
      const selector = BigInt(d.random.pick(DATA_SELECTORS));
      if (d.form.mod === "mem") d.patchInteger(d.target, selector, 2);
      else if (d.rm !== Gpr.RSP) setLow(d, d.rm, selector, 2);
    },
  },
];
