/** Far control transfers: JMP, CALL, RET and IRET (SDM vol. 3A, 5.8; 6.12; vol. 2, the instructions' pages). */
import assert from "node:assert/strict";
import { after } from "node:test";
import type { Asm } from "./support/asm.js";
import {
  At,
  type DescriptorFields,
  type Environment,
  gate,
  isLong,
  Sel,
  Type,
} from "./support/environment.js";
import { assembler, Flag, type GuestImage, type GuestResult, runGuest } from "./support/machine.js";
import { guestProvider, test } from "./support/provider.js";

const provider = guestProvider();
after(() => provider.close());
const run = (image: GuestImage) => runGuest(provider, image);

const [TS, NP, SS, GP] = [10, 11, 12, 13];
const TARGET = At.CODE + 0x1000;
const GATE = Sel.FREE;
const OTHER = Sel.FREE + 0x20;

type Outcome = "ok" | [vector: number, error: number];
function outcome({ end, faults }: GuestResult): Outcome {
  if (end === "done") return "ok";
  assert.equal(end, "fault");
  return [faults[0].vector, faults[0].error as number];
}

const DONE = [0xe6, 0xf4];
const target = (env: Environment) => env.write(TARGET, DONE);

/** JMP or CALL m16:32 (FF /5, FF /3) with the pointer at At.DATA. */
const far = (mode: GuestImage["mode"], reg: 3 | 5) => assembler(mode).op("ff", reg, At.DATA);
const pointer =
  (selector: number, offset = TARGET) =>
  (env: Environment) => {
    env.u32(At.DATA, offset);
    env.u16(At.DATA + 4, selector);
  };

const DIRECT: [rule: string, fields: DescriptorFields, rpl: number, cpl: 0 | 3, expected: Outcome][] = [
  ["code of the same level", { type: Type.CODE_READABLE, db: true }, 0, 0, "ok"],
  ["RPL above CPL", { type: Type.CODE_READABLE, db: true }, 3, 0, [GP, OTHER]],
  ["DPL above CPL", { type: Type.CODE_READABLE, db: true, dpl: 3 }, 0, 0, [GP, OTHER]],
  ["DPL below CPL", { type: Type.CODE_READABLE, db: true }, 3, 3, [GP, OTHER]],
  ["RPL below CPL", { type: Type.CODE_READABLE, db: true, dpl: 3 }, 0, 3, "ok"],
  ["conforming of DPL 0 at CPL 3", { type: Type.CODE_CONFORMING, db: true }, 3, 3, "ok"],
  ["conforming of DPL 3 at CPL 0", { type: Type.CODE_CONFORMING, db: true, dpl: 3 }, 0, 0, [GP, OTHER]],
  ["not present", { type: Type.CODE_READABLE, db: true, present: false }, 0, 0, [NP, OTHER]],
  [
    "not present, and a wrong DPL first",
    { type: Type.CODE_READABLE, dpl: 3, present: false },
    0,
    0,
    [GP, OTHER],
  ],
  ["a data segment", { type: Type.DATA_WRITABLE }, 0, 0, [GP, OTHER]],
  ["an LDT", { type: Type.LDT }, 0, 0, [GP, OTHER]],
  ["an interrupt gate", { type: Type.INTERRUPT_GATE }, 0, 0, [GP, OTHER]],
  ["an offset beyond the limit", { type: Type.CODE_READABLE, db: true, limit: TARGET - 1 }, 0, 0, [GP, 0]],
];
for (const mode of ["protected32", "compat", "long"] as const) {
  for (const [name, reg] of [
    ["JMP", 5],
    ["CALL", 3],
  ] as const) {
    for (const [rule, fields, rpl, cpl, expected] of DIRECT) {
      test(`${mode}: far ${name} to ${rule} (SDM 3A, 5.8.1)`, () => {
        const result = run({
          mode,
          cpl,
          code: far(mode, reg),
          memory: (env) => {
            target(env);
            pointer(OTHER | rpl)(env);
            env.descriptor(OTHER, fields);
          },
        });
        assert.deepEqual(outcome(result), expected);
        if (expected === "ok") {
          assert.equal(result.sregs.cs.selector, OTHER | cpl, "RPL of CS is CPL");
          assert.equal(result.sregs.ss.dpl, cpl);
        } else {
          // The instruction has not been done: neither has a push.
          const rsp = result.faults[0].sp ?? result.regs.rsp + BigInt(isLong(mode) ? 48 : 16);
          assert.equal(rsp, BigInt(cpl === 3 ? At.USER_STACK_TOP : At.STACK_TOP));
          assert.equal(result.faults[0].rip, BigInt(At.CODE));
        }
      });
    }
  }
  for (const reg of [3, 5] as const) {
    test(`${mode}: far ${reg === 3 ? "CALL" : "JMP"} to a null selector is #GP(0), beyond the GDT #GP(selector)`, () => {
      const at = (selector: number) =>
        outcome(run({ mode, code: far(mode, reg), memory: pointer(selector) }));
      assert.deepEqual(at(0), [GP, 0]);
      assert.deepEqual(at(3), [GP, 0]);
      assert.deepEqual(at(0x800), [GP, 0x800]);
    });
  }
}

test("far CALL pushes CS and EIP in the operand size (SDM 2, CALL)", () => {
  const code = assembler("protected32").hex("66 9a 0010").value(Sel.CODE16, 2);
  const { env, regs } = run({
    mode: "protected32",
    code,
    memory: target,
  });
  assert.equal(regs.rsp, BigInt(At.STACK_TOP - 4));
  assert.equal(env.read32(At.STACK_TOP - 4), (Sel.CODE32 << 16) | ((At.CODE + code.length) & 0xffff));
});

test("64-bit mode: far CALL with REX.W pushes 8 bytes each and takes m16:64 (SDM 2, CALL)", () => {
  const { env, regs } = run({
    mode: "long",
    code: assembler("long").op("48 ff", 3, At.DATA),
    memory: (e) => {
      target(e);
      e.u64(At.DATA, BigInt(TARGET));
      e.u16(At.DATA + 8, Sel.CODE64);
    },
  });
  assert.equal(regs.rsp, BigInt(At.STACK_TOP - 16));
  assert.equal(env.read64(At.STACK_TOP - 8), BigInt(Sel.CODE64));
  assert.equal(env.read64(At.STACK_TOP - 16), BigInt(At.CODE + 8));
});

test("64-bit mode: far JMP to a non-canonical offset is #GP(0) (SDM 2, JMP)", () => {
  const result = run({
    mode: "long",
    code: assembler("long").op("48 ff", 5, At.DATA),
    memory: (e) => {
      e.u64(At.DATA, 1n << 47n);
      e.u16(At.DATA + 8, Sel.CODE64);
    },
  });
  assert.deepEqual(outcome(result), [GP, 0]);
});

// --- call gates ---

const GATES: [
  rule: string,
  gate: { dpl?: number; present?: boolean; selector?: number; type?: number },
  cpl: 0 | 3,
  rpl: number,
  call: Outcome,
  jump: Outcome,
][] = [
  ["same level", {}, 0, 0, "ok", "ok"],
  ["to an inner level", { dpl: 3 }, 3, 3, "ok", [GP, 0x18]],
  ["gate DPL below CPL", { dpl: 0 }, 3, 3, [GP, GATE], [GP, GATE]],
  ["gate DPL below RPL", { dpl: 0 }, 0, 3, [GP, GATE], [GP, GATE]],
  ["gate not present", { present: false }, 0, 0, [NP, GATE], [NP, GATE]],
  ["null target", { selector: 0 }, 0, 0, [GP, 0], [GP, 0]],
  ["data target", { selector: Sel.DATA }, 0, 0, [GP, Sel.DATA], [GP, Sel.DATA]],
  ["target beyond the GDT", { selector: 0x800 }, 0, 0, [GP, 0x800], [GP, 0x800]],
  ["target of an outer level", { selector: 0x33 }, 0, 0, [GP, 0x30], [GP, 0x30]],
  ["target not present", { selector: OTHER }, 0, 0, [NP, OTHER], [NP, OTHER]],
];
for (const mode of ["protected32", "compat", "long"] as const) {
  for (const [rule, fields, cpl, rpl, call, jump] of GATES) {
    test(`${mode}: call gate, ${rule} (SDM 3A, 5.8.3, 5.8.4)`, () => {
      const code = isLong(mode) ? Sel.CODE64 : Sel.CODE32;
      for (const [reg, expected] of [
        [3, call],
        [5, jump],
      ] as const) {
        const result = run({
          mode,
          cpl,
          code: far(mode, reg),
          memory: (env) => {
            target(env);
            pointer(GATE | rpl, 0x9999)(env);
            env.descriptor(OTHER, {
              type: Type.CODE_READABLE,
              db: !isLong(mode),
              long: isLong(mode),
              present: false,
            });
            env.callGate(GATE, { selector: code, offset: TARGET, type: Type.CALL_GATE, ...fields });
          },
        });
        const want: Outcome = expected === "ok" || expected[1] !== 0x18 ? expected : [GP, code];
        if (isLong(mode) && fields.selector === 0x33) assert.equal(outcome(result)[0], GP);
        else assert.deepEqual(outcome(result), want, reg === 3 ? "CALL" : "JMP");
        if (want === "ok") assert.equal(result.sregs.cs.selector, code, "CPL 0");
      }
    });
  }
}

test("call gate to an inner level: SS, ESP, parameters, CS, EIP (SDM 3A, 5.8.5)", () => {
  const code = assembler("protected32").pushImm(0x11).pushImm(0x22).pushImm(0x33).op("ff", 3, At.DATA);
  const { env, regs, sregs } = run({
    mode: "protected32",
    cpl: 3,
    code,
    memory: (e) => {
      target(e);
      pointer(GATE | 3)(e);
      e.callGate(GATE, { selector: Sel.CODE32, offset: TARGET, type: Type.CALL_GATE, dpl: 3, count: 3 });
    },
  });
  const stack = Array.from({ length: 7 }, (_, i) => env.read32(At.STACK_TOP - 4 * (i + 1)));
  assert.deepEqual(stack, [
    Sel.USER_DATA,
    At.USER_STACK_TOP - 12,
    0x11,
    0x22,
    0x33,
    Sel.USER_CODE32,
    At.CODE + code.length,
  ]);
  assert.equal(regs.rsp, BigInt(At.STACK_TOP - 28));
  assert.equal(sregs.ss.selector, Sel.DATA);
  assert.equal(sregs.cs.selector, Sel.CODE32);
});

test("16-bit call gate: words on the stack, 16 bits of offset (SDM 3A, 5.8.5)", () => {
  const at16 = TARGET & 0xffff;
  const { env, regs } = run({
    mode: "protected32",
    cpl: 3,
    code: assembler("protected32").hex("66 6a55").op("ff", 3, At.DATA),
    memory: (e) => {
      e.write(At.CODE + at16, DONE);
      pointer(GATE | 3)(e);
      e.descriptor(OTHER, { type: Type.CODE_READABLE, base: At.CODE, limit: 0xffff });
      e.callGate(GATE, {
        selector: OTHER,
        offset: 0xdead0000 | at16,
        type: Type.CALL_GATE16,
        dpl: 3,
        count: 1,
      });
    },
  });
  assert.equal(regs.rsp, BigInt(At.STACK_TOP - 10));
  assert.equal(env.read32(At.STACK_TOP - 4), (Sel.USER_DATA << 16) | (At.USER_STACK_TOP - 2));
  assert.equal(env.read32(At.STACK_TOP - 8), 0x55_0000 | Sel.USER_CODE32);
});

test("64-bit call gate: 8 bytes each, null SS with RPL = CPL, no parameters (SDM 3A, 5.8.5.1)", () => {
  const { env, regs, sregs } = run({
    mode: "long",
    cpl: 3,
    code: far("long", 3),
    memory: (e) => {
      target(e);
      pointer(GATE | 3)(e);
      e.callGate(GATE, { selector: Sel.CODE64, offset: TARGET, type: Type.CALL_GATE, dpl: 3, count: 3 });
    },
  });
  const stack = Array.from({ length: 4 }, (_, i) => Number(env.read64(At.STACK_TOP - 8 * (i + 1))));
  assert.deepEqual(stack, [Sel.USER_DATA, At.USER_STACK_TOP, Sel.USER_CODE64, At.CODE + 7]);
  assert.equal(regs.rsp, BigInt(At.STACK_TOP - 32));
  assert.equal(sregs.ss.selector, 0);
  assert.equal(sregs.cs.selector, Sel.CODE64);
});

test("IA-32e mode: call gates lead to 64-bit code only; 16-bit gates are #GP (SDM 3A, 5.8.3.1)", () => {
  const at = (type: number, selector: number) =>
    outcome(
      run({
        mode: "long",
        code: far("long", 3),
        memory: (e) => {
          target(e);
          pointer(GATE)(e);
          e.callGate(GATE, { selector, offset: TARGET, type });
        },
      }),
    );
  assert.deepEqual(at(Type.CALL_GATE, Sel.CODE32), [GP, Sel.CODE32]);
  assert.deepEqual(at(Type.CALL_GATE16, Sel.CODE64), [GP, GATE]);
  assert.deepEqual(at(Type.TSS, Sel.CODE64), [GP, GATE]);
});

test("IA-32e mode: type bits in a call gate's upper half are #GP(gate) (SDM 3A, 5.8.3.1)", () => {
  const result = run({
    mode: "long",
    code: far("long", 3),
    memory: (e) => {
      pointer(GATE)(e);
      e.callGate(GATE, { selector: Sel.CODE64, offset: TARGET, type: Type.CALL_GATE });
      e.u64(At.GDT + GATE + 8, 0x100n << 32n);
    },
  });
  assert.deepEqual(outcome(result), [GP, GATE]);
});

/** SS of the TSS for the inner level (SDM 2, CALL: #TS conditions). */
const INNER_SS: [rule: string, selector: number, fields: DescriptorFields, expected: Outcome][] = [
  ["null", 0, { type: Type.DATA_WRITABLE }, [TS, 0]],
  ["beyond the GDT", 0x800, { type: Type.DATA_WRITABLE }, [TS, 0x800]],
  ["RPL is not the new CPL", OTHER | 1, { type: Type.DATA_WRITABLE, db: true }, [TS, OTHER]],
  ["DPL is not the new CPL", OTHER, { type: Type.DATA_WRITABLE, db: true, dpl: 1 }, [TS, OTHER]],
  ["read-only", OTHER, { type: Type.DATA, db: true }, [TS, OTHER]],
  ["code", OTHER, { type: Type.CODE_READABLE, db: true }, [TS, OTHER]],
  ["not present", OTHER, { type: Type.DATA_WRITABLE, db: true, present: false }, [SS, OTHER]],
  ["too small a limit", OTHER, { type: Type.DATA_WRITABLE, db: true, limit: 0xfff }, [SS, OTHER]],
];
for (const [rule, selector, fields, expected] of INNER_SS) {
  test(`call gate to an inner level whose SS is ${rule} (SDM 2, CALL)`, () => {
    const result = run({
      mode: "protected32",
      cpl: 3,
      code: far("protected32", 3),
      memory: (e) => {
        target(e);
        pointer(GATE | 3)(e);
        e.callGate(GATE, { selector: Sel.CODE32, offset: TARGET, type: Type.CALL_GATE, dpl: 3 });
        e.descriptor(OTHER, fields);
        // The gate leads to CPL 0; faults go to CPL 1, whose stack is good.
        e.u32(At.TSS + 8, selector);
        e.u32(At.TSS + 12, At.STACK_TOP);
        e.u32(At.TSS + 16, 0x71 + 0x40);
        e.descriptor(0xb0, { type: Type.DATA_WRITABLE, db: true, dpl: 1 });
        e.descriptor(0xb8, { type: Type.CODE_READABLE, db: true, dpl: 1 });
        for (const vector of [TS, NP, SS, GP]) e.handlerGate(vector, { selector: 0xb9 });
      },
      sregs: (s) => {
        s.cs.selector = Sel.USER_CODE32;
      },
    });
    assert.deepEqual(outcome(result), expected);
  });
}

test("a TSS too small for the new stack pointer is #TS(TSS) (SDM 2, CALL)", () => {
  const result = run({
    mode: "long",
    cpl: 3,
    code: far("long", 3),
    memory: (e) => {
      pointer(GATE | 3)(e);
      e.callGate(GATE, { selector: Sel.CODE64, offset: TARGET, type: Type.CALL_GATE, dpl: 3 });
      e.idt(TS, { selector: OTHER, offset: At.HANDLERS + 16 * TS, type: Type.INTERRUPT_GATE });
      e.descriptor(OTHER, { type: Type.CODE_CONFORMING, long: true });
    },
    sregs: (s) => {
      s.tr.limit = 10;
    },
    // For the handler's OUT
    regs: { rflags: BigInt(Flag.IOPL3 | 2) },
  });
  assert.deepEqual(outcome(result), [TS, Sel.TSS]);
});

// --- RET ---

/** RET far to what the stack holds, lowest first. */
function returns(
  mode: GuestImage["mode"],
  values: readonly (number | bigint)[],
  bytes: number,
  op: string,
  more: Partial<GuestImage> = {},
) {
  const code = assembler(mode).hex(op);
  return run({
    mode,
    code,
    ...more,
    regs: { rsp: BigInt(At.DATA), ...more.regs },
    memory: (e) => {
      target(e);
      values.forEach((value, i) => {
        if (bytes === 8) e.u64(At.DATA + 8 * i, BigInt(value));
        else if (bytes === 4) e.u32(At.DATA + 4 * i, Number(value));
        else e.u16(At.DATA + 2 * i, Number(value));
      });
      more.memory?.(e);
    },
  });
}

const RET_CS: [rule: string, selector: number, fields: DescriptorFields, cpl: 0 | 3, expected: Outcome][] = [
  ["the same level", OTHER, { type: Type.CODE_READABLE, db: true }, 0, "ok"],
  ["null", 0, { type: Type.CODE_READABLE }, 0, [GP, 0]],
  ["an inner level", OTHER, { type: Type.CODE_READABLE, db: true }, 3, [GP, OTHER]],
  ["DPL is not RPL", OTHER | 3, { type: Type.CODE_READABLE, db: true }, 3, [GP, OTHER]],
  ["conforming, DPL below RPL", OTHER | 3, { type: Type.CODE_CONFORMING, db: true }, 3, "ok"],
  ["conforming, DPL above RPL", OTHER, { type: Type.CODE_CONFORMING, db: true, dpl: 3 }, 0, [GP, OTHER]],
  ["data", OTHER, { type: Type.DATA_WRITABLE }, 0, [GP, OTHER]],
  ["a gate", OTHER, { type: Type.CALL_GATE }, 0, [GP, OTHER]],
  ["not present", OTHER, { type: Type.CODE_READABLE, present: false }, 0, [NP, OTHER]],
  ["EIP beyond the limit", OTHER, { type: Type.CODE_READABLE, db: true, limit: TARGET - 1 }, 0, [GP, 0]],
];
for (const mode of ["protected32", "compat", "long"] as const) {
  for (const [name, op, extra] of [
    ["RET", "cb", []],
    ["IRET", "cf", [2]],
  ] as const) {
    for (const [rule, selector, fields, cpl, expected] of RET_CS) {
      test(`${mode}: ${name}, CS: ${rule} (SDM 2, ${name})`, () => {
        const stack =
          mode === "long" && name === "IRET" ? [At.STACK_TOP, cpl === 3 ? Sel.USER_DATA : Sel.DATA] : [];
        const result = returns(mode, [TARGET, selector, ...extra, ...stack], 4, op, {
          cpl,
          memory: (e) => e.descriptor(OTHER, fields),
        });
        assert.deepEqual(outcome(result), expected);
        if (expected !== "ok") assert.equal(result.faults[0].rip, BigInt(At.CODE));
      });
    }
  }
}

const RET_SS: [rule: string, selector: number, fields: DescriptorFields, expected: Outcome][] = [
  ["user data", OTHER | 3, { type: Type.DATA_WRITABLE, db: true, dpl: 3 }, "ok"],
  ["null", 0, { type: Type.DATA_WRITABLE }, [GP, 0]],
  ["RPL is not that of CS", OTHER, { type: Type.DATA_WRITABLE, dpl: 3 }, [GP, OTHER]],
  ["DPL is not RPL", OTHER | 3, { type: Type.DATA_WRITABLE }, [GP, OTHER]],
  ["read-only", OTHER | 3, { type: Type.DATA, dpl: 3 }, [GP, OTHER]],
  ["code", OTHER | 3, { type: Type.CODE_READABLE, dpl: 3 }, [GP, OTHER]],
  ["not present", OTHER | 3, { type: Type.DATA_WRITABLE, dpl: 3, present: false }, [SS, OTHER]],
  ["beyond the GDT", 0x803, { type: Type.DATA_WRITABLE }, [GP, 0x800]],
];
for (const mode of ["protected32", "compat", "long"] as const) {
  for (const [name, op, flags] of [
    ["RET", "cb", []],
    ["IRET", "cf", [2]],
  ] as const) {
    for (const [rule, selector, fields, expected] of RET_SS) {
      test(`${mode}: ${name} to CPL 3, SS: ${rule} (SDM 2, ${name})`, () => {
        const result = returns(
          mode,
          [TARGET, Sel.USER_CODE32, ...flags, At.USER_STACK_TOP, selector],
          4,
          op,
          {
            memory: (e) => e.descriptor(OTHER, fields),
          },
        );
        assert.deepEqual(outcome(result), expected);
        if (expected === "ok") {
          assert.equal(result.regs.rsp, BigInt(At.USER_STACK_TOP));
          assert.equal(result.sregs.cs.selector, Sel.USER_CODE32);
          assert.equal(result.sregs.ss.selector, selector);
          for (const name of ["ds", "es", "fs", "gs"] as const) {
            assert.equal(result.sregs[name].selector, 0, `${name} of DPL 0 becomes null`);
            assert.equal(result.sregs[name].unusable, 1);
          }
        }
      });
    }
  }
}

test("RET to an outer level keeps data segments that it may use (SDM 2, RET)", () => {
  const { sregs } = returns(
    "protected32",
    [TARGET, Sel.USER_CODE32, At.USER_STACK_TOP, Sel.USER_DATA],
    4,
    "cb",
    {
      sregs: (s) => {
        s.es.selector = Sel.USER_DATA;
        s.es.dpl = 3;
        s.fs.type = 0xe;
        s.fs.selector = 0x33;
      },
    },
  );
  assert.equal(sregs.es.selector, Sel.USER_DATA);
  assert.equal(sregs.fs.selector, 0x33, "conforming code");
  assert.equal(sregs.ds.selector, 0);
});

test("RET imm16 releases bytes of both stacks (SDM 2, RET)", () => {
  const { regs } = returns(
    "protected32",
    [TARGET, Sel.USER_CODE32, 0xaaaa, 0xbbbb, At.USER_STACK_TOP - 8, Sel.USER_DATA],
    4,
    "ca 0800",
  );
  assert.equal(regs.rsp, BigInt(At.USER_STACK_TOP));
});

test("RET far with a 16-bit operand (SDM 2, RET)", () => {
  const { end, regs, sregs } = returns("protected32", [0x1000, Sel.CODE16], 2, "66 cb");
  assert.equal(end, "done");
  assert.equal(sregs.cs.selector, Sel.CODE16);
  assert.equal(regs.rsp, BigInt(At.DATA + 4));
});

test("RET far with REX.W pops 8 bytes each (SDM 2, RET)", () => {
  const { end, regs } = returns("long", [TARGET, Sel.CODE64], 8, "48 cb");
  assert.equal(end, "done");
  assert.equal(regs.rsp, BigInt(At.DATA + 16));
});

test("a 16-bit stack: RET to it changes SP only (SDM 2, RET)", () => {
  const { regs } = returns("protected32", [TARGET, Sel.USER_CODE32, 0x1234_9000, OTHER | 3], 4, "cb", {
    regs: { rsp: BigInt(At.DATA) },
    memory: (e) => e.descriptor(OTHER, { type: Type.DATA_WRITABLE, dpl: 3, limit: 0xffff }),
  });
  assert.equal(regs.rsp & 0xffffn, 0x9000n);
});

// --- IRET ---

test("IRETQ always pops SS and RSP, to the same level too (SDM 2, IRET)", () => {
  const { end, regs, sregs } = returns(
    "long",
    [TARGET, Sel.CODE64, 0x202, At.STACK_TOP - 64, Sel.DATA],
    8,
    "48 cf",
  );
  assert.equal(end, "done");
  assert.equal(regs.rsp, BigInt(At.STACK_TOP - 64));
  assert.equal(sregs.ss.selector, Sel.DATA);
  assert.equal(regs.rflags & 0x200n, 0x200n);
});

test("IRETQ to CPL 0 may load a null SS (SDM 2, IRET)", () => {
  const { end, sregs } = returns("long", [TARGET, Sel.CODE64, 2, At.STACK_TOP, 0], 8, "48 cf");
  assert.equal(end, "done");
  assert.equal(sregs.ss.selector, 0);
});

test("IRETQ to a non-canonical RIP is #GP(0) (SDM 2, IRET)", () => {
  const result = returns("long", [1n << 47n, Sel.USER_CODE64, 2, At.STACK_TOP, Sel.USER_DATA], 8, "48 cf");
  assert.deepEqual(outcome(result), [GP, 0]);
  assert.equal(result.faults[0].cs, Sel.CODE64);
});

test("64-bit IRET with 32-bit operands to compatibility mode (SDM 2, IRET)", () => {
  const { end, sregs } = returns(
    "long",
    [TARGET, Sel.USER_CODE32, 2, At.USER_STACK_TOP, Sel.USER_DATA],
    4,
    "cf",
  );
  assert.equal(end, "done");
  assert.equal(sregs.cs.db, 1);
});

test("64-bit IRET with 16-bit operands (SDM 2, IRET)", () => {
  const { end, regs } = returns("long", [0x1000, OTHER, 0x202, 0x9000, Sel.DATA], 2, "66 cf", {
    memory: (e) => {
      e.descriptor(OTHER, { type: Type.CODE_READABLE, base: At.CODE, limit: 0xffff, db: false });
    },
  });
  assert.equal(end, "done");
  assert.equal(regs.rsp & 0xffffn, 0x9000n);
  assert.equal(regs.rflags & 0x200n, 0x200n);
});

const F = Flag;
const ALL = F.CF | F.ZF | F.TF | F.IF | F.DF | F.OF | F.IOPL3 | F.NT | F.RF | F.AC | (1 << 21);
const IRET_FLAGS: [
  rule: string,
  mode: GuestImage["mode"],
  cpl: 0 | 3,
  before: number,
  value: number,
  expected: number,
][] = [
  ["all at CPL 0", "protected32", 0, 0, ALL & ~(F.TF | F.NT), ALL & ~(F.TF | F.NT | F.RF)],
  ["neither IOPL nor IF at CPL 3", "protected32", 3, 0, F.IOPL3 | F.IF | F.CF, F.CF],
  ["IF at CPL 3 with IOPL 3", "protected32", 3, F.IOPL3, F.IF | F.CF, F.IOPL3 | F.IF | F.CF],
  ["IOPL stays at CPL 3", "protected32", 3, F.IOPL3 | F.IF, F.CF, F.IOPL3 | F.CF],
  ["VM is ignored at CPL 3", "protected32", 3, 0, F.VM, 0],
];
for (const [rule, mode, cpl, before, value, expected] of IRET_FLAGS) {
  test(`${mode}: flags after IRET: ${rule} (SDM 2, IRET)`, () => {
    const selector = cpl === 3 ? Sel.USER_CODE32 : Sel.CODE32;
    const { end, regs } = returns(mode, [TARGET, selector, value | 2], 4, "cf", {
      cpl,
      regs: { rsp: BigInt(At.DATA), rflags: BigInt(before | 2) },
    });
    assert.equal(end, "done");
    assert.equal(Number(regs.rflags), expected | 2);
  });
}

test("IRETD with a 16-bit operand leaves the upper flags (SDM 2, IRET)", () => {
  const { end, regs } = returns("protected32", [0x1000, Sel.CODE16, F.CF], 2, "66 cf", {
    regs: { rsp: BigInt(At.DATA), rflags: BigInt(F.AC | 2) },
  });
  assert.equal(end, "done");
  assert.equal(Number(regs.rflags), F.AC | F.CF | 2);
});

test("IRET with NT set is #GP(0) in IA-32e mode (SDM 2, IRET)", () => {
  const result = returns("long", [TARGET, Sel.CODE64, 2, At.STACK_TOP, Sel.DATA], 8, "48 cf", {
    regs: { rsp: BigInt(At.DATA), rflags: BigInt(F.NT | 2) },
  });
  assert.deepEqual(outcome(result), [GP, 0]);
});

test("IRETQ from CPL 3 to CPL 3 cannot set IF or IOPL (SDM 2, IRET)", () => {
  const { end, regs } = returns(
    "long",
    [TARGET, Sel.USER_CODE64, F.IF | F.IOPL3 | F.CF | 2, At.STACK_TOP, Sel.USER_DATA],
    8,
    "48 cf",
    { cpl: 3 },
  );
  assert.equal(end, "done");
  assert.equal(Number(regs.rflags), F.CF | 2);
});

// --- near transfers ---

const NEAR: [name: string, body: (a: Asm) => Asm][] = [
  ["JMP rel32", (a) => a.hex("e9").value(0x1000000, 4)],
  ["CALL rel32", (a) => a.hex("e8").value(0x1000000, 4)],
  ["Jcc rel32", (a) => a.hex("0f83").value(0x1000000, 4)],
  ["JMP r32", (a) => a.hex("ffe3")],
  ["CALL r32", (a) => a.hex("ffd3")],
  ["RET", (a) => a.hex("c3")],
  ["RET imm16", (a) => a.hex("c2 0800")],
  ["LOOP", (a) => a.hex("e2 fe")],
];
for (const [name, body] of NEAR) {
  test(`near ${name} beyond the code segment's limit is #GP(0) at the instruction (SDM 2, JMP, CALL, RET)`, () => {
    const code = assembler("protected32");
    // In the last bytes of a segment that ends soon after.
    const { faults } = run({
      mode: "protected32",
      cpl: 3,
      code: name === "LOOP" ? code.hex("e2 70") : body(code),
      regs: { rbx: 0x2000000n, rcx: 5n },
      sregs: (s) => {
        s.cs.limit = name === "LOOP" ? At.CODE + 0x20 : At.CODE + 0xfff;
        s.cs.g = 0;
      },
      memory: (e) => e.u32(At.USER_STACK_TOP, 0x2000000),
    });
    assert.deepEqual([faults[0]?.vector, faults[0]?.error], [GP, 0]);
    assert.equal(faults[0].rip, BigInt(At.CODE));
    assert.equal(faults[0].sp, BigInt(At.USER_STACK_TOP), "the stack pointer is what it was");
  });
}
for (const [name, op] of [
  ["JMP r64", "ffe3"],
  ["CALL r64", "ffd3"],
  ["RET", "c3"],
  ["RET imm16", "c2 0800"],
]) {
  test(`near ${name} to a non-canonical address is #GP(0) at the instruction (SDM 2, JMP, CALL, RET)`, () => {
    const { faults } = run({
      mode: "long",
      cpl: 3,
      code: assembler("long").hex(op),
      regs: { rbx: 1n << 47n },
      memory: (e) => e.u64(At.USER_STACK_TOP, 1n << 47n),
    });
    assert.deepEqual([faults[0]?.vector, faults[0]?.error], [GP, 0]);
    assert.equal(faults[0].rip, BigInt(At.CODE));
    assert.equal(faults[0].sp, BigInt(At.USER_STACK_TOP));
  });
}

test("running off the end of a code segment is #GP(0) at the first byte beyond (SDM 3A, 5.3)", () => {
  const { faults } = run({
    mode: "protected32",
    code: assembler("protected32").nop(16),
    sregs: (s) => {
      s.cs.limit = At.CODE + 7;
      s.cs.g = 0;
    },
  });
  assert.equal(faults[0].vector, GP);
  assert.equal(faults[0].rip, BigInt(At.CODE + 8));
});

test("an instruction that crosses the code segment's limit is #GP(0) (SDM 3A, 5.3)", () => {
  const { faults } = run({
    mode: "protected32",
    code: assembler("protected32").nop(6).mov("bx", 1).done(),
    sregs: (s) => {
      s.cs.limit = At.CODE + 7;
      s.cs.g = 0;
    },
  });
  assert.equal(faults[0].vector, GP);
  assert.equal(faults[0].rip, BigInt(At.CODE + 6));
});

test("the limit counts for code that was run before under a larger one", () => {
  const code = assembler("protected32").call("body").setSegment("es", Sel.DATA).jmpFar(OTHER, "again");
  code.label("again").call("body").done();
  code.label("body").nop(8).mov("bx", 1).hex("c3");
  const { faults } = run({
    mode: "protected32",
    code,
    memory: (e) => e.descriptor(OTHER, { type: Type.CODE_READABLE, db: true, limit: code.at("body") + 9 }),
  });
  assert.equal(faults[0]?.vector, GP);
  assert.equal(faults[0].rip, BigInt(code.at("body") + 8));
});

test("64-bit mode: FS and GS that IRET makes null keep their bases (SDM 2, IRET; 3A, 3.4.4)", () => {
  const { sregs } = returns(
    "long",
    [TARGET, Sel.USER_CODE64, 2, At.USER_STACK_TOP, Sel.USER_DATA],
    8,
    "48 cf",
    {
      sregs: (s) => {
        s.gs.base = 0x12345678n;
      },
    },
  );
  assert.equal(sregs.gs.selector, 0);
  assert.equal(sregs.gs.base, 0x12345678n);
});

test("IA-32e mode: a call gate in the LDT has to lie there whole (SDM 3A, 5.8.3.1)", () => {
  const result = run({
    mode: "long",
    code: far("long", 5),
    memory: (e) => {
      target(e);
      pointer(0xfc)(e);
      // The last 8 bytes of the LDT
      e.descriptor(0xfc, gate({ selector: Sel.CODE64, offset: TARGET, type: Type.CALL_GATE })[0]);
    },
  });
  assert.deepEqual(outcome(result), [GP, 0xfc]);
});
