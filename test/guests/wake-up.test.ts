/** Interrupts from outside, NMIs, HLT, and when they are held back (SDM vol. 3A, 6.3, 6.6–6.8, 11.8; vol. 2, STI, HLT). */
import assert from "node:assert/strict";
import { after } from "node:test";
import { MpState } from "../../src/hypervisor/seam.js";
import type { Asm } from "./support/asm.js";
import { At, type Environment, HANDLER_BYTES, Sel } from "./support/environment.js";
import { assembler, type Fault, Flag, type GuestImage, runGuest } from "./support/machine.js";
import { guestProvider, test } from "./support/provider.js";

const provider = guestProvider();
after(() => provider.close());
const { vcpu } = provider;
const run = (image: GuestImage) => runGuest(provider, image);

const IF = { rflags: BigInt(Flag.IF | 2) };
const X2APIC = { index: 0x1b, data: 0xfee00d00n };
/** x2APIC MSRs (SDM vol. 3A, table 11-6). */
const Apic = {
  TPR: 0x808,
  EOI: 0x80b,
  SVR: 0x80f,
  ISR: 0x810,
  ICR: 0x830,
  LVT_TIMER: 0x832,
  INITIAL: 0x838,
  DIVIDE: 0x83e,
  SELF_IPI: 0x83f,
} as const;

/** The local APIC switched on, in x2APIC mode. */
const apicOn = (a: Asm) => a.wrmsr(Apic.SVR, 0x1ff).wrmsr(Apic.TPR, 0);
const selfIpi = (a: Asm, vector: number) => a.wrmsr(Apic.SELF_IPI, vector);
const selfNmi = (a: Asm) => a.wrmsr(Apic.ICR, 0x44400n);

/** Run with every interrupt resumed after an EOI of it, as handlers do. */
function interrupts(image: Omit<GuestImage, "onFault">, onFault?: (fault: Fault) => void) {
  const seen: Fault[] = [];
  const result = run({
    ...image,
    msrs: [X2APIC, ...(image.msrs ?? [])],
    onFault(fault) {
      seen.push(fault);
      if (fault.vector >= 32) vcpu.setMsrs([{ index: Apic.EOI, data: 0n }]);
      onFault?.(fault);
      return "resume";
    },
  });
  return { ...result, seen, rips: seen.map((f) => Number(f.rip) - At.CODE) };
}

test("an interrupt comes when IF is set: vector, saved RIP, no error code (SDM 3A, 6.8.1)", () => {
  const a = selfIpi(apicOn(assembler("long")), 0x41);
  const { seen, end } = interrupts({ mode: "long", code: a.nop().done(), regs: IF });
  assert.equal(end, "done");
  assert.equal(seen.length, 1);
  assert.equal(seen[0].vector, 0x41);
  assert.equal(seen[0].error, undefined);
  assert.equal(seen[0].flags & Flag.IF, Flag.IF);
});
test("with IF clear it waits; after STI one more instruction is run (SDM 2, STI)", () => {
  const a = selfIpi(apicOn(assembler("long")), 0x41).nop(3);
  const sti = a.length;
  const { rips } = interrupts({ mode: "long", code: a.hex("fb 90 90 90").done() });
  assert.deepEqual(rips, [sti + 2]);
});
test("STI with IF set already holds nothing back", () => {
  const a = apicOn(assembler("long")).hex("fb");
  const { seen } = interrupts({ mode: "long", code: selfIpi(a, 0x41).hex("fb 90 90").done(), regs: IF });
  assert.equal(seen.length, 1);
});
test("STI; CLI: no interrupt comes between (SDM 2, STI)", () => {
  const a = selfIpi(apicOn(assembler("long")), 0x41);
  const { seen } = interrupts({ mode: "long", code: a.hex("fb fa 90 90").done() });
  assert.equal(seen.length, 0);
  // Drop it
  interrupts({ mode: "long", code: assembler("long").hex("fb 90 90").done() });
});
test("STI at the end of a page, and the instruction that it holds back for in the next", () => {
  const a = selfIpi(apicOn(assembler("long")), 0x41)
    .jmp("x")
    .padTo(At.CODE + 0xfff)
    .label("x")
    .hex("fb")
    .nop(3)
    .done();
  assert.deepEqual(interrupts({ mode: "long", code: a }).rips, [0x1001]);
});
test("MOV SS and POP SS hold interrupts back for one instruction (SDM 3A, 6.8.3)", () => {
  const a = apicOn(assembler("protected32")).mov("bx", Sel.DATA);
  const b = selfIpi(a, 0x41).hex("8ed3").nop(3);
  const at = b.length - 5;
  const { rips } = interrupts({ mode: "protected32", code: b.done(), regs: IF });
  // The IPI itself may come right after the WRMSR, or is held back by MOV SS.
  assert.ok(rips[0] === at || rips[0] === at + 3, `${rips}`);
  assert.equal(rips.length, 1);
});
test("POPF and IRET that set IF let a waiting interrupt in at once", () => {
  const a = selfIpi(apicOn(assembler("long")), 0x41)
    .pushImm(Flag.IF | 2)
    .hex("9d");
  const after = a.length;
  assert.deepEqual(interrupts({ mode: "long", code: a.nop(2).done() }).rips, [after]);
  const b = selfIpi(apicOn(assembler("protected32")), 0x41)
    .pushImm(Flag.IF | 2)
    .pushImm(Sel.CODE32)
    .hex("68")
    .address("x", 4)
    .hex("cf");
  b.label("x").nop(2).done();
  assert.deepEqual(interrupts({ mode: "protected32", code: b }).rips, [b.at("x") - At.CODE]);
});
test("the handler's IRET at the end lets the next waiting interrupt in; the higher vector comes first (SDM 3A, 11.8.3)", () => {
  const a = selfIpi(selfIpi(apicOn(assembler("long")), 0x41), 0x52)
    .hex("fb")
    .nop(2)
    .done();
  assert.deepEqual(
    interrupts({ mode: "long", code: a }).seen.map((f) => f.vector),
    [0x52, 0x41],
  );
});
test("the TPR holds back vectors of its class and below (SDM 3A, 11.8.3.1)", () => {
  const a = apicOn(assembler("long")).wrmsr(Apic.TPR, 0x40).hex("fb");
  selfIpi(a, 0x4f).nop();
  const low = a.length;
  a.wrmsr(Apic.TPR, 0x30).nop(2).done();
  const { rips } = interrupts({ mode: "long", code: a });
  assert.equal(rips.length, 1);
  assert.ok(rips[0] > low);
});
test("CR8 is the TPR: lowering it lets an interrupt in (SDM 3A, 11.8.6.1)", () => {
  const a = apicOn(assembler("long")).mov("ax", 5).hex("440f22c0").hex("fb");
  selfIpi(a, 0x51).nop();
  const low = a.length;
  a.mov("ax", 4).hex("440f22c0").nop(2).done();
  const { rips } = interrupts({ mode: "long", code: a });
  assert.deepEqual(rips, [low + 5 + 4]);
});

// --- HLT ---

/** The APIC timer, once, after `count` ticks. */
const timer = (a: Asm, vector: number, count: number) =>
  a.wrmsr(Apic.DIVIDE, 0xb).wrmsr(Apic.LVT_TIMER, vector).wrmsr(Apic.INITIAL, count);

test("HLT sleeps until an interrupt; it returns to the next instruction (SDM 2, HLT)", () => {
  const a = timer(apicOn(assembler("long")), 0x61, 2_000_000).hex("fb f4");
  const after = a.length;
  const { rips, end } = interrupts({ mode: "long", code: a.done() });
  assert.equal(end, "done");
  assert.deepEqual(rips, [after]);
});
test("HLT with an interrupt waiting goes on at once", () => {
  const a = selfIpi(apicOn(assembler("long")), 0x41).hex("fb f4");
  const after = a.length;
  assert.deepEqual(interrupts({ mode: "long", code: a.done() }).rips, [after]);
});
test("HLT at the end of a page after STI does not lose the interrupt", () => {
  const a = timer(apicOn(assembler("long")), 0x61, 2_000_000)
    .jmp("x")
    .padTo(At.CODE + 0xfff)
    .label("x")
    .hex("fb f4")
    .done();
  const { rips } = interrupts({ mode: "long", code: a });
  assert.deepEqual(rips, [0x1001]);
});
test("an NMI ends HLT with IF clear (SDM 2, HLT)", () => {
  // The vCPU is halted after its OUT, and an NMI waits.
  const { seen, end } = interrupts({
    mode: "long",
    code: assembler("long").out(0x80).done(),
    onAccess: (_, v) => {
      v.setMpState(MpState.HALTED);
      v.nmi();
    },
  });
  assert.equal(end, "done");
  assert.deepEqual(
    seen.map((f) => f.vector),
    [2],
  );
});
test("a REP that is interrupted goes on where it stood (SDM 2, REP)", () => {
  // The timer comes in the middle of a long REP LODSB.
  const a = timer(apicOn(assembler("long")), 0x61, 1_000_000)
    .mov("cx", 3_000_000)
    .mov("si", 0)
    .hex("fb");
  const rep = a.length;
  const { rips, regs, seen } = interrupts({ mode: "long", code: a.hex("f3ac").done() });
  assert.equal(regs.rcx, 0n);
  assert.equal(regs.rsi, 3_000_000n);
  if (rips[0] === rep) assert.equal(seen[0].flags & Flag.RF, Flag.RF);
});

// --- NMI ---

test("an NMI comes whatever IF is; no other before IRET (SDM 3A, 6.7.1)", () => {
  const a = apicOn(assembler("long"));
  selfNmi(a).nop(2).done();
  let nested = 0;
  const { seen, end } = interrupts({ mode: "long", code: a }, (fault) => {
    if (fault.vector === 2 && nested++ === 0) vcpu.nmi();
  });
  assert.equal(end, "done");
  assert.deepEqual(
    seen.map((f) => f.vector),
    [2, 2],
  );
  // The second comes where the first returned to, not in its handler.
  assert.equal(seen[1].rip, seen[0].rip);
  assert.equal(seen[1].sp, seen[0].sp);
});
test("IRET ends the masking of NMIs even where it faults (SDM 3A, 6.7.1)", () => {
  // The handler's own IRET faults: CS in its frame is null.
  const a = apicOn(assembler("long"));
  selfNmi(a).nop(2).done();
  let count = 0;
  const { seen } = interrupts(
    { mode: "long", code: a, memory: (e: Environment) => e.handlerGate(13, { ist: 1 }) },
    (fault) => {
      const { memory } = provider;
      if (fault.vector === 2 && count++ === 0) {
        memory.writeU64((fault.frame + 8) as never, 0n);
        vcpu.nmi();
      }
      if (fault.vector === 13) memory.writeU64((Number(fault.sp) + 8) as never, BigInt(Sel.CODE64));
    },
  );
  // The second NMI comes at #GP's first instruction or after it, but before that handler's end unmasks it.
  assert.deepEqual(seen.map((f) => f.vector).sort(), [13, 2, 2].sort());
});
test("MOV SS holds an NMI back for one instruction (SDM 3A, 6.8.3)", () => {
  const a = assembler("protected32").mov("bx", Sel.DATA).out(0x80).hex("8ed3").nop(3);
  const at = a.length - 5;
  const { rips } = interrupts({ mode: "protected32", code: a.done(), onAccess: (_, v) => v.nmi() });
  assert.ok(rips[0] === at || rips[0] === at + 3);
});
test("an NMI under TF: #DB is delivered first, and the NMI before its handler's first instruction (SDM 3A, table 6-2)", () => {
  const { seen } = interrupts({
    mode: "long",
    code: assembler("long").out(0x80).nop().done(),
    regs: { rflags: BigInt(Flag.TF | 2) },
    onAccess: (_, v) => v.nmi(),
  });
  assert.deepEqual(
    seen.slice(0, 2).map((f) => [f.vector, Number(f.rip)]),
    [
      [2, At.HANDLERS + HANDLER_BYTES],
      [1, At.CODE + 2],
    ],
  );
});

// --- interrupts and exits ---

test("an interrupt that arrives while the machine answers an MMIO read comes after the instruction", () => {
  let asked = 0;
  const a = apicOn(assembler("long")).hex("fb").op("48 01", 0, At.MMIO);
  const after = a.length;
  const { rips, accesses } = interrupts({
    mode: "long",
    code: a.done(),
    read: () => {
      if (asked++ === 0) vcpu.setMsrs([{ index: Apic.SELF_IPI, data: 0x41n }]);
      return 5;
    },
  });
  assert.deepEqual(rips, [after]);
  assert.deepEqual(
    accesses.map((x) => x.isWrite),
    [false, true],
  );
});
test("the same for IN and INS: the port is read once", () => {
  for (const op of ["e480", "6c"]) {
    let asked = 0;
    const a = apicOn(assembler("long")).mov("di", At.DATA).mov("dx", 0x80).hex("fb").hex(op);
    const after = a.length;
    const { rips, accesses } = interrupts({
      mode: "long",
      code: a.done(),
      read: () => {
        if (asked++ === 0) vcpu.setMsrs([{ index: Apic.SELF_IPI, data: 0x41n }]);
        return 5;
      },
    });
    assert.deepEqual(rips, [after], op);
    assert.equal(accesses.length, 1, op);
  }
});

// --- delivery that fails ---

test("an interrupt whose gate is not present is #NP with EXT; it is served all the same (SDM 3A, 6.13)", () => {
  const a = selfIpi(apicOn(assembler("long")), 0x41)
    .hex("fb")
    .nop(2)
    .done();
  const { seen } = interrupts(
    {
      mode: "long",
      code: a,
      memory: (e) => e.handlerGate(0x41, { present: false }),
    },
    (fault) => {
      if (fault.vector === 11) vcpu.setMsrs([{ index: Apic.EOI, data: 0n }]);
    },
  );
  assert.deepEqual([seen[0].vector, seen[0].error], [11, 0x41 * 8 + 3]);
});
test("an interrupt in virtual-8086 mode and in compatibility mode", () => {
  for (const mode of ["compat", "v86"] as const) {
    const a = assembler(mode).out(0x80).nop(3).done();
    const { seen, end } = interrupts({
      mode,
      code: a,
      cpl: mode === "compat" ? 3 : 0,
      regs: { rflags: BigInt((mode === "v86" ? Flag.VM : 0) | Flag.IF | Flag.IOPL3 | 2) },
      onAccess: () =>
        vcpu.setMsrs([
          { index: Apic.SVR, data: 0x1ffn },
          { index: Apic.SELF_IPI, data: 0x41n },
        ]),
    });
    assert.equal(end, "done", mode);
    assert.deepEqual(
      seen.map((f) => f.vector),
      [0x41],
      mode,
    );
  }
});
test("a spurious interrupt has the vector of SVR and sets no bit of ISR: not seen where none is asked for", () => {
  const a = apicOn(assembler("long")).hex("fb").nop(10).done();
  assert.equal(interrupts({ mode: "long", code: a }).seen.length, 0);
});
