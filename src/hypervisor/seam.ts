/**
 * The seam between the machine and the CPU (DESIGN, law 1): KVM's own interface, in KVM's words, as documented in
 * Linux's Documentation/virt/kvm/api.rst. Two providers meet it: `kvm` (the kernel's) and `soft` (NLKT's own CPU).
 * Nothing above it knows which one it has. The contract in prose: docs/seam.md.
 *
 * Threads: the thread that creates the machine calls `Hypervisor.createVm`; every other thread of the machine calls
 * `Hypervisor.attachVm` with the same memory and gets an equal `Vm`. A `Vcpu` is run by one thread only; `kick` and
 * everything on `Vm` may be called from any thread.
 */
import type { MemorySlot } from "../memory/guest-memory.js";

/** A segment register as `struct kvm_segment` holds it. */
export interface Segment {
  base: bigint;
  limit: number;
  selector: number;
  /** Segment type, 4 bits (SDM vol. 3A, 3.4.5.1 and 3.5). */
  type: number;
  present: number;
  dpl: number;
  db: number;
  s: number;
  l: number;
  g: number;
  avl: number;
  unusable: number;
}

/** GDTR or IDTR, `struct kvm_dtable`. */
export interface DescriptorTable {
  base: bigint;
  limit: number;
}

/** `struct kvm_regs`. */
export interface Regs {
  rax: bigint;
  rbx: bigint;
  rcx: bigint;
  rdx: bigint;
  rsi: bigint;
  rdi: bigint;
  rsp: bigint;
  rbp: bigint;
  r8: bigint;
  r9: bigint;
  r10: bigint;
  r11: bigint;
  r12: bigint;
  r13: bigint;
  r14: bigint;
  r15: bigint;
  rip: bigint;
  rflags: bigint;
}

/** `struct kvm_sregs`. */
export interface Sregs {
  cs: Segment;
  ds: Segment;
  es: Segment;
  fs: Segment;
  gs: Segment;
  ss: Segment;
  tr: Segment;
  ldt: Segment;
  gdt: DescriptorTable;
  idt: DescriptorTable;
  cr0: bigint;
  cr2: bigint;
  cr3: bigint;
  cr4: bigint;
  cr8: bigint;
  efer: bigint;
  apicBase: bigint;
}

/** `struct kvm_fpu`; `fpr` holds ST(0)–ST(7) in the 16-byte slots of FXSAVE, `xmm` XMM0–XMM15. */
export interface Fpu {
  fpr: Uint8Array;
  fcw: number;
  fsw: number;
  /** Abridged tag word: a bit a register, 1 for not empty (SDM vol. 1, 10.5.1.1). */
  ftwx: number;
  lastOpcode: number;
  lastIp: bigint;
  lastDp: bigint;
  xmm: Uint8Array;
  mxcsr: number;
}

export interface Msr {
  index: number;
  data: bigint;
}

/** A CPUID leaf, `struct kvm_cpuid_entry2`. */
export interface CpuidEntry {
  function: number;
  index: number;
  /** Whether `index` (ECX) takes part in the look-up (KVM_CPUID_FLAG_SIGNIFCANT_INDEX). */
  significantIndex: boolean;
  eax: number;
  ebx: number;
  ecx: number;
  edx: number;
}

/** `struct kvm_debugregs`. */
export interface DebugRegs {
  db: [bigint, bigint, bigint, bigint];
  dr6: bigint;
  dr7: bigint;
}

/** `struct kvm_vcpu_events`: what is pending or being delivered. */
export interface VcpuEvents {
  exception: { injected: boolean; nr: number; hasErrorCode: boolean; errorCode: number };
  interrupt: { injected: boolean; nr: number; soft: boolean; shadow: number };
  nmi: { injected: boolean; pending: boolean; masked: boolean };
}

export const MpState = {
  RUNNABLE: 0,
  UNINITIALIZED: 1,
  INIT_RECEIVED: 2,
  HALTED: 3,
  SIPI_RECEIVED: 4,
} as const;
export type MpState = (typeof MpState)[keyof typeof MpState];

/** What KVM_SET_GUEST_DEBUG takes. */
export interface GuestDebug {
  enable: boolean;
  singleStep: boolean;
  useSoftwareBreakpoints: boolean;
  /** Values for DR0–DR3 and DR7 that replace the guest's, or undefined to leave the guest its own. */
  hardware?: { addresses: [bigint, bigint, bigint, bigint]; dr7: bigint };
}

/** Why `Vcpu.run` returned; the names and values of KVM_EXIT_*. */
export const ExitReason = {
  UNKNOWN: 0,
  IO: 2,
  DEBUG: 4,
  HLT: 5,
  MMIO: 6,
  SHUTDOWN: 8,
  FAIL_ENTRY: 9,
  /** `kick` was called, or a signal came. */
  INTR: 10,
  INTERNAL_ERROR: 17,
  SYSTEM_EVENT: 24,
} as const;
export type ExitReason = (typeof ExitReason)[keyof typeof ExitReason];

/**
 * The last exit, one object reused for every exit of a vCPU: fields not named for `reason` are stale.
 *
 * IO and MMIO follow KVM: for a write the data is there on return; for a read the caller stores the answer in `data`
 * and the next `run` completes the instruction. A port access of a string instruction may carry `count` units.
 */
export interface VmExit {
  reason: ExitReason;
  /** IO: port number. */
  port: number;
  /** IO: bytes a unit (1, 2 or 4). MMIO: bytes (1 to 8). */
  size: number;
  /** IO: units in `data`. */
  count: number;
  /** IO (OUT), MMIO: whether the guest writes. */
  isWrite: boolean;
  /** MMIO: guest-physical address. */
  address: number;
  /** IO, MMIO: little-endian bytes, `size` × `count` of them. */
  readonly data: Uint8Array;
  /** FAIL_ENTRY: hardware reason; INTERNAL_ERROR: suberror; SYSTEM_EVENT: type. */
  detail: number;
  /** DEBUG: exception number (1 or 3), address of the instruction and DR6. */
  debug: { exception: number; pc: bigint; dr6: bigint; dr7: bigint };
}

export interface Vcpu {
  readonly id: number;
  readonly exit: VmExit;

  /** Run the guest until an exit that the caller has to serve; the exit is in `exit`. KVM_RUN. */
  run(): ExitReason;
  /**
   * After INTERNAL_ERROR: load what the provider leaves out for want of use. Resolves to whether the guest can go on: `run` again
   * then. Left out where there is nothing to load.
   */
  recover?(): Promise<boolean>;
  /** Make `run` return with INTR as soon as it can, now or at its next call. Any thread. */
  kick(): void;

  getRegs(): Regs;
  setRegs(regs: Regs): void;
  getSregs(): Sregs;
  setSregs(sregs: Sregs): void;
  getFpu(): Fpu;
  setFpu(fpu: Fpu): void;
  getMsrs(indices: readonly number[]): Msr[];
  setMsrs(msrs: readonly Msr[]): void;
  /** XCR0. */
  getXcr0(): bigint;
  setXcr0(value: bigint): void;
  /** The 1 KiB register page of the local APIC, `struct kvm_lapic_state`. */
  getLapic(): Uint8Array;
  setLapic(page: Uint8Array): void;
  getEvents(): VcpuEvents;
  setEvents(events: VcpuEvents): void;
  getMpState(): MpState;
  setMpState(state: MpState): void;
  getDebugRegs(): DebugRegs;
  setDebugRegs(registers: DebugRegs): void;
  setCpuid(entries: readonly CpuidEntry[]): void;
  getCpuid(): CpuidEntry[];
  setGuestDebug(debug: GuestDebug): void;
  /** Queue an NMI. KVM_NMI. */
  nmi(): void;
  /** Guest-virtual to guest-physical, without side effects; undefined where not mapped. KVM_TRANSLATE. */
  translate(linear: bigint): number | undefined;
  /** Counters that the provider keeps, by name; which there are is its own affair. KVM_GET_STATS_FD. Any thread. */
  getStats(): Record<string, number>;
  /** What the vCPU's time went into until now, where the provider measures that. Once, after the last `run`. */
  profile?(): VcpuProfile | undefined;
}

/** One thing that was counted or took time. */
export interface ProfileRow {
  readonly name: string;
  readonly count?: number;
  readonly seconds?: number;
  /** Of an access that the machine served. */
  readonly access?: { readonly space: "port" | "MMIO"; readonly address: number };
}

export interface VcpuProfile {
  readonly vcpu: number;
  /** From the first `run` on. */
  readonly seconds: number;
  readonly sections: readonly { readonly name: string; readonly rows: readonly ProfileRow[] }[];
}

/** Where a GSI leads: `struct kvm_irq_routing_entry`. */
export type IrqRoute =
  | { gsi: number; type: "irqchip"; chip: "pic-master" | "pic-slave" | "ioapic"; pin: number }
  | { gsi: number; type: "msi"; address: bigint; data: number };

export interface Msi {
  address: bigint;
  data: number;
}

/** A write that is turned into a wake-up and no exit: `struct kvm_ioeventfd`. */
export interface Doorbell {
  space: "port" | "mmio";
  address: number;
  /** Bytes of the write to match; 0 matches any. */
  size: 0 | 1 | 2 | 4 | 8;
  /** Only this value matches, or undefined for any. */
  datamatch?: bigint;
  /** Byte offset in the shared memory of the u32 that is incremented and notified at each match. */
  word: number;
}

/** Port writes that gather and make no exits: KVM_REGISTER_COALESCED_MMIO with `pio`. */
export interface CoalescedWrites {
  /** Let the one-byte writes to `port` gather, or have them exit again. */
  setPort(port: number, on: boolean): void;
  /** Whether writes wait to be served. */
  readonly pending: boolean;
  /** Serve the writes that have gathered, in their order, as the exits that they would have been. One thread at a time. */
  drain(serve: (write: VmExit) => void): void;
}

export interface Vm {
  /** KVM_SET_USER_MEMORY_REGION. Before any vCPU runs. A size of 0 removes the slot. */
  setMemorySlot(slot: MemorySlot): void;
  /** Pages written since the last call, a bit a page, and start over. Slots with `logDirty` only. */
  getDirtyLog(slot: number): Uint8Array;

  /** KVM_IRQ_LINE. Routes of a GSI that lead to several chips all get the level. */
  setIrqLine(gsi: number, level: boolean): void;
  /** KVM_SET_GSI_ROUTING: replaces all routes. */
  setGsiRouting(routes: readonly IrqRoute[]): void;
  /** KVM_SIGNAL_MSI. */
  signalMsi(msi: Msi): void;
  /** KVM_IOEVENTFD. */
  addDoorbell(doorbell: Doorbell): void;
  /** KVM_IOEVENTFD with the DEASSIGN flag: take away a doorbell, as it was added. False where there is none such. */
  removeDoorbell(doorbell: Doorbell): boolean;
  /** Undefined where the provider cannot gather writes, or gains nothing by it. */
  readonly coalesced?: CoalescedWrites | undefined;

  /** kvmclock in nanoseconds. KVM_GET_CLOCK, KVM_SET_CLOCK. */
  getClock(): bigint;
  setClock(nanoseconds: bigint): void;
  /** Frequency of the guest's TSC. */
  readonly tscKhz: number;

  /** What the provider can offer in CPUID. KVM_GET_SUPPORTED_CPUID. */
  supportedCpuid(): CpuidEntry[];
  /** The vCPU, to be run by the calling thread. KVM_CREATE_VCPU or, for a vCPU that exists, its other handle. */
  vcpu(id: number): Vcpu;
  /** Let go of everything the host holds for this VM. */
  close(): void;
}
