/**
 * What the threads of a machine share about its KVM VM: file descriptors (they belong to the process, so that any thread
 * can use them), memory slots, and what `kick` needs to know.
 */
import { array, Layout, type ViewOf } from "../../memory/layout.js";

/** More than any machine has; KVM itself allows 32764. */
export const MAX_SLOTS = 64;

export const KVM_STATE = new Layout("kvm", {
  /** Guards the memory slots. */
  lock: "u32",
  device: "i32",
  vm: "i32",
  /** Bytes of a vCPU's mapping. */
  mappingSize: "u32",
  /** Bytes of a vCPU's XSAVE area. */
  xsaveSize: "u32",
  tscKhz: "u32",
  /** Whether KVM runs the guest's kernel with its instruction emulator, for want of hardware virtualization. */
  emulating: "u32",
  /** KVM can gather port writes. */
  coalescing: "u32",
  /** A slot that logs dirty pages exists: host writes are logged, too. */
  logging: "u32",
  slotUsed: array("u32", MAX_SLOTS),
  slotLogs: array("u32", MAX_SLOTS),
  slotOffset: array("f64", MAX_SLOTS),
  slotSize: array("f64", MAX_SLOTS),
});
export type KvmState = ViewOf<typeof KVM_STATE>;

export const KVM_VCPU = new Layout("kvm-vcpu", {
  fd: "i32",
  /** Thread that runs the vCPU; 0: none yet. */
  tid: "i32",
  /** `kick` was called since the last INTR. */
  kicked: "u32",
  /** An NMI is to be queued by the thread that runs the vCPU. */
  nmi: "u32",
  /** `Pending`: what the last exit left to be done. */
  pending: "u32",
  /** Instructions that KVM could not emulate and the software CPU did. */
  steps: "u32",
  /** Batches that the software CPU did (emulation-step.ts). */
  batches: "u32",
  /** One goes on, or waits for an exit's answer. */
  inBatch: "u32",
  /** Address of the vCPU's mapping (struct kvm_run) in the process. */
  mapping: "u64",
});
export type KvmVcpuState = ViewOf<typeof KVM_VCPU>;

/** `KVM_VCPU.pending`. */
export const Pending = {
  NONE: 0,
  /** The answer to an exit lies in the mapping; the instruction is completed by the next KVM_RUN. */
  ANSWER: 1,
  /** Completing an instruction made another exit, which `run` has to return. */
  EXIT: 2,
} as const;
