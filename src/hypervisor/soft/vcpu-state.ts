/**
 * The software CPU's guest-visible state, one record a vCPU in shared memory (DESIGN, law 2), and the constants that
 * translated code and TypeScript share. Translated code gets the record's address as its first parameter (`cpu`).
 */
import { array, Layout, type ViewOf } from "../../memory/layout.js";

/** Segment registers in the order of their encoding (SDM vol. 2, 2.1.5), then the system ones. */
export const Seg = { ES: 0, CS: 1, SS: 2, DS: 3, FS: 4, GS: 5, LDTR: 6, TR: 7 } as const;
export type Seg = (typeof Seg)[keyof typeof Seg];

/** General registers in the order of their encoding (SDM vol. 2, table 2-2). */
export const Gpr = { RAX: 0, RCX: 1, RDX: 2, RBX: 3, RSP: 4, RBP: 5, RSI: 6, RDI: 7 } as const;

export const VCPU_STATE = new Layout("soft-vcpu", {
  gpr: array("u64", 16),
  /** Always zero: what an absent base or index register reads. */
  zero: "u64",
  /** Value of RIP at offset 0 of the code page being run: RIP = pageRip + the record's page offset. */
  pageRip: "u64",
  /** Linear address computed by an effective-address record for the record after it. */
  ea: "u64",
  /** Segment bases, by `Seg`. */
  segBase: array("u64", 8),
  segLimit: array("u32", 8),
  segSelector: array("u32", 8),
  /** Access rights as in bits 8–23 of a descriptor's high doubleword, shifted right by 8, and SEG_UNUSABLE. */
  segAccess: array("u32", 8),

  /** RIP; current only while no guest code runs (in it: pageRip and the record). */
  rip: "u64",

  // Arithmetic flags as the last instruction left them, each cheap to store and to test:
  /** ZF is set if and only if this is zero. */
  flagZ: "u64",
  /** SF is bit 63; PF is the parity of the low byte. */
  flagS: "u64",
  /** CF, 0 or 1. These four bytes can be cleared with one 32-bit store. */
  flagC: "u8",
  /** OF, 0 or 1. */
  flagO: "u8",
  /** AF is bit 4; the other bits mean nothing. */
  flagA: "u8",
  flagPad: "u8",
  /** The other bits of EFLAGS, in their places; arithmetic flags zero here. */
  eflags: "u32",

  /** Why guest code was left (`Leave`), 0 while it runs. */
  leave: "u32",
  /** Leave.SYSTEM: which operation (`system/` tables). */
  leaveDetail: "u32",
  /** Record being executed at a leave of kind FAULT, SYSTEM, IO. */
  rec: "u32",
  /** Leave.FAULT: vector and error code (FAULT_NO_ERROR_CODE: none). */
  faultVector: "u32",
  faultCode: "u32",
  /** Set non-zero by any thread to make guest code leave at its next branch: a bit set of `Poll`. */
  poll: "u32",

  /** Linear-memory address of the map from guest-physical pages to linear memory (mmu/phys-map). */
  physMap: "u32",
  /** Linear-memory address of the arrival counters of the hot tier (u16 each), and the count that makes code hot. */
  hotCounters: "u32",
  hotThreshold: "u32",
  /** Handlers from this number on are the hot tier's. */
  hotFirst: "u32",
  /** Not zero while data accesses must not be cached in the TLB: watchpoints, or alignment checks (see dtlb). */
  noFill: "u32",
  /**
   * The page of the stack in the TLB entry that regions used last for it, for reading and writing, and the entry's addend;
   * NO_STACK_PAGE: none. Only while the vCPU runs guest code, where no entry is taken away.
   */
  stackPage: "u64",
  stackAddend: "u32",
  /** Not zero: guest code was left because of `poll` by a region. */
  regionPolled: "u32",
  /** Places filled in `TLB_LOG` since the last flush; more than fit: not all are there. */
  tlbLogged: "u32",
  /** A bit (address bits 30–35) for each GiB of which a large page may be in a TLB. */
  largePages: "u64",
  /** Not zero: an interrupt was found while IF was clear; who sets IF leaves to the dispatcher. */
  irqPending: "u32",
  cpl: "u32",
  /** Linear-memory address of the data TLB and of the fetch TLB in use now; both follow CPL, EFLAGS.AC and CR4. */
  dtlb: "u32",
  ftlb: "u32",
  /** MmuMode in use now. */
  mmuMode: "u32",
  /** CodeMode of CS: 0 16-bit, 1 32-bit, 2 64-bit. */
  codeMode: "u32",
  /** Mask of the stack pointer: 0xFFFF, 0xFFFFFFFF or all ones. */
  spMask: "u64",
  /** Non-zero where an SSE instruction faults: FPU_TRAP_UD or FPU_TRAP_NM. */
  sseTrap: "u32",
  /** The same for x87, and for MMX. */
  fpuTrap: "u32",
  mmxTrap: "u32",
  /** A pending unmasked x87 exception that the next waiting x87 instruction raises as #MF (0 or 1). */
  fpuPending: "u32",

  cr0: "u64",
  cr2: "u64",
  cr3: "u64",
  cr4: "u64",
  cr8: "u64",
  efer: "u64",
  xcr0: "u64",
  /** PAE page-directory-pointer entries as CR3 was loaded (SDM vol. 3A, 4.4.1). */
  pdpte: array("u64", 4),
  gdtrBase: "u64",
  idtrBase: "u64",
  gdtrLimit: "u32",
  idtrLimit: "u32",
  dr: array("u64", 8),

  // Model-specific registers with plain storage
  star: "u64",
  lstar: "u64",
  cstar: "u64",
  fmask: "u64",
  kernelGsBase: "u64",
  sysenterCs: "u64",
  sysenterEsp: "u64",
  sysenterEip: "u64",
  pat: "u64",
  tscAux: "u64",
  miscEnable: "u64",
  mtrrDefType: "u64",
  mtrrFixed: array("u64", 11),
  mtrrVariable: array("u64", 16),
  /** TSC = clock nanoseconds + this (TSC runs at 1 GHz). */
  tscOffset: "u64",
  tscAdjust: "u64",
  mcgStatus: "u64",
  specCtrl: "u64",

  // x87 and MMX
  /** ST/MMX registers by physical number (not relative to TOP), 16 bytes each, 10 used. */
  fpr: array("u64", 16),
  fcw: "u32",
  /** Status word without TOP. */
  fsw: "u32",
  /** TOP of stack, 0–7. */
  ftop: "u32",
  /** A bit a physical register: 1 is not empty. */
  ftag: "u32",
  fop: "u32",
  fcsSelector: "u32",
  fdsSelector: "u32",
  mxcsr: "u32",
  fip: "u64",
  fdp: "u64",
  /** XMM registers, 16 bytes each, then the upper halves of the YMM registers for later. */
  xmm: array("u64", 32),
  ymmHigh: array("u64", 32),

  /** Scratch for values wider than 64 bits on slow paths. */
  scratch: array("u64", 16),
  /** Results of a page walk: guest-physical address, and WALK_* flags. */
  walkPhysical: "u64",
  walkFlags: "u32",

  /** MpState. */
  mpState: "u32",
  /** Interrupt shadow (`Shadow`); cleared by the next instruction. */
  shadow: "u32",
  nmiMasked: "u32",
  /** Bit set of events another thread asks for: see `Request`. */
  requests: "u32",
  sipiVector: "u32",
  /** KVM's apic_base copy for quick reads. */
  apicBase: "u64",
  /** Bit per DR0–DR3 that is an enabled data breakpoint. */
  watchpoints: "u32",
  /** Debug traps that wait for the end of the instruction, or of the one after MOV SS: bits as in DR6. */
  pendingDebug: "u32",
  /** The host debugs the guest: `HostDebug`; its own DR0–DR3 and DR7, which stand in for the guest's. */
  hostDebug: "u32",
  hostDr: array("u64", 5),
  /** RIP before which interrupts are held back, because STI is the instruction before it. */
  stiRip: "u64",

  // Exits that the machine serves, and the replay of accesses already served (provider contract, docs/seam.md)
  ioPending: "u32",
  ioData: "u32",
  mmioCount: "u32",
  mmioIndex: "u32",
  mmioData: array("u64", 16),

  /** What happened how often, by `Counter`. */
  counters: array("u64", 32),

  // Soft floating point (fpu/), within one instruction
  /** Exceptions raised so far: bits as in MXCSR and the x87 status word, and FpFlag.C1. */
  fpFlags: "u32",
  /** Sign and exponent (16 bits) of the last 80-bit result. */
  fpExp: "u32",
  /** Exponent and sign, and low half of the fraction, of the last 128-bit result (fpu/wide). */
  fpX: "u32",
  fpLow: "u64",
  /** Image of FNSTENV, FNSAVE, FXSAVE and their opposites on its way to or from guest memory. */
  fpImage: array("u64", 64),

  // Several vCPUs (smp/)
  /** This vCPU's bit of `PageSharing.OWNERS`. */
  ownerBit: "u32",
  /** Address of the bus lock's record (smp/bus-lock), 0 where there is one vCPU. */
  busLock: "u32",
  /** Not zero while the vCPU waits for the bus lock, with no access of its own under way. */
  busWaiting: "u32",
  /** Expected and new value of a 16-byte exchange, two words each (smp/wide-exchange). */
  exchange: array("u64", 4),
  /** Odd while guest code runs, and while the vCPU's thread writes guest memory; each entry and each leave adds one. */
  guestEpoch: "u32",
  /** PAUSEs since the vCPU last gave its core away. */
  pauses: "u32",
  /** Another vCPU kicked this one out of its next HLT (KVM_HC_KICK_CPU). */
  pvUnhalted: "u32",
});

export type VcpuState = ViewOf<typeof VCPU_STATE>;

/** Byte offsets of the fields of `VcpuState`. */
export const O = VCPU_STATE.offset;

export const gprOffset = (n: number) => O.gpr + 8 * n;
export const xmmOffset = (n: number) => O.xmm + 16 * n;
export const fprOffset = (n: number) => O.fpr + 16 * n;

/** Events counted in `counters`, on slow paths only; LEAVE and on: exits from guest code, by `Leave`. */
export const Counter = { WALK: 0, SLOW_LOAD: 1, SLOW_STORE: 2, SLOW_RMW: 3, FLUSH: 4, LEAVE: 16 } as const;

/** Why guest code was left. */
export const Leave = {
  NONE: 0,
  /** An exception: faultVector, faultCode; RIP is the faulting instruction's. */
  FAULT: 1,
  /** RIP leads to code that is not decoded yet. */
  DECODE: 2,
  /** `poll` was set; RIP is the next instruction's. */
  POLL: 3,
  /** An instruction done in TypeScript: leaveDetail. */
  SYSTEM: 4,
  /** The instruction at RIP crosses into the next page. */
  CROSS: 5,
  /** An MMIO access that the machine has to serve; the instruction will be run again. */
  MMIO: 6,
  /** A single-stepped instruction ended; RIP is the next one's. */
  STEP: 7,
  /** Code at RIP became hot: leaveDetail is its record. */
  HOT: 8,
  /** As POLL, between two elements of a string instruction: RIP is its own. */
  REPEAT: 9,
  /** An indirect branch of a region often went elsewhere than was guessed: leaveDetail is the region's first record. */
  WRONG_GUESS: 10,
  /** The instruction at RIP is one that regions leave to be run alone: it writes to a page of code, or changes what is no RAM. */
  ALONE: 11,
} as const;
export type Leave = (typeof Leave)[keyof typeof Leave];

/** `counters` by name: `slowLoad`, `leaveDecode` … */
export function readCounters(counters: BigUint64Array): Record<string, number> {
  const { LEAVE, WALK: _walk, ...events } = Counter;
  const { NONE: _, ...leaves } = Leave;
  return Object.fromEntries([
    ...Object.entries(events).map(([name, index]) => [camelCase(name), Number(counters[index])]),
    ...Object.entries(leaves).map(([name, reason]) => [
      camelCase(`LEAVE_${name}`),
      Number(counters[LEAVE + reason]),
    ]),
  ]) as Record<string, number>;
}

function camelCase(name: string): string {
  return name.toLowerCase().replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
}

/** Values of `shadow`: after STI, and after MOV SS or POP SS, until the next instruction is done. */
export const Shadow = { NONE: 0, STI: 1, STACK: 2 } as const;

/** Bits of `poll`. BUS: another vCPU waits for the bus lock until this one has left guest code. */
export const Poll = { INTERRUPT: 1, REQUEST: 2, STEP: 4, STALE_CODE: 8, HOT_CODE: 16, BUS: 32 } as const;

/** Bits of `requests`. PAGE_EVENTS: look at the queue (smp/page-events). HOST_DEBUG: `hostDebug` or `hostDr` changed. */
export const Request = {
  NMI: 1,
  INIT: 2,
  SIPI: 4,
  TLB_FLUSH: 8,
  KICK: 16,
  FLUSH_CODE: 32,
  PAGE_EVENTS: 64,
  UNHALT: 128,
  HOST_DEBUG: 256,
} as const;

/** Bits of `hostDebug`, as KVM_GUESTDBG_SINGLESTEP, _USE_SW_BP and _USE_HW_BP. */
export const HostDebug = { SINGLE_STEP: 1, SOFTWARE: 2, HARDWARE: 4 } as const;

export const CodeMode = { REAL16: 0, LEGACY32: 1, LONG64: 2 } as const;
export const MmuMode = { USER: 0, SUPERVISOR: 1, SUPERVISOR_NO_SMAP: 2 } as const;

/** In `stackPage`: what the address of no aligned access is, less its offset in the page. */
export const NO_STACK_PAGE = 0x800;

/**
 * A vCPU's TLBs follow its state record at `TLB_OFFSET`: a data TLB for each MmuMode and one that stays empty, then a
 * fetch TLB for user and one for supervisor mode. Direct-mapped by page number.
 */
export const DTLB_ENTRIES = 1024;
export const FTLB_ENTRIES = 1024;
/**
 * Data TLB entry, a half for reading and one for writing: a page's linear address, TLB_INVALID for none, and what to add. The
 * halves may be of two pages: a copy between buffers whose pages share entries would miss at each access otherwise.
 */
export const Dtlb = {
  size: 32,
  read: { tag: 0, addend: 16, flags: 24 },
  write: { tag: 8, addend: 20, flags: 28 },
} as const;
export type DtlbHalf = (typeof Dtlb)["read" | "write"];
/** Fetch TLB entry: the page's linear address and the linear-memory address of its code page. */
export const Ftlb = { size: 16, tag: 0, codePage: 8, flags: 12 } as const;
export const DTLB_BYTES = DTLB_ENTRIES * Dtlb.size;
export const FTLB_BYTES = FTLB_ENTRIES * Ftlb.size;
export const DTLB_SETS = 4;
/** The set that is never filled: every access takes the slow path, which checks alignment and watchpoints. */
export const DTLB_EMPTY_SET = 3;
/** Flags of TLB entries: kept by a CR3 load; part of a page of 2 MiB or more. */
export const TlbFlag = { GLOBAL: 1, LARGE: 2 } as const;
/** Flags that a page walk leaves in walkFlags: TlbFlag, and that the page may be written without another walk. */
export const WALK_WRITABLE = 4;
export const TLB_FLAG_MASK = TlbFlag.GLOBAL | TlbFlag.LARGE;
export const TLB_OFFSET = Math.ceil(VCPU_STATE.size / 64) * 64;
export const FTLB_OFFSET = TLB_OFFSET + DTLB_SETS * DTLB_BYTES;
/** Records for single instructions: stepping, page crossings. */
export const SCRATCH_RECORDS_OFFSET = FTLB_OFFSET + 2 * FTLB_BYTES;
export const SCRATCH_RECORDS = 64;
export const HOT_COUNTERS_OFFSET = SCRATCH_RECORDS_OFFSET + SCRATCH_RECORDS * 32;
export const HOT_COUNTERS = 8192;
/** A threshold that no counter reaches: the hot tier is off. */
export const NEVER_HOT = 0x10000;
/**
 * Code pages by guest-physical page, for refills of the fetch TLB: direct-mapped by page number. An entry's key is
 * (page << 2 | CodeMode) + 1, 0 where it is empty.
 */
export const CODE_MAP_OFFSET = HOT_COUNTERS_OFFSET + HOT_COUNTERS * 2;
export const CODE_MAP_ENTRIES = 4096;
export const CodeMapEntry = { size: 8, key: 0, codePage: 4 } as const;
/** Addresses of TLB entries that were filled with pages that a load of CR3 drops. */
export const TLB_LOG_OFFSET = CODE_MAP_OFFSET + CODE_MAP_ENTRIES * CodeMapEntry.size;
export const TLB_LOG_ENTRIES = 512;
/**
 * Paging-structure cache of four-level paging (SDM vol. 3A, 4.10.3): the page table of 2 MiB of linear addresses. `tag`: their
 * number, `table`: linear-memory address, `rights`: U/S, R/W and XD of the entries on the way there, as three bits.
 */
export const STRUCTURE_CACHE_ENTRIES = 64;
export const StructureCache = { size: 16, tag: 0, table: 8, rights: 12 } as const;
export const STRUCTURE_CACHE_OFFSET = TLB_LOG_OFFSET + TLB_LOG_ENTRIES * 4;

export const VCPU_BYTES = STRUCTURE_CACHE_OFFSET + STRUCTURE_CACHE_ENTRIES * StructureCache.size;

/** A map from guest-physical page number to the linear address of the page, with PhysFlag in the low bits; 0: not RAM. */
export const PHYS_PAGES = 2 << 20;
export const PhysFlag = { RAM: 1, READONLY: 2, LOG_DIRTY: 8, DIRTY: 16 } as const;
/**
 * Behind that map, a word a page says which vCPUs (by bit) have decoded code of it, and which may have a TLB entry for writing
 * (smp/page-sharing.ts has the rules).
 */
export const PAGE_SHARING_OFFSET = PHYS_PAGES * 4;
export const PHYS_MAP_BYTES = PAGE_SHARING_OFFSET + PHYS_PAGES * 4;
export const PageSharing = { OWNERS: 0xffff, WRITER_SHIFT: 16 } as const;
/** vCPUs that the words have bits for. */
export const MAX_VCPUS = 16;

/** What decoding has found in a page in one CodeMode; a u32 record address for every byte offset starts at `index`. */
export const CodePage = { index: 64, size: 64 + 4096 * 4 } as const;

/** Access kinds, with the bits of a page fault's error code where they have one (SDM vol. 3A, 4.7). */
export const AccessKind = {
  READ: 0,
  WRITE: 1 << 1,
  USER: 1 << 2,
  FETCH: 1 << 4,
  /** By the processor itself (descriptor tables, TSS): supervisor whatever CPL is, SMAP whatever AC is. */
  IMPLICIT: 1 << 8,
  /** By nobody: only where a page is, whatever rights say, and nothing is marked. */
  PEEK: 1 << 10,
  /** Through SS: a non-canonical address is #SS and not #GP. */
  STACK: 1 << 9,
} as const;

/** EFLAGS bits (SDM vol. 1, 3.4.3). */
export const Eflags = {
  CF: 1 << 0,
  FIXED: 1 << 1,
  PF: 1 << 2,
  AF: 1 << 4,
  ZF: 1 << 6,
  SF: 1 << 7,
  TF: 1 << 8,
  IF: 1 << 9,
  DF: 1 << 10,
  OF: 1 << 11,
  IOPL: 3 << 12,
  NT: 1 << 14,
  RF: 1 << 16,
  VM: 1 << 17,
  AC: 1 << 18,
  VIF: 1 << 19,
  VIP: 1 << 20,
  ID: 1 << 21,
} as const;

/** Exception vectors (SDM vol. 3A, table 6-1). */
export const Vector = {
  DE: 0,
  DB: 1,
  NMI: 2,
  BP: 3,
  OF: 4,
  BR: 5,
  UD: 6,
  NM: 7,
  DF: 8,
  TS: 10,
  NP: 11,
  SS: 12,
  GP: 13,
  PF: 14,
  MF: 16,
  AC: 17,
  MC: 18,
  XM: 19,
} as const;

export const FAULT_NO_ERROR_CODE = 0xffffffff;

export const FpuTrap = { NONE: 0, UD: 1, NM: 2 } as const;

export const Cr0 = {
  PE: 1 << 0,
  MP: 1 << 1,
  EM: 1 << 2,
  TS: 1 << 3,
  ET: 1 << 4,
  NE: 1 << 5,
  WP: 1 << 16,
  AM: 1 << 18,
  NW: 1 << 29,
  CD: 1 << 30,
  PG: 0x80000000,
} as const;

export const Cr4 = {
  VME: 1 << 0,
  PVI: 1 << 1,
  TSD: 1 << 2,
  DE: 1 << 3,
  PSE: 1 << 4,
  PAE: 1 << 5,
  MCE: 1 << 6,
  PGE: 1 << 7,
  PCE: 1 << 8,
  OSFXSR: 1 << 9,
  OSXMMEXCPT: 1 << 10,
  UMIP: 1 << 11,
  FSGSBASE: 1 << 16,
  PCIDE: 1 << 17,
  OSXSAVE: 1 << 18,
  SMEP: 1 << 20,
  SMAP: 1 << 21,
} as const;

export const Efer = { SCE: 1 << 0, LME: 1 << 8, LMA: 1 << 10, NXE: 1 << 11 } as const;

/** Bits of segAccess: type (4), S, DPL (2), P, then AVL, L, D/B, G as in the descriptor. */
export const Access = {
  TYPE: 0xf,
  ACCESSED: 1,
  WRITABLE: 2,
  READABLE: 2,
  EXPAND_DOWN: 4,
  CONFORMING: 4,
  CODE: 8,
  S: 1 << 4,
  DPL_SHIFT: 5,
  DPL: 3 << 5,
  P: 1 << 7,
  AVL: 1 << 12,
  L: 1 << 13,
  DB: 1 << 14,
  G: 1 << 15,
  /** Not in a descriptor: a null selector was loaded. */
  UNUSABLE: 1 << 16,
} as const;

/** A decoded instruction in linear memory, `RECORD_SIZE` bytes; the next instruction's record follows it. */
export const RECORD_SIZE = 32;
export const Rec = {
  /** u32: index of the handler in the table. */
  handler: 0,
  /** i32: displacement of the memory operand. Relative branches: how often it has to be taken until its target is hot. */
  disp: 4,
  /** u16: for each operand that is a register, the offset of its value in the vCPU's state (or a register number). */
  r0: 8,
  r1: 10,
  r2: 12,
  /** u32: relative branches, which have no register operands: how often one was not taken. */
  notTaken: 8,
  /** u16: offset of the memory operand's base register in the state. */
  base: 14,
  /** i64: immediate operand; branches: target relative to pageRip; indirect ones: RIP of the last target. */
  imm: 16,
  /** u16: offset of the instruction's first byte in its page. */
  pageOffset: 24,
  /** u8: length in bytes. */
  length: 26,
  /** u8: for `system` operations, free use by the definition. */
  extra: 27,
  /** u32: record of the branch target in the same page, once known. Indirect branches: wrong guesses of regions. */
  link: 28,
} as const;
