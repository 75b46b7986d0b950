/** A KVM VM with RAM and nothing else, for tests of the provider. */
import { EmulationStep } from "../../../../src/hypervisor/kvm/emulation-step.js";
import { kvmArenaBytes } from "../../../../src/hypervisor/kvm/provider.js";
import type { Regs } from "../../../../src/hypervisor/seam.js";
import { kvmProblem } from "../../../../src/machine/accel.js";
import { Clock } from "../../../../src/memory/clock.js";
import { gpa, type MemorySlot } from "../../../../src/memory/guest-memory.js";
import { SharedMemory } from "../../../../src/memory/shared-memory.js";
import { attachMachine, buildMachine, DEVICE, type MachineData, type TestMachine } from "./attach-machine.js";

export { attachMachine, type MachineData, type TestMachine };

/** Why there is nothing to test with, or false. */
export const noKvm: string | false = (await kvmProblem(DEVICE)) ?? false;

export const RAM_BYTES = 1 << 20;
/** Where guests' code starts. */
export const CODE = 0x1000;

export interface MachineOptions {
  readonly cpus?: number;
  /** Where the RAM is, as [guest-physical, bytes] each; one MiB at 0 where left out. */
  readonly ram?: readonly (readonly [number, number])[];
  /** Whether what steps in for KVM's emulator is loaded when it is needed first: `Vcpu.recover`. */
  readonly loadLate?: boolean;
  readonly batches?: boolean;
}

export function makeMachine(options: MachineOptions = {}): TestMachine {
  const { cpus = 1, ram = [[0, RAM_BYTES]], loadLate = false, batches = false } = options;
  const stateEnd = Math.ceil((kvmArenaBytes(cpus) + (1 << 17)) / 65536) * 65536;
  const total = ram.reduce((sum, [, size]) => sum + size, 0);
  const memory = SharedMemory.create(stateEnd + total);
  let offset = stateEnd;
  const slots = ram.map(([start, size], slot): MemorySlot => {
    const at = offset;
    offset += size;
    return { slot, guestPhysical: gpa(start), size, offset: at, readonly: false, logDirty: false };
  });
  const clock = Clock.start();
  const data = { memory: memory.memory, epoch: clock.epoch, cpus, slots, stateEnd, batches };
  return buildMachine(data, memory, clock, true, loadLate ? undefined : EmulationStep);
}

export const NO_REGS: Regs = {
  rax: 0n,
  rbx: 0n,
  rcx: 0n,
  rdx: 0n,
  rsi: 0n,
  rdi: 0n,
  rsp: 0x8000n,
  rbp: 0n,
  r8: 0n,
  r9: 0n,
  r10: 0n,
  r11: 0n,
  r12: 0n,
  r13: 0n,
  r14: 0n,
  r15: 0n,
  rip: BigInt(CODE),
  rflags: 2n,
};

/** Hexadecimal text as bytes. */
export function hex(text: string): Uint8Array {
  return Buffer.from(text.replace(/\s+/g, ""), "hex");
}

/** Code for real mode at CODE, all segments at 0, about to run. */
export function startRealMode({ vcpu, guestMemory }: TestMachine, code: string, regs?: Partial<Regs>): void {
  guestMemory.write(gpa(CODE), hex(code));
  const sregs = vcpu.getSregs();
  for (const name of ["cs", "ds", "es", "fs", "gs", "ss"] as const) {
    Object.assign(sregs[name], { base: 0n, selector: 0 });
  }
  vcpu.setSregs(sregs);
  vcpu.setRegs({ ...NO_REGS, ...regs });
}

/** Code for 64-bit mode at CODE: flat segments, the first GiB mapped onto itself by tables at 0x2000–0x4fff. */
export function startLongMode({ vcpu, guestMemory }: TestMachine, code: string, regs?: Partial<Regs>): void {
  guestMemory.write(gpa(CODE), hex(code));
  guestMemory.writeU64(gpa(0x2000), 0x3003n);
  guestMemory.writeU64(gpa(0x3000), 0x4003n);
  for (let i = 0; i < 512; i++) guestMemory.writeU64(gpa(0x4000 + 8 * i), BigInt(i * 0x200000) | 0x83n);
  const sregs = vcpu.getSregs();
  const flat = { base: 0n, limit: 0xffffffff, present: 1, dpl: 0, s: 1, g: 1, avl: 0, unusable: 0 };
  for (const name of ["ds", "es", "fs", "gs", "ss"] as const) {
    Object.assign(sregs[name], { ...flat, selector: 0x10, type: 3, db: 1, l: 0 });
  }
  Object.assign(sregs.cs, { ...flat, selector: 8, type: 11, db: 0, l: 1 });
  sregs.cr0 = 0x80000031n;
  sregs.cr3 = 0x2000n;
  sregs.cr4 = 0x620n;
  sregs.efer = 0x500n;
  vcpu.setSregs(sregs);
  vcpu.setRegs({ ...NO_REGS, ...regs });
}
