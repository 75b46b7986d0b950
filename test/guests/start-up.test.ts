/** Start of further processors, and INIT (SDM vol. 3A, 9.4, 10.1; table 10-1): two vCPUs, run by turns in one thread. */
import assert from "node:assert/strict";
import { after } from "node:test";
import { ExitReason, MpState, type Vcpu } from "../../src/hypervisor/seam.js";
import { gpa } from "../../src/memory/guest-memory.js";
import { type Asm, DONE_PORT } from "./support/asm.js";
import { At } from "./support/environment.js";
import { assembler, runGuest } from "./support/machine.js";
import { guestProvider, test } from "./support/provider.js";

const provider = guestProvider(2);
after(() => provider.close());
const { vm, memory, vcpu: first } = provider;
const second = vm.vcpu(1);

const SVR = 0x80f;
const ICR = 0x830;
const Icr = {
  INIT: 0x4500,
  INIT_DEASSERT: 0x8500,
  STARTUP: 0x600,
  ALL_BUT_SELF: 0xc0000,
  NMI: 0x4400,
} as const;
const X2APIC = [{ index: 0x1b, data: 0xfee00d00n }];
/** An IPI to processor 1. */
const ipi = (a: Asm, value: number) => a.wrmsr(ICR, (1n << 32n) | BigInt(value));

/** Run the second vCPU until it writes to DONE_PORT; its RIP. */
function runSecond(vcpu: Vcpu = second): number {
  const reason = provider.watched(() => vcpu.run());
  assert.equal(reason, ExitReason.IO, "the second vCPU does not end");
  assert.equal(vcpu.exit.port, DONE_PORT);
  return vcpu.exit.data[0];
}

/** 16-bit code for the second vCPU at page `page`: AL to DONE_PORT. */
function startCode(page: number, al: number): void {
  memory.write(gpa(page << 12), Uint8Array.from([0xb0, al, 0xe6, DONE_PORT, 0xf4]));
}

const send = (body: (a: Asm) => Asm) => {
  const { end } = runGuest(provider, {
    mode: "long",
    code: body(assembler("long").wrmsr(SVR, 0x1ff)).done(),
    msrs: X2APIC,
  });
  assert.equal(end, "done");
};

test("a second processor waits for INIT and start-up IPI (SDM 3A, 9.4.3)", () => {
  assert.equal(second.getMpState(), MpState.UNINITIALIZED);
});

test("INIT, then a start-up IPI: real mode at the vector's page, state as after INIT (SDM 3A, 9.4.3, table 10-1)", () => {
  send((a) => ipi(ipi(a, Icr.INIT), Icr.STARTUP | 0x07));
  startCode(0x07, 0x21);
  assert.equal(runSecond(), 0x21);
  const sregs = second.getSregs();
  assert.deepEqual([sregs.cs.selector, sregs.cs.base], [0x700, 0x7000n]);
  assert.equal(sregs.cr0, 0x6000_0010n);
  assert.deepEqual([sregs.cr3, sregs.cr4, sregs.efer], [0n, 0n, 0n]);
  for (const name of ["ds", "es", "fs", "gs", "ss"] as const) {
    assert.deepEqual([sregs[name].selector, sregs[name].base, sregs[name].limit], [0, 0n, 0xffff]);
  }
  assert.deepEqual([sregs.idt.base, sregs.idt.limit], [0n, 0xffff]);
  const regs = second.getRegs();
  assert.equal(regs.rflags, 2n);
  assert.equal(regs.rsp, 0n);
  assert.equal(second.getDebugRegs().dr7, 0x400n);
});

test("a start-up IPI to a processor that runs is ignored (SDM 3A, 9.4.4.1)", () => {
  memory.write(gpa(0x7004), Uint8Array.from([0xb0, 0x22, 0xe6, DONE_PORT, 0xf4]));
  startCode(0x09, 0x33);
  send((a) => ipi(a, Icr.STARTUP | 0x09));
  startCode(0x07, 0x21);
  memory.write(gpa(0x7004), Uint8Array.from([0xb0, 0x22, 0xe6, DONE_PORT, 0xf4]));
  assert.equal(runSecond(), 0x22);
});

test("INIT stops a processor that runs; it waits for a start-up IPI, an NMI does not wake it (SDM 3A, 9.4)", () => {
  send((a) => ipi(a, Icr.INIT));
  second.kick();
  assert.equal(second.run(), ExitReason.INTR);
  assert.equal(second.getMpState(), MpState.INIT_RECEIVED);
  send((a) => ipi(a, Icr.NMI));
  second.kick();
  assert.equal(second.run(), ExitReason.INTR);
  assert.equal(second.getMpState(), MpState.INIT_RECEIVED);
  // Another INIT drops the NMI.
  send((a) => ipi(ipi(a, Icr.INIT), Icr.STARTUP | 0x0d));
  startCode(0x0d, 0x44);
  assert.equal(runSecond(), 0x44);
});

test("INIT keeps MSRs, the FPU and the time-stamp counter (SDM 3A, table 10-1)", () => {
  second.setMsrs([{ index: 0xc0000082, data: 0x1234n }]);
  const fpu = second.getFpu();
  second.setFpu({ ...fpu, mxcsr: 0x1fa0 });
  const before = second.getMsrs([0x10])[0].data;
  send((a) => ipi(ipi(a, Icr.INIT), Icr.STARTUP | 0x0d));
  startCode(0x0d, 0x45);
  assert.equal(runSecond(), 0x45);
  assert.equal(second.getMsrs([0xc0000082])[0].data, 0x1234n);
  assert.equal(second.getFpu().mxcsr, 0x1fa0);
  assert.ok(second.getMsrs([0x10])[0].data > before);
});

test("INIT level de-assert has no effect (SDM 3A, 11.6.1)", () => {
  memory.write(gpa(0xd004), Uint8Array.from([0xb0, 0x46, 0xe6, DONE_PORT, 0xf4]));
  send((a) => ipi(a, Icr.INIT_DEASSERT));
  memory.write(gpa(0xd004), Uint8Array.from([0xb0, 0x46, 0xe6, DONE_PORT, 0xf4]));
  assert.equal(runSecond(), 0x46);
});

test("the all-but-self shorthand starts the others, too (SDM 3A, 11.6.1)", () => {
  send((a) =>
    a
      .wrmsr(ICR, BigInt(Icr.ALL_BUT_SELF | Icr.INIT))
      .wrmsr(ICR, BigInt(Icr.ALL_BUT_SELF | Icr.STARTUP | 0x0e)),
  );
  startCode(0x0e, 0x55);
  assert.equal(runSecond(), 0x55);
  assert.equal(first.getMpState(), MpState.RUNNABLE);
});

test("the started processor: from real to 64-bit mode with its own registers", () => {
  send((a) => ipi(ipi(a, Icr.INIT), Icr.STARTUP | 0x0e));
  // What runGuest left: page tables and GDT of 64-bit mode.
  const a = assembler("real");
  a.hex("66 0f0116").address("gdtr", 2).orCr(4, 0x20).setCr(3, At.PML4).wrmsr(0xc0000080, 0x100);
  a.orCr(0, 0x8000_0001 | 0)
    .hex("66 ea")
    .address("long32", 4)
    .value(0x08, 2);
  const prefix = a.length;
  a.label("gdtr").value(0x7ff, 2).value(At.GDT, 4);
  // Linear address of the 64-bit code: this page is 0xE000.
  const bytes = a
    .label("long32")
    .use(64)
    .mov("bx", 0x1_2345_6789n)
    .mov("ax", 0x66)
    .hex(`e6 ${DONE_PORT.toString(16)}`)
    .bytes();
  const target = 0xe000 + a.at("long32");
  const view = new DataView(bytes.buffer);
  view.setUint32(prefix - 6, target, true);
  memory.write(gpa(0xe000), bytes);
  // Offsets of real-mode data accesses are relative to DS = 0.
  view.setUint16(4, 0xe000 + a.at("gdtr"), true);
  memory.write(gpa(0xe000), bytes);
  assert.equal(runSecond(), 0x66);
  assert.equal(second.getRegs().rbx, 0x1_2345_6789n);
  assert.equal(second.getSregs().efer, 0x500n);
});
