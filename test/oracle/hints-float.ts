/** Set-ups of x87 and SSE state: values of the operand's type in memory, and images that can be loaded. */
import { Fx } from "./cpu-case.js";
import type { Draft } from "./draft.js";
import { AC, bytesOf, type Hint } from "./hint.js";
import { float32, float64, float80, fxImage, integer, mxcsr, packedDecimal } from "./values.js";

/** MXCSR.MM, which only AMD's processors have. */
const MISALIGNED_SSE = 1 << 17;

const FLOAT_BYTES: Record<string, (d: Draft) => Uint8Array> = {
  t: (d) => float80(d.random),
  "10": (d) => float80(d.random),
  d: (d) => (d.random.chance(0.7) ? bytesOf(BigInt(float32(d.random)), 4) : bytesOf(integer(d.random), 4)),
  "4": (d) => bytesOf(BigInt(float32(d.random)), 4),
  q: (d) => (d.random.chance(0.7) ? bytesOf(float64(d.random), 8) : bytesOf(integer(d.random), 8)),
  "8": (d) => (d.random.chance(0.7) ? bytesOf(float64(d.random), 8) : bytesOf(integer(d.random), 8)),
  w: (d) => bytesOf(integer(d.random), 2),
};

export const FLOAT_HINTS: readonly Hint[] = [
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
];
