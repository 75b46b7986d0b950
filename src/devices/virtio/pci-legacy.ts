/**
 * The registers of a legacy PCI device, in an I/O region: VIRTIO 4.1.4.10, and "Virtio PCI Card Specification" 0.9.5, 2.2.2.
 *
 *   0 device features u32    4 driver features u32    8 queue address u32    12 queue size u16
 *   14 queue select u16      16 queue notify u16      18 status u8           19 ISR u8
 *   with MSI-X enabled: 20 configuration vector u16, 22 queue vector u16; then the device configuration
 */
import type { AccessSize, BusDevice } from "../bus.js";
import { RegisterBlock } from "../register-block.js";
import { NO_VECTOR } from "./constants.js";
import type { VirtioDevice } from "./device.js";
import { type CommonState, checkedVector } from "./pci-common.js";
import type { Queue } from "./queue.js";

/** Queue notify. */
export const LEGACY_NOTIFY = 16;
const HEADER_SIZE = 20;
const HEADER_SIZE_MSIX = 24;

export interface LegacyOptions {
  readonly device: VirtioDevice;
  readonly state: CommonState;
  readonly vectors: number;
  readonly msixEnabled: () => boolean;
  readonly readIsr: () => number;
  readonly writeStatus: (value: number) => void;
  readonly notify: () => void;
}

/** What answers in the I/O region. */
export function legacyRegisters(options: LegacyOptions): BusDevice {
  const { device, state, vectors, msixEnabled } = options;
  const queue = (): Queue | undefined => device.queues[state.queueSelect];
  const header = new RegisterBlock([
    { offset: 0, size: 4, read: () => device.legacyFeatures },
    {
      offset: 4,
      size: 4,
      read: () => device.driverFeatures(0),
      write: (value) => {
        device.useLegacy();
        device.setDriverFeatures(0, value);
      },
    },
    {
      offset: 8,
      size: 4,
      read: () => queue()?.legacyPage ?? 0,
      write: (value) => {
        device.useLegacy();
        queue()?.setLegacyPage(value);
      },
    },
    { offset: 12, size: 2, read: () => queue()?.maxSize ?? 0 },
    {
      offset: 14,
      size: 2,
      read: () => state.queueSelect,
      write: (value) => {
        state.queueSelect = value;
      },
    },
    { offset: LEGACY_NOTIFY, size: 2, read: () => 0, write: () => options.notify() },
    {
      offset: 18,
      size: 1,
      read: () => device.status,
      write: (value) => {
        if (value !== 0) device.useLegacy();
        options.writeStatus(value);
      },
    },
    { offset: 19, size: 1, read: options.readIsr },
  ]);
  const vectorRegisters = new RegisterBlock([
    {
      offset: HEADER_SIZE,
      size: 2,
      read: () => state.configVector,
      write: (value) => {
        state.configVector = checkedVector(value, vectors);
      },
    },
    {
      offset: HEADER_SIZE + 2,
      size: 2,
      read: () => queue()?.state.vector ?? NO_VECTOR,
      write: (value) => {
        const selected = queue();
        if (selected !== undefined) selected.state.vector = checkedVector(value, vectors);
      },
    },
  ]);
  return {
    read(offset: number, size: AccessSize): number {
      if (offset < HEADER_SIZE) return header.read(offset, size);
      if (!msixEnabled()) return device.readConfig(offset - HEADER_SIZE, size);
      if (offset < HEADER_SIZE_MSIX) return vectorRegisters.read(offset, size);
      return device.readConfig(offset - HEADER_SIZE_MSIX, size);
    },
    write(offset: number, size: AccessSize, value: number): void {
      if (offset < HEADER_SIZE) header.write(offset, size, value);
      else if (!msixEnabled()) device.writeConfig(offset - HEADER_SIZE, size, value);
      else if (offset < HEADER_SIZE_MSIX) vectorRegisters.write(offset, size, value);
      else device.writeConfig(offset - HEADER_SIZE_MSIX, size, value);
    },
  };
}
