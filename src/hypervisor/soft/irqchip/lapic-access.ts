/** How software gets at the local APIC's registers: the page of xAPIC mode and the MSRs of x2APIC mode. */
import { BROADCAST, destination8, Shorthand } from "./interrupt-bus.js";
import type { LocalApic } from "./lapic.js";
import {
  DFR_FIXED_BITS,
  Esr,
  ICR_WRITABLE,
  Icr,
  LAPIC_VERSION,
  LapicReg,
  LVT_ENTRIES,
  MSR_APIC_BASE,
  MSR_TSC_DEADLINE,
  X2APIC_ACCESS,
  X2APIC_MSR_FIRST,
  X2APIC_MSR_LAST,
  x2apicLogicalId,
} from "./lapic-registers.js";
import { ApicMode } from "./lapic-state.js";

const PAGE_SIZE = 0x1000;

/** The value of the register at a 16-byte-aligned offset, or undefined where there is none. */
export function readRegister(apic: LocalApic, offset: number): number | undefined {
  const { state, x2apic } = apic;
  switch (offset) {
    case LapicReg.ID:
      return x2apic ? state.id : (state.id << 24) >>> 0;
    case LapicReg.VERSION:
      return LAPIC_VERSION;
    case LapicReg.TPR:
      return state.tpr;
    case LapicReg.APR:
    case LapicReg.PPR:
      // Arbitration priority is of the APIC bus of old: the processor priority stands in for it.
      return apic.ppr();
    case LapicReg.EOI:
    case LapicReg.RRD:
      return 0;
    case LapicReg.LDR:
      return x2apic ? x2apicLogicalId(state.id) : state.ldr;
    case LapicReg.DFR:
      return ((state.dfr << 28) | DFR_FIXED_BITS) >>> 0;
    case LapicReg.SVR:
      return state.svr;
    case LapicReg.ESR:
      return state.esr;
    case LapicReg.ICR:
      return state.icrLow;
    case LapicReg.ICR_HIGH:
      return state.icrHigh;
    case LapicReg.TIMER_INITIAL:
      return state.timerInitial;
    case LapicReg.TIMER_CURRENT:
      return apic.timer.currentCount();
    case LapicReg.TIMER_DIVIDE:
      return state.timerDivide;
  }
  const index = (offset >>> 4) & 7;
  if (offset >= LapicReg.ISR && offset < LapicReg.ESR) {
    if (offset >= LapicReg.IRR) return apic.irr.word(index);
    return offset >= LapicReg.TMR ? apic.tmrWord(index) : apic.isr.word(index);
  }
  const entry = (offset - LapicReg.LVT_TIMER) >> 4;
  return entry >= 0 && entry < LVT_ENTRIES.length ? state.lvt[entry] : undefined;
}

/** Write a register; false where there is none, or a read-only one. */
export function writeRegister(apic: LocalApic, offset: number, value: number): boolean {
  const { state } = apic;
  switch (offset) {
    case LapicReg.ID:
      state.id = value >>> 24;
      return true;
    case LapicReg.TPR:
      apic.writeTpr(value & 0xff);
      return true;
    case LapicReg.EOI:
      apic.eoi();
      return true;
    case LapicReg.LDR:
      state.ldr = (value & 0xff000000) >>> 0;
      return true;
    case LapicReg.DFR:
      state.dfr = value >>> 28;
      return true;
    case LapicReg.SVR:
      apic.writeSvr(value);
      return true;
    case LapicReg.ESR:
      apic.latchErrors();
      return true;
    case LapicReg.ICR:
      state.icrLow = value & ICR_WRITABLE;
      apic.sendIpi(state.icrLow, apic.x2apic ? state.icrHigh : destination8(state.icrHigh >>> 24));
      return true;
    case LapicReg.ICR_HIGH:
      state.icrHigh = (value & 0xff000000) >>> 0;
      return true;
    case LapicReg.TIMER_INITIAL:
      apic.timer.writeInitialCount(value);
      return true;
    case LapicReg.TIMER_DIVIDE:
      apic.timer.writeDivide(value);
      return true;
  }
  const entry = (offset - LapicReg.LVT_TIMER) >> 4;
  if (entry < 0 || entry >= LVT_ENTRIES.length) return false;
  apic.writeLvt(entry, value);
  return true;
}

/** Whether the register page answers at this guest-physical address: in xAPIC mode only. */
export function lapicClaims({ state }: LocalApic, address: number): boolean {
  const { mode, page } = state;
  return mode === ApicMode.XAPIC && address >= page && address < page + PAGE_SIZE;
}

/**
 * Registers are 32 bits wide on 16-byte boundaries and want 32-bit accesses (SDM vol. 3A, 11.4.1). Smaller reads
 * within a register give its bytes; anything else reads as zero.
 */
export function readLapicMmio(apic: LocalApic, address: number, size: number): number {
  const at = address - apic.state.page;
  const within = at & 0xf;
  if (within + Math.min(size, 4) > 4) return 0;
  const value = readRegister(apic, at & 0xff0);
  if (value === undefined) {
    apic.error(Esr.ILLEGAL_REGISTER);
    return 0;
  }
  const bytes = value >>> (8 * within);
  return size >= 4 ? bytes : bytes & ((1 << (8 * size)) - 1);
}

/** Only aligned 32-bit writes have an effect. */
export function writeLapicMmio(apic: LocalApic, address: number, size: number, value: number): void {
  const at = address - apic.state.page;
  if (size !== 4 || (at & 0xf) !== 0) return;
  if (writeRegister(apic, at, value >>> 0)) return;
  // A write to a read-only register is no error, one to a reserved address is.
  if (readRegister(apic, at) === undefined) apic.error(Esr.ILLEGAL_REGISTER);
}

/** IA32_APIC_BASE, IA32_TSC_DEADLINE and the x2APIC's range. */
export function isLapicMsr(index: number): boolean {
  return (
    (index >= X2APIC_MSR_FIRST && index <= X2APIC_MSR_LAST) ||
    index === MSR_APIC_BASE ||
    index === MSR_TSC_DEADLINE
  );
}

/** RDMSR of an MSR that `isLapicMsr` names; undefined is #GP(0). */
export function readLapicMsr(apic: LocalApic, index: number): bigint | undefined {
  if (index === MSR_APIC_BASE) return apic.base;
  if (index === MSR_TSC_DEADLINE) return apic.timer.readTscDeadline();
  const offset = (index - X2APIC_MSR_FIRST) * 16;
  if (!apic.x2apic || X2APIC_ACCESS.get(offset)?.read !== true) return undefined;
  if (offset === LapicReg.ICR) return (BigInt(apic.state.icrHigh) << 32n) | BigInt(apic.state.icrLow);
  const value = readRegister(apic, offset);
  return value === undefined ? undefined : BigInt(value);
}

/** WRMSR of an MSR that `isLapicMsr` names; false is #GP(0). */
export function writeLapicMsr(apic: LocalApic, index: number, value: bigint): boolean {
  if (index === MSR_APIC_BASE) return apic.writeBase(value);
  if (index === MSR_TSC_DEADLINE) {
    apic.timer.writeTscDeadline(value);
    return true;
  }
  const offset = (index - X2APIC_MSR_FIRST) * 16;
  const writable = X2APIC_ACCESS.get(offset)?.write;
  if (!apic.x2apic || writable === undefined || (value & ~writable) !== 0n) return false;
  const low = Number(value & 0xffffffffn);
  if (offset === LapicReg.SELF_IPI) {
    apic.sendIpi(low | (Shorthand.SELF << Icr.SHORTHAND_SHIFT), BROADCAST);
    return true;
  }
  if (offset === LapicReg.ICR) apic.state.icrHigh = Number(value >> 32n);
  return writeRegister(apic, offset, low);
}
