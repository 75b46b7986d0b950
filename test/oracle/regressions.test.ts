/** Cases that were wrong once and that random ones meet rarely, against the host's CPU. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Campaign, reportAll } from "./campaign.js";
import { CODE_BASE, type CpuCase, DATA_BASE, DATA_END, Fx, initialFx, PAGE } from "./cpu-case.js";
import { NativeCpu, nativeUnavailable } from "./native-cpu.js";
import { SoftCpu } from "./soft-cpu.js";
import { nothingUndefined, type Undefined } from "./undefined.js";

const unavailable = nativeUnavailable();

/** RFLAGS bits. */
const FIXED = 0x202;
const TF = 0x100;

interface Regression {
  readonly title: string;
  readonly code: string;
  readonly registers?: Record<number, bigint>;
  readonly options?: Partial<CpuCase>;
  readonly masked?: Partial<Undefined>;
}

/** ST(0) and ST(1), sign and exponent first, with FCW. */
function x87(st0: string, st1: string, fcw: number): Uint8Array {
  const fx = initialFx();
  fx[Fx.FCW] = fcw & 0xff;
  fx[Fx.FCW + 1] = fcw >> 8;
  fx[Fx.FTW] = 0xff;
  [st0, st1].forEach((text, i) => {
    fx.set(Buffer.from(text, "hex").reverse(), Fx.ST + 16 * i);
  });
  return fx;
}

const DATA = BigInt(DATA_BASE);
const REGRESSIONS: readonly Regression[] = [
  {
    title: "FSCALE whose result has the exponent of infinity: overflow, unmasked",
    code: "d9 fd",
    options: { fx: x87("fffeffffffffffffffff", "3fff8000000000000001", 0x351) },
  },
  {
    title: "REP MOVSB under TF, with the pages in the TLB: a trap after one byte",
    code: "f2 a4",
    registers: { 1: 13n, 6: DATA + 0x400n, 7: DATA + 0x500n },
    // An odd entry: the TLB is filled first.
    options: { rflags: FIXED | TF, entry: CODE_BASE + 0x701 },
    // RF in the pushed image: Intel's processors set it, AMD's do not.
    masked: { flags: 0x10000 },
  },
  {
    title: "CMPXCHG of a 32-bit register that differs keeps its upper half",
    code: "0f b1 ce",
    registers: { 0: 1n, 1: 2n, 6: 0xffffffff_00000003n },
  },
  {
    title: "BTS with a 32-bit address: the bit offset wraps in 32 bits",
    code: "67 48 0f ab 07",
    registers: { 0: BigInt.asUintN(64, -8n * 0x1000n), 7: 0x5a5a5a5a_00000000n | (DATA + 0x1800n) },
  },
  { title: "JMP to a non-canonical address faults at the JMP", code: "ff e0", registers: { 0: 1n << 60n } },
  {
    title: "CALL to a non-canonical address with a bad stack: the stack first",
    code: "ff d0",
    registers: { 0: 1n << 60n, 4: BigInt(DATA_END + PAGE) },
  },
  {
    title: "PUSH imm8 takes the operand size",
    code: "6a 80",
  },
  {
    title: "INS with nothing to move asks for permission all the same",
    code: "f3 6c",
    registers: { 1: 0n, 7: DATA },
  },
  {
    title: "FIST with an unmasked exception to a page that is not there: #PF",
    code: "db 17",
    registers: { 7: BigInt(DATA_END) },
    options: { fx: x87("7fff8000000000000000", "00000000000000000000", 0x37e) },
  },
  {
    title: "FNENI does not wait for a pending exception",
    code: "db e0",
    options: { fx: pendingException() },
    masked: { fsw: 0x4700 },
  },
];

function pendingException(): Uint8Array {
  const fx = x87("3fff8000000000000000", "3fff8000000000000000", 0x37e);
  new DataView(fx.buffer).setUint16(Fx.FSW, 0x8081, true);
  return fx;
}

function caseOf({ title, code, registers, options }: Regression): CpuCase {
  const gpr = new BigUint64Array(16);
  gpr[4] = BigInt(DATA_BASE + PAGE);
  for (const [n, value] of Object.entries(registers ?? {})) gpr[Number(n)] = value;
  return {
    title,
    bitness: 64,
    entry: CODE_BASE + 0x700,
    code: Uint8Array.from(code.split(" "), (byte) => Number.parseInt(byte, 16)),
    gpr,
    rflags: FIXED,
    fx: undefined,
    patches: [],
    usesLow: false,
    segments: false,
    operand: undefined,
    ...options,
  };
}

test("cases that were wrong once", { skip: unavailable ?? false }, async (t) => {
  const native = new NativeCpu();
  const campaign = new Campaign(native, new SoftCpu(native.facilities));
  for (const regression of REGRESSIONS) {
    await t.test(regression.title, () => {
      const undefinedParts = { ...nothingUndefined(), ...regression.masked };
      const trial = { test: caseOf(regression), masked: () => undefinedParts };
      assert.equal(reportAll(campaign.run([trial], 1)), "");
    });
  }
});
