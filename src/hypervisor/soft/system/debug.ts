/**
 * Debug exceptions: breakpoints on instructions, data and ports, single steps (SDM vol. 3B, 18.2 and 18.3). While the host has
 * breakpoints of its own (KVM_GUESTDBG_USE_HW_BP), those count, and the guest's do not.
 */
import type { GuestDebug } from "../../seam.js";
import { AccessKind, Cr4, HostDebug, type VcpuState } from "../vcpu-state.js";
import { cr4Of } from "./mode.js";

/** DR6: what a debug exception is for (SDM vol. 3B, 18.2.3). */
export const Dr6 = { BREAKPOINTS: 0xf, BD: 1 << 13, BS: 1 << 14 } as const;
/** DR7.GD: general detect. */
export const DR7_GD = 1n << 13n;
/** Kinds of breakpoints: the R/W fields of DR7 (SDM vol. 3B, 18.2.4). */
const Kind = { EXECUTE: 0, WRITE: 1, IO: 2, ACCESS: 3 } as const;
/** Bytes by LEN field of DR7. */
const LENGTHS = [1, 2, 8, 4] as const;
const BREAKPOINTS = 4;

/** KVM_SET_GUEST_DEBUG; for any thread. The vCPU's own has to call `DebugUnit.update` before guest code runs again. */
export function setHostDebug(s: VcpuState, debug: GuestDebug): void {
  const { hardware } = debug;
  hardware?.addresses.forEach((address, n) => {
    s.hostDr[n] = address;
  });
  s.hostDr[4] = hardware?.dr7 ?? 0n;
  s.hostDebug = debug.enable
    ? (debug.singleStep ? HostDebug.SINGLE_STEP : 0) |
      (debug.useSoftwareBreakpoints ? HostDebug.SOFTWARE : 0) |
      (hardware === undefined ? 0 : HostDebug.HARDWARE)
    : 0;
}

export class DebugUnit {
  /** Breakpoints that the current instruction has met so far: bits as in DR6. */
  #hits = 0;
  /** Those of the host that an instruction met: an exit has to tell of them. */
  #hostHits = 0;

  constructor(readonly s: VcpuState) {}

  /** Whether the breakpoints are the host's. */
  get isHosts(): boolean {
    return (this.s.hostDebug & HostDebug.HARDWARE) !== 0;
  }

  /** DR7 as it counts. */
  get control(): bigint {
    return this.isHosts ? this.s.hostDr[4] : this.s.dr[7];
  }

  /** Whether any breakpoint is enabled. */
  get armed(): boolean {
    return (this.control & 0xffn) !== 0n;
  }

  #address(n: number): bigint {
    return this.isHosts ? this.s.hostDr[n] : this.s.dr[n];
  }

  #control(n: number): number {
    return Number((this.control >> BigInt(16 + 4 * n)) & 0xfn);
  }

  #enabled(n: number): boolean {
    return ((this.control >> BigInt(2 * n)) & 3n) !== 0n;
  }

  /** To be called after each change of DR7, or of the host's breakpoints: what the other parts of the processor look at. */
  update(): void {
    let watch = 0;
    for (let n = 0; n < BREAKPOINTS; n++) {
      const kind = this.#control(n) & 3;
      if (this.#enabled(n) && (kind === Kind.WRITE || kind === Kind.ACCESS)) watch |= 1 << n;
    }
    this.s.watchpoints = watch;
  }

  /** The breakpoints that an instruction at `linear` meets: bits as in DR6. */
  meetsInstruction(linear: bigint | undefined): number {
    let hits = 0;
    for (let n = 0; n < BREAKPOINTS; n++) {
      if (this.#enabled(n) && (this.#control(n) & 3) === Kind.EXECUTE && this.#address(n) === linear)
        hits |= 1 << n;
    }
    return hits;
  }

  /** An instruction begins. */
  begin(): void {
    this.#hits = 0;
  }

  #meets(n: number, start: bigint, bytes: number): boolean {
    // The address is cut to a multiple of the length (SDM vol. 3B, 18.2.5).
    const length = BigInt(LENGTHS[this.#control(n) >> 2]);
    const at = this.#address(n) & ~(length - 1n);
    return start < at + length && at < start + BigInt(bytes);
  }

  /** `bytes` at linear address `start` are accessed. */
  data(start: bigint, bytes: number, kind: number): void {
    for (let n = 0; n < BREAKPOINTS; n++) {
      if ((this.s.watchpoints & (1 << n)) === 0) continue;
      const writesOnly = (this.#control(n) & 3) === Kind.WRITE;
      if (writesOnly && (kind & AccessKind.WRITE) === 0) continue;
      if (this.#meets(n, start, bytes)) this.#hits |= 1 << n;
    }
  }

  /** Ports are accessed; only with CR4.DE can they be watched. */
  io(port: number, bytes: number): void {
    if (!this.armed || (cr4Of(this.s) & Cr4.DE) === 0) return;
    for (let n = 0; n < BREAKPOINTS; n++) {
      const io = this.#enabled(n) && (this.#control(n) & 3) === Kind.IO;
      if (io && this.#meets(n, BigInt(port), bytes)) this.#hits |= 1 << n;
    }
  }

  /** The instruction is done: what it met, and a single step where `step`, waits to be delivered. */
  end(step: boolean): void {
    if (this.isHosts) this.#hostHits |= this.#hits;
    else this.s.pendingDebug |= this.#hits;
    if (step) this.s.pendingDebug |= Dr6.BS;
    this.#hits = 0;
  }

  /** The host's breakpoints that instructions met since the last call. */
  takeHostHits(): number {
    const hits = this.#hostHits;
    this.#hostHits = 0;
    return hits;
  }

  /** DR6 for the debug exception that is waiting, which is delivered now. */
  takePending(): void {
    this.report(this.s.pendingDebug);
    this.s.pendingDebug = 0;
  }

  /** Say in DR6 what a debug exception is for. */
  report(bits: number): void {
    // Bits 0–3 tell of this exception; the others are the handler's to clear (SDM vol. 3B, 18.2.3).
    this.s.dr[6] = (this.s.dr[6] & ~BigInt(Dr6.BREAKPOINTS)) | BigInt(bits);
  }
}
