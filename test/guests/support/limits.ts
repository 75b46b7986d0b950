/**
 * What hosts of KVM do otherwise than the manual: tests of that are left out there, each with its reason. On a processor with
 * hardware virtualization of its own only KVM's own ways remain.
 */
import { readFileSync } from "node:fs";
import { hardwareVirtualization } from "../../../src/hypervisor/kvm/host-cpu.js";
import { AMD_TESTS, type NamedTests, QEMU_TESTS } from "./qemu-limits.js";

interface Limit {
  readonly name: RegExp;
  readonly why: string;
}

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
  {
    name: /^REP INSB and OUTSB that fault in the middle go on where they stood/,
    why: "KVM reads the port ahead for a string instruction",
  },
  {
    name: /^CPUID: what it claims can be done, what it does not claim is #UD or #GP/,
    why: "KVM cannot take unprivileged instructions of the host's processor away, and its MONITOR does nothing where CPUID does not claim it",
  },
  {
    name: /^CR4 takes the bits that CPUID claims and no others/,
    why: "KVM lets CR4.VME be set where CPUID does not claim it",
  },
];

const SELDOM = "KVM's emulator looks for interrupts only every so many instructions";
const IO_PERMISSION = "kvm_pvm runs user mode on the host's processor, with its own I/O permissions";

/**
 * KVM without hardware virtualization (kvm_pvm): its instruction emulator runs the guest's kernel mode, many instructions
 * between two looks at interrupts. Of these tests `io`, `start-up` and `apic` can be asked there: `wake-up` is all about at
 * which instruction an interrupt comes.
 */
const EMULATOR: readonly Limit[] = [
  { name: /^NMIs that arrive in an NMI's handler are one more/, why: SELDOM },
  { name: /^an NMI does not come between STI and the next instruction/, why: SELDOM },
  { name: /^long: I\/O permission at CPL 3: forbidden, but IOPL is 3/, why: IO_PERMISSION },
  { name: /^the bit map in virtual-8086 mode counts whatever IOPL is/, why: IO_PERMISSION },
  { name: /^a 16-bit TSS has no bit map/, why: IO_PERMISSION },
];

function modelName(): string {
  return /^model name\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1] ?? "";
}

/** Whether this host is itself a guest of QEMU's software CPU. */
export const onQemu = modelName().includes("QEMU TCG CPU");

function exactly({ why, tests }: NamedTests): Limit[] {
  return tests.map((test) => ({
    why,
    name: new RegExp(`^${test.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&")}$`),
  }));
}

const limits = onQemu
  ? [...AMD_TESTS, ...QEMU_TESTS].flatMap(exactly)
  : hardwareVirtualization() === undefined
    ? EMULATOR
    : [];

/** NLKT_GUESTS_TRY: tests left out for reasons that this pattern matches are run all the same, to see whether the reason still holds. */
const { NLKT_GUESTS_TRY: tried } = process.env;
const tries = tried === undefined ? undefined : new RegExp(tried);

/** Why the test `name` is left out on this host's KVM, or undefined. */
export function leftOut(name: string): string | undefined {
  const why = [...KVM, ...limits].find((limit) => limit.name.test(name))?.why;
  return why !== undefined && tries?.test(why) === true ? undefined : why;
}
