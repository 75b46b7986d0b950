/** The common configuration of a modern PCI device: VIRTIO 4.1.4.3. */
import { type BlockRegister, RegisterBlock } from "../register-block.js";
import { NO_VECTOR } from "./constants.js";
import type { VirtioDevice } from "./device.js";
import type { Queue } from "./queue.js";

/** Bytes of the structure. */
export const COMMON_CONFIG_SIZE = 60;

/** The select registers and the configuration vector: the transport's own state. */
export interface CommonState {
  deviceFeatureSelect: number;
  driverFeatureSelect: number;
  queueSelect: number;
  configVector: number;
}

export interface CommonOptions {
  readonly device: VirtioDevice;
  readonly state: CommonState;
  /** MSI-X vectors. */
  readonly vectors: number;
  readonly writeStatus: (value: number) => void;
}

/** A vector that the function has, or NO_VECTOR (4.1.5.1.2.1: the driver reads back whether it was taken). */
export function checkedVector(value: number, vectors: number): number {
  return value < vectors ? value : NO_VECTOR;
}

export function commonConfig({ device, state, vectors, writeStatus }: CommonOptions): RegisterBlock {
  const queue = (): Queue | undefined => device.queues[state.queueSelect];
  /** Change the selected queue. 4.1.4.3.2: only before it is enabled. */
  const setUp = (change: (queue: Queue) => void): void => {
    const selected = queue();
    if (selected !== undefined && !selected.enabled) device.locked(() => change(selected));
  };
  const address = (offset: number, field: "descriptors" | "driver" | "device"): BlockRegister[] =>
    [0, 1].map((word) => ({
      offset: offset + 4 * word,
      size: 4,
      read: () => queue()?.state[field][word] ?? 0,
      write: (value: number) =>
        setUp(({ state: selected }) => {
          selected[field][word] = value;
        }),
    }));
  return new RegisterBlock([
    {
      offset: 0,
      size: 4,
      read: () => state.deviceFeatureSelect,
      write: (value) => {
        state.deviceFeatureSelect = value;
      },
    },
    { offset: 4, size: 4, read: () => device.deviceFeatures(state.deviceFeatureSelect) },
    {
      offset: 8,
      size: 4,
      read: () => state.driverFeatureSelect,
      write: (value) => {
        state.driverFeatureSelect = value;
      },
    },
    {
      offset: 12,
      size: 4,
      read: () => device.driverFeatures(state.driverFeatureSelect),
      write: (value) => device.setDriverFeatures(state.driverFeatureSelect, value),
    },
    {
      offset: 16,
      size: 2,
      read: () => state.configVector,
      write: (value) => {
        state.configVector = checkedVector(value, vectors);
      },
    },
    { offset: 18, size: 2, read: () => device.queues.length },
    { offset: 20, size: 1, read: () => device.status, write: writeStatus },
    { offset: 21, size: 1, read: () => device.configGeneration & 0xff },
    {
      offset: 22,
      size: 2,
      read: () => state.queueSelect,
      write: (value) => {
        state.queueSelect = value;
      },
    },
    {
      // 4.1.4.3.1: 0 where there is no such queue.
      offset: 24,
      size: 2,
      read: () => queue()?.state.size ?? 0,
      write: (value) =>
        setUp((selected) => {
          selected.resize(value);
        }),
    },
    {
      offset: 26,
      size: 2,
      read: () => queue()?.state.vector ?? NO_VECTOR,
      write: (value) => {
        const selected = queue();
        if (selected !== undefined) selected.state.vector = checkedVector(value, vectors);
      },
    },
    {
      offset: 28,
      size: 2,
      read: () => queue()?.state.enabled ?? 0,
      // 4.1.4.3.2: the driver writes no 0.
      write: (value) => {
        const selected = queue();
        if (value === 1 && selected !== undefined && !selected.enabled) selected.enable();
      },
    },
    // All queues have one address for their notifications: the Worker looks at all of a device's queues anyway.
    { offset: 30, size: 2, read: () => 0 },
    ...address(32, "descriptors"),
    ...address(40, "driver"),
    ...address(48, "device"),
    { offset: 56, size: 2, read: () => state.queueSelect },
    { offset: 58, size: 2, read: () => 0 },
  ]);
}
