/** Modes of operation and the ways between them (SDM vol. 3A, 2.2, 10.8.5, 10.9; vol. 3B, 21.1). */
import assert from "node:assert/strict";
import { after } from "node:test";
import { Asm } from "./support/asm.js";
import { At, descriptor, type Environment, Sel, Type } from "./support/environment.js";
import { assembler, type GuestImage, runGuest } from "./support/machine.js";
import { guestProvider, test } from "./support/provider.js";

const provider = guestProvider();
after(() => provider.close());
const run = (image: GuestImage) => runGuest(provider, image);

/** Where the tables of a mode that is switched to are put: gdt for protected and long mode. */
const GDT_POINTER = 0x9000;

for (const mode of [
  "real",
  "protected16",
  "protected32",
  "paged32",
  "pae",
  "compat",
  "long",
  "v86",
] as const) {
  test(`starts in ${mode} and ends`, () => {
    const { end, regs } = run({ mode, code: assembler(mode).mov("bx", 0x1234).done() });
    assert.equal(end, "done");
    assert.equal(regs.rbx, 0x1234n);
  });
  test(`#UD in ${mode}`, () => {
    const { end, faults } = run({ mode, code: assembler(mode).nop().hex("0f0b") });
    assert.equal(end, "fault");
    assert.equal(faults[0].vector, 6);
    assert.equal(Number(faults[0].rip) & 0xffff, 1);
  });
}

/** A pseudo-descriptor for LGDT at GDT_POINTER, and a 32-bit code segment based at the code for 16-bit offsets. */
const CODE32_AT_CODE = 0x70;
function tables(env: Environment): void {
  env.u16(GDT_POINTER, 0x7ff);
  env.u32(GDT_POINTER + 2, At.GDT);
  env.descriptor(CODE32_AT_CODE, { type: Type.CODE_READABLE, base: At.CODE, db: true });
}

/** Real mode, 16-bit: LGDT, then CR0.PE. */
function enterProtected(a: Asm): Asm {
  return a.setSegment("ds", 0).op("66 0f01", 2, GDT_POINTER).orCr(0, 1);
}

test("real → 32-bit protected mode by MOV CR0 and a far jump (SDM 3A, 10.9.1)", () => {
  const a = enterProtected(new Asm(16)).jmpFar(CODE32_AT_CODE, "wide");
  a.label("wide").use(32).setSegment("ds", Sel.DATA).setSegment("ss", Sel.DATA);
  a.mov("bx", 0x12345678)
    .store(At.DATA + 0x8000, "bx")
    .mov("sp", At.STACK_TOP)
    .push("bx")
    .pop("cx")
    .done();
  const { end, regs, sregs, env } = run({ mode: "real", code: a, memory: tables });
  assert.equal(end, "done");
  assert.equal(regs.rcx, 0x12345678n);
  assert.equal(env.read32(At.DATA + 0x8000), 0x12345678);
  assert.equal(sregs.cr0 & 1n, 1n);
  assert.equal(sregs.cs.selector, CODE32_AT_CODE);
  assert.equal(sregs.cs.db, 1);
});

test("LMSW sets PE and cannot clear it (SDM 2, LMSW)", () => {
  const a = new Asm(16).setSegment("ds", 0).op("66 0f01", 2, GDT_POINTER);
  a.mov("ax", 1).hex("0f01f0").mov("ax", 0).hex("0f01f0").hex("0f01e3").done();
  const { end, regs, sregs } = run({ mode: "real", code: a, memory: tables });
  assert.equal(end, "done");
  assert.equal(sregs.cr0 & 0xfn, 1n);
  assert.equal(regs.rbx & 0xfn, 1n);
});

test("between MOV CR0 and the far jump, code goes on in its old width (SDM 3A, 10.9.1)", () => {
  const a = enterProtected(new Asm(16)).mov("bx", 0x1234).hex("66bb 78563412").done();
  const { regs } = run({ mode: "real", code: a, memory: tables });
  assert.equal(regs.rbx, 0x12345678n);
});

test("unreal mode: a limit loaded in protected mode stays in real mode (SDM 3B, 21.1.1)", () => {
  const a = enterProtected(new Asm(16)).setSegment("ds", Sel.DATA);
  a.readCr(0, "ax")
    .hex("66 25 feffffff")
    .writeCr(0, "ax")
    .jmpFar(At.CODE >> 4, "real");
  a.label("real")
    .setSegment("ds", 0)
    .mov32("bx", At.DATA + 0x12340)
    .hex("66 67 c703 44332211")
    .done();
  const { end, env } = run({ mode: "real", code: a, memory: tables });
  assert.equal(end, "done");
  assert.equal(env.read32(At.DATA + 0x12340), 0x11223344);
});

test("real mode: beyond 64 KiB is #GP with vector 13 and no error code (SDM 3B, 21.1.1)", () => {
  const a = new Asm(16).mov32("bx", 0x10000).hex("67 8a03");
  const { faults } = run({ mode: "real", code: a });
  assert.equal(faults[0].vector, 13);
  assert.equal(faults[0].rip, 6n);
});

test("real mode: a word at offset 0xFFFF is #GP, through SS #SS", () => {
  assert.equal(run({ mode: "real", code: new Asm(16).hex("a1 ffff") }).faults[0].vector, 13);
  assert.equal(run({ mode: "real", code: new Asm(16).hex("36 a1 ffff") }).faults[0].vector, 12);
});

test("real mode: code segments can be written (SDM 3B, 21.1.1: no type checks)", () => {
  const a = new Asm(16).hex("2e c606 0080 5a").done();
  const { end, env } = run({ mode: "real", code: a });
  assert.equal(end, "done");
  assert.equal(env.read32(At.CODE + 0x8000) & 0xff, 0x5a);
});

test("real mode: interrupt through the IVT clears IF, TF, AC and IRET restores (SDM 3B, 21.1.4)", () => {
  const code = new Asm(16).hex("fb cd42").done();
  const { end, faults, regs } = run({ mode: "real", code, onFault: () => "resume" });
  assert.equal(end, "done");
  assert.equal(faults[0].vector, 0x42);
  assert.equal(faults[0].rip, 3n);
  assert.equal(faults[0].flags & 0x200, 0x200);
  assert.equal(faults[0].regs.rflags & 0x300n, 0n);
  assert.equal(regs.rflags & 0x200n, 0x200n);
});

test("real mode: a vector beyond IDTR's limit ends in a shutdown when the double fault's is, too", () => {
  const sregs = (s: { idt: { limit: number } }) => {
    s.idt.limit = 3;
  };
  assert.equal(run({ mode: "real", code: new Asm(16).hex("cd42"), sregs }).end, "shutdown");
});

test("real mode: 32-bit operands and addresses by prefix; IP is cut to 16 bits in a near jump", () => {
  const a = new Asm(16).mov32("bx", 0x20).mov32("ax", 0x11223344).hex("67 66 8943 04").hex("e9 0000").done();
  const { end, env } = run({ mode: "real", code: a });
  assert.equal(end, "done");
  assert.equal(env.read32(At.DATA + 0x24), 0x11223344);
});

test("protected → real mode through a 16-bit segment (SDM 3A, 10.9.2)", () => {
  const a = enterProtected(new Asm(16)).jmpFar(Sel.CODE16, "sixteen");
  a.label("sixteen").setSegment("ds", Sel.DATA16).readCr(0, "ax").hex("66 25 feffffff").writeCr(0, "ax");
  a.jmpFar(At.CODE >> 4, "real")
    .label("real")
    .setSegment("ds", At.DATA >> 4)
    .store(0x10, "ax");
  a.setSegment("ss", 0).mov("sp", At.STACK_TOP).hex("cd 33").done();
  const { end, faults, sregs, env } = run({
    mode: "real",
    code: a,
    memory: tables,
    onFault: () => "resume",
  });
  assert.equal(end, "done");
  assert.equal(faults[0].vector, 0x33);
  assert.equal(sregs.cr0 & 1n, 0n);
  assert.equal(env.read32(At.DATA + 0x10) & 0xffff, At.DATA >> 4);
});

/** From real mode to IA-32e mode: protected mode, PAE, CR3, EFER.LME, paging, a far jump (SDM 3A, 10.8.5). */
function enterLong(a: Asm): Asm {
  enterProtected(a).jmpFar(CODE32_AT_CODE, "protected");
  a.label("protected").use(32).setSegment("ds", Sel.DATA).setSegment("ss", Sel.DATA).mov("sp", At.STACK_TOP);
  a.orCr(4, 0x20)
    .setCr(3, At.PML4)
    .wrmsr(0xc0000080, 0x100)
    .orCr(0, 0x8000_0000 | 0);
  return a;
}

test("real → protected → IA-32e: compatibility mode first, 64-bit mode after the far jump (SDM 3A, 10.8.5)", () => {
  const a = enterLong(new Asm(16));
  a.rdmsr(0xc0000080).store(At.DATA, "ax");
  a.db(0xea)
    .value(At.CODE + a.length + 6, 4)
    .value(Sel.CODE64, 2);
  a.use(64).mov("bx", 0x123456789abcdefn).hex("49 c7c0 ffffffff").done();
  const { end, regs, sregs, env } = run({ mode: "real", code: a, memory: tables });
  assert.equal(end, "done");
  assert.equal(regs.rbx, 0x123456789abcdefn);
  assert.equal(regs.r8, 0xffffffffffffffffn);
  assert.equal(env.read32(At.DATA), 0x500, "EFER has LME and LMA");
  assert.equal(sregs.cs.l, 1);
  assert.equal(sregs.efer, 0x500n);
});

test("IA-32e → compatibility → no paging: LMA goes, LME stays (SDM 3A, 10.8.5.4)", () => {
  const a = assembler("compat").readCr(0, "ax").hex("25 ffffff7f").writeCr(0, "ax").rdmsr(0xc0000080).done();
  const { end, regs, sregs } = run({ mode: "compat", code: a });
  assert.equal(end, "done");
  assert.equal(regs.rax & 0x500n, 0x100n);
  assert.equal(sregs.cr0 & 0x8000_0000n, 0n);
});

const CR0_GP: [string, GuestImage["mode"], (a: Asm) => Asm][] = [
  ["PG without PE", "real", (a) => a.orCr(0, 0x8000_0000 | 0)],
  ["NW without CD", "protected32", (a) => a.orCr(0, 0x2000_0000)],
  ["PG cleared in 64-bit mode", "long", (a) => a.setCr(0, 0x11)],
  ["bits 63–32 in 64-bit mode", "long", (a) => a.setCr(0, 0x1_8000_0011n)],
  ["PG with LME and no PAE", "protected32", (a) => a.wrmsr(0xc0000080, 0x100).orCr(0, 0x8000_0000 | 0)],
];
for (const [what, mode, body] of CR0_GP) {
  test(`MOV CR0: ${what} is #GP(0) (SDM 2, MOV CR)`, () => {
    const { faults } = run({ mode, code: body(assembler(mode)).done() });
    assert.equal(faults.length, 1);
    assert.equal(faults[0].vector, 13);
    if (mode !== "real") assert.equal(faults[0].error, 0);
  });
}

const CR4_GP: [string, GuestImage["mode"], bigint][] = [
  ["a reserved bit", "protected32", 1n << 15n],
  ["a reserved bit in the upper half", "long", (1n << 40n) | 0x20n],
  ["PAE cleared in IA-32e mode", "long", 0n],
  ["PAE cleared in compatibility mode", "compat", 0n],
];
for (const [what, mode, value] of CR4_GP) {
  test(`MOV CR4: ${what} is #GP(0) (SDM 2, MOV CR)`, () => {
    const { faults } = run({ mode, code: assembler(mode).setCr(4, value).done() });
    assert.equal(faults[0]?.vector, 13);
    assert.equal(faults[0].error, 0);
  });
}

test("MOV CR3: bits beyond MAXPHYADDR are #GP(0) in IA-32e mode (SDM 2, MOV CR)", () => {
  const code = assembler("long")
    .setCr(3, BigInt(At.PML4) | (1n << 51n))
    .done();
  assert.equal(run({ mode: "long", code }).faults[0]?.vector, 13);
});

for (const n of [1, 5, 6, 7, 9, 15]) {
  test(`CR${n} does not exist: #UD (SDM 2, MOV CR)`, () => {
    const rex = n > 7 ? 0x44 : 0x40;
    const read = assembler("long").db(rex, 0x0f, 0x20, 0xc0 | ((n & 7) << 3));
    const write = assembler("long").db(rex, 0x0f, 0x22, 0xc0 | ((n & 7) << 3));
    assert.equal(run({ mode: "long", code: read }).faults[0].vector, 6);
    assert.equal(run({ mode: "long", code: write }).faults[0].vector, 6);
  });
}

test("MOV CR8 is the TPR's upper half; above 15 is #GP (SDM 3A, 11.8.6.1)", () => {
  const a = assembler("long")
    .mov("ax", 9)
    .hex("440f22c0")
    .hex("440f20c3")
    .mov("ax", 0)
    .hex("440f22c0")
    .done();
  assert.equal(run({ mode: "long", code: a }).regs.rbx, 9n);
  const b = assembler("long").mov("ax", 16).hex("440f22c0");
  assert.equal(run({ mode: "long", code: b }).faults[0].vector, 13);
});

test("MOV to CR at CPL 3 is #GP(0) (SDM 2, MOV CR)", () => {
  const { faults } = run({ mode: "long", cpl: 3, code: assembler("long").readCr(0, "ax") });
  assert.equal(faults[0].vector, 13);
  assert.equal(faults[0].error, 0);
  assert.equal(faults[0].cs, Sel.USER_CODE64);
});

test("MOV CR ignores ModRM.mod and operand-size prefix (SDM 2, MOV CR)", () => {
  const a = assembler("long").hex("66 0f2000").done();
  assert.equal(run({ mode: "long", code: a }).regs.rax, run({ mode: "long", code: a }).sregs.cr0);
});

test("CLTS clears CR0.TS only", () => {
  const a = assembler("long").orCr(0, 8).hex("0f06").readCr(0, "bx").done();
  const { regs, sregs } = run({ mode: "long", code: a });
  assert.equal(regs.rbx & 8n, 0n);
  assert.equal(sregs.cr0, regs.rbx);
});

test("EFER: reserved bits are #GP; LME with paging on is #GP; LMA is ignored (SDM 3A, 2.2.1)", () => {
  const efer = (value: number) => assembler("long").wrmsr(0xc0000080, value).rdmsr(0xc0000080).done();
  assert.equal(run({ mode: "long", code: efer(0x501 | (1 << 9)) }).faults[0]?.vector, 13);
  assert.equal(run({ mode: "long", code: efer(0x400) }).faults[0]?.vector, 13);
  const { end, regs } = run({ mode: "long", code: efer(0x101) });
  assert.equal(end, "done");
  assert.equal(regs.rax, 0x501n);
});

test("compatibility mode: a far jump changes to 64-bit mode and back (SDM 3A, 2.2)", () => {
  const a = assembler("compat").mov("bx", -1).jmpFar(Sel.CODE64, "wide").label("wide").use(64);
  a.hex("48 ffc3").mov("ax", Sel.CODE32).push("ax").hex("68").address("narrow", 4).hex("48 cb").nop();
  a.label("narrow").use(32).hex("43").done();
  const { end, regs, sregs } = run({ mode: "compat", code: a });
  assert.equal(end, "done");
  assert.equal(regs.rbx, 0x1n, "upper halves are zero in compatibility mode");
  assert.equal(sregs.cs.selector, Sel.CODE32);
});

test("64-bit mode: bases of CS, DS, ES and SS count as zero, those of FS and GS count (SDM 3A, 3.2.4)", () => {
  const memory = (env: Environment) => {
    env.descriptor(Sel.FREE, { type: Type.DATA_WRITABLE, base: At.DATA, limit: 0xff, db: true });
    env.u32(At.DATA + 0x100, 0x11111111);
    env.u32(At.DATA + 0x10100, 0x22222222);
  };
  const a = assembler("long").setSegment("ds", Sel.FREE).setSegment("fs", Sel.FREE);
  a.hex("8b1c25")
    .value(At.DATA + 0x100, 4)
    .hex("64 8b0c25 00010100")
    .done();
  const { regs } = run({ mode: "long", code: a, memory });
  assert.equal(regs.rbx, 0x11111111n, "neither base nor limit of DS");
  assert.equal(regs.rcx, 0x22222222n, "base of FS, not its limit");
});

test("compatibility mode: segment bases and limits count (SDM 3A, 3.2.4)", () => {
  const memory = (env: Environment) => {
    env.descriptor(Sel.FREE, { type: Type.DATA_WRITABLE, base: At.DATA, limit: 0xff, db: true });
    env.u32(At.DATA + 0x80, 0x33333333);
  };
  const a = assembler("compat").setSegment("ds", Sel.FREE).load("bx", 0x80).load("cx", 0x100);
  const { faults } = run({ mode: "compat", code: a, memory });
  assert.equal(faults[0].regs.rbx, 0x33333333n);
  assert.equal(faults[0].vector, 13);
});

test("a descriptor with L and D both set is #GP in IA-32e mode (SDM 3A, 5.2.1)", () => {
  const memory = (env: Environment) =>
    env.descriptor(Sel.FREE, descriptor({ type: Type.CODE_READABLE, long: true, db: true }));
  const a = assembler("compat").jmpFar(Sel.FREE, "x").label("x").done();
  const { faults } = run({ mode: "compat", code: a, memory });
  assert.equal(faults[0]?.vector, 13);
  assert.equal(faults[0].error, Sel.FREE);
});

test("virtual-8086 mode: CLI, STI, PUSHF, POPF, INT n and IRET are #GP with IOPL < 3 (SDM 3B, 21.2.7)", () => {
  for (const code of ["fa", "fb", "9c", "9d", "cd 80", "cf"]) {
    const { faults } = run({
      mode: "v86",
      code: new Asm(16).hex(code),
      regs: { rflags: 0x20002n },
    });
    assert.equal(faults[0].vector, 13, code);
    assert.equal(faults[0].error, 0, code);
    assert.equal(faults[0].rip, 0n, code);
    assert.equal(faults[0].flags & 0x20000, 0x20000, code);
  }
});

test("virtual-8086 mode: INT3 and INTO do not look at IOPL (SDM 2, INT n)", () => {
  const memory = (env: Environment) => {
    env.handlerGate(3, { dpl: 3 });
    env.handlerGate(4, { dpl: 3 });
  };
  const at = (code: string) =>
    run({ mode: "v86", code: new Asm(16).hex(code), regs: { rflags: 0x20802n }, memory }).faults[0];
  assert.equal(at("cc").vector, 3);
  assert.equal(at("cc").rip, 1n);
  assert.equal(at("ce").vector, 4);
});

test("virtual-8086 mode: privileged and protected-mode instructions (SDM 3B, 21.2)", () => {
  const table: [string, number][] = [
    ["0f06", 13],
    ["0f30", 13],
    ["0f20c0", 13],
    ["f4", 13],
    ["0f01 16 0000", 13],
    ["0f00c0", 6],
    ["0f00d8", 6],
    ["0f02c0", 6],
    ["0f03c0", 6],
    ["63c0", 6],
  ];
  for (const [code, vector] of table) {
    assert.equal(run({ mode: "v86", code: new Asm(16).hex(code) }).faults[0].vector, vector, code);
  }
});

test("virtual-8086 mode: a fault's frame holds ES, DS, FS, GS; the handler has null ones (SDM 3B, 21.3.1.1)", () => {
  const a = new Asm(16).setSegment("fs", 0x3000).setSegment("gs", 0x4000).hex("0f0b");
  const { faults, env } = run({ mode: "v86", code: a });
  const { frame, regs, sregs } = faults[0];
  const words = Array.from({ length: 9 }, (_, i) => env.read32(frame + 4 * i));
  assert.deepEqual(words.slice(0, 2), [a.length - 2, At.CODE >> 4]);
  assert.deepEqual(words.slice(3), [At.STACK_TOP, 0, At.DATA >> 4, At.DATA >> 4, 0x3000, 0x4000]);
  assert.equal(regs.rflags & 0x20000n, 0n);
  assert.deepEqual(
    [sregs.ds.selector, sregs.es.selector, sregs.fs.selector, sregs.gs.selector],
    [0, 0, 0, 0],
  );
  assert.equal(sregs.ds.unusable, 1);
  assert.equal(frame, At.STACK_TOP - 36);
});

test("IRETD to virtual-8086 mode and back into it (SDM 3B, 21.2.5)", () => {
  const a = assembler("paged32");
  for (const value of [0x5000, 0x4000, At.DATA >> 4, 0x3000, 0, 0x9ff0]) a.pushImm(value);
  a.pushImm(0x23002)
    .pushImm((At.CODE + 0x1000) >> 4)
    .pushImm(0x10)
    .hex("cf")
    .padTo(At.CODE + 0x1010);
  a.use(16).mov("bx", 0x7788).store(0x40, "bx").push("bx").hex("8cd9").hex("8ce2").done();
  const { end, regs, sregs, env } = run({ mode: "paged32", code: a });
  assert.equal(end, "done");
  assert.equal(env.read32(At.DATA + 0x40) & 0xffff, 0x7788);
  assert.equal(env.read32(0x9fee) & 0xffff, 0x7788);
  assert.equal(regs.rcx & 0xffffn, BigInt(At.DATA >> 4));
  assert.equal(regs.rdx & 0xffffn, 0x4000n);
  assert.equal(sregs.es.selector, 0x3000);
  assert.equal(sregs.gs.selector, 0x5000);
  assert.equal(sregs.ss.dpl, 3);
});

test("IRETD to virtual-8086 mode with EIP above 0xFFFF is #GP(0) (SDM 2, IRET)", () => {
  const a = assembler("paged32");
  for (const value of [0, 0, 0, 0, 0, 0x9ff0]) a.pushImm(value);
  a.pushImm(0x23002)
    .pushImm(At.CODE >> 4)
    .pushImm(0x10010)
    .hex("cf");
  const { faults } = run({ mode: "paged32", code: a });
  assert.equal(faults[0]?.vector, 13);
  assert.equal(faults[0].error, 0);
});
