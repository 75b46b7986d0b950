/**
 * Guest memory as operations in TypeScript reach it: through the page tables, with the faults that the processor raises.
 */
import type { SharedMemory } from "../../../memory/shared-memory.js";
import type { PageSharingMap } from "../smp/page-sharing.js";
import { ACCESS_PENDING, GuestFault } from "../system/fault.js";
import {
  AccessKind,
  FAULT_NO_ERROR_CODE,
  Leave,
  MmuMode,
  O,
  PHYS_PAGES,
  PhysFlag,
  type VcpuState,
  Vector,
} from "../vcpu-state.js";

/** What the wasm module exports. */
export interface ColdExports {
  enter(cpu: number): void;
  enterRecord(cpu: number, rec: number): void;
  walk(cpu: number, va: bigint, access: number): number;
  translate(cpu: number, rec: number, va: bigint, access: number): number;
  lookup(cpu: number, rip: bigint): number;
  slowLoadBytes(cpu: number, rec: number, va: bigint, info: number): void;
  slowStoreBytes(cpu: number, rec: number, va: bigint, info: number): void;
  slowProbeWrite(cpu: number, rec: number, va: bigint, bytes: number): void;
  flushTlb(cpu: number): void;
  flushTlbNonGlobal(cpu: number): void;
  flushPage(cpu: number, va: bigint): void;
  flushWrites(cpu: number, linearPage: number): void;
}

const PAGE = 4096;

export class GuestAccess {
  readonly #cpu: number;

  constructor(
    readonly memory: SharedMemory,
    readonly state: VcpuState,
    readonly wasm: ColdExports,
    readonly sharing: PageSharingMap,
    /** Told of each write, with guest-physical page, offset and length. */
    readonly onWrite: (page: number, offset: number, length: number) => void,
    /** Runs what stores, so that LOCK operations of other vCPUs are kept clear of. */
    readonly storing: (store: () => void) => void,
  ) {
    this.#cpu = state.address;
  }

  /** AccessKind.USER at CPL 3. */
  get userKind(): number {
    return this.state.mmuMode === MmuMode.USER ? AccessKind.USER : 0;
  }

  /** Guest-physical address of `va`, or a page fault. */
  physical(va: bigint, kind: number): number {
    const result = this.wasm.walk(this.#cpu, BigInt.asIntN(64, va), kind);
    if (result !== 0) throw new GuestFault(Vector.PF, result & 0xff, va);
    return Number(this.state.walkPhysical);
  }

  /** Byte offset in linear memory of guest-physical `pa`, or −1 where it is not RAM. */
  linear(pa: number): number {
    const page = Math.floor(pa / PAGE);
    if (page >= PHYS_PAGES) return -1;
    const entry = this.memory.u32[(this.state.physMap >>> 2) + page];
    return entry === 0 ? -1 : ((entry & ~0xfff) >>> 0) + (pa % PAGE);
  }

  /** Read up to 8 bytes for the processor itself (descriptor tables, stacks of a transfer). */
  #read(va: bigint, bytes: number, kind: number): bigint {
    let value = 0n;
    let done = 0;
    while (done < bytes) {
      const at = va + BigInt(done);
      const room = PAGE - Number(at & 0xfffn);
      const count = Math.min(room, bytes - done);
      const linear = this.linear(this.physical(at, kind));
      for (let i = 0; i < count; i++) {
        const byte = linear < 0 ? 0xff : this.memory.u8[linear + i];
        value |= BigInt(byte) << BigInt(8 * (done + i));
      }
      done += count;
    }
    return value;
  }

  read64(va: bigint, kind: number): bigint {
    if ((va & 0xfffn) <= 4088n) {
      const linear = this.linear(this.physical(va, kind));
      if (linear >= 0) {
        return (linear & 7) === 0
          ? this.memory.u64[linear >>> 3]
          : this.memory.data.getBigUint64(linear, true);
      }
    }
    return this.#read(va, 8, kind);
  }

  read32(va: bigint, kind: number): number {
    if ((va & 0xfffn) <= 4092n) {
      const linear = this.linear(this.physical(va, kind));
      if (linear >= 0) return this.memory.data.getUint32(linear, true);
    }
    return Number(this.#read(va, 4, kind));
  }

  read16(va: bigint, kind: number): number {
    return Number(this.#read(va, 2, kind));
  }

  readSized(va: bigint, bytes: number, kind: number): bigint {
    return bytes === 8 ? this.read64(va, kind) : this.#read(va, bytes, kind);
  }

  /** Write `bytes` of `value`: all pages are checked first. */
  write(va: bigint, bytes: number, value: bigint, kind: number): void {
    const room = PAGE - Number(va & 0xfffn);
    const first = this.physical(va, kind | AccessKind.WRITE);
    const second = bytes > room ? this.physical(va + BigInt(room), kind | AccessKind.WRITE) : 0;
    if (bytes <= room) {
      this.storing(() => this.#store(first, bytes, value));
      return;
    }
    this.storing(() => {
      this.#store(first, room, value);
      this.#store(second, bytes - room, value >> BigInt(8 * room));
    });
  }

  /** Store within a page; aligned words at once, as other vCPUs may look. */
  #store(pa: number, bytes: number, value: bigint): void {
    const page = Math.floor(pa / PAGE);
    if (page >= PHYS_PAGES) return;
    const entry = this.memory.u32[(this.state.physMap >>> 2) + page];
    if (entry === 0 || (entry & PhysFlag.READONLY) !== 0) return;
    const { u8, u32, u64 } = this.memory;
    const at = ((entry & ~0xfff) >>> 0) + (pa % PAGE);
    if (bytes === 8 && (at & 7) === 0) u64[at >>> 3] = BigInt.asUintN(64, value);
    else if (bytes === 4 && (at & 3) === 0) u32[at >>> 2] = Number(value & 0xffff_ffffn);
    else for (let i = 0; i < bytes; i++) u8[at + i] = Number((value >> BigInt(8 * i)) & 0xffn);
    const seen = (entry & PhysFlag.LOG_DIRTY) !== 0 || this.sharing.ownersAfterStores(page) !== 0;
    if (seen) this.onWrite(page, pa % PAGE, bytes);
  }

  // --- operands of instructions: MMIO, breakpoints and all ---

  #leaveToFault(): void {
    const { state } = this;
    const { leave } = state;
    if (leave === Leave.NONE) return;
    state.leave = Leave.NONE;
    if (leave === Leave.FAULT) {
      const code = state.faultCode;
      throw new GuestFault(state.faultVector, code, state.faultVector === Vector.PF ? state.cr2 : undefined);
    }
    throw ACCESS_PENDING;
  }

  /** Load 1 to 8 bytes as the current instruction. */
  load(va: bigint, bytes: number): bigint {
    this.state.scratch[0] = 0n;
    this.wasm.slowLoadBytes(this.#cpu, this.state.rec, BigInt.asIntN(64, va), bytes);
    this.#leaveToFault();
    return this.state.scratch[0];
  }

  store(va: bigint, bytes: number, value: bigint): void {
    this.state.scratch[0] = value;
    this.storing(() => this.wasm.slowStoreBytes(this.#cpu, this.state.rec, BigInt.asIntN(64, va), bytes));
    this.#leaveToFault();
  }

  /** Fault now if any of `bytes` (at most a page) at `va` cannot be written. */
  probeWrite(va: bigint, bytes: number): void {
    this.wasm.slowProbeWrite(this.#cpu, this.state.rec, BigInt.asIntN(64, va), bytes);
    this.#leaveToFault();
  }
}

export { FAULT_NO_ERROR_CODE, O };
