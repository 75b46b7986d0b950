/**
 * SSE and MMX data movement (SDM vol. 2). A scalar load clears the rest of the register, a scalar move between registers
 * keeps it; a scalar in memory is accessed in its own size.
 */
import type { I32, I64, Int, V128 } from "../wasm/expr.js";
import { fromInt, lane, lane64, shuffleLanes, v, withLane64, ZERO } from "../wasm/simd.js";
import type { Definition, InstrContext } from "./context.js";
import { enterMmx, readMmx, requireMmx, writeMmx } from "./mmx.js";

/** The low 4 or 8 bytes as an integer. */
const lowInt = (a: V128, size: number): I32 | I64 => (size === 8 ? lane64(a, 0) : lane("i32x4", a, 0));

const move =
  (aligned: boolean): Definition =>
  (x) => {
    x.requireSse();
    x.writeVector(0, x.readVector(1, aligned), aligned);
  };
/** MOVAPS and its kin, loads and stores, also the non-temporal ones. */
export const moveAligned = move(true);
/** MOVUPS and its kin. */
export const moveUnaligned = move(false);

/** MOVSS, MOVSD: operands of `size` bytes. */
export const moveScalar =
  (size: 4 | 8): Definition =>
  (x) => {
    x.requireSse();
    if (x.operands[1].kind === "mem") x.writeVector(0, fromInt(x.read(1)));
    else if (x.operands[0].kind === "mem") x.write(0, lowInt(x.readVector(1), size));
    else x.writeVector(0, mergeLow(x.readVector(0), x.readVector(1), size));
  };

/** `a` with its low `size` bytes taken from `b`. */
export const mergeLow = (a: V128, b: V128, size: 4 | 8): V128 =>
  size === 8 ? shuffleLanes(8, b, a, [0, 3]) : shuffleLanes(4, b, a, [0, 5, 6, 7]);

/** MOVD, MOVQ from a general register or memory. */
export const moveFromInteger: Definition = (x) => {
  x.requireSse();
  x.writeVector(0, fromInt(x.read(1)));
};
/** MOVD, MOVQ to a general register or memory. */
export const moveToInteger: Definition = (x) => {
  x.requireSse();
  x.write(0, lowInt(x.readVector(1), x.operands[0].size));
};
export const mmxMoveFromInteger: Definition = (x) => {
  requireMmx(x);
  const value = x.read(1);
  enterMmx(x);
  writeMmx(x, 0, fromInt(value));
};
export const mmxMoveToInteger: Definition = (x) => {
  requireMmx(x);
  x.write(0, lowInt(readMmx(x, 1), x.operands[0].size));
  enterMmx(x);
};

const clearHigh = (a: V128): V128 => shuffleLanes(8, a, ZERO, [0, 2]);

/** MOVQ xmm, xmm/m64 and back: the register's high half is cleared. */
export const moveQuad: Definition = (x) => {
  x.requireSse();
  if (x.operands[1].kind === "mem") x.writeVector(0, fromInt(x.read(1)));
  else if (x.operands[0].kind === "mem") x.write(0, lane64(x.readVector(1), 0));
  else x.writeVector(0, clearHigh(x.readVector(1)));
};
/** MOVQ, MOVNTQ on MMX registers and memory. */
export const mmxMove: Definition = (x) => {
  requireMmx(x);
  const value = readMmx(x, 1);
  if (x.operands[0].kind === "mem") {
    x.write(0, lane64(value, 0));
    enterMmx(x);
  } else {
    enterMmx(x);
    writeMmx(x, 0, value);
  }
};

function requireBoth(x: InstrContext): void {
  x.requireSse();
  requireMmx(x);
}
/** MOVDQ2Q. */
export const moveToMmx: Definition = (x) => {
  requireBoth(x);
  const value = x.readVector(1);
  enterMmx(x);
  writeMmx(x, 0, value);
};
/** MOVQ2DQ. */
export const moveFromMmx: Definition = (x) => {
  requireBoth(x);
  const value = readMmx(x, 1);
  enterMmx(x);
  x.writeVector(0, value);
};

/** MOVLPS, MOVLPD, MOVHPS, MOVHPD: load half `n` from memory, keep the other. */
export const loadHalf =
  (n: 0 | 1): Definition =>
  (x) => {
    x.requireSse();
    const value = x.read(1) as I64;
    x.writeVector(0, withLane64(x.readVector(0), n, value));
  };
export const storeHalf =
  (n: 0 | 1): Definition =>
  (x) => {
    x.requireSse();
    x.write(0, lane64(x.readVector(1), n));
  };

/** MOVDDUP: the low double twice. */
export const duplicateLow: Definition = (x) => {
  x.requireSse();
  const value: Int = x.operands[1].kind === "mem" ? x.read(1) : lane64(x.readVector(1), 0);
  x.writeVector(0, v("i64x2.splat", value as I64));
};

/** MOVNTI. */
export const moveInteger: Definition = (x) => x.write(0, x.read(1));
