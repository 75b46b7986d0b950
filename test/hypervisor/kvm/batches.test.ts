/**
 * A KVM without hardware virtualization, and the software CPU that runs the guest there but for what only KVM has: what a guest
 * sees must not depend on which of the two does an instruction.
 */
import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { hardwareVirtualization } from "../../../src/hypervisor/kvm/host-cpu.js";
import { type DebugRegs, ExitReason } from "../../../src/hypervisor/seam.js";
import { gpa } from "../../../src/memory/guest-memory.js";
import {
  CODE,
  hex,
  makeMachine,
  noKvm,
  startLongMode,
  startRealMode,
  type TestMachine,
} from "./support/kvm-machine.js";

const hardware = hardwareVirtualization();
const skip =
  noKvm !== false
    ? noKvm
    : hardware !== undefined && `the CPU has ${hardware}: KVM runs the guest's kernel on it`;

const DEVICE = 0x3ff00000n;
const PAGE = 4096;

describe("batches of the software CPU", { skip }, () => {
  let machine: TestMachine;
  beforeEach(() => {
    machine = makeMachine({ batches: true });
  });
  afterEach(() => machine.vm.close());

  const batches = () => machine.vcpu.getStats().emulationBatches;

  test("the guest finds in CPUID what was set, whatever the processor has", () => {
    const { vcpu, vm } = machine;
    vcpu.setCpuid(vm.supportedCpuid());
    const [leaf] = vm.supportedCpuid().filter(({ function: fn }) => fn === 1);
    // mov eax, 1; cpuid; mov eax, ecx; out 0x10, eax
    startLongMode(machine, "b801000000 0fa2 89c8 e710");
    assert.equal(vcpu.run(), ExitReason.IO);
    const seen = new DataView(vcpu.exit.data.buffer, vcpu.exit.data.byteOffset).getUint32(0, true);
    assert.equal(seen, leaf.ecx);
    assert.ok(batches() >= 1);
  });

  test("ports: exits with their answers, and the 8259s, which are KVM's", () => {
    // mov al, 0x5a; out 0x21, al; in al, 0x60; mov bl, al; in al, 0x21; mov ah, bl; out 0x10, ax
    startRealMode(machine, "b05a e621 e460 88c3 e421 88dc e710");
    const { vcpu } = machine;
    assert.equal(vcpu.run(), ExitReason.IO);
    assert.deepEqual([vcpu.exit.port, vcpu.exit.isWrite], [0x60, false]);
    vcpu.exit.data[0] = 0x77;
    assert.equal(vcpu.run(), ExitReason.IO);
    assert.deepEqual([vcpu.exit.port, ...vcpu.exit.data.subarray(0, 2)], [0x10, 0x5a, 0x77]);
  });

  test("the registers are whole at an exit, before its answer and after it", () => {
    startRealMode(machine, "b90700 e460 ebfe");
    const { vcpu } = machine;
    assert.equal(vcpu.run(), ExitReason.IO);
    vcpu.exit.data[0] = 0x42;
    const { rax, rcx, rip } = vcpu.getRegs();
    assert.deepEqual([rax, rcx, rip], [0x42n, 7n, BigInt(CODE + 5)]);
    vcpu.setRegs({ ...vcpu.getRegs(), rip: BigInt(CODE) });
    assert.equal(vcpu.run(), ExitReason.IO);
  });

  test("memory that is a device's", () => {
    // mov eax, [rbx]; mov [rbx+8], rax; out 0x10, al
    startLongMode(machine, "8b03 48894308 e610", { rbx: DEVICE });
    const { vcpu } = machine;
    const { exit } = vcpu;
    assert.equal(vcpu.run(), ExitReason.MMIO);
    assert.deepEqual([exit.address, exit.size, exit.isWrite], [Number(DEVICE), 4, false]);
    exit.data.set([1, 2, 3, 4]);
    assert.equal(vcpu.run(), ExitReason.MMIO);
    assert.deepEqual([exit.address, exit.isWrite], [Number(DEVICE) + 8, true]);
    assert.deepEqual([...exit.data.subarray(0, 8)], [1, 2, 3, 4, 0, 0, 0, 0]);
    assert.equal(vcpu.run(), ExitReason.IO);
  });

  test("kick ends a loop, and what came before it is not lost", () => {
    // mov cl, 9; jmp $
    startRealMode(machine, "b109 ebfe");
    const { vcpu } = machine;
    vcpu.kick();
    assert.equal(vcpu.run(), ExitReason.INTR);
    startRealMode(machine, "b109 e610 ebfe");
    assert.equal(vcpu.run(), ExitReason.IO);
    vcpu.kick();
    assert.equal(vcpu.run(), ExitReason.INTR);
    assert.equal(vcpu.getRegs().rcx, 9n);
  });

  test("HLT sleeps until an interrupt comes, and the interrupt is taken", () => {
    const { vcpu, vm, guestMemory } = machine;
    // As in run.test.ts: the 8259s to vector 8 and on, all unmasked; out 0x12, al; sti; hlt; out 0x10, al; jmp $
    startRealMode(machine, "b011 e620 b008 e621 b004 e621 b001 e621 30c0 e621 e612 fb f4 e610 ebfe");
    // IRQ 4: out 0x11, al; mov al, 0x20; out 0x20, al; iret
    guestMemory.writeU32(gpa(4 * 12), 0x3000);
    guestMemory.write(gpa(0x3000), hex("e611b020e620cf"));
    const nextPort = () => (vcpu.run() === ExitReason.IO ? vcpu.exit.port : undefined);
    assert.equal(nextPort(), 0x12);
    vm.setIrqLine(4, true);
    assert.equal(nextPort(), 0x11);
    assert.equal(nextPort(), 0x10);
  });

  for (const [when, between] of [
    ["between batches", true],
    ["while the batch waits for its exit to be served", false],
  ] as const) {
    test(`code that a device changes ${when}`, () => {
      // mov al, 1; out 0x10, al; jmp to the start
      startRealMode(machine, "b001 e610 ebfa");
      const { vcpu, guestMemory } = machine;
      const next = () => (vcpu.run() === ExitReason.IO ? vcpu.exit.data[0] : undefined);
      assert.deepEqual([next(), next()], [1, 1]);
      if (between) vcpu.getRegs();
      guestMemory.write(gpa(CODE + 1), hex("02"));
      assert.equal(next(), 2);
    });
  }

  test("SYSCALL in user mode enters the kernel", () => {
    const { vcpu, guestMemory } = machine;
    const EFER_SCE = 1n;
    const [STAR, LSTAR, FMASK] = [0xc0000081, 0xc0000082, 0xc0000084];
    const KERNEL = 0x5000n;
    startLongMode(machine, "0f05");
    // mov eax, cs; out 0x10, al
    guestMemory.write(gpa(Number(KERNEL)), hex("8cc8 e610"));
    const userPage = (table: number, entry: number) => {
      const at = gpa(table + 8 * entry);
      guestMemory.writeU64(at, guestMemory.readU64(at) | 4n);
    };
    for (const table of [0x2000, 0x3000, 0x4000]) userPage(table, 0);
    const sregs = vcpu.getSregs();
    sregs.efer |= EFER_SCE;
    Object.assign(sregs.cs, { selector: 0x33, dpl: 3 });
    for (const name of ["ss", "ds", "es"] as const) Object.assign(sregs[name], { selector: 0x2b, dpl: 3 });
    vcpu.setSregs(sregs);
    vcpu.setMsrs([
      { index: STAR, data: (0x23n << 48n) | (0x10n << 32n) },
      { index: LSTAR, data: KERNEL },
      { index: FMASK, data: 0x200n },
    ]);
    assert.equal(vcpu.run(), ExitReason.IO);
    assert.equal(vcpu.exit.data[0], 0x10);
    assert.equal(vcpu.getSregs().ss.dpl, 0);
  });

  test("pages that it writes are in the dirty log", () => {
    const { vm, data, vcpu } = machine;
    const [slot] = data.slots;
    vm.setMemorySlot({ ...slot, logDirty: true });
    // mov [0x7000], al; out 0x10, al
    startRealMode(machine, "a20070 e610");
    vm.getDirtyLog(0);
    assert.equal(vcpu.run(), ExitReason.IO);
    vcpu.getRegs();
    const log = vm.getDirtyLog(0);
    const dirty = Array.from({ length: slot.size / PAGE }, (_, page) => page).filter(
      (page) => (log[page >> 3] & (1 << (page & 7))) !== 0,
    );
    assert.deepEqual(dirty, [7]);
  });

  test("debug registers, and a guest that single-steps is KVM's", () => {
    const { vcpu } = machine;
    // mov eax, 0x1234; mov dr0, rax; out 0x10, al
    startLongMode(machine, "b834120000 0f23c0 e610");
    assert.equal(vcpu.run(), ExitReason.IO);
    const { db }: DebugRegs = vcpu.getDebugRegs();
    assert.equal(db[0], 0x1234n);
    const before = batches();
    // out 0x10, al, with TF set
    startLongMode(machine, "e610", { rflags: 0x102n });
    assert.equal(vcpu.run(), ExitReason.IO);
    assert.equal(batches(), before);
  });

  test("the TSC goes on from KVM's, and never back", () => {
    const { vcpu } = machine;
    // rdtsc; shl rdx, 32; or rax, rdx; mov rbx, rax; out 0x21, al (KVM's); rdtsc ...; out 0x10, al
    const tsc = "0f31 48c1e220 4809d0";
    startLongMode(machine, `${tsc} 4889c3 e621 ${tsc} e610`);
    const [{ data: from }] = vcpu.getMsrs([0x10]);
    assert.equal(vcpu.run(), ExitReason.IO);
    const { rax, rbx } = vcpu.getRegs();
    const [{ data: to }] = vcpu.getMsrs([0x10]);
    assert.ok(from <= rbx && rbx <= rax && rax <= to, [from, rbx, rax, to].join(" "));
  });

  test("kvmclock's page is there right after the write to its MSR", () => {
    const { vcpu, vm } = machine;
    vcpu.setCpuid(vm.supportedCpuid());
    // mov ecx, MSR_KVM_SYSTEM_TIME_NEW; mov eax, 0x7001; xor edx, edx; wrmsr; mov eax, [0x7018]: tsc_to_system_mul; out 0x10, eax
    startLongMode(machine, "b9014d564b b801700000 31d2 0f30 8b042518700000 e710");
    assert.equal(vcpu.run(), ExitReason.IO);
    const { data } = vcpu.exit;
    assert.notEqual(new DataView(data.buffer, data.byteOffset).getUint32(0, true), 0);
  });

  test("a triple fault is a shutdown", () => {
    startLongMode(machine, "0f0b");
    const sregs = machine.vcpu.getSregs();
    machine.vcpu.setSregs({ ...sregs, idt: { base: 0n, limit: 0 } });
    assert.equal(machine.vcpu.run(), ExitReason.SHUTDOWN);
  });
});
