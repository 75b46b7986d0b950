/**
 * The configuration space of one PCI function with a type 0 header, in shared memory: PCI Local Bus
 * Specification 3.0, chapter 6; PCI Express Base 4.0, 7.2 (the extended part) and 7.5.1.
 *
 * What software may change is held as masks a byte, made from the tables of registers, base address registers
 * and capabilities: a write takes `writable` bits, clears `writeOneToClear` bits that are written 1, and
 * leaves the rest.
 */
import { array, Layout, type ViewOf } from "../../memory/layout.js";
import { Mutex } from "../../memory/mutex.js";
import type { StateAllocator } from "../../memory/state-allocator.js";
import type { AccessSize } from "../bus.js";
import { type BarDefinition, barAddress, barOffset, barRegisters } from "./bars.js";
import { CAPABILITY_HEADER_SIZE, type CapabilityDefinition, placeCapabilities } from "./capabilities.js";
import {
  CONFIG_SPACE_SIZE,
  Command,
  ConfigOffset,
  MULTIFUNCTION,
  Status,
  TYPE0_WRITABLE,
} from "./registers.js";

/** What answers configuration requests for one function. Accesses never cross a dword. */
export interface PciFunction {
  /** The `size` bytes at `offset`, as an unsigned number. */
  readConfig(offset: number, size: AccessSize): number;
  writeConfig(offset: number, size: AccessSize, value: number): void;
}

/** The read-only identity of a function and what it decodes. */
export interface FunctionDefinition {
  readonly vendorId: number;
  readonly deviceId: number;
  readonly revisionId?: number;
  /** Base class, sub-class and programming interface, 24 bits (PCI 3.0, appendix D). */
  readonly classCode: number;
  readonly subsystemVendorId?: number;
  readonly subsystemId?: number;
  /** The INTx pin that the function uses: 1 for INTA# to 4 for INTD#, 0 for none (6.2.4). */
  readonly interruptPin?: number;
  /** Set in function 0 of a device that has further functions. */
  readonly multifunction?: boolean;
  /** Command bits that are read-only 1: what the function does unconditionally. */
  readonly alwaysOn?: number;
  readonly bars?: readonly BarDefinition[];
  readonly capabilities?: readonly CapabilityDefinition[];
}

const PCI_CONFIG = new Layout("pci-config", {
  lock: "u32",
  registers: array("u8", CONFIG_SPACE_SIZE),
});

/**
 * Whether an access stays within one dword: only such a one is a configuration request (PCIe Base 4.0,
 * 7.2.2).
 */
export function withinDword(offset: number, size: number): boolean {
  return (offset & 3) + size <= 4;
}

export class ConfigSpace implements PciFunction {
  readonly #registers: Uint8Array;
  readonly #lock: Mutex;
  readonly #initial = new Uint8Array(CONFIG_SPACE_SIZE);
  readonly #writable = new Uint8Array(CONFIG_SPACE_SIZE);
  readonly #writeOneToClear = new Uint8Array(CONFIG_SPACE_SIZE);
  readonly #bars: readonly BarDefinition[];
  /** Offset of each capability of the definition, in its order. */
  readonly capabilityOffsets: readonly number[];
  readonly state: ViewOf<typeof PCI_CONFIG>;

  constructor(allocator: StateAllocator, name: string, definition: FunctionDefinition) {
    this.state = allocator.alloc(PCI_CONFIG, name);
    this.#registers = this.state.registers;
    this.#lock = new Mutex("pci", allocator.memory, this.state.address + PCI_CONFIG.offset.lock);
    this.#bars = definition.bars ?? [];
    this.#defineHeader(definition);
    this.#defineBars();
    this.capabilityOffsets = this.#defineCapabilities(definition.capabilities ?? []);
  }

  /** First values: the state after RST#. */
  reset(): void {
    this.#lock.with(() => this.#registers.set(this.#initial));
  }

  readConfig(offset: number, size: AccessSize): number {
    return this.#lock.with(() => this.#get(offset, size));
  }

  /**
   * Whether the function may access memory: DMA and message signalled interrupts (PCI 3.0, 6.2.2). A byte is read at once, so
   * no lock is needed.
   */
  get isBusMaster(): boolean {
    return (this.#registers[ConfigOffset.COMMAND] & Command.BUS_MASTER) !== 0;
  }

  writeConfig(offset: number, size: AccessSize, value: number): void {
    this.#lock.with(() => {
      for (let i = 0; i < size; i++) {
        const at = offset + i;
        const byte = (value >>> (8 * i)) & 0xff;
        const writable = this.#writable[at];
        const kept = this.#registers[at] & ~writable & ~(byte & this.#writeOneToClear[at]);
        this.#registers[at] = kept | (byte & writable);
      }
    });
  }

  /**
   * Where the region of base address register `index` is now, or undefined while the function does not decode
   * it.
   */
  regionAddress(index: number): number | undefined {
    const bar = this.#bars.find((candidate) => candidate.index === index);
    if (bar === undefined) return undefined;
    const enable = bar.kind === "io" ? Command.IO_SPACE : Command.MEMORY_SPACE;
    return this.#lock.with(() => {
      if ((this.#get(ConfigOffset.COMMAND, 2) & enable) === 0) return undefined;
      const at = barOffset(index);
      return barAddress(bar, this.#get(at, 4), bar.kind === "memory64" ? this.#get(at + 4, 4) : 0);
    });
  }

  #get(offset: number, size: number): number {
    let value = 0;
    for (let i = size - 1; i >= 0; i--) value = (value << 8) | this.#registers[offset + i];
    return value >>> 0;
  }

  #defineHeader(definition: FunctionDefinition): void {
    const {
      subsystemVendorId = 0,
      subsystemId = 0,
      interruptPin = 0,
      revisionId = 0,
      alwaysOn = 0,
    } = definition;
    put(this.#initial, ConfigOffset.VENDOR_ID, 2, definition.vendorId);
    put(this.#initial, ConfigOffset.DEVICE_ID, 2, definition.deviceId);
    put(this.#initial, ConfigOffset.REVISION_ID, 1, revisionId);
    put(this.#initial, ConfigOffset.CLASS_CODE, 3, definition.classCode);
    put(this.#initial, ConfigOffset.HEADER_TYPE, 1, definition.multifunction ? MULTIFUNCTION : 0);
    put(this.#initial, ConfigOffset.SUBSYSTEM_VENDOR_ID, 2, subsystemVendorId);
    put(this.#initial, ConfigOffset.SUBSYSTEM_ID, 2, subsystemId);
    put(this.#initial, ConfigOffset.INTERRUPT_PIN, 1, interruptPin);
    for (const register of TYPE0_WRITABLE) {
      put(this.#writable, register.offset, register.size, register.writable);
      put(this.#writeOneToClear, register.offset, register.size, register.writeOneToClear);
    }
    const decodes = (io: boolean) => this.#bars.some((bar) => (bar.kind === "io") === io);
    const command =
      this.#writable[ConfigOffset.COMMAND] |
      (this.#writable[ConfigOffset.COMMAND + 1] << 8) |
      (decodes(true) ? Command.IO_SPACE : 0) |
      (decodes(false) ? Command.MEMORY_SPACE : 0) |
      (interruptPin !== 0 ? Command.INTERRUPT_DISABLE : 0);
    put(this.#writable, ConfigOffset.COMMAND, 2, command & ~alwaysOn);
    put(this.#initial, ConfigOffset.COMMAND, 2, alwaysOn);
  }

  #defineBars(): void {
    const used = new Set<number>();
    for (const bar of this.#bars) {
      for (const { offset, initial, writable } of barRegisters(bar)) {
        if (used.has(offset)) throw new RangeError(`BAR ${bar.index} is used twice`);
        used.add(offset);
        put(this.#initial, offset, 4, initial);
        put(this.#writable, offset, 4, writable);
      }
    }
  }

  #defineCapabilities(capabilities: readonly CapabilityDefinition[]): number[] {
    const placed = placeCapabilities(capabilities);
    if (placed.length > 0) {
      put(this.#initial, ConfigOffset.STATUS, 2, Status.CAPABILITIES_LIST);
      put(this.#initial, ConfigOffset.CAPABILITIES_POINTER, 1, placed[0].offset);
    }
    for (const { id, offset, next, body, writable, writeOneToClear } of placed) {
      put(this.#initial, offset, CAPABILITY_HEADER_SIZE, id | (next << 8));
      const at = offset + CAPABILITY_HEADER_SIZE;
      this.#initial.set(body, at);
      this.#writable.set(writable?.subarray(0, body.length) ?? [], at);
      this.#writeOneToClear.set(writeOneToClear?.subarray(0, body.length) ?? [], at);
    }
    return placed.map(({ offset }) => offset);
  }
}

function put(bytes: Uint8Array, offset: number, size: number, value: number): void {
  for (let i = 0; i < size; i++) bytes[offset + i] = value >>> (8 * i);
}
