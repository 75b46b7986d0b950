/** What the two kinds of virtqueue have in common, as the device side uses them. */
import type { GuestMemory } from "../../memory/guest-memory.js";
import { array, Layout, type ViewOf } from "../../memory/layout.js";
import type { Chain } from "./buffers.js";

/** A virtqueue as the driver set it up, and how far the device is. */
export const VIRTQUEUE = new Layout("virtqueue", {
  /** Entries; the most the device takes after a reset. */
  size: "u32",
  enabled: "u32",
  /** MSI-X vector or NO_VECTOR. */
  vector: "u32",
  /** Guest-physical addresses, low and high words: descriptor area, driver area, device area (VIRTIO 2.6). */
  descriptors: array("u32", 2),
  driver: array("u32", 2),
  device: array("u32", 2),
  /** Where the next available entry is taken from, and the next used one goes: 16-bit indices (split) or ring positions (packed). */
  nextAvailable: "u32",
  nextUsed: "u32",
  /** Packed: wrap counters. */
  availableWrap: "u32",
  usedWrap: "u32",
  /** Of the last interrupt that was considered: `nextUsed` and `usedWrap` then. */
  signalledUsed: "u32",
  signalledWrap: "u32",
  /** Chains taken and not given back. */
  inFlight: "u32",
});
export type VirtqueueState = ViewOf<typeof VIRTQUEUE>;

export interface RingFeatures {
  readonly indirect: boolean;
  readonly eventIndex: boolean;
}

export interface RingOptions {
  readonly memory: GuestMemory;
  readonly state: VirtqueueState;
  readonly features: RingFeatures;
}

/** The device's side of a virtqueue. All calls on the thread that serves the device, under the device's lock. */
export interface Ring {
  /** The next request, or undefined. Throws `VirtioError`. */
  pop(): Chain | undefined;
  /** Give a request back, of whose writable part `written` bytes were filled. In any order. */
  push(chain: Chain, written: number): void;
  /** Take back the last `pop`: the request will be popped again. */
  undoPop(chain: Chain): void;
  /** Whether the driver wants an interrupt for what was pushed since the last call. */
  wantsInterrupt(): boolean;
  /** Tell the driver that notifications are not needed now. */
  disableNotifications(): void;
  /** Ask for a notification of the next request; true where one is there already. */
  enableNotifications(): boolean;
}

/** The number that two words hold; exact below 2^53, and above that no address of RAM. */
export function wide(words: Uint32Array): number {
  return words[1] * 2 ** 32 + words[0];
}

/** VIRTIO 2.7.7.2, `vring_need_event`: whether an index that goes from `before` to `after` passes `event`; 16 bits. */
export function passes(event: number, after: number, before: number): boolean {
  return ((after - event - 1) & 0xffff) < ((after - before) & 0xffff);
}
