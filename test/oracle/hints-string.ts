/** Set-ups of string instructions and others whose pointers are not named: they lead into the data pages. */
import type { Draft } from "./draft.js";
import { AC, bytesOf, Gpr, type Hint, MASK } from "./hint.js";
import { integer } from "./values.js";

/** RFLAGS.DF. */
const DF = 0x400;

function strings(d: Draft): void {
  const { random, form } = d;
  const size = d.form.row.operands.some((o) => o.type === "b" || o.text === "AL") ? 1 : form.size;
  let count = BigInt(random.below(24));
  if (random.chance(0.1)) count = BigInt(random.below(0x2000 / size));
  if (random.chance(0.03)) count = integer(random);
  const reach = form.rep === "none" ? size : Math.min(Number(count), 24) * size + size;
  d.gpr[Gpr.RSI] = d.pointer(reach) - d.segmentBase;
  d.gpr[Gpr.RDI] = d.pointer(reach);
  // Not far apart: overlapping moves. With garbage above a 16-bit address, the processor this was written on (AMD
  // family 1Ah) takes fast paths that it should not, so that what overlaps comes out wrong.
  if (form.row.mnemonic === "MOVS" && form.addressSize === 2) {
    d.gpr[Gpr.RSI] &= 0xffffn;
    d.gpr[Gpr.RDI] &= 0xffffn;
  }
  if (random.chance(0.2)) d.gpr[Gpr.RDI] = d.gpr[Gpr.RSI] + d.segmentBase + BigInt(random.below(64) - 32);
  if (form.rep !== "none") {
    const garbage = form.bitness === 64 && form.addressSize === 4 ? random.u64() & ~0xffffffffn : 0n;
    d.gpr[Gpr.RCX] = (count & MASK[form.addressSize]) | garbage;
  }
  if (random.chance(0.5)) {
    // Equal strings, with a difference somewhere, for REPE; all equal to the accumulator, for SCAS.
    const element = random.chance(0.5) ? random.bytes(size) : bytesOf(d.gpr[Gpr.RAX], size);
    const run = new Uint8Array(24 * size);
    for (let i = 0; i < run.length; i++) run[i] = element[i % size];
    for (const register of [Gpr.RSI, Gpr.RDI]) {
      const copy = run.slice();
      if (random.chance(0.5)) copy[random.below(copy.length)] ^= 1 << random.below(8);
      const back = (d.rflags & DF) !== 0 ? BigInt(copy.length - size) : 0n;
      const base = register === Gpr.RSI ? d.segmentBase : 0n;
      d.patch((d.gpr[register] & MASK[Math.min(form.addressSize, 4)]) + base - back, copy);
    }
  }
}

export const STRING_HINTS: readonly Hint[] = [
  { mnemonics: /^(MOVS|CMPS|STOS|LODS|SCAS|INS|OUTS)[BWDQ]?$/, map: "", before: strings },
  {
    mnemonics: /^XLATB?$/,
    before: (d) => {
      d.gpr[Gpr.RBX] = d.pointer(1) - d.segmentBase;
      const index = d.gpr[Gpr.RAX] & 0xffn;
      if (d.form.addressSize !== 2) d.gpr[Gpr.RBX] -= index;
    },
  },
  {
    mnemonics: /^MASKMOV(DQU|Q)$/,
    before: (d) => {
      // Whether bytes that are not stored are looked at, for faults and alignment, is each processor's own choice.
      const bytes = d.form.row.mnemonic === "MASKMOVQ" ? 8 : 16;
      do d.gpr[Gpr.RDI] = d.pointer(bytes);
      while (!d.isWritable(d.gpr[Gpr.RDI], bytes));
      d.gpr[Gpr.RDI] -= d.segmentBase;
      d.rflags &= ~AC;
    },
  },
  {
    mnemonics: /^PCMP[EI]STR[IM]$/,
    before: (d) => {
      for (const register of [Gpr.RAX, Gpr.RDX]) {
        if (d.random.chance(0.8)) d.gpr[register] = BigInt.asUintN(64, BigInt(d.random.below(40) - 20));
      }
    },
  },
];
