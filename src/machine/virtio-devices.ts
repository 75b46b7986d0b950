/**
 * The machine's virtio devices: made from the configuration, in the same order by every thread, put on their transport, and
 * given to the Worker that serves them.
 */
import type { DiskSpec } from "../backends/disk/open-disk.js";
import { releasePages } from "../backends/memory/release-pages.js";
import type { MmioBus } from "../devices/bus.js";
import { gsiLine, WiredOr } from "../devices/interrupt-line.js";
import { barOffset } from "../devices/pci/bars.js";
import { intxGsi, PCI_IO_BASE, PCI_MMIO_BASE, type PciHostBridge } from "../devices/pci/host-bridge.js";
import { Command, ConfigOffset } from "../devices/pci/registers.js";
import type { PciWindow } from "../devices/pci/window.js";
import { BalloonDevice } from "../devices/virtio/balloon.js";
import { BlkDevice } from "../devices/virtio/blk.js";
import { ConsoleDevice } from "../devices/virtio/console.js";
import { RingStream } from "../devices/virtio/console-streams.js";
import { type DeviceType, VirtioDevice } from "../devices/virtio/device.js";
import { VIRTIO_MMIO_SIZE, VirtioMmio } from "../devices/virtio/mmio.js";
import { type PciFlavour, VirtioPci } from "../devices/virtio/pci.js";
import { RngDevice } from "../devices/virtio/rng.js";
import { VsockDevice } from "../devices/virtio/vsock.js";
import type { Vm } from "../hypervisor/seam.js";
import type { ByteRing } from "../memory/byte-ring.js";
import type { GuestMemory } from "../memory/guest-memory.js";
import { alignUp } from "../memory/layout.js";
import type { StateAllocator } from "../memory/state-allocator.js";
import type { MachineConfig, VirtioTransport } from "./config.js";
import { diskThread, IO_THREAD, type IoThreads } from "./io-threads.js";
import { traceLine } from "./log.js";

/** Where the register pages of virtio-mmio devices are: between ECAM and the IOAPIC. */
export const VIRTIO_MMIO_BASE = 0xfe000000;

const FLAVOUR: Readonly<Record<Exclude<VirtioTransport, "mmio">, PciFlavour>> = {
  pci: "modern",
  "pci-legacy": "legacy",
  "pci-transitional": "transitional",
};

/** The host bridge has the first of the 32 devices of bus 0. */
const FIRST_SLOT = 1;
/** More queues than this one Worker would not serve any faster. */
const MAX_BLK_QUEUES = 4;

/** A virtio-mmio device, for the ACPI tables. */
export interface MmioPlace {
  readonly base: number;
  readonly size: number;
  readonly gsi: number;
}

export interface VirtioDevicesOptions {
  readonly config: MachineConfig;
  readonly allocator: StateAllocator;
  readonly guestMemory: GuestMemory;
  /** The far ends of the machine's console. */
  readonly console: { readonly output: ByteRing; readonly input: ByteRing };
  readonly vm: Vm;
  readonly threads: IoThreads;
  readonly mmio: MmioBus;
  readonly pci: PciHostBridge;
  readonly windows: { readonly memory: PciWindow; readonly io: PciWindow };
}

/** As the disk will say of itself. */
function isReadOnly({ readOnly, snapshot }: DiskSpec): boolean {
  return readOnly === true || snapshot !== undefined;
}

/** A device by its type. */
export interface Made<T extends DeviceType> {
  readonly type: T;
  readonly device: VirtioDevice;
}

interface Served {
  readonly device: VirtioDevice;
  /** Number of the Worker that serves it. */
  readonly thread: number;
}

export class VirtioDevices {
  readonly disks: readonly BlkDevice[];
  readonly console: Made<ConsoleDevice> | undefined;
  readonly balloon: Made<BalloonDevice> | undefined;
  readonly vsock: Made<VsockDevice> | undefined;
  readonly mmioPlaces: MmioPlace[] = [];
  readonly #options: VirtioDevicesOptions;
  readonly #served: Served[] = [];
  readonly #functions: VirtioPci[] = [];
  readonly #resets: (() => void)[] = [];
  readonly #lines = new Map<number, WiredOr>();

  constructor(options: VirtioDevicesOptions) {
    this.#options = options;
    const { config, allocator, guestMemory, console } = options;
    const queues = Math.min(config.cpus, MAX_BLK_QUEUES);
    this.disks = config.disks.map(({ spec, serial }, i) => {
      const name = `disk${i}`;
      const disk = new BlkDevice(allocator, name, { queues, readOnly: isReadOnly(spec), serial });
      this.#add(name, disk, diskThread(i));
      return disk;
    });
    if (config.console === "virtio" || config.consolePorts.length > 0) {
      const ports = [
        { console: config.console === "virtio", name: "" },
        ...config.consolePorts.map(({ name }) => ({ console: false, name })),
      ];
      const type = new ConsoleDevice(allocator, "console", ports);
      if (config.console === "virtio") type.streams[0] = new RingStream(console.output, console.input);
      this.console = { type, device: this.#add("console", type, IO_THREAD) };
    }
    if (config.rng) this.#add("rng", new RngDevice(), IO_THREAD);
    if (config.balloon) {
      const release = (offset: number, length: number) => releasePages(guestMemory, offset, length);
      const type = new BalloonDevice(allocator, "balloon", release);
      this.balloon = { type, device: this.#add("balloon", type, IO_THREAD) };
    }
    if (config.vsock !== undefined) {
      const type = new VsockDevice(allocator, "vsock", config.vsock.cid);
      this.vsock = { type, device: this.#add("vsock", type, IO_THREAD) };
    }
  }

  #add(name: string, type: DeviceType, thread: number): VirtioDevice {
    const { config, allocator, guestMemory, threads, vm, mmio, pci, windows } = this.#options;
    const device = new VirtioDevice(allocator, {
      name,
      type,
      memory: guestMemory,
      io: threads.thread(thread),
      packed: config.virtioRing === "packed",
      complain: traceLine,
    });
    const slot = FIRST_SLOT + this.#served.length;
    const gsi = intxGsi(slot, 0);
    const line = this.#line(gsi).input();
    if (config.virtioTransport === "mmio") {
      const base = VIRTIO_MMIO_BASE + VIRTIO_MMIO_SIZE * this.#served.length;
      const transport = new VirtioMmio(allocator, device, line, vm, base);
      mmio.register({ owner: name, start: base, size: VIRTIO_MMIO_SIZE, device: transport, maxSize: 4 });
      this.#resets.push(() => transport.reset());
      this.mmioPlaces.push({ base, size: VIRTIO_MMIO_SIZE, gsi });
    } else {
      const flavour = FLAVOUR[config.virtioTransport];
      const transport = new VirtioPci(allocator, { device, flavour, vm, line });
      pci.addFunction(slot, 0, transport);
      windows.memory.add(transport);
      windows.io.add(transport);
      this.#functions.push(transport);
      this.#resets.push(() => transport.reset());
    }
    this.#served.push({ device, thread });
    return device;
  }

  /** The line of a GSI that devices share. */
  #line(gsi: number): WiredOr {
    let line = this.#lines.get(gsi);
    if (line === undefined) {
      line = new WiredOr(this.#options.allocator, `gsi${gsi}`, gsiLine(this.#options.vm, gsi));
      this.#lines.set(gsi, line);
    }
    return line;
  }

  /** First values. */
  reset(): void {
    for (const line of this.#lines.values()) line.reset();
    for (const reset of this.#resets) reset();
    this.#placeRegions();
  }

  /** What firmware does before it starts a kernel: every region has an address, and is decoded. */
  #placeRegions(): void {
    const next = { memory: PCI_MMIO_BASE, io: PCI_IO_BASE };
    for (const { config, regions } of this.#functions) {
      let command = 0;
      for (const { bar, kind, size } of regions) {
        const at = alignUp(next[kind], size);
        config.writeConfig(barOffset(bar), 4, at);
        next[kind] = at + size;
        command |= kind === "io" ? Command.IO_SPACE : Command.MEMORY_SPACE;
      }
      config.writeConfig(ConfigOffset.COMMAND, 2, command);
    }
    this.#options.pci.decodingChanged();
  }

  /** Serve the devices of Worker `thread`, in that thread; true where there is more to do. */
  serve(thread: number): boolean {
    let more = false;
    for (const { device, thread: owner } of this.#served) {
      if (owner === thread && device.serve()) more = true;
    }
    return more;
  }
}
