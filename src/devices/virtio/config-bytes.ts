/** A device configuration that is plain bytes in shared memory (VIRTIO 2.5: little-endian fields). */
import type { AccessSize } from "../bus.js";

export function readBytes(bytes: Uint8Array, offset: number, size: AccessSize): number {
  let value = 0;
  for (let i = size - 1; i >= 0; i--) value = (value << 8) | (bytes[offset + i] ?? 0);
  return value >>> 0;
}

export function writeBytes(bytes: Uint8Array, offset: number, size: AccessSize, value: number): void {
  for (let i = 0; i < size; i++) bytes[offset + i] = value >>> (8 * i);
}
