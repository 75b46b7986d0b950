/** Port and memory-mapped I/O (SDM vol. 1, chapter 19), as exits that the machine serves. */
import assert from "node:assert/strict";
import { after } from "node:test";
import { gpa } from "../../src/memory/guest-memory.js";
import type { Asm } from "./support/asm.js";
import { At, type Environment, IO_MAP, Pte, Sel, TSS_LIMIT, Type } from "./support/environment.js";
import { assembler, Flag, type GuestAccess, type GuestImage, runGuest } from "./support/machine.js";
import { guestProvider, test } from "./support/provider.js";

const provider = guestProvider();
after(() => provider.close());
const run = (image: GuestImage) => runGuest(provider, image);
const GP = 13;

const short = (accesses: readonly GuestAccess[]) =>
  accesses.map(({ isWrite, address, size, value }) => [isWrite ? "w" : "r", address, size, Number(value)]);

// --- ports ---

const PORTS: [what: string, body: (a: Asm) => Asm, access: unknown[], rax: bigint | undefined][] = [
  ["IN AL, imm8", (a) => a.hex("e480"), ["r", 0x80, 1, 0x44], 0x1122334455667744n],
  ["IN AX, DX", (a) => a.hex("66 ed"), ["r", 0x1234, 2, 0x3344], 0x1122334455663344n],
  ["IN EAX, DX clears the upper half", (a) => a.hex("ed"), ["r", 0x1234, 4, 0x11223344], 0x11223344n],
  ["REX.W IN is IN EAX", (a) => a.hex("48 ed"), ["r", 0x1234, 4, 0x11223344], 0x11223344n],
  ["OUT DX, AL", (a) => a.hex("ee"), ["w", 0x1234, 1, 0x88], undefined],
  ["OUT DX, AX", (a) => a.hex("66 ef"), ["w", 0x1234, 2, 0x7788], undefined],
  ["OUT DX, EAX", (a) => a.hex("ef"), ["w", 0x1234, 4, 0x55667788], undefined],
  ["OUTSD", (a) => a.hex("6f"), ["w", 0x1234, 4, 0x04030201], undefined],
  ["OUTSB through another segment", (a) => a.hex("64 6e"), ["w", 0x1234, 1, 9], undefined],
];
for (const [what, body, access, rax] of PORTS) {
  test(`${what} (SDM 2)`, () => {
    const { end, accesses, regs } = run({
      mode: "long",
      code: body(assembler("long")).done(),
      regs: { rax: 0x1122334455667788n, rdx: 0xffff_1234n, rsi: BigInt(At.DATA) },
      memory: (e) => {
        e.u32(At.DATA, 0x04030201);
        e.u8(At.DATA + 0x100, 9);
      },
      sregs: (s) => {
        s.fs.base = 0x100n;
      },
      read: () => 0x11223344,
    });
    assert.equal(end, "done");
    assert.deepEqual(short(accesses), [access]);
    if (rax !== undefined) assert.equal(regs.rax, rax);
  });
}
test("REP INSW and OUTSW, up and down, with 32-bit addresses (SDM 2, INS)", () => {
  let n = 0;
  const up = run({
    mode: "long",
    code: assembler("long").hex("67 66 f36d").done(),
    regs: { rcx: 0x1_0000_0003n, rdi: 0x7_0000_0000n + BigInt(At.DATA), rdx: 0x99n },
    read: () => 0x100 + n++,
  });
  assert.equal(up.regs.rcx, 0n, "ECX counts, and its upper half is cleared");
  assert.equal(up.regs.rdi, BigInt(At.DATA + 6));
  assert.equal(up.env.read64(At.DATA), 0x0102_0101_0100n);
  const down = run({
    mode: "long",
    code: assembler("long").hex("fd 66 f36f").done(),
    regs: { rcx: 2n, rsi: BigInt(At.DATA + 2), rdx: 0x99n },
    memory: (e) => e.u32(At.DATA, 0x22221111),
  });
  assert.deepEqual(short(down.accesses), [
    ["w", 0x99, 2, 0x2222],
    ["w", 0x99, 2, 0x1111],
  ]);
  assert.equal(down.regs.rsi, BigInt(At.DATA - 2));
});

/** Ports that the I/O permission bit map forbids (a bit of 1). */
const forbid =
  (...ports: number[]) =>
  (e: Environment) => {
    for (const port of ports) {
      const at = At.TSS + IO_MAP + (port >> 3);
      e.u8(at, e.memory.readU8(gpa(at)) | (1 << (port & 7)));
    }
  };
const PERMISSION: [rule: string, op: string, forbidden: number[], iopl: boolean, ok: boolean][] = [
  ["allowed", "e680", [], false, true],
  ["forbidden", "e680", [0x80], false, false],
  ["forbidden, but IOPL is 3", "e680", [0x80], true, true],
  ["a word whose second port is forbidden", "66 e77f", [0x80], false, false],
  ["a doubleword whose last port is forbidden", "e77d", [0x80], false, false],
  ["a doubleword that ends before", "e77c", [0x80], false, true],
  ["IN", "e480", [0x80], false, false],
  ["INSB", "6c", [0x80], false, false],
  ["OUTSB", "6e", [0x80], false, false],
];
for (const mode of ["protected32", "long"] as const) {
  for (const [rule, op, forbidden, iopl, ok] of PERMISSION) {
    test(`${mode}: I/O permission at CPL 3: ${rule} (SDM 1, 19.5.2)`, () => {
      const { end, faults } = run({
        mode,
        cpl: 3,
        code: assembler(mode).mov("dx", 0x80).mov("si", At.DATA).mov("di", At.DATA).hex(op).done(),
        memory: forbid(...forbidden),
        regs: { rflags: BigInt((iopl ? Flag.IOPL3 : 0) | 2) },
      });
      assert.equal(end, ok ? "done" : "fault");
      if (!ok) assert.deepEqual([faults[0].vector, faults[0].error], [GP, 0]);
    });
  }
}
test("the bit map in virtual-8086 mode counts whatever IOPL is (SDM 3B, 21.2.8.1)", () => {
  const code = assembler("v86").hex("e680").done();
  assert.equal(run({ mode: "v86", code, memory: forbid(0x80) }).faults[0]?.vector, GP);
  assert.equal(run({ mode: "v86", code }).end, "done");
});
test("a bit map beyond the TSS's limit forbids; both of its bytes have to be there (SDM 1, 19.5.2)", () => {
  const image = (limit: number): GuestImage => ({
    mode: "long",
    cpl: 3,
    code: assembler("long").hex("e680").done(),
    sregs: (s) => {
      s.tr.limit = limit;
    },
  });
  const byte = IO_MAP + 0x80 / 8;
  assert.equal(run(image(byte)).faults[0]?.vector, GP);
  // The OUT to DONE_PORT, 0xF4, is behind it.
  assert.equal(run(image(IO_MAP + 0xf4 / 8 + 2)).end, "done");
  assert.equal(run(image(0x67)).faults[0]?.vector, GP);
  assert.equal(run(image(TSS_LIMIT)).end, "done");
});
test("a 16-bit TSS has no bit map (SDM 1, 19.5.2)", () => {
  const { faults } = run({
    mode: "protected32",
    cpl: 3,
    code: assembler("protected32").hex("e680").done(),
    memory: (e) => e.u32(At.TSS + 2, (Sel.DATA << 16) | At.STACK_TOP),
    sregs: (s) => {
      s.tr.type = Type.TSS16_BUSY;
    },
  });
  assert.equal(faults[0]?.vector, GP);
});

// --- memory-mapped ---

const M = At.MMIO;
const MMIO: [what: string, body: (a: Asm) => Asm, expected: unknown[][]][] = [
  ["MOV AL", (a) => a.op("8a", 0, M), [["r", M, 1, 0x88]]],
  ["MOV AX", (a) => a.op("66 8b", 0, M), [["r", M, 2, 0x7788]]],
  ["MOV EAX", (a) => a.op("8b", 0, M), [["r", M, 4, 0x55667788]]],
  [
    "a store of each size",
    (a) =>
      a
        .op("88", 3, M)
        .op("66 89", 3, M + 2)
        .op("89", 3, M + 4),
    [
      ["w", M, 1, 4],
      ["w", M + 2, 2, 0x304],
      ["w", M + 4, 4, 0x1020304],
    ],
  ],
  [
    "ADD",
    (a) => a.op("01", 3, M),
    [
      ["r", M, 4, 0x55667788],
      ["w", M, 4, 0x56687a8c],
    ],
  ],
  [
    "LOCK INC",
    (a) => a.op("f0 ff", 0, M),
    [
      ["r", M, 4, 0x55667788],
      ["w", M, 4, 0x55667789],
    ],
  ],
  [
    "XCHG",
    (a) => a.op("87", 3, M),
    [
      ["r", M, 4, 0x55667788],
      ["w", M, 4, 0x1020304],
    ],
  ],
  [
    "CMPXCHG that succeeds",
    (a) => a.mov("ax", 0x55667788).op("f0 0fb1", 3, M),
    [
      ["r", M, 4, 0x55667788],
      ["w", M, 4, 0x1020304],
    ],
  ],
  [
    "CMPXCHG that fails writes the old value",
    (a) => a.mov("ax", 1).op("0fb1", 3, M),
    [
      ["r", M, 4, 0x55667788],
      ["w", M, 4, 0x55667788],
    ],
  ],
  ["CMP", (a) => a.op("39", 3, M), [["r", M, 4, 0x55667788]]],
  ["PUSH m64", (a) => a.op("ff", 6, M), [["r", M, 8, 0x5566778855667788n]]],
  ["POP m64", (a) => a.pushImm(0x77).op("8f", 0, M), [["w", M, 8, 0x77]]],
  ["MOVSB to MMIO", (a) => a.mov("si", At.DATA).mov("di", M).hex("a4"), [["w", M, 1, 0xd0]]],
  [
    "MOVSB from MMIO to MMIO",
    (a) =>
      a
        .mov("si", M)
        .mov("di", M + 8)
        .hex("a4"),
    [
      ["r", M, 1, 0x88],
      ["w", M + 8, 1, 0x88],
    ],
  ],
  [
    "REP MOVSD to MMIO",
    (a) => a.mov("si", At.DATA).mov("di", M).mov("cx", 2).hex("f3a5"),
    [
      ["w", M, 4, 0xd3d2d1d0],
      ["w", M + 4, 4, 0xd7d6d5d4],
    ],
  ],
  [
    "REP STOSW",
    (a) => a.mov("ax", 0x1234).mov("di", M).mov("cx", 2).hex("66 f3ab"),
    [
      ["w", M, 2, 0x1234],
      ["w", M + 2, 2, 0x1234],
    ],
  ],
  [
    "REPE CMPSB",
    (a) =>
      a
        .mov("si", M)
        .mov("di", M + 1)
        .mov("cx", 3)
        .hex("f3a6"),
    [
      ["r", M, 1, 0x88],
      ["r", M + 1, 1, 0x88],
      ["r", M + 1, 1, 0x88],
      ["r", M + 2, 1, 0x88],
      ["r", M + 2, 1, 0x88],
      ["r", M + 3, 1, 0x88],
    ],
  ],
  [
    "an unaligned store across MMIO pages",
    (a) => a.op("89", 3, M + 0xffe),
    [
      ["w", M + 0xffe, 2, 0x304],
      ["w", M + 0x1000, 2, 0x102],
    ],
  ],
  [
    "MOVUPS store: two halves",
    (a) => a.op("0f11", 0, M),
    [
      ["w", M, 8, 0],
      ["w", M + 8, 8, 0],
    ],
  ],
  ["MOVNTI", (a) => a.op("0fc3", 3, M), [["w", M, 4, 0x1020304]]],
  [
    "BTS with a register offset",
    (a) => a.mov("cx", 33).op("0fab", 1, M),
    [
      ["r", M + 4, 4, 0x55667788],
      ["w", M + 4, 4, 0x5566778a],
    ],
  ],
  [
    "SGDT",
    (a) => a.op("0f01", 0, M),
    [
      ["w", M, 2, 0x7ff],
      ["w", M + 2, 8, At.GDT],
    ],
  ],
  [
    "CALL [m64] with the target in MMIO, not taken for data",
    (a) => a.op("8b", 1, M).op("83", 7, M).db(5),
    [
      ["r", M, 4, 0x55667788],
      ["r", M, 4, 0x55667788],
    ],
  ],
  ["SETcc", (a) => a.hex("39c0").op("0f94", 0, M), [["w", M, 1, 1]]],
  ["MUL", (a) => a.op("f6", 4, M), [["r", M, 1, 0x88]]],
  [
    "SHLD",
    (a) => a.op("0fa4", 3, M).db(8),
    [
      ["r", M, 4, 0x55667788],
      ["w", M, 4, 0x66778801],
    ],
  ],
  ["MOVZX", (a) => a.op("0fb6", 3, M), [["r", M, 1, 0x88]]],
  ["FLD m32", (a) => a.op("d9", 0, M), [["r", M, 4, 0x55667788]]],
  ["LDMXCSR", (a) => a.op("0fae", 2, M + 0x40), [["r", M + 0x40, 4, 0x1f80]]],
];
for (const [what, body, expected] of MMIO) {
  test(`MMIO by ${what}`, () => {
    const { end, accesses, faults } = run({
      mode: "long",
      code: body(assembler("long").mov("bx", 0x01020304)).done(),
      memory: (e) => {
        for (let i = 0; i < 16; i++) e.u8(At.DATA + i, 0xd0 + i);
      },
      read: (address, size) => {
        if (address === M + 0x40) return 0x1f80;
        return size === 1 ? 0x88 : size === 2 ? 0x7788 : size === 4 ? 0x55667788 : 0x5566778855667788n;
      },
    });
    assert.equal(end, "done", JSON.stringify(faults.map((f) => f.vector)));
    assert.deepEqual(
      accesses.map(({ isWrite, address, size, value }) => [
        isWrite ? "w" : "r",
        address,
        size,
        Number(value),
      ]),
      expected.map((e) => [...e.slice(0, 3), Number(e[3])]),
    );
  });
}

test("a load that crosses from RAM into MMIO", () => {
  const { regs, accesses } = run({
    mode: "long",
    code: assembler("long").hex("488b0425").value(0x180ffc, 4).done(),
    memory: (e) => {
      e.u32(0x180ffc, 0x44332211);
      e.page(0x181000, BigInt(M) | Pte.P | Pte.W);
    },
    read: () => 0x88776655,
  });
  assert.equal(regs.rax, 0x8877665544332211n);
  assert.deepEqual(short(accesses), [["r", M, 4, 0x88776655]]);
});
for (const [what, op, first] of [
  ["RAM into MMIO", "48010425", "ram"],
  ["MMIO into RAM", "48010425", "mmio"],
] as const) {
  test(`ADD across ${what}: each side is changed once`, () => {
    const device = BigInt(M) | Pte.P | Pte.W;
    let word = 0x0000_0002;
    const { end, env, accesses } = run({
      mode: "long",
      code: assembler("long").mov("ax", 0x1_0000_0001n).hex(op).value(0x180ffc, 4).done(),
      memory: (e) => {
        e.page(first === "ram" ? 0x181000 : 0x180000, device);
        e.u32(0x180ffc, 5);
        e.u32(0x181000, 5);
      },
      read: () => word,
      onAccess: ({ isWrite, value }) => {
        if (isWrite) word = Number(value);
      },
    });
    assert.equal(end, "done");
    assert.equal(env.read32(first === "ram" ? 0x180ffc : 0x181000), 6);
    assert.equal(word, 3);
    assert.equal(accesses.filter((a) => a.isWrite).length, 1);
  });
}
test("INSB into MMIO: the port is read once", () => {
  let port = 0;
  const { end, accesses } = run({
    mode: "long",
    code: assembler("long").mov("di", M).mov("dx", 0x99).mov("cx", 2).hex("f36c").done(),
    read: (_, __, space) => (space === "port" ? ++port : 0),
  });
  assert.equal(end, "done");
  assert.deepEqual(short(accesses), [
    ["r", 0x99, 1, 1],
    ["w", M, 1, 1],
    ["r", 0x99, 1, 2],
    ["w", M + 1, 1, 2],
  ]);
});
test("OUTSB from MMIO", () => {
  const { accesses } = run({
    mode: "long",
    code: assembler("long").mov("si", M).mov("dx", 0x99).hex("6e").done(),
    read: () => 0x5a,
  });
  assert.deepEqual(short(accesses), [
    ["r", M, 1, 0x5a],
    ["w", 0x99, 1, 0x5a],
  ]);
});
test("an MMIO write whose instruction then faults is not undone, one before a fault is not made", () => {
  // MOVSQ from MMIO to a page that is not there: the load is made, the store faults.
  const { faults, accesses } = run({
    mode: "long",
    code: assembler("long").mov("si", M).mov("di", 0x180000).hex("48a5"),
    memory: (e) => e.page(0x180000, 0n),
    read: () => 1,
  });
  assert.equal(faults[0].vector, 14);
  assert.ok(accesses.length <= 1 && accesses.every((a) => !a.isWrite));
});
test("code in memory that is not RAM cannot be run: the machine ends with an error or the guest with a fault", () => {
  const { end } = run({ mode: "long", code: assembler("long").mov("ax", M).hex("ffe0"), read: () => 0x90 });
  assert.ok(end === "internal error" || end === "fault", end);
});
