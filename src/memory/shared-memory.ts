/**
 * The machine's one linear memory: a shared `WebAssembly.Memory` that holds the machine's state, the software CPU's
 * tables and guest RAM (DESIGN, 3), seen through typed arrays.
 */
import type { ScalarType } from "./layout.js";

export const WASM_PAGE_SIZE = 65536;
/** The most that a 32-bit wasm memory can hold: 4 GiB. */
export const WASM_MEMORY_LIMIT = 65536 * WASM_PAGE_SIZE;

export class SharedMemory {
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly i32: Int32Array;
  readonly u64: BigUint64Array;
  readonly f64: Float64Array;
  /** For unaligned access; little-endian must be asked for at each call. */
  readonly data: DataView;

  constructor(readonly memory: WebAssembly.Memory) {
    const { buffer } = memory;
    this.u8 = new Uint8Array(buffer);
    this.u16 = new Uint16Array(buffer);
    this.u32 = new Uint32Array(buffer);
    this.i32 = new Int32Array(buffer);
    this.u64 = new BigUint64Array(buffer);
    this.f64 = new Float64Array(buffer);
    this.data = new DataView(buffer);
  }

  /** A new memory of at least `bytes`, zero-filled. Throws `RangeError` where the host has not so much. */
  static create(bytes: number): SharedMemory {
    const pages = Math.ceil(bytes / WASM_PAGE_SIZE);
    return new SharedMemory(new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true }));
  }

  get size(): number {
    return this.u8.length;
  }

  array(type: ScalarType, address: number, length: number) {
    const { buffer } = this.memory;
    switch (type) {
      case "u8":
        return new Uint8Array(buffer, address, length);
      case "u16":
        return new Uint16Array(buffer, address, length);
      case "u32":
        return new Uint32Array(buffer, address, length);
      case "i32":
        return new Int32Array(buffer, address, length);
      case "u64":
        return new BigUint64Array(buffer, address, length);
      case "f64":
        return new Float64Array(buffer, address, length);
    }
  }
}
