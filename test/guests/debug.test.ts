/** #DB: single-stepping, breakpoints, the debug registers (SDM vol. 3B, 18.2 and 18.3). */
import assert from "node:assert/strict";
import { after } from "node:test";
import type { DebugRegs } from "../../src/hypervisor/seam.js";
import type { Asm } from "./support/asm.js";
import { At, type Environment, Sel } from "./support/environment.js";
import { assembler, type Fault, Flag, type GuestImage, runGuest } from "./support/machine.js";
import { guestProvider, test } from "./support/provider.js";

const provider = guestProvider();
after(() => provider.close());
const run = (image: GuestImage) => runGuest(provider, image);

const DB = 1;
const [BS, BD] = [1n << 14n, 1n << 13n];
const RW = { EXECUTE: 0, WRITE: 1, IO: 2, ACCESS: 3 } as const;
const LEN = { 1: 0, 2: 1, 8: 2, 4: 3 } as const;

/** DR7 for breakpoint `n`: local enable, kind and length. */
const dr7 = (n: number, kind: number, length: keyof typeof LEN = 1) =>
  (1n << BigInt(2 * n)) | (BigInt(kind | (LEN[length] << 2)) << BigInt(16 + 4 * n)) | 0x400n;

interface Trap {
  readonly rip: number;
  readonly dr6: bigint;
  readonly flags: number;
}

/** Run with every exception resumed; what #DB found, with DR6 cleared after each. */
function traps(image: GuestImage, onFault?: (fault: Fault) => void) {
  const seen: Trap[] = [];
  const others: number[] = [];
  const result = run({
    ...image,
    onFault(fault, vcpu, env) {
      if (fault.vector === DB) {
        const registers = vcpu.getDebugRegs();
        seen.push({ rip: Number(fault.rip), dr6: registers.dr6 & 0xe00fn, flags: fault.flags });
        vcpu.setDebugRegs({ ...registers, dr6: 0xffff0ff0n });
        // As a handler lets an instruction with a breakpoint run: RF in the frame (SDM 3B, 18.3.1.1).
        if ((registers.dr6 & 0xfn) !== 0n && executionHit(registers, fault.rip)) {
          const at = fault.frame + (image.mode === "long" || image.mode === "compat" ? 16 : 8);
          env.u32(at, fault.flags | Flag.RF);
        }
      } else others.push(fault.vector);
      onFault?.(fault);
      return "resume";
    },
  });
  return { ...result, seen, others };
}
const executionHit = (registers: { db: readonly bigint[]; dr7: bigint }, rip: bigint) =>
  registers.db.some((address, i) => address === rip && ((registers.dr7 >> BigInt(16 + 4 * i)) & 3n) === 0n);

const STEP = { rflags: BigInt(Flag.TF | 2) };
const rips = (seen: readonly Trap[]) => seen.map(({ rip }) => rip - At.CODE);

// --- single-stepping ---

for (const mode of ["protected32", "compat", "long"] as const) {
  test(`${mode}: TF traps after each instruction, RIP is the next one's, DR6.BS is set, TF is clear in the handler`, () => {
    const code = assembler(mode).nop().hex("89c3").nop().done();
    const { seen, faults, end } = traps({ mode, code, regs: STEP });
    assert.equal(end, "done");
    assert.deepEqual(rips(seen), [1, 3, 4]);
    assert.ok(seen.every(({ dr6, flags }) => dr6 === BS && (flags & Flag.TF) !== 0));
    assert.equal(faults[0].regs.rflags & BigInt(Flag.TF), 0n);
  });
}

const STEPPED: [rule: string, body: (a: Asm) => Asm, offsets: number[], regs?: GuestImage["regs"]][] = [
  ["jumps", (a) => a.hex("eb02 9090").nop(), [4, 5]],
  ["CALL and RET", (a) => a.hex("e803000000 90 eb01 c3").nop(), [8, 5, 6, 9, 10]],
  ["instructions done outside of translated code", (a) => a.hex("0fa2").hex("0f31").nop(), [2, 4, 5]],
  ["port output", (a) => a.hex("e680").nop(), [2, 3]],
  ["port input", (a) => a.hex("e480").nop(), [2, 3]],
  [
    "REP STOSB, after each element",
    (a) => a.hex("f3aa").nop(),
    [0, 0, 2, 3],
    { rcx: 3n, rdi: BigInt(At.DATA) },
  ],
  [
    "REP MOVSB, after each element",
    (a) => a.hex("f3a4").nop(),
    [0, 0, 2, 3],
    { rcx: 3n, rsi: BigInt(At.DATA), rdi: BigInt(At.DATA + 64) },
  ],
  ["REP LODSB", (a) => a.hex("f3ac").nop(), [0, 2, 3], { rcx: 2n, rsi: BigInt(At.DATA) }],
  ["REP OUTSB", (a) => a.hex("f36e").nop(), [0, 2, 3], { rcx: 2n, rsi: BigInt(At.DATA), rdx: 0x80n }],
  ["REP INSB", (a) => a.hex("f36c").nop(), [0, 2, 3], { rcx: 2n, rdi: BigInt(At.DATA), rdx: 0x80n }],
  ["REPNE SCASB that ends early", (a) => a.hex("f2ae").nop(), [2, 3], { rcx: 9n, rdi: BigInt(At.DATA) }],
  ["REP with a count of zero", (a) => a.hex("f3aa").nop(), [2, 3]],
  ["MOV SS: not before the next instruction is done", (a) => a.hex("8cd3 8ed3").nop(2), [2, 5, 6]],
  ["POP SS, likewise", (a) => a.hex("0fa0 0fb2 2425 00000200").nop(2), []],
  ["STI", (a) => a.hex("fa fb").nop(), [1, 2, 3]],
  ["MMIO", (a) => a.hex("a0 0000002000000000").nop(), []],
];
for (const [rule, body, offsets, regs] of STEPPED) {
  if (offsets.length === 0) continue;
  test(`single-stepping ${rule} (SDM 3B, 18.3.1.4)`, () => {
    const { seen, end } = traps({
      mode: "long",
      code: body(assembler("long")).done(),
      regs: { ...regs, ...STEP },
    });
    assert.equal(end, "done");
    assert.deepEqual(rips(seen), offsets);
  });
}

test("single-stepping MMIO: one trap, after the access (SDM 3B, 18.3.1.4)", () => {
  const code = assembler("long").hex("8b0425").value(At.MMIO, 4).hex("010425").value(At.MMIO, 4).nop().done();
  const { seen, accesses } = traps({ mode: "long", code, regs: STEP, read: () => 5 });
  assert.deepEqual(rips(seen), [7, 14, 15]);
  assert.deepEqual(
    accesses.map(({ isWrite, value }) => [isWrite, value]),
    [
      [false, 5n],
      [false, 5n],
      [true, 10n],
    ],
  );
});

test("a trap in the middle of REP has RF in the saved flags, the last one has not (SDM 3B, 18.3.1.1)", () => {
  const code = assembler("long").hex("f3aa").nop().done();
  const { seen } = traps({ mode: "long", code, regs: { rcx: 2n, rdi: BigInt(At.DATA), ...STEP } });
  assert.deepEqual(
    seen.map(({ flags }) => flags & Flag.RF),
    [Flag.RF, 0, 0],
  );
});

test("POP SS holds the trap back until after the next instruction (SDM 3A, 6.8.3)", () => {
  const code = assembler("protected32").hex("16 17").nop(2).done();
  assert.deepEqual(rips(traps({ mode: "protected32", code, regs: STEP }).seen), [1, 3, 4]);
});

test("LSS does not (SDM 3A, 6.8.3)", () => {
  const code = assembler("protected32").op("0fb2", 4, At.DATA).nop().done();
  const memory = (e: Environment) => {
    e.u32(At.DATA, At.STACK_TOP);
    e.u16(At.DATA + 4, Sel.DATA);
  };
  assert.deepEqual(rips(traps({ mode: "protected32", code, memory, regs: STEP }).seen), [7, 8]);
});

test("POPF that sets TF: the trap follows the instruction after it (SDM 3B, 18.3.1.4)", () => {
  const code = assembler("long")
    .pushImm(Flag.TF | 2)
    .hex("9d")
    .nop(2)
    .done();
  assert.deepEqual(rips(traps({ mode: "long", code }).seen), [7, 8]);
});

test("POPF that clears TF still traps (SDM 3B, 18.3.1.4)", () => {
  const code = assembler("long").pushImm(2).hex("9d").nop(2).done();
  assert.deepEqual(rips(traps({ mode: "long", code, regs: STEP }).seen), [5, 6]);
});

test("IRET that sets TF: the trap follows the instruction that it returns to", () => {
  const code = assembler("protected32")
    .pushImm(Flag.TF | 2)
    .pushImm(Sel.CODE32)
    .hex("68")
    .address("to", 4)
    .hex("cf")
    .label("to")
    .nop(2)
    .done();
  assert.deepEqual(rips(traps({ mode: "protected32", code }).seen), [
    code.at("to") + 1 - At.CODE,
    code.at("to") + 2 - At.CODE,
  ]);
});

test("INT n under TF: no trap in the handler; stepping goes on after IRET (SDM 3B, 18.3.1.4)", () => {
  const { seen, others } = traps({
    mode: "long",
    code: assembler("long").hex("cd80").nop().done(),
    regs: STEP,
  });
  assert.deepEqual(others, [0x80]);
  assert.deepEqual(rips(seen), [3]);
});

test("a fault under TF is the fault only (SDM 3A, 6.9)", () => {
  const { faults } = run({ mode: "long", code: assembler("long").hex("0f0b"), regs: STEP });
  assert.equal(faults.length, 1);
  assert.equal(faults[0].vector, 6);
  assert.equal(faults[0].flags & Flag.TF, Flag.TF);
  assert.equal(provider.vcpu.getDebugRegs().dr6 & BS, 0n);
});

test("HLT under TF: the trap ends the halt", () => {
  const { seen, end } = traps({ mode: "long", code: assembler("long").hlt().nop().done(), regs: STEP });
  assert.equal(end, "done");
  assert.deepEqual(rips(seen), [1, 2]);
});

const SYSCALL_MSRS = (mask: number) => [
  { index: 0xc0000080, data: 0xd01n },
  { index: 0xc0000081, data: (BigInt(Sel.USER_CODE32) << 48n) | (BigInt(Sel.CODE64) << 32n) },
  { index: 0xc0000082, data: BigInt(At.CODE + 0x100) },
  { index: 0xc0000084, data: BigInt(mask) },
];
for (const [what, mask, expected] of [
  ["masked by FMASK: no trap before the kernel's first instruction", Flag.TF, []],
  ["not masked: a trap at the kernel's first instruction", 0, [0x100, 0x101]],
] as const) {
  test(`SYSCALL under TF, ${what} (SDM 2, SYSCALL)`, () => {
    const code = assembler("long")
      .hex("0f05")
      .padTo(At.CODE + 0x100)
      .nop()
      .done();
    const { seen } = traps({ mode: "long", cpl: 3, code, regs: STEP, msrs: SYSCALL_MSRS(mask) });
    assert.deepEqual(rips(seen), expected);
  });
}
test("SYSRET that sets TF traps before the user's first instruction", () => {
  const code = assembler("long")
    .hex("48 0f07")
    .padTo(At.CODE + 0x100)
    .nop()
    .done();
  const { seen } = traps({
    mode: "long",
    code,
    regs: { rcx: BigInt(At.CODE + 0x100), r11: BigInt(Flag.TF | Flag.IOPL3 | 2) },
    msrs: SYSCALL_MSRS(0),
  });
  assert.deepEqual(rips(seen), [0x100, 0x101]);
});
test("SYSENTER does not clear TF: the trap is at the kernel's first instruction (SDM 2, SYSENTER)", () => {
  const code = assembler("long")
    .hex("0f34")
    .padTo(At.CODE + 0x100)
    .nop()
    .done();
  const { seen } = traps({
    mode: "long",
    cpl: 3,
    code,
    regs: STEP,
    msrs: [
      { index: 0x174, data: BigInt(Sel.CODE64) },
      { index: 0x175, data: BigInt(At.STACK_TOP) },
      { index: 0x176, data: BigInt(At.CODE + 0x100) },
    ],
  });
  assert.deepEqual(rips(seen), [0x100, 0x101]);
});

// --- instruction breakpoints ---

const noBreaks = [0n, 0n, 0n, 0n] as const;
const breaks = (n: number, address: number | bigint, control: bigint): DebugRegs => {
  const db = [...noBreaks] as [bigint, bigint, bigint, bigint];
  db[n] = BigInt(address);
  return { db, dr6: 0xffff0ff0n, dr7: control };
};

for (const n of [0, 1, 2, 3]) {
  test(`instruction breakpoint in DR${n}: a fault before the instruction, once (SDM 3B, 18.3.1.1)`, () => {
    const code = assembler("long").nop().hex("ffc3").nop().done();
    const { seen, regs } = traps({
      mode: "long",
      code,
      debugRegs: breaks(n, At.CODE + 1, dr7(n, RW.EXECUTE)),
    });
    assert.deepEqual(rips(seen), [1]);
    assert.equal(seen[0].dr6, 1n << BigInt(n));
    assert.equal(seen[0].flags & Flag.RF, 0, "the handler has to set RF");
    assert.equal(regs.rbx, 1n);
  });
}
test("an instruction breakpoint that is not enabled, or not at the first byte, is none", () => {
  const code = () => assembler("long").nop().hex("6690").nop().done();
  assert.equal(
    traps({ mode: "long", code: code(), debugRegs: breaks(0, At.CODE + 1, 0x400n) }).seen.length,
    0,
  );
  assert.equal(
    traps({ mode: "long", code: code(), debugRegs: breaks(0, At.CODE + 2, dr7(0, RW.EXECUTE)) }).seen.length,
    0,
  );
});
test("a global enable does as well as a local one (SDM 3B, 18.2.4)", () => {
  const code = assembler("long").nop(3).done();
  assert.equal(traps({ mode: "long", code, debugRegs: breaks(0, At.CODE + 1, 0x402n) }).seen.length, 1);
});
test("an instruction breakpoint on REP comes once, before the first element (SDM 3B, 18.3.1.1)", () => {
  const code = assembler("long").nop().hex("f3aa").done();
  const { seen, regs } = traps({
    mode: "long",
    code,
    regs: { rcx: 5n, rdi: BigInt(At.DATA) },
    debugRegs: breaks(0, At.CODE + 1, dr7(0, RW.EXECUTE)),
  });
  assert.deepEqual(rips(seen), [1]);
  assert.equal(regs.rcx, 0n);
});
for (const [what, op] of [
  ["port output", "e680"],
  ["port input", "e480"],
  ["INSB", "6c"],
  ["an MMIO read", "8a0425 00000020"],
] as const) {
  test(`an instruction breakpoint on ${what} comes once`, () => {
    const code = assembler("long").nop().hex(op).nop().done();
    const { seen, accesses } = traps({
      mode: "long",
      code,
      regs: { rdi: BigInt(At.DATA) },
      debugRegs: breaks(0, At.CODE + 1, dr7(0, RW.EXECUTE)),
    });
    assert.deepEqual(rips(seen), [1]);
    assert.equal(accesses.length, 1);
  });
}
test("an instruction breakpoint right after MOV SS is not seen (SDM 3B, 18.3.1.1)", () => {
  const code = assembler("long").hex("8cd3 8ed3").nop().done();
  assert.equal(
    traps({ mode: "long", code, debugRegs: breaks(0, At.CODE + 4, dr7(0, RW.EXECUTE)) }).seen.length,
    0,
  );
});
test("an instruction breakpoint comes before the instruction's own faults (SDM 3A, table 6-2)", () => {
  const { faults } = run({
    mode: "long",
    code: assembler("long").hex("0f0b"),
    debugRegs: breaks(0, At.CODE, dr7(0, RW.EXECUTE)),
  });
  assert.equal(faults[0].vector, DB);
});

// --- data breakpoints ---

const at = At.DATA + 0x40;
const DATA: [
  rule: string,
  op: (a: Asm) => Asm,
  address: number,
  kind: number,
  length: 1 | 2 | 4 | 8,
  hit: boolean,
][] = [
  ["write, on a write", (a) => a.op("8803".slice(0, 2), 3, at), at, RW.WRITE, 1, true],
  ["write, on a read", (a) => a.op("8a", 3, at), at, RW.WRITE, 1, false],
  ["access, on a read", (a) => a.op("8a", 3, at), at, RW.ACCESS, 1, true],
  ["access, on a write", (a) => a.op("88", 3, at), at, RW.ACCESS, 1, true],
  ["write, on a read-modify-write", (a) => a.op("00", 3, at), at, RW.WRITE, 1, true],
  ["the byte before", (a) => a.op("88", 3, at - 1), at, RW.WRITE, 1, false],
  ["the byte after", (a) => a.op("88", 3, at + 1), at, RW.WRITE, 1, false],
  ["a doubleword that covers the byte", (a) => a.op("89", 3, at - 3), at, RW.WRITE, 1, true],
  ["a byte in a doubleword", (a) => a.op("88", 3, at + 3), at, RW.WRITE, 4, true],
  ["a byte after a doubleword", (a) => a.op("88", 3, at + 4), at, RW.WRITE, 4, false],
  ["a byte in a quadword", (a) => a.op("88", 3, at + 7), at, RW.WRITE, 8, true],
  ["the address is cut to the length", (a) => a.op("88", 3, at), at + 1, RW.WRITE, 2, true],
  ["MOVUPS", (a) => a.op("0f11", 3, at - 15), at, RW.WRITE, 1, true],
  ["FXSAVE", (a) => a.op("0fae", 0, at - 0x40), at, RW.WRITE, 1, true],
  ["CMPXCHG16B", (a) => a.op("48 0fc7", 1, at), at + 8, RW.WRITE, 1, true],
  ["LOCK XADD", (a) => a.op("f0 0fc1", 3, at), at, RW.WRITE, 4, true],
  ["SGDT", (a) => a.op("0f01", 0, at), at + 6, RW.WRITE, 1, true],
  ["FSTP m80", (a) => a.hex("d9ee").op("db", 7, at), at + 9, RW.WRITE, 1, true],
];
for (const [rule, op, address, kind, length, hit] of DATA) {
  test(`data breakpoint: ${rule} (SDM 3B, 18.2.5, 18.3.1.2)`, () => {
    const code = op(assembler("long"));
    const end = code.length;
    const { seen, end: how } = traps({
      mode: "long",
      code: code.nop().done(),
      debugRegs: breaks(1, address, dr7(1, kind, length)),
    });
    assert.equal(how, "done");
    assert.deepEqual(rips(seen), hit ? [end] : []);
    if (hit) assert.equal(seen[0].dr6, 2n);
  });
}
test("a data breakpoint and a single step are reported together (SDM 3B, 18.3.1)", () => {
  const code = assembler("long").op("88", 3, at).done();
  const { seen } = traps({ mode: "long", code, regs: STEP, debugRegs: breaks(2, at, dr7(2, RW.WRITE)) });
  assert.equal(seen[0].dr6, 4n | BS);
});
test("data breakpoints on stacks: PUSH, CALL, POP, RET", () => {
  const code = assembler("long").push("ax").pop("bx").call("f").done().label("f").hex("c3");
  const { seen } = traps({
    mode: "long",
    code,
    debugRegs: breaks(0, At.STACK_TOP - 8, dr7(0, RW.ACCESS, 8)),
  });
  assert.deepEqual(rips(seen), [1, 2, 9, 7]);
});
test("a data breakpoint in the middle of REP MOVSB comes after that element (SDM 3B, 18.3.1.2)", () => {
  const code = assembler("long").hex("f3a4").nop().done();
  const { seen, faults, regs } = traps({
    mode: "long",
    code,
    regs: { rcx: 8n, rsi: BigInt(At.DATA + 0x100), rdi: BigInt(at - 3) },
    debugRegs: breaks(0, at, dr7(0, RW.WRITE)),
  });
  assert.deepEqual(rips(seen), [0]);
  assert.equal(faults[0].regs.rcx, 4n);
  assert.equal(regs.rcx, 0n);
});
test("a data breakpoint met by MOV SS is reported after the next instruction", () => {
  const code = assembler("long").op("8e", 2, at).nop(2).done();
  const { seen } = traps({
    mode: "long",
    code,
    memory: (e) => e.u16(at, Sel.DATA),
    debugRegs: breaks(0, at, dr7(0, RW.ACCESS, 2)),
  });
  assert.deepEqual(rips(seen), [8]);
  assert.equal(seen[0].dr6, 1n);
});
test("an access that faults meets no data breakpoint (SDM 3B, 18.3.1.2)", () => {
  const code = assembler("long")
    .op("89", 3, At.DATA + 0xffe)
    .done();
  const { faults } = run({
    mode: "long",
    code,
    memory: (e) => e.page(At.DATA + 0x1000, 0n),
    debugRegs: breaks(0, At.DATA + 0xffe, dr7(0, RW.WRITE)),
  });
  assert.equal(faults[0].vector, 14);
  assert.equal(provider.vcpu.getDebugRegs().dr6 & 0xfn, 0n);
});
test("writing a watched page from code that ran before it was watched", () => {
  const code = assembler("long")
    .op("88", 3, at)
    .setDr(0, at)
    .setDr(7, dr7(0, RW.WRITE))
    .op("88", 3, at)
    .setDr(7, 0x400)
    .op("88", 3, at)
    .done();
  assert.equal(traps({ mode: "long", code }).seen.length, 1);
});

// --- I/O breakpoints ---

const IO: [rule: string, op: string, port: number, length: 1 | 2 | 4, hit: boolean][] = [
  ["OUT", "e680", 0x80, 1, true],
  ["IN", "e480", 0x80, 1, true],
  ["another port", "e681", 0x80, 1, false],
  ["a doubleword that covers the port", "e780", 0x82, 1, true],
  ["a port in the range", "e683", 0x80, 4, true],
  ["OUTSB", "6e", 0x80, 1, true],
  ["INSB", "6c", 0x80, 1, true],
];
for (const [rule, op, port, length, hit] of IO) {
  test(`I/O breakpoint: ${rule} (SDM 3B, 18.2.4, 18.3.1.3)`, () => {
    const code = assembler("long").orCr(4, 8).mov("dx", 0x80);
    const begin = code.length;
    const after = begin + op.length / 2;
    const { seen } = traps({
      mode: "long",
      code: code.hex(op).nop().done(),
      regs: { rsi: BigInt(At.DATA), rdi: BigInt(At.DATA) },
      debugRegs: breaks(3, port, dr7(3, RW.IO, length)),
    });
    assert.deepEqual(rips(seen), hit ? [after] : []);
    if (hit) assert.equal(seen[0].dr6, 8n);
  });
}
test("without CR4.DE there are no I/O breakpoints (SDM 3B, 18.2.4)", () => {
  const code = assembler("long").hex("e680").nop().done();
  assert.equal(traps({ mode: "long", code, debugRegs: breaks(3, 0x80, dr7(3, RW.IO)) }).seen.length, 0);
});

// --- the registers ---

test("DR7.GD: MOV DR is a #DB fault with DR6.BD; GD is clear in the handler (SDM 3B, 18.3.1.3)", () => {
  for (const op of ["0f23c0", "0f21c0", "0f21f8"]) {
    const code = assembler("long").setDr(7, 0x2400).hex(op).done();
    const { faults } = run({ mode: "long", code });
    assert.equal(faults[0].vector, DB);
    assert.equal(faults[0].rip, BigInt(At.CODE + code.length - 5));
    const { dr6, dr7: control } = provider.vcpu.getDebugRegs();
    assert.equal(dr6 & 0xe00fn, BD);
    assert.equal(control, 0x400n);
  }
});
test("every #DB clears DR7.GD (SDM 3B, 18.2.4)", () => {
  run({ mode: "long", code: assembler("long").nop(), regs: STEP, debugRegs: breaks(0, 0, 0x2400n) });
  assert.equal(provider.vcpu.getDebugRegs().dr7, 0x400n);
});
test("fixed bits of DR6 and DR7 (SDM 3B, 18.2.3, 18.2.4)", () => {
  const read = (n: number, value: number) =>
    run({ mode: "long", code: assembler("long").setDr(n, value).readDr(n, "bx").done() }).regs.rbx;
  assert.equal(read(6, 0), 0xffff0ff0n);
  assert.equal(read(6, 0xe00f), 0xffffefffn);
  assert.equal(read(7, 0), 0x400n);
  assert.equal(read(7, 0xd000), 0x400n);
  assert.equal(read(7, 0x3ff), 0x7ffn);
});
test("64-bit mode: bits 63–32 of DR6 and DR7 are #GP; DR0–DR3 take any address (SDM 2, MOV DR)", () => {
  for (const n of [6, 7])
    assert.equal(run({ mode: "long", code: assembler("long").setDr(n, 1n << 32n) }).faults[0].vector, 13);
  assert.equal(
    run({
      mode: "long",
      code: assembler("long")
        .setDr(0, 1n << 63n)
        .readDr(0, "bx")
        .done(),
    }).regs.rbx,
    1n << 63n,
  );
});
test("DR4 and DR5 are DR6 and DR7, or #UD with CR4.DE (SDM 3B, 18.2.2)", () => {
  const { regs } = run({
    mode: "long",
    code: assembler("long").setDr(5, 0x400).readDr(4, "bx").readDr(5, "cx").done(),
  });
  assert.deepEqual([regs.rbx, regs.rcx], [0xffff0ff0n, 0x400n]);
  for (const n of [4, 5]) {
    assert.equal(
      run({ mode: "long", code: assembler("long").orCr(4, 8).readDr(n, "bx") }).faults[0].vector,
      6,
    );
    assert.equal(
      run({ mode: "long", code: assembler("long").orCr(4, 8).writeDr(n, "bx") }).faults[0].vector,
      6,
    );
  }
});
test("DR8–DR15 do not exist: #UD (SDM 2, MOV DR)", () => {
  assert.equal(run({ mode: "long", code: assembler("long").hex("44 0f21c0") }).faults[0].vector, 6);
});
test("MOV DR at CPL 3 is #GP(0) (SDM 2, MOV DR)", () => {
  const { faults } = run({ mode: "long", cpl: 3, code: assembler("long").readDr(0, "ax") });
  assert.deepEqual([faults[0].vector, faults[0].error], [13, 0]);
});
test("a #DB leaves BS of an earlier one set (SDM 3B, 18.2.3: DR6 is never cleared)", () => {
  const code = assembler("long").op("88", 3, at).nop().done();
  run({
    mode: "long",
    code,
    debugRegs: { db: [BigInt(at), 0n, 0n, 0n], dr6: 0xffff0ff0n | BS, dr7: dr7(0, RW.WRITE) },
  });
  assert.equal(provider.vcpu.getDebugRegs().dr6 & 0xe00fn, BS | 1n);
});

test("MOV SS, a data breakpoint and INT1: one #DB; with INT3: one each (SDM 3A, 6.8.3)", () => {
  const memory = (e: Environment) => e.u16(at, Sel.DATA);
  const debugRegs = breaks(0, at, dr7(0, RW.ACCESS, 2));
  const image = (op: string) => ({
    mode: "long" as const,
    code: assembler("long").op("8e", 2, at).hex(op).nop().done(),
    memory,
    debugRegs,
  });
  const icebp = traps(image("f1"));
  assert.deepEqual(rips(icebp.seen), [8]);
  assert.equal(icebp.seen[0].dr6, 1n);
  const int3 = traps(image("cc"));
  assert.deepEqual(int3.others, [3]);
  assert.equal(int3.seen.length, 1);
});
