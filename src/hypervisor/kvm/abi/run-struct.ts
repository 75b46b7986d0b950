/** `struct kvm_run` of <linux/kvm.h> (x86), Linux 6.1: what a vCPU and its owner share, and what KVM_RUN returns. */
import { anonymousUnion, array, bytes, Struct, union } from "./struct.js";
import { kvm_regs, kvm_sregs, kvm_vcpu_events } from "./vcpu-structs.js";

export const kvm_debug_exit_arch = new Struct("kvm_debug_exit_arch", {
  exception: "u32",
  pad: "u32",
  pc: "u64",
  dr6: "u64",
  dr7: "u64",
});

/** The members of the union in `struct kvm_run`, by kind of exit; those of other architectures are left out. */
export const kvm_run_exit = {
  hw: new Struct("hw", { hardware_exit_reason: "u64" }),
  fail_entry: new Struct("fail_entry", { hardware_entry_failure_reason: "u64", cpu: "u32" }),
  ex: new Struct("ex", { exception: "u32", error_code: "u32" }),
  io: new Struct("io", { direction: "u8", size: "u8", port: "u16", count: "u32", data_offset: "u64" }),
  debug: new Struct("debug", { arch: kvm_debug_exit_arch }),
  mmio: new Struct("mmio", { phys_addr: "u64", data: bytes(8), len: "u32", is_write: "u8" }),
  hypercall: new Struct("hypercall", {
    nr: "u64",
    args: array("u64", 6),
    ret: "u64",
    longmode: "u32",
    pad: "u32",
  }),
  tpr_access: new Struct("tpr_access", { rip: "u64", is_write: "u32", pad: "u32" }),
  internal: new Struct("internal", { suberror: "u32", ndata: "u32", data: array("u64", 16) }),
  emulation_failure: new Struct("emulation_failure", {
    suberror: "u32",
    ndata: "u32",
    flags: "u64",
    insn_size: "u8",
    insn_bytes: bytes(15),
  }),
  system_event: new Struct("system_event", { type: "u32", ndata: "u32", data: array("u64", 16) }),
  eoi: new Struct("eoi", { vector: "u8" }),
  msr: new Struct("msr", { error: "u8", pad: bytes(7), reason: "u32", index: "u32", data: "u64" }),
  notify: new Struct("notify", { flags: "u32" }),
  padding: bytes(256),
} as const;

export const kvm_sync_regs = new Struct("kvm_sync_regs", {
  regs: kvm_regs,
  sregs: kvm_sregs,
  events: kvm_vcpu_events,
});

export const kvm_run = new Struct("kvm_run", {
  request_interrupt_window: "u8",
  immediate_exit: "u8",
  padding1: bytes(6),
  exit_reason: "u32",
  ready_for_interrupt_injection: "u8",
  if_flag: "u8",
  flags: "u16",
  cr8: "u64",
  apic_base: "u64",
  exit: anonymousUnion(kvm_run_exit),
  kvm_valid_regs: "u64",
  kvm_dirty_regs: "u64",
  s: union({ regs: kvm_sync_regs, padding: bytes(2048) }),
});
