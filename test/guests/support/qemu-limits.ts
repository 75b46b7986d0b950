/**
 * What the processor of the KVM lab does otherwise than the manual: QEMU 7.2's software CPU, an AMD one with nested paging. Guest
 * code runs on it without an exit, so that neither KVM nor NLKT has a part in these. Each test is named in full.
 */

export interface NamedTests {
  readonly why: string;
  readonly tests: readonly string[];
}

/** AMD's processors, and KVM on them, with the software CPU's model (Intel's) as what the tests are written from. */
export const AMD_TESTS: readonly NamedTests[] = [
  {
    why: "the PDPTEs are read at each walk with nested paging, not with CR3 (AMD APM vol. 2, 15.25.10)",
    tests: [
      "PAE: MOV CR3 loads the PDPTEs; bit 1: #GP(0) (SDM 3A, 4.4.1)",
      "PAE: MOV CR3 loads the PDPTEs; bit 2: #GP(0) (SDM 3A, 4.4.1)",
      "PAE: MOV CR3 loads the PDPTEs; bit 5: #GP(0) (SDM 3A, 4.4.1)",
      "PAE: MOV CR3 loads the PDPTEs; bit 8: #GP(0) (SDM 3A, 4.4.1)",
      "PAE: MOV CR3 loads the PDPTEs; a bit beyond MAXPHYADDR: #GP(0) (SDM 3A, 4.4.1)",
      "PAE: MOV CR3 loads the PDPTEs; bit 63: #GP(0) (SDM 3A, 4.4.1)",
      "PAE: PDPTEs are those of the last load of CR3, not those in memory (SDM 3A, 4.4.1)",
      "PAE: MOV CR4 that changes PGE loads the PDPTEs anew (SDM 3A, 4.4.1)",
      "PAE: MOV CR4 that changes SMEP loads the PDPTEs anew (SDM 3A, 4.4.1)",
      "PAE: MOV CR0 that changes CD loads the PDPTEs anew (SDM 3A, 4.4.1)",
    ],
  },
  {
    why: "KVM gives guests of an AMD vendor 32 bits of SYSENTER_ESP and _EIP, and there is no SYSENTER in IA-32e mode (APM vol. 3)",
    tests: [
      "IA32_SYSENTER_ESP: valid values are kept, others are #GP(0) (SDM 4)",
      "IA32_SYSENTER_EIP: valid values are kept, others are #GP(0) (SDM 4)",
      "compat: SYSENTER takes CS, SS, RSP and RIP from MSRs, clears IF and VM (SDM 2, SYSENTER)",
      "long: SYSENTER takes CS, SS, RSP and RIP from MSRs, clears IF and VM (SDM 2, SYSENTER)",
      "SYSENTER with a null CS MSR and in real mode is #GP(0) (SDM 2, SYSENTER)",
    ],
  },
  {
    why: "KVM gives guests of an AMD vendor 32 bits of TSC_AUX",
    tests: ["IA32_TSC_AUX: valid values are kept, others are #GP(0) (SDM 4)"],
  },
];

/** QEMU's own. */
export const QEMU_TESTS: readonly NamedTests[] = [
  {
    why: "not refused in the lab, where QEMU does these without an exit, or KVM without decode assists emulates them",
    tests: [
      "MOV CR0: bits 63–32 in 64-bit mode is #GP(0) (SDM 2, MOV CR)",
      "MOV CR4: a reserved bit in the upper half is #GP(0) (SDM 2, MOV CR)",
      "MOV CR8 is the TPR's upper half; above 15 is #GP (SDM 3A, 11.8.6.1)",
    ],
  },
  {
    why: "QEMU takes such a CR3 and refuses the next VMRUN",
    tests: ["MOV CR3: bits beyond MAXPHYADDR are #GP(0) in IA-32e mode (SDM 2, MOV CR)"],
  },
  {
    why: "QEMU does not check L and D together",
    tests: ["a descriptor with L and D both set is #GP in IA-32e mode (SDM 3A, 5.2.1)"],
  },
  {
    why: "QEMU's IRET to virtual-8086 mode takes the lower half of EIP",
    tests: ["IRETD to virtual-8086 mode with EIP above 0xFFFF is #GP(0) (SDM 2, IRET)"],
  },
  {
    why: "QEMU does not refuse it, and its VMRUN of a state that a processor does not have comes to no end, in the lab's kernel",
    tests: ["MOV CR0: PG with LME and no PAE is #GP(0) (SDM 2, MOV CR)"],
  },
  {
    why: "QEMU checks no limits, so that the guest goes on into what is no code, and does not come back from it",
    tests: [
      "real mode: beyond 64 KiB is #GP with vector 13 and no error code (SDM 3B, 21.1.1)",
      "real mode: a word at offset 0xFFFF is #GP, through SS #SS",
    ],
  },
  {
    why: "QEMU raises #GP, not #SS, for addresses through SS that are not canonical",
    tests: [
      "a non-canonical address through RBP: #SS(0) (SDM 3A, 6.15; 1, 3.3.7.1)",
      "a non-canonical address through RSP: #SS(0) (SDM 3A, 6.15; 1, 3.3.7.1)",
      "a non-canonical address PUSH: #SS(0) (SDM 3A, 6.15; 1, 3.3.7.1)",
      "a non-canonical address POP: #SS(0) (SDM 3A, 6.15; 1, 3.3.7.1)",
      "a non-canonical address CALL: #SS(0) (SDM 3A, 6.15; 1, 3.3.7.1)",
      "a non-canonical address RET: #SS(0) (SDM 3A, 6.15; 1, 3.3.7.1)",
      "a non-canonical address ENTER: #SS(0) (SDM 3A, 6.15; 1, 3.3.7.1)",
      "a non-canonical address PUSHF: #SS(0) (SDM 3A, 6.15; 1, 3.3.7.1)",
      "a non-canonical address MOVUPS through RBP: #SS(0) (SDM 3A, 6.15; 1, 3.3.7.1)",
      "a non-canonical address FLD through RBP: #SS(0) (SDM 3A, 6.15; 1, 3.3.7.1)",
    ],
  },
  {
    why: "QEMU's read-modify-writes read first, and tell of a read in the error code",
    tests: [
      "ADD to memory across pages, the second not present: #PF there, nothing written (SDM 3A, 4.7; 6.5)",
      "ADD to memory across pages, the first not present: CR2 is the address itself",
      "LOCK ADD across pages, the second not present: #PF there, nothing written (SDM 3A, 4.7; 6.5)",
      "LOCK ADD across pages, the first not present: CR2 is the address itself",
      "XCHG across pages, the second not present: #PF there, nothing written (SDM 3A, 4.7; 6.5)",
      "XCHG across pages, the first not present: CR2 is the address itself",
      "CMPXCHG across pages, the second not present: #PF there, nothing written (SDM 3A, 4.7; 6.5)",
      "CMPXCHG across pages, the first not present: CR2 is the address itself",
      "CMPXCHG8B across pages, the second not present: #PF there, nothing written (SDM 3A, 4.7; 6.5)",
      "CMPXCHG8B across pages, the first not present: CR2 is the address itself",
    ],
  },
  {
    why: "QEMU writes what SGDT stores in two parts",
    tests: ["SGDT across pages, the second not present: #PF there, nothing written (SDM 3A, 4.7; 6.5)"],
  },
  {
    why: "QEMU sets A before it looks at the rights",
    tests: [
      "CMPXCHG that fails, and INC that faults for rights, mark as a write and not at all (SDM 3A, 4.8)",
    ],
  },
  {
    why: "QEMU drops global translations, too, on the way to KVM and back",
    tests: [
      "MOV CR3 drops translations but global ones; CR4.PGE drops those, too (SDM 3A, 4.10.2.4, 4.10.4.1)",
    ],
  },
  {
    why: "QEMU lets EFLAGS.AC through for implicit accesses, too",
    tests: ["SMAP: implicit accesses are checked whatever AC is (SDM 3A, 4.6.1)"],
  },
  {
    why: "QEMU does not mark descriptors in read-only pages accessed as the manual has it",
    tests: ["CR0.WP protects accessed bits of descriptors in read-only pages (SDM 3A, 4.6)"],
  },
  {
    why: "QEMU's error code for a reserved bit has no P",
    tests: [
      "execute-disable: a page with data and XD cannot be run; without NXE the bit is reserved (SDM 3A, 4.6)",
      "access rights, IA-32e, 4 KiB: all combinations (SDM 3A, 4.6, 4.7, 4.8)",
      "access rights, IA-32e, 2 MiB: all combinations (SDM 3A, 4.6, 4.7, 4.8)",
      "access rights, IA-32e, 1 GiB: all combinations (SDM 3A, 4.6, 4.7, 4.8)",
      "access rights, PAE, 4 KiB: all combinations (SDM 3A, 4.6, 4.7, 4.8)",
      "access rights, PAE, 2 MiB: all combinations (SDM 3A, 4.6, 4.7, 4.8)",
      "access rights, 32-bit, 4 MiB: all combinations (SDM 3A, 4.6, 4.7, 4.8)",
    ],
  },
  {
    why: "QEMU checks neither limits nor types of segments where data is read and written",
    tests: [
      "null SS: #GP(0), but for 64-bit code below CPL 3 with RPL = CPL (SDM 2, MOV)",
      "null DS may be loaded; an access through it is #GP(0) outside 64-bit mode (SDM 3A, 5.4.1)",
      "protected32: limit of DS and SS: one byte beyond (SDM 3A, 5.3)",
      "protected32: limit of DS and SS: a doubleword that ends beyond (SDM 3A, 5.3)",
      "protected32: limit of DS and SS: beyond page granularity (SDM 3A, 5.3)",
      "protected32: limit of DS and SS: expand-down, at the limit (SDM 3A, 5.3)",
      "protected32: limit of DS and SS: 16-bit expand-down, at 0x10000 (SDM 3A, 5.3)",
      "protected32: limit of DS and SS: 16-bit expand-down, across 0xFFFF (SDM 3A, 5.3)",
      "compat: limit of DS and SS: one byte beyond (SDM 3A, 5.3)",
      "compat: limit of DS and SS: a doubleword that ends beyond (SDM 3A, 5.3)",
      "compat: limit of DS and SS: beyond page granularity (SDM 3A, 5.3)",
      "compat: limit of DS and SS: expand-down, at the limit (SDM 3A, 5.3)",
      "compat: limit of DS and SS: 16-bit expand-down, at 0x10000 (SDM 3A, 5.3)",
      "compat: limit of DS and SS: 16-bit expand-down, across 0xFFFF (SDM 3A, 5.3)",
      "accesses through read-only data (SDM 3A, 5.5)",
      "accesses through readable code (SDM 3A, 5.5)",
      "execute-only code cannot be read through CS (SDM 3A, 5.5)",
      "string instructions check ES:EDI and the source segment (SDM 3A, 5.3)",
      "all 6 bytes of LES have to lie in the segment (SDM 3A, 5.3)",
      "all 6 bytes of LFS have to lie in the segment (SDM 3A, 5.3)",
      "all 8 bytes of BOUND have to lie in the segment (SDM 3A, 5.3)",
      "all 6 bytes of LGDT have to lie in the segment (SDM 3A, 5.3)",
      "all 6 bytes of SGDT have to lie in the segment (SDM 3A, 5.3)",
      "all 6 bytes of SIDT have to lie in the segment (SDM 3A, 5.3)",
      "all 8 bytes of CMPXCHG8B have to lie in the segment (SDM 3A, 5.3)",
      "all 10 bytes of FLD m80 have to lie in the segment (SDM 3A, 5.3)",
      "all 28 bytes of FNSTENV have to lie in the segment (SDM 3A, 5.3)",
      "all 108 bytes of FNSAVE have to lie in the segment (SDM 3A, 5.3)",
      "all 16 bytes of MOVUPS have to lie in the segment (SDM 3A, 5.3)",
      "all 8 bytes of MOVQ have to lie in the segment (SDM 3A, 5.3)",
      "all 16 bytes of LDDQU have to lie in the segment (SDM 3A, 5.3)",
      "real mode: PUSH EAX with SP = 2 is #SS (SDM 2, PUSH)",
    ],
  },
  {
    why: "QEMU takes what LLDT, LTR, LGDT and LIDT should refuse",
    tests: [
      "protected32: LTR, a null selector (SDM 2, LTR)",
      "long: LTR, a null selector (SDM 2, LTR)",
      "IA-32e mode: LLDT and LTR of a non-canonical base are #GP(selector) (SDM 2, LTR)",
      "LGDT and LIDT of a non-canonical base are #GP(0) (SDM 2, LGDT)",
    ],
  },
  {
    why: "QEMU's LAR shows 16-bit system types in IA-32e mode",
    tests: ["legacy mode: 16-bit system types are visible to LAR, in IA-32e mode they are not (SDM 2, LAR)"],
  },
  {
    why: "QEMU's SYSCALL clears the arithmetic flags, its SYSRET takes a RCX that is not canonical",
    tests: [
      "SYSCALL: RCX, R11, RIP, RFLAGS, CS and SS; RSP stays (SDM 2, SYSCALL)",
      "SYSRET to 64-bit mode and to compatibility mode (SDM 2, SYSRET)",
      "SYSCALL and SYSRET without EFER.SCE are #UD; SYSRET at CPL 3 and to a non-canonical RCX is #GP(0)",
    ],
  },
  {
    why: "QEMU's WRFSBASE takes any value",
    tests: [
      "RDFSBASE and its kin need CR4.FSGSBASE, work at CPL 3, check for canonical values (SDM 2, WRFSBASE)",
    ],
  },
  {
    why: "QEMU's MMX instructions look at TS before EM",
    tests: ["MMX, EM and TS: #UD"],
  },
  {
    why: "QEMU's floating-point instructions raise no exception of the processor",
    tests: [
      "#MF: the next waiting x87 or MMX instruction raises it, others do not (SDM 3A, 6.15, interrupt 16)",
      "#XM with CR4.OSXMMEXCPT, #UD without (SDM 3A, 6.15, interrupt 19)",
    ],
  },
  {
    why: "QEMU has no alignment check",
    tests: [
      "alignment check: a word at an odd address (SDM 3A, 6.15, interrupt 17)",
      "alignment check: a doubleword on 2 (SDM 3A, 6.15, interrupt 17)",
      "alignment check: a quadword on 4 (SDM 3A, 6.15, interrupt 17)",
      "alignment check: a store (SDM 3A, 6.15, interrupt 17)",
      "alignment check: a read-modify-write (SDM 3A, 6.15, interrupt 17)",
      "alignment check: MOVSD (SDM 3A, 6.15, interrupt 17)",
      "#GP for a non-canonical address comes before #AC (SDM 3A, table 6-2)",
    ],
  },
  {
    why: "QEMU does not check the limit of code segments",
    tests: [
      "protected32: far CALL to an offset beyond the limit (SDM 3A, 5.8.1)",
      "compat: far CALL to an offset beyond the limit (SDM 3A, 5.8.1)",
      "long: far CALL to an offset beyond the limit (SDM 3A, 5.8.1)",
      "call gate to an inner level whose SS is too small a limit (SDM 2, CALL)",
      "protected32: RET, CS: EIP beyond the limit (SDM 2, RET)",
      "protected32: IRET, CS: EIP beyond the limit (SDM 2, IRET)",
      "compat: RET, CS: EIP beyond the limit (SDM 2, RET)",
      "compat: IRET, CS: EIP beyond the limit (SDM 2, IRET)",
      "long: RET, CS: EIP beyond the limit (SDM 2, RET)",
      "long: IRET, CS: EIP beyond the limit (SDM 2, IRET)",
      "near JMP rel32 beyond the code segment's limit is #GP(0) at the instruction (SDM 2, JMP, CALL, RET)",
      "near CALL rel32 beyond the code segment's limit is #GP(0) at the instruction (SDM 2, JMP, CALL, RET)",
      "near Jcc rel32 beyond the code segment's limit is #GP(0) at the instruction (SDM 2, JMP, CALL, RET)",
      "near JMP r32 beyond the code segment's limit is #GP(0) at the instruction (SDM 2, JMP, CALL, RET)",
      "near CALL r32 beyond the code segment's limit is #GP(0) at the instruction (SDM 2, JMP, CALL, RET)",
      "near RET beyond the code segment's limit is #GP(0) at the instruction (SDM 2, JMP, CALL, RET)",
      "near RET imm16 beyond the code segment's limit is #GP(0) at the instruction (SDM 2, JMP, CALL, RET)",
      "near LOOP beyond the code segment's limit is #GP(0) at the instruction (SDM 2, JMP, CALL, RET)",
      "running off the end of a code segment is #GP(0) at the first byte beyond (SDM 3A, 5.3)",
      "an instruction that crosses the code segment's limit is #GP(0) (SDM 3A, 5.3)",
      "the limit counts for code that was run before under a larger one",
      "a handler beyond its segment's limit is #GP(0) (SDM 2, INT n)",
    ],
  },
  {
    why: "QEMU checks what a selector leads to in another order",
    tests: [
      "protected32: call gate, target not present (SDM 3A, 5.8.3, 5.8.4)",
      "compat: call gate, target not present (SDM 3A, 5.8.3, 5.8.4)",
      "long: call gate, target not present (SDM 3A, 5.8.3, 5.8.4)",
      "call gate to an inner level whose SS is not present (SDM 2, CALL)",
      "protected32: RET to CPL 3, SS: not present (SDM 2, RET)",
      "protected32: IRET to CPL 3, SS: not present (SDM 2, IRET)",
      "compat: RET to CPL 3, SS: not present (SDM 2, RET)",
      "compat: IRET to CPL 3, SS: not present (SDM 2, IRET)",
      "long: RET to CPL 3, SS: not present (SDM 2, RET)",
      "long: IRET to CPL 3, SS: not present (SDM 2, IRET)",
    ],
  },
  {
    why: "QEMU's 16-bit gates push other frames",
    tests: [
      "16-bit call gate: words on the stack, 16 bits of offset (SDM 3A, 5.8.5)",
      "16-bit gates lead to a 16-bit offset, with the error code as a word",
    ],
  },
  {
    why: "QEMU jumps to addresses that are not canonical, and faults there",
    tests: [
      "IRETQ to a non-canonical RIP is #GP(0) (SDM 2, IRET)",
      "near JMP r64 to a non-canonical address is #GP(0) at the instruction (SDM 2, JMP, CALL, RET)",
      "near CALL r64 to a non-canonical address is #GP(0) at the instruction (SDM 2, JMP, CALL, RET)",
      "near RET to a non-canonical address is #GP(0) at the instruction (SDM 2, JMP, CALL, RET)",
      "near RET imm16 to a non-canonical address is #GP(0) at the instruction (SDM 2, JMP, CALL, RET)",
    ],
  },
  {
    why: "QEMU's IRET takes VIP, VIF and VM otherwise",
    tests: [
      "protected32: flags after IRET: all at CPL 0 (SDM 2, IRET)",
      "protected32: flags after IRET: VM is ignored at CPL 3 (SDM 2, IRET)",
    ],
  },
  {
    why: "QEMU's INT1 is #UD under SVM",
    tests: [
      "protected32: INT1 raises vector 1; saved RIP of fault or trap (SDM 3A, 6.5, 6.15)",
      "long: INT1 raises vector 1; saved RIP of fault or trap (SDM 3A, 6.5, 6.15)",
      "INT3, INTO and INT1: DPL counts for the first two, EXT for the last (SDM 2, INT n)",
    ],
  },
  {
    why: "QEMU saves no RF",
    tests: [
      "RF in the saved flags: set by faults, clear after INT n (SDM 3B, 18.3.1.1)",
      "a trap in the middle of REP has RF in the saved flags, the last one has not (SDM 3B, 18.3.1.1)",
      "a REP that is interrupted goes on where it stood (SDM 2, REP)",
    ],
  },
  {
    why: "QEMU's error codes name vectors times 16 in IA-32e mode",
    tests: [
      "long: INT n through a gate: of a data segment's type (SDM 2, INT n)",
      "long: INT n through a gate: of a call gate's type (SDM 2, INT n)",
      "long: INT n through a gate: zero (SDM 2, INT n)",
      "long: INT n through a gate: not present (SDM 2, INT n)",
      "long: INT n through a gate: DPL below CPL (SDM 2, INT n)",
      "long: INT n through a gate: DPL below CPL and not present (SDM 2, INT n)",
      "a vector beyond IDTR's limit is #GP(vector × 8 + 2) (SDM 3A, 6.10)",
      "IA-32e mode: 16-bit gates and gates to 32-bit code are #GP (SDM 3A, 6.14.1)",
      "IA-32e mode: 32-bit code that is not present: its type counts first (SDM 2, INT n)",
    ],
  },
  {
    why: "QEMU sets no EXT in error codes of a delivery",
    tests: [
      "the same in the delivery of an exception sets EXT in the error code (SDM 3A, 6.13)",
      "a non-canonical stack of the TSS is #SS(0), with EXT for an exception (SDM 2, INT n)",
      "a TSS that ends before the stack pointer is #TS(TSS), with EXT for an exception (SDM 2, INT n)",
      "protected mode: SS of the TSS is null: EXT by what is delivered (SDM 2, INT n)",
      "protected mode: SS of the TSS is beyond the GDT: EXT by what is delivered (SDM 2, INT n)",
      "protected mode: SS of the TSS is of a wrong RPL: EXT by what is delivered (SDM 2, INT n)",
      "protected mode: SS of the TSS is read-only: EXT by what is delivered (SDM 2, INT n)",
      "protected mode: SS of the TSS is not present: EXT by what is delivered (SDM 2, INT n)",
      "protected mode: SS of the TSS is too small: EXT by what is delivered (SDM 2, INT n)",
    ],
  },
  {
    why: "QEMU's shutdown in the delivery of #DF leaves RIP elsewhere",
    tests: ["a fault in the delivery of #DF is a shutdown (SDM 3A, 6.15, interrupt 8)"],
  },
  {
    why: "QEMU looks at LOCK after the operands",
    tests: [
      "LOCK on a wrong form is #UD before #GP for privilege (SDM 3A, 6.9)",
      "LOCK on a wrong form is #UD before #PF (SDM 3A, 6.9)",
    ],
  },
  {
    why: "QEMU fetches whole instructions before it counts their bytes",
    tests: [
      "too long across a page, the next page not present: #GP only once all 15 bytes are there, else #PF",
    ],
  },
  {
    why: "QEMU, where code of 16 or 64 bits writes over its next instruction, runs the old one",
    tests: ["long: a store to the next instruction", "v86: a store to the next instruction"],
  },
  {
    why: "guests of KVM write these MSRs without an exit, and QEMU takes any value",
    tests: [
      "IA32_LSTAR: valid values are kept, others are #GP(0) (SDM 4)",
      "IA32_CSTAR: valid values are kept, others are #GP(0) (SDM 4)",
      "IA32_FMASK: valid values are kept, others are #GP(0) (SDM 4)",
      "IA32_FS_BASE: valid values are kept, others are #GP(0) (SDM 4)",
      "IA32_GS_BASE: valid values are kept, others are #GP(0) (SDM 4)",
      "IA32_KERNEL_GS_BASE: valid values are kept, others are #GP(0) (SDM 4)",
    ],
  },
  {
    why: "KVM offers no RDPID in the lab",
    tests: ["RDPID and RDTSCP give IA32_TSC_AUX (SDM 2, RDPID)"],
  },
  {
    why: "in the lab the trap after an instruction that KVM emulates is not seen",
    tests: [
      "single-stepping REP OUTSB (SDM 3B, 18.3.1.4)",
      "single-stepping STI (SDM 3B, 18.3.1.4)",
      "single-stepping MMIO: one trap, after the access (SDM 3B, 18.3.1.4)",
    ],
  },
  {
    why: "QEMU holds traps back after LSS, too",
    tests: ["LSS does not (SDM 3A, 6.8.3)"],
  },
  {
    why: "QEMU's SVM does not load the guest's debug registers",
    tests: [
      "instruction breakpoint in DR0: a fault before the instruction, once (SDM 3B, 18.3.1.1)",
      "instruction breakpoint in DR1: a fault before the instruction, once (SDM 3B, 18.3.1.1)",
      "instruction breakpoint in DR2: a fault before the instruction, once (SDM 3B, 18.3.1.1)",
      "instruction breakpoint in DR3: a fault before the instruction, once (SDM 3B, 18.3.1.1)",
      "a global enable does as well as a local one (SDM 3B, 18.2.4)",
      "an instruction breakpoint on REP comes once, before the first element (SDM 3B, 18.3.1.1)",
      "an instruction breakpoint on port output comes once",
      "an instruction breakpoint on port input comes once",
      "an instruction breakpoint on an MMIO read comes once",
      "an instruction breakpoint comes before the instruction's own faults (SDM 3A, table 6-2)",
      "data breakpoint: write, on a write (SDM 3B, 18.2.5, 18.3.1.2)",
      "data breakpoint: access, on a read (SDM 3B, 18.2.5, 18.3.1.2)",
      "data breakpoint: access, on a write (SDM 3B, 18.2.5, 18.3.1.2)",
      "data breakpoint: write, on a read-modify-write (SDM 3B, 18.2.5, 18.3.1.2)",
      "data breakpoint: a doubleword that covers the byte (SDM 3B, 18.2.5, 18.3.1.2)",
      "data breakpoint: a byte in a doubleword (SDM 3B, 18.2.5, 18.3.1.2)",
      "data breakpoint: a byte in a quadword (SDM 3B, 18.2.5, 18.3.1.2)",
      "data breakpoint: the address is cut to the length (SDM 3B, 18.2.5, 18.3.1.2)",
      "data breakpoint: MOVUPS (SDM 3B, 18.2.5, 18.3.1.2)",
      "data breakpoint: FXSAVE (SDM 3B, 18.2.5, 18.3.1.2)",
      "data breakpoint: CMPXCHG16B (SDM 3B, 18.2.5, 18.3.1.2)",
      "data breakpoint: LOCK XADD (SDM 3B, 18.2.5, 18.3.1.2)",
      "data breakpoint: SGDT (SDM 3B, 18.2.5, 18.3.1.2)",
      "data breakpoint: FSTP m80 (SDM 3B, 18.2.5, 18.3.1.2)",
      "a data breakpoint and a single step are reported together (SDM 3B, 18.3.1)",
      "data breakpoints on stacks: PUSH, CALL, POP, RET",
      "a data breakpoint in the middle of REP MOVSB comes after that element (SDM 3B, 18.3.1.2)",
      "a data breakpoint met by MOV SS is reported after the next instruction",
      "I/O breakpoint: OUT (SDM 3B, 18.2.4, 18.3.1.3)",
      "I/O breakpoint: IN (SDM 3B, 18.2.4, 18.3.1.3)",
      "I/O breakpoint: a doubleword that covers the port (SDM 3B, 18.2.4, 18.3.1.3)",
      "I/O breakpoint: a port in the range (SDM 3B, 18.2.4, 18.3.1.3)",
      "I/O breakpoint: OUTSB (SDM 3B, 18.2.4, 18.3.1.3)",
      "I/O breakpoint: INSB (SDM 3B, 18.2.4, 18.3.1.3)",
      "DR7.GD: MOV DR is a #DB fault with DR6.BD; GD is clear in the handler (SDM 3B, 18.3.1.3)",
      "fixed bits of DR6 and DR7 (SDM 3B, 18.2.3, 18.2.4)",
      "a #DB leaves BS of an earlier one set (SDM 3B, 18.2.3: DR6 is never cleared)",
      "MOV SS, a data breakpoint and INT1: one #DB; with INT3: one each (SDM 3A, 6.8.3)",
    ],
  },
  {
    why: "KVM single-steps up to IRET, and QEMU lets the guest see it",
    tests: ["IRET ends the masking of NMIs even where it faults (SDM 3A, 6.7.1)"],
  },
  {
    why: "QEMU's error code has another place for the vector",
    tests: [
      "an interrupt whose gate is not present is #NP with EXT; it is served all the same (SDM 3A, 6.13)",
    ],
  },
  {
    why: "QEMU forgets the interrupt shadow between its blocks",
    tests: ["STI at the end of a page, and the instruction that it holds back for in the next"],
  },
];
