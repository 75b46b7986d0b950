/**
 * The x87's control: control and status word, FNINIT, and the images of FNSTENV, FNSAVE and FXSAVE (SDM vol. 1, 8.1.10,
 * 10.5.1). Images are built in, and taken from, the state's fpImage; the definitions move them to and from guest memory.
 *
 * Code and data selectors are stored as zero, as processors do that report CPUID.(EAX=07H,ECX=0):EBX[13].
 */

import { sharedFunction } from "../isa/shared-function.js";
import { O } from "../vcpu-state.js";
import { type I32, type I64, load16U, load32, load64 } from "../wasm/expr.js";
import type { FunctionBuilder } from "../wasm/module.js";
import { Fcw } from "./control.js";
import { i32, i64 } from "./define.js";
import { Fsw, slot } from "./x87-stack.js";

const EXPONENT = 0x7fff;
/** Bytes of a register in FNSAVE's image, and in FXSAVE's. */
const PACKED = 10;
/** What the upper halves of 32-bit fields read (SDM vol. 1, figure 8-9, reserved). */
const RESERVED = 0xffff0000;

export const Environment = { BYTES16: 14, BYTES32: 28, SAVE16: 94, SAVE32: 108 } as const;

/** FXSAVE area (SDM vol. 1, table 10-2). */
export const Fxsave = {
  FCW: 0,
  FSW: 2,
  TAGS: 4,
  FOP: 6,
  FIP: 8,
  FDP: 16,
  MXCSR: 24,
  MXCSR_MASK: 28,
  ST: 32,
  XMM: 160,
  /** What is stored: 8 XMM registers, or 16 in 64-bit mode; the rest is left alone. */
  BYTES: 288,
  BYTES64: 416,
} as const;
/** Writable bits of MXCSR: with DAZ, without AMD's misaligned-access bit. */
export const MXCSR_WRITABLE = 0xffff;

/** Status word as stored: with TOP. */
export const statusWord = (cpu: I32): I32 => load32(cpu, O.fsw).or(load32(cpu, O.ftop).shl(Fsw.TOP_SHIFT));

/** After a change of fcw or fsw: ES, B and fpuPending follow from the exceptions that are unmasked. */
export function recheckPending(f: FunctionBuilder, cpu: I32): void {
  const fsw = f.let(load32(cpu, O.fsw).and(~(Fsw.ES | Fsw.B)));
  const pending = f.let(fsw.and(load32(cpu, O.fcw).not()).and(Fsw.EXCEPTIONS).ne(0));
  f.store32(cpu, fsw.or(pending.mul(Fsw.ES | Fsw.B)), O.fsw);
  f.store32(cpu, pending, O.fpuPending);
}

/** Bits that exist: bit 6 is always set, bits 7 and 13–15 are clear. */
const cleanFcw = (value: I32): I32 => value.and(0x1f3f).or(0x40);

export const x87SetFcw = sharedFunction("x87_set_fcw", ["i32", "i32"], undefined, (f, _use, cpu, value) => {
  f.store32(cpu, cleanFcw(value), O.fcw);
  recheckPending(f, cpu);
});

export const x87Clear = sharedFunction("x87_clex", ["i32"], undefined, (f, _use, cpu) => {
  f.store32(cpu, load32(cpu, O.fsw).and(~(Fsw.EXCEPTIONS | Fsw.SF | Fsw.ES | Fsw.B)), O.fsw);
  f.store32(cpu, i32(0), O.fpuPending);
});

/** FNINIT (SDM vol. 2); the register contents stay. */
export const x87Init = sharedFunction("x87_init", ["i32"], undefined, (f, _use, cpu) => {
  f.store32(cpu, i32(Fcw.RESET), O.fcw);
  for (const field of [O.fsw, O.ftop, O.ftag, O.fop, O.fpuPending]) f.store32(cpu, i32(0), field);
  f.store64(cpu, i64(0), O.fip);
  f.store64(cpu, i64(0), O.fdp);
});

/** The tag word with two bits a register (SDM vol. 1, figure 8-7): valid, zero, special, empty. */
const fullTagWord = sharedFunction("x87_tag_word", ["i32"], "i32", (f, _use, cpu) => {
  const word = f.local("i32");
  const n = f.local("i32");
  f.set(n, i32(7));
  f.loop((start) => {
    const at = f.let(slot(cpu, n.get));
    const m = f.let(load64(at, O.fpr));
    const exponent = f.let(load16U(at, O.fpr + 8).and(EXPONENT));
    const special = exponent.eq(EXPONENT).or(m.geS(0)).or(exponent.eqz());
    const zero = exponent.eqz().and(m.eqz());
    const valid = i32(1).select(zero, i32(2).select(special, 0));
    const full = load32(cpu, O.ftag).shrU(n.get).and(1);
    f.set(word, word.get.shl(2).or(valid.select(full, 3)));
    f.set(n, n.get.sub(1));
    f.brIf(start, n.get.geS(0));
  });
  f.return(word.get);
});

const image = (cpu: I32): I32 => cpu.add(O.fpImage);

/** FNSTENV: the environment to fpImage in the 32-bit (`wide` not 0) or 16-bit form, of real mode where `real`. */
export const x87StoreEnvironment = sharedFunction(
  "x87_store_env",
  ["i32", "i32", "i32"],
  undefined,
  (f, use, cpu, wide, real) => {
    const tags = f.let(f.call(use(fullTagWord), cpu));
    const fip = f.let(load64(cpu, O.fip).toI32());
    const fdp = f.let(load64(cpu, O.fdp).toI32());
    const fop = f.let(load32(cpu, O.fop));
    const words: I32[] = [load32(cpu, O.fcw), statusWord(cpu), tags];
    const to = image(cpu);
    f.if(
      wide,
      () => {
        // Real mode: bits 16–31 of the pointers in bits 12–27 of the word after them (SDM vol. 1, figure 8-10).
        words.forEach((word, i) => {
          f.store32(to, word.or(RESERVED), 4 * i);
        });
        f.store32(to, fip.and(0xffff).or(RESERVED).select(real, fip), 12);
        f.store32(to, fip.shrU(16).shl(12).or(fop).select(real, fop.shl(16)), 16);
        f.store32(to, fdp.and(0xffff).or(RESERVED).select(real, fdp), 20);
        f.store32(to, fdp.shrU(16).shl(12).select(real, RESERVED), 24);
      },
      () => {
        words.forEach((word, i) => {
          f.store16(to, word, 2 * i);
        });
        f.store16(to, fip, 6);
        f.store16(to, fip.shrU(16).shl(12).or(fop).select(real, 0), 8);
        f.store16(to, fdp, 10);
        f.store16(to, fdp.shrU(16).shl(12).select(real, 0), 12);
      },
    );
  },
);

/** After FNSTENV has been stored: all exceptions are masked. */
export const x87MaskAll = sharedFunction("x87_mask_all", ["i32"], undefined, (f, _use, cpu) => {
  f.store32(cpu, load32(cpu, O.fcw).or(Fcw.MASKS), O.fcw);
  recheckPending(f, cpu);
});

function setStatus(f: FunctionBuilder, cpu: I32, fcw: I32, fsw: I32): void {
  f.store32(cpu, cleanFcw(fcw), O.fcw);
  f.store32(cpu, fsw.and(0xffff & ~Fsw.TOP), O.fsw);
  f.store32(cpu, fsw.shrU(Fsw.TOP_SHIFT).and(7), O.ftop);
  recheckPending(f, cpu);
}

/** FLDENV from fpImage. */
export const x87LoadEnvironment = sharedFunction(
  "x87_load_env",
  ["i32", "i32", "i32"],
  undefined,
  (f, _use, cpu, wide, real) => {
    const from = image(cpu);
    const step = f.let(i32(2).shl(wide.ne(0)));
    const field = (i: number) => load16U(from.add(step.mul(i)));
    setStatus(f, cpu, f.let(field(0)), f.let(field(1)));
    // Empty where both bits of the tag are set.
    const pairs = f.let(field(2).and(field(2).shrU(1)).and(0x5555));
    const tags = f.local("i32");
    for (let n = 0; n < 8; n++) {
      f.set(
        tags,
        tags.get.or(
          pairs
            .shrU(2 * n)
            .and(1)
            .xor(1)
            .shl(n),
        ),
      );
    }
    f.store32(cpu, tags.get, O.ftag);
    const pointer = (i: number) => {
      const high = field(i + 1)
        .shrU(12)
        .and(0xf);
      const realHigh = load32(from.add(step.mul(i + 1)))
        .shrU(12)
        .and(0xffff)
        .select(wide, high);
      const flatHigh = load16U(from.add(step.mul(i)), 2).select(wide, 0);
      return field(i).or(realHigh.select(real, flatHigh).shl(16)).toI64U();
    };
    f.store64(cpu, pointer(3), O.fip);
    f.store64(cpu, pointer(5), O.fdp);
    const opcode = load16U(from.add(step.mul(4)), 2).select(wide.ne(0).and(real.eqz()), field(4));
    f.store32(cpu, opcode.and(0x7ff).select(wide.or(real), 0), O.fop);
  },
);

/** Registers in stack order, 10 bytes each, between fpImage from byte `at` on and the state. */
const eachRegister = (
  f: FunctionBuilder,
  cpu: I32,
  at: I32,
  stride: number,
  move: (slotAddress: I32, imageAddress: I32) => void,
): void => {
  const n = f.local("i32");
  const to = f.local("i32");
  const top = f.let(load32(cpu, O.ftop));
  f.set(n, i32(0));
  f.set(to, image(cpu).add(at));
  f.loop((start) => {
    move(f.let(slot(cpu, top.add(n.get).and(7))), to.get);
    f.set(to, to.get.add(stride));
    f.set(n, n.get.add(1));
    f.brIf(start, n.get.ltU(8));
  });
};

/** FNSAVE's registers, after the environment. */
export const x87StoreRegisters = sharedFunction(
  "x87_store_registers",
  ["i32", "i32"],
  undefined,
  (f, _use, cpu, at) => {
    eachRegister(f, cpu, at, PACKED, (from, to) => {
      f.store64(to, load64(from, O.fpr));
      f.store16(to, load16U(from, O.fpr + 8), 8);
    });
  },
);

/** FRSTOR's, after x87LoadEnvironment. */
export const x87LoadRegisters = sharedFunction(
  "x87_load_registers",
  ["i32", "i32"],
  undefined,
  (f, _use, cpu, at) => {
    eachRegister(f, cpu, at, PACKED, (to, from) => {
      f.store64(to, load64(from), O.fpr);
      f.store16(to, load16U(from, 8), O.fpr + 8);
    });
  },
);

/** FXSAVE to fpImage; `wide`: 64-bit pointers (REX.W). */
export const fxsaveImage = sharedFunction("fxsave_image", ["i32", "i32"], undefined, (f, _use, cpu, wide) => {
  const to = image(cpu);
  f.fill(to, i32(0), i32(Fxsave.BYTES64));
  f.store16(to, load32(cpu, O.fcw), Fxsave.FCW);
  f.store16(to, statusWord(cpu), Fxsave.FSW);
  f.store8(to, load32(cpu, O.ftag), Fxsave.TAGS);
  f.store16(to, load32(cpu, O.fop), Fxsave.FOP);
  const mask = f.let(i64(-1).select(wide, i64(0xffffffff)));
  f.store64(to, load64(cpu, O.fip).and(mask), Fxsave.FIP);
  f.store64(to, load64(cpu, O.fdp).and(mask), Fxsave.FDP);
  f.store32(to, load32(cpu, O.mxcsr), Fxsave.MXCSR);
  f.store32(to, i32(MXCSR_WRITABLE), Fxsave.MXCSR_MASK);
  eachRegister(f, cpu, i32(Fxsave.ST), 16, (from, at) => {
    f.store64(at, load64(from, O.fpr));
    f.store16(at, load16U(from, O.fpr + 8), 8);
  });
  f.copy(to.add(Fxsave.XMM), cpu.add(O.xmm), i32(Fxsave.BYTES64 - Fxsave.XMM));
});

/** FXRSTOR from fpImage, MXCSR checked before; `xmmBytes`: how much of the XMM registers. */
export const fxrstorImage = sharedFunction(
  "fxrstor_image",
  ["i32", "i32", "i32"],
  undefined,
  (f, _use, cpu, wide, xmmBytes) => {
    const from = image(cpu);
    setStatus(f, cpu, load16U(from, Fxsave.FCW), load16U(from, Fxsave.FSW));
    f.store32(cpu, load32(from, Fxsave.TAGS).and(0xff), O.ftag);
    f.store32(cpu, load16U(from, Fxsave.FOP).and(0x7ff), O.fop);
    const mask: I64 = f.let(i64(-1).select(wide, i64(0xffffffff)));
    f.store64(cpu, load64(from, Fxsave.FIP).and(mask), O.fip);
    f.store64(cpu, load64(from, Fxsave.FDP).and(mask), O.fdp);
    f.store32(cpu, load32(from, Fxsave.MXCSR), O.mxcsr);
    eachRegister(f, cpu, i32(Fxsave.ST), 16, (to, at) => {
      f.store64(to, load64(at), O.fpr);
      f.store16(to, load16U(at, 8), O.fpr + 8);
    });
    f.copy(cpu.add(O.xmm), from.add(Fxsave.XMM), xmmBytes);
  },
);
