/**
 * The local APIC's state as KVM_GET_LAPIC and KVM_SET_LAPIC carry it: the first KiB of the xAPIC register page
 * (`struct kvm_lapic_state`), with the ID in the 32-bit form of KVM_CAP_X2APIC_API in x2APIC mode.
 */

import type { LocalApic } from "./lapic.js";
import { readRegister } from "./lapic-access.js";
import {
  DCR_WRITABLE,
  ICR_WRITABLE,
  LapicReg,
  LVT_ENTRIES,
  SVR_WRITABLE,
  VECTOR_WORDS,
} from "./lapic-registers.js";

export const LAPIC_PAGE_SIZE = 0x400;

/** Bits of the first word of a vector bitmap whose vectors are legal. */
const LEGAL_IN_WORD_0 = ~0xffff;

/** KVM_GET_LAPIC. */
export function getLapicPage(apic: LocalApic): Uint8Array {
  const page = new Uint8Array(LAPIC_PAGE_SIZE);
  const data = new DataView(page.buffer);
  for (let offset = 0; offset < LAPIC_PAGE_SIZE; offset += 16) {
    data.setUint32(offset, readRegister(apic, offset) ?? 0, true);
  }
  return page;
}

/**
 * KVM_SET_LAPIC, after IA32_APIC_BASE has been set. The timer goes on from the page's current count; a TSC deadline
 * comes with its MSR. Throws `RangeError` where the page is not 1 KiB.
 */
export function setLapicPage(apic: LocalApic, page: Uint8Array): void {
  if (page.length !== LAPIC_PAGE_SIZE) throw new RangeError(`local APIC state of ${page.length} bytes`);
  const data = new DataView(page.buffer, page.byteOffset, page.length);
  const at = (offset: number) => data.getUint32(offset, true);
  const { state } = apic;
  state.id = apic.x2apic ? apic.vcpu : at(LapicReg.ID) >>> 24;
  state.tpr = at(LapicReg.TPR) & 0xff;
  state.ldr = (at(LapicReg.LDR) & 0xff000000) >>> 0;
  state.dfr = at(LapicReg.DFR) >>> 28;
  state.svr = at(LapicReg.SVR) & SVR_WRITABLE;
  state.esr = at(LapicReg.ESR);
  state.icrLow = at(LapicReg.ICR) & ICR_WRITABLE;
  state.icrHigh = at(LapicReg.ICR_HIGH);
  for (let word = 0; word < VECTOR_WORDS; word++) {
    // Bits of illegal vectors would never be delivered.
    const legal = word === 0 ? LEGAL_IN_WORD_0 : ~0;
    apic.isr.setWord(word, at(LapicReg.ISR + 16 * word) & legal);
    apic.irr.setWord(word, at(LapicReg.IRR + 16 * word) & legal);
    apic.setTmrWord(word, at(LapicReg.TMR + 16 * word));
  }
  apic.timer.stop();
  // As they are: after reset LINT0 is open although software disable would mask it.
  for (const [index, entry] of LVT_ENTRIES.entries()) state.lvt[index] = at(entry.offset) & entry.writable;
  state.timerInitial = at(LapicReg.TIMER_INITIAL);
  state.timerDivide = at(LapicReg.TIMER_DIVIDE) & DCR_WRITABLE;
  apic.timer.resume(at(LapicReg.TIMER_CURRENT));
  apic.signal();
}
