/**
 * Guest-physical memory: the only way in which devices, boot code and ports reach guest RAM.
 *
 * RAM is a set of slots, each a range of guest-physical addresses backed by a range of the shared memory. Every access
 * is checked against the slots, and every write marks the pages it touches so that decoded code is dropped and dirty
 * logs are kept (DESIGN, 3).
 */
import type { SharedMemory } from "./shared-memory.js";

declare const guestPhysical: unique symbol;
/** A guest-physical address. Below 2^52, so a JavaScript number holds it exactly. */
export type GuestPhysical = number & { readonly [guestPhysical]: true };

export function gpa(address: number): GuestPhysical {
  return address as GuestPhysical;
}

/** A range of guest-physical addresses that is RAM (or ROM: `readonly`), as KVM_SET_USER_MEMORY_REGION has it. */
export interface MemorySlot {
  readonly slot: number;
  readonly guestPhysical: GuestPhysical;
  readonly size: number;
  /** Byte offset of the slot's first byte in the shared memory. */
  readonly offset: number;
  readonly readonly: boolean;
  readonly logDirty: boolean;
}

/** Told of every write by a device or the host, after it was made: offsets into the shared memory. */
export type WriteObserver = (offset: number, length: number) => void;

export class GuestMemoryError extends Error {
  constructor(
    readonly address: number,
    readonly length: number,
  ) {
    super(`guest memory access outside of RAM: 0x${address.toString(16)}, ${length} bytes`);
  }
}

export class GuestMemory {
  readonly #observers: WriteObserver[] = [];

  constructor(
    readonly memory: SharedMemory,
    readonly slots: readonly MemorySlot[],
  ) {}

  /** Bytes of guest RAM, holes not counted. */
  get ramSize(): number {
    return this.slots.reduce((sum, slot) => sum + slot.size, 0);
  }

  onWrite(observer: WriteObserver): void {
    this.#observers.push(observer);
  }

  /** Whether all of `length` bytes at `address` are RAM of one slot. */
  contains(address: number, length: number): boolean {
    return this.#find(address, length) !== undefined;
  }

  #find(address: number, length: number): MemorySlot | undefined {
    if (!(length >= 0 && address >= 0)) return undefined;
    for (const slot of this.slots) {
      const at = address - slot.guestPhysical;
      if (at >= 0 && at + length <= slot.size) return slot;
    }
    return undefined;
  }

  /** Byte offset in the shared memory of `length` bytes of RAM at `address`. Throws `GuestMemoryError`. */
  offset(address: GuestPhysical, length: number): number {
    const slot = this.#find(address, length);
    if (slot === undefined) throw new GuestMemoryError(address, length);
    return slot.offset + (address - slot.guestPhysical);
  }

  /** A view for reading only: what is written through it is not marked. Throws `GuestMemoryError`. */
  bytes(address: GuestPhysical, length: number): Uint8Array {
    const offset = this.offset(address, length);
    return this.memory.u8.subarray(offset, offset + length);
  }

  write(address: GuestPhysical, source: Uint8Array): void {
    const offset = this.offset(address, source.length);
    this.memory.u8.set(source, offset);
    this.marked(offset, source.length);
  }

  fill(address: GuestPhysical, length: number, value = 0): void {
    const offset = this.offset(address, length);
    this.memory.u8.fill(value, offset, offset + length);
    this.marked(offset, length);
  }

  readU8(address: GuestPhysical): number {
    return this.memory.u8[this.offset(address, 1)];
  }
  readU16(address: GuestPhysical): number {
    return this.memory.data.getUint16(this.offset(address, 2), true);
  }
  readU32(address: GuestPhysical): number {
    return this.memory.data.getUint32(this.offset(address, 4), true);
  }
  readU64(address: GuestPhysical): bigint {
    return this.memory.data.getBigUint64(this.offset(address, 8), true);
  }

  writeU8(address: GuestPhysical, value: number): void {
    const offset = this.offset(address, 1);
    this.memory.u8[offset] = value;
    this.marked(offset, 1);
  }
  writeU16(address: GuestPhysical, value: number): void {
    const offset = this.offset(address, 2);
    this.memory.data.setUint16(offset, value, true);
    this.marked(offset, 2);
  }
  writeU32(address: GuestPhysical, value: number): void {
    const offset = this.offset(address, 4);
    this.memory.data.setUint32(offset, value, true);
    this.marked(offset, 4);
  }
  writeU64(address: GuestPhysical, value: bigint): void {
    const offset = this.offset(address, 8);
    this.memory.data.setBigUint64(offset, value, true);
    this.marked(offset, 8);
  }

  /** Say that `length` bytes at `offset` of the shared memory were written by other means. */
  marked(offset: number, length: number): void {
    for (const observer of this.#observers) observer(offset, length);
  }
}
