/** Numbers that all of virtio shares. "VIRTIO" in this directory's comments: Virtual I/O Device (VIRTIO) Version 1.2, OASIS. */

/** Device status, VIRTIO 2.1. */
export const Status = {
  ACKNOWLEDGE: 1,
  DRIVER: 2,
  DRIVER_OK: 4,
  FEATURES_OK: 8,
  NEEDS_RESET: 64,
  FAILED: 128,
} as const;

/** Feature bits that belong to no device type, VIRTIO 6. */
export const Feature = {
  /** Legacy: any framing of requests is understood (6.3). */
  ANY_LAYOUT: 27,
  INDIRECT_DESC: 28,
  EVENT_IDX: 29,
  VERSION_1: 32,
  ACCESS_PLATFORM: 33,
  RING_PACKED: 34,
  IN_ORDER: 35,
  ORDER_PLATFORM: 36,
  SR_IOV: 37,
  NOTIFICATION_DATA: 38,
  NOTIF_CONFIG_DATA: 39,
  RING_RESET: 40,
} as const;

/** Feature bits that a legacy driver can see: the first word. */
export const LEGACY_FEATURE_BITS = 32;

/** Device types, VIRTIO 5. */
export const DeviceId = { BLOCK: 2, CONSOLE: 3, ENTROPY: 4, BALLOON: 5, VSOCK: 19 } as const;

/** VIRTIO 2.6 and 2.7: the most that a split queue can have. */
export const MAX_QUEUE_SIZE = 32768;

/** ISR status, VIRTIO 4.1.4.5; the same bits as InterruptStatus of MMIO, 4.2.2. */
export const Isr = { QUEUE: 1, CONFIG: 2 } as const;

/** No interrupt vector, VIRTIO 4.1.5.1.2. */
export const NO_VECTOR = 0xffff;

/** `bits` as two 32-bit words. */
export function featureWords(bits: readonly number[]): [low: number, high: number] {
  const words: [number, number] = [0, 0];
  for (const bit of bits) words[bit >>> 5] = (words[bit >>> 5] | (1 << (bit & 31))) >>> 0;
  return words;
}

/** What a driver did that VIRTIO forbids and that the device cannot go on after: it asks for a reset (2.1.2). */
export class VirtioError extends Error {
  override readonly name = "VirtioError";
}
