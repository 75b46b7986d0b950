/** The ioctl numbers of /dev/kvm, its VMs and vCPUs: Linux, include/uapi/linux/kvm.h, and asm-generic/ioctl.h for how they are made. */
import * as s from "./structs.js";

const KVMIO = 0xae;

/** Fields of an ioctl number: number, type, size of the argument, direction. */
const TYPE_SHIFT = 8;
const SIZE_SHIFT = 16;
const WRITE = 1 << 30;
const READ = 2 << 30;

interface Sized {
  readonly size: number;
}

const number = (direction: number, nr: number, size: number) =>
  (direction | (size << SIZE_SHIFT) | (KVMIO << TYPE_SHIFT) | nr) >>> 0;
const io = (nr: number) => number(0, nr, 0);
const ior = (nr: number, { size }: Sized) => number(READ, nr, size);
const iow = (nr: number, { size }: Sized) => number(WRITE, nr, size);
const iowr = (nr: number, { size }: Sized) => number(READ | WRITE, nr, size);

const U64: Sized = { size: 8 };

/** By the name in the header. */
export const Ioctl = {
  // /dev/kvm
  KVM_GET_API_VERSION: io(0x00),
  KVM_CREATE_VM: io(0x01),
  KVM_GET_MSR_INDEX_LIST: iowr(0x02, s.kvm_msr_list),
  /** Also on a VM. */
  KVM_CHECK_EXTENSION: io(0x03),
  KVM_GET_VCPU_MMAP_SIZE: io(0x04),
  KVM_GET_SUPPORTED_CPUID: iowr(0x05, s.kvm_cpuid2),
  KVM_GET_EMULATED_CPUID: iowr(0x09, s.kvm_cpuid2),
  KVM_GET_MSR_FEATURE_INDEX_LIST: iowr(0x0a, s.kvm_msr_list),

  // A VM
  KVM_CREATE_VCPU: io(0x41),
  KVM_GET_DIRTY_LOG: iow(0x42, s.kvm_dirty_log),
  KVM_SET_USER_MEMORY_REGION: iow(0x46, s.kvm_userspace_memory_region),
  KVM_SET_TSS_ADDR: io(0x47),
  KVM_SET_IDENTITY_MAP_ADDR: iow(0x48, U64),
  KVM_CREATE_IRQCHIP: io(0x60),
  KVM_IRQ_LINE: iow(0x61, s.kvm_irq_level),
  KVM_GET_IRQCHIP: iowr(0x62, s.kvm_irqchip),
  KVM_SET_IRQCHIP: ior(0x63, s.kvm_irqchip),
  KVM_IRQ_LINE_STATUS: iowr(0x67, s.kvm_irq_level),
  KVM_REGISTER_COALESCED_MMIO: iow(0x67, s.kvm_coalesced_mmio_zone),
  KVM_UNREGISTER_COALESCED_MMIO: iow(0x68, s.kvm_coalesced_mmio_zone),
  KVM_SET_GSI_ROUTING: iow(0x6a, s.kvm_irq_routing),
  KVM_REINJECT_CONTROL: io(0x71),
  KVM_IRQFD: iow(0x76, s.kvm_irqfd),
  KVM_CREATE_PIT2: iow(0x77, s.kvm_pit_config),
  KVM_SET_BOOT_CPU_ID: io(0x78),
  KVM_IOEVENTFD: iow(0x79, s.kvm_ioeventfd),
  KVM_SET_CLOCK: iow(0x7b, s.kvm_clock_data),
  KVM_GET_CLOCK: ior(0x7c, s.kvm_clock_data),
  KVM_GET_PIT2: ior(0x9f, s.kvm_pit_state2),
  KVM_SET_PIT2: iow(0xa0, s.kvm_pit_state2),
  /** Also on a vCPU. */
  KVM_SET_TSC_KHZ: io(0xa2),
  KVM_GET_TSC_KHZ: io(0xa3),
  /** Also on a vCPU. */
  KVM_ENABLE_CAP: iow(0xa3, s.kvm_enable_cap),
  KVM_SIGNAL_MSI: iow(0xa5, s.kvm_msi),
  KVM_CLEAR_DIRTY_LOG: iowr(0xc0, s.kvm_clear_dirty_log),
  KVM_CREATE_DEVICE: iowr(0xe0, s.kvm_create_device),
  KVM_SET_DEVICE_ATTR: iow(0xe1, s.kvm_device_attr),
  KVM_GET_DEVICE_ATTR: iow(0xe2, s.kvm_device_attr),
  KVM_HAS_DEVICE_ATTR: iow(0xe3, s.kvm_device_attr),

  // A vCPU
  KVM_RUN: io(0x80),
  KVM_GET_REGS: ior(0x81, s.kvm_regs),
  KVM_SET_REGS: iow(0x82, s.kvm_regs),
  KVM_GET_SREGS: ior(0x83, s.kvm_sregs),
  KVM_SET_SREGS: iow(0x84, s.kvm_sregs),
  KVM_TRANSLATE: iowr(0x85, s.kvm_translation),
  KVM_INTERRUPT: iow(0x86, s.kvm_interrupt),
  KVM_GET_MSRS: iowr(0x88, s.kvm_msrs),
  KVM_SET_MSRS: iow(0x89, s.kvm_msrs),
  KVM_SET_SIGNAL_MASK: iow(0x8b, s.kvm_signal_mask),
  KVM_GET_FPU: ior(0x8c, s.kvm_fpu),
  KVM_SET_FPU: iow(0x8d, s.kvm_fpu),
  KVM_GET_LAPIC: ior(0x8e, s.kvm_lapic_state),
  KVM_SET_LAPIC: iow(0x8f, s.kvm_lapic_state),
  KVM_SET_CPUID2: iow(0x90, s.kvm_cpuid2),
  KVM_GET_CPUID2: iowr(0x91, s.kvm_cpuid2),
  KVM_GET_MP_STATE: ior(0x98, s.kvm_mp_state),
  KVM_SET_MP_STATE: iow(0x99, s.kvm_mp_state),
  KVM_NMI: io(0x9a),
  KVM_SET_GUEST_DEBUG: iow(0x9b, s.kvm_guest_debug),
  KVM_X86_SETUP_MCE: iow(0x9c, U64),
  KVM_X86_GET_MCE_CAP_SUPPORTED: ior(0x9d, U64),
  KVM_X86_SET_MCE: iow(0x9e, s.kvm_x86_mce),
  KVM_GET_VCPU_EVENTS: ior(0x9f, s.kvm_vcpu_events),
  KVM_SET_VCPU_EVENTS: iow(0xa0, s.kvm_vcpu_events),
  KVM_GET_DEBUGREGS: ior(0xa1, s.kvm_debugregs),
  KVM_SET_DEBUGREGS: iow(0xa2, s.kvm_debugregs),
  KVM_GET_XSAVE: ior(0xa4, s.kvm_xsave),
  KVM_SET_XSAVE: iow(0xa5, s.kvm_xsave),
  KVM_GET_XCRS: ior(0xa6, s.kvm_xcrs),
  KVM_SET_XCRS: iow(0xa7, s.kvm_xcrs),
  KVM_KVMCLOCK_CTRL: io(0xad),
  KVM_SMI: io(0xb7),
  KVM_GET_SREGS2: ior(0xcc, s.kvm_sregs2),
  KVM_SET_SREGS2: iow(0xcd, s.kvm_sregs2),
  KVM_GET_XSAVE2: ior(0xcf, s.kvm_xsave),
} as const;
