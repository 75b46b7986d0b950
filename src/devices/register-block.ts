/** A block of registers as a table, with accesses of any width: what they cover is put together from whole registers. */
import type { AccessSize, BusDevice } from "./bus.js";

export interface BlockRegister {
  readonly offset: number;
  readonly size: AccessSize;
  read(): number;
  /** Left out: writes are ignored. */
  write?(value: number): void;
}

const MASK: Record<AccessSize, number> = { 1: 0xff, 2: 0xffff, 4: 0xffffffff };

export class RegisterBlock implements BusDevice {
  /** The register that covers each byte. */
  readonly #at: (BlockRegister | undefined)[] = [];

  constructor(registers: readonly BlockRegister[]) {
    for (const register of registers) {
      for (let i = 0; i < register.size; i++) this.#at[register.offset + i] = register;
    }
  }

  /** Bytes that no register covers read as zero. */
  read(offset: number, size: AccessSize): number {
    const exact = this.#at[offset];
    if (exact !== undefined && exact.offset === offset && exact.size === size) return exact.read() >>> 0;
    let value = 0;
    for (let i = 0; i < size; ) {
      const register = this.#at[offset + i];
      if (register === undefined) {
        i++;
        continue;
      }
      const skipped = offset + i - register.offset;
      const count = Math.min(register.size - skipped, size - i);
      const part = (register.read() >>> (8 * skipped)) & MASK[register.size];
      value |= (count < 4 ? part & ((1 << (8 * count)) - 1) : part) << (8 * i);
      i += count;
    }
    return value >>> 0;
  }

  write(offset: number, size: AccessSize, value: number): void {
    for (let i = 0; i < size; ) {
      const register = this.#at[offset + i];
      if (register === undefined) {
        i++;
        continue;
      }
      const skipped = offset + i - register.offset;
      const count = Math.min(register.size - skipped, size - i);
      const part = value >>> (8 * i);
      if (count === register.size) register.write?.((part & MASK[register.size]) >>> 0);
      else if (register.write !== undefined) {
        const mask = (((1 << (8 * count)) - 1) << (8 * skipped)) >>> 0;
        register.write(
          (((register.read() & ~mask) | ((part << (8 * skipped)) & mask)) & MASK[register.size]) >>> 0,
        );
      }
      i += count;
    }
  }
}
