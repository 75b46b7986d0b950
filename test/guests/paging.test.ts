/** Paging beyond access rights: structures, canonical addresses, caching of translations (SDM vol. 3A, chapter 4). */
import assert from "node:assert/strict";
import { after } from "node:test";
import { gpa } from "../../src/memory/guest-memory.js";
import type { Asm } from "./support/asm.js";
import { At, type Environment, Pte, Sel, Type } from "./support/environment.js";
import { assembler, Flag, type GuestImage, runGuest } from "./support/machine.js";
import { guestProvider, test } from "./support/provider.js";

const provider = guestProvider();
after(() => provider.close());
const run = (image: GuestImage) => runGuest(provider, image);

const { P, W, U, A, D, PS, G } = Pte;
const [SS, GP, PF] = [12, 13, 14];
/** Linear page under test, and two physical pages with different content. */
const PAGE = 0x180000;
const ONE = 0x190000;
const TWO = 0x1a0000;
const HIGH = 0xe00000;

const twoPages = (env: Environment) => {
  env.u32(ONE, 0x11111111);
  env.u32(TWO, 0x22222222);
  env.page(PAGE, BigInt(ONE) | P | W | U);
};
/** MOV DWORD [the page's PTE], physical address with rights. */
const remap = (a: Asm, physical: number, rights = 7) =>
  a.store32(At.PT + 8 * (PAGE >>> 12), physical | rights);
/** The same in 32-bit paging. */
const remap32 = (a: Asm, physical: number, rights = 7) =>
  a.store32(At.PT32 + 4 * (PAGE >>> 12), physical | rights);
/** MOV register, [PAGE]. */
const load = (a: Asm, register: "bx" | "cx" | "si" | "di", address = PAGE) => a.load(register, address);

// --- structures ---

test("PSE-36: bits 20–13 of a 4 MiB PDE are physical bits 39–32 (SDM 3A, 4.3)", () => {
  // 4 GiB and up is not RAM here: the access shows where it goes.
  const code = assembler("paged32").op("8a", 3, 0x4000_0000).done();
  const { accesses } = run({
    mode: "paged32",
    code,
    memory: (e) => e.u32(At.PD32 + 4 * 0x100, 0x0040_0000 | (0x21 << 13) | 0x87),
    read: () => 0,
  });
  assert.equal(accesses[0].address, 0x21_0040_0000);
});

test("without CR4.PSE, PS in a PDE is ignored (SDM 3A, 4.3)", () => {
  const code = assembler("paged32").op("8b", 3, 0x4000_0000).done();
  const { regs } = run({
    mode: "paged32",
    code,
    sregs: (s) => {
      s.cr4 &= ~0x10n;
    },
    memory: (e) => {
      // The tables themselves are mapped through 4 KiB pages only.
      e.u32(At.PD32 + 4 * 0x100, At.TABLES | 0x87);
      e.u32(At.TABLES, ONE | 7);
      e.u32(ONE, 0x12345678);
    },
  });
  assert.equal(regs.rbx, 0x12345678n);
});

test("1 GiB pages (SDM 3A, table 4-16)", () => {
  const code = assembler("long")
    .load("bx", 0x4000_0000 + ONE)
    .done();
  const { regs } = run({
    mode: "long",
    code,
    memory: (e) => {
      e.u64(At.PDPT + 8, PS | P | W);
      e.u32(ONE, 0x5a5a);
    },
  });
  assert.equal(regs.rbx, 0x5a5an);
});

const PDPTE: [rule: string, value: bigint, ok: boolean][] = [
  ["present", BigInt(At.PD) | 1n, true],
  ["not present, with reserved bits", 0x1ffn & ~1n, true],
  ["bit 1", BigInt(At.PD) | 3n, false],
  ["bit 2", BigInt(At.PD) | 5n, false],
  ["bit 5", BigInt(At.PD) | 0x21n, false],
  ["bit 8", BigInt(At.PD) | 0x101n, false],
  ["bits 9–11, ignored", BigInt(At.PD) | 0xe01n, true],
  ["PWT and PCD", BigInt(At.PD) | 0x19n, true],
  ["a bit beyond MAXPHYADDR", BigInt(At.PD) | 1n | (1n << 50n), false],
  ["bit 63", BigInt(At.PD) | 1n | (1n << 63n), false],
];
for (const [rule, value, ok] of PDPTE) {
  test(`PAE: MOV CR3 loads the PDPTEs; ${rule}: ${ok ? "good" : "#GP(0)"} (SDM 3A, 4.4.1)`, () => {
    const table = At.TABLES + 0x40;
    const code = assembler("pae").mov("ax", table).writeCr(3, "ax").done();
    const { end, faults, sregs } = run({
      mode: "pae",
      code,
      memory: (e) => {
        e.u64(table, BigInt(At.PD) | 1n);
        e.u64(table + 24, value);
      },
    });
    assert.equal(end, ok ? "done" : "fault");
    if (ok) assert.equal(sregs.cr3, BigInt(table));
    else {
      assert.deepEqual([faults[0].vector, faults[0].error], [GP, 0]);
      assert.equal(faults[0].sregs.cr3, BigInt(At.PDPT_PAE), "CR3 is what it was");
    }
  });
}

test("PAE: PDPTEs are those of the last load of CR3, not those in memory (SDM 3A, 4.4.1)", () => {
  const code = assembler("pae")
    .store32(At.PDPT_PAE + 8, At.PD | 1)
    .op("8a", 3, 0x4000_0000 + ONE)
    .done();
  assert.equal(run({ mode: "pae", code }).faults[0]?.vector, PF);
});
for (const [what, reload] of [
  ["MOV CR3", (a: Asm) => a.readCr(3, "ax").writeCr(3, "ax")],
  ["MOV CR4 that changes PGE", (a: Asm) => a.orCr(4, 0x80)],
  ["MOV CR4 that changes SMEP", (a: Asm) => a.orCr(4, 1 << 20)],
  ["MOV CR0 that changes CD", (a: Asm) => a.orCr(0, 1 << 30)],
] as const) {
  test(`PAE: ${what} loads the PDPTEs anew (SDM 3A, 4.4.1)`, () => {
    const code = reload(assembler("pae").store32(At.PDPT_PAE + 8, At.PD | 1));
    code.op("8b", 3, 0x4000_0000 + ONE).done();
    const { end, regs } = run({
      mode: "pae",
      code,
      memory: (e) => {
        e.u32(ONE, 7);
        // SMEP: the supervisor's own code must not be the user's.
        for (let page = 0; page < 0x200000; page += 0x1000) e.page(page, BigInt(page) | P | W);
      },
    });
    assert.equal(end, "done");
    assert.equal(regs.rbx, 7n);
  });
}

test("paging off and on again drops translations (SDM 3A, 4.10.4.1)", () => {
  const a = assembler("paged32");
  load(a, "bx");
  remap32(a, TWO)
    .readCr(0, "ax")
    .hex("25 ffffff7f")
    .writeCr(0, "ax")
    .orCr(0, 0x8000_0000 | 0);
  load(a, "cx").done();
  const { regs } = run({ mode: "paged32", code: a, memory: twoPages });
  assert.deepEqual([regs.rbx, regs.rcx], [0x11111111n, 0x22222222n]);
});

// --- canonical addresses ---

const NON_CANONICAL = 1n << 47n;
const CANONICAL: [rule: string, code: string, vector: number][] = [
  ["through DS", "8a03", GP],
  ["through RBP", "8a4500", SS],
  ["through RSP", "8a0424", SS],
  ["through SS by a prefix: ignored in 64-bit mode, so DS", "36 8a03", GP],
  ["through FS", "64 8a03", GP],
  ["write", "8803", GP],
  ["read-modify-write", "0003", GP],
  ["PUSH", "50", SS],
  ["POP", "58", SS],
  ["CALL", "e800000000", SS],
  ["RET", "c3", SS],
  ["ENTER", "c8 0000 00", SS],
  ["PUSHF", "9c", SS],
  ["MOVUPS", "0f1003", GP],
  ["MOVUPS through RBP", "0f104500", SS],
  ["FLD", "db2b", GP],
  ["FLD through RBP", "db6d00", SS],
  ["MOVSB, the source", "a4", GP],
  ["STOSB", "aa", GP],
  ["FXSAVE", "0fae03", GP],
  ["CMPXCHG16B", "48 0fc70b", GP],
  ["SGDT", "0f0103", GP],
  ["JMP [BX]", "ff23", GP],
];
for (const [rule, op, vector] of CANONICAL) {
  test(`a non-canonical address ${rule}: ${vector === SS ? "#SS" : "#GP"}(0) (SDM 3A, 6.15; 1, 3.3.7.1)`, () => {
    const { faults } = run({
      mode: "long",
      code: assembler("long").hex(op),
      cpl: 3,
      regs: {
        rbx: NON_CANONICAL + 64n,
        rbp: NON_CANONICAL + 64n,
        rsp: NON_CANONICAL + 64n,
        rsi: NON_CANONICAL,
        rdi: NON_CANONICAL,
      },
    });
    assert.deepEqual([faults[0].vector, faults[0].error], [vector, 0]);
    assert.equal(faults[0].rip, BigInt(At.CODE));
  });
}
test("INVLPG of a non-canonical address does nothing (SDM 2, INVLPG)", () => {
  const code = assembler("long").mov("bx", NON_CANONICAL).hex("0f013b").done();
  assert.equal(run({ mode: "long", code }).end, "done");
});
test("running past the last canonical address of the lower half is #GP(0) (SDM 3A, 6.15)", () => {
  const top = 0x7fff_ffff_f000n;
  const { faults } = run({
    mode: "long",
    code: assembler("long")
      .mov("ax", top + 0xffdn)
      .hex("ffe0"),
    memory: (e) => {
      const tables = [At.TABLES, At.TABLES + 0x1000, At.TABLES + 0x2000];
      e.u64(At.PML4 + 8 * 255, BigInt(tables[0]) | P | W);
      for (const [i, table] of tables.entries()) e.u64(table + 8 * 511, BigInt(tables[i + 1] ?? ONE) | P | W);
      e.write(ONE + 0xffd, [0x90, 0x90, 0x90]);
    },
  });
  assert.deepEqual([faults[0].vector, faults[0].error, faults[0].rip], [GP, 0, top + 0x1000n]);
});
test("the upper half of the address space", () => {
  const code = assembler("long")
    .mov("bx", 0xffff_8000_0000_0000n + BigInt(ONE))
    .hex("8b03")
    .done();
  const { regs } = run({
    mode: "long",
    code,
    memory: (e) => {
      twoPages(e);
      e.u64(At.PML4 + 8 * 256, BigInt(At.PDPT) | P | W);
    },
  });
  assert.equal(regs.rax, 0x11111111n);
});

// --- accesses across pages ---

const NEXT = PAGE + 0x1000;
const CROSS = NEXT - 3;
const CROSSING: [name: string, op: string, reg: number, write: boolean][] = [
  ["MOV load", "48 8b", 3, false],
  ["MOV store", "48 89", 3, true],
  ["ADD to memory", "48 01", 3, true],
  ["LOCK ADD", "f0 48 01", 3, true],
  ["XCHG", "48 87", 3, true],
  ["CMPXCHG", "48 0fb1", 3, true],
  ["CMPXCHG8B", "0fc7", 1, true],
  ["MOVUPS store", "0f11", 0, true],
  ["MOVUPS load", "0f10", 0, false],
  ["FSTP m80", "db", 7, true],
  ["FILD m64", "df", 5, false],
  ["FNSAVE", "dd", 6, true],
  ["SGDT", "0f01", 0, true],
];
for (const [name, op, reg, write] of CROSSING) {
  test(`${name} across pages, the second not present: #PF there, nothing written (SDM 3A, 4.7; 6.5)`, () => {
    const before = (e: Environment) => {
      e.page(NEXT, 0n);
      for (let i = 0; i < 16; i++) e.u8(NEXT - 16 + i, 0xa0 + i);
    };
    const code = assembler("long").hex("d9ee").op(op, reg, CROSS).done();
    const { faults, env } = run({
      mode: "long",
      code,
      memory: before,
      regs: { rbx: -1n & 0xffffffffffffffffn },
    });
    assert.deepEqual([faults[0].vector, faults[0].error, faults[0].cr2], [PF, write ? 2 : 0, BigInt(NEXT)]);
    assert.deepEqual(
      Array.from({ length: 16 }, (_, i) => env.memory.readU8(gpa(NEXT - 16 + i))),
      Array.from({ length: 16 }, (_, i) => 0xa0 + i),
    );
  });
  test(`${name} across pages, the first not present: CR2 is the address itself`, () => {
    const code = assembler("long").hex("d9ee").op(op, reg, CROSS).done();
    const { faults } = run({ mode: "long", code, memory: (e) => e.page(PAGE, 0n) });
    assert.deepEqual([faults[0].vector, faults[0].error, faults[0].cr2], [PF, write ? 2 : 0, BigInt(CROSS)]);
  });
}
test("accesses across two pages that lie apart in memory", () => {
  const a = assembler("long");
  a.op("48 89", 3, CROSS)
    .op("48 8b", 1, CROSS)
    .op("0f10", 0, CROSS - 4)
    .op("0f11", 0, CROSS - 5)
    .op("48 8b", 2, CROSS - 1);
  const { regs, env } = run({
    mode: "long",
    code: a.done(),
    regs: { rbx: 0x1122334455667788n },
    memory: (e) => {
      e.page(PAGE, BigInt(TWO) | P | W | U);
      e.page(NEXT, BigInt(ONE) | P | W | U);
    },
  });
  assert.equal(regs.rcx, 0x1122334455667788n);
  assert.equal(regs.rdx, 0x1122334455667788n);
  assert.equal(env.read32(ONE) & 0xffff, 0x3344);
});
test("an instruction across pages: a fault in the second page; CR2 is its start, RIP the instruction (SDM 3A, 4.7)", () => {
  const code = assembler("long")
    .jmp("x")
    .padTo(At.CODE + 0xffd)
    .label("x")
    .mov("bx", 0x12345678)
    .done();
  const fault = run({ mode: "long", code, memory: (e) => e.page(At.CODE + 0x1000, 0n) }).faults[0];
  assert.deepEqual(
    [fault.vector, fault.error, fault.cr2, fault.rip],
    [PF, 16, BigInt(At.CODE + 0x1000), BigInt(At.CODE + 0xffd)],
  );
  assert.equal(run({ mode: "long", code }).regs.rbx, 0x12345678n);
});
test("an instruction across pages whose second page is execute-disabled (SDM 3A, 4.6)", () => {
  const code = assembler("long")
    .jmp("x")
    .padTo(At.CODE + 0xffd)
    .label("x")
    .mov("bx", 0x12345678)
    .done();
  const fault = run({
    mode: "long",
    code,
    memory: (e) => e.page(At.CODE + 0x1000, BigInt(At.CODE + 0x1000) | P | Pte.NX),
  }).faults[0];
  assert.deepEqual([fault.vector, fault.error, fault.cr2], [PF, 17, BigInt(At.CODE + 0x1000)]);
});
test("an instruction that ends with its page does not touch the next", () => {
  const code = assembler("long")
    .jmp("x")
    .padTo(At.CODE + 0xffe)
    .label("x")
    .db(0xe6, 0xf4);
  assert.equal(run({ mode: "long", code, memory: (e) => e.page(At.CODE + 0x1000, 0n) }).end, "done");
});

test("REP MOVSB into a page that is not present: what was copied is, RCX, RSI, RDI say where it stands (SDM 2, REP)", () => {
  const regs = { rcx: 0x20n, rsi: BigInt(ONE), rdi: BigInt(NEXT - 8) };
  const { faults, env } = run({
    mode: "long",
    code: assembler("long").hex("f3a4"),
    regs,
    memory: (e) => {
      for (let i = 0; i < 32; i++) e.u8(ONE + i, i + 1);
      e.page(NEXT, 0n);
    },
  });
  const fault = faults[0];
  assert.deepEqual([fault.vector, fault.error, fault.cr2], [PF, 2, BigInt(NEXT)]);
  assert.deepEqual([fault.regs.rcx, fault.regs.rsi, fault.regs.rdi], [0x18n, BigInt(ONE + 8), BigInt(NEXT)]);
  assert.equal(env.memory.readU8(gpa(NEXT - 1)), 8);
});
test("REP INSB and OUTSB that fault in the middle go on where they stood (SDM 2, INS)", () => {
  for (const [op, mapped] of [
    ["f36c", "di"],
    ["f36e", "si"],
  ]) {
    let next = 0;
    const { end, accesses, env, faults } = run({
      mode: "long",
      code: assembler("long").hex(op).done(),
      regs: { rcx: 6n, [`r${mapped}`]: BigInt(NEXT - 3), rdx: 0x300n },
      read: () => ++next,
      memory: (e) => {
        for (let i = 0; i < 8; i++) e.u8(NEXT - 3 + i, 0x40 + i);
        e.page(NEXT, 0n);
      },
      onFault: (_, _vcpu, e) => {
        e.page(NEXT, BigInt(NEXT) | P | W | U);
        return "resume";
      },
    });
    assert.equal(end, "done");
    assert.equal(faults.length, 1);
    assert.equal(faults[0].regs.rcx, 3n);
    assert.equal(accesses.length, 6, "no port is read twice");
    const bytes = Array.from({ length: 6 }, (_, i) => env.memory.readU8(gpa(NEXT - 3 + i)));
    assert.deepEqual(bytes, mapped === "di" ? [1, 2, 3, 4, 5, 6] : [0x40, 0x41, 0x42, 0x43, 0x44, 0x45]);
    if (mapped === "si")
      assert.deepEqual(
        accesses.map(({ value }) => Number(value)),
        bytes,
      );
  }
});

// --- accessed and dirty flags ---

const flagsOf = (env: Environment, address: number) => env.read64(address) & (A | D);
test("a read sets accessed, a write after it dirty too, also when the translation was cached (SDM 3A, 4.8)", () => {
  const a = assembler("long");
  load(a, "bx")
    .load("cx", At.PT + 8 * (PAGE >>> 12))
    .op("89", 3, PAGE)
    .load("dx", At.PT + 8 * (PAGE >>> 12))
    .done();
  const { regs } = run({ mode: "long", code: a, memory: twoPages });
  assert.equal(regs.rcx & (A | D), A);
  assert.equal(regs.rdx & (A | D), A | D);
});
test("every structure on the way is marked accessed; dirty is set in the last only (SDM 3A, 4.8)", () => {
  const code = assembler("long").op("88", 3, PAGE).done();
  const { env } = run({ mode: "long", code });
  assert.deepEqual(
    [At.PML4, At.PDPT, At.PD].map((at) => flagsOf(env, at)),
    [A, A, A],
  );
  assert.equal(flagsOf(env, At.PT + 8 * (PAGE >>> 12)), A | D);
});
test("once the flags are cleared and the translation dropped, they are set again (SDM 3A, 4.8)", () => {
  const a = assembler("long").op("88", 3, PAGE);
  remap(a, ONE).mov("bx", PAGE).hex("0f013b").op("88", 3, PAGE).done();
  assert.equal(
    flagsOf(run({ mode: "long", code: a, memory: twoPages }).env, At.PT + 8 * (PAGE >>> 12)),
    A | D,
  );
});
test("CMPXCHG that fails, and INC that faults for rights, mark as a write and not at all (SDM 3A, 4.8)", () => {
  const failing = assembler("long").mov("ax", 5).op("0fb1", 3, PAGE).done();
  assert.equal(
    flagsOf(run({ mode: "long", code: failing, memory: twoPages }).env, At.PT + 8 * (PAGE >>> 12)),
    A | D,
  );
  const faulting = assembler("long").op("fe", 0, PAGE);
  const { env } = run({
    mode: "long",
    code: faulting,
    memory: (e) => e.page(PAGE, BigInt(ONE) | P | U),
  });
  assert.equal(flagsOf(env, At.PT + 8 * (PAGE >>> 12)), 0n);
});
test("a fetch marks the page of code accessed, not dirty", () => {
  const { env } = run({ mode: "long", code: assembler("long").done() });
  assert.equal(flagsOf(env, At.PT + 8 * (At.CODE >>> 12)), A);
});

// --- caching of translations ---

test("INVLPG drops one page's translation (SDM 3A, 4.10.4.1)", () => {
  const a = assembler("long");
  load(a, "bx");
  load(remap(a, TWO).mov("ax", PAGE).hex("0f0138"), "cx").done();
  const { regs } = run({ mode: "long", code: a, memory: twoPages });
  assert.deepEqual([regs.rbx, regs.rcx], [0x11111111n, 0x22222222n]);
});
test("INVLPG of any address in a page drops it: 4 KiB, 2 MiB, 1 GiB (SDM 3A, 4.10.4.1)", () => {
  const a = assembler("long")
    .load("bx", 0x4000_0000 + HIGH)
    .load("si", 0x8000_0000 - 0x4000_0000 + HIGH + 0x200000 - 0x1000);
  a.store32(At.PDPT + 8, At.TABLES | 7)
    .mov("ax", 0x7fff_f000)
    .hex("0f0138")
    .load("cx", 0x4000_0000 + HIGH)
    .done();
  const { regs } = run({
    mode: "long",
    code: a,
    memory: (e) => {
      e.memory.writeU64(gpa(HIGH), 0x1111n);
      e.memory.writeU64(gpa(HIGH - 0x200000), 0x2222n);
      e.u64(At.PDPT + 8, PS | P | W);
      for (let i = 1; i < 512; i++) e.u64(At.TABLES + 8 * i, BigInt((i - 1) * 0x200000) | PS | P | W);
    },
  });
  assert.equal(regs.rbx, 0x1111n);
  assert.equal(regs.rcx, 0x2222n);
});
test("INVLPG in the other half of a 4 MiB page drops all of it (SDM 3A, 4.10.4.1)", () => {
  const a = assembler("paged32").load("bx", 0x4000_0000 + 0x1000);
  a.store32(At.PD32 + 4 * 0x100, 0x0080_0087)
    .mov("ax", 0x4030_0000)
    .hex("0f0138")
    .load("cx", 0x4000_0000 + 0x1000)
    .done();
  const { regs } = run({
    mode: "paged32",
    code: a,
    memory: (e) => {
      e.memory.writeU32(gpa(0x401000), 0x1111);
      e.memory.writeU32(gpa(0x801000), 0x2222);
      e.u32(At.PD32 + 4 * 0x100, 0x0040_0087);
    },
  });
  assert.deepEqual([regs.rbx, regs.rcx], [0x1111n, 0x2222n]);
});
test("MOV CR3 drops translations but global ones; CR4.PGE drops those, too (SDM 3A, 4.10.2.4, 4.10.4.1)", () => {
  const other = PAGE + 0x1000;
  const a = assembler("long").orCr(4, 0x80);
  load(load(a, "bx"), "si", other);
  remap(a, TWO, 0x107)
    .store32(At.PT + 8 * (other >>> 12), TWO | 7)
    .readCr(3, "ax")
    .writeCr(3, "ax");
  load(load(a, "cx"), "di", other);
  a.readCr(4, "ax").hex("25 7fffffff").writeCr(4, "ax").load("dx", PAGE).done();
  const { regs } = run({
    mode: "long",
    code: a,
    memory: (e) => {
      twoPages(e);
      e.page(PAGE, BigInt(ONE) | P | W | U | G);
      e.page(other, BigInt(ONE) | P | W | U);
    },
  });
  assert.deepEqual([regs.rbx, regs.rsi], [0x11111111n, 0x11111111n]);
  assert.equal(regs.rdi, 0x22222222n, "not global: dropped");
  assert.equal(regs.rcx, 0x11111111n, "global: kept");
  assert.equal(regs.rdx, 0x22222222n, "PGE changed: dropped");
});
test("INVLPG drops a global page (SDM 3A, 4.10.4.1)", () => {
  const a = assembler("long").orCr(4, 0x80);
  load(a, "bx");
  load(remap(a, TWO, 0x107).mov("ax", PAGE).hex("0f0138"), "cx").done();
  const { regs } = run({
    mode: "long",
    code: a,
    memory: (e) => {
      twoPages(e);
      e.page(PAGE, BigInt(ONE) | P | W | U | G);
    },
  });
  assert.equal(regs.rcx, 0x22222222n);
});
test("a page fault drops the translation of its address (SDM 3A, 4.10.4.1)", () => {
  const a = assembler("long");
  load(a, "bx").op("88", 3, PAGE);
  load(a, "cx").done();
  const { regs, faults } = run({
    mode: "long",
    code: a,
    memory: (e) => {
      twoPages(e);
      e.page(PAGE, BigInt(ONE) | P | U);
    },
    onFault: (_, _vcpu, e) => {
      e.page(PAGE, BigInt(TWO) | P | W | U);
      return "resume";
    },
  });
  assert.equal(faults.length, 1);
  assert.equal(regs.rcx & 0xffffff00n, 0x22222200n);
});
/** MOV DWORD [the PDE of `PAGE`]. */
const repoint = (a: Asm, table: number, rights = 7) => a.store32(At.PD + 8 * (PAGE >>> 21), table | rights);
/** A second page table, as the first, but for `PAGE`, which is at `physical`. */
const secondTable = (env: Environment, physical: number) => {
  for (let i = 0; i < 512; i++)
    env.u64(At.TABLES + 8 * i, env.memory.readU64(gpa(At.PT + 8 * (512 * (PAGE >>> 21) + i))));
  env.u64(At.TABLES + 8 * ((PAGE >>> 12) & 511), BigInt(physical) | P | W | U);
};
test("INVLPG of another page drops the caches of paging structures, too (SDM 3A, 4.10.4.1)", () => {
  const a = assembler("long");
  load(a, "bx");
  load(repoint(a, At.TABLES).mov("ax", PAGE).hex("0f0138"), "cx").done();
  const memory = (e: Environment) => {
    twoPages(e);
    secondTable(e, TWO);
  };
  const { regs } = run({ mode: "long", code: a, memory });
  assert.deepEqual([regs.rbx, regs.rcx], [0x11111111n, 0x22222222n]);
});
test("MOV CR3 drops the caches of paging structures (SDM 3A, 4.10.4.1)", () => {
  const a = assembler("long");
  load(a, "bx");
  // MOV RAX, CR3; MOV CR3, RAX
  load(repoint(a, At.TABLES).hex("0f20d8 0f22d8"), "cx").done();
  const memory = (e: Environment) => {
    twoPages(e);
    secondTable(e, TWO);
  };
  const { regs } = run({ mode: "long", code: a, memory });
  assert.deepEqual([regs.rbx, regs.rcx], [0x11111111n, 0x22222222n]);
});
test("rights that a PDE is given are there after the page fault at the latest (SDM 3A, 4.10.4.1, 4.10.4.3)", () => {
  // Not where the exception is handled.
  const address = 0x280000;
  const pde = At.PD + 8 * (address >>> 21);
  const a = assembler("long");
  load(a, "bx", address).op("88", 3, address);
  load(a, "cx", address).done();
  const { regs, faults, end } = run({
    mode: "long",
    code: a,
    memory: (e) => {
      twoPages(e);
      e.u64(At.TABLES + 8 * ((address >>> 12) & 511), BigInt(ONE) | P | W | U);
      e.u64(pde, BigInt(At.TABLES) | P | U);
    },
    onFault: (_, _vcpu, e) => {
      e.u64(pde, BigInt(At.TABLES) | P | W | U);
      return "resume";
    },
  });
  assert.equal(end, "done");
  assert.equal(faults.length, 1);
  assert.equal(regs.rcx, 0x11111111n);
});
test("an entry that was not present or lacked rights may be used without invalidation (SDM 3A, 4.10.4.3)", () => {
  const a = assembler("long");
  remap(a, TWO);
  load(a, "cx").done();
  const { end, regs } = run({
    mode: "long",
    code: a,
    memory: (e) => {
      twoPages(e);
      e.page(PAGE, 0n);
    },
  });
  assert.equal(end, "done");
  assert.equal(regs.rcx, 0x22222222n);
});
test("translations of code: INVLPG, then other code at the same address", () => {
  const a = assembler("long").call("there").mov("si", 0).hex("4889de");
  remap(a, TWO).mov("ax", PAGE).hex("0f0138").call("there").done();
  a.label("there").mov("ax", PAGE).hex("ffe0");
  const { regs } = run({
    mode: "long",
    code: a,
    memory: (e) => {
      e.write(ONE, [0xbb, 1, 0, 0, 0, 0xc3]);
      e.write(TWO, [0xbb, 2, 0, 0, 0, 0xc3]);
      e.page(PAGE, BigInt(ONE) | P | U);
    },
  });
  assert.deepEqual([regs.rsi, regs.rbx], [1n, 2n]);
});
test("the same address with and without paging (SDM 3A, 4.1.1)", () => {
  const a = assembler("paged32");
  load(a, "bx").readCr(0, "ax").hex("25 ffffff7f").writeCr(0, "ax");
  load(a, "cx").done();
  const { regs } = run({
    mode: "paged32",
    code: a,
    memory: (e) => {
      twoPages(e);
      e.u32(PAGE, 0x33333333);
    },
  });
  assert.deepEqual([regs.rbx, regs.rcx], [0x11111111n, 0x33333333n]);
});

// --- SMAP, SMEP, WP in other clothes ---

const SMAP = 1n << 21n;
/** Everything is the supervisor's but PAGE. */
const smapMemory = (e: Environment) => {
  for (let page = 0; page < 0x200000; page += 0x1000) e.page(page, BigInt(page) | P | W);
  e.page(PAGE, BigInt(ONE) | P | W | U);
};
const withSmap: GuestImage["sregs"] = (s) => {
  s.cr4 |= SMAP;
};
test("STAC and CLAC switch SMAP's check off and on (SDM 3A, 4.6.1)", () => {
  const a = assembler("long").hex("0f01cb");
  load(a, "bx").hex("0f01ca");
  const fault = run({ mode: "long", code: load(a, "cx"), memory: smapMemory, sregs: withSmap }).faults[0];
  assert.deepEqual([fault.vector, fault.error, fault.cr2], [PF, 1, BigInt(PAGE)]);
  assert.equal(fault.rip, BigInt(At.CODE + 3 + 8 + 3));
});
test("SMAP follows AC through POPF and IRET (SDM 3A, 4.6.1)", () => {
  const a = assembler("long")
    .pushImm(Flag.AC | 2)
    .hex("9d");
  load(a, "bx").pushImm(2).hex("9d");
  const fault = run({ mode: "long", code: load(a, "cx"), memory: smapMemory, sregs: withSmap }).faults[0];
  assert.equal(fault.vector, PF);
  assert.equal(fault.rip, BigInt(At.CODE + 6 + 8 + 6));
});
test("SMAP: implicit accesses are checked whatever AC is (SDM 3A, 4.6.1)", () => {
  // The GDT is in a page of the user's.
  const a = assembler("long").hex("0f01cb").setSegment("es", Sel.FREE).done();
  const fault = run({
    mode: "long",
    code: a,
    sregs: (s) => {
      withSmap(s);
      s.gdt.base = BigInt(PAGE);
    },
    memory: (e) => {
      smapMemory(e);
      e.descriptor(Sel.FREE, { type: Type.DATA_WRITABLE });
      for (let i = 0; i < 0x800; i += 8) e.u64(ONE + i, e.read64(At.GDT + i));
    },
  });
  assert.equal(fault.end, "shutdown", "the handlers' code segment is in that table, too");
});
test("SMAP: a user's own accesses are not touched", () => {
  const a = assembler("long").load("bx", PAGE).done();
  const { end } = run({
    mode: "long",
    cpl: 3,
    code: a,
    sregs: withSmap,
    memory: (e) => {
      smapMemory(e);
      e.page(At.CODE, BigInt(At.CODE) | P | U);
    },
  });
  assert.equal(end, "done");
});
test("STAC and CLAC above CPL 0 are #UD (SDM 2, STAC)", () => {
  for (const op of ["0f01ca", "0f01cb"])
    assert.equal(run({ mode: "long", cpl: 3, code: assembler("long").hex(op) }).faults[0].vector, 6);
});
test("CR0.WP protects accessed bits of descriptors in read-only pages (SDM 3A, 4.6)", () => {
  const image = (wp: boolean): GuestImage => ({
    mode: "long",
    code: assembler("long").setSegment("es", Sel.FREE).done(),
    sregs: (s) => {
      if (!wp) s.cr0 &= ~0x10000n;
    },
    memory: (e) => {
      e.descriptor(Sel.FREE, { type: Type.DATA_WRITABLE });
      for (const selector of [Sel.CODE64, Sel.DATA])
        e.u64(At.GDT + selector, e.read64(At.GDT + selector) | (1n << 40n));
      e.page(At.GDT, BigInt(At.GDT) | P);
    },
  });
  const fault = run(image(true)).faults[0];
  assert.deepEqual([fault.vector, fault.error, fault.cr2], [PF, 3, BigInt(At.GDT + Sel.FREE + 5)]);
  assert.equal(run(image(false)).end, "done");
});
test("execute-disable: a page with data and XD cannot be run; without NXE the bit is reserved (SDM 3A, 4.6)", () => {
  const image = (nxe: boolean): GuestImage => ({
    mode: "long",
    code: assembler("long").mov("ax", PAGE).hex("ffe0"),
    sregs: (s) => {
      if (!nxe) s.efer &= ~0x800n;
    },
    memory: (e) => e.page(PAGE, BigInt(ONE) | P | Pte.NX),
  });
  assert.equal(run(image(true)).faults[0].error, 0x11);
  assert.equal(run(image(false)).faults[0].error, 9);
});
test("32-bit linear addresses wrap at 4 GiB in compatibility mode (SDM 3A, 3.2.4)", () => {
  const memory = (e: Environment) => {
    twoPages(e);
    e.descriptor(Sel.FREE, { type: Type.DATA_WRITABLE, base: 0xffff_0000, db: true });
  };
  const a = assembler("compat")
    .setSegment("fs", Sel.FREE)
    .op("64 8b", 3, PAGE + 0x10000)
    .done();
  assert.equal(run({ mode: "compat", code: a, memory }).regs.rbx, 0x11111111n);
});
test("64-bit mode: 32-bit addresses are cut before the base is added (SDM 1, 3.3.7)", () => {
  const memory = (e: Environment) => {
    twoPages(e);
    e.u64(At.PDPT + 8 * 4, BigInt(At.PD) | P | W);
  };
  const a = assembler("long")
    .mov("bx", 0x5_0000_0000n + BigInt(PAGE))
    .hex("67 8b0b")
    .hex("64 67 8b13")
    .done();
  const { regs } = run({
    mode: "long",
    code: a,
    memory,
    sregs: (s) => {
      s.fs.base = 0x1_0000_0000n;
    },
  });
  assert.deepEqual([regs.rcx, regs.rdx], [0x11111111n, 0x11111111n]);
});

test("the host's look at an address has no side effects and asks for no rights (Vcpu.translate)", () => {
  const { env } = run({
    mode: "long",
    code: assembler("long").done(),
    sregs: withSmap,
    memory: (e) => {
      smapMemory(e);
      e.page(PAGE, BigInt(ONE) | P | U);
      e.page(PAGE + 0x1000, 0n);
    },
  });
  assert.equal(provider.vcpu.translate(BigInt(PAGE + 0x123)), ONE + 0x123);
  assert.equal(provider.vcpu.translate(BigInt(PAGE + 0x1000)), undefined);
  assert.equal(flagsOf(env, At.PT + 8 * (PAGE >>> 12)), 0n);
});
