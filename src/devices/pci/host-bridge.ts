/**
 * The PCI host bridge: how the processor reaches configuration space, and function 0 of device 0 on bus 0.
 *
 * - Configuration mechanism #1, ports 0xCF8 and 0xCFC: PCI Local Bus Specification 3.0, 3.2.2.3.2.
 * - Enhanced configuration access mechanism (ECAM), a memory window: PCI Express Base 4.0, 7.2.2.
 * - Reset control register, port 0xCF9: Intel I/O Controller Hub 9 data sheet, 13.7 (RST_CNT). It hides under
 *   CONFIG_ADDRESS because that is one only for dword accesses.
 */
import { Layout, type ViewOf } from "../../memory/layout.js";
import { Mutex } from "../../memory/mutex.js";
import type { StateAllocator } from "../../memory/state-allocator.js";
import type { AccessSize, BusDevice } from "../bus.js";
import { ConfigSpace, type PciFunction, withinDword } from "./config-space.js";
import { Command, ConfigOffset } from "./registers.js";

/** First of the host bridge's ports: CONFIG_ADDRESS. */
export const PCI_CONFIG_PORT = 0xcf8;
export const PCI_CONFIG_PORT_COUNT = 8;

/** Guest-physical address and size of the ECAM window: 256 buses of 1 MiB each. */
export const ECAM_BASE = 0xe0000000;
export const ECAM_BUSES = 256;
export const ECAM_SIZE = ECAM_BUSES << 20;

/** Where software may put memory regions of functions: the window that the host bridge forwards. */
export const PCI_MMIO_BASE = 0xc0000000;
export const PCI_MMIO_SIZE = 0x20000000;

/** The same for ports; what is below belongs to the board. */
export const PCI_IO_BASE = 0x1000;
export const PCI_IO_SIZE = 0xf000;

/** Offsets from `PCI_CONFIG_PORT`. */
const CONFIG_ADDRESS = 0;
const RESET_CONTROL = 1;
const CONFIG_DATA = 4;

/**
 * CONFIG_ADDRESS: bit 31 turns accesses to CONFIG_DATA into configuration requests; bits 30–24 and 1–0 read
 * as 0.
 */
const CONFIG_ENABLE = 0x80000000;
const CONFIG_ADDRESS_MASK = 0x80fffffc;

/** Reset control register. */
export const RESET_CONTROL_PORT = PCI_CONFIG_PORT + RESET_CONTROL;
export const ResetControl = {
  /** SYS_RST: the reset is one of the whole system, not only of the processors. */
  SYSTEM: 1 << 1,
  /** RST_CPU: going from 0 to 1 starts the reset. */
  CPU: 1 << 2,
  /** FULL_RST: the reset cycles power. */
  FULL: 1 << 3,
} as const;
const RESET_CONTROL_MASK = ResetControl.SYSTEM | ResetControl.CPU | ResetControl.FULL;

/**
 * The identity of the host bridge: Intel's 0x0D57, a bridge without any register of its own, which other
 * small virtual machine monitors show too. No operating system has a driver for it or looks for quirks.
 */
const HOST_BRIDGE_VENDOR = 0x8086;
const HOST_BRIDGE_DEVICE = 0x0d57;
/** Base class 0x06 (bridge), sub-class 0x00 (host): PCI 3.0, appendix D.7. */
const CLASS_HOST_BRIDGE = 0x060000;

/** First I/O APIC input that the INTx pins of functions lead to, and how many there are. */
const INTX_GSI_BASE = 16;
const INTX_GSI_COUNT = 8;

/** The GSI of a pin (0: INTA# to 3: INTD#) of a device on bus 0; _PRT in the DSDT says the same. */
export function intxGsi(device: number, pin: number): number {
  return INTX_GSI_BASE + ((device + pin) % INTX_GSI_COUNT);
}

/** Command and base address registers come before it. */
const HEADER_END = ConfigOffset.CARDBUS_CIS;

const DEVICES_PER_BUS = 32;
const FUNCTIONS_PER_DEVICE = 8;

/** What a read gives that no function answers: the master abort's all ones (PCI 3.0, 6.1). */
const ALL_ONES: Record<AccessSize, number> = { 1: 0xff, 2: 0xffff, 4: 0xffffffff };

const PCI_HOST = new Layout("pci-host", {
  lock: "u32",
  configAddress: "u32",
  /** Incremented at every write that may change what a function decodes. */
  decodeGeneration: "u32",
  resetControl: "u8",
});

export class PciHostBridge {
  readonly #state: ViewOf<typeof PCI_HOST>;
  readonly #lock: Mutex;
  readonly #function: ConfigSpace;
  /** The functions of bus 0, at device × 8 + function. There are no bridges, so no further bus. */
  readonly #functions: (PciFunction | undefined)[] = [];
  readonly #onReset: () => void;
  readonly #words: Int32Array;
  readonly #decodeGeneration: number;

  /** The eight ports from `PCI_CONFIG_PORT`. */
  readonly ports: BusDevice = {
    read: (offset, size) => this.#readPort(offset, size),
    write: (offset, size, value) => this.#writePort(offset, size, value),
  };
  /** The `ECAM_SIZE` bytes from `ECAM_BASE`. */
  readonly ecam: BusDevice = {
    read: (offset, size) => this.#read(offset >>> 12, offset & 0xfff, size),
    write: (offset, size, value) => this.#write(offset >>> 12, offset & 0xfff, size, value),
  };

  /** `onReset` is called, with no lock held, when the guest resets the machine through port 0xCF9. */
  constructor(allocator: StateAllocator, onReset: () => void) {
    this.#state = allocator.alloc(PCI_HOST, "pci-host");
    this.#lock = new Mutex("pci", allocator.memory, this.#state.address + PCI_HOST.offset.lock);
    this.#words = allocator.memory.i32;
    this.#decodeGeneration = (this.#state.address + PCI_HOST.offset.decodeGeneration) >>> 2;
    this.#onReset = onReset;
    this.#function = new ConfigSpace(allocator, "pci-host-bridge", {
      vendorId: HOST_BRIDGE_VENDOR,
      deviceId: HOST_BRIDGE_DEVICE,
      classCode: CLASS_HOST_BRIDGE,
      // A host bridge forwards to memory and from bus masters whatever is written here, as Intel's bridges
      // say.
      alwaysOn: Command.MEMORY_SPACE | Command.BUS_MASTER,
    });
    this.addFunction(0, 0, this.#function);
  }

  /** First values of the bridge and its own function; further functions are reset by who made them. */
  reset(): void {
    this.#lock.with(() => {
      this.#state.configAddress = 0;
      this.#state.resetControl = 0;
    });
    this.#function.reset();
  }

  /** Put `pciFunction` on bus 0. Every thread does so, in the same way. */
  addFunction(device: number, functionNumber: number, pciFunction: PciFunction): void {
    const index = device * FUNCTIONS_PER_DEVICE + functionNumber;
    if (!(device >= 0 && device < DEVICES_PER_BUS && functionNumber >= 0))
      throw new RangeError("no such device");
    if (functionNumber >= FUNCTIONS_PER_DEVICE) throw new RangeError("no such function");
    if (this.#functions[index] !== undefined)
      throw new RangeError(`PCI 00:${device}.${functionNumber} is taken`);
    this.#functions[index] = pciFunction;
  }

  /** `id`: bus, device and function as 8, 5 and 3 bits. Bus 0 comes first, so its ids are the indices. */
  #read(id: number, register: number, size: AccessSize): number {
    const target = this.#functions[id];
    if (target === undefined || !withinDword(register, size)) return ALL_ONES[size];
    return target.readConfig(register, size);
  }

  #write(id: number, register: number, size: AccessSize, value: number): void {
    const target = this.#functions[id];
    if (target === undefined || !withinDword(register, size)) return;
    target.writeConfig(register, size, value);
    if (register < HEADER_END) this.decodingChanged();
  }

  /** Changes whenever a function may decode other addresses than before. */
  get decodeGeneration(): number {
    return Atomics.load(this.#words, this.#decodeGeneration);
  }

  /** To be called after a function's base address registers were set by other means than software's. */
  decodingChanged(): void {
    Atomics.add(this.#words, this.#decodeGeneration, 1);
  }

  #readPort(offset: number, size: AccessSize): number {
    if (offset === CONFIG_ADDRESS && size === 4) return this.#lock.with(() => this.#state.configAddress);
    if (offset === RESET_CONTROL && size === 1) return this.#lock.with(() => this.#state.resetControl);
    if (offset < CONFIG_DATA) return ALL_ONES[size];
    const address = this.#lock.with(() => this.#state.configAddress);
    if ((address & CONFIG_ENABLE) === 0) return ALL_ONES[size];
    // An access past the last port of CONFIG_DATA crosses its dword too, so #read refuses it.
    return this.#read((address >>> 8) & 0xffff, (address & 0xfc) + (offset - CONFIG_DATA), size);
  }

  #writePort(offset: number, size: AccessSize, value: number): void {
    if (offset === CONFIG_ADDRESS && size === 4) {
      this.#lock.with(() => {
        this.#state.configAddress = value & CONFIG_ADDRESS_MASK;
      });
    } else if (offset === RESET_CONTROL && size === 1) {
      this.#writeResetControl(value);
    } else if (offset >= CONFIG_DATA) {
      const address = this.#lock.with(() => this.#state.configAddress);
      if ((address & CONFIG_ENABLE) === 0) return;
      this.#write((address >>> 8) & 0xffff, (address & 0xfc) + (offset - CONFIG_DATA), size, value);
    }
  }

  #writeResetControl(value: number): void {
    const starts = this.#lock.with(() => {
      const before = this.#state.resetControl;
      this.#state.resetControl = value & RESET_CONTROL_MASK;
      return (~before & value & ResetControl.CPU) !== 0;
    });
    // With SYS_RST clear hardware would only INIT the processors; firmware would then start the machine over,
    // so the two are one here.
    if (starts) this.#onReset();
  }
}
