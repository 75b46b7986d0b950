import assert from "node:assert/strict";
import { test } from "node:test";
import {
  BREAKPOINT,
  CODE_BASE,
  CODE_SIZE,
  type CpuCase,
  DATA_BASE,
  DATA_END,
  DATA_WRITABLE,
  Fx,
  GS_BASE,
  initialFx,
  TIMED_OUT,
} from "./cpu-case.js";
import { NativeCpu, nativeUnavailable } from "./native-cpu.js";

const unavailable = nativeUnavailable();
const cpu = unavailable === undefined ? new NativeCpu() : undefined;

function native(code: string, options: Partial<CpuCase> & { regs?: Record<number, bigint> } = {}) {
  const gpr = new BigUint64Array(16);
  gpr[4] = BigInt(DATA_BASE + 0x1000);
  for (const [n, value] of Object.entries(options.regs ?? {})) gpr[Number(n)] = value;
  cpu!.begin();
  try {
    return cpu!.run({
      title: code,
      bitness: 64,
      entry: CODE_BASE,
      code: Uint8Array.from(code.split(" "), (b) => Number.parseInt(b, 16)),
      gpr,
      rflags: 0x202,
      fx: undefined,
      patches: [],
      usesLow: false,
      segments: false,
      operand: undefined,
      ...options,
    });
  } finally {
    cpu!.end();
  }
}

const CF = 1;
const ZF = 0x40;

test("the native oracle", { skip: unavailable ?? false }, async (t) => {
  await t.test("add rax, rcx: result, flags, RIP", () => {
    const out = native("48 01 c8", { regs: { 0: 0xffffffffffffffffn, 1: 1n } });
    assert.equal(out.vector, BREAKPOINT);
    assert.equal(out.gpr[0], 0n);
    assert.equal(out.rflags & (CF | ZF), CF | ZF);
    assert.equal(out.rip, BigInt(CODE_BASE + 3));
  });

  await t.test("every register goes in and comes out", () => {
    const regs = Object.fromEntries(
      Array.from({ length: 16 }, (_, i) => [i, 0x1111111111111111n * BigInt(i)]),
    );
    const out = native("90", { regs });
    for (let i = 0; i < 16; i++) assert.equal(out.gpr[i], regs[i]);
  });

  await t.test("division by zero is #DE and changes nothing", () => {
    const out = native("48 f7 f1", { regs: { 0: 5n, 1: 0n } });
    assert.equal(out.vector, 0);
    assert.equal(out.rip, BigInt(CODE_BASE));
    assert.equal(out.gpr[0], 5n);
  });

  await t.test("page faults: address and error code", () => {
    const absent = native("48 89 01", { regs: { 1: BigInt(DATA_END + 0x10) } });
    assert.deepEqual([absent.vector, absent.errorCode, absent.cr2], [14, 6, BigInt(DATA_END + 0x10)]);
    const readOnly = native("88 01", { regs: { 1: BigInt(DATA_BASE + DATA_WRITABLE) } });
    assert.deepEqual([readOnly.vector, readOnly.errorCode], [14, 7]);
    const fetch = native("ff e1", { regs: { 1: BigInt(DATA_BASE) } });
    assert.deepEqual([fetch.vector, fetch.errorCode, fetch.rip], [14, 0x15, BigInt(DATA_BASE)]);
    const straddle = native("48 b8 11 22 33", { entry: CODE_BASE + CODE_SIZE - 5 });
    assert.deepEqual([straddle.vector, straddle.errorCode], [14, 0x14]);
    assert.equal(straddle.cr2, BigInt(CODE_BASE + CODE_SIZE));
  });

  await t.test("#GP and #SS for non-canonical addresses, #UD", () => {
    assert.equal(native("48 8b 01", { regs: { 1: 1n << 62n } }).vector, 13);
    assert.equal(native("58", { regs: { 4: 1n << 62n } }).vector, 12);
    assert.equal(native("0f 0b").vector, 6);
  });

  await t.test("memory starts from the template and the patches", () => {
    const at = DATA_BASE + 0x100;
    const patches = [{ address: at, bytes: Uint8Array.of(1, 2, 3, 4) }];
    const out = native("ff 01", { regs: { 1: BigInt(at) }, patches });
    assert.deepEqual([...out.data.subarray(0x100, 0x104)], [2, 2, 3, 4]);
    const fixed = [{ address: DATA_BASE + DATA_WRITABLE, bytes: Uint8Array.of(7) }];
    const load = native("8a 01", { regs: { 1: BigInt(DATA_BASE + DATA_WRITABLE) }, patches: fixed });
    assert.equal(load.gpr[0], 7n);
  });

  await t.test("GS has its base", () => {
    const at = DATA_BASE + 0x200;
    const patches = [{ address: at, bytes: Uint8Array.of(0x5a) }];
    const out = native("65 8a 01", { regs: { 1: BigInt(at) - GS_BASE }, patches });
    assert.equal(out.gpr[0], 0x5an);
  });

  await t.test("XMM, MXCSR and x87 state", () => {
    const fx = initialFx();
    const view = new DataView(fx.buffer);
    view.setFloat64(Fx.XMM, 1.5, true);
    view.setFloat64(Fx.XMM + 16, 0.1, true);
    const sum = native("f2 0f 58 c1", { fx });
    assert.equal(new DataView(sum.fx.slice().buffer).getFloat64(Fx.XMM, true), 1.6);
    assert.equal(sum.fx[Fx.MXCSR] & 0x20, 0x20, "inexact");
    const one = native("d9 e8", { fx });
    assert.deepEqual([...one.fx.slice(Fx.ST, Fx.ST + 10)], [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]);
    view.setUint32(Fx.MXCSR, 0x1f80 & ~0x1000, true);
    assert.equal(native("f2 0f 58 c1", { fx }).vector, 19);
  });

  await t.test("32-bit code", () => {
    // inc eax; aaa
    const out = native("40 37", { bitness: 32, regs: { 0: 9n, 4: BigInt(DATA_BASE + 0x800) } });
    assert.equal(out.vector, BREAKPOINT);
    assert.equal(out.gpr[0], 0x100n);
    const store = native("89 01", { bitness: 32, regs: { 0: 0x12345678n, 1: BigInt(DATA_BASE) } });
    assert.equal(store.vector, BREAKPOINT);
    assert.equal(store.data[0], 0x78);
  });

  await t.test("an endless loop is ended", () => {
    assert.equal(native("eb fe").vector, TIMED_OUT);
    assert.equal(native("90").vector, BREAKPOINT);
  });

  await t.test("V8's own handler is back afterwards", () => {
    // (func (param i32) (result i32) local.get 0 i32.load) out of bounds: a trap through SIGSEGV
    const bytes = [
      0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 6, 1, 0x60, 1, 0x7f, 1, 0x7f, 3, 2, 1, 0, 5, 3, 1, 0, 1, 7, 5, 1, 1,
      0x66, 0, 0, 10, 9, 1, 7, 0, 0x20, 0, 0x28, 2, 0, 0x0b,
    ];
    const { f } = new WebAssembly.Instance(new WebAssembly.Module(Uint8Array.from(bytes))).exports;
    assert.throws(() => (f as (at: number) => number)(0x7fffffff), WebAssembly.RuntimeError);
  });
});
