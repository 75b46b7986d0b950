/** Code that changes while it runs (SDM vol. 3A, 9.1.3, 12.6): the change counts from the next instruction on. */
import assert from "node:assert/strict";
import { after } from "node:test";
import { gpa } from "../../src/memory/guest-memory.js";
import type { Asm } from "./support/asm.js";
import { At, type Environment, Pte } from "./support/environment.js";
import { assembler, codeOrigin, type GuestImage, runGuest } from "./support/machine.js";
import { guestProvider, test } from "./support/provider.js";

const provider = guestProvider();
after(() => provider.close());
const run = (image: GuestImage) => runGuest(provider, image);
const { P, W } = Pte;

/** MOV BYTE [label + offset], value: a byte of code to come. */
function patch(a: Asm, label: string, offset: number, value: number): Asm {
  if (a.bits === 16) a.hex("2e");
  a.db(0xc6);
  if (a.bits === 16) a.db(0x06);
  else if (a.bits === 32) a.db(0x05);
  else a.db(0x04, 0x25);
  // The label's address is not known yet: a MOV of it, then an offset, would need more than this.
  a.address(`${label}+${offset}`, a.bits === 16 ? 2 : 4);
  return a.db(value);
}

for (const mode of ["real", "protected32", "long", "v86"] as const) {
  test(`${mode}: a store to the next instruction`, () => {
    const a = assembler(mode);
    patch(a, "x", 1, 0x42);
    const { end, regs } = run({
      mode,
      code: a.label("x").label("x+0").db(0xb3).label("x+1").db(0x11).done(),
    });
    assert.equal(end, "done");
    assert.equal(regs.rbx & 0xffn, 0x42n);
  });
  test(`${mode}: a store to an instruction that has run before, in a loop`, () => {
    const a = assembler(mode).mov("cx", 3).hex("30d2").label("again").hex("00da");
    // ADD DL, imm whose immediate counts up
    a.hex("80c2").label("x").label("x+0").db(1);
    if (mode === "v86" || mode === "real") a.hex("2e fe06").address("x", 2);
    else if (mode === "protected32") a.hex("fe05").address("x", 4);
    else a.hex("fe0425").address("x", 4);
    a.hex(mode === "protected32" || mode === "long" ? "ffc9" : "49")
      .jcc("nz", "again")
      .done();
    const { end, regs } = run({ mode, code: a });
    assert.equal(end, "done");
    assert.equal(regs.rdx & 0xffn, 6n);
  });
}

test("a string operation over the instructions after it", () => {
  // REP STOSB over INC EBX thrice
  const a = assembler("long")
    .mov("ax", 0x90)
    .movLabel("di", "after")
    .mov("cx", 6)

    .hex("f3aa")
    .label("after")
    .hex("ffc3 ffc3 ffc3")
    .done();
  const { end, regs } = run({ mode: "long", code: a });
  assert.equal(end, "done");
  assert.equal(regs.rbx, 0n);
});

test("an instruction across two pages is changed in its second page", () => {
  const a = assembler("long")
    .mov("si", 2)
    .jmp("x")
    .padTo(At.CODE + 0xffe)
    .label("x")
    .mov("bx", 0x11111111);
  a.hex("ffce")
    .jcc("z", "end")
    .hex("c60425")
    .value(At.CODE + 0x1001, 4)
    .db(0x77)
    .jmp("x")
    .label("end")
    .done();
  const { end, regs } = run({ mode: "long", code: a });
  assert.equal(end, "done");
  assert.equal(regs.rbx, 0x11771111n);
});

test("code is written through another mapping of its page (SDM 3A, 12.6)", () => {
  const alias = 0x180000;
  const a = assembler("long")
    .call("f")
    .hex("89de")
    .op("c6", 0, alias + 0x801)
    .db(0x22)
    .call("f")
    .done();
  a.padTo(At.CODE + 0x800)
    .label("f")
    .hex("b3 11 c3");
  const { regs } = run({
    mode: "long",
    code: a,
    memory: (e) => e.page(alias, BigInt(At.CODE) | P | W),
  });
  assert.equal(regs.rsi & 0xffn, 0x11n);
  assert.equal(regs.rbx & 0xffn, 0x22n);
});

test("code that ran through one mapping is changed, and runs through another", () => {
  const alias = 0x180000;
  const a = assembler("long")
    .call("f")
    .hex("89de")
    .hex("c60425")
    .value(At.CODE + 0x801, 4)
    .db(0x22);
  a.mov("ax", alias + 0x800)
    .hex("ffd0")
    .done();
  a.padTo(At.CODE + 0x800)
    .label("f")
    .hex("b3 11 c3");
  const { regs } = run({ mode: "long", code: a, memory: (e) => e.page(alias, BigInt(At.CODE) | P | W) });
  assert.deepEqual([regs.rsi & 0xffn, regs.rbx & 0xffn], [0x11n, 0x22n]);
});

const WRITERS: [what: string, body: (a: Asm, at: number) => Asm][] = [
  ["MOV", (a, at) => a.hex("c60425").value(at, 4).db(0x22)],
  [
    "an unaligned store",
    (a, at) =>
      a
        .mov("ax", 0x22b3)
        .hex("66 890425")
        .value(at - 1, 4),
  ],
  ["ADD", (a, at) => a.hex("800425").value(at, 4).db(0x11)],
  ["LOCK XADD", (a, at) => a.mov("ax", 0x11).hex("f00fc00425").value(at, 4)],
  ["XCHG", (a, at) => a.mov("ax", 0x22).hex("860425").value(at, 4)],
  ["LOCK CMPXCHG", (a, at) => a.mov("ax", 0x11).mov("cx", 0x22).hex("f00fb00c25").value(at, 4)],
  ["STOSB", (a, at) => a.mov("ax", 0x22).mov("di", at).hex("aa")],
  ["REP MOVSB", (a, at) => a.store8(At.DATA, 0x22).mov("si", At.DATA).mov("di", at).mov("cx", 1).hex("f3a4")],
  [
    "PUSH",
    (a, at) =>
      a
        .hex("4889e5")
        .mov("sp", at + 7)
        .pushImm(0xc322b3)
        .hex("4889ec"),
  ],
  [
    "MOVUPS",
    (a, at) =>
      a
        .hex("0f100425")
        .value(at - 1, 4)
        .hex("c60425")
        .value(At.DATA + 1, 4)
        .db(0x22)
        .hex("0f110425")
        .value(At.DATA + 16, 4)
        .hex("c60425")
        .value(At.DATA + 17, 4)
        .db(0x22)
        .hex("0f100425")
        .value(At.DATA + 16, 4)
        .hex("0f110425")
        .value(at - 1, 4),
  ],
  [
    "BTS",
    (a, at) =>
      a
        .hex("0fba2c25")
        .value(at, 4)
        .db(5)
        .hex("0fba3425")
        .value(at, 4)
        .db(4)
        .hex("0fba2c25")
        .value(at, 4)
        .db(1)
        .hex("0fba3425")
        .value(at, 4)
        .db(0),
  ],
  ["FIST", (a, at) => a.store32(At.DATA, 0xc322).hex("db0425").value(At.DATA, 4).hex("db1c25").value(at, 4)],
  ["SETcc and INSB", (a, at) => a.mov("dx", 0x80).mov("di", at).hex("6c")],
];
for (const [what, body] of WRITERS) {
  test(`code changed by ${what}`, () => {
    const f = At.CODE + 0x800;
    const a = assembler("long").call("f").hex("4189d8");
    body(a, f + 1)
      .call("f")
      .done();
    a.padTo(f).label("f").hex("b3 11 c3");
    const { end, regs } = run({ mode: "long", code: a, read: () => 0x22 });
    assert.equal(end, "done");
    assert.deepEqual([regs.r8 & 0xffn, regs.rbx & 0xffn], [0x11n, 0x22n]);
  });
}

test("code and hot data in one page, and in one cache line", () => {
  // The counter lies right behind the loop: INC QWORD [counter]; MOV RBX, [counter]
  const a = assembler("long").mov("cx", 100).label("again").hex("48ff0425").address("counter", 4);
  a.hex("ffc9").jcc("nz", "again").hex("488b1c25").address("counter", 4).done().label("counter").value(0, 8);
  const { end, regs } = run({ mode: "long", code: a });
  assert.equal(end, "done");
  assert.equal(regs.rbx, 100n);
});

test("code written by the host or a device before the guest goes on", () => {
  const a = assembler("long")
    .call("f")
    .hex("89de")
    .out(0x80)
    .call("f")
    .done()
    .padTo(At.CODE + 0x800)
    .label("f")
    .hex("b3 11 c3");
  const { regs } = run({
    mode: "long",
    code: a,
    onAccess: (_, _vcpu, env: Environment) => env.memory.writeU8(gpa(At.CODE + 0x801), 0x22),
  });
  assert.deepEqual([regs.rsi & 0xffn, regs.rbx & 0xffn], [0x11n, 0x22n]);
});

test("the same bytes run as 16-bit, 32-bit and 64-bit code", () => {
  // B8 imm, then 48 89 C3: DEC AX, MOV in legacy modes; MOV RBX, RAX in 64-bit mode.
  const bytes = "b8 0100 0000 48 89c3 e6f4";
  const value = (mode: GuestImage["mode"]) => {
    const a = assembler(mode);
    return run({ mode, code: a.hex(bytes) });
  };
  assert.equal(value("long").regs.rbx, 1n);
  assert.equal(value("protected32").regs.rbx, 0n);
  // 16-bit: MOV AX, 1; ADD [BX + SI], AL; DEC AX; MOV BX, AX
  assert.equal(value("real").regs.rbx & 0xffffn, 0n);
  assert.equal(codeOrigin("real"), 0);
});

test("a far jump into code that was decoded in another width", () => {
  const a = assembler("compat").call("f").hex("89de").jmpFar(0x08, "long").label("f").hex("31db 48 43 c3");
  // 32-bit: DEC EAX; INC EBX. 64-bit: REX.W REX.XB prefixes, then RET
  a.label("long").use(64).hex("bb 05000000").call("f").done();
  const { end, regs } = run({ mode: "compat", code: a });
  assert.equal(end, "done");
  assert.equal(regs.rsi, 1n);
  assert.equal(regs.rbx, 0n, "only XOR counts in 64-bit mode");
});

test("many pages of code: all is decoded anew when room runs out, and goes on", () => {
  const pages = 256;
  const base = 0x200000;
  const a = assembler("long")
    .mov("cx", 3)
    .label("round")
    .mov("ax", base)
    .hex("ffd0 ffc9")
    .jcc("nz", "round")
    .done();
  const { end, regs } = run({
    mode: "long",
    code: a,
    memory: (e) => {
      for (let i = 0; i < pages; i++) {
        // INC EBX; JMP to the next page; the last returns
        const last = i === pages - 1;
        const code = [0xff, 0xc3, ...(last ? [0xc3] : [0xe9, 0xf9, 0x0f, 0x00, 0x00])];
        e.write(base + 0x1000 * i, code);
      }
    },
  });
  assert.equal(end, "done");
  assert.equal(regs.rbx, BigInt(3 * pages));
});
