/** Stacks: widths, wrap-around, and the corner cases of PUSH, POP, ENTER, LEAVE, PUSHA, PUSHF (SDM vol. 1, 6.2; vol. 2). */
import assert from "node:assert/strict";
import { after } from "node:test";
import type { Asm } from "./support/asm.js";
import { At, type Environment, Sel, Type } from "./support/environment.js";
import { assembler, Flag, type GuestImage, runGuest } from "./support/machine.js";
import { guestProvider, test } from "./support/provider.js";

const provider = guestProvider();
after(() => provider.close());
const run = (image: GuestImage) => runGuest(provider, image);
const [SS, GP] = [12, 13];
const TOP = BigInt(At.STACK_TOP);

const LONG: [what: string, body: (a: Asm) => Asm, sp: bigint, stack: bigint[], more?: Partial<GuestImage>][] =
  [
    ["PUSH RSP pushes the old value", (a) => a.push("sp"), TOP - 8n, [TOP]],
    ["PUSH imm8 is sign-extended to 64 bits", (a) => a.hex("6aff"), TOP - 8n, [0xffff_ffff_ffff_ffffn]],
    ["PUSH imm32 is sign-extended to 64 bits", (a) => a.pushImm(-2), TOP - 8n, [0xffff_ffff_ffff_fffen]],
    ["PUSH imm16", (a) => a.hex("66 68 3412"), TOP - 2n, []],
    ["PUSH r16", (a) => a.hex("66 50"), TOP - 2n, []],
    [
      "PUSH [RSP]: the address is from before",
      (a) => a.mov("ax", 7).push("ax").hex("ff3424"),
      TOP - 16n,
      [7n, 7n],
    ],
    ["PUSH FS: zero-extended", (a) => a.setSegment("fs", Sel.DATA).hex("0fa0"), TOP - 8n, [BigInt(Sel.DATA)]],
    ["POP [RSP]: the address is from after", (a) => a.pushImm(1).pushImm(2).hex("8f0424"), TOP - 8n, [2n]],
    [
      "POP [RSP + 8]: the same with a displacement",
      (a) => a.pushImm(1).pushImm(2).pushImm(3).hex("8f442408"),
      TOP - 16n,
      [3n, 2n],
    ],
    ["PUSHF and POPF", (a) => a.hex("f9 9c"), TOP - 8n, [3n]],
    ["CALL pushes the next RIP", (a) => a.call("x").label("x"), TOP - 8n, [BigInt(At.CODE + 5)]],
    [
      "CALL [RSP]: the address is from before",
      (a) => a.hex("68").address("x", 4).hex("ff1424").label("x"),
      TOP - 16n,
      [BigInt(At.CODE + 8), BigInt(At.CODE + 8)],
    ],
    ["ENTER 16, 0", (a) => a.mov("bp", 0x77).hex("c8 1000 00"), TOP - 24n, [0x77n]],
    [
      "LEAVE",
      (a) =>
        a
          .mov("bp", At.STACK_TOP - 8)
          .pushImm(0x55)
          .mov("sp", 0)
          .hex("c9"),
      TOP,
      [],
    ],
  ];
for (const [what, body, sp, stack] of LONG) {
  test(`64-bit stack: ${what} (SDM 2)`, () => {
    const { end, regs, env } = run({ mode: "long", code: body(assembler("long")).done() });
    assert.equal(end, "done");
    assert.equal(regs.rsp, sp);
    stack.forEach((value, i) => {
      assert.equal(env.read64(At.STACK_TOP - 8 * (i + 1)), value);
    });
  });
}
test("POP RSP: the value popped, not one above it (SDM 2, POP)", () => {
  assert.equal(
    run({ mode: "long", code: assembler("long").pushImm(0x1234).pop("sp").done() }).regs.rsp,
    0x1234n,
  );
});
test("POP SP with 16 bits changes SP alone (SDM 2, POP)", () => {
  assert.equal(
    run({ mode: "long", code: assembler("long").pushImm(0x1234).hex("66 5c").done() }).regs.rsp,
    ((TOP - 6n) & ~0xffffn) | 0x1234n,
  );
});
test("LEAVE takes RBP from the frame (SDM 2, LEAVE)", () => {
  const { regs } = run({
    mode: "long",
    code: assembler("long")
      .pushImm(0x55)
      .mov("bp", At.STACK_TOP - 8)
      .hex("c9")
      .done(),
  });
  assert.deepEqual([regs.rbp, regs.rsp], [0x55n, TOP]);
});

/** ENTER with levels copies frame pointers from the old frame (SDM 2, ENTER). */
for (const [mode, width] of [
  ["long", 8],
  ["protected32", 4],
] as const) {
  test(`${mode}: ENTER 4, 3 (SDM 2, ENTER)`, () => {
    const bp = At.DATA + 0x100;
    const { end, regs, env } = run({
      mode,
      code: assembler(mode).mov("bp", bp).hex("c8 0400 03").done(),
      memory: (e) => {
        e.u64(bp - width, 0x1111n);
        e.u64(bp - 2 * width, width === 8 ? 0x2222n : (0x1111n << 32n) | 0x2222n);
      },
    });
    assert.equal(end, "done");
    const frame = At.STACK_TOP - width;
    const read = (at: number) => (width === 8 ? Number(env.read64(at)) : env.read32(at));
    assert.deepEqual(
      [0, 1, 2, 3].map((i) => read(frame - width * i)),
      [bp, 0x1111, 0x2222, frame],
    );
    assert.equal(regs.rbp, BigInt(frame));
    assert.equal(regs.rsp, BigInt(frame - 3 * width - 4));
  });
}
test("ENTER takes the level modulo 32 (SDM 2, ENTER)", () => {
  const { regs } = run({ mode: "long", code: assembler("long").hex("c8 0000 20").done() });
  assert.equal(regs.rsp, TOP - 8n);
});

// --- 16-bit stacks ---

/** A 16-bit stack segment of 64 KiB based at At.DATA. */
const small = (e: Environment) =>
  e.descriptor(Sel.FREE, { type: Type.DATA_WRITABLE, base: At.DATA, limit: 0xffff });
const smallStack = (body: (a: Asm) => Asm, sp: bigint, more: Partial<GuestImage> = {}) => {
  const code = body(assembler("protected32").setSegment("ss", Sel.FREE)).done();
  return run({ mode: "protected32", code, regs: { rsp: sp }, memory: small, ...more });
};
test("a 16-bit stack wraps at 64 KiB and leaves the upper half of ESP (SDM 1, 6.2.3)", () => {
  const { end, regs, env } = smallStack(
    (a) => a.mov("bx", 0x11223344).push("bx").pop("cx").push("bx"),
    0xabcd_0000n,
  );
  assert.equal(end, "done");
  assert.equal(regs.rsp, 0xabcd_fffcn);
  assert.equal(env.read32(At.DATA + 0xfffc), 0x11223344);
});
test("16-bit stack: near CALL and RET, PUSHA and POPA, ENTER and LEAVE use SP", () => {
  const { end, regs } = smallStack(
    (a) => a.call("f").hex("60 61").hex("c8 1000 00").hex("c9").jmp("e").label("f").hex("c3").label("e"),
    0x7777_8000n,
  );
  assert.equal(end, "done");
  assert.equal(regs.rsp, 0x7777_8000n);
});
test("16-bit stack: an access through BP in 32-bit code is not cut", () => {
  const { end, regs } = smallStack((a) => a.mov("bp", 0x100).hex("c74500 44332211 8b5d00"), 0x8000n);
  assert.equal(end, "done");
  assert.equal(regs.rbx, 0x11223344n);
});
for (const [sp, ok] of [
  [4n, true],
  [2n, false],
  [0n, true],
] as const) {
  test(`real mode: PUSH EAX with SP = ${sp} ${ok ? "is done" : "is #SS"} (SDM 2, PUSH)`, () => {
    const result = run({ mode: "real", code: assembler("real").hex("66 50").done(), regs: { rsp: sp } });
    if (ok) assert.equal(result.end, "done");
    // The handler's frame of six bytes at SP = 2 does not fit either.
    else assert.ok(result.end === "shutdown" || result.faults[0]?.vector === SS);
  });
}
test("real mode: PUSH SP pushes the old value (SDM 2, PUSH)", () => {
  const { regs } = run({ mode: "real", code: assembler("real").push("sp").pop("bx").done() });
  assert.equal(regs.rbx, TOP);
});
test("PUSHA pushes the old SP; POPA skips it (SDM 2, PUSHA)", () => {
  for (const mode of ["protected32", "real"] as const) {
    const a = assembler(mode)
      .mov("ax", 1)
      .mov("cx", 2)
      .mov("dx", 3)
      .mov("bx", 4)
      .mov("bp", 5)
      .mov("si", 6)
      .mov("di", 7)
      .hex("60");
    a.mov("ax", 0).mov("di", 0).hex("61").done();
    const { regs, env } = run({ mode, code: a });
    assert.deepEqual(
      [regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rbp, regs.rsi, regs.rdi],
      [1n, 2n, 3n, 4n, 5n, 6n, 7n],
    );
    assert.equal(regs.rsp, TOP);
    const width = mode === "real" ? 2 : 4;
    const saved = Array.from(
      { length: 8 },
      (_, i) => env.read32(At.STACK_TOP - width * (i + 1)) & (width === 2 ? 0xffff : -1),
    );
    assert.deepEqual(saved, [1, 2, 3, 4, At.STACK_TOP, 5, 6, 7]);
  }
});

// --- flags ---

const F = Flag;
const POPF: [
  rule: string,
  mode: GuestImage["mode"],
  cpl: 0 | 3,
  before: number,
  value: number,
  expected: number,
][] = [
  [
    "all at CPL 0",
    "long",
    0,
    0,
    F.IF | F.IOPL3 | F.DF | F.NT | F.AC | 0x200000 | F.CF,
    F.IF | F.IOPL3 | F.DF | F.NT | F.AC | 0x200000 | F.CF,
  ],
  ["RF, VM, VIF, VIP are left", "long", 0, 0, F.RF | F.VM | 0x180000, 0],
  ["reserved bits read as they are", "long", 0, 0, 0xffc0802a, 0],
  ["IF and IOPL at CPL 3", "long", 3, 0, F.IF | F.IOPL3 | F.CF, F.CF],
  ["IF with IOPL 3", "long", 3, F.IOPL3, F.IF, F.IOPL3 | F.IF],
  ["32-bit", "protected32", 3, F.IF, F.CF | F.DF, F.IF | F.CF | F.DF],
];
for (const [rule, mode, cpl, before, value, expected] of POPF) {
  test(`${mode}: POPF: ${rule} (SDM 2, POPF)`, () => {
    const { end, regs } = run({
      mode,
      cpl,
      code: assembler(mode)
        .pushImm(value | 0)
        .hex("9d")
        .done(),
      regs: { rflags: BigInt(before | 2) },
    });
    assert.equal(end, "done");
    assert.equal(Number(regs.rflags), expected | 2);
  });
}
test("PUSHF clears RF and VM in its image (SDM 2, PUSHF)", () => {
  const { regs } = run({ mode: "v86", code: assembler("v86").hex("66 9c 66 5b").done() });
  assert.equal(regs.rbx & BigInt(F.VM | F.RF), 0n);
});
test("CLI and STI above IOPL are #GP(0) (SDM 2, CLI)", () => {
  for (const op of ["fa", "fb"]) {
    const at = (rflags: number) =>
      run({
        mode: "long",
        cpl: 3,
        code: assembler("long").hex(op).done(),
        regs: { rflags: BigInt(rflags | 2) },
      });
    assert.deepEqual([at(0).faults[0]?.vector, at(0).faults[0]?.error], [GP, 0]);
    assert.equal(at(F.IOPL3).end, "done");
  }
});
test("operand sizes of near CALL and RET: a 16-bit RET in 32-bit code cuts EIP (SDM 2, RET)", () => {
  const { faults, regs } = run({
    mode: "protected32",
    code: assembler("protected32").pushImm(0x1234_5678).hex("66 c3"),
    memory: (e) => e.write(0x5678, [0x0f, 0x0b]),
  });
  assert.equal(faults[0].rip, 0x5678n);
  assert.equal(regs.rsp, TOP - 2n - 12n);
});
