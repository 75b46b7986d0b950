/**
 * kvmclock: the guest's wall clock and system time in its own memory (Linux, Documentation/virt/kvm/x86/msr.rst and
 * cpuid.rst; structures of arch/x86/include/asm/pvclock-abi.h).
 *
 *     MSR_KVM_WALL_CLOCK_NEW   0x4b564d00 (old 0x11)  rw  address of struct pvclock_wall_clock, filled at once
 *     MSR_KVM_SYSTEM_TIME_NEW  0x4b564d01 (old 0x12)  rw  address of struct pvclock_vcpu_time_info, bit 0 enables
 *
 *     struct pvclock_wall_clock            struct pvclock_vcpu_time_info
 *     0x00 u32 version                     0x00 u32 version
 *     0x04 u32 seconds                     0x08 u64 tsc_timestamp
 *     0x08 u32 nanoseconds                 0x10 u64 system_time
 *                                          0x18 u32 tsc_to_system_mul
 *                                          0x1c s8  tsc_shift
 *                                          0x1d u8  flags
 *
 * The version is odd while the rest is being written. As the TSC runs at the clock's own rate, the time information is
 * written only when the MSR, the TSC or the clock is set.
 */
import type { GuestMemory, GuestPhysical } from "../../../memory/guest-memory.js";
import { Layout, type ViewOf } from "../../../memory/layout.js";
import { Mutex } from "../../../memory/mutex.js";
import type { SharedMemory } from "../../../memory/shared-memory.js";
import type { StateAllocator } from "../../../memory/state-allocator.js";
import { type NanosecondClock, type TscOffsets, tscAt } from "./cpu-signals.js";

export const KvmClockMsr = {
  WALL_CLOCK: 0x11,
  SYSTEM_TIME: 0x12,
  WALL_CLOCK_NEW: 0x4b564d00,
  SYSTEM_TIME_NEW: 0x4b564d01,
} as const;

const WallClock = { VERSION: 0, SECONDS: 4, NANOSECONDS: 8, SIZE: 12 } as const;
const TimeInfo = {
  VERSION: 0x00,
  TSC_TIMESTAMP: 0x08,
  SYSTEM_TIME: 0x10,
  MULTIPLIER: 0x18,
  SHIFT: 0x1c,
  FLAGS: 0x1d,
  SIZE: 32,
} as const;

const ENABLE = 1n;
/** PVCLOCK_TSC_STABLE_BIT: the information of all vCPUs is consistent. */
const TSC_STABLE = 1;

/** ns = ((ticks << SHIFT) × MULTIPLIER) >> 32: one nanosecond a tick, with a multiplier below 2^32. */
const TSC_MULTIPLIER = 0x80000000;
const TSC_SHIFT = 1;

const CLOCK_STATE = new Layout("kvmclock", {
  lock: "u32",
  /** kvmclock − machine clock, in nanoseconds modulo 2^64. */
  offset: "u64",
  wallClockMsr: "u64",
  wallClockVersion: "u32",
});

const VCPU_STATE = new Layout("kvmclock-vcpu", {
  systemTimeMsr: "u64",
  version: "u32",
});

export class KvmClock {
  readonly #state: ViewOf<typeof CLOCK_STATE>;
  readonly #vcpus: ViewOf<typeof VCPU_STATE>[];
  readonly #lock: Mutex;

  /** `wallClock`: nanoseconds since 1970. */
  constructor(
    readonly memory: SharedMemory,
    allocator: StateAllocator,
    readonly clock: NanosecondClock,
    readonly tsc: TscOffsets,
    readonly guest: GuestMemory,
    vcpus: number,
    readonly wallClock: () => bigint = hostWallClock,
  ) {
    this.#state = allocator.alloc(CLOCK_STATE, "kvmclock");
    this.#vcpus = Array.from({ length: vcpus }, (_, id) => allocator.alloc(VCPU_STATE, `kvmclock${id}`));
    this.#lock = new Mutex("kvmclock", memory, this.#state.address + CLOCK_STATE.offset.lock);
  }

  /** The clock starts at the machine's own zero. */
  reset(): void {
    this.#state.offset = 0n;
    this.#state.wallClockMsr = 0n;
    this.#state.wallClockVersion = 0;
    for (const vcpu of this.#vcpus) {
      vcpu.systemTimeMsr = 0n;
      vcpu.version = 0;
    }
  }

  static claimsMsr(index: number): boolean {
    switch (index) {
      case KvmClockMsr.WALL_CLOCK:
      case KvmClockMsr.WALL_CLOCK_NEW:
      case KvmClockMsr.SYSTEM_TIME:
      case KvmClockMsr.SYSTEM_TIME_NEW:
        return true;
      default:
        return false;
    }
  }

  readMsr(vcpu: number, index: number): bigint {
    const wall = index === KvmClockMsr.WALL_CLOCK || index === KvmClockMsr.WALL_CLOCK_NEW;
    return wall ? this.#state.wallClockMsr : this.#vcpus[vcpu].systemTimeMsr;
  }

  /** Any value is taken, as in KVM; an address outside of RAM gets nothing written to it. */
  writeMsr(vcpu: number, index: number, value: bigint): void {
    this.#lock.with(() => {
      if (index === KvmClockMsr.WALL_CLOCK || index === KvmClockMsr.WALL_CLOCK_NEW) {
        this.#state.wallClockMsr = value;
        this.#writeWallClock(value);
      } else {
        this.#vcpus[vcpu].systemTimeMsr = value;
        this.#writeAll();
      }
    });
  }

  /** A vCPU's TSC was written. */
  tscChanged(): void {
    this.#lock.with(() => this.#writeAll());
  }

  /** KVM_GET_CLOCK: nanoseconds. */
  getClock(): bigint {
    return this.#lock.with(() => this.#at(this.clock.now()));
  }

  /** KVM_SET_CLOCK. */
  setClock(nanoseconds: bigint): void {
    this.#lock.with(() => {
      const now = BigInt(Math.floor(this.clock.now()));
      this.#state.offset = BigInt.asUintN(64, nanoseconds - now);
      this.#writeAll();
    });
  }

  #at(now: number): bigint {
    return BigInt.asUintN(64, BigInt(Math.floor(now)) + this.#state.offset);
  }

  /** Byte offset of guest RAM for a structure at `address`, or undefined where it cannot be there. */
  #locate(address: bigint, size: number): number | undefined {
    const at = Number(address);
    if (at % 4 !== 0 || !this.guest.contains(at, size)) return undefined;
    return this.guest.offset(at as GuestPhysical, size);
  }

  #writeWallClock(address: bigint): void {
    if (address === 0n) return;
    const at = this.#locate(address, WallClock.SIZE);
    if (at === undefined) return;
    // The wall clock at the zero of the system time, which the guest adds.
    const boot = this.wallClock() - this.#at(this.clock.now());
    const { data } = this.memory;
    const version = this.#state.wallClockVersion;
    this.#setVersion(at + WallClock.VERSION, version + 1);
    data.setUint32(at + WallClock.SECONDS, Number(BigInt.asUintN(32, boot / 1_000_000_000n)), true);
    data.setUint32(at + WallClock.NANOSECONDS, Number(boot % 1_000_000_000n), true);
    this.#state.wallClockVersion = version + 2;
    this.#setVersion(at + WallClock.VERSION, version + 2);
    this.guest.marked(at, WallClock.SIZE);
  }

  #writeAll(): void {
    // Time read on one vCPU with another's information is right only if all have the same TSC.
    const first = this.tsc.tscOffset(0);
    let flags = TSC_STABLE;
    for (let id = 1; id < this.#vcpus.length; id++) if (this.tsc.tscOffset(id) !== first) flags = 0;
    const now = this.clock.now();
    for (let id = 0; id < this.#vcpus.length; id++) this.#writeTimeInfo(id, now, flags);
  }

  #writeTimeInfo(id: number, now: number, flags: number): void {
    const vcpu = this.#vcpus[id];
    const msr = vcpu.systemTimeMsr;
    if ((msr & ENABLE) === 0n) return;
    const at = this.#locate(msr & ~ENABLE, TimeInfo.SIZE);
    if (at === undefined) return;
    const { data } = this.memory;
    const { version } = vcpu;
    this.#setVersion(at + TimeInfo.VERSION, version + 1);
    data.setBigUint64(at + TimeInfo.TSC_TIMESTAMP, tscAt(this.tsc, id, now), true);
    data.setBigUint64(at + TimeInfo.SYSTEM_TIME, this.#at(now), true);
    data.setUint32(at + TimeInfo.MULTIPLIER, TSC_MULTIPLIER, true);
    data.setInt8(at + TimeInfo.SHIFT, TSC_SHIFT);
    data.setUint8(at + TimeInfo.FLAGS, flags);
    vcpu.version = version + 2;
    this.#setVersion(at + TimeInfo.VERSION, version + 2);
    this.guest.marked(at, TimeInfo.SIZE);
  }

  /** Atomic, so that another vCPU sees it in order with the fields around it. */
  #setVersion(at: number, version: number): void {
    Atomics.store(this.memory.i32, at >>> 2, version);
  }
}

function hostWallClock(): bigint {
  return BigInt(Math.round((performance.timeOrigin + performance.now()) * 1000)) * 1000n;
}
