/** A KVM VM of the tests as any thread of the process sees it. Without the software CPU, which takes long to load. */
import type { EmulationStep } from "../../../../src/hypervisor/kvm/emulation-step.js";
import { createKvmVm, type KvmVm } from "../../../../src/hypervisor/kvm/provider.js";
import type { KvmVcpu } from "../../../../src/hypervisor/kvm/vcpu.js";
import { Clock } from "../../../../src/memory/clock.js";
import { GuestMemory, type MemorySlot } from "../../../../src/memory/guest-memory.js";
import { SharedMemory } from "../../../../src/memory/shared-memory.js";
import { StateAllocator } from "../../../../src/memory/state-allocator.js";
import { Timers } from "../../../../src/memory/timers.js";
import { onQemu } from "../../../guests/support/limits.js";

export const DEVICE = "/dev/kvm";

export interface TestMachine {
  readonly vm: KvmVm;
  readonly vcpu: KvmVcpu;
  readonly guestMemory: GuestMemory;
  readonly memory: SharedMemory;
  /** Words of shared memory that are nobody's, as a byte offset. */
  readonly words: number;
  readonly data: MachineData;
}

/** What another thread needs to attach to the machine. */
export interface MachineData {
  readonly memory: WebAssembly.Memory;
  readonly epoch: bigint;
  readonly cpus: number;
  readonly slots: readonly MemorySlot[];
  readonly stateEnd: number;
  /** Whether the software CPU may go on for longer than an instruction. Nothing ends its batches but `kick`. */
  readonly batches: boolean;
}

/** The machine as another thread of the process sees it. */
export function attachMachine(data: MachineData): TestMachine {
  return buildMachine(data, new SharedMemory(data.memory), new Clock(data.epoch), false);
}

export function buildMachine(
  data: MachineData,
  memory: SharedMemory,
  clock: Clock,
  create: boolean,
  Step?: typeof EmulationStep,
): TestMachine {
  const allocator = new StateAllocator(memory, 64, data.stateEnd);
  const timers = new Timers(memory, allocator, clock);
  const words = allocator.bytes(64, "test");
  if (create) timers.reset();
  const guestMemory = new GuestMemory(memory, data.slots);
  const step = Step === undefined ? {} : { EmulationStep: Step };
  const options = { cpus: data.cpus, create, device: DEVICE, batches: data.batches, ...step };
  const vm = createKvmVm(memory, allocator, guestMemory, timers, clock, options);
  if (create) for (const slot of data.slots) vm.setMemorySlot(slot);
  if (onQemu) for (let id = 0; id < data.cpus; id++) neverBusy(vm.vcpu(id));
  return { vm, vcpu: vm.vcpu(0), guestMemory, memory, words, data };
}

const TSS_BUSY = 2;

/**
 * QEMU's processor (7.2) with SVM ends QEMU itself, "invalid tss type", where the guest takes a stack from a TSS that VMRUN loaded
 * marked busy (get_ss_esp_from_tss in target/i386/tcg/seg_helper.c asks for one that is available). KVM_GET_SREGS always says busy.
 */
function neverBusy(vcpu: KvmVcpu): void {
  const set = vcpu.setSregs.bind(vcpu);
  vcpu.setSregs = (sregs) => set({ ...sregs, tr: { ...sregs.tr, type: sregs.tr.type & ~TSS_BUSY } });
}
