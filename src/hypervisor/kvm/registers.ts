/** Between the seam's register groups and KVM's structures. */
import type { CpuidEntry, DebugRegs, GuestDebug, IrqRoute, Segment, Sregs, VcpuEvents } from "../seam.js";
import { Kvm } from "./abi/constants.js";
import type { InputOf, ValueOf } from "./abi/struct.js";
import type * as s from "./abi/structs.js";

type ValueOfStruct<K extends keyof typeof s> = ValueOf<(typeof s)[K]>;
type InputOfStruct<K extends keyof typeof s> = InputOf<(typeof s)[K]>;

export function sregsFrom(value: ValueOfStruct<"kvm_sregs">): Sregs {
  const { apic_base: apicBase, interrupt_bitmap: _, ...same } = value;
  return { ...same, apicBase };
}

/** `interrupt_bitmap` is zero: injected interrupts are part of the events. */
export function sregsTo({ apicBase, ...same }: Sregs): InputOfStruct<"kvm_sregs"> {
  const segment = ({ base, limit, ...rest }: Segment) => ({ ...rest, base: BigInt.asUintN(64, base), limit });
  const { cs, ds, es, fs, gs, ss, tr, ldt, ...rest } = same;
  return {
    ...rest,
    cs: segment(cs),
    ds: segment(ds),
    es: segment(es),
    fs: segment(fs),
    gs: segment(gs),
    ss: segment(ss),
    tr: segment(tr),
    ldt: segment(ldt),
    apic_base: apicBase,
  };
}

export function cpuidFrom(value: ValueOfStruct<"kvm_cpuid_entry2">): CpuidEntry {
  const { function: fn, index, flags, eax, ebx, ecx, edx } = value;
  const significantIndex = (flags & Kvm.KVM_CPUID_FLAG_SIGNIFCANT_INDEX) !== 0;
  return { function: fn, index, significantIndex, eax, ebx, ecx, edx };
}

export function cpuidTo({ significantIndex, ...same }: CpuidEntry): InputOfStruct<"kvm_cpuid_entry2"> {
  return { ...same, flags: significantIndex ? Kvm.KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0 };
}

export function eventsFrom({ exception, interrupt, nmi }: ValueOfStruct<"kvm_vcpu_events">): VcpuEvents {
  return {
    exception: {
      injected: exception.injected !== 0,
      nr: exception.nr,
      hasErrorCode: exception.has_error_code !== 0,
      errorCode: exception.error_code,
    },
    interrupt: {
      injected: interrupt.injected !== 0,
      nr: interrupt.nr,
      soft: interrupt.soft !== 0,
      shadow: interrupt.shadow,
    },
    nmi: { injected: nmi.injected !== 0, pending: nmi.pending !== 0, masked: nmi.masked !== 0 },
  };
}

/** `before`: what the vCPU has; the parts that the seam does not know stay as they are. */
export function eventsTo(
  { exception, interrupt, nmi }: VcpuEvents,
  before: ValueOfStruct<"kvm_vcpu_events">,
): InputOfStruct<"kvm_vcpu_events"> {
  return {
    ...before,
    exception: {
      injected: Number(exception.injected),
      nr: exception.nr,
      has_error_code: Number(exception.hasErrorCode),
      error_code: exception.errorCode,
    },
    interrupt: {
      injected: Number(interrupt.injected),
      nr: interrupt.nr,
      soft: Number(interrupt.soft),
      shadow: interrupt.shadow,
    },
    nmi: {
      injected: Number(nmi.injected),
      pending: Number(nmi.pending),
      masked: Number(nmi.masked),
    },
    flags: Kvm.KVM_VCPUEVENT_VALID_NMI_PENDING | Kvm.KVM_VCPUEVENT_VALID_SHADOW,
  };
}

export function debugRegsFrom({ db, dr6, dr7 }: ValueOfStruct<"kvm_debugregs">): DebugRegs {
  return { db: [db[0], db[1], db[2], db[3]], dr6, dr7 };
}

export function guestDebugTo(debug: GuestDebug): InputOfStruct<"kvm_guest_debug"> {
  if (!debug.enable) return {};
  const { hardware } = debug;
  const debugreg = hardware === undefined ? [] : [...hardware.addresses, 0n, 0n, 0n, hardware.dr7];
  return {
    control:
      Kvm.KVM_GUESTDBG_ENABLE |
      (debug.singleStep ? Kvm.KVM_GUESTDBG_SINGLESTEP : 0) |
      (debug.useSoftwareBreakpoints ? Kvm.KVM_GUESTDBG_USE_SW_BP : 0) |
      (hardware === undefined ? 0 : Kvm.KVM_GUESTDBG_USE_HW_BP),
    arch: { debugreg },
  };
}

const CHIPS = {
  "pic-master": Kvm.KVM_IRQCHIP_PIC_MASTER,
  "pic-slave": Kvm.KVM_IRQCHIP_PIC_SLAVE,
  ioapic: Kvm.KVM_IRQCHIP_IOAPIC,
} as const;

/** The halves of an MSI's address. */
export function msiAddress(address: bigint): { address_lo: number; address_hi: number } {
  return {
    address_lo: Number(BigInt.asUintN(32, address)),
    address_hi: Number(BigInt.asUintN(32, address >> 32n)),
  };
}

export function routeTo(route: IrqRoute): InputOfStruct<"kvm_irq_routing_entry"> {
  const { gsi } = route;
  if (route.type === "msi") {
    const msi = { ...msiAddress(route.address), data: route.data };
    return { gsi, type: Kvm.KVM_IRQ_ROUTING_MSI, u: { msi } };
  }
  return {
    gsi,
    type: Kvm.KVM_IRQ_ROUTING_IRQCHIP,
    u: { irqchip: { irqchip: CHIPS[route.chip], pin: route.pin } },
  };
}
