/**
 * virtio over PCI: VIRTIO 4.1. A function is modern (its structures in a memory region, found by capabilities), legacy
 * (registers in an I/O region) or transitional (both).
 *
 * | BAR | what |
 * | --- | --- |
 * | 0 | I/O: legacy registers; not of modern functions |
 * | 1 | memory: MSI-X table and pending bits |
 * | 4 | memory: common configuration, ISR status, device configuration, notifications; not of legacy functions |
 */
import type { Vm } from "../../hypervisor/seam.js";
import { Layout, type ViewOf } from "../../memory/layout.js";
import { Mutex } from "../../memory/mutex.js";
import type { StateAllocator } from "../../memory/state-allocator.js";
import type { AccessSize, BusDevice } from "../bus.js";
import type { InterruptLine } from "../interrupt-line.js";
import type { BarDefinition } from "../pci/bars.js";
import { type CapabilityDefinition, CapabilityId } from "../pci/capabilities.js";
import { ConfigSpace, type PciFunction } from "../pci/config-space.js";
import { MSIX_REGION_SIZE, Msix, msixCapability } from "../pci/msix.js";
import { Command, ConfigOffset } from "../pci/registers.js";
import type { Region, RegionOwner } from "../pci/window.js";
import { DeviceId, Isr, NO_VECTOR, Status } from "./constants.js";
import type { VirtioDevice } from "./device.js";
import { DeviceDoorbell } from "./doorbell.js";
import { COMMON_CONFIG_SIZE, commonConfig } from "./pci-common.js";
import { LEGACY_NOTIFY, legacyRegisters } from "./pci-legacy.js";

export type PciFlavour = "modern" | "legacy" | "transitional";

const VENDOR_ID = 0x1af4;
/** VIRTIO 4.1.2: modern device IDs are this and the device type. */
const MODERN_DEVICE_BASE = 0x1040;
const MODERN_REVISION = 1;
/** 4.1.2.1: 0x40 at least, so that legacy drivers do not take a modern function for theirs. */
const MODERN_SUBSYSTEM = 0x40;

/** Per type: transitional device ID (VIRTIO 4.1.2.1), class code (PCI 3.0, appendix D; what other hypervisors show). */
const IDENTITY: Readonly<Record<number, { transitional?: number; classCode: number }>> = {
  [DeviceId.BLOCK]: { transitional: 0x1001, classCode: 0x010000 },
  [DeviceId.CONSOLE]: { transitional: 0x1003, classCode: 0x078000 },
  [DeviceId.ENTROPY]: { transitional: 0x1005, classCode: 0x00ff00 },
  [DeviceId.BALLOON]: { transitional: 0x1002, classCode: 0x00ff00 },
  [DeviceId.VSOCK]: { classCode: 0x078000 },
};
const CLASS_OTHER = 0x00ff00;

const Bar = { LEGACY: 0, MSIX: 1, MODERN: 4 } as const;
const LEGACY_REGION_SIZE = 256;

/** Where the structures are in the modern region. */
const Offset = { COMMON: 0x0000, ISR: 0x1000, DEVICE: 0x2000, NOTIFY: 0x3000 } as const;
const MODERN_REGION_SIZE = 0x4000;
const STRUCTURE_SPACE = 0x1000;
const NOTIFY_SIZE = 4;

/** Types of structures, VIRTIO 4.1.4. */
const StructureType = { COMMON: 1, NOTIFY: 2, ISR: 3, DEVICE: 4, PCI_CONFIG: 5 } as const;

/** Interrupt status, in the status register (PCI 3.0, 6.2.3). */
const STATUS_INTERRUPT = 1 << 3;

/** Fields of the PCI configuration access capability (4.1.4.9), from its start. */
const Window = { BAR: 4, OFFSET: 8, LENGTH: 12, DATA: 16 } as const;

const VIRTIO_PCI = new Layout("virtio-pci", {
  /** Guards `isr` and the level of the interrupt line. */
  lock: "u32",
  isr: "u32",
  deviceFeatureSelect: "u32",
  driverFeatureSelect: "u32",
  queueSelect: "u32",
  configVector: "u32",
});

export interface VirtioPciOptions {
  readonly device: VirtioDevice;
  readonly flavour: PciFlavour;
  readonly vm: Pick<Vm, "signalMsi" | "addDoorbell" | "removeDoorbell">;
  /** INTA#. */
  readonly line: InterruptLine;
}

export class VirtioPci implements PciFunction, RegionOwner {
  readonly device: VirtioDevice;
  readonly flavour: PciFlavour;
  readonly config: ConfigSpace;
  readonly regions: readonly Region[];
  readonly #state: ViewOf<typeof VIRTIO_PCI>;
  readonly #words: Int32Array;
  readonly #isr: number;
  readonly #lock: Mutex;
  readonly #line: InterruptLine;
  readonly #msix: Msix;
  readonly #modernBell: DeviceDoorbell;
  readonly #legacyBell: DeviceDoorbell;
  /** Offset of the configuration access capability, or a value past every register. */
  readonly #window: number;

  constructor(allocator: StateAllocator, { device, flavour, vm, line }: VirtioPciOptions) {
    this.device = device;
    this.flavour = device.type.legacy ? flavour : "modern";
    this.#line = line;
    const { name, type } = device;
    this.#state = allocator.alloc(VIRTIO_PCI, `${name}.pci`);
    this.#words = allocator.memory.i32;
    this.#isr = (this.#state.address + VIRTIO_PCI.offset.isr) >>> 2;
    this.#lock = new Mutex("virtio-irq", allocator.memory, this.#state.address + VIRTIO_PCI.offset.lock);

    const modern = this.flavour !== "legacy";
    const vectors = device.queues.length + 1;
    const capabilities = [
      msixCapability(vectors, Bar.MSIX),
      ...(modern ? modernCapabilities(type.configSize) : []),
    ];
    const { transitional, classCode } = IDENTITY[type.id] ?? { classCode: CLASS_OTHER };
    const old = this.flavour !== "modern" && transitional !== undefined;
    this.config = new ConfigSpace(allocator, `${name}.config`, {
      vendorId: VENDOR_ID,
      deviceId: old ? transitional : MODERN_DEVICE_BASE + type.id,
      revisionId: old ? 0 : MODERN_REVISION,
      classCode,
      subsystemVendorId: VENDOR_ID,
      // 4.1.2.3: legacy drivers find the device type here.
      subsystemId: old ? type.id : MODERN_SUBSYSTEM + type.id,
      interruptPin: 1,
      bars: [
        ...(this.flavour !== "modern" ? [LEGACY_BAR] : []),
        { index: Bar.MSIX, kind: "memory32", size: MSIX_REGION_SIZE },
        ...(modern ? [MODERN_BAR] : []),
      ],
      capabilities,
    });
    const [msixAt] = this.config.capabilityOffsets;
    this.#window = modern ? this.config.capabilityOffsets[capabilities.length - 1] : Number.MAX_SAFE_INTEGER;
    this.#msix = new Msix(allocator, `${name}.msix`, vectors, vm, this.config, msixAt);
    const { word } = device.io;
    this.#modernBell = new DeviceDoorbell(allocator, name, vm, { space: "mmio", size: 2, word });
    this.#legacyBell = new DeviceDoorbell(allocator, name, vm, { space: "port", size: 2, word });
    this.regions = this.#makeRegions(vectors, modern);
    device.interrupts = {
      queue: (index) => this.#interrupt(Isr.QUEUE, device.queues[index].state.vector),
      config: () => this.#interrupt(Isr.CONFIG, this.#state.configVector),
    };
    device.mayAccessMemory = () => this.config.isBusMaster;
  }

  #makeRegions(vectors: number, modern: boolean): Region[] {
    const { device } = this;
    const state = this.#state;
    const writeStatus = (value: number) => this.#writeStatus(value);
    const notify = () => device.io.ring();
    const regions: Region[] = [{ bar: Bar.MSIX, kind: "memory", size: MSIX_REGION_SIZE, device: this.#msix }];
    if (this.flavour !== "modern") {
      const registers = legacyRegisters({
        device,
        state,
        vectors,
        writeStatus: (value) => {
          if ((value & Status.DRIVER) !== 0) this.#beLegacyBusMaster();
          writeStatus(value);
        },
        notify,
        msixEnabled: () => this.#msix.enabled,
        readIsr: () => this.#takeIsr(),
      });
      regions.push({ bar: Bar.LEGACY, kind: "io", size: LEGACY_REGION_SIZE, device: registers });
    }
    if (modern) {
      const common = commonConfig({ device, state, vectors, writeStatus });
      const structures: Readonly<Record<number, BusDevice>> = {
        [Offset.COMMON]: common,
        [Offset.ISR]: { read: (offset) => (offset === 0 ? this.#takeIsr() : 0), write: () => undefined },
        [Offset.DEVICE]: {
          read: (offset, size) => device.readConfig(offset, size),
          write: (offset, size, value) => device.writeConfig(offset, size, value),
        },
        [Offset.NOTIFY]: { read: () => 0, write: notify },
      };
      regions.push({
        bar: Bar.MODERN,
        kind: "memory",
        size: MODERN_REGION_SIZE,
        device: {
          read: (offset, size) => {
            const within = offset % STRUCTURE_SPACE;
            return structures[offset - within].read(within, size);
          },
          write: (offset, size, value) => {
            const within = offset % STRUCTURE_SPACE;
            structures[offset - within].write(within, size, value);
          },
        },
      });
    }
    return regions;
  }

  /** First values, of the device, too. */
  reset(): void {
    this.config.reset();
    this.#msix.reset();
    this.device.reset();
    this.#resetTransport();
  }

  #resetTransport(): void {
    const state = this.#state;
    state.deviceFeatureSelect = 0;
    state.driverFeatureSelect = 0;
    state.queueSelect = 0;
    state.configVector = NO_VECTOR;
    this.#lock.with(() => {
      Atomics.store(this.#words, this.#isr, 0);
      this.#updateLine();
    });
  }

  /**
   * Legacy drivers, Linux's before 2.6.34 among them, use the device without making it a bus master: with them it makes itself
   * one.
   */
  #beLegacyBusMaster(): void {
    if (this.config.isBusMaster) return;
    const command = this.config.readConfig(ConfigOffset.COMMAND, 2);
    this.config.writeConfig(ConfigOffset.COMMAND, 2, command | Command.BUS_MASTER);
  }

  #writeStatus(value: number): void {
    this.device.writeStatus(value);
    if (value === 0) this.#resetTransport();
    this.#placeDoorbell();
  }

  // --- interrupts, VIRTIO 4.1.4.5 and 4.1.5.3 ---

  #interrupt(bit: number, vector: number): void {
    const msix = this.#msix.enabled;
    // With MSI-X only the configuration bit is set (4.1.4.5.1).
    if (!msix || bit === Isr.CONFIG) {
      this.#lock.with(() => {
        Atomics.or(this.#words, this.#isr, bit);
        this.#updateLine();
      });
    }
    if (msix && vector !== NO_VECTOR) this.#msix.trigger(vector);
  }

  /** Reading the ISR status clears it, and lowers the line. */
  #takeIsr(): number {
    if (Atomics.load(this.#words, this.#isr) === 0) return 0;
    return this.#lock.with(() => {
      const value = Atomics.exchange(this.#words, this.#isr, 0);
      this.#updateLine();
      return value;
    });
  }

  /** Lock held. */
  #updateLine(): void {
    const disabled = (this.config.readConfig(ConfigOffset.COMMAND, 2) & Command.INTERRUPT_DISABLE) !== 0;
    const high = Atomics.load(this.#words, this.#isr) !== 0 && !disabled && !this.#msix.enabled;
    this.#line.set(high);
  }

  // --- configuration space ---

  readConfig(offset: number, size: AccessSize): number {
    if (this.#inWindow(offset)) return this.#readWindow(offset - this.#window - Window.DATA, size);
    let value = this.config.readConfig(offset, size);
    const status = ConfigOffset.STATUS - offset;
    const pending = !this.#msix.enabled && Atomics.load(this.#words, this.#isr) !== 0;
    if (pending && status >= 0 && status < size) value |= STATUS_INTERRUPT << (8 * status);
    return value >>> 0;
  }

  writeConfig(offset: number, size: AccessSize, value: number): void {
    if (this.#inWindow(offset)) {
      this.#writeWindow(offset - this.#window - Window.DATA, size, value);
      return;
    }
    const wasMaster = this.config.isBusMaster;
    this.config.writeConfig(offset, size, value);
    if (offset < ConfigOffset.BAR0 || (offset & ~3) === this.#msix.capability) {
      this.#msix.controlChanged();
      this.#lock.with(() => this.#updateLine());
    }
    // Takes the device's lock: when a write that ends bus mastering returns, no request is being served any more.
    if (offset < ConfigOffset.CARDBUS_CIS) this.#placeDoorbell();
    if (!wasMaster && this.config.isBusMaster && this.device.live) this.device.io.ring();
  }

  // --- access to the regions by configuration space alone, VIRTIO 4.1.4.9 ---

  #inWindow(offset: number): boolean {
    const at = offset - this.#window - Window.DATA;
    return at >= 0 && at < 4;
  }

  /** The access that the capability's fields name, or undefined where it is none. */
  #windowTarget(): { device: BusDevice; offset: number; size: AccessSize } | undefined {
    const bar = this.config.readConfig(this.#window + Window.BAR, 1);
    const offset = this.config.readConfig(this.#window + Window.OFFSET, 4);
    const size = this.config.readConfig(this.#window + Window.LENGTH, 4);
    const region = this.regions.find((each) => each.bar === bar);
    if (region === undefined || (size !== 1 && size !== 2 && size !== 4)) return undefined;
    // 4.1.4.9.2: the offset is a multiple of the length and inside of a structure.
    if (offset % size !== 0 || offset + size > region.size) return undefined;
    return { device: region.device, offset, size };
  }

  #readWindow(at: number, size: AccessSize): number {
    const target = at === 0 ? this.#windowTarget() : undefined;
    if (target === undefined || size < target.size) return 0;
    return target.device.read(target.offset, target.size);
  }

  #writeWindow(at: number, size: AccessSize, value: number): void {
    const target = at === 0 ? this.#windowTarget() : undefined;
    if (target === undefined || size < target.size) return;
    const narrow = target.size === 4 ? value : value & (target.size === 2 ? 0xffff : 0xff);
    target.device.write(target.offset, target.size, narrow);
  }

  // --- doorbells ---

  /** Where notifications are written now. */
  #placeDoorbell(): void {
    this.device.locked(() => {
      const modern = this.config.regionAddress(Bar.MODERN);
      const legacy = this.config.regionAddress(Bar.LEGACY);
      const { live } = this.device;
      this.#modernBell.place(live && modern !== undefined ? modern + Offset.NOTIFY : undefined);
      this.#legacyBell.place(live && legacy !== undefined ? legacy + LEGACY_NOTIFY : undefined);
    });
  }
}

const LEGACY_BAR: BarDefinition = { index: Bar.LEGACY, kind: "io", size: LEGACY_REGION_SIZE };
const MODERN_BAR: BarDefinition = { index: Bar.MODERN, kind: "memory32", size: MODERN_REGION_SIZE };

/** VIRTIO 4.1.4: the capabilities that say where the structures are; the one for access by configuration space comes last. */
function modernCapabilities(configSize: number): CapabilityDefinition[] {
  return [
    structure(StructureType.COMMON, Offset.COMMON, COMMON_CONFIG_SIZE),
    structure(StructureType.NOTIFY, Offset.NOTIFY, NOTIFY_SIZE, 4),
    structure(StructureType.ISR, Offset.ISR, 1),
    // 4.1.4.6.1: only of types that have a configuration.
    ...(configSize > 0 ? [structure(StructureType.DEVICE, Offset.DEVICE, configSize)] : []),
    configAccess(),
  ];
}

/** Offsets in a capability's body, which is without the first two bytes. */
const Body = { LENGTH: 0, TYPE: 1, BAR: 2, OFFSET: 6, SIZE: 10 } as const;
const CAPABILITY_LENGTH = 16;

/** `extra`: bytes of further fields, zero. The notification multiplier is one: 0, as all queues share an address. */
function structure(type: number, offset: number, length: number, extra = 0): CapabilityDefinition {
  const body = new Uint8Array(CAPABILITY_LENGTH - 2 + extra);
  const view = new DataView(body.buffer);
  view.setUint8(Body.LENGTH, CAPABILITY_LENGTH + extra);
  view.setUint8(Body.TYPE, type);
  view.setUint8(Body.BAR, Bar.MODERN);
  view.setUint32(Body.OFFSET, offset, true);
  view.setUint32(Body.SIZE, length, true);
  return { id: CapabilityId.VENDOR_SPECIFIC, body };
}

function configAccess(): CapabilityDefinition {
  const definition = structure(StructureType.PCI_CONFIG, 0, 0, 4);
  definition.body[Body.BAR] = 0;
  const writable = new Uint8Array(definition.body.length);
  writable[Body.BAR] = 0xff;
  writable.fill(0xff, Body.OFFSET);
  return { ...definition, writable };
}
