/** Which provider `--accel auto` takes on this host, and why (DESIGN, 5). */
import { hardwareVirtualization } from "../hypervisor/kvm/host-cpu.js";
import type { Accel } from "./config.js";

/** A provider that can be run: `auto` decided. */
export type ChosenAccel = Exclude<Accel, "auto">;

export interface AccelChoice {
  readonly accel: ChosenAccel;
  /** A clause. */
  readonly why: string;
  /** The host's CPU has hardware virtualization and still it cannot be used: worth a warning. */
  readonly missed: boolean;
}

/**
 * `kvm` only where the CPU reports hardware virtualization and `device` can be used: without the former, KVM (of a host that is
 * itself a guest) runs kernels with its instruction emulator, which is slower than the software CPU and knows less.
 */
export async function chooseAccel(device: string): Promise<AccelChoice> {
  const flag = hardwareVirtualization();
  if (flag === undefined) {
    const why = "the CPU reports no hardware virtualization (neither vmx nor svm)";
    return { accel: "soft", why, missed: false };
  }
  const problem = await kvmProblem(device);
  if (problem !== undefined) return { accel: "soft", why: problem, missed: true };
  return { accel: "kvm", why: `the CPU reports ${flag} and ${device} can be used`, missed: false };
}

/** Why KVM cannot be used here, or undefined. */
export async function kvmProblem(device: string): Promise<string | undefined> {
  try {
    const { KvmDevice } = await import("../hypervisor/kvm/device.js");
    KvmDevice.open(device).close();
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}
