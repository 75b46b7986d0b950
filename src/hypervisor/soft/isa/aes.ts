/** AES-NI and PCLMULQDQ (SDM vol. 2; AES: FIPS 197). */

import { I32, I64, type V128 } from "../wasm/expr.js";
import type { FunctionBuilder } from "../wasm/module.js";
import { bytes, dwords, fromI64, lane64, shuffle, v, withLane64 } from "../wasm/simd.js";
import type { Definition } from "./context.js";
import { type OpcodeRow, op } from "./opcode-table.js";
import { sharedFunction } from "./shared-function.js";
import { imm8, readSource } from "./vector-operands.js";

/** x⁸ + x⁴ + x³ + x + 1, less x⁸ (FIPS 197, 4.2). */
const REDUCTION = 0x1b;

/** Powers of the generator x + 1, from which inverses are read: its 255th power is 1. */
const POWERS = new Uint8Array(256);
const LOGARITHMS = new Uint8Array(256);
for (let i = 0, power = 1; i < 255; i++) {
  POWERS[i] = power;
  LOGARITHMS[power] = i;
  power ^= (power << 1) ^ (power & 0x80 ? 0x100 | REDUCTION : 0);
}

/** The S-box: the inverse in GF(2⁸), then an affine map (FIPS 197, 5.1.1). */
const SBOX = Uint8Array.from({ length: 256 }, (_, x) => {
  const inverse = x === 0 ? 0 : POWERS[(255 - LOGARITHMS[x]) % 255];
  let result = 0x63;
  for (let turn = 0; turn < 5; turn++) result ^= (inverse << turn) | (inverse >> (8 - turn));
  return result & 0xff;
});
const INVERSE_SBOX = new Uint8Array(256);
SBOX.forEach((to, from) => {
  INVERSE_SBOX[to] = from;
});

/** A table lookup of all 16 bytes: a byte not of row r becomes, less 16·r, an index that swizzle answers with 0. */
const substitution = (name: string, table: Uint8Array) =>
  sharedFunction(name, ["v128"] as const, "v128", (f, _use, a) => {
    const result = f.local("v128");
    for (let row = 0; row < 16; row++) {
      const part = bytes(...table.subarray(16 * row, 16 * row + 16));
      const found = v("i8x16.swizzle", part, v("v128.xor", a, bytes(16 * row)));
      f.set(result, v("v128.or", result.get, found));
    }
    f.return(result.get);
  });
const subBytes = substitution("aes_sub_bytes", SBOX);
const inverseSubBytes = substitution("aes_inverse_sub_bytes", INVERSE_SBOX);

/** Row r of the state, its bytes r, r + 4 …, turns by r places (FIPS 197, 5.1.2 and 5.3.1). */
const rows = (direction: 1 | -1) =>
  Array.from({ length: 16 }, (_, i) => (i + 4 * direction * (i % 4) + 16) % 16);
const shiftRows = (a: V128): V128 => shuffle(a, a, rows(1));
const inverseShiftRows = (a: V128): V128 => shuffle(a, a, rows(-1));

/** Every byte times x. */
const timesX = (a: V128): V128 =>
  v(
    "v128.xor",
    v("i8x16.shl", a, I32.const(1)),
    v("v128.and", v("i8x16.lt_s", a, bytes(0)), bytes(REDUCTION)),
  );
/** Byte i of each column becomes byte i + n. */
const turnColumns = (a: V128, n: number): V128 =>
  shuffle(
    a,
    a,
    Array.from({ length: 16 }, (_, i) => (i & ~3) | ((i + n) & 3)),
  );

/** 2·a₀ + 3·a₁ + a₂ + a₃ = x·(a₀ + a₁) + a₁ + (a₂ + a₃) (FIPS 197, 5.1.3). */
const mixColumns = (a: V128, f: FunctionBuilder): V128 => {
  const next = f.let(turnColumns(a, 1));
  const pair = f.let(v("v128.xor", a, next));
  return v("v128.xor", v("v128.xor", timesX(pair), next), turnColumns(pair, 2));
};
/** The inverse matrix is MixColumns' times one with 5 and 4 = x² (+ 1): a₀ + x²·(a₀ + a₂) first (FIPS 197, 5.3.3). */
const inverseMixColumns = (a: V128, f: FunctionBuilder): V128 => {
  const pair = f.let(v("v128.xor", a, turnColumns(a, 2)));
  const once = f.let(timesX(pair));
  return mixColumns(f.let(v("v128.xor", a, timesX(once))), f);
};

const round =
  (
    substitute: typeof subBytes,
    shift: (a: V128) => V128,
    mix: (a: V128, f: FunctionBuilder) => V128,
  ): Definition =>
  (x) => {
    x.requireSse();
    const { f } = x;
    const key = readSource(x, 1);
    const substituted = f.let(f.call(x.shared(substitute), shift(x.readVector(0))));
    x.writeVector(0, v("v128.xor", mix(substituted, f), key));
  };
const unmixed = (a: V128): V128 => a;

const aesImc: Definition = (x) => {
  x.requireSse();
  x.writeVector(0, inverseMixColumns(readSource(x, 1), x.f));
};

/** AESKEYGENASSIST: SubWord of doublewords 1 and 3, and each also rotated and with the round constant added. */
const keyGenAssist: Definition = (x) => {
  x.requireSse();
  const { f } = x;
  const a = readSource(x, 1);
  const substituted = f.let(f.call(x.shared(subBytes), a));
  const words = shuffle(substituted, substituted, [4, 5, 6, 7, 5, 6, 7, 4, 12, 13, 14, 15, 13, 14, 15, 12]);
  const constants = v("v128.and", v("i32x4.splat", imm8(x)), dwords(0, 0xff));
  x.writeVector(0, v("v128.xor", words, constants));
};

/** The 128-bit product of two 64-bit polynomials over GF(2). */
const carrylessMultiply = sharedFunction(
  "carryless_multiply",
  ["i64", "i64"] as const,
  "v128",
  (f, _use, a, b) => {
    const rest = f.local("i64");
    const low = f.local("i64");
    const high = f.local("i64");
    f.set(rest, b);
    f.block((end) => {
      f.loop((again) => {
        f.brIf(end, rest.get.eqz());
        const n = f.let(rest.get.ctz());
        f.set(low, low.get.xor(a.shl(n)));
        // In two steps, as a shift by 64 is one by 0.
        f.set(high, high.get.xor(a.shrU(1).shrU(I64.const(63).sub(n))));
        f.set(rest, rest.get.and(rest.get.sub(1)));
        f.br(again);
      });
    });
    f.return(withLane64(fromI64(low.get), 1, high.get));
  },
);

/** Immediate bits 0 and 4 choose the halves of the two operands. */
const SECOND_HALF = 1 << 4;
const pclmulqdq: Definition = (x) => {
  x.requireSse();
  const { f } = x;
  const b = readSource(x, 1);
  const a = x.readVector(0);
  const imm = imm8(x);
  const half = (value: V128, bit: number) => lane64(value, 1).select(imm.and(bit), lane64(value, 0));
  x.writeVector(0, f.call(x.shared(carrylessMultiply), half(a, 1), half(b, SECOND_HALF)));
};

export const AES_OPCODES: readonly OpcodeRow[] = [
  op("66 0F 38 DB", "AESIMC", "Vx,Wx", aesImc),
  op("66 0F 38 DC", "AESENC", "Vx,Wx", round(subBytes, shiftRows, mixColumns)),
  op("66 0F 38 DD", "AESENCLAST", "Vx,Wx", round(subBytes, shiftRows, unmixed)),
  op("66 0F 38 DE", "AESDEC", "Vx,Wx", round(inverseSubBytes, inverseShiftRows, inverseMixColumns)),
  op("66 0F 38 DF", "AESDECLAST", "Vx,Wx", round(inverseSubBytes, inverseShiftRows, unmixed)),
  op("66 0F 3A 44", "PCLMULQDQ", "Vx,Wx,Ib", pclmulqdq),
  op("66 0F 3A DF", "AESKEYGENASSIST", "Vx,Wx,Ib", keyGenAssist),
];
