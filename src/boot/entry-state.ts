/**
 * Register states in which kernels are entered: flat 32-bit protected mode without paging, and 64-bit mode with the
 * first 4 GiB mapped to themselves.
 *
 * Documents: Linux, Documentation/arch/x86/boot.rst, "32-bit Boot Protocol" and "64-bit Boot Protocol"; SDM vol. 3A,
 * 3.4.5 (segment descriptors), 4.5 (4-level paging), 9.8.5 (what IA-32e mode needs).
 */
import type { Regs, Segment, Sregs } from "../hypervisor/seam.js";
import { type GuestMemory, gpa } from "../memory/guest-memory.js";
import { BootError } from "./boot-error.js";
import type { Placement } from "./placement.js";

/** Selectors that Linux's boot protocol prescribes, and one for the TSS that PVH asks for. */
const BOOT_CS = 0x10;
const BOOT_DS = 0x18;
const BOOT_TSS = 0x20;

/** Segment types (SDM vol. 3A, tables 3-1 and 3-2). */
const TYPE_CODE_EXECUTE_READ_ACCESSED = 0xb;
const TYPE_DATA_READ_WRITE_ACCESSED = 0x3;
const TYPE_TSS_BUSY = 0xb;
const TYPE_LDT = 0x2;

const CR0_PE = 1n << 0n;
const CR0_ET = 1n << 4n;
const CR0_PG = 1n << 31n;
const CR4_PAE = 1n << 5n;
const EFER_LME = 1n << 8n;
const EFER_LMA = 1n << 10n;
/** Bit 1 of RFLAGS is always set. */
const RFLAGS_RESET = 0x2n;
/** Default base, global enable, bootstrap processor (SDM vol. 3A, 11.4.4). */
const APIC_BASE_RESET = 0xfee00900n;

const PAGE_SIZE = 4096;
const TABLE_ENTRIES = 512;
const LARGE_PAGE = 2 ** 21;
const MAPPED_GIB = 4;
const PTE_PRESENT_WRITABLE = 0x3n;
const PTE_LARGE = 1n << 7n;

/** Registers that a boot protocol fills; the others start at zero. */
export type EntryRegs = Partial<Regs> & Pick<Regs, "rip">;

export interface EntryState {
  regs: Regs;
  sregs: Sregs;
}

/** 32-bit protected mode, paging off, flat segments, interrupts off. */
export function protectedModeEntry(memory: GuestMemory, placement: Placement, regs: EntryRegs): EntryState {
  const sregs = flatSregs(memory, placement, codeSegment({ l: 0, db: 1 }));
  return { regs: fillRegs(regs), sregs };
}

/** 64-bit mode, flat segments, interrupts off, the first 4 GiB mapped to themselves with 2 MiB pages. */
export function longModeEntry(memory: GuestMemory, placement: Placement, regs: EntryRegs): EntryState {
  const sregs = flatSregs(memory, placement, codeSegment({ l: 1, db: 0 }));
  sregs.cr3 = BigInt(writeIdentityMap(memory, placement));
  sregs.cr4 = CR4_PAE;
  sregs.cr0 |= CR0_PG;
  sregs.efer = EFER_LME | EFER_LMA;
  return { regs: fillRegs(regs), sregs };
}

function fillRegs(given: EntryRegs): Regs {
  const zero = 0n;
  return {
    rax: zero,
    rbx: zero,
    rcx: zero,
    rdx: zero,
    rsi: zero,
    rdi: zero,
    rsp: zero,
    rbp: zero,
    r8: zero,
    r9: zero,
    r10: zero,
    r11: zero,
    r12: zero,
    r13: zero,
    r14: zero,
    r15: zero,
    rflags: RFLAGS_RESET,
    ...given,
  };
}

function codeSegment(mode: { l: number; db: number }): Segment {
  return { ...flatSegment(BOOT_CS, TYPE_CODE_EXECUTE_READ_ACCESSED), ...mode };
}

function flatSegment(selector: number, type: number): Segment {
  return {
    base: 0n,
    limit: 0xffffffff,
    selector,
    type,
    present: 1,
    dpl: 0,
    db: 1,
    s: 1,
    l: 0,
    g: 1,
    avl: 0,
    unusable: 0,
  };
}

function flatSregs(memory: GuestMemory, placement: Placement, cs: Segment): Sregs {
  const data = flatSegment(BOOT_DS, TYPE_DATA_READ_WRITE_ACCESSED);
  // PVH wants a TSS of the least size (104 bytes); nothing switches tasks or stacks through it.
  const tr = { ...flatSegment(BOOT_TSS, TYPE_TSS_BUSY), limit: 0x67, s: 0, g: 0, db: 0 };
  const ldt = { ...flatSegment(0, TYPE_LDT), limit: 0xffff, s: 0, g: 0, db: 0, present: 0, unusable: 1 };
  const table = [0n, 0n, descriptor(cs), descriptor(data), descriptor(tr), 0n];
  const base = allocate(placement, table.length * 8, 8);
  table.forEach((entry, index) => {
    memory.writeU64(gpa(base + index * 8), entry);
  });
  return {
    cs,
    ds: data,
    es: data,
    fs: data,
    gs: data,
    ss: data,
    tr,
    ldt,
    gdt: { base: BigInt(base), limit: table.length * 8 - 1 },
    idt: { base: 0n, limit: 0 },
    cr0: CR0_PE | CR0_ET,
    cr2: 0n,
    cr3: 0n,
    cr4: 0n,
    cr8: 0n,
    efer: 0n,
    apicBase: APIC_BASE_RESET,
  };
}

/** A segment as its eight-byte descriptor (SDM vol. 3A, figure 3-8). */
function descriptor(segment: Segment): bigint {
  const limit = BigInt(segment.g ? segment.limit >>> 12 : segment.limit);
  const access = segment.type | (segment.s << 4) | (segment.dpl << 5) | (segment.present << 7);
  const flags = segment.avl | (segment.l << 1) | (segment.db << 2) | (segment.g << 3);
  return (
    (limit & 0xffffn) |
    ((segment.base & 0xffffffn) << 16n) |
    (BigInt(access) << 40n) |
    ((limit >> 16n) << 48n) |
    (BigInt(flags) << 52n) |
    ((segment.base >> 24n) << 56n)
  );
}

/** Writes page tables that map the first 4 GiB to themselves and returns the address of the top one. */
function writeIdentityMap(memory: GuestMemory, placement: Placement): number {
  const tables = allocate(placement, PAGE_SIZE * (2 + MAPPED_GIB), PAGE_SIZE);
  memory.fill(gpa(tables), PAGE_SIZE * (2 + MAPPED_GIB));
  const pointers = tables + PAGE_SIZE;
  memory.writeU64(gpa(tables), BigInt(pointers) | PTE_PRESENT_WRITABLE);
  for (let gib = 0; gib < MAPPED_GIB; gib++) {
    const directory = pointers + PAGE_SIZE * (1 + gib);
    memory.writeU64(gpa(pointers + gib * 8), BigInt(directory) | PTE_PRESENT_WRITABLE);
    for (let entry = 0; entry < TABLE_ENTRIES; entry++) {
      const page = BigInt((gib * TABLE_ENTRIES + entry) * LARGE_PAGE);
      memory.writeU64(gpa(directory + entry * 8), page | PTE_LARGE | PTE_PRESENT_WRITABLE);
    }
  }
  return tables;
}

/** Room for `size` bytes that the loader passes to the kernel, as low as there is any. */
export function allocate(placement: Placement, size: number, align: number): number {
  const address = placement.takeLow(size, align);
  if (address === undefined) throw new BootError("the kernel leaves no memory for the boot loader's tables");
  return address;
}
