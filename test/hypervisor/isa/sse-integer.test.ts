/**
 * Packed integer instructions against plain models of what SDM vol. 2 says of each, lane by lane, on corner values and random
 * ones; MMX and XMM forms, register and memory.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { bench, describe, hex, isVector, run } from "./sse-bench.js";

type Bits = 8 | 16 | 32 | 64;
type Lane = bigint;

const signed = (bits: number, v: bigint) => BigInt.asIntN(bits, v);
const unsigned = (bits: number, v: bigint) => BigInt.asUintN(bits, v);
const clamp = (v: bigint, low: bigint, high: bigint) => (v < low ? low : v > high ? high : v);
const saturateS = (bits: number, v: bigint) =>
  clamp(v, -(1n << BigInt(bits - 1)), (1n << BigInt(bits - 1)) - 1n);
const saturateU = (bits: number, v: bigint) => clamp(v, 0n, (1n << BigInt(bits)) - 1n);
const absolute = (v: bigint) => (v < 0n ? -v : v);

function lanes(bytes: Uint8Array, bits: Bits): Lane[] {
  const width = bits / 8;
  return Array.from({ length: bytes.length / width }, (_, i) => {
    let value = 0n;
    for (let k = width - 1; k >= 0; k--) value = (value << 8n) | BigInt(bytes[i * width + k]);
    return value;
  });
}
function pack(values: readonly bigint[], bits: Bits): Uint8Array {
  const out = new Uint8Array((values.length * bits) / 8);
  values.forEach((value, i) => {
    let rest = unsigned(bits, value);
    for (let k = 0; k < bits / 8; k++, rest >>= 8n) out[(i * bits) / 8 + k] = Number(rest & 0xffn);
  });
  return out;
}

/** dst, src, imm → dst; of 8 or 16 bytes. */
type Model = (a: Uint8Array, b: Uint8Array, imm: number) => Uint8Array;

const each =
  (bits: Bits, f: (a: bigint, b: bigint) => bigint): Model =>
  (a, b) => {
    const right = lanes(b, bits);
    return pack(
      lanes(a, bits).map((v, i) => f(v, right[i])),
      bits,
    );
  };
const eachSigned = (bits: Bits, f: (a: bigint, b: bigint) => bigint): Model =>
  each(bits, (a, b) => f(signed(bits, a), signed(bits, b)));
const when = (bits: Bits, f: (a: bigint, b: bigint) => boolean): Model =>
  eachSigned(bits, (a, b) => (f(a, b) ? -1n : 0n));
const neighbours =
  (bits: Bits, f: (even: bigint, odd: bigint) => bigint): Model =>
  (a, b) => {
    const all = [...lanes(a, bits), ...lanes(b, bits)].map((v) => signed(bits, v));
    return pack(
      all.flatMap((v, i) => (i % 2 === 0 ? [f(v, all[i + 1])] : [])),
      bits,
    );
  };
const packing =
  (from: 16 | 32, saturate: (bits: number, v: bigint) => bigint): Model =>
  (a, b) => {
    const to = (from / 2) as Bits;
    const all = [...lanes(a, from), ...lanes(b, from)];
    return pack(
      all.map((v) => saturate(to, signed(from, v))),
      to,
    );
  };
const unpacking =
  (bits: Bits, high: boolean): Model =>
  (a, b) => {
    const left = lanes(a, bits);
    const right = lanes(b, bits);
    const half = left.length / 2;
    return pack(
      Array.from({ length: half }, (_, i) => i + (high ? half : 0)).flatMap((i) => [left[i], right[i]]),
      bits,
    );
  };
const shifting =
  (bits: Bits, f: (a: bigint, count: bigint) => bigint, arithmetic = false): Model =>
  (a, b) => {
    const count = lanes(b, 64)[0];
    const most = BigInt(arithmetic ? bits - 1 : bits);
    const limited = count > most ? most : count;
    return pack(
      lanes(a, bits).map((v) => f(arithmetic ? signed(bits, v) : v, limited)),
      bits,
    );
  };
const shuffling =
  (bits: 16 | 32, from: number): Model =>
  (_a, b, imm) => {
    const source = lanes(b, bits);
    return pack(
      source.map((v, i) => (i >= from && i < from + 4 ? source[from + ((imm >> (2 * (i - from))) & 3)] : v)),
      bits,
    );
  };
const blending =
  (bits: Bits): Model =>
  (a, b, imm) => {
    const right = lanes(b, bits);
    return pack(
      lanes(a, bits).map((v, i) => ((imm >> i) & 1 ? right[i] : v)),
      bits,
    );
  };
const widening =
  (from: Bits, to: Bits, extend: (bits: number, v: bigint) => bigint): Model =>
  (a, b) => {
    const count = (8 * a.length) / to;
    return pack(
      lanes(b, from)
        .slice(0, count)
        .map((v) => extend(from, v)),
      to,
    );
  };

const BITS = { B: 8, W: 16, D: 32, Q: 64 } as const;
const MODELS: Record<string, Model> = {
  PAND: each(64, (a, b) => a & b),
  PANDN: each(64, (a, b) => ~a & b),
  POR: each(64, (a, b) => a | b),
  PXOR: each(64, (a, b) => a ^ b),
  ANDPS: each(64, (a, b) => a & b),
  ANDNPD: each(64, (a, b) => ~a & b),
  ORPD: each(64, (a, b) => a | b),
  XORPS: each(64, (a, b) => a ^ b),
  PMULLW: each(16, (a, b) => a * b),
  PMULLD: each(32, (a, b) => a * b),
  PMULHW: eachSigned(16, (a, b) => (a * b) >> 16n),
  PMULHUW: each(16, (a, b) => (a * b) >> 16n),
  PMULHRSW: eachSigned(16, (a, b) => (((a * b) >> 14n) + 1n) >> 1n),
  PMULUDQ: each(64, (a, b) => unsigned(32, a) * unsigned(32, b)),
  PMULDQ: each(64, (a, b) => signed(32, a) * signed(32, b)),
  PAVGB: each(8, (a, b) => (a + b + 1n) >> 1n),
  PAVGW: each(16, (a, b) => (a + b + 1n) >> 1n),
  PMADDWD: (a, b) => {
    const left = lanes(a, 16).map((v) => signed(16, v));
    const products = lanes(b, 16).map((v, i) => signed(16, v) * left[i]);
    return pack(
      products.flatMap((v, i) => (i % 2 === 0 ? [v + products[i + 1]] : [])),
      32,
    );
  },
  PMADDUBSW: (a, b) => {
    const left = lanes(a, 8);
    const products = lanes(b, 8).map((v, i) => signed(8, v) * left[i]);
    return pack(
      products.flatMap((v, i) => (i % 2 === 0 ? [saturateS(16, v + products[i + 1])] : [])),
      16,
    );
  },
  PSADBW: (a, b) => {
    const right = lanes(b, 8);
    const differences = lanes(a, 8).map((v, i) => absolute(v - right[i]));
    const sum = (from: number) => differences.slice(from, from + 8).reduce((s, v) => s + v, 0n);
    return pack(
      Array.from({ length: a.length / 8 }, (_, i) => sum(8 * i)),
      64,
    );
  },
  MPSADBW: (a, b, imm) => {
    const from = (imm >> 2) & 1 ? 4 : 0;
    const block = 4 * (imm & 3);
    return pack(
      Array.from({ length: 8 }, (_, j) => {
        let sum = 0;
        for (let k = 0; k < 4; k++) sum += Math.abs(a[from + j + k] - b[block + k]);
        return BigInt(sum);
      }),
      16,
    );
  },
  PHMINPOSUW: (_a, b) => {
    const words = lanes(b, 16);
    const least = words.reduce((m, v) => (v < m ? v : m));
    return pack([least, BigInt(words.indexOf(least)), 0n, 0n, 0n, 0n, 0n, 0n], 16);
  },
  PHADDW: neighbours(16, (a, b) => a + b),
  PHADDD: neighbours(32, (a, b) => a + b),
  PHADDSW: neighbours(16, (a, b) => saturateS(16, a + b)),
  PHSUBW: neighbours(16, (a, b) => a - b),
  PHSUBD: neighbours(32, (a, b) => a - b),
  PHSUBSW: neighbours(16, (a, b) => saturateS(16, a - b)),
  PACKSSWB: packing(16, saturateS),
  PACKSSDW: packing(32, saturateS),
  PACKUSWB: packing(16, saturateU),
  PACKUSDW: packing(32, saturateU),
  PSHUFB: (a, b) => a.map((_, i) => (b[i] & 0x80 ? 0 : a[b[i] & (a.length - 1)])),
  PSHUFD: shuffling(32, 0),
  PSHUFW: shuffling(16, 0),
  PSHUFLW: shuffling(16, 0),
  PSHUFHW: shuffling(16, 4),
  SHUFPS: (a, b, imm) => {
    const [left, right] = [lanes(a, 32), lanes(b, 32)];
    const field = (k: number) => (imm >> (2 * k)) & 3;
    return pack([left[field(0)], left[field(1)], right[field(2)], right[field(3)]], 32);
  },
  SHUFPD: (a, b, imm) => pack([lanes(a, 64)[imm & 1], lanes(b, 64)[(imm >> 1) & 1]], 64),
  UNPCKLPS: unpacking(32, false),
  UNPCKHPD: unpacking(64, true),
  MOVSLDUP: (_a, b) =>
    pack(
      [0, 0, 2, 2].map((i) => lanes(b, 32)[i]),
      32,
    ),
  MOVSHDUP: (_a, b) =>
    pack(
      [1, 1, 3, 3].map((i) => lanes(b, 32)[i]),
      32,
    ),
  MOVDDUP: (_a, b) => pack([lanes(b, 64)[0], lanes(b, 64)[0]], 64),
  BLENDPS: blending(32),
  BLENDPD: blending(64),
  PBLENDW: blending(16),
  PALIGNR: (a, b, imm) => a.map((_, i) => [...b, ...a][i + imm] ?? 0),
};
for (const [suffix, bits] of Object.entries(BITS)) {
  const model = (name: string, f: Model) => {
    MODELS[name + suffix] = f;
  };
  model(
    "PADD",
    each(bits, (a, b) => a + b),
  );
  model(
    "PSUB",
    each(bits, (a, b) => a - b),
  );
  model(
    "PADDS",
    eachSigned(bits, (a, b) => saturateS(bits, a + b)),
  );
  model(
    "PSUBS",
    eachSigned(bits, (a, b) => saturateS(bits, a - b)),
  );
  model(
    "PADDUS",
    each(bits, (a, b) => saturateU(bits, a + b)),
  );
  model(
    "PSUBUS",
    each(bits, (a, b) => saturateU(bits, a - b)),
  );
  model(
    "PCMPEQ",
    when(bits, (a, b) => a === b),
  );
  model(
    "PCMPGT",
    when(bits, (a, b) => a > b),
  );
  model(
    "PMINS",
    eachSigned(bits, (a, b) => (a < b ? a : b)),
  );
  model(
    "PMAXS",
    eachSigned(bits, (a, b) => (a > b ? a : b)),
  );
  model(
    "PMINU",
    each(bits, (a, b) => (a < b ? a : b)),
  );
  model(
    "PMAXU",
    each(bits, (a, b) => (a > b ? a : b)),
  );
  model(
    "PABS",
    eachSigned(bits, (_a, b) => absolute(b)),
  );
  model(
    "PSIGN",
    eachSigned(bits, (a, b) => (b < 0n ? -a : b === 0n ? 0n : a)),
  );
  model(
    "PSLL",
    shifting(bits, (a, n) => a << n),
  );
  model(
    "PSRL",
    shifting(bits, (a, n) => a >> n),
  );
  model(
    "PSRA",
    shifting(bits, (a, n) => a >> n, true),
  );
}
for (const [suffix, bits] of [
  ["BW", 8],
  ["WD", 16],
  ["DQ", 32],
  ["QDQ", 64],
] as const) {
  MODELS[`PUNPCKL${suffix}`] = unpacking(bits, false);
  MODELS[`PUNPCKH${suffix}`] = unpacking(bits, true);
}
for (const pair of ["BW", "BD", "BQ", "WD", "WQ", "DQ"]) {
  const [from, to] = [...pair].map((letter) => BITS[letter as keyof typeof BITS]);
  MODELS[`PMOVSX${pair}`] = widening(from, to, signed);
  MODELS[`PMOVZX${pair}`] = widening(from, to, unsigned);
}

let seed = 0x2545f491;
function random(): number {
  seed ^= seed << 13;
  seed ^= seed >>> 17;
  seed ^= seed << 5;
  return seed >>> 0;
}
const CORNERS = [0x00, 0x01, 0x7f, 0x80, 0x81, 0xff];
function operand(): Uint8Array {
  const style = random() % 3;
  return Uint8Array.from({ length: 16 }, (_, i) => {
    if (style === 0) return CORNERS[random() % CORNERS.length];
    // Shift counts and indices are small, and extreme words have a corner in their high byte.
    if (style === 1) return i % 8 === 0 ? random() % 70 : random() % 8 === 0 ? random() : 0;
    return random();
  });
}

const CASES = 60;
const covered = new Set<string>();
for (const instruction of bench.instructions) {
  const { row, form } = instruction;
  const model = MODELS[row.mnemonic];
  // Shifts by an immediate are tested below.
  if (model === undefined || row.operands[1]?.method === "I") continue;
  covered.add(row.mnemonic);
  const wide = row.operands.some((c) => isVector(c.method));
  test(`${describe(row)} ${form.operands[1].kind}`, () => {
    for (let n = 0; n < CASES; n++) {
      const a = operand();
      const b = operand();
      const imm = random() & (random() % 2 ? 0xff : 0x1f);
      const size = wide ? 16 : 8;
      const expected = model(a.slice(0, size), b.slice(0, size), imm);
      const out = run(instruction, { a, b, imm });
      assert.equal(
        hex(out.first.subarray(0, size)),
        hex(expected),
        `${hex(a)} ${hex(b)} imm ${imm.toString(16)}`,
      );
    }
  });
}

test("every model has met its instruction", () => {
  const known = new Set(bench.instructions.map(({ row }) => row.mnemonic));
  const missed = Object.keys(MODELS).filter((name) => known.has(name) && !covered.has(name));
  assert.deepEqual(missed, []);
});

test("shifts by an immediate", () => {
  for (const instruction of bench.instructions) {
    const { row } = instruction;
    if (!/^PS[LR][LA]/.test(row.mnemonic) || row.operands[1]?.method !== "I") continue;
    const wide = isVector(row.operands[0].method);
    for (let imm = 0; imm < 256; imm++) {
      const a = operand();
      const count = Uint8Array.of(imm, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
      const size = wide ? 16 : 8;
      let expected: Uint8Array;
      if (row.mnemonic === "PSLLDQ") expected = a.map((_, i) => a[i - imm] ?? 0);
      else if (row.mnemonic === "PSRLDQ") expected = a.map((_, i) => a[i + imm] ?? 0);
      else expected = MODELS[row.mnemonic](a.slice(0, size), count, 0);
      const out = run(instruction, { a, b: a, imm });
      assert.equal(hex(out.first.subarray(0, size)), hex(expected), `${describe(row)} by ${imm}`);
    }
  }
});
