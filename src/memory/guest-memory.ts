/**
 * Guest-physical memory: the only way in which devices, boot code and ports reach guest RAM.
 *
 * RAM is a set of slots, each a range of guest-physical addresses backed by a range of the shared memory. Every access
 * is checked against the slots, and every write marks the pages it touches so that decoded code is dropped and dirty
 * logs are kept (DESIGN, 3).
 */
import { type SharedMemory, WASM_MEMORY_LIMIT } from "./shared-memory.js";

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
  /** Which memory holds the slot: 0 or left out for the machine's own, N for the Nth of the further ones (KVM only). */
  readonly memory?: number;
  /** Byte offset of the slot's first byte in that memory. */
  readonly offset: number;
  readonly readonly: boolean;
  readonly logDirty: boolean;
}

/** Told of every write by a device or the host, after it was made: offsets as `globalOffset` counts them. */
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
  readonly #memories: readonly SharedMemory[];

  /** `further`: memories for RAM that does not fit into `memory`. */
  constructor(
    readonly memory: SharedMemory,
    readonly slots: readonly MemorySlot[],
    further: readonly SharedMemory[] = [],
  ) {
    this.#memories = [memory, ...further];
  }

  /** The memory that holds `slot`. */
  memoryOf(slot: MemorySlot): SharedMemory {
    return this.#memories[slot.memory ?? 0];
  }

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

  #slot(address: GuestPhysical, length: number): MemorySlot {
    const slot = this.#find(address, length);
    if (slot === undefined) throw new GuestMemoryError(address, length);
    return slot;
  }

  /**
   * Byte offset in `memory` of `length` bytes of RAM at `address`. Throws `GuestMemoryError`, also for RAM in a further memory:
   * `bytes` knows all of them.
   */
  offset(address: GuestPhysical, length: number): number {
    const slot = this.#slot(address, length);
    if ((slot.memory ?? 0) !== 0) throw new GuestMemoryError(address, length);
    return slot.offset + (address - slot.guestPhysical);
  }

  /**
   * Where `length` bytes of RAM at `address` are, counted through all memories: what `memoryAt` and `marked` take. Throws
   * `GuestMemoryError`.
   */
  locate(address: GuestPhysical, length: number): number {
    const slot = this.#slot(address, length);
    return globalOffset(slot, slot.offset + (address - slot.guestPhysical));
  }

  /** The memory that `location` (of `locate`) is in; there it is at `location % WASM_MEMORY_LIMIT`. */
  memoryAt(location: number): SharedMemory {
    return location < WASM_MEMORY_LIMIT
      ? this.memory
      : this.#memories[Math.floor(location / WASM_MEMORY_LIMIT)];
  }

  /** A view for reading only: what is written through it is not marked. Throws `GuestMemoryError`. */
  bytes(address: GuestPhysical, length: number): Uint8Array {
    const slot = this.#slot(address, length);
    const offset = slot.offset + (address - slot.guestPhysical);
    return this.memoryOf(slot).u8.subarray(offset, offset + length);
  }

  write(address: GuestPhysical, source: Uint8Array): void {
    const slot = this.#slot(address, source.length);
    const offset = slot.offset + (address - slot.guestPhysical);
    this.memoryOf(slot).u8.set(source, offset);
    this.#wrote(slot, offset, source.length);
  }

  fill(address: GuestPhysical, length: number, value = 0): void {
    const slot = this.#slot(address, length);
    const offset = slot.offset + (address - slot.guestPhysical);
    this.memoryOf(slot).u8.fill(value, offset, offset + length);
    this.#wrote(slot, offset, length);
  }

  readU8(address: GuestPhysical): number {
    const slot = this.#slot(address, 1);
    return this.memoryOf(slot).u8[slot.offset + (address - slot.guestPhysical)];
  }
  readU16(address: GuestPhysical): number {
    const slot = this.#slot(address, 2);
    return this.memoryOf(slot).data.getUint16(slot.offset + (address - slot.guestPhysical), true);
  }
  readU32(address: GuestPhysical): number {
    const slot = this.#slot(address, 4);
    return this.memoryOf(slot).data.getUint32(slot.offset + (address - slot.guestPhysical), true);
  }
  readU64(address: GuestPhysical): bigint {
    const slot = this.#slot(address, 8);
    return this.memoryOf(slot).data.getBigUint64(slot.offset + (address - slot.guestPhysical), true);
  }

  writeU8(address: GuestPhysical, value: number): void {
    const slot = this.#slot(address, 1);
    const offset = slot.offset + (address - slot.guestPhysical);
    this.memoryOf(slot).u8[offset] = value;
    this.#wrote(slot, offset, 1);
  }
  writeU16(address: GuestPhysical, value: number): void {
    const slot = this.#slot(address, 2);
    const offset = slot.offset + (address - slot.guestPhysical);
    this.memoryOf(slot).data.setUint16(offset, value, true);
    this.#wrote(slot, offset, 2);
  }
  writeU32(address: GuestPhysical, value: number): void {
    const slot = this.#slot(address, 4);
    const offset = slot.offset + (address - slot.guestPhysical);
    this.memoryOf(slot).data.setUint32(offset, value, true);
    this.#wrote(slot, offset, 4);
  }
  writeU64(address: GuestPhysical, value: bigint): void {
    const slot = this.#slot(address, 8);
    const offset = slot.offset + (address - slot.guestPhysical);
    this.memoryOf(slot).data.setBigUint64(offset, value, true);
    this.#wrote(slot, offset, 8);
  }

  #wrote(slot: MemorySlot, offset: number, length: number): void {
    this.marked(globalOffset(slot, offset), length);
  }

  /** Say that `length` bytes at `offset` (as `globalOffset` counts) were written by other means. */
  marked(offset: number, length: number): void {
    for (const observer of this.#observers) observer(offset, length);
  }
}

/** `offset` into the memory of `slot`, counted through all memories, each of which takes 4 GiB of numbers. */
export function globalOffset(slot: MemorySlot, offset: number): number {
  return (slot.memory ?? 0) * WASM_MEMORY_LIMIT + offset;
}
