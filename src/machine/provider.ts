/** The providers of the CPU (DESIGN, law 1), by name. */
import type { Vm } from "../hypervisor/seam.js";
import type { Clock } from "../memory/clock.js";
import type { GuestMemory } from "../memory/guest-memory.js";
import type { SharedMemory } from "../memory/shared-memory.js";
import type { StateAllocator } from "../memory/state-allocator.js";
import type { Timers } from "../memory/timers.js";
import type { MachineConfig } from "./config.js";

export interface VmOptions {
  readonly cpus: number;
  readonly tier: "auto" | "hot" | "cold";
  /** Whether the vCPUs measure where their time goes (`Vcpu.profile`). */
  readonly profile: boolean;
  /** What `Provider.arenaBytes` said. */
  readonly arenaBytes: number;
  /** KVM's device node. */
  readonly device: string;
  /** True in the one thread that makes the machine, false in those that attach to it. */
  readonly create: boolean;
}

export type CreateVm = (
  memory: SharedMemory,
  allocator: StateAllocator,
  guestMemory: GuestMemory,
  timers: Timers,
  clock: Clock,
  options: VmOptions,
) => Vm;

/** What a provider's module exports. */
export interface Provider {
  /** Bytes that `createVm` takes from the allocator, at most; there is no room for more than `room`. */
  readonly arenaBytes: (cpus: number, room: number) => number;
  /** Called in every thread of the machine. */
  readonly createVm: CreateVm;
}

/** The provider that the configuration names, `auto` decided; every thread of a machine gets the same. */
export async function loadProvider(config: MachineConfig): Promise<Provider> {
  if (config.providerModule !== undefined) return (await import(config.providerModule)) as Provider;
  if (config.accel === "kvm") {
    const kvm = await import("../hypervisor/kvm/provider.js");
    return { arenaBytes: kvm.kvmArenaBytes, createVm: kvm.createKvmVm };
  }
  const soft = await import("../hypervisor/soft/provider.js");
  return { arenaBytes: soft.softArenaBytes, createVm: soft.createSoftVm };
}
