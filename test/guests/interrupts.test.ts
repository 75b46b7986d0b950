/** Delivery of interrupts and exceptions (SDM vol. 3A, chapter 6). */
import assert from "node:assert/strict";
import { after } from "node:test";
import type { Asm } from "./support/asm.js";
import {
  At,
  type DescriptorFields,
  type Environment,
  type GateFields,
  isLong,
  Sel,
  Type,
} from "./support/environment.js";
import { assembler, Flag, type GuestImage, runGuest } from "./support/machine.js";
import { guestProvider, test } from "./support/provider.js";

const provider = guestProvider();
after(() => provider.close());
const run = (image: GuestImage) => runGuest(provider, image);

const V = {
  DE: 0,
  DB: 1,
  BP: 3,
  OF: 4,
  BR: 5,
  UD: 6,
  DF: 8,
  TS: 10,
  NP: 11,
  SS: 12,
  GP: 13,
  PF: 14,
} as const;
const OTHER = Sel.FREE;
const PROTECTED = ["protected32", "long"] as const;
/** Error code bits (SDM vol. 3A, 6.13). */
const IDT = 2;
const EXT = 1;

function first(image: GuestImage): [vector: number, error: number | undefined] {
  const { end, faults } = run(image);
  assert.equal(end, "fault");
  return [faults[0].vector, faults[0].error];
}

// --- which exception, and where it points to ---

const RAISED: [what: string, body: (a: Asm) => Asm, vector: number, at: number][] = [
  ["DIV by zero", (a) => a.hex("31c9 f7f1"), V.DE, 2],
  ["INT3", (a) => a.hex("cc"), V.BP, 1],
  ["INT 3 by CD", (a) => a.hex("cd03"), V.BP, 2],
  ["INT 0x80", (a) => a.hex("cd80"), 0x80, 2],
  ["INT1", (a) => a.hex("f1"), V.DB, 1],
  ["UD2", (a) => a.hex("0f0b"), V.UD, 0],
  ["UD1", (a) => a.hex("0fb9c0"), V.UD, 0],
  ["UD0", (a) => a.hex("0fffc0"), V.UD, 0],
];
for (const mode of PROTECTED) {
  for (const [what, body, vector, at] of RAISED) {
    test(`${mode}: ${what} raises vector ${vector}; saved RIP of fault or trap (SDM 3A, 6.5, 6.15)`, () => {
      const { faults } = run({ mode, code: body(assembler(mode)) });
      assert.equal(faults[0].vector, vector);
      assert.equal(faults[0].rip, BigInt(At.CODE + at));
    });
  }
}
test("INTO raises #OF only with OF set, as a trap; in 64-bit mode it is #UD (SDM 2, INT n)", () => {
  const into = (rflags: number) =>
    run({
      mode: "protected32",
      code: assembler("protected32").hex("ce").done(),
      regs: { rflags: BigInt(rflags | 2) },
    });
  assert.equal(into(0).end, "done");
  const { faults } = into(Flag.OF);
  assert.deepEqual([faults[0].vector, faults[0].rip], [V.OF, BigInt(At.CODE + 1)]);
  assert.equal(first({ mode: "long", code: assembler("long").hex("ce") })[0], V.UD);
});
test("BOUND raises #BR at the instruction; in 64-bit mode its opcode is no BOUND (SDM 2, BOUND)", () => {
  const bound = (index: number) =>
    run({
      mode: "protected32",
      code: assembler("protected32").mov("bx", index).op("62", 3, At.DATA).done(),
      memory: (e) => {
        e.u32(At.DATA, -5);
        e.u32(At.DATA + 4, 10);
      },
    });
  for (const index of [-5, 0, 10]) assert.equal(bound(index).end, "done");
  for (const index of [-6, 11]) {
    assert.deepEqual(
      [bound(index).faults[0].vector, bound(index).faults[0].rip],
      [V.BR, BigInt(At.CODE + 5)],
    );
  }
});

// --- frames ---

test("32-bit frame without a change of level: EFLAGS, CS, EIP (SDM 3A, 6.12.1)", () => {
  const { faults, env } = run({ mode: "protected32", code: assembler("protected32").hex("f9 0f0b") });
  assert.equal(faults[0].frame, At.STACK_TOP - 12);
  assert.equal(env.read32(At.STACK_TOP - 12), At.CODE + 1);
  assert.equal(env.read32(At.STACK_TOP - 8), Sel.CODE32);
  assert.equal(env.read32(At.STACK_TOP - 4), Flag.CF | Flag.RF | 2);
});
test("32-bit frame with a change of level: SS and ESP too, on the stack of the TSS (SDM 3A, 6.12.1)", () => {
  const { faults, sregs } = run({
    mode: "protected32",
    cpl: 3,
    code: assembler("protected32").push("ax").hex("0f0b"),
  });
  assert.equal(faults[0].frame, At.STACK_TOP - 20);
  assert.deepEqual(
    [faults[0].ss, faults[0].sp, faults[0].cs],
    [Sel.USER_DATA, BigInt(At.USER_STACK_TOP - 4), Sel.USER_CODE32],
  );
  assert.equal(sregs.ss.selector, Sel.DATA);
  assert.equal(sregs.ss.dpl, 0);
});
test("64-bit frame: always SS and RSP, aligned to 16 bytes (SDM 3A, 6.14.2)", () => {
  for (const push of [0, 1]) {
    const code = assembler("long");
    if (push !== 0) code.push("ax");
    const { faults, sregs } = run({ mode: "long", code: code.hex("cc") });
    assert.equal(faults[0].frame % 16, 8);
    assert.equal(faults[0].sp, BigInt(At.STACK_TOP - 8 * push));
    assert.equal(faults[0].ss, Sel.DATA);
    assert.equal(sregs.ss.selector, Sel.DATA, "SS stays where the level does");
  }
});
test("64-bit frame with a change of level: SS is null with RPL = CPL (SDM 3A, 6.14.4)", () => {
  const { faults, sregs } = run({ mode: "long", cpl: 3, code: assembler("long").hex("0f0b") });
  assert.equal(faults[0].ss, Sel.USER_DATA);
  assert.equal(faults[0].frame, At.STACK_TOP - 40);
  assert.equal(sregs.ss.selector, 0);
});
test("a fault in compatibility mode gets a 64-bit frame (SDM 3A, 6.14.2)", () => {
  const { faults, sregs } = run({ mode: "compat", cpl: 3, code: assembler("compat").hex("0f0b") });
  assert.deepEqual(
    [faults[0].cs, faults[0].rip, faults[0].sp],
    [Sel.USER_CODE32, BigInt(At.CODE), BigInt(At.USER_STACK_TOP)],
  );
  assert.equal(sregs.cs.l, 1);
});
test("16-bit gates push words (SDM 3A, 6.12.1)", () => {
  const { env, regs } = run({
    mode: "protected32",
    code: assembler("protected32").hex("cd80"),
    memory: (e) => e.handlerGate(0x80, { type: Type.INTERRUPT_GATE16 }),
  });
  assert.equal(regs.rsp, BigInt(At.STACK_TOP - 6));
  assert.equal(env.read32(At.STACK_TOP - 6) & 0xffff, (At.CODE + 2) & 0xffff);
  assert.equal(env.read32(At.STACK_TOP - 4), (2 << 16) | Sel.CODE32);
});
test("16-bit gates lead to a 16-bit offset, with the error code as a word", () => {
  const { env, regs, faults } = run({
    mode: "protected32",
    code: assembler("protected32").setSegment("es", 0x7f0),
    memory: (e) =>
      e.handlerGate(V.GP, { type: Type.INTERRUPT_GATE16, offset: 0xdead0000 | (At.HANDLERS + 16 * V.GP) }),
  });
  assert.equal(faults[0].vector, V.GP);
  assert.equal(regs.rsp, BigInt(At.STACK_TOP - 8));
  assert.equal(env.read32(At.STACK_TOP - 8) & 0xffff, 0x7f0);
});

const GATE_FLAGS: [type: number, name: string, keepsIf: boolean][] = [
  [Type.INTERRUPT_GATE, "interrupt", false],
  [Type.TRAP_GATE, "trap", true],
];
for (const mode of PROTECTED)
  for (const [type, name, keepsIf] of GATE_FLAGS) {
    test(`${mode}: an ${name} gate and IF, NT, AC, RF (SDM 3A, 6.12.1.3)`, () => {
      const { regs, faults } = run({
        mode,
        code: assembler(mode).hex("cd80"),
        memory: (e) => e.handlerGate(0x80, { type }),
        regs: { rflags: BigInt(Flag.IF | Flag.NT | Flag.AC | Flag.IOPL3 | Flag.DF | 2) },
      });
      assert.equal(Number(regs.rflags), (keepsIf ? Flag.IF : 0) | Flag.AC | Flag.IOPL3 | Flag.DF | 2);
      assert.equal(faults[0].flags, Flag.IF | Flag.NT | Flag.AC | Flag.IOPL3 | Flag.DF | 2);
    });
  }

test("RF in the saved flags: set by faults, clear after INT n (SDM 3B, 18.3.1.1)", () => {
  const flags = (code: string) =>
    run({ mode: "long", code: assembler("long").hex(code) }).faults[0].flags & Flag.RF;
  assert.equal(flags("0f0b"), Flag.RF, "#UD");
  assert.equal(flags("31c9 f7f1"), Flag.RF, "#DE");
  assert.equal(flags("cc"), 0, "#BP");
  assert.equal(flags("cd80"), 0, "INT n");
  assert.equal(flags("8b0425 00000080"), Flag.RF, "#PF");
});

// --- gates that are not good ---

type Gate = [rule: string, gate: Partial<GateFields>, cpl: 0 | 3, vector: number, error: number];
const INT80 = 0x80 * 8 + IDT;
const GATES: Gate[] = [
  ["of a data segment's type", { type: Type.DATA_WRITABLE }, 0, V.GP, INT80],
  ["of a call gate's type", { type: Type.CALL_GATE }, 0, V.GP, INT80],
  ["zero", { type: 0, present: false }, 0, V.GP, INT80],
  ["not present", { present: false }, 0, V.NP, INT80],
  ["DPL below CPL", { dpl: 0 }, 3, V.GP, INT80],
  ["DPL below CPL and not present", { dpl: 0, present: false }, 3, V.GP, INT80],
  ["a null selector", { selector: 0 }, 0, V.GP, 0],
  ["a selector beyond the GDT", { selector: 0x800 }, 0, V.GP, 0x800],
  ["a selector of data", { selector: Sel.DATA }, 0, V.GP, Sel.DATA],
  ["a selector of code that is not present", { selector: OTHER }, 0, V.NP, OTHER],
  ["code of DPL 3 at CPL 0", { selector: OTHER + 8 }, 0, V.GP, OTHER + 8],
];
for (const mode of PROTECTED)
  for (const [rule, gate, cpl, vector, error] of GATES) {
    test(`${mode}: INT n through a gate: ${rule} (SDM 2, INT n)`, () => {
      const { faults } = run({
        mode,
        cpl,
        code: assembler(mode).hex("cd80"),
        memory: (e) => {
          const long = isLong(mode);
          e.descriptor(OTHER, { type: Type.CODE_READABLE, long, db: !long, present: false });
          e.descriptor(OTHER + 8, { type: Type.CODE_READABLE, long, db: !long, dpl: 3 });
          e.handlerGate(0x80, gate);
        },
      });
      assert.deepEqual([faults[0].vector, faults[0].error], [vector, error]);
      assert.equal(faults[0].rip, BigInt(At.CODE), "the INT itself faults");
    });
  }

test("the same in the delivery of an exception sets EXT in the error code (SDM 3A, 6.13)", () => {
  for (const mode of PROTECTED) {
    const at = (gate: Partial<GateFields>) =>
      first({ mode, code: assembler(mode).hex("0f0b"), memory: (e) => e.handlerGate(V.UD, gate) });
    assert.deepEqual(at({ present: false }), [V.NP, V.UD * 8 + IDT + EXT]);
    assert.deepEqual(at({ type: Type.CALL_GATE }), [V.GP, V.UD * 8 + IDT + EXT]);
    assert.deepEqual(at({ selector: 0 }), [V.GP, EXT]);
    assert.deepEqual(at({ selector: 0x800 }), [V.GP, 0x800 + EXT]);
    assert.deepEqual(at({ selector: Sel.DATA }), [V.GP, Sel.DATA + EXT]);
    assert.deepEqual(
      first({
        mode,
        cpl: 3,
        code: assembler(mode).hex("0f0b"),
        memory: (e) => e.handlerGate(V.UD, { dpl: 0 }),
      })[0],
      V.UD,
      "DPL counts for INT n only",
    );
  }
});

test("INT3, INTO and INT1: DPL counts for the first two, EXT for the last (SDM 2, INT n)", () => {
  const at = (code: string, vector: number, gate: Partial<GateFields>) =>
    first({
      mode: "protected32",
      cpl: 3,
      code: assembler("protected32").hex(code),
      memory: (e) => e.handlerGate(vector, gate),
      regs: { rflags: BigInt(Flag.OF | 2) },
    });
  assert.deepEqual(at("cc", V.BP, {}), [V.GP, V.BP * 8 + IDT]);
  assert.deepEqual(at("cc", V.BP, { dpl: 3 }), [V.BP, undefined]);
  assert.deepEqual(at("ce", V.OF, {}), [V.GP, V.OF * 8 + IDT]);
  assert.deepEqual(at("f1", V.DB, {}), [V.DB, undefined]);
  assert.deepEqual(at("f1", V.DB, { present: false }), [V.NP, V.DB * 8 + IDT + EXT]);
});

test("a vector beyond IDTR's limit is #GP(vector × 8 + 2) (SDM 3A, 6.10)", () => {
  for (const mode of PROTECTED) {
    const sregs: GuestImage["sregs"] = (s) => {
      s.idt.limit = 16 * (isLong(mode) ? 16 : 8) - 1;
    };
    assert.deepEqual(first({ mode, sregs, code: assembler(mode).hex("cd10") }), [V.GP, 0x10 * 8 + IDT]);
    const cut: GuestImage["sregs"] = (s) => {
      s.idt.limit = 17 * (isLong(mode) ? 16 : 8) - 2;
    };
    assert.deepEqual(first({ mode, sregs: cut, code: assembler(mode).hex("cd10") }), [V.GP, 0x10 * 8 + IDT]);
  }
});

test("IA-32e mode: 16-bit gates and gates to 32-bit code are #GP (SDM 3A, 6.14.1)", () => {
  const at = (gate: Partial<GateFields>) =>
    first({ mode: "long", code: assembler("long").hex("cd80"), memory: (e) => e.handlerGate(0x80, gate) });
  assert.deepEqual(at({ type: Type.INTERRUPT_GATE16 }), [V.GP, INT80]);
  assert.deepEqual(at({ type: Type.TRAP_GATE16 }), [V.GP, INT80]);
  assert.deepEqual(at({ type: Type.TASK_GATE }), [V.GP, INT80]);
  assert.deepEqual(at({ selector: Sel.CODE32 }), [V.GP, Sel.CODE32]);
});
test("IA-32e mode: 32-bit code that is not present: its type counts first (SDM 2, INT n)", () => {
  const memory = (e: Environment) => {
    e.descriptor(OTHER, { type: Type.CODE_READABLE, db: true, present: false });
    e.handlerGate(0x80, { selector: OTHER });
  };
  assert.deepEqual(first({ mode: "long", code: assembler("long").hex("cd80"), memory }), [V.GP, OTHER]);
});
test("IA-32e mode: a non-canonical handler is #GP(0) (SDM 2, INT n)", () => {
  const memory = (e: Environment) => e.handlerGate(0x80, { offset: 1n << 47n });
  assert.deepEqual(first({ mode: "long", code: assembler("long").hex("cd80"), memory }), [V.GP, 0]);
});
test("a handler beyond its segment's limit is #GP(0) (SDM 2, INT n)", () => {
  const memory = (e: Environment) => {
    e.descriptor(OTHER, { type: Type.CODE_READABLE, db: true, limit: 0xfff });
    e.handlerGate(0x80, { selector: OTHER });
  };
  assert.deepEqual(first({ mode: "protected32", code: assembler("protected32").hex("cd80"), memory }), [
    V.GP,
    0,
  ]);
});

test("a gate to conforming code keeps CPL and stack (SDM 3A, 6.12.1.1)", () => {
  for (const mode of PROTECTED) {
    const { faults, sregs } = run({
      mode,
      cpl: 3,
      code: assembler(mode).hex("0f0b"),
      memory: (e) => {
        e.descriptor(OTHER, { type: Type.CODE_CONFORMING, long: isLong(mode), db: !isLong(mode) });
        e.handlerGate(V.UD, { selector: OTHER });
      },
    });
    assert.equal(faults[0].vector, V.UD);
    assert.equal(sregs.cs.selector, OTHER | 3);
    assert.equal(sregs.ss.selector, Sel.USER_DATA);
    assert.ok(faults[0].frame < At.USER_STACK_TOP && faults[0].frame >= At.USER_STACK_TOP - 48);
  }
});

// --- IST and stacks ---

test("IST: the stack of the TSS, also without a change of level (SDM 3A, 6.14.5)", () => {
  for (const cpl of [0, 3] as const) {
    const { faults } = run({
      mode: "long",
      cpl,
      code: assembler("long").hex("0f0b"),
      memory: (e) => e.handlerGate(V.UD, { ist: 1 }),
    });
    assert.equal(faults[0].frame, At.IST_TOP - 40);
    assert.equal(faults[0].sp, BigInt(cpl === 3 ? At.USER_STACK_TOP : At.STACK_TOP));
  }
});
test("IST: the stack pointer is cut to 16 bytes (SDM 3A, 6.14.2)", () => {
  const { faults } = run({
    mode: "long",
    code: assembler("long").hex("0f0b"),
    memory: (e) => {
      e.handlerGate(V.UD, { ist: 1 });
      e.u64(At.TSS + 36, BigInt(At.IST_TOP - 1));
    },
  });
  assert.equal(faults[0].frame, At.IST_TOP - 16 - 40);
});
test("a non-canonical stack of the TSS is #SS(0), with EXT for an exception (SDM 2, INT n)", () => {
  const at = (code: string, vector: number, dpl: number) =>
    first({
      mode: "long",
      cpl: 3,
      code: assembler("long").hex(code),
      memory: (e) => {
        e.u64(At.TSS + 4, (1n << 47n) + 0x1000n);
        e.handlerGate(vector, { dpl });
        e.handlerGate(V.SS, { ist: 1 });
      },
    });
  assert.deepEqual(at("cd80", 0x80, 3), [V.SS, 0]);
  assert.deepEqual(at("0f0b", V.UD, 0), [V.SS, EXT]);
});
test("a TSS that ends before the stack pointer is #TS(TSS), with EXT for an exception (SDM 2, INT n)", () => {
  const at = (mode: GuestImage["mode"], code: string, vector: number) =>
    first({
      mode,
      cpl: 3,
      code: assembler(mode).hex(code),
      memory: (e) => {
        const long = isLong(mode);
        e.handlerGate(vector, { dpl: 3 });
        e.descriptor(OTHER, { type: Type.CODE_CONFORMING, long, db: !long });
        e.handlerGate(V.TS, { selector: OTHER });
      },
      sregs: (s) => {
        s.tr.limit = long(mode) ? 10 : 8;
      },
      regs: { rflags: BigInt(Flag.IOPL3 | 2) },
    });
  const long = (mode: GuestImage["mode"]) => isLong(mode);
  for (const mode of PROTECTED) {
    assert.deepEqual(at(mode, "cd80", 0x80), [V.TS, Sel.TSS]);
    assert.deepEqual(at(mode, "0f0b", V.UD), [V.TS, Sel.TSS + EXT]);
  }
});

const INNER: [rule: string, selector: number, fields: DescriptorFields, vector: number, error: number][] = [
  ["null", 0, { type: Type.DATA_WRITABLE }, V.TS, 0],
  ["beyond the GDT", 0x800, { type: Type.DATA_WRITABLE }, V.TS, 0x800],
  ["of a wrong RPL", OTHER | 1, { type: Type.DATA_WRITABLE, db: true }, V.TS, OTHER],
  ["read-only", OTHER, { type: Type.DATA, db: true }, V.TS, OTHER],
  ["not present", OTHER, { type: Type.DATA_WRITABLE, db: true, present: false }, V.SS, OTHER],
  ["too small", OTHER, { type: Type.DATA_WRITABLE, db: true, limit: 0xfff }, V.SS, OTHER],
];
for (const [rule, selector, fields, vector, error] of INNER) {
  test(`protected mode: SS of the TSS is ${rule}: EXT by what is delivered (SDM 2, INT n)`, () => {
    const at = (code: string) =>
      first({
        mode: "protected32",
        cpl: 3,
        code: assembler("protected32").hex(code),
        memory: (e) => {
          e.descriptor(OTHER, fields);
          e.u32(At.TSS + 8, selector);
          e.u32(At.TSS + 12, At.STACK_TOP);
          e.u32(At.TSS + 16, 0xb1);
          e.descriptor(0xb0, { type: Type.DATA_WRITABLE, db: true, dpl: 1 });
          e.descriptor(0xb8, { type: Type.CODE_READABLE, db: true, dpl: 1 });
          e.handlerGate(0x80, { dpl: 3 });
          for (const v of [V.TS, V.SS]) e.handlerGate(v, { selector: 0xb9 });
        },
      });
    assert.deepEqual(at("cd80"), [vector, error]);
    assert.deepEqual(at("0f0b"), [vector, error | EXT]);
  });
}

// --- double faults and worse ---

const none: Partial<GateFields> = { present: false };
const DOUBLE: [what: string, code: string, broken: number[], expected: number][] = [
  ["#DE then #NP", "31c9 f7f1", [V.DE], V.DF],
  ["#UD (benign) then #NP", "0f0b", [V.UD], V.NP],
  ["#BP (benign) then #NP", "cc", [V.BP], V.NP],
  ["#UD, #NP, #NP", "0f0b", [V.UD, V.NP], V.DF],
  ["#GP then #NP", "b8f0070000 8ec0", [V.GP], V.DF],
  ["#PF then #NP", "a1 000000f0", [V.PF], V.DF],
];
for (const [what, code, broken, expected] of DOUBLE) {
  test(`${what}: ${expected === V.DF ? "double fault" : "handled serially"} (SDM 3A, table 6-5)`, () => {
    const { faults } = run({
      mode: "paged32",
      code: assembler("paged32").hex(code),
      memory: (e) => {
        for (const vector of broken) e.handlerGate(vector, none);
        e.u32(At.PD32 + 4 * 0x3c0, 0);
      },
    });
    assert.equal(faults[0].vector, expected);
    if (expected === V.DF) assert.equal(faults[0].error, 0);
    assert.equal(
      faults[0].rip,
      BigInt(At.CODE + (code.startsWith("31") ? 2 : code.startsWith("b8") ? 5 : 0)),
    );
  });
}
test("#PF in the delivery of #PF is a double fault; CR2 is the second's (SDM 3A, 6.15)", () => {
  const { faults } = run({
    mode: "long",
    cpl: 3,
    code: assembler("long").hex("8b0425 000000f0"),
    memory: (e) => {
      e.u64(At.TSS + 4, 0xe000_0000n);
      e.u64(At.PDPT + 24, 0n);
      e.handlerGate(V.DF, { ist: 1 });
    },
  });
  assert.equal(faults[0].vector, V.DF);
  assert.equal(faults[0].error, 0);
  assert.equal(faults[0].cr2, 0xe000_0000n - 8n);
});
test("#PF in the delivery of #GP is handled serially (SDM 3A, table 6-5)", () => {
  const { faults } = run({
    mode: "long",
    cpl: 3,
    code: assembler("long").hex("0f06"),
    memory: (e) => {
      e.u64(At.TSS + 4, 0xe000_0000n);
      e.u64(At.PDPT + 24, 0n);
      e.handlerGate(V.PF, { ist: 1 });
    },
  });
  assert.equal(faults[0].vector, V.PF);
  assert.equal(faults[0].error, 2);
});
test("a fault in the delivery of #DF is a shutdown (SDM 3A, 6.15, interrupt 8)", () => {
  for (const mode of PROTECTED) {
    const { end, regs } = run({
      mode,
      code: assembler(mode).nop().hex("31c9 f7f1"),
      memory: (e) => {
        e.handlerGate(V.DE, none);
        e.handlerGate(V.DF, none);
      },
    });
    assert.equal(end, "shutdown");
    assert.equal(regs.rip, BigInt(At.CODE + 3), "the state is that of the first fault");
  }
});
test("an empty IDT: the first exception is a shutdown", () => {
  const sregs: GuestImage["sregs"] = (s) => {
    s.idt.limit = 0;
  };
  for (const mode of PROTECTED)
    assert.equal(run({ mode, sregs, code: assembler(mode).hex("0f0b") }).end, "shutdown");
});

// --- tables out of reach ---

test("#PF in the IDT, the GDT and the TSS is a supervisor access whatever CPL is (SDM 3A, 4.6)", () => {
  const hidden = (page: number) => (e: Environment) => {
    e.page(page, 0n);
    e.handlerGate(0x80, { dpl: 3 });
  };
  const gdt = run({
    mode: "long",
    cpl: 3,
    code: assembler("long").setSegment("es", 0x1070).done(),
    sregs: (s) => {
      s.gdt.limit = 0x1fff;
    },
    memory: (e) => {
      e.page(0x2000, 0n);
      // IDT elsewhere
      for (let i = 0; i < 512; i++) e.u64(0xd000 + 8 * i, e.read64(At.IDT + 8 * i));
    },
    regs: {},
  });
  assert.equal(gdt.end, "shutdown", "the IDT was in that page");
  const elsewhere = run({
    mode: "long",
    cpl: 3,
    code: assembler("long").setSegment("es", 0x1073).done(),
    sregs: (s) => {
      s.gdt.limit = 0x1fff;
      s.idt.base = 0xd000n;
    },
    memory: (e) => {
      e.page(0x2000, 0n);
      for (let i = 0; i < 512; i++) e.u64(0xd000 + 8 * i, e.read64(At.IDT + 8 * i));
    },
  });
  assert.deepEqual(
    [elsewhere.faults[0].vector, elsewhere.faults[0].error, elsewhere.faults[0].cr2],
    [V.PF, 0, 0x2070n],
  );
  const tss = run({
    mode: "long",
    cpl: 3,
    code: assembler("long").hex("cd80"),
    memory: (e) => {
      hidden(At.TSS)(e);
      e.descriptor(OTHER, { type: Type.CODE_CONFORMING, long: true });
      e.handlerGate(V.PF, { selector: OTHER });
    },
    regs: { rflags: BigInt(Flag.IOPL3 | 2) },
  });
  assert.deepEqual(
    [tss.faults[0].vector, tss.faults[0].error, tss.faults[0].cr2],
    [V.PF, 0, BigInt(At.TSS + 4)],
  );
});

test("INT n whose frame does not fit on the stack changes nothing (SDM 2, INT n)", () => {
  const { faults } = run({
    mode: "long",
    cpl: 3,
    code: assembler("long").hex("cd80"),
    memory: (e) => {
      e.handlerGate(0x80, { dpl: 3 });
      e.u64(At.TSS + 4, 0xd010n);
      e.page(0xc000, 0n);
      e.handlerGate(V.PF, { ist: 1 });
      e.u64(At.TSS + 36, BigInt(At.STACK_TOP));
    },
  });
  assert.deepEqual([faults[0].vector, faults[0].error, faults[0].cr2], [V.PF, 2, 0xcff8n]);
  assert.deepEqual(
    [faults[0].rip, faults[0].cs, faults[0].sp],
    [BigInt(At.CODE), Sel.USER_CODE64, BigInt(At.USER_STACK_TOP)],
  );
});

// --- priorities ---

const PRIORITY: [what: string, mode: GuestImage["mode"], cpl: 0 | 3, code: string, vector: number][] = [
  ["LOCK on a wrong form is #UD before #GP for privilege", "long", 3, "f0 0f06", V.UD],
  ["LOCK on a wrong form is #UD before #PF", "long", 0, "f0 8b0425 00000080", V.UD],
  ["LOCK with a register destination", "long", 0, "f0 01c0", V.UD],
  ["LOCK CMP", "long", 0, "f0 390425 00000200", V.UD],
  ["LOCK BT", "long", 0, "f0 0fa30425 00000200", V.UD],
  ["LOCK MOV", "long", 0, "f0 890425 00000200", V.UD],
  ["#GP for privilege before #PF of the operand", "long", 3, "0f0114 25 000000f0", V.GP],
  ["more than 15 bytes", "long", 0, "66 66 66 66 66 66 66 66 66 66 66 66 66 66 66 90", V.GP],
  ["a segment's limit before #PF", "protected32", 0, "36a1 000000f0", V.GP],
];
for (const [what, mode, cpl, code, vector] of PRIORITY.slice(0, -1)) {
  test(`${what} (SDM 3A, 6.9)`, () => {
    assert.equal(
      first({ mode, cpl, code: assembler(mode).hex(code), memory: (e) => e.u64(At.PDPT + 24, 0n) })[0],
      vector,
    );
  });
}
test("15 bytes of prefixes and opcode are not too many (SDM 2, 2.3.11)", () => {
  const code = assembler("long").hex("66 66 66 66 66 66 66 66 66 66 66 66 66 66 90").done();
  assert.equal(run({ mode: "long", code }).end, "done");
});
test("too long across a page, the next page not present: #GP only once all 15 bytes are there, else #PF", () => {
  const image = (prefixes: number, present: boolean): GuestImage => ({
    mode: "long",
    code: assembler("long")
      .jmp("x")
      .padTo(At.CODE + 0x1000 - prefixes)
      .label("x")
      .hex("66".repeat(prefixes))
      .hex("66".repeat(16)),
    memory: (e) => {
      if (!present) e.page(At.CODE + 0x1000, 0n);
    },
  });
  assert.equal(first(image(15, false))[0], V.GP);
  assert.equal(first(image(14, false))[0], V.PF);
  assert.equal(first(image(14, true))[0], V.GP);
});
