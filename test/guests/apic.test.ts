/** The local APIC as a guest meets it: modes, CR8, timers, NMIs that wait (SDM vol. 3A, chapter 11). */
import assert from "node:assert/strict";
import { after } from "node:test";
import type { Asm } from "./support/asm.js";
import { At, Pte } from "./support/environment.js";
import { assembler, Flag, type GuestImage, runGuest } from "./support/machine.js";
import { guestProvider, test } from "./support/provider.js";

const provider = guestProvider();
after(() => provider.close());
const { vcpu } = provider;
const run = (image: GuestImage) => runGuest(provider, image);

const APIC_BASE = 0x1b;
const BASE = 0xfee00000;
const [BSP, X2, EN] = [0x100, 0x400, 0x800];
/** IA32_APIC_BASE with the BSP flag and `bits`. */
const apicBase = (bits: number, at = BASE) => BigInt(at) | BigInt(BSP | bits);
/** The 1 GiB in which the APIC's page is. */
/** The fourth GiB in pages of 2 MiB: not every host has larger ones. */
const withApicPage: GuestImage["memory"] = (e) => {
  e.u64(At.PDPT + 24, BigInt(At.TABLES) | Pte.P | Pte.W);
  for (let i = 0; i < 512; i++) {
    e.u64(At.TABLES + 8 * i, BigInt(0xc000_0000 + i * 0x20_0000) | Pte.PS | Pte.P | Pte.W);
  }
};
const GP = 13;
const Apic = {
  EOI: 0x80b,
  SVR: 0x80f,
  ICR: 0x830,
  LVT_TIMER: 0x832,
  INITIAL: 0x838,
  CURRENT: 0x839,
  DIVIDE: 0x83e,
} as const;
const TSC_DEADLINE = 0x6e0;

const MODES: [from: string, path: number[], to: number, ok: boolean][] = [
  ["xAPIC to x2APIC", [EN], EN | X2, true],
  ["xAPIC to disabled", [EN], 0, true],
  ["xAPIC to x2APIC without EN", [EN], X2, false],
  ["x2APIC to xAPIC", [EN, EN | X2], EN, false],
  ["x2APIC to disabled", [EN, EN | X2], 0, true],
  ["x2APIC to x2APIC without EN", [EN, EN | X2], X2, false],
  ["disabled to x2APIC", [EN, 0], EN | X2, false],
  ["disabled to xAPIC", [EN, 0], EN, true],
  ["disabled to x2APIC without EN", [EN, 0], X2, false],
];
for (const [what, path, to, ok] of MODES) {
  test(`IA32_APIC_BASE: ${what} is ${ok ? "allowed" : "#GP(0)"} (SDM 3A, figure 11-27)`, () => {
    restored();
    const a = assembler("long");
    for (const bits of path) a.wrmsr(APIC_BASE, apicBase(bits));
    const { end, faults } = run({ mode: "long", code: a.wrmsr(APIC_BASE, apicBase(to)).done() });
    assert.equal(end, ok ? "done" : "fault");
    if (!ok) assert.deepEqual([faults[0].vector, faults[0].error], [GP, 0]);
    restored();
  });
}
/** The APIC as it was found: on, in xAPIC mode. */
function restored(): void {
  for (const bits of [0, EN]) vcpu.setMsrs([{ index: APIC_BASE, data: apicBase(bits) }]);
}

test("a disabled APIC: CPUID does not show it, its page is no APIC, CR8 works on (SDM 3A, 11.4.3)", () => {
  const a = assembler("long").wrmsr(APIC_BASE, apicBase(0)).mov("ax", 6).hex("440f22c0").hex("440f20c6");
  a.mov("ax", 1)
    .hex("0fa2")
    .hex("89d7")
    .mov("bx", BASE + 0x30)
    .hex("8b0b")
    .done();
  const { end, regs, accesses } = run({ mode: "long", code: a, memory: withApicPage });
  assert.equal(end, "done");
  assert.equal(regs.rsi, 6n);
  assert.equal(regs.rdi & 0x200n, 0n);
  assert.equal(regs.rcx, 0xffffffffn);
  assert.equal(accesses[0].address, BASE + 0x30);
  vcpu.setSregs({ ...vcpu.getSregs(), cr8: 0n });
  restored();
});
test("in x2APIC mode the page is no APIC; registers that do not exist are #GP (SDM 3A, 11.12)", () => {
  const a = assembler("long")
    .wrmsr(APIC_BASE, apicBase(EN | X2))
    .mov("bx", BASE + 0x30)
    .hex("8b0b")
    .done();
  const { accesses } = run({ mode: "long", code: a, memory: withApicPage });
  assert.equal(accesses.length, 1);
  for (const index of [0x801, 0x80e, 0x831, 0x840, 0x8ff]) {
    assert.equal(
      run({ mode: "long", code: assembler("long").rdmsr(index).done() }).faults[0]?.vector,
      GP,
      index.toString(16),
    );
  }
  // Read-only: the ID and the version; reserved bits of SVR and of the self-IPI.
  for (const [index, value] of [
    [0x802, 0],
    [0x803, 0],
    [Apic.SVR, 1n << 32n],
    [0x83f, 0x100],
    [Apic.EOI, 1],
  ] as const) {
    assert.equal(
      run({ mode: "long", code: assembler("long").wrmsr(index, value).done() }).faults[0]?.vector,
      GP,
      index.toString(16),
    );
  }
  restored();
  assert.equal(
    run({ mode: "long", code: assembler("long").rdmsr(0x802).done() }).faults[0]?.vector,
    GP,
    "xAPIC mode has no MSRs",
  );
});
test("the APIC's page can be moved (SDM 3A, 11.4.5)", () => {
  const a = assembler("long")
    .wrmsr(APIC_BASE, apicBase(EN, 0xfed40000))
    .mov("bx", 0xfed40030)
    .hex("8b0b")
    .done();
  const { regs, accesses } = run({ mode: "long", code: a, memory: withApicPage });
  assert.equal(accesses.length, 0);
  assert.ok((regs.rcx & 0xffn) >= 0x10n && (regs.rcx & 0xffn) <= 0x15n);
  restored();
});
test("CR8 and the TPR register are one (SDM 3A, 11.8.6.1)", () => {
  const a = assembler("long")
    .mov("bx", BASE + 0x80)
    .hex("c703 53000000")
    .hex("440f20c1")
    .mov("ax", 9)
    .hex("440f22c0")
    .hex("8b13");
  a.hex("c703 00000000").done();
  const { regs } = run({ mode: "long", code: a, memory: withApicPage });
  assert.deepEqual([regs.rcx, regs.rdx], [5n, 0x90n]);
});

// --- timers ---

const X2APIC = { index: APIC_BASE, data: apicBase(EN | X2) };
function timed(body: (a: Asm) => Asm) {
  const vectors: number[] = [];
  const result = run({
    mode: "long",
    code: body(assembler("long").wrmsr(Apic.SVR, 0x1ff)).done(),
    msrs: [X2APIC],
    regs: { rflags: BigInt(Flag.IF | 2) },
    onFault(fault) {
      vectors.push(fault.vector);
      if (fault.vector >= 32) vcpu.setMsrs([{ index: Apic.EOI, data: 0n }]);
      return "resume";
    },
  });
  return { ...result, vectors };
}

test("TSC-deadline: a deadline that has passed comes at once, and the MSR reads zero (SDM 3A, 11.5.4.1)", () => {
  const { vectors, regs } = timed((a) =>
    a
      .wrmsr(Apic.LVT_TIMER, 0x400ef)
      .hex("0f31")
      .mov32("cx", TSC_DEADLINE)
      .hex("0f30")
      .nop()
      .out(0x80)
      .rdmsr(TSC_DEADLINE),
  );
  assert.deepEqual(vectors, [0xef]);
  assert.equal(regs.rax | regs.rdx, 0n);
});
test("TSC-deadline: writing zero disarms; in other modes the MSR is ignored (SDM 3A, 11.5.4.1)", () => {
  const future = (a: Asm) => a.hex("0f31 ffc2 ffc2").mov32("cx", TSC_DEADLINE).hex("0f30");
  const { vectors, regs } = timed((a) =>
    future(a.wrmsr(Apic.LVT_TIMER, 0x400ef)).wrmsr(TSC_DEADLINE, 0).rdmsr(TSC_DEADLINE),
  );
  assert.deepEqual(vectors, []);
  assert.equal(regs.rax | regs.rdx, 0n);
  const other = timed((a) => future(a.wrmsr(Apic.LVT_TIMER, 0xef)).rdmsr(TSC_DEADLINE));
  assert.equal(other.regs.rax | other.regs.rdx, 0n);
});
test("one-shot: the count goes down to zero, one interrupt (SDM 3A, 11.5.4)", () => {
  // 100 ms: the first look at the count has to come before its end, on a busy host, too.
  const INITIAL = 100_000_000;
  const { vectors, regs } = timed((a) => {
    a.wrmsr(Apic.DIVIDE, 0xb)
      .wrmsr(Apic.LVT_TIMER, 0xee)
      .wrmsr(Apic.INITIAL, INITIAL)
      .rdmsr(Apic.CURRENT)
      .hex("89c6");
    return a
      .label("wait")
      .rdmsr(Apic.CURRENT)
      .hex("85c0")
      .jcc("nz", "wait")
      .nop()
      .out(0x80)
      .rdmsr(Apic.CURRENT);
  });
  assert.deepEqual(vectors, [0xee]);
  assert.ok(regs.rsi > 0n && regs.rsi <= BigInt(INITIAL));
  assert.equal(regs.rax, 0n);
});
test("periodic: interrupts keep coming until the initial count is zero (SDM 3A, 11.5.4)", () => {
  let count = 0;
  const a = assembler("long")
    .wrmsr(Apic.SVR, 0x1ff)
    .wrmsr(Apic.DIVIDE, 0xb)
    .wrmsr(Apic.LVT_TIMER, 0x200ee)
    .wrmsr(Apic.INITIAL, 200_000);
  a.label("wait").hlt().hex("833c25").value(At.DATA, 4).db(4).jcc("c", "wait").wrmsr(Apic.INITIAL, 0).done();
  const { end } = run({
    mode: "long",
    code: a,
    msrs: [X2APIC],
    regs: { rflags: BigInt(Flag.IF | 2) },
    onFault(_, __, env) {
      env.u32(At.DATA, ++count);
      vcpu.setMsrs([{ index: Apic.EOI, data: 0n }]);
      return "resume";
    },
  });
  assert.equal(end, "done");
  assert.ok(count >= 4);
});

// --- NMIs ---

test("NMIs that arrive in an NMI's handler are one more, not many (SDM 3A, 6.7.1)", () => {
  const { vectors } = (() => {
    const seen: number[] = [];
    run({
      mode: "long",
      code: assembler("long").wrmsr(Apic.SVR, 0x1ff).wrmsr(Apic.ICR, 0x44400).nop(4).done(),
      msrs: [X2APIC],
      onFault(fault) {
        seen.push(fault.vector);
        if (seen.length === 1) for (let i = 0; i < 10; i++) vcpu.nmi();
        return "resume";
      },
    });
    return { vectors: seen };
  })();
  assert.deepEqual(vectors, [2, 2]);
});
test("an NMI does not come between STI and the next instruction", () => {
  const rips: number[] = [];
  // The NMI is asked for by the instruction before STI: it comes there, or after the one that follows STI.
  const a = assembler("long")
    .wrmsr(Apic.SVR, 0x1ff)
    .hex("fb")
    .wrmsr(Apic.ICR, 0x44400)
    .hex("fa fb")
    .nop(3)
    .done();
  const sti = a.length - 5;
  run({
    mode: "long",
    code: a,
    msrs: [X2APIC],
    onFault(fault) {
      rips.push(Number(fault.rip) - At.CODE);
      return "resume";
    },
  });
  assert.equal(rips.length, 1);
  assert.notEqual(rips[0], sti);
});
