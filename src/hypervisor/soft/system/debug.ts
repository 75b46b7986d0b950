/** Debug exceptions: breakpoints on instructions, data and ports, single steps (SDM vol. 3B, 18.2 and 18.3). */
import { AccessKind, Cr4, type VcpuState } from "../vcpu-state.js";
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

export class DebugUnit {
  /** Breakpoints that the current instruction has met so far: bits as in DR6. */
  #hits = 0;

  constructor(readonly s: VcpuState) {}

  #control(n: number): number {
    return Number((this.s.dr[7] >> BigInt(16 + 4 * n)) & 0xfn);
  }

  #enabled(n: number): boolean {
    return ((this.s.dr[7] >> BigInt(2 * n)) & 3n) !== 0n;
  }

  /** To be called after each write of DR7: what the other parts of the processor look at. */
  update(): void {
    let watch = 0;
    for (let n = 0; n < BREAKPOINTS; n++) {
      const kind = this.#control(n) & 3;
      if (this.#enabled(n) && (kind === Kind.WRITE || kind === Kind.ACCESS)) watch |= 1 << n;
    }
    this.s.watchpoints = watch;
  }

  /** Whether an instruction at `linear` meets a breakpoint; DR6 says which. */
  meetsInstruction(linear: bigint | undefined): boolean {
    let hits = 0;
    for (let n = 0; n < BREAKPOINTS; n++) {
      if (this.#enabled(n) && (this.#control(n) & 3) === Kind.EXECUTE && this.s.dr[n] === linear)
        hits |= 1 << n;
    }
    if (hits !== 0) this.report(hits);
    return hits !== 0;
  }

  /** An instruction begins. */
  begin(): void {
    this.#hits = 0;
  }

  #meets(n: number, start: bigint, bytes: number): boolean {
    // The address is cut to a multiple of the length (SDM vol. 3B, 18.2.5).
    const length = BigInt(LENGTHS[this.#control(n) >> 2]);
    const at = this.s.dr[n] & ~(length - 1n);
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
    if ((this.s.dr[7] & 0xffn) === 0n || (cr4Of(this.s) & Cr4.DE) === 0) return;
    for (let n = 0; n < BREAKPOINTS; n++) {
      const io = this.#enabled(n) && (this.#control(n) & 3) === Kind.IO;
      if (io && this.#meets(n, BigInt(port), bytes)) this.#hits |= 1 << n;
    }
  }

  /** The instruction is done: what it met, and a single step where `step`, waits to be delivered. */
  end(step: boolean): void {
    this.s.pendingDebug |= this.#hits | (step ? Dr6.BS : 0);
    this.#hits = 0;
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
