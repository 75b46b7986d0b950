/**
 * When batches of the software CPU (emulation-step.ts) end, and what KVM has to hear of them. They exist where KVM has no hardware
 * virtualization under it, with one vCPU, and with all RAM in the one memory that the software CPU reaches.
 */
import type { Clock } from "../../memory/clock.js";
import { type GuestMemory, globalOffset } from "../../memory/guest-memory.js";
import type { SharedMemory } from "../../memory/shared-memory.js";
import type { StateAllocator } from "../../memory/state-allocator.js";
import type { Timer, Timers } from "../../memory/timers.js";
import type { CpuidTable } from "../soft/system/cpuid-table.js";
import { Ioctl } from "./abi/ioctls.js";
import { kvm_userspace_memory_region } from "./abi/structs.js";
import type { DirtyPages } from "./dirty-pages.js";
import type { Doorbells } from "./doorbells.js";
import type { StepHost } from "./emulation-step.js";
import { addressOf, ioctlPointer } from "./host.js";
import { hardwareVirtualization } from "./host-cpu.js";
import { KVM_VCPU, type KvmVcpuState, MAX_SLOTS } from "./state.js";
import {
  BATCH_LIMIT,
  endBatch,
  STEP_PHYS_MAP_BYTES,
  type StepArena,
  stepArena,
  stepArenaBytes,
} from "./step-arena.js";

const PAGE = 4096;

/**
 * A slot of a page that the guest never uses, right behind those of the identity map and the TSS (provider.ts). Moving it to and fro
 * makes KVM forget all that it made of the guest's page tables.
 */
const SHADOW_SLOT = MAX_SLOTS;
const SHADOW_SLOT_ADDRESSES = [0xfffc1000, 0xfffc2000] as const;

const emulating = hardwareVirtualization() === undefined;
const possible = (cpus: number) => emulating && cpus === 1;

interface BatchVm {
  readonly memory: SharedMemory;
  readonly guestMemory: GuestMemory;
  readonly tscKhz: number;
  readonly cpuids: readonly CpuidTable[];
}

interface BatchOptions {
  readonly clock: Clock;
  readonly vcpus: readonly KvmVcpuState[];
  /** The VM's file descriptor. */
  readonly vm: () => number;
  /** A slot logs dirty pages. */
  readonly logging: () => boolean;
  readonly dirty: DirtyPages;
  readonly doorbells: Doorbells;
  readonly allowed: boolean;
}

export class Batches {
  /** Bytes that it takes from the allocator. */
  static bytes(cpus: number): number {
    return STEP_PHYS_MAP_BYTES + PAGE + cpus * (stepArenaBytes(possible(cpus)) + PAGE);
  }

  /** Whether there are any. */
  readonly on: boolean;
  /** By vCPU; also where there are steps of one instruction only. */
  readonly arenas: readonly StepArena[];
  readonly #timers: readonly Timer[];
  #shadowSlot: 0 | 1 = 0;

  constructor(
    readonly vm: BatchVm,
    allocator: StateAllocator,
    timers: Timers,
    readonly options: BatchOptions,
  ) {
    const { vcpus } = options;
    const oneMemory = vm.guestMemory.slots.every(({ memory = 0 }) => memory === 0);
    this.on = possible(vcpus.length) && oneMemory && options.allowed;
    const physMap = allocator.bytes(STEP_PHYS_MAP_BYTES, "kvm.step-phys-map", PAGE);
    this.arenas = vcpus.map(() => {
      const start = allocator.bytes(stepArenaBytes(this.on), "kvm.step", PAGE);
      return stepArena(start, physMap, this.on);
    });
    this.#timers = this.on ? vcpus.map((_, id) => timers.create(() => this.end(id))) : [];
    // What was decoded may have changed.
    if (this.on) vm.guestMemory.onWrite(() => this.endAll());
  }

  /** Make vCPU `id`'s batch end, if there is one. Any thread. */
  end(id: number): void {
    if (this.options.vcpus[id].inBatch !== 0) endBatch(this.vm.memory.i32, this.arenas[id]);
  }

  /** An interrupt may have come, or memory changed. */
  endAll(): void {
    if (this.on) for (const id of this.options.vcpus.keys()) this.end(id);
  }

  #begun(id: number, on: boolean): void {
    const word = (this.options.vcpus[id].address + KVM_VCPU.offset.inBatch) >>> 2;
    Atomics.store(this.vm.memory.i32, word, on ? 1 : 0);
    const timer = this.#timers[id];
    if (on && timer.deadline === Number.POSITIVE_INFINITY) {
      timer.arm(this.options.clock.now() + BATCH_LIMIT);
    }
  }

  /** Processors with hardware virtualization walk the guest's page tables themselves. */
  #dropShadows(): void {
    if (!emulating) return;
    this.#shadowSlot = this.#shadowSlot === 0 ? 1 : 0;
    const region = kvm_userspace_memory_region.encode({
      slot: SHADOW_SLOT,
      guest_phys_addr: BigInt(SHADOW_SLOT_ADDRESSES[this.#shadowSlot]),
      memory_size: BigInt(PAGE),
      userspace_addr: addressOf(this.vm.memory.u8.subarray(this.arenas[0].start)),
    });
    const { vm } = this.options;
    ioctlPointer(vm(), Ioctl.KVM_SET_USER_MEMORY_REGION, region, "KVM_SET_USER_MEMORY_REGION");
  }

  /** What vCPU `id`'s stand-in is given. */
  host(id: number): StepHost {
    const { vm } = this;
    const { doorbells, dirty, logging } = this.options;
    return {
      tscKhz: vm.tscKhz,
      cpuid: () => vm.cpuids[id].get(),
      get portDoorbells() {
        return doorbells.ports;
      },
      get logging() {
        return logging();
      },
      wrote: (slot, pages) => {
        for (let page = 0; page < slot.size / PAGE; page++) {
          if ((pages[page >>> 3] & (1 << (page & 7))) === 0) continue;
          dirty.mark(globalOffset(slot, slot.offset + page * PAGE), PAGE);
        }
      },
      dropShadows: () => this.#dropShadows(),
      batch: (on) => this.#begun(id, on),
    };
  }
}
