/** The provider `kvm`: a VM of the Linux kernel. Meets src/hypervisor/seam.ts. */
import type { Clock } from "../../memory/clock.js";
import { type GuestMemory, globalOffset, type MemorySlot } from "../../memory/guest-memory.js";
import { Mutex } from "../../memory/mutex.js";
import type { SharedMemory } from "../../memory/shared-memory.js";
import type { StateAllocator } from "../../memory/state-allocator.js";
import type { Timers } from "../../memory/timers.js";
import { defaultRoutes } from "../gsi-routes.js";
import type { CpuidEntry, Doorbell, IrqRoute, Msi, Vm } from "../seam.js";
import { CpuidTable } from "../soft/system/cpuid-table.js";
import { Cap, Kvm } from "./abi/constants.js";
import { Ioctl } from "./abi/ioctls.js";
import { encodeList } from "./abi/struct.js";
import * as abi from "./abi/structs.js";
import { Batches } from "./batches.js";
import { KvmCoalescedWrites } from "./coalesced-writes.js";
import { machineCpuid } from "./cpuid.js";
import { KvmDevice } from "./device.js";
import { DirtyPages } from "./dirty-pages.js";
import { Doorbells } from "./doorbells.js";
import { softSubset } from "./emulated-cpuid.js";
import type { EmulationStep } from "./emulation-step.js";
import { addressOf, close, ioctl, ioctlPointer, mapShared, memoryAt, rawIoctl, unmap } from "./host.js";
import { hardwareVirtualization } from "./host-cpu.js";
import { msiAddress, routeTo } from "./registers.js";
import { KVM_STATE, KVM_VCPU, type KvmState, type KvmVcpuState, MAX_SLOTS } from "./state.js";
import { KvmVcpu, readCpuid, type VcpuHost } from "./vcpu.js";

const PAGE = 4096;
const OTHER_BYTES = 64 << 10;

/**
 * Pages that KVM needs for itself on some processors (api.rst, 4.36 and 4.41): an identity map, and three pages of a TSS behind
 * it. Between the IOAPIC's page and the firmware's, where nothing of the machine is.
 */
const IDENTITY_MAP_ADDRESS = 0xfffbc000;
const TSS_ADDRESS = IDENTITY_MAP_ADDRESS + PAGE;

export interface KvmVmOptions {
  readonly cpus: number;
  /** True in the thread that makes the machine. */
  readonly create: boolean;
  /** The device node. */
  readonly device: string;
  /** emulation-step.ts, where it is loaded already; else a vCPU loads it when it needs it. */
  readonly EmulationStep?: typeof EmulationStep;
  /** False: no timer thread runs that could end batches of the software CPU, and there are none. */
  readonly batches?: boolean;
}

/** Bytes of shared memory that a KVM VM of `cpus` vCPUs takes beside guest RAM. */
export function kvmArenaBytes(cpus: number): number {
  return (
    DirtyPages.bytes +
    Doorbells.bytes +
    Batches.bytes(cpus) +
    OTHER_BYTES +
    cpus * (KVM_VCPU.size + PAGE + CpuidTable.bytes)
  );
}

export function createKvmVm(
  memory: SharedMemory,
  allocator: StateAllocator,
  guestMemory: GuestMemory,
  timers: Timers,
  clock: Clock,
  options: KvmVmOptions,
): KvmVm {
  return new KvmVm(memory, allocator, guestMemory, timers, clock, options);
}

export class KvmVm implements Vm, VcpuHost {
  readonly #state: KvmState;
  readonly #lock: Mutex;
  readonly #vcpuStates: readonly KvmVcpuState[];
  readonly #vcpus = new Map<number, KvmVcpu>();
  readonly #dirty: DirtyPages;
  readonly #doorbells: Doorbells;
  readonly cpuids: readonly CpuidTable[];
  readonly #batches: Batches;
  #coalesced: KvmCoalescedWrites | undefined;
  #supported: CpuidEntry[] | undefined;
  /** KVM_IRQ_LINE's argument, made once. */
  readonly #irqLevel = new Uint32Array(2);
  /** In the thread that made the machine, at the process's end: threads inside KVM_RUN would keep it alive. */
  readonly #onExit = () => this.#releaseThreads();

  constructor(
    readonly memory: SharedMemory,
    allocator: StateAllocator,
    readonly guestMemory: GuestMemory,
    timers: Timers,
    readonly clock: Clock,
    readonly options: KvmVmOptions,
  ) {
    this.#state = allocator.alloc(KVM_STATE, "kvm");
    this.#lock = new Mutex("kvm-slots", memory, this.#state.address + KVM_STATE.offset.lock);
    this.#vcpuStates = Array.from({ length: options.cpus }, (_, id) =>
      allocator.alloc(KVM_VCPU, `kvm.vcpu${id}`),
    );
    this.cpuids = this.#vcpuStates.map((_, id) => new CpuidTable(memory, allocator, `kvm.cpuid${id}`));
    this.#dirty = new DirtyPages(allocator, guestMemory, () => this.#state.logging !== 0);
    this.#doorbells = new Doorbells(memory, allocator, () => this.#state.vm);
    this.#batches = new Batches(this, allocator, timers, {
      clock,
      vcpus: this.#vcpuStates,
      vm: () => this.#state.vm,
      logging: () => this.#state.logging !== 0,
      dirty: this.#dirty,
      doorbells: this.#doorbells,
      allowed: options.batches !== false,
    });
    if (options.create) this.#create();
  }

  get mappingSize(): number {
    return this.#state.mappingSize;
  }

  get xsaveSize(): number {
    return this.#state.xsaveSize;
  }

  get batches(): boolean {
    return this.#batches.on;
  }

  get tscKhz(): number {
    return this.#state.tscKhz;
  }

  /** Whether KVM runs the guest's kernel with its instruction emulator, for want of hardware virtualization. */
  get emulating(): boolean {
    return this.#state.emulating !== 0;
  }

  // --- making and ending ---

  #create(): void {
    const state = this.#state;
    const device = KvmDevice.open(this.options.device);
    const opened = [device.fd];
    const mapped: bigint[] = [];
    try {
      device.checkCpus(this.options.cpus);
      state.device = device.fd;
      state.vm = ioctl(device.fd, Ioctl.KVM_CREATE_VM, 0, "KVM_CREATE_VM");
      opened.push(state.vm);
      state.mappingSize = ioctl(device.fd, Ioctl.KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE");
      state.emulating = hardwareVirtualization() === undefined ? 1 : 0;
      state.coalescing = device.capability(Cap.KVM_CAP_COALESCED_PIO) > 0 ? 1 : 0;
      // As the VM has it: the number depends on what its guests may use.
      const xsave2 = rawIoctl(state.vm, Ioctl.KVM_CHECK_EXTENSION, Cap.KVM_CAP_XSAVE2);
      state.xsaveSize = Math.max(xsave2, abi.kvm_xsave.size);
      this.#setUp(device);
      for (const [id, vcpu] of this.#vcpuStates.entries()) {
        vcpu.fd = ioctl(state.vm, Ioctl.KVM_CREATE_VCPU, id, "KVM_CREATE_VCPU");
        opened.push(vcpu.fd);
        vcpu.mapping = mapShared(vcpu.fd, state.mappingSize);
        mapped.push(vcpu.mapping);
      }
      state.tscKhz = ioctl(this.#vcpuStates[0].fd, Ioctl.KVM_GET_TSC_KHZ, 0, "KVM_GET_TSC_KHZ");
      this.#doorbells.create();
    } catch (error) {
      for (const address of mapped) unmap(address, state.mappingSize);
      for (const fd of opened.reverse()) close(fd);
      throw error;
    }
    process.once("exit", this.#onExit);
  }

  /** What has to be there before the first vCPU. */
  #setUp(device: KvmDevice): void {
    const { vm } = this.#state;
    const identityMap = BigUint64Array.of(BigInt(IDENTITY_MAP_ADDRESS));
    ioctlPointer(vm, Ioctl.KVM_SET_IDENTITY_MAP_ADDR, identityMap, "KVM_SET_IDENTITY_MAP_ADDR");
    ioctl(vm, Ioctl.KVM_SET_TSS_ADDR, TSS_ADDRESS, "KVM_SET_TSS_ADDR");
    this.#enable(device, Cap.KVM_CAP_X2APIC_API, Kvm.KVM_X2APIC_API_USE_32BIT_IDS);
    // Where the APIC has no page (x2APIC mode, disabled), accesses there go where others go (SDM vol. 3A, 11.4.3, 11.12.2).
    this.#enable(device, Cap.KVM_CAP_DISABLE_QUIRKS, Kvm.KVM_X86_QUIRK_LAPIC_MMIO_HOLE);
    // Emulation failures in the guest's user mode come here, too, and not to the guest as #UD.
    this.#enable(device, Cap.KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1);
    ioctl(vm, Ioctl.KVM_CREATE_IRQCHIP, 0, "KVM_CREATE_IRQCHIP");
    const pit = abi.kvm_pit_config.encode({ flags: Kvm.KVM_PIT_SPEAKER_DUMMY });
    ioctlPointer(vm, Ioctl.KVM_CREATE_PIT2, pit, "KVM_CREATE_PIT2");
    this.setGsiRouting(defaultRoutes());
  }

  /** KVM_ENABLE_CAP, where the host has it. */
  #enable(device: KvmDevice, cap: number, argument: number): void {
    if (device.capability(cap) <= 0) return;
    const enable = abi.kvm_enable_cap.encode({ cap, args: [BigInt(argument)] });
    ioctlPointer(this.#state.vm, Ioctl.KVM_ENABLE_CAP, enable, "KVM_ENABLE_CAP");
  }

  endBatch(id: number): void {
    this.#batches.end(id);
  }

  #releaseThreads(): void {
    for (let id = 0; id < this.options.cpus; id++) this.vcpu(id).kick();
    this.#doorbells.stop();
  }

  /** In the thread that made the machine, when its other threads are gone. */
  close(): void {
    this.#vcpus.clear();
    if (!this.options.create) return;
    process.off("exit", this.#onExit);
    this.#doorbells.stop();
    this.#doorbells.close();
    const { mappingSize, vm, device } = this.#state;
    for (const { mapping, fd } of this.#vcpuStates) {
      unmap(mapping, mappingSize);
      close(fd);
    }
    close(vm);
    close(device);
  }

  // --- memory ---

  setMemorySlot(slot: MemorySlot): void {
    const { slot: number, guestPhysical, size, offset, readonly, logDirty } = slot;
    if (number < 0 || number >= MAX_SLOTS) throw new RangeError(`there is no memory slot ${number}`);
    if (guestPhysical % PAGE !== 0 || size % PAGE !== 0 || offset % PAGE !== 0) {
      throw new RangeError(`memory slot ${number} is not page-aligned`);
    }
    const region = abi.kvm_userspace_memory_region.encode({
      slot: number,
      flags: (logDirty ? Kvm.KVM_MEM_LOG_DIRTY_PAGES : 0) | (readonly ? Kvm.KVM_MEM_READONLY : 0),
      guest_phys_addr: BigInt(guestPhysical),
      memory_size: BigInt(size),
      userspace_addr: addressOf(this.guestMemory.memoryOf(slot).u8) + BigInt(offset),
    });
    const state = this.#state;
    this.#lock.with(() => {
      ioctlPointer(state.vm, Ioctl.KVM_SET_USER_MEMORY_REGION, region, `memory slot ${number}`);
      if (logDirty && state.slotLogs[number] === 0) this.#dirty.clear(globalOffset(slot, offset), size);
      state.slotUsed[number] = size > 0 ? 1 : 0;
      state.slotLogs[number] = size > 0 && logDirty ? 1 : 0;
      state.slotOffset[number] = globalOffset(slot, offset);
      state.slotSize[number] = size;
      state.logging = state.slotLogs.includes(1) ? 1 : 0;
    });
  }

  getDirtyLog(slot: number): Uint8Array {
    const state = this.#state;
    if (!(slot >= 0 && slot < MAX_SLOTS) || state.slotUsed[slot] === 0) {
      throw new RangeError(`there is no memory slot ${slot}`);
    }
    const size = state.slotSize[slot];
    const pages = size / PAGE;
    // KVM writes whole longs.
    const bitmap = new Uint8Array(new ArrayBuffer(Math.ceil(pages / 64) * 8));
    const argument = abi.kvm_dirty_log.encode({ slot, dirty_bitmap: addressOf(bitmap) });
    ioctlPointer(state.vm, Ioctl.KVM_GET_DIRTY_LOG, argument, "KVM_GET_DIRTY_LOG");
    this.#dirty.take(state.slotOffset[slot], size, bitmap);
    return bitmap.subarray(0, Math.ceil(pages / 8));
  }

  // --- interrupts ---

  setIrqLine(gsi: number, level: boolean): void {
    const argument = this.#irqLevel;
    argument[0] = gsi;
    argument[1] = level ? 1 : 0;
    ioctlPointer(this.#state.vm, Ioctl.KVM_IRQ_LINE, argument, "KVM_IRQ_LINE");
    if (level) this.#batches.endAll();
  }

  setGsiRouting(routes: readonly IrqRoute[]): void {
    const entries = routes.map(routeTo);
    const { kvm_irq_routing, kvm_irq_routing_entry } = abi;
    const argument = encodeList(kvm_irq_routing, { nr: entries.length }, kvm_irq_routing_entry, entries);
    ioctlPointer(this.#state.vm, Ioctl.KVM_SET_GSI_ROUTING, argument, "KVM_SET_GSI_ROUTING");
  }

  signalMsi({ address, data }: Msi): void {
    const argument = abi.kvm_msi.encode({ ...msiAddress(address), data });
    ioctlPointer(this.#state.vm, Ioctl.KVM_SIGNAL_MSI, argument, "KVM_SIGNAL_MSI");
    this.#batches.endAll();
  }

  /** A write to eventfd `fd` raises `gsi` like an edge. KVM_IRQFD. */
  assignIrqfd(fd: number, gsi: number): void {
    this.#irqfd(fd, gsi, 0);
  }

  deassignIrqfd(fd: number, gsi: number): void {
    this.#irqfd(fd, gsi, Kvm.KVM_IRQFD_FLAG_DEASSIGN);
  }

  #irqfd(fd: number, gsi: number, flags: number): void {
    const argument = abi.kvm_irqfd.encode({ fd, gsi, flags });
    ioctlPointer(this.#state.vm, Ioctl.KVM_IRQFD, argument, "KVM_IRQFD");
  }

  addDoorbell(doorbell: Doorbell): void {
    this.#doorbells.add(doorbell);
  }

  removeDoorbell(doorbell: Doorbell): boolean {
    return this.#doorbells.remove(doorbell);
  }

  get coalesced(): KvmCoalescedWrites | undefined {
    if (this.#state.coalescing === 0) return undefined;
    const { mapping } = this.#vcpuStates[0];
    this.#coalesced ??= new KvmCoalescedWrites(this.#state.vm, memoryAt(mapping, this.#state.mappingSize));
    return this.#coalesced;
  }

  // --- clocks and CPUID ---

  getClock(): bigint {
    const data = new Uint8Array(abi.kvm_clock_data.size);
    ioctlPointer(this.#state.vm, Ioctl.KVM_GET_CLOCK, data, "KVM_GET_CLOCK");
    return abi.kvm_clock_data.decode(data).clock;
  }

  setClock(nanoseconds: bigint): void {
    const data = abi.kvm_clock_data.encode({ clock: nanoseconds });
    ioctlPointer(this.#state.vm, Ioctl.KVM_SET_CLOCK, data, "KVM_SET_CLOCK");
  }

  supportedCpuid(): CpuidEntry[] {
    const { device } = this.#state;
    if (this.#supported === undefined) {
      const tscDeadline = rawIoctl(device, Ioctl.KVM_CHECK_EXTENSION, Cap.KVM_CAP_TSC_DEADLINE_TIMER) > 0;
      const offered = readCpuid(device, "KVM_GET_SUPPORTED_CPUID");
      const usable = this.emulating ? softSubset(offered) : offered;
      this.#supported = machineCpuid(usable, this.options.cpus, tscDeadline);
    }
    return this.#supported;
  }

  // --- vCPUs ---

  vcpu(id: number): KvmVcpu {
    if (!(id >= 0 && id < this.#vcpuStates.length)) throw new RangeError(`there is no vCPU ${id}`);
    let vcpu = this.#vcpus.get(id);
    if (vcpu === undefined) {
      const make = (Step: typeof EmulationStep) => (self: KvmVcpu) =>
        new Step(
          self,
          this.memory,
          this.guestMemory,
          this.clock,
          this.#batches.arenas[id],
          this.#batches.host(id),
        );
      const { EmulationStep: loaded } = this.options;
      vcpu = new KvmVcpu(
        this,
        id,
        this.#vcpuStates[id],
        async () => make((await import("./emulation-step.js")).EmulationStep),
        loaded === undefined ? undefined : make(loaded),
      );
      this.#vcpus.set(id, vcpu);
    }
    return vcpu;
  }
}
