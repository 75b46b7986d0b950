/** Loads of segment registers, and the checks of accesses through them (SDM vol. 3A, 5.2–5.6, 5.8, 6.15; vol. 2, MOV). */
import assert from "node:assert/strict";
import { after } from "node:test";
import { At, type DescriptorFields, type Environment, Sel, Type } from "./support/environment.js";
import { assembler, type GuestImage, runGuest } from "./support/machine.js";
import { guestProvider, test } from "./support/provider.js";

const provider = guestProvider();
after(() => provider.close());
const run = (image: GuestImage) => runGuest(provider, image);

const GP = 13;
const NP = 11;
const SS = 12;
const UD = 6;

type Outcome = "ok" | [vector: number, error: number];
const outcome = (image: GuestImage): Outcome => {
  const { end, faults } = run(image);
  if (end === "done") return "ok";
  assert.equal(end, "fault");
  return [faults[0].vector, faults[0].error as number];
};

/** A selector of Sel.FREE with this RPL. */
const free = (rpl = 0) => Sel.FREE | rpl;
const withDescriptor = (fields: DescriptorFields) => (env: Environment) => env.descriptor(Sel.FREE, fields);

const ES: [rule: string, fields: DescriptorFields, rpl: number, cpl: 0 | 3, expected: Outcome][] = [
  ["writable data", { type: Type.DATA_WRITABLE }, 0, 0, "ok"],
  ["read-only data", { type: Type.DATA }, 0, 0, "ok"],
  ["expand-down data", { type: Type.DATA_DOWN }, 0, 0, "ok"],
  ["readable code", { type: Type.CODE_READABLE }, 0, 0, "ok"],
  ["execute-only code", { type: Type.CODE }, 0, 0, [GP, free()]],
  ["an LDT", { type: Type.LDT }, 0, 0, [GP, free()]],
  ["a TSS", { type: Type.TSS }, 0, 0, [GP, free()]],
  ["a call gate", { type: Type.CALL_GATE }, 0, 0, [GP, free()]],
  ["not present data", { type: Type.DATA_WRITABLE, present: false }, 0, 0, [NP, free()]],
  [
    "not present and of a wrong type: the type first",
    { type: Type.CODE, present: false },
    0,
    0,
    [GP, free()],
  ],
  ["RPL 3 and DPL 0", { type: Type.DATA_WRITABLE }, 3, 0, [GP, free()]],
  ["RPL 3 and DPL 3", { type: Type.DATA_WRITABLE, dpl: 3 }, 3, 0, "ok"],
  ["CPL 3 and DPL 0", { type: Type.DATA_WRITABLE }, 0, 3, [GP, free()]],
  ["CPL 3, RPL 0, DPL 3", { type: Type.DATA_WRITABLE, dpl: 3 }, 0, 3, "ok"],
  ["conforming code whatever DPL", { type: Type.CODE_CONFORMING }, 3, 3, "ok"],
  ["nonconforming readable code of DPL 0 at CPL 3", { type: Type.CODE_READABLE }, 3, 3, [GP, free()]],
];
for (const mode of ["protected32", "long"] as const) {
  for (const [rule, fields, rpl, cpl, expected] of ES) {
    test(`${mode}: MOV ES, ${rule} (SDM 2, MOV)`, () => {
      const code = assembler(mode).setSegment("es", free(rpl)).done();
      assert.deepEqual(outcome({ mode, cpl, code, memory: withDescriptor(fields) }), expected);
    });
  }
}

const STACK: [rule: string, fields: DescriptorFields, rpl: number, cpl: 0 | 3, expected: Outcome][] = [
  ["writable data", { type: Type.DATA_WRITABLE }, 0, 0, "ok"],
  ["expand-down data", { type: Type.DATA_DOWN, limit: 0 }, 0, 0, "ok"],
  ["read-only data", { type: Type.DATA }, 0, 0, [GP, free()]],
  ["code", { type: Type.CODE_READABLE }, 0, 0, [GP, free()]],
  ["RPL 3 at CPL 0", { type: Type.DATA_WRITABLE, dpl: 3 }, 3, 0, [GP, free()]],
  ["RPL 0, DPL 3 at CPL 0", { type: Type.DATA_WRITABLE, dpl: 3 }, 0, 0, [GP, free()]],
  ["not present", { type: Type.DATA_WRITABLE, present: false }, 0, 0, [SS, free()]],
  ["DPL 3 at CPL 3", { type: Type.DATA_WRITABLE, dpl: 3 }, 3, 3, "ok"],
  ["DPL 0 at CPL 3", { type: Type.DATA_WRITABLE }, 3, 3, [GP, free()]],
];
for (const mode of ["protected32", "compat", "long"] as const) {
  for (const [rule, fields, rpl, cpl, expected] of STACK) {
    test(`${mode}: MOV SS, ${rule} (SDM 2, MOV)`, () => {
      const code = assembler(mode).setSegment("ss", free(rpl)).done();
      assert.deepEqual(outcome({ mode, cpl, code, memory: withDescriptor(fields) }), expected);
    });
  }
}

test("null SS: #GP(0), but for 64-bit code below CPL 3 with RPL = CPL (SDM 2, MOV)", () => {
  const at = (mode: GuestImage["mode"], cpl: 0 | 3, selector: number) =>
    outcome({ mode, cpl, code: assembler(mode).setSegment("ss", selector).done() });
  assert.deepEqual(at("protected32", 0, 0), [GP, 0]);
  assert.deepEqual(at("compat", 0, 0), [GP, 0]);
  assert.deepEqual(at("long", 0, 0), "ok");
  assert.deepEqual(at("long", 0, 3), [GP, 0]);
  assert.deepEqual(at("long", 3, 3), [GP, 0]);
});

test("null DS may be loaded; an access through it is #GP(0) outside 64-bit mode (SDM 3A, 5.4.1)", () => {
  const legacy = assembler("protected32").setSegment("ds", 3).load("bx", At.DATA).done();
  assert.deepEqual(outcome({ mode: "protected32", code: legacy }), [GP, 0]);
  const compat = assembler("compat").setSegment("ds", 0).load("bx", At.DATA).done();
  assert.deepEqual(outcome({ mode: "compat", code: compat }), [GP, 0]);
  const long = assembler("long").setSegment("ds", 0).load("bx", At.DATA).done();
  assert.deepEqual(outcome({ mode: "long", code: long }), "ok");
});

test("a selector beyond the table's limit is #GP(selector) (SDM 3A, 5.3)", () => {
  const gdt = (selector: number) =>
    outcome({ mode: "protected32", code: assembler("protected32").setSegment("es", selector).done() });
  assert.deepEqual(gdt(0x800), [GP, 0x800]);
  assert.deepEqual(gdt(0x104), [GP, 0x104]);
});

test("a descriptor has to lie in the table whole (SDM 3A, 5.3)", () => {
  const sregs: GuestImage["sregs"] = (s) => {
    s.gdt.limit = Sel.FREE + 6;
  };
  const code = assembler("protected32").setSegment("es", Sel.FREE).done();
  const memory = withDescriptor({ type: Type.DATA });
  assert.deepEqual(outcome({ mode: "protected32", sregs, code, memory }), [GP, Sel.FREE]);
});

test("descriptors of the LDT; without one #GP(selector) (SDM 3A, 3.5.1)", () => {
  const memory = (env: Environment) => env.descriptor(0x0c, { type: Type.DATA_WRITABLE });
  const code = assembler("protected32").setSegment("es", 0x0c).done();
  assert.equal(outcome({ mode: "protected32", code, memory }), "ok");
  const without = assembler("protected32").mov("ax", 0).hex("0f00d0").setSegment("es", 0x0c).done();
  assert.deepEqual(outcome({ mode: "protected32", code: without, memory }), [GP, 0x0c]);
});

test("a load sets the accessed bit in the table (SDM 3A, 3.4.5.1)", () => {
  const memory = withDescriptor({ type: Type.DATA_WRITABLE });
  const code = assembler("long").setSegment("es", free()).done();
  const { env } = run({ mode: "long", code, memory });
  assert.equal((env.read64(At.GDT + Sel.FREE) >> 40n) & 1n, 1n);
});

test("MOV CS and segment registers 6 and 7 are #UD (SDM 2, MOV)", () => {
  for (const modrm of [0xc8, 0xf0, 0xf8]) {
    assert.deepEqual(run({ mode: "long", code: assembler("long").db(0x8e, modrm) }).faults[0].vector, UD);
  }
  for (const modrm of [0xf0, 0xf8]) {
    assert.deepEqual(run({ mode: "long", code: assembler("long").db(0x8c, modrm) }).faults[0].vector, UD);
  }
});

// --- accesses ---

const ACCESS: [rule: string, fields: DescriptorFields, offset: number, bytes: 1 | 2 | 4, ok: boolean][] = [
  ["the last byte", { type: Type.DATA_WRITABLE, limit: 0xfff }, 0xfff, 1, true],
  ["one byte beyond", { type: Type.DATA_WRITABLE, limit: 0xfff }, 0x1000, 1, false],
  ["the last doubleword", { type: Type.DATA_WRITABLE, limit: 0xfff }, 0xffc, 4, true],
  ["a doubleword that ends beyond", { type: Type.DATA_WRITABLE, limit: 0xfff }, 0xffd, 4, false],
  ["page granularity", { type: Type.DATA_WRITABLE, limit: 0, granularity: true }, 0xffc, 4, true],
  ["beyond page granularity", { type: Type.DATA_WRITABLE, limit: 0, granularity: true }, 0xffd, 4, false],
  ["expand-down, at the limit", { type: Type.DATA_DOWN, limit: 0xfff, db: true }, 0xfff, 1, false],
  ["expand-down, above the limit", { type: Type.DATA_DOWN, limit: 0xfff, db: true }, 0x1000, 4, true],
  ["16-bit expand-down, at 0xFFFF", { type: Type.DATA_DOWN, limit: 0xfff }, 0xffff, 1, true],
  ["16-bit expand-down, at 0x10000", { type: Type.DATA_DOWN, limit: 0xfff }, 0x10000, 1, false],
  ["16-bit expand-down, across 0xFFFF", { type: Type.DATA_DOWN, limit: 0xfff }, 0xffff, 2, false],
];
const LOADS = { 1: "8a", 2: "66 8b", 4: "8b" } as const;
for (const mode of ["protected32", "compat"] as const) {
  for (const [rule, fields, offset, bytes, ok] of ACCESS) {
    test(`${mode}: limit of DS and SS: ${rule} (SDM 3A, 5.3)`, () => {
      // At CPL 3, so that the handler of #SS has a stack of its own.
      const memory = withDescriptor({ ...fields, dpl: 3 });
      const data = assembler(mode).setSegment("ds", free(3)).op(LOADS[bytes], 3, offset).done();
      assert.deepEqual(outcome({ mode, cpl: 3, code: data, memory }), ok ? "ok" : [GP, 0]);
      const stack = assembler(mode).setSegment("ss", free(3)).op(`36 ${LOADS[bytes]}`, 3, offset).done();
      assert.deepEqual(outcome({ mode, cpl: 3, code: stack, memory }), ok ? "ok" : [SS, 0]);
    });
  }
}

const TYPES: [rule: string, type: number, read: boolean, write: boolean][] = [
  ["writable data", Type.DATA_WRITABLE, true, true],
  ["read-only data", Type.DATA, true, false],
  ["readable code", Type.CODE_READABLE, true, false],
];
for (const [rule, type, read, write] of TYPES) {
  test(`accesses through ${rule} (SDM 3A, 5.5)`, () => {
    const memory = withDescriptor({ type });
    const at = (op: string) =>
      outcome({
        mode: "protected32",
        memory,
        code: assembler("protected32").setSegment("es", free()).op(op, 3, At.DATA).done(),
      });
    assert.deepEqual(at("26 8b"), read ? "ok" : [GP, 0], "read");
    assert.deepEqual(at("26 89"), write ? "ok" : [GP, 0], "write");
    assert.deepEqual(at("26 01"), write ? "ok" : [GP, 0], "read-modify-write");
    assert.deepEqual(at("26 0fb1"), write ? "ok" : [GP, 0], "CMPXCHG");
    assert.deepEqual(at("26 39"), read ? "ok" : [GP, 0], "compare");
  });
}

test("execute-only code cannot be read through CS (SDM 3A, 5.5)", () => {
  const memory = withDescriptor({ type: Type.CODE, db: true });
  const code = assembler("protected32").jmpFar(free(), "x").label("x").op("2e 8b", 3, At.DATA).done();
  assert.deepEqual(outcome({ mode: "protected32", code, memory }), [GP, 0]);
});

test("string instructions check ES:EDI and the source segment (SDM 3A, 5.3)", () => {
  const memory = withDescriptor({ type: Type.DATA_WRITABLE, limit: 0xfff, dpl: 3 });
  const at = (segment: "es" | "ds" | "ss", op: string, si: number, di: number) => {
    const code = assembler("protected32").setSegment(segment, free(3)).mov("si", si).mov("di", di);
    return outcome({ mode: "protected32", cpl: 3, memory, code: code.mov("cx", 1).hex(op).done() });
  };
  assert.deepEqual(at("es", "a5", At.DATA, 0xffd), [GP, 0]);
  assert.deepEqual(at("es", "a5", At.DATA, 0xffc), "ok");
  assert.deepEqual(at("es", "f3 ab", 0, 0x1000), [GP, 0]);
  assert.deepEqual(at("es", "af", 0, 0xffe), [GP, 0]);
  assert.deepEqual(at("ds", "ad", 0xffd, 0), [GP, 0]);
  assert.deepEqual(at("ds", "a7", 0xffd, At.DATA), [GP, 0]);
  assert.deepEqual(at("ss", "36 ad", 0xffd, 0), [SS, 0]);
  assert.deepEqual(at("es", "6d", 0, 0xffd), [GP, 0]);
  assert.deepEqual(at("ss", "36 6f", 0xffd, 0), [SS, 0]);
  assert.deepEqual(at("ds", "6f", 0xffd, 0), [GP, 0]);
});

test("string I/O through expand-down segments (SDM 3A, 5.3)", () => {
  const memory = withDescriptor({ type: Type.DATA_DOWN, limit: 0xfff, db: true });
  const at = (di: number) =>
    outcome({
      mode: "protected32",
      memory,
      code: assembler("protected32").setSegment("es", free()).mov("di", di).mov("dx", 0x80).hex("6d").done(),
    });
  assert.deepEqual(at(0xffc), [GP, 0]);
  assert.deepEqual(at(At.DATA), "ok");
});

/** Instructions whose memory operand is longer than their operand size: all of it is checked. */
const LONG_OPERANDS: [name: string, op: string, reg: number, bytes: number][] = [
  ["LES", "c4", 3, 6],
  ["LFS", "0fb4", 3, 6],
  ["LSS", "0fb2", 3, 6],
  ["CALL m16:32", "ff", 3, 6],
  ["JMP m16:32", "ff", 5, 6],
  ["JMP m16:16", "66 ff", 5, 4],
  ["BOUND", "62", 3, 8],
  ["LGDT", "0f01", 2, 6],
  ["SGDT", "0f01", 0, 6],
  ["SIDT", "0f01", 1, 6],
  ["CMPXCHG8B", "0fc7", 1, 8],
  ["FLD m80", "db", 5, 10],
  ["FNSTENV", "d9", 6, 28],
  ["FNSAVE", "dd", 6, 108],
  ["FXSAVE", "0fae", 0, 512],
  ["MOVUPS", "0f10", 0, 16],
  ["MOVQ", "0f6f", 0, 8],
  ["LDDQU", "f20ff0", 0, 16],
];
for (const [name, op, reg, bytes] of LONG_OPERANDS) {
  test(`all ${bytes} bytes of ${name} have to lie in the segment (SDM 3A, 5.3)`, () => {
    const at = (offset: number) =>
      outcome({
        mode: "protected32",
        memory: withDescriptor({ type: Type.DATA_WRITABLE, base: At.DATA, limit: 0xfff }),
        code: assembler("protected32").setSegment("ds", free()).op(op, reg, offset).done(),
      });
    assert.deepEqual(at(0x1000 - bytes + 1), [GP, 0]);
    // The last place that is inside: another fault is possible (a null selector), but not that of the limit.
    const inside = run({
      mode: "protected32",
      memory: (env) => {
        withDescriptor({ type: Type.DATA_WRITABLE, base: At.DATA, limit: 0xfff })(env);
        const at = At.DATA + 0x1000 - bytes;
        // A far pointer to 18h:code + 0x100, bounds around zero, or just data.
        env.u32(
          at,
          name === "JMP m16:16" ? (Sel.CODE16 << 16) | 0x100 : name === "BOUND" ? 0 : At.CODE + 0x100,
        );
        if (bytes === 6) env.u16(at + 4, name.includes(":") ? Sel.CODE32 : Sel.DATA);
        if (name === "LGDT") {
          env.u16(at, 0x7ff);
          env.u32(at + 2, At.GDT);
        }
        env.write(At.CODE + 0x100, [0xe6, 0xf4]);
      },
      code: assembler("protected32")
        .setSegment("ds", free())
        .op(op, reg, 0x1000 - bytes)
        .done(),
    });
    assert.equal(inside.end, "done", name);
  });
}

// --- other loads ---

test("LDS, LES, LFS, LGS, LSS load offset and selector (SDM 2, LDS)", () => {
  for (const [op, name] of [
    ["c5", "ds"],
    ["c4", "es"],
    ["0fb4", "fs"],
    ["0fb5", "gs"],
    ["0fb2", "ss"],
  ] as const) {
    const code = assembler("protected32").op(op, 3, At.DATA).done();
    const { end, regs, sregs } = run({
      mode: "protected32",
      code,
      memory: (env) => {
        withDescriptor({ type: Type.DATA_WRITABLE, db: true })(env);
        env.u32(At.DATA, 0x12345678);
        env.u16(At.DATA + 4, free());
      },
    });
    assert.equal(end, "done", name);
    assert.equal(regs.rbx, 0x12345678n);
    assert.equal(sregs[name].selector, free());
  }
});

test("a far pointer whose selector faults leaves the register alone (SDM 2, LDS)", () => {
  const code = assembler("protected32").mov("bx", 7).op("c4", 3, At.DATA);
  const memory = (env: Environment) => env.u16(At.DATA + 4, 0x7f0);
  const { faults } = run({ mode: "protected32", code, memory });
  assert.deepEqual([faults[0].vector, faults[0].error], [GP, 0x7f0]);
  assert.equal(faults[0].regs.rbx, 7n);
});

test("POP of a segment register that faults leaves ESP alone (SDM 2, POP)", () => {
  const code = assembler("protected32").pushImm(0x7f0).hex("07");
  const { faults } = run({ mode: "protected32", code });
  assert.deepEqual([faults[0].vector, faults[0].error], [GP, 0x7f0]);
  assert.equal(faults[0].regs.rsp, BigInt(At.STACK_TOP - 4 - 16));
});

const LLDT: [rule: string, selector: number, fields: DescriptorFields, expected: Outcome][] = [
  ["an LDT", free(), { type: Type.LDT }, "ok"],
  ["a null selector", 3, { type: Type.LDT }, "ok"],
  ["another type", free(), { type: Type.TSS }, [GP, free()]],
  ["a code segment", free(), { type: Type.CODE_READABLE }, [GP, free()]],
  ["not present", free(), { type: Type.LDT, present: false }, [NP, free()]],
  ["a selector of the LDT", free() | 4, { type: Type.LDT }, [GP, free() | 4]],
];
const LTR: [rule: string, selector: number, fields: DescriptorFields, expected: Outcome][] = [
  ["an available TSS", free(), { type: Type.TSS, limit: 0x67 }, "ok"],
  ["a busy TSS", free(), { type: Type.TSS_BUSY, limit: 0x67 }, [GP, free()]],
  ["a null selector", 0, { type: Type.TSS }, [GP, 0]],
  ["an LDT", free(), { type: Type.LDT }, [GP, free()]],
  ["not present", free(), { type: Type.TSS, present: false }, [NP, free()]],
  ["a selector of the LDT", free() | 4, { type: Type.TSS }, [GP, free() | 4]],
];
for (const mode of ["protected32", "long"] as const) {
  for (const [rule, selector, fields, expected] of LLDT) {
    test(`${mode}: LLDT, ${rule} (SDM 2, LLDT)`, () => {
      const code = assembler(mode).mov("ax", selector).hex("0f00d0").done();
      assert.deepEqual(outcome({ mode, code, memory: withDescriptor(fields) }), expected);
    });
  }
  for (const [rule, selector, fields, expected] of LTR) {
    test(`${mode}: LTR, ${rule} (SDM 2, LTR)`, () => {
      const code = assembler(mode).mov("ax", selector).hex("0f00d8").done();
      assert.deepEqual(outcome({ mode, code, memory: withDescriptor(fields) }), expected);
    });
  }
}

test("LTR marks the TSS busy; a second LTR of it is #GP (SDM 2, LTR)", () => {
  const memory = withDescriptor({ type: Type.TSS, base: At.TSS, limit: 0x67 });
  const code = assembler("long").mov("ax", free()).hex("0f00d8 0f00d8").done();
  const { faults, env, sregs } = run({ mode: "long", code, memory });
  assert.deepEqual([faults[0].vector, faults[0].error], [GP, free()]);
  assert.equal((env.read64(At.GDT + Sel.FREE) >> 40n) & 0xfn, 11n);
  assert.equal(sregs.tr.type, 11);
});

test("IA-32e mode: system descriptors have 16 bytes, with a 64-bit base (SDM 3A, 8.2.3)", () => {
  const memory = (env: Environment) => {
    withDescriptor({ type: Type.LDT, base: 0x1234567, limit: 0xff })(env);
    env.u64(At.GDT + Sel.FREE + 8, 0xffff8000n);
  };
  const code = assembler("long").mov("ax", free()).hex("0f00d0").done();
  assert.equal(run({ mode: "long", code, memory }).sregs.ldt.base, 0xffff8000_01234567n);
});

test("IA-32e mode: both halves of a system descriptor have to lie in the GDT (SDM 2, LTR)", () => {
  const code = assembler("long").mov("ax", 0x7f8).hex("0f00d8").done();
  const memory = (env: Environment) => env.descriptor(0x7f8, { type: Type.TSS });
  assert.deepEqual(outcome({ mode: "long", code, memory }), [GP, 0x7f8]);
});

test("IA-32e mode: LLDT and LTR of a non-canonical base are #GP(selector) (SDM 2, LTR)", () => {
  for (const [op, type] of [
    ["0f00d0", Type.LDT],
    ["0f00d8", Type.TSS],
  ] as const) {
    const memory = (env: Environment) => {
      withDescriptor({ type })(env);
      env.u64(At.GDT + Sel.FREE + 8, 0x8000n);
    };
    const { faults, env } = run({
      mode: "long",
      memory,
      code: assembler("long").mov("ax", free()).hex(op).done(),
    });
    assert.deepEqual([faults[0]?.vector, faults[0]?.error], [GP, free()]);
    if (type === Type.TSS) assert.equal((env.read64(At.GDT + Sel.FREE) >> 40n) & 0xfn, 9n, "not busy");
  }
});

test("LLDT, LTR, LGDT, LIDT, LMSW, CLTS, INVLPG and others at CPL 3 are #GP(0) (SDM 3A, 5.9)", () => {
  for (const op of [
    "0f00d0",
    "0f00d8",
    "0f0110",
    "0f0118",
    "0f01f0",
    "0f06",
    "0f0138",
    "f4",
    "0f08",
    "0f09",
    "0f30",
    "0f32",
  ]) {
    const { faults } = run({
      mode: "long",
      cpl: 3,
      code: assembler("long").mov("ax", At.DATA).hex(op).done(),
    });
    assert.deepEqual([faults[0]?.vector, faults[0]?.error], [GP, 0], op);
  }
});

// --- looking at descriptors ---

const VISIBLE: [
  rule: string,
  fields: DescriptorFields,
  rpl: number,
  cpl: 0 | 3,
  lar: boolean,
  lsl: boolean,
  verr: boolean,
  verw: boolean,
][] = [
  ["writable data", { type: Type.DATA_WRITABLE }, 0, 0, true, true, true, true],
  ["read-only data", { type: Type.DATA }, 0, 0, true, true, true, false],
  ["readable code", { type: Type.CODE_READABLE }, 0, 0, true, true, true, false],
  ["execute-only code", { type: Type.CODE }, 0, 0, true, true, false, false],
  ["data of DPL 0 at CPL 3", { type: Type.DATA_WRITABLE }, 3, 3, false, false, false, false],
  ["data of DPL 0 with RPL 3", { type: Type.DATA_WRITABLE }, 3, 0, false, false, false, false],
  ["conforming code of DPL 0 at CPL 3", { type: Type.CODE_CONFORMING }, 3, 3, true, true, true, false],
  ["not present data", { type: Type.DATA_WRITABLE, present: false }, 0, 0, true, true, true, true],
  ["an LDT", { type: Type.LDT }, 0, 0, true, true, false, false],
  ["an available TSS", { type: Type.TSS }, 0, 0, true, true, false, false],
  ["a call gate", { type: Type.CALL_GATE }, 0, 0, true, false, false, false],
  ["an interrupt gate", { type: Type.INTERRUPT_GATE }, 0, 0, false, false, false, false],
];
for (const mode of ["protected32", "long"] as const) {
  for (const [rule, fields, rpl, cpl, lar, lsl, verr, verw] of VISIBLE) {
    test(`${mode}: LAR, LSL, VERR, VERW of ${rule} (SDM 2)`, () => {
      const limited = { limit: 0x12345, base: 0x55, ...fields };
      const code = assembler(mode).mov("ax", free(rpl)).mov("bx", 0x7777).mov("dx", 0x7777);
      code.hex("0f02d8").hex("0f94c1").hex("0f03d0").hex("0f94c5").done();
      const { end, regs } = run({ mode, cpl, code, memory: withDescriptor(limited) });
      assert.equal(end, "done");
      const [larOk, lslOk] = [regs.rcx & 1n, (regs.rcx >> 8n) & 1n].map(Boolean);
      assert.deepEqual([larOk, lslOk], [lar, lsl]);
      const access = (fields.type << 8) | ((fields.dpl ?? 0) << 13) | (fields.present === false ? 0 : 0x8000);
      assert.equal(Number(regs.rbx & 0xff00n), lar ? access : 0x7700, "LAR");
      assert.equal(regs.rdx, lsl ? 0x12345n : 0x7777n, "LSL");
      const verify = assembler(mode)
        .mov("ax", free(rpl))
        .hex("0f00e0")
        .hex("0f94c1")
        .hex("0f00e8")
        .hex("0f94c5")
        .done();
      const verified = run({ mode, cpl, code: verify, memory: withDescriptor(limited) }).regs.rcx;
      assert.deepEqual([verified & 1n, (verified >> 8n) & 1n].map(Boolean), [verr, verw]);
    });
  }
}

test("LAR, LSL, VERR, VERW of null and of selectors beyond the table clear ZF and do not fault (SDM 2)", () => {
  for (const selector of [0, 3, 0x800, 0x104])
    for (const op of ["0f02d8", "0f03d8", "0f00e0", "0f00e8"]) {
      const code = assembler("protected32").hex("31c9").mov("ax", selector).hex(op).done();
      const { end, regs } = run({ mode: "protected32", code });
      assert.equal(end, "done");
      assert.equal(regs.rflags & 0x40n, 0n);
    }
});

test("LSL in pages, 16-bit LAR and LSL (SDM 2)", () => {
  const memory = withDescriptor({ type: Type.DATA_WRITABLE, limit: 0xfffff, granularity: true, db: true });
  const code = assembler("protected32")
    .mov("ax", free())
    .mov("bx", -1)
    .mov("dx", -1)
    .hex("0f03c8")
    .hex("66 0f03d8")
    .hex("66 0f02d0")
    .done();
  const { regs } = run({ mode: "protected32", code, memory });
  assert.deepEqual([regs.rcx, regs.rbx, regs.rdx], [0xffffffffn, 0xffffffffn, 0xffff9200n]);
});

test("legacy mode: 16-bit system types are visible to LAR, in IA-32e mode they are not (SDM 2, LAR)", () => {
  const at = (mode: GuestImage["mode"], type: number) => {
    const code = assembler(mode).mov("ax", free()).hex("0f02d8").done();
    return (run({ mode, code, memory: withDescriptor({ type }) }).regs.rflags & 0x40n) !== 0n;
  };
  for (const type of [1, 3, 4, 5]) {
    assert.equal(at("protected32", type), true, `type ${type}`);
    assert.equal(at("long", type), false, `type ${type}`);
  }
});

test("ARPL raises RPL and sets ZF, else clears it (SDM 2, ARPL)", () => {
  const code = assembler("protected32")
    .mov("ax", 0x10)
    .mov("bx", 0x23)
    .hex("63d8")
    .hex("9c 59")
    .hex("63d8")
    .done();
  const { regs } = run({ mode: "protected32", code });
  assert.equal(regs.rax, 0x13n);
  assert.equal(regs.rcx & 0x40n, 0x40n);
  assert.equal(regs.rflags & 0x40n, 0n);
});

test("SGDT and SIDT store limit and base; in 64-bit mode ten bytes (SDM 2, SGDT)", () => {
  const long = run({
    mode: "long",
    code: assembler("long")
      .op("0f01", 0, At.DATA)
      .op("0f01", 1, At.DATA + 16)
      .done(),
  });
  assert.equal(long.env.read64(At.DATA + 2), BigInt(At.GDT));
  assert.equal(long.env.read32(At.DATA) & 0xffff, 0x7ff);
  assert.equal(long.env.read64(At.DATA + 18), BigInt(At.IDT));
  const legacy = run({
    mode: "protected32",
    code: assembler("protected32").op("0f01", 0, At.DATA).done(),
    memory: (env) => env.u64(At.DATA, -1n),
  });
  assert.equal(legacy.env.read64(At.DATA), 0xffff0000000007ffn | (BigInt(At.GDT) << 16n));
});

test("LGDT with a 16-bit operand takes 24 bits of base (SDM 2, LGDT)", () => {
  const code = assembler("protected32")
    .op("66 0f01", 2, At.DATA)
    .op("0f01", 0, At.DATA + 8)
    .done();
  const memory = (env: Environment) => env.u64(At.DATA, 0xab123456_0fffn);
  const { env } = run({ mode: "protected32", code, memory });
  assert.equal(env.read64(At.DATA + 8) & 0xffff_ffff_ffffn, 0x123456_0fffn);
});

test("LGDT and LIDT of a non-canonical base are #GP(0) (SDM 2, LGDT)", () => {
  for (const reg of [2, 3]) {
    const code = assembler("long").op("0f01", reg, At.DATA).done();
    const memory = (env: Environment) => env.u64(At.DATA + 2, 1n << 47n);
    assert.deepEqual(outcome({ mode: "long", code, memory }), [GP, 0]);
  }
});
