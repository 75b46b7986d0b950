/** Structures of a vCPU's state of <linux/kvm.h> and <asm/kvm.h> (x86), Linux 6.1, by their names and fields there. */
import { array, bytes, Struct } from "./struct.js";

export const kvm_regs = new Struct("kvm_regs", {
  rax: "u64",
  rbx: "u64",
  rcx: "u64",
  rdx: "u64",
  rsi: "u64",
  rdi: "u64",
  rsp: "u64",
  rbp: "u64",
  r8: "u64",
  r9: "u64",
  r10: "u64",
  r11: "u64",
  r12: "u64",
  r13: "u64",
  r14: "u64",
  r15: "u64",
  rip: "u64",
  rflags: "u64",
});

export const kvm_segment = new Struct("kvm_segment", {
  base: "u64",
  limit: "u32",
  selector: "u16",
  type: "u8",
  present: "u8",
  dpl: "u8",
  db: "u8",
  s: "u8",
  l: "u8",
  g: "u8",
  avl: "u8",
  unusable: "u8",
  padding: "u8",
});

export const kvm_dtable = new Struct("kvm_dtable", { base: "u64", limit: "u16", padding: array("u16", 3) });

const SEGMENT_REGISTERS = {
  cs: kvm_segment,
  ds: kvm_segment,
  es: kvm_segment,
  fs: kvm_segment,
  gs: kvm_segment,
  ss: kvm_segment,
  tr: kvm_segment,
  ldt: kvm_segment,
  gdt: kvm_dtable,
  idt: kvm_dtable,
  cr0: "u64",
  cr2: "u64",
  cr3: "u64",
  cr4: "u64",
  cr8: "u64",
  efer: "u64",
  apic_base: "u64",
} as const;

export const kvm_sregs = new Struct("kvm_sregs", {
  ...SEGMENT_REGISTERS,
  interrupt_bitmap: array("u64", 4),
});

export const kvm_sregs2 = new Struct("kvm_sregs2", {
  ...SEGMENT_REGISTERS,
  flags: "u64",
  pdptrs: array("u64", 4),
});

export const kvm_fpu = new Struct("kvm_fpu", {
  fpr: bytes(8 * 16),
  fcw: "u16",
  fsw: "u16",
  ftwx: "u8",
  pad1: "u8",
  last_opcode: "u16",
  last_ip: "u64",
  last_dp: "u64",
  xmm: bytes(16 * 16),
  mxcsr: "u32",
  pad2: "u32",
});

export const kvm_xsave = new Struct("kvm_xsave", { region: array("u32", 1024) });
export const kvm_xcr = new Struct("kvm_xcr", { xcr: "u32", reserved: "u32", value: "u64" });
export const kvm_xcrs = new Struct("kvm_xcrs", {
  nr_xcrs: "u32",
  flags: "u32",
  xcrs: array(kvm_xcr, 16),
  padding: array("u64", 16),
});

export const kvm_msr_entry = new Struct("kvm_msr_entry", { index: "u32", reserved: "u32", data: "u64" });
/** Followed by `nmsrs` of `kvm_msr_entry`. */
export const kvm_msrs = new Struct("kvm_msrs", { nmsrs: "u32", pad: "u32" });
/** Followed by `nmsrs` of u32. */
export const kvm_msr_list = new Struct("kvm_msr_list", { nmsrs: "u32" });

export const kvm_cpuid_entry2 = new Struct("kvm_cpuid_entry2", {
  function: "u32",
  index: "u32",
  flags: "u32",
  eax: "u32",
  ebx: "u32",
  ecx: "u32",
  edx: "u32",
  padding: array("u32", 3),
});
/** Followed by `nent` of `kvm_cpuid_entry2`. */
export const kvm_cpuid2 = new Struct("kvm_cpuid2", { nent: "u32", padding: "u32" });

export const kvm_lapic_state = new Struct("kvm_lapic_state", { regs: bytes(0x400) });
export const kvm_mp_state = new Struct("kvm_mp_state", { mp_state: "u32" });

export const kvm_vcpu_events = new Struct("kvm_vcpu_events", {
  exception: new Struct("exception", {
    injected: "u8",
    nr: "u8",
    has_error_code: "u8",
    pending: "u8",
    error_code: "u32",
  }),
  interrupt: new Struct("interrupt", { injected: "u8", nr: "u8", soft: "u8", shadow: "u8" }),
  nmi: new Struct("nmi", { injected: "u8", pending: "u8", masked: "u8", pad: "u8" }),
  sipi_vector: "u32",
  flags: "u32",
  smi: new Struct("smi", { smm: "u8", pending: "u8", smm_inside_nmi: "u8", latched_init: "u8" }),
  triple_fault: new Struct("triple_fault", { pending: "u8" }),
  reserved: bytes(26),
  exception_has_payload: "u8",
  exception_payload: "u64",
});

export const kvm_debugregs = new Struct("kvm_debugregs", {
  db: array("u64", 4),
  dr6: "u64",
  dr7: "u64",
  flags: "u64",
  reserved: array("u64", 9),
});

export const kvm_guest_debug_arch = new Struct("kvm_guest_debug_arch", { debugreg: array("u64", 8) });
export const kvm_guest_debug = new Struct("kvm_guest_debug", {
  control: "u32",
  pad: "u32",
  arch: kvm_guest_debug_arch,
});

export const kvm_translation = new Struct("kvm_translation", {
  linear_address: "u64",
  physical_address: "u64",
  valid: "u8",
  writeable: "u8",
  usermode: "u8",
  pad: bytes(5),
});

export const kvm_interrupt = new Struct("kvm_interrupt", { irq: "u32" });
/** Followed by `len` bytes of the kernel's signal set, 8 on x86-64. */
export const kvm_signal_mask = new Struct("kvm_signal_mask", { len: "u32" });

export const kvm_x86_mce = new Struct("kvm_x86_mce", {
  status: "u64",
  addr: "u64",
  misc: "u64",
  mcg_status: "u64",
  bank: "u8",
  pad1: bytes(7),
  pad2: array("u64", 3),
});
