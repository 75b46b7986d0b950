/** What the interrupt controllers ask of the CPUs, and the time they keep. */

/**
 * Calls into the vCPUs, from any thread and with no lock of the interrupt controllers held. None of them may wait.
 *
 * `interrupt` is an edge: the vCPU has to remember it until `IrqChip.hasInterrupt` returned false or it took the
 * interrupt, and has to look again after each interrupt it took.
 */
export interface CpuSignals {
  /** Something may be deliverable: leave guest code or HLT and ask `hasInterrupt`. */
  interrupt(vcpu: number): void;
  nmi(vcpu: number): void;
  /** INIT: the vCPU has to call `IrqChip.resetVcpu` on its own thread. */
  init(vcpu: number): void;
  /** Start-up IPI: begin at 0x1000 × `vector` if waiting for it. */
  sipi(vcpu: number, vector: number): void;
}

/** Nanoseconds since the machine was made (src/memory/clock.ts). */
export interface NanosecondClock {
  now(): number;
}

/** The guest's TSC: 1 GHz, floor(clock nanoseconds) plus an offset of each vCPU, modulo 2^64. */
export interface TscOffsets {
  tscOffset(vcpu: number): bigint;
}

/** A TSC tick and a tick of the APIC's bus clock are one nanosecond. */
export const TSC_KHZ = 1_000_000;

/** TSC of `vcpu` at `now` (clock nanoseconds). */
export function tscAt(tsc: TscOffsets, vcpu: number, now: number): bigint {
  return BigInt.asUintN(64, BigInt(Math.floor(now)) + tsc.tscOffset(vcpu));
}
