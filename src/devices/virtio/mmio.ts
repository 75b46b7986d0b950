/** virtio over MMIO, version 2: VIRTIO 4.2. A page of registers for each device, and a level-triggered interrupt. */
import { Layout, type ViewOf } from "../../memory/layout.js";
import { Mutex } from "../../memory/mutex.js";
import type { StateAllocator } from "../../memory/state-allocator.js";
import type { AccessSize, BusDevice } from "../bus.js";
import type { InterruptLine } from "../interrupt-line.js";
import { Isr } from "./constants.js";
import type { VirtioDevice } from "./device.js";
import { DeviceDoorbell, type DoorbellVm } from "./doorbell.js";
import type { Queue } from "./queue.js";

export const VIRTIO_MMIO_SIZE = 0x1000;

/** "virt" */
const MAGIC = 0x74726976;
const VERSION = 2;
/** The vendor of the device: the one that owns virtio's PCI vendor ID. */
const VENDOR = 0x1af4;

/** Register offsets, VIRTIO 4.2.2 (table 4.1). */
export const MmioRegister = {
  MAGIC: 0x000,
  VERSION: 0x004,
  DEVICE_ID: 0x008,
  VENDOR_ID: 0x00c,
  DEVICE_FEATURES: 0x010,
  DEVICE_FEATURES_SEL: 0x014,
  DRIVER_FEATURES: 0x020,
  DRIVER_FEATURES_SEL: 0x024,
  QUEUE_SEL: 0x030,
  QUEUE_SIZE_MAX: 0x034,
  QUEUE_SIZE: 0x038,
  QUEUE_READY: 0x044,
  QUEUE_NOTIFY: 0x050,
  INTERRUPT_STATUS: 0x060,
  INTERRUPT_ACK: 0x064,
  STATUS: 0x070,
  QUEUE_DESC_LOW: 0x080,
  QUEUE_DESC_HIGH: 0x084,
  QUEUE_DRIVER_LOW: 0x090,
  QUEUE_DRIVER_HIGH: 0x094,
  QUEUE_DEVICE_LOW: 0x0a0,
  QUEUE_DEVICE_HIGH: 0x0a4,
  SHM_LEN_LOW: 0x0b0,
  SHM_LEN_HIGH: 0x0b4,
  SHM_BASE_LOW: 0x0b8,
  SHM_BASE_HIGH: 0x0bc,
  CONFIG_GENERATION: 0x0fc,
  CONFIG: 0x100,
} as const;

const VIRTIO_MMIO = new Layout("virtio-mmio", {
  /** Guards `isr` and the level of the interrupt line. */
  lock: "u32",
  isr: "u32",
  deviceFeatureSelect: "u32",
  driverFeatureSelect: "u32",
  queueSelect: "u32",
});

type Areas = "descriptors" | "driver" | "device";
const AREA: Readonly<Record<number, readonly [Areas, word: 0 | 1]>> = {
  [MmioRegister.QUEUE_DESC_LOW]: ["descriptors", 0],
  [MmioRegister.QUEUE_DESC_HIGH]: ["descriptors", 1],
  [MmioRegister.QUEUE_DRIVER_LOW]: ["driver", 0],
  [MmioRegister.QUEUE_DRIVER_HIGH]: ["driver", 1],
  [MmioRegister.QUEUE_DEVICE_LOW]: ["device", 0],
  [MmioRegister.QUEUE_DEVICE_HIGH]: ["device", 1],
};

export class VirtioMmio implements BusDevice {
  readonly #state: ViewOf<typeof VIRTIO_MMIO>;
  readonly #words: Int32Array;
  readonly #isr: number;
  readonly #lock: Mutex;

  readonly #bell: DeviceDoorbell;

  /** `base`: guest-physical address of the registers. */
  constructor(
    allocator: StateAllocator,
    readonly device: VirtioDevice,
    readonly line: InterruptLine,
    vm: DoorbellVm,
    readonly base: number,
  ) {
    const bell = { space: "mmio", size: 4, word: device.io.word } as const;
    this.#bell = new DeviceDoorbell(allocator, device.name, vm, bell);
    this.#state = allocator.alloc(VIRTIO_MMIO, `${device.name}.mmio`);
    this.#words = allocator.memory.i32;
    const { address } = this.#state;
    this.#isr = (address + VIRTIO_MMIO.offset.isr) >>> 2;
    this.#lock = new Mutex("virtio-irq", allocator.memory, address + VIRTIO_MMIO.offset.lock);
    device.interrupts = {
      queue: () => this.#interrupt(Isr.QUEUE),
      config: () => this.#interrupt(Isr.CONFIG),
    };
  }

  /** First values, of the device, too. */
  reset(): void {
    this.device.reset();
    this.#resetTransport();
  }

  #resetTransport(): void {
    const state = this.#state;
    state.deviceFeatureSelect = 0;
    state.driverFeatureSelect = 0;
    state.queueSelect = 0;
    this.#acknowledge(Isr.QUEUE | Isr.CONFIG);
  }

  #interrupt(bit: number): void {
    this.#lock.with(() => {
      Atomics.or(this.#words, this.#isr, bit);
      this.line.set(true);
    });
  }

  #acknowledge(bits: number): void {
    this.#lock.with(() => {
      const left = Atomics.and(this.#words, this.#isr, ~bits) & ~bits;
      this.line.set(left !== 0);
    });
  }

  get #queue(): Queue | undefined {
    return this.device.queues[this.#state.queueSelect];
  }

  /** 4.2.2.2: registers are 32 bits wide and accessed so; other accesses read as zero and write nothing. */
  read(offset: number, size: AccessSize): number {
    if (offset >= MmioRegister.CONFIG) return this.device.readConfig(offset - MmioRegister.CONFIG, size);
    if (size !== 4) return 0;
    const { device } = this;
    const state = this.#state;
    switch (offset) {
      case MmioRegister.MAGIC:
        return MAGIC;
      case MmioRegister.VERSION:
        return VERSION;
      case MmioRegister.DEVICE_ID:
        return device.type.id;
      case MmioRegister.VENDOR_ID:
        return VENDOR;
      case MmioRegister.DEVICE_FEATURES:
        return device.deviceFeatures(state.deviceFeatureSelect);
      case MmioRegister.QUEUE_SIZE_MAX:
        return this.#queue?.maxSize ?? 0;
      case MmioRegister.QUEUE_READY:
        return this.#queue?.state.enabled ?? 0;
      case MmioRegister.INTERRUPT_STATUS:
        return Atomics.load(this.#words, this.#isr);
      case MmioRegister.STATUS:
        return device.status;
      // 4.2.2.1: there are no shared memory regions.
      case MmioRegister.SHM_LEN_LOW:
      case MmioRegister.SHM_LEN_HIGH:
      case MmioRegister.SHM_BASE_LOW:
      case MmioRegister.SHM_BASE_HIGH:
        return 0xffffffff;
      case MmioRegister.CONFIG_GENERATION:
        return device.configGeneration;
      default:
        return 0;
    }
  }

  write(offset: number, size: AccessSize, value: number): void {
    if (offset >= MmioRegister.CONFIG) {
      this.device.writeConfig(offset - MmioRegister.CONFIG, size, value);
      return;
    }
    if (size !== 4) return;
    const { device } = this;
    const state = this.#state;
    const queue = this.#queue;
    switch (offset) {
      case MmioRegister.DEVICE_FEATURES_SEL:
        state.deviceFeatureSelect = value;
        break;
      case MmioRegister.DRIVER_FEATURES_SEL:
        state.driverFeatureSelect = value;
        break;
      case MmioRegister.DRIVER_FEATURES:
        device.setDriverFeatures(state.driverFeatureSelect, value);
        break;
      case MmioRegister.QUEUE_SEL:
        state.queueSelect = value;
        break;
      case MmioRegister.QUEUE_SIZE:
        if (queue !== undefined && !queue.enabled) device.locked(() => queue.resize(value));
        break;
      case MmioRegister.QUEUE_READY:
        if (value === 1 && queue !== undefined && !queue.enabled) queue.enable();
        else if (value === 0) queue?.disable();
        break;
      case MmioRegister.QUEUE_NOTIFY:
        device.io.ring();
        break;
      case MmioRegister.INTERRUPT_ACK:
        this.#acknowledge(value);
        break;
      case MmioRegister.STATUS:
        device.writeStatus(value);
        if (value === 0) this.#resetTransport();
        device.locked(() => {
          this.#bell.place(device.live ? this.base + MmioRegister.QUEUE_NOTIFY : undefined);
        });
        break;
      default: {
        const area = AREA[offset];
        // 4.2.2.2: the driver leaves a ready queue alone.
        if (area === undefined || queue === undefined || queue.enabled) break;
        const [field, word] = area;
        device.locked(() => {
          queue.state[field][word] = value;
        });
      }
    }
  }
}
