/**
 * What stands where the software CPU has its interrupt controllers, and with them its MSRs and CR8, when it does instructions in KVM's
 * place (emulation-step.ts): those of the machine are KVM's.
 */
import { IrqChip } from "../soft/irqchip/irqchip.js";
import { Msr } from "../soft/system/msrs.js";
import type { KvmVcpu } from "./vcpu.js";

/** Registers that instructions use or change, beside those of the other groups. */
export const MSRS = [
  Msr.SYSENTER_CS,
  Msr.SYSENTER_ESP,
  Msr.SYSENTER_EIP,
  Msr.STAR,
  Msr.LSTAR,
  Msr.CSTAR,
  Msr.FMASK,
  Msr.KERNEL_GS_BASE,
  Msr.TSC_AUX,
] as const;

/** The local APIC's in x2APIC mode, and its timer's: KVM does the same for the host's accesses as for the guest's. */
const isApicMsr = (index: number) => (index >= 0x800 && index <= 0x83f) || index === Msr.TSC_DEADLINE;

/** All others are KVM's. */
const SYNCHRONIZED: ReadonlySet<number> = new Set([...MSRS, Msr.FS_BASE, Msr.GS_BASE]);

/** The instruction reaches what only KVM has: it cannot be done here. */
export class NotHere extends Error {}

/** Stands where the software CPU has its interrupt controllers: those of this machine are KVM's. */
export class AbsentIrqChip extends IrqChip {
  /** The guest runs in a batch: the registers that are also loaded and stored are KVM's, too. */
  inBatch = false;
  /** KVM's, for the MSRs of its local APIC. */
  vcpu: KvmVcpu | undefined;

  override hasInterrupt(): boolean {
    return false;
  }
  override readMmio(): number {
    throw new NotHere();
  }
  override writeMmio(): void {
    throw new NotHere();
  }
  override readPort(): number {
    throw new NotHere();
  }
  override writePort(): void {
    throw new NotHere();
  }
  override claimsMsr(index: number): boolean {
    return this.inBatch ? !SYNCHRONIZED.has(index) : super.claimsMsr(index);
  }
  override readMsr(_vcpu: number, index: number): bigint {
    const msr = this.inBatch && isApicMsr(index) ? this.vcpu?.getMsrs([index])[0] : undefined;
    if (msr === undefined) throw new NotHere();
    return msr.data;
  }
  override writeMsr(_vcpu: number, index: number, data: bigint): boolean {
    if (!this.inBatch || !isApicMsr(index) || this.vcpu?.trySetMsr({ index, data }) !== true)
      throw new NotHere();
    return true;
  }
  override claimsMmio(vcpu: number, address: number): boolean {
    // An exit then, which ends the batch.
    return !this.inBatch && super.claimsMmio(vcpu, address);
  }
  override getCr8(vcpu: number): number {
    if (this.inBatch) throw new NotHere();
    return super.getCr8(vcpu);
  }
  override setCr8(vcpu: number, value: number): void {
    if (this.inBatch) throw new NotHere();
    super.setCr8(vcpu, value);
  }
  /** Asked where the guest halted: it does so on KVM. */
  override timerDeadline(vcpu: number): number {
    if (this.inBatch) throw new NotHere();
    return super.timerDeadline(vcpu);
  }
}
