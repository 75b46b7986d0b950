/** The provider `soft`: a VM whose vCPUs are NLKT's own CPU. Meets src/hypervisor/seam.ts. */
import { availableParallelism } from "node:os";
import type { Clock } from "../../memory/clock.js";
import type { GuestMemory, MemorySlot } from "../../memory/guest-memory.js";
import type { ViewOf } from "../../memory/layout.js";
import type { SharedMemory } from "../../memory/shared-memory.js";
import type { StateAllocator } from "../../memory/state-allocator.js";
import type { Timer, Timers } from "../../memory/timers.js";
import type { CpuidEntry, Doorbell, IrqRoute, Msi, Vm } from "../seam.js";
import { SoftDoorbells } from "./doorbells.js";
import { TSC_KHZ } from "./irqchip/cpu-signals.js";
import { IrqChip } from "./irqchip/irqchip.js";
import { KvmClock } from "./irqchip/kvmclock.js";
import { MAX_PHYSICAL_BITS } from "./mmu/walk.js";
import { BUS_LOCK } from "./smp/bus-lock.js";
import { Coherence } from "./smp/coherence.js";
import { softCpuid } from "./system/cpuid.js";
import { CpuidTable } from "./system/cpuid-table.js";
import type { SystemOperation } from "./system/operation-names.js";
import { SoftVcpu } from "./vcpu.js";
import {
  O,
  PHYS_MAP_BYTES,
  PHYS_PAGES,
  PhysFlag,
  Poll,
  Request,
  VCPU_BYTES,
  VCPU_STATE,
  type VcpuState,
} from "./vcpu-state.js";

const PAGE = 4096;
const MIB = 1 << 20;
/** Decoded code of one vCPU. */
const CODE_ARENA_BYTES = 128 * MIB;
/** Nanoseconds until places that wait for translation are looked at. */
const HOT_CODE_DELAY = 2_500_000;
/** Nanoseconds between two looks at where guest code is. */
const PROFILE_INTERVAL = 4_000_000;
/** Interrupt controllers, clocks, alignment. */
const OTHER_BYTES = 2 * MIB;

const fixedBytes = (cpus: number) => PHYS_MAP_BYTES + OTHER_BYTES + cpus * (VCPU_BYTES + 2 * PAGE);

/** Bytes of shared memory that a soft VM of `cpus` vCPUs takes beside guest RAM: what it can use, of `room` at most. */
export function softArenaBytes(cpus: number, room = Number.POSITIVE_INFINITY): number {
  const each = Math.min(CODE_ARENA_BYTES, Math.floor((room - fixedBytes(cpus)) / cpus / PAGE) * PAGE);
  return fixedBytes(cpus) + cpus * each;
}

/** Where a vCPU stops that only stands in for another. What is thrown comes out of `run`, with the instruction not done. */
export interface Bounds {
  /** An operation of the system is about to be done. */
  operation(name: SystemOperation): void;
  /** An exception is about to be delivered. */
  exception(vector: number): void;
}

export interface SoftVmOptions {
  readonly cpus: number;
  readonly tier?: "auto" | "hot" | "cold";
  /** Whether the vCPUs measure where their time goes. */
  readonly profile?: boolean;
  /** What `softArenaBytes` said, where it is not all that it could be. */
  readonly arenaBytes?: number;
  /** True in the thread that makes the machine. */
  readonly create: boolean;
  /** Other parts than a machine's own, where the vCPU only steps in for another provider's. */
  readonly parts?: {
    readonly codeArenaBytes: number;
    /** Address of a map of guest-physical pages that several VMs share. */
    readonly physMap: number;
    readonly IrqChip: typeof IrqChip;
    readonly bounds: Bounds;
  };
}

/** Where a vCPU's parts are in linear memory. */
export interface VcpuPlace {
  readonly state: VcpuState;
  readonly codeStart: number;
  readonly codeEnd: number;
}

export function createSoftVm(
  memory: SharedMemory,
  allocator: StateAllocator,
  guestMemory: GuestMemory,
  timers: Timers,
  clock: Clock,
  options: SoftVmOptions,
): SoftVm {
  return new SoftVm(memory, allocator, guestMemory, timers, clock, options);
}

export class SoftVm implements Vm {
  readonly tscKhz = TSC_KHZ;
  readonly irqchip: IrqChip;
  readonly kvmClock: KvmClock;
  readonly places: readonly VcpuPlace[];
  /** Address of the map from guest-physical pages to linear memory. */
  readonly physMap: number;
  readonly coherence: Coherence;
  readonly #busLock: ViewOf<typeof BUS_LOCK>;
  readonly #slots = new Map<number, MemorySlot>();
  readonly #vcpus = new Map<number, SoftVcpu>();
  readonly #doorbells: SoftDoorbells;
  readonly cpuids: readonly CpuidTable[];
  readonly #hotCodeTimers: readonly Timer[];
  readonly #profileTimers: readonly Timer[];

  constructor(
    readonly memory: SharedMemory,
    allocator: StateAllocator,
    readonly guestMemory: GuestMemory,
    timers: Timers,
    readonly clock: Clock,
    readonly options: SoftVmOptions,
  ) {
    this.physMap = options.parts?.physMap ?? allocator.bytes(PHYS_MAP_BYTES, "soft.phys-map", PAGE);
    const { cpus, arenaBytes = softArenaBytes(cpus) } = options;
    const codeBytes = options.parts?.codeArenaBytes ?? (arenaBytes - fixedBytes(cpus)) / cpus;
    this.places = Array.from({ length: cpus }, (_, id) => {
      const at = allocator.bytes(VCPU_BYTES, `soft.vcpu${id}`, PAGE);
      const codeStart = allocator.bytes(codeBytes, `soft.code${id}`, PAGE);
      return { state: VCPU_STATE.view(memory, at), codeStart, codeEnd: codeStart + codeBytes };
    });
    this.#busLock = allocator.alloc(BUS_LOCK, "soft.bus-lock");
    const states = this.places.map(({ state }) => state);
    const busLock = this.#busLock.address + BUS_LOCK.offset.word;
    this.coherence = new Coherence(memory, allocator, states, this.physMap, busLock, (id, bits) =>
      this.request(id, bits),
    );
    this.#doorbells = new SoftDoorbells(memory, allocator);
    this.cpuids = this.places.map((_, id) => new CpuidTable(memory, allocator, `soft.cpuid${id}`));
    const tsc = { tscOffset: (id: number) => this.places[id].state.tscOffset };
    this.irqchip = new (options.parts?.IrqChip ?? IrqChip)(
      memory,
      allocator,
      timers,
      clock,
      options.cpus,
      {
        interrupt: (id) => this.#signal(id, Poll.INTERRUPT),
        nmi: (id) => this.request(id, Request.NMI),
        init: (id) => this.request(id, Request.INIT),
        sipi: (id, vector) => {
          this.places[id].state.sipiVector = vector;
          this.request(id, Request.SIPI);
        },
      },
      tsc,
      { physicalAddressBits: MAX_PHYSICAL_BITS },
    );
    this.kvmClock = new KvmClock(memory, allocator, clock, tsc, guestMemory, options.cpus);
    this.#hotCodeTimers = this.places.map((_, id) => timers.create(() => this.#signal(id, Poll.HOT_CODE)));
    const profiled = options.profile === true ? this.places : [];
    this.#profileTimers = profiled.map((_, id) => timers.create(() => this.#signal(id, Poll.HOT_CODE)));
    if (options.create) this.#create();
    guestMemory.onWrite((offset, length) => this.#hostWrote(offset, length));
  }

  #create(): void {
    const { places } = this;
    this.#busLock.word = 0;
    this.#busLock.count = places.length;
    this.#busLock.running = places.length;
    this.#busLock.cores = availableParallelism();
    places.forEach(({ state }, id) => {
      this.#busLock.vcpus[id] = state.address;
      state.physMap = this.physMap;
      state.ownerBit = 1 << id;
      state.busLock = places.length > 1 ? this.#busLock.address : 0;
      SoftVcpu.powerUp(state, this.memory, id);
      this.cpuids[id].set(this.#cpuid(id));
    });
    this.coherence.reset();
    this.irqchip.reset();
    this.kvmClock.reset();
  }

  /** Make vCPU `id` leave guest code or sleep and look at what `bits` of Poll say. */
  #signal(id: number, bits: number): void {
    const index = (this.places[id].state.address + O.poll) >>> 2;
    Atomics.or(this.memory.i32, index, bits);
    Atomics.notify(this.memory.i32, index);
  }

  /** KVM_HC_KICK_CPU: the vCPU with this APIC ID leaves HLT, or does not stay in the next one. */
  kickOutOfHalt(apicId: number): void {
    const id = this.irqchip.lapics.findIndex(({ state }) => state.id === apicId);
    if (id >= 0) this.request(id, Request.UNHALT);
  }

  /** A vCPU's thread falls asleep (−1) or is back (1). */
  countRunning(change: 1 | -1): void {
    Atomics.add(this.memory.i32, (this.#busLock.address + BUS_LOCK.offset.running) >>> 2, change);
  }

  /** Whether the host has a core for each vCPU that is not asleep. */
  get hasFreeCores(): boolean {
    return this.#busLock.running <= this.#busLock.cores;
  }

  /** Make vCPU `id` look at the hot tier's waiting places soon, even if nothing else makes it leave guest code. */
  remindOfHotCode(id: number): void {
    this.#hotCodeTimers[id].arm(this.clock.now() + HOT_CODE_DELAY);
  }

  /** Make vCPU `id` leave guest code soon, so that its profile sees where it is. */
  interruptGuestCode(id: number): void {
    this.#profileTimers[id].arm(this.clock.now() + PROFILE_INTERVAL);
  }

  /** Ask vCPU `id` for what `bits` of Request say. */
  request(id: number, bits: number): void {
    Atomics.or(this.memory.i32, (this.places[id].state.address + O.requests) >>> 2, bits);
    this.#signal(id, Poll.REQUEST);
  }

  /** The host or a device wrote guest RAM: decoded code of it is gone, and the page is dirty. */
  #hostWrote(offset: number, length: number): void {
    const slot = this.guestMemory.slots.find((s) => offset >= s.offset && offset < s.offset + s.size);
    if (slot === undefined || length === 0) return;
    const start = slot.guestPhysical + offset - slot.offset;
    const first = Math.floor(start / PAGE);
    const last = Math.floor((start + length - 1) / PAGE);
    for (let page = first; page <= last; page++) {
      const from = Math.max(start - page * PAGE, 0);
      const to = Math.min(start + length - page * PAGE, PAGE);
      this.coherence.written(page, from, to - from);
      const index = (this.physMap >>> 2) + page;
      if ((this.memory.u32[index] & PhysFlag.LOG_DIRTY) !== 0)
        Atomics.or(this.memory.u32, index, PhysFlag.DIRTY);
    }
  }

  setMemorySlot(slot: MemorySlot): void {
    const old = this.#slots.get(slot.slot);
    if (old !== undefined) this.#map(old, false);
    if (slot.size === 0) this.#slots.delete(slot.slot);
    else {
      if (slot.guestPhysical % PAGE !== 0 || slot.size % PAGE !== 0 || slot.offset % PAGE !== 0) {
        throw new RangeError(`memory slot ${slot.slot} is not page-aligned`);
      }
      if ((slot.guestPhysical + slot.size) / PAGE > PHYS_PAGES) {
        throw new RangeError(`memory slot ${slot.slot} reaches beyond ${(PHYS_PAGES * PAGE) / 2 ** 30} GiB`);
      }
      this.#slots.set(slot.slot, slot);
      this.#map(slot, true);
    }
    for (let id = 0; id < this.places.length; id++) this.request(id, Request.FLUSH_CODE | Request.TLB_FLUSH);
  }

  #map(slot: MemorySlot, present: boolean): void {
    const { u32 } = this.memory;
    const first = (this.physMap >>> 2) + slot.guestPhysical / PAGE;
    const flags =
      PhysFlag.RAM | (slot.readonly ? PhysFlag.READONLY : 0) | (slot.logDirty ? PhysFlag.LOG_DIRTY : 0);
    for (let i = 0; i < slot.size / PAGE; i++)
      u32[first + i] = present ? (slot.offset + i * PAGE) | flags : 0;
  }

  getDirtyLog(number: number): Uint8Array {
    const slot = this.#slots.get(number);
    if (slot === undefined) throw new RangeError(`there is no memory slot ${number}`);
    const pages = slot.size / PAGE;
    const log = new Uint8Array(Math.ceil(pages / 8));
    const first = (this.physMap >>> 2) + slot.guestPhysical / PAGE;
    for (let i = 0; i < pages; i++) {
      if ((Atomics.and(this.memory.u32, first + i, ~PhysFlag.DIRTY) & PhysFlag.DIRTY) !== 0)
        log[i >> 3] |= 1 << (i & 7);
    }
    return log;
  }

  setIrqLine(gsi: number, level: boolean): void {
    this.irqchip.routing.setIrqLine(gsi, level);
  }
  setGsiRouting(routes: readonly IrqRoute[]): void {
    this.irqchip.routing.setRoutes(routes);
  }
  signalMsi(msi: Msi): void {
    this.irqchip.routing.signalMsi(msi);
  }
  addDoorbell(doorbell: Doorbell): void {
    this.#doorbells.add(doorbell);
  }

  removeDoorbell(doorbell: Doorbell): boolean {
    return this.#doorbells.remove(doorbell);
  }

  /** Ring the doorbell of a write, if it has one; true where it was consumed. */
  ringDoorbell(space: "port" | "mmio", address: number, size: number, value: bigint): boolean {
    return this.#doorbells.ring(space, address, size, value);
  }

  getClock(): bigint {
    return this.kvmClock.getClock();
  }
  setClock(nanoseconds: bigint): void {
    this.kvmClock.setClock(nanoseconds);
  }

  supportedCpuid(): CpuidEntry[] {
    return this.#cpuid(0);
  }

  #cpuid(id: number): CpuidEntry[] {
    const { cpus } = this.options;
    return softCpuid(id, cpus, { lessCores: cpus > availableParallelism() });
  }

  vcpu(id: number): SoftVcpu {
    if (id < 0 || id >= this.places.length) throw new RangeError(`there is no vCPU ${id}`);
    let vcpu = this.#vcpus.get(id);
    if (vcpu === undefined) {
      vcpu = new SoftVcpu(this, id);
      this.#vcpus.set(id, vcpu);
    }
    return vcpu;
  }

  close(): void {
    this.#vcpus.clear();
  }
}
