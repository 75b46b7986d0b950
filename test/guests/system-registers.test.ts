/** MSRs, SYSCALL and its kin, CPUID, time, UMIP, FSGSBASE, FPU availability (SDM vol. 2; vol. 3A, 2; vol. 4). */
import assert from "node:assert/strict";
import { after } from "node:test";
import type { Asm } from "./support/asm.js";
import { At, Sel } from "./support/environment.js";
import { assembler, Flag, type GuestImage, runGuest } from "./support/machine.js";
import { guestProvider, test } from "./support/provider.js";

const provider = guestProvider();
after(() => provider.close());
const run = (image: GuestImage) => runGuest(provider, image);
const [UD, NM, GP, MF, AC, XM] = [6, 7, 13, 16, 17, 19];
const vector = (image: GuestImage) => {
  const { end, faults } = run(image);
  return end === "done" ? undefined : faults[0].vector;
};

// --- MSRs ---

const NON_CANONICAL = 1n << 47n;
const MSRS: [name: string, index: number, good: bigint[], bad: bigint[]][] = [
  ["IA32_SYSENTER_CS", 0x174, [0x1234n], []],
  ["IA32_SYSENTER_ESP", 0x175, [0x123456789abcn], [NON_CANONICAL]],
  ["IA32_SYSENTER_EIP", 0x176, [0xffff_8000_0000_0000n], [NON_CANONICAL]],
  ["IA32_PAT", 0x277, [0x0007040600070406n, 0x0101_0404_0505_0606n], [2n, 3n, 8n, 0x0300_0000_0000_0000n]],
  ["IA32_STAR", 0xc0000081, [0x123456789abcdef0n], []],
  ["IA32_LSTAR", 0xc0000082, [0x123456789abcn], [NON_CANONICAL]],
  ["IA32_CSTAR", 0xc0000083, [0x123456789abcn], [NON_CANONICAL]],
  ["IA32_FMASK", 0xc0000084, [0xffff_ffffn], [1n << 32n]],
  ["IA32_FS_BASE", 0xc0000100, [0x123456789abcn], [NON_CANONICAL]],
  ["IA32_GS_BASE", 0xc0000101, [0xffff_ffff_ffff_f000n], [NON_CANONICAL]],
  ["IA32_KERNEL_GS_BASE", 0xc0000102, [0x123456789abcn], [NON_CANONICAL]],
  ["IA32_TSC_AUX", 0xc0000103, [0xffff_ffffn], [1n << 32n]],
  ["IA32_MTRR_DEF_TYPE", 0x2ff, [0xc06n, 0n], [2n, 0x100n, 1n << 12n]],
  ["IA32_MTRR_FIX64K_00000", 0x250, [0x0606060606060606n], [2n, 7n]],
  ["IA32_MTRR_PHYSBASE0", 0x200, [0x80000006n, 0n], [2n, 0x100n, 1n << 50n]],
  ["IA32_MTRR_PHYSMASK0", 0x201, [0xff_8000_0800n], [0x400n, 1n << 50n]],
  ["IA32_TSC_ADJUST", 0x3b, [0n], []],
  ["IA32_APIC_BASE", 0x1b, [], [1n, 1n << 50n]],
];
for (const [name, index, good, bad] of MSRS) {
  test(`${name}: valid values are kept, others are #GP(0) (SDM 4)`, () => {
    for (const value of good) {
      const { end, regs } = run({
        mode: "long",
        code: assembler("long").wrmsr(index, value).rdmsr(index).done(),
      });
      assert.equal(end, "done", value.toString(16));
      assert.equal((regs.rdx << 32n) | regs.rax, value);
    }
    for (const value of bad) {
      const { faults } = run({ mode: "long", code: assembler("long").wrmsr(index, value).done() });
      assert.deepEqual([faults[0]?.vector, faults[0]?.error], [GP, 0], value.toString(16));
    }
  });
}
test("MSRs that do not exist: #GP(0) for RDMSR and WRMSR (SDM 2, RDMSR)", () => {
  for (const index of [0x2, 0x480, 0x3f1, 0xc0000105, 0xc001_1fff, 0xffff_ffff, 0x4000_00ff]) {
    assert.equal(
      vector({ mode: "long", code: assembler("long").rdmsr(index).done() }),
      GP,
      index.toString(16),
    );
    assert.equal(
      vector({ mode: "long", code: assembler("long").wrmsr(index, 0).done() }),
      GP,
      index.toString(16),
    );
  }
});
test("read-only MSRs: WRMSR is #GP(0)", () => {
  for (const index of [0xfe, 0x179, 0xce]) {
    assert.equal(vector({ mode: "long", code: assembler("long").rdmsr(index).done() }), undefined);
    assert.equal(
      vector({ mode: "long", code: assembler("long").wrmsr(index, 0).done() }),
      GP,
      index.toString(16),
    );
  }
});
test("RDMSR clears the upper halves of RAX and RDX; ECX counts, not RCX (SDM 2, RDMSR)", () => {
  const code = assembler("long").mov("cx", 0x7_c000_0082n).mov("ax", -1).mov("dx", -1).hex("0f32").done();
  const { regs } = run({ mode: "long", code, msrs: [{ index: 0xc0000082, data: 0x123456789abcn }] });
  assert.deepEqual([regs.rax, regs.rdx], [0x56789abcn, 0x1234n]);
});
test("machine check: as many banks as IA32_MCG_CAP says, the MSRs of others are #GP (SDM 3B, 16.3)", () => {
  const banks = Number(run({ mode: "long", code: assembler("long").rdmsr(0x179).done() }).regs.rax & 0xffn);
  for (let i = banks; i < 32; i += 7) {
    assert.equal(
      vector({
        mode: "long",
        code: assembler("long")
          .rdmsr(0x400 + 4 * i)
          .done(),
      }),
      GP,
    );
  }
});

// --- SYSCALL, SYSRET ---

const STAR = (BigInt(Sel.USER_CODE32 & ~3) << 48n) | (BigInt(Sel.CODE64) << 32n);
const SYSCALL = [
  { index: 0xc0000080, data: 0xd01n },
  { index: 0xc0000081, data: STAR },
  { index: 0xc0000082, data: BigInt(At.CODE + 0x100) },
  { index: 0xc0000084, data: BigInt(Flag.IF | Flag.DF | Flag.AC) },
];
test("SYSCALL: RCX, R11, RIP, RFLAGS, CS and SS; RSP stays (SDM 2, SYSCALL)", () => {
  const code = assembler("long")
    .hex("0f05")
    .padTo(At.CODE + 0x100)
    .done();
  const flags = Flag.IF | Flag.DF | Flag.AC | Flag.CF | Flag.IOPL3 | 2;
  const { end, regs, sregs } = run({
    mode: "long",
    cpl: 3,
    code,
    msrs: SYSCALL,
    regs: { rflags: BigInt(flags) },
  });
  assert.equal(end, "done");
  assert.equal(regs.rcx, BigInt(At.CODE + 2));
  assert.equal(Number(regs.r11), flags);
  assert.equal(Number(regs.rflags), flags & ~(Flag.IF | Flag.DF | Flag.AC));
  assert.equal(regs.rsp, BigInt(At.USER_STACK_TOP));
  assert.deepEqual([sregs.cs.selector, sregs.cs.dpl, sregs.cs.l, sregs.cs.db], [Sel.CODE64, 0, 1, 0]);
  assert.deepEqual([sregs.ss.selector, sregs.ss.dpl, sregs.ss.limit], [Sel.CODE64 + 8, 0, 0xffffffff]);
});
test("SYSRET to 64-bit mode and to compatibility mode (SDM 2, SYSRET)", () => {
  for (const [op, selector, long] of [
    ["48 0f07", (Sel.USER_CODE32 & ~3) + 16, 1],
    ["0f07", Sel.USER_CODE32 & ~3, 0],
  ] as const) {
    const code = assembler("long")
      .hex(op)
      .padTo(At.CODE + 0x100)
      .done();
    const { end, regs, sregs } = run({
      mode: "long",
      code,
      msrs: SYSCALL,
      regs: { rcx: BigInt(At.CODE + 0x100), r11: 0xffff_ffff_ffff_ffffn & ~BigInt(Flag.TF), rsp: 0x9000n },
    });
    assert.equal(end, "done");
    assert.deepEqual([sregs.cs.selector, sregs.cs.l, sregs.cs.dpl], [selector | 3, long, 3]);
    assert.deepEqual([sregs.ss.selector, sregs.ss.dpl], [((Sel.USER_CODE32 & ~3) + 8) | 3, 3]);
    assert.equal(Number(regs.rflags), 0x3c7fd7 & ~Flag.TF);
    assert.equal(regs.rsp, 0x9000n);
  }
});
test("SYSCALL and SYSRET without EFER.SCE are #UD; SYSRET at CPL 3 and to a non-canonical RCX is #GP(0)", () => {
  const efer = [{ index: 0xc0000080, data: 0xd00n }];
  for (const op of ["0f05", "48 0f07"])
    assert.equal(vector({ mode: "long", code: assembler("long").hex(op), msrs: efer }), UD);
  assert.equal(vector({ mode: "long", cpl: 3, code: assembler("long").hex("48 0f07"), msrs: SYSCALL }), GP);
  const { faults } = run({
    mode: "long",
    code: assembler("long").hex("48 0f07"),
    msrs: SYSCALL,
    regs: { rcx: NON_CANONICAL },
  });
  assert.deepEqual([faults[0].vector, faults[0].cs], [GP, Sel.CODE64]);
});

// --- SYSENTER, SYSEXIT ---

const SYSENTER = [
  { index: 0x174, data: BigInt(Sel.CODE64) },
  { index: 0x175, data: 0xffff_8000_0000_9000n },
  { index: 0x176, data: BigInt(At.CODE + 0x100) },
];
for (const mode of ["protected32", "compat", "long"] as const) {
  test(`${mode}: SYSENTER takes CS, SS, RSP and RIP from MSRs, clears IF and VM (SDM 2, SYSENTER)`, () => {
    const code = assembler(mode)
      .hex("0f34")
      .padTo(At.CODE + 0x100)
      .use(mode === "protected32" ? 32 : 64)
      .done();
    const { end, regs, sregs } = run({
      mode,
      cpl: 3,
      code,
      msrs: SYSENTER,
      regs: { rflags: BigInt(Flag.IF | Flag.IOPL3 | 2) },
    });
    assert.equal(end, "done");
    const long = mode !== "protected32";
    assert.equal(regs.rsp, long ? 0xffff_8000_0000_9000n : 0x9000n);
    assert.equal(Number(regs.rflags), Flag.IOPL3 | 2);
    assert.deepEqual([sregs.cs.selector, sregs.cs.l, sregs.cs.db], [Sel.CODE64, long ? 1 : 0, long ? 0 : 1]);
    assert.equal(sregs.ss.selector, Sel.CODE64 + 8);
  });
}
test("SYSENTER with a null CS MSR and in real mode is #GP(0) (SDM 2, SYSENTER)", () => {
  assert.equal(
    vector({ mode: "long", code: assembler("long").hex("0f34"), msrs: [{ index: 0x174, data: 3n }] }),
    GP,
  );
  assert.equal(vector({ mode: "real", code: assembler("real").hex("0f34"), msrs: SYSENTER }), GP);
});
test("SYSEXIT to 32-bit and 64-bit code (SDM 2, SYSEXIT)", () => {
  for (const [op, offset, long] of [
    ["0f35", 16, 0],
    ["48 0f35", 32, 1],
  ] as const) {
    const code = assembler("long")
      .hex(op)
      .padTo(At.CODE + 0x100)
      .done();
    const { end, regs, sregs } = run({
      mode: "long",
      code,
      msrs: SYSENTER,
      regs: { rdx: BigInt(At.CODE + 0x100), rcx: 0x1_0000_9000n, rflags: BigInt(Flag.IOPL3 | 2) },
    });
    assert.equal(end, "done");
    assert.deepEqual([sregs.cs.selector, sregs.cs.l, sregs.cs.dpl], [(Sel.CODE64 + offset) | 3, long, 3]);
    assert.equal(sregs.ss.selector, (Sel.CODE64 + offset + 8) | 3);
    assert.equal(regs.rsp, long === 1 ? 0x1_0000_9000n : 0x9000n);
  }
});
test("SYSEXIT at CPL 3, with a null CS MSR, to non-canonical addresses: #GP(0) (SDM 2, SYSEXIT)", () => {
  assert.equal(vector({ mode: "long", cpl: 3, code: assembler("long").hex("0f35"), msrs: SYSENTER }), GP);
  assert.equal(vector({ mode: "long", code: assembler("long").hex("0f35") }), GP);
  for (const regs of [{ rcx: NON_CANONICAL }, { rdx: NON_CANONICAL }]) {
    assert.equal(vector({ mode: "long", code: assembler("long").hex("48 0f35"), msrs: SYSENTER, regs }), GP);
  }
});

// --- SWAPGS, FSGSBASE, RDPID ---

test("SWAPGS exchanges GS's base with KERNEL_GS_BASE; #GP at CPL 3, #UD outside of 64-bit mode (SDM 2, SWAPGS)", () => {
  const msrs = [{ index: 0xc0000102, data: 0x1111n }];
  const sregs: GuestImage["sregs"] = (s) => {
    s.gs.base = 0x2222n;
  };
  const result = run({
    mode: "long",
    code: assembler("long").hex("0f01f8").rdmsr(0xc0000102).done(),
    msrs,
    sregs,
  });
  assert.equal(result.sregs.gs.base, 0x1111n);
  assert.equal(result.regs.rax, 0x2222n);
  assert.equal(vector({ mode: "long", cpl: 3, code: assembler("long").hex("0f01f8") }), GP);
  assert.equal(vector({ mode: "compat", code: assembler("compat").hex("0f01f8") }), UD);
});
test("RDFSBASE and its kin need CR4.FSGSBASE, work at CPL 3, check for canonical values (SDM 2, WRFSBASE)", () => {
  const on: GuestImage["sregs"] = (s) => {
    s.cr4 |= 0x10000n;
    s.fs.base = 0x123456789abn;
    s.gs.base = 0x7fffn;
  };
  for (const op of ["f3480faec0", "f3480faec8", "f3480faed0", "f3480faed8"]) {
    assert.equal(vector({ mode: "long", code: assembler("long").hex(op).done() }), UD, op);
    assert.equal(
      vector({ mode: "long", cpl: 3, code: assembler("long").hex(op).done(), sregs: on }),
      undefined,
      op,
    );
    assert.equal(
      vector({ mode: "compat", code: assembler("compat").hex(op.replace("48", "")).done(), sregs: on }),
      UD,
      op,
    );
  }
  const read = run({
    mode: "long",
    cpl: 3,
    code: assembler("long").hex("f3480faec3 f30faec1").done(),
    sregs: on,
  });
  assert.deepEqual([read.regs.rbx, read.regs.rcx], [0x123456789abn, 0x456789abn]);
  const write = run({
    mode: "long",
    cpl: 3,
    code: assembler("long").mov("bx", 0xffff_ffff_0000_1234n).hex("f30faed3 f3480faedb").done(),
    sregs: on,
  });
  assert.deepEqual([write.sregs.fs.base, write.sregs.gs.base], [0x1234n, 0xffff_ffff_0000_1234n]);
  assert.equal(
    vector({
      mode: "long",
      cpl: 3,
      code: assembler("long").mov("bx", NON_CANONICAL).hex("f3480faed3"),
      sregs: on,
    }),
    GP,
  );
});
test("RDPID and RDTSCP give IA32_TSC_AUX (SDM 2, RDPID)", () => {
  const { regs } = run({
    mode: "long",
    code: assembler("long").hex("f30fc7fb 0f01f9").done(),
    msrs: [{ index: 0xc0000103, data: 0x55n }],
  });
  assert.deepEqual([regs.rbx, regs.rcx], [0x55n, 0x55n]);
});

// --- UMIP ---

test("UMIP: SGDT, SIDT, SLDT, SMSW, STR at CPL 3 are #GP(0), at CPL 0 not (SDM 3A, 2.5)", () => {
  const on: GuestImage["sregs"] = (s) => {
    s.cr4 |= 1n << 11n;
  };
  for (const op of ["0f0103", "0f010b", "0f00c0", "0f01e0", "0f00c8"]) {
    const image = (cpl: 0 | 3): GuestImage => ({
      mode: "long",
      cpl,
      code: assembler("long").mov("bx", At.DATA).hex(op).done(),
    });
    assert.equal(vector(image(3)), undefined, op);
    assert.equal(vector({ ...image(3), sregs: on }), GP, op);
    assert.equal(vector({ ...image(0), sregs: on }), undefined, op);
  }
});
test("SMSW: 16 bits to memory, CR0 at the operand size to a register (SDM 2, SMSW)", () => {
  const code = assembler("long")
    .mov("ax", -1)
    .mov("bx", -1)
    .mov("cx", -1)
    .hex("66 0f01e0 0f01e3 48 0f01e1")
    .op("0f01", 4, At.DATA)
    .done();
  const { regs, sregs, env } = run({ mode: "long", code, memory: (e) => e.u64(At.DATA, -1n) });
  assert.equal(regs.rax, 0xffff_ffff_ffff_0000n | (sregs.cr0 & 0xffffn));
  assert.equal(regs.rbx, sregs.cr0);
  assert.equal(regs.rcx, sregs.cr0);
  assert.equal(env.read64(At.DATA), 0xffff_ffff_ffff_0000n | (sregs.cr0 & 0xffffn));
});
test("LMSW: MP, EM, TS and PE only, from memory and a register (SDM 2, LMSW)", () => {
  const code = assembler("long").mov("ax", 0xfffa).hex("0f01f0").done();
  const before = run({ mode: "long", code: assembler("long").done() }).sregs.cr0;
  assert.equal(run({ mode: "long", code }).sregs.cr0, (before & ~0xen) | 0xan);
});

// --- CPUID ---

const cpuid = (leaf: number, sub = 0, more: (a: Asm) => Asm = (a) => a) => {
  const code = more(assembler("long")).mov("ax", leaf).mov("cx", sub).hex("0fa2").done();
  const { regs } = run({ mode: "long", code });
  return [regs.rax, regs.rbx, regs.rcx, regs.rdx].map(Number);
};
test("CPUID clears the upper halves and is there at CPL 3 (SDM 2, CPUID)", () => {
  const { end, regs } = run({
    mode: "long",
    cpl: 3,
    code: assembler("long").hex("0fa2").done(),
    regs: { rax: 0xffff_ffff_0000_0000n },
  });
  assert.equal(end, "done");
  assert.ok(regs.rax < 1n << 32n && regs.rax >= 7n);
});
test("CPUID: what it claims can be done, what it does not claim is #UD or #GP", () => {
  const [, , ecx1, edx1] = cpuid(1);
  const [, ebx7, ecx7] = cpuid(7);
  const [, , ecx81, edx81] = cpuid(0x80000001);
  const claims = (word: number, bit: number) => ((word >>> bit) & 1) === 1;
  const works = (op: string) =>
    vector({ mode: "long", code: assembler("long").mov("bx", At.DATA).hex(op).done() });
  const table: [string, boolean, string][] = [
    ["CMPXCHG8B", claims(edx1, 8), "0fc70b"],
    ["SSE2", claims(edx1, 26), "660f58c0"],
    ["SSE3", claims(ecx1, 0), "f20fd0c0"],
    ["PCLMULQDQ", claims(ecx1, 1), "660f3a44c000"],
    ["MONITOR", claims(ecx1, 3), "0f01c8"],
    ["SSSE3", claims(ecx1, 9), "660f3800c0"],
    ["CMPXCHG16B", claims(ecx1, 13), "480fc70b"],
    ["SSE4.1", claims(ecx1, 19), "660f3810c0"],
    ["SSE4.2", claims(ecx1, 20), "f20f38f0c0"],
    ["MOVBE", claims(ecx1, 22), "0f38f003"],
    ["POPCNT", claims(ecx1, 23), "f30fb8c0"],
    ["AES", claims(ecx1, 25), "660f38dcc0"],
    ["XSAVE", claims(ecx1, 26), "0f01d0"],
    ["RDRAND", claims(ecx1, 30), "0fc7f0"],
    ["INVPCID", claims(ebx7, 10), "660f388203"],
    ["RDSEED", claims(ebx7, 18), "0fc7f8"],
    ["ADX", claims(ebx7, 19), "660f38f6c0"],
    ["CLFLUSHOPT", claims(ebx7, 23), "660fae3b"],
    ["CLWB", claims(ebx7, 24), "660fae33"],
    ["SHA", claims(ebx7, 29), "0f38c8c0"],
    ["RDPKRU", claims(ecx7, 4), "0f01ee"],
    ["RDPID", claims(ecx7, 22), "f30fc7f8"],
    ["LAHF", claims(ecx81, 0), "9f"],
    ["RDTSCP", claims(edx81, 27), "0f01f9"],
    ["RDPRU", false, "0f01fd"],
    ["CLZERO", false, "0f01fc"],
    ["MONITORX", false, "0f01fa"],
    ["VMRUN", false, "0f01d8"],
    ["VMXON", false, "f30fc733"],
    ["XGETBV", claims(ecx1, 26), "0f01d0"],
    ["PCOMMIT", false, "660faef8"],
    ["66 0F AE F0", false, "660faef0"],
  ];
  for (const [name, claimed, op] of table) {
    const found = works(op);
    if (claimed) assert.notEqual(found, UD, `${name} is claimed`);
    else assert.equal(found, UD, `${name} is not claimed`);
  }
});
test("CPUID.1:ECX.OSXSAVE and CR4.OSXSAVE agree; without XSAVE the bit is reserved (SDM 2, CPUID)", () => {
  const [, , ecx] = cpuid(1);
  const settable =
    vector({
      mode: "long",
      code: assembler("long")
        .orCr(4, 1 << 18)
        .done(),
    }) === undefined;
  assert.equal(settable, ((ecx >>> 26) & 1) === 1);
  assert.equal((ecx >>> 27) & 1, 0);
});
test("CR4 takes the bits that CPUID claims and no others (SDM 3A, 2.5)", () => {
  const [, , ecx1, edx1] = cpuid(1);
  const [, ebx7, ecx7] = cpuid(7);
  const bit = (word: number, n: number) => ((word >>> n) & 1) === 1;
  const table: [name: string, position: number, claimed: boolean][] = [
    ["VME", 0, bit(edx1, 1)],
    ["TSD", 2, bit(edx1, 4)],
    ["DE", 3, bit(edx1, 2)],
    ["MCE", 6, bit(edx1, 7)],
    ["PGE", 7, bit(edx1, 13)],
    ["PCE", 8, true],
    ["UMIP", 11, bit(ecx7, 2)],
    ["LA57", 12, false],
    ["VMXE", 13, bit(ecx1, 5)],
    ["SMXE", 14, bit(ecx1, 6)],
    ["FSGSBASE", 16, bit(ebx7, 0)],
    ["PCIDE", 17, bit(ecx1, 17)],
    ["PKE", 22, bit(ecx7, 3)],
    ["CET", 23, false],
  ];
  for (const [name, position, claimed] of table) {
    assert.equal(
      vector({
        mode: "long",
        code: assembler("long")
          .orCr(4, 1 << position)
          .done(),
      }),
      claimed ? undefined : GP,
      name,
    );
  }
});

// --- time ---

test("RDTSC with CR4.TSD is #GP(0) above CPL 0 (SDM 2, RDTSC)", () => {
  const on: GuestImage["sregs"] = (s) => {
    s.cr4 |= 4n;
  };
  for (const op of ["0f31", "0f01f9"]) {
    assert.equal(vector({ mode: "long", cpl: 3, code: assembler("long").hex(op).done(), sregs: on }), GP);
    assert.equal(vector({ mode: "long", code: assembler("long").hex(op).done(), sregs: on }), undefined);
    assert.equal(vector({ mode: "long", cpl: 3, code: assembler("long").hex(op).done() }), undefined);
  }
});
test("IA32_TSC_ADJUST moves the TSC, and writes of the TSC move TSC_ADJUST (SDM 3B, 18.17.3)", () => {
  const tsc = (a: Asm, at: number) => a.hex("0f31 48c1e220 4809d0").store(at, "ax");
  const a = assembler("long").wrmsr(0x3b, 0);
  tsc(a, At.DATA).wrmsr(0x3b, 1_000_000_000_000n);
  tsc(a, At.DATA + 8).wrmsr(0x10, 5_000_000_000_000n);
  tsc(a, At.DATA + 16)
    .rdmsr(0x3b)
    .hex("48c1e220 4809d0")
    .store(At.DATA + 24, "ax")
    .done();
  const { env } = run({ mode: "long", code: a });
  const [t0, t1, t2, adjust] = [0, 8, 16, 24].map((at) => env.read64(At.DATA + at));
  assert.ok(t1 - t0 >= 1_000_000_000_000n && t1 - t0 < 1_100_000_000_000n);
  assert.ok(t2 >= 5_000_000_000_000n && t2 < 5_100_000_000_000n);
  // What the TSC would be without the adjustment goes on.
  assert.ok(t2 - adjust >= t0 && t2 - adjust < t0 + 100_000_000_000n);
  run({ mode: "long", code: assembler("long").wrmsr(0x3b, 0).done() });
});
test("the TSC does not go back", () => {
  const a = assembler("long").mov("cx", 2000).mov("si", 0).label("again");
  a.hex("51 0f31 59 48c1e220 4809c2 4839f2").jcc("c", "back").hex("4889d6 48ffc9").jcc("nz", "again").done();
  a.label("back").hex("0f0b");
  assert.equal(run({ mode: "long", code: a }).end, "done");
});
/** No processor has so many: the number's bits that select a kind of counter are clear (SDM 2, RDPMC). */
const NO_COUNTER = 0x100;

test("RDPMC: #GP(0) for a counter that is not there, and above CPL 0 without CR4.PCE (SDM 2, RDPMC)", () => {
  assert.equal(
    vector({ mode: "long", code: assembler("long").mov("cx", NO_COUNTER).hex("0f33").done() }),
    GP,
  );
  assert.equal(
    vector({ mode: "long", cpl: 3, code: assembler("long").mov("cx", NO_COUNTER).hex("0f33").done() }),
    GP,
  );
});

// --- FPU availability (SDM 3A, tables 2-2 and 13-1) ---

const X87 = "d9e8";
const WAIT = "9b";
const MMX = "0f6fc1";
const SSE = "0f28c1";
const FXSAVE = "0fae03";
type Bits = { em?: boolean; mp?: boolean; ts?: boolean; osfxsr?: boolean };
const AVAILABILITY: [what: string, op: string, bits: Bits, expected: number | undefined][] = [
  ["x87", X87, {}, undefined],
  ["x87, TS", X87, { ts: true }, NM],
  ["x87, EM", X87, { em: true }, NM],
  ["x87, EM and TS", X87, { em: true, ts: true }, NM],
  ["WAIT, TS without MP", WAIT, { ts: true, mp: false }, undefined],
  ["WAIT, TS and MP", WAIT, { ts: true, mp: true }, NM],
  ["WAIT, MP without TS", WAIT, { mp: true }, undefined],
  ["WAIT, EM", WAIT, { em: true, mp: false }, undefined],
  ["MMX", MMX, {}, undefined],
  ["MMX, TS", MMX, { ts: true }, NM],
  ["MMX, EM", MMX, { em: true }, UD],
  ["MMX, EM and TS", MMX, { em: true, ts: true }, UD],
  ["SSE", SSE, {}, undefined],
  ["SSE, TS", SSE, { ts: true }, NM],
  ["SSE, EM", SSE, { em: true }, UD],
  ["SSE, no OSFXSR", SSE, { osfxsr: false }, UD],
  ["SSE, no OSFXSR, TS", SSE, { osfxsr: false, ts: true }, UD],
  ["FXSAVE, TS", FXSAVE, { ts: true }, NM],
  ["FXSAVE, EM", FXSAVE, { em: true }, NM],
  ["FXSAVE, no OSFXSR", FXSAVE, { osfxsr: false }, undefined],
  ["LDMXCSR, no OSFXSR", "0fae13", { osfxsr: false }, UD],
  ["LDMXCSR, TS", "0fae13", { ts: true }, NM],
  ["LFENCE, no OSFXSR, EM, TS", "0faee8", { osfxsr: false, em: true, ts: true }, undefined],
  ["MFENCE, no OSFXSR", "0faef0", { osfxsr: false }, undefined],
  ["CLFLUSH, EM", "0fae3b", { em: true, osfxsr: false }, undefined],
  ["PREFETCH, EM", "0f180b", { em: true, osfxsr: false }, undefined],
  ["CRC32, no OSFXSR", "f20f38f0c0", { osfxsr: false, em: true }, undefined],
  ["POPCNT, EM", "f30fb8c0", { em: true, osfxsr: false }, undefined],
  ["MOVNTI, EM", "0fc303", { em: true }, undefined],
  ["FNCLEX, TS", "dbe2", { ts: true }, NM],
  ["FNSTSW, EM", "dfe0", { em: true }, NM],
];
for (const [what, op, bits, expected] of AVAILABILITY) {
  test(`${what}: ${expected === undefined ? "runs" : expected === UD ? "#UD" : "#NM"}`, () => {
    const found = vector({
      mode: "long",
      cpl: 3,
      code: assembler("long").mov("bx", At.DATA).hex(op).done(),
      memory: (e) => e.u32(At.DATA, 0x1f80),
      sregs: (s) => {
        if (bits.em === true) s.cr0 |= 4n;
        if (bits.ts === true) s.cr0 |= 8n;
        if (bits.mp === false) s.cr0 &= ~2n;
        if (bits.osfxsr === false) s.cr4 &= ~0x200n;
      },
    });
    assert.equal(found, expected);
  });
}
test("CR0.TS set by MOV CR0 and cleared by CLTS takes effect at once", () => {
  const a = assembler("long").orCr(0, 8).hex("0f06").hex(SSE).orCr(0, 8).hex(SSE).done();
  assert.equal(vector({ mode: "long", code: a }), NM);
});
test("#MF: the next waiting x87 or MMX instruction raises it, others do not (SDM 3A, 6.15, interrupt 16)", () => {
  const image = (op: string): GuestImage => ({
    mode: "long",
    // Unmask everything, then 1 / 0
    code: assembler("long").hex("dbe3").op("d9", 5, At.DATA).hex("d9ee d9e8 def1").nop().hex(op).done(),
    memory: (e) => e.u16(At.DATA, 0x300),
  });
  for (const op of [X87, WAIT, MMX, "d93425 00000300", "dd3425 00000300"].slice(0, 3))
    assert.equal(vector(image(op)), MF, op);
  for (const op of ["dbe2", "dbe3", "dfe0", "dd3c25 10000200", SSE])
    assert.equal(vector(image(op)), undefined, op);
});
test("#XM with CR4.OSXMMEXCPT, #UD without (SDM 3A, 6.15, interrupt 19)", () => {
  const image = (on: boolean): GuestImage => ({
    mode: "long",
    code: assembler("long").op("0fae", 2, At.DATA).hex("0f57c0 0f57c9 0f5ec8").done(),
    memory: (e) => e.u32(At.DATA, 0),
    sregs: (s) => {
      if (!on) s.cr4 &= ~0x400n;
    },
  });
  assert.equal(vector(image(true)), XM);
  assert.equal(vector(image(false)), UD);
});

// --- alignment ---

const aligned: GuestImage["sregs"] = (s) => {
  s.cr0 |= 1n << 18n;
};
const ALIGNMENT: [what: string, op: string, cpl: 0 | 3, ac: boolean, expected: number | undefined][] = [
  ["a word at an odd address", "66 8b4301", 3, true, AC],
  ["a doubleword on 2", "8b4302", 3, true, AC],
  ["a quadword on 4", "488b4304", 3, true, AC],
  ["an aligned quadword", "488b4308", 3, true, undefined],
  ["a byte", "8a4301", 3, true, undefined],
  ["without EFLAGS.AC", "8b4301", 3, false, undefined],
  ["at CPL 0", "8b4301", 0, true, undefined],
  ["a store", "894301", 3, true, AC],
  ["a read-modify-write", "014301", 3, true, AC],
  ["MOVSD", "a5", 3, true, AC],
  ["MOVUPS", "0f104301", 3, true, undefined],
  ["MOVAPS: #GP", "0f284301", 3, true, GP],
];
for (const [what, op, cpl, ac, expected] of ALIGNMENT) {
  test(`alignment check: ${what} (SDM 3A, 6.15, interrupt 17)`, () => {
    const found = run({
      mode: "long",
      cpl,
      code: assembler("long").hex(op).done(),
      regs: {
        rbx: BigInt(At.DATA),
        rsi: BigInt(At.DATA + 1),
        rdi: BigInt(At.DATA),
        rflags: BigInt((ac ? Flag.AC : 0) | Flag.IOPL3 | 2),
      },
      sregs: aligned,
    });
    if (what.startsWith("MOVUPS") && found.end === "fault")
      assert.equal(found.faults[0].vector, AC, "implementation-specific");
    else assert.equal(found.end === "done" ? undefined : found.faults[0].vector, expected);
    if (expected === AC) assert.equal(found.faults[0].error, 0);
  });
}
test("#GP for a non-canonical address comes before #AC (SDM 3A, table 6-2)", () => {
  const image = (bx: bigint): GuestImage => ({
    mode: "long",
    cpl: 3,
    code: assembler("long").hex("8b03").done(),
    regs: { rbx: bx, rflags: BigInt(Flag.AC | 2) },
    sregs: aligned,
  });
  assert.equal(vector(image(NON_CANONICAL + 1n)), GP);
  assert.equal(vector(image(BigInt(At.DATA + 0x1001))), AC);
});
