/**
 * What hosts of KVM cannot do as the manual says it: tests of that are left out there, each with its reason. On a processor with
 * hardware virtualization of its own nothing is left out.
 */
import { readFileSync } from "node:fs";
import { hardwareVirtualization } from "../../../src/hypervisor/kvm/host-cpu.js";

interface Limit {
  readonly name: RegExp;
  readonly why: string;
}

/** QEMU's software CPU (7.2), whose SVM the KVM lab uses. */
const QEMU: readonly Limit[] = [];

/** KVM without hardware virtualization (kvm_pvm): its instruction emulator runs the guest's kernel mode. */
const EMULATOR: readonly Limit[] = [];

function modelName(): string {
  return /^model name\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1] ?? "";
}

/** Whether this host is itself a guest of QEMU's software CPU. */
export const onQemu = modelName().includes("QEMU TCG CPU");

const limits = onQemu ? QEMU : hardwareVirtualization() === undefined ? EMULATOR : [];

/** Why the test `name` is left out on this host's KVM, or undefined. */
export function leftOut(name: string): string | undefined {
  return limits.find((limit) => limit.name.test(name))?.why;
}
