/**
 * What hosts of KVM do otherwise than the manual: tests of that are left out there, each with its reason. On a processor with
 * hardware virtualization of its own only KVM's own ways remain.
 */
import { readFileSync } from "node:fs";
import { hardwareVirtualization } from "../../../src/hypervisor/kvm/host-cpu.js";

interface Limit {
  readonly name: RegExp;
  readonly why: string;
}

/** Files of test/guests that `npm run lab` runs: those that ask the provider more than the processor. */
export const GUEST_FILES: readonly string[] = ["io", "start-up", "wake-up", "apic"];

/** KVM's own ways, on every processor. */
const KVM: readonly Limit[] = [
  {
    name: /^INSB into MMIO: the port is read once/,
    why: "KVM reads the port ahead for a string instruction",
  },
  {
    name: /^in x2APIC mode the page is no APIC; registers that do not exist/,
    why: "KVM (Linux 6.1) lets x2APIC registers be read that are only written",
  },
  {
    name: /^MMIO by SGDT/,
    why: "KVM's SGDT comes back to the instruction for ever where there is no RAM",
  },
];

const DEBUG_REGISTERS = "QEMU's SVM does not load the guest's debug registers";
const SINGLE_STEP = "KVM single-steps up to IRET, and QEMU lets the guest see it";

/** QEMU's software CPU (7.2), whose SVM the KVM lab uses, in what these tests ask of it. */
const QEMU: readonly Limit[] = [
  { name: /^STI at the end of a page/, why: "QEMU forgets the interrupt shadow between its blocks" },
  { name: /^a REP that is interrupted goes on/, why: "QEMU saves no RF" },
  { name: /^IRET ends the masking of NMIs/, why: SINGLE_STEP },
  {
    name: /^an interrupt whose gate is not present/,
    why: "QEMU's error code has another place for the vector",
  },
  { name: /breakpoint|fixed bits of DR|DR7\.GD/i, why: DEBUG_REGISTERS },
];

const IO_PERMISSION = "kvm_pvm runs user mode on the host's processor, with its own I/O permissions";

/**
 * KVM without hardware virtualization (kvm_pvm): its instruction emulator runs the guest's kernel mode, many instructions
 * between two looks at interrupts. Of these tests only `io` and `start-up` can be asked there.
 */
const EMULATOR: readonly Limit[] = [
  { name: /^long: I\/O permission at CPL 3: forbidden, but IOPL is 3/, why: IO_PERMISSION },
  { name: /^the bit map in virtual-8086 mode counts whatever IOPL is/, why: IO_PERMISSION },
  { name: /^a 16-bit TSS has no bit map/, why: IO_PERMISSION },
];

function modelName(): string {
  return /^model name\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1] ?? "";
}

/** Whether this host is itself a guest of QEMU's software CPU. */
export const onQemu = modelName().includes("QEMU TCG CPU");

const limits = onQemu ? QEMU : hardwareVirtualization() === undefined ? EMULATOR : [];

/** Why the test `name` is left out on this host's KVM, or undefined. */
export function leftOut(name: string): string | undefined {
  return [...KVM, ...limits].find((limit) => limit.name.test(name))?.why;
}
