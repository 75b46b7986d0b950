/**
 * What every guest finds in memory: descriptor tables, a TSS, page tables that map memory onto itself, and for each
 * vector a handler that tells the test machine. Layouts: SDM vol. 3A, 3.4.5, 6.10–6.14, 8.2, 8.7; chapter 4 for paging.
 */
import { type GuestMemory, gpa } from "../../../src/memory/guest-memory.js";
import { FAULT_PORT } from "./asm.js";

/** Guest-physical addresses. */
export const At = {
  GDT: 0x1000,
  IDT: 0x2000,
  TSS: 0x4000,
  LDT: 0x7000,
  /** Handlers, `HANDLER_BYTES` each. */
  HANDLERS: 0x8000,
  STACK_TOP: 0xa000,
  USER_STACK_TOP: 0xb000,
  /** Stack of IST 1. */
  IST_TOP: 0xc000,
  CODE: 0x10000,
  DATA: 0x20000,
  /** Paging structures in the order PML4 or the 32-bit page directory, PDPT, PD, PT of the first 2 MiB. */
  PML4: 0x100000,
  PDPT: 0x101000,
  PD: 0x102000,
  PT: 0x103000,
  PD32: 0x104000,
  PT32: 0x105000,
  PDPT_PAE: 0x106000,
  /** For tests: more paging structures. */
  TABLES: 0x110000,
  /** Not RAM. */
  MMIO: 0x2000_0000,
} as const;

export const HANDLER_BYTES = 16;
/** RAM that is cleared before each guest; there is more, up to `RAM_BYTES`. */
export const CLEARED_BYTES = 2 << 20;
export const RAM_BYTES = 16 << 20;

/** Selectors of the descriptors that are always there. */
export const Sel = {
  CODE64: 0x08,
  DATA: 0x10,
  CODE32: 0x18,
  /** 16-bit code, based at At.CODE. */
  CODE16: 0x20,
  /** 16-bit data from 0 on, 64 KiB. */
  DATA16: 0x28,
  USER_CODE32: 0x33,
  USER_DATA: 0x3b,
  USER_CODE64: 0x43,
  TSS: 0x50,
  LDT: 0x60,
  /** Free for tests, from here to 0x7f8. */
  FREE: 0x70,
} as const;

/** Descriptor types (SDM vol. 3A, tables 3-1 and 3-2). */
export const Type = {
  DATA: 0x10,
  DATA_WRITABLE: 0x12,
  DATA_DOWN: 0x16,
  CODE: 0x18,
  CODE_READABLE: 0x1a,
  CODE_CONFORMING: 0x1e,
  TSS16: 1,
  LDT: 2,
  TSS16_BUSY: 3,
  CALL_GATE16: 4,
  TASK_GATE: 5,
  INTERRUPT_GATE16: 6,
  TRAP_GATE16: 7,
  TSS: 9,
  TSS_BUSY: 11,
  CALL_GATE: 12,
  INTERRUPT_GATE: 14,
  TRAP_GATE: 15,
} as const;

export interface DescriptorFields {
  base?: number;
  limit?: number;
  /** S and type: a value of `Type`. */
  type: number;
  dpl?: number;
  present?: boolean;
  db?: boolean;
  long?: boolean;
  granularity?: boolean;
}

/** A segment descriptor (SDM vol. 3A, figure 3-8). A limit above 20 bits is given in pages. */
export function descriptor(fields: DescriptorFields): bigint {
  const { base = 0, type, dpl = 0, present = true, db = false, long = false } = fields;
  let { limit = 0xffff_ffff, granularity = false } = fields;
  if (limit > 0xfffff) {
    limit >>>= 12;
    granularity = true;
  }
  const flags = (granularity ? 8 : 0) | (db ? 4 : 0) | (long ? 2 : 0);
  const high =
    (base & 0xff000000) |
    (flags << 20) |
    (limit & 0xf0000) |
    ((present ? 1 : 0) << 15) |
    (dpl << 13) |
    (type << 8) |
    ((base >>> 16) & 0xff);
  const low = ((base & 0xffff) << 16) | (limit & 0xffff);
  return (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
}

export interface GateFields {
  selector: number;
  offset: number | bigint;
  type: number;
  dpl?: number;
  present?: boolean;
  ist?: number;
  /** Call gates: parameters to copy. */
  count?: number;
}

/** A gate's first 8 bytes, and the 8 that follow in IA-32e mode (SDM vol. 3A, figures 5-8, 6-2 and 6-8). */
export function gate(fields: GateFields): [bigint, bigint] {
  const { selector, type, dpl = 0, present = true, ist = 0, count = 0 } = fields;
  const offset = BigInt.asUintN(64, BigInt(fields.offset));
  const low = (offset & 0xffffn) | (BigInt(selector) << 16n);
  const high =
    (offset & 0xffff_0000n) | BigInt(((present ? 1 : 0) << 15) | (dpl << 13) | (type << 8) | ist | count);
  return [low | (high << 32n), offset >> 32n];
}

/** How the guest's processor starts. */
export type Mode = "real" | "protected16" | "protected32" | "paged32" | "pae" | "compat" | "long" | "v86";

/** Bits of paging-structure entries (SDM vol. 3A, 4.5). */
export const Pte = { P: 1n, W: 2n, U: 4n, A: 0x20n, D: 0x40n, PS: 0x80n, G: 0x100n, NX: 1n << 63n } as const;
const ALL = Pte.P | Pte.W | Pte.U;

/** Vectors that push an error code (SDM vol. 3A, table 6-1). */
export const WITH_ERROR_CODE: ReadonlySet<number> = new Set([8, 10, 11, 12, 13, 14, 17, 21]);

export const isLong = (mode: Mode) => mode === "long" || mode === "compat";

/** Guest memory as tests fill it. */
export class Environment {
  constructor(
    readonly memory: GuestMemory,
    readonly mode: Mode,
  ) {}

  u64(address: number, value: bigint): void {
    this.memory.writeU64(gpa(address), BigInt.asUintN(64, value));
  }
  u32(address: number, value: number): void {
    this.memory.writeU32(gpa(address), value >>> 0);
  }
  u16(address: number, value: number): void {
    this.memory.writeU16(gpa(address), value & 0xffff);
  }
  u8(address: number, value: number): void {
    this.memory.writeU8(gpa(address), value & 0xff);
  }
  write(address: number, bytes: Uint8Array | readonly number[]): void {
    this.memory.write(gpa(address), Uint8Array.from(bytes));
  }
  read64(address: number): bigint {
    return this.memory.readU64(gpa(address));
  }
  read32(address: number): number {
    return this.memory.readU32(gpa(address));
  }

  /** Put a descriptor into the GDT, or into the LDT where the selector says so. */
  descriptor(selector: number, fields: DescriptorFields | bigint): void {
    const table = (selector & 4) !== 0 ? At.LDT : At.GDT;
    const value = typeof fields === "bigint" ? fields : descriptor(fields);
    this.u64(table + (selector & 0xfff8), value);
  }

  /** A gate in the GDT: 16 bytes in IA-32e mode. */
  callGate(selector: number, fields: GateFields): void {
    const [low, high] = gate(fields);
    this.u64(At.GDT + (selector & 0xfff8), low);
    if (isLong(this.mode)) this.u64(At.GDT + (selector & 0xfff8) + 8, high);
  }

  idt(vector: number, fields: GateFields): void {
    const [low, high] = gate(fields);
    if (isLong(this.mode)) {
      this.u64(At.IDT + 16 * vector, low);
      this.u64(At.IDT + 16 * vector + 8, high);
    } else this.u64(At.IDT + 8 * vector, low);
  }

  /** The gate that leads to the vector's handler, with some fields changed. */
  handlerGate(vector: number, changes: Partial<GateFields> = {}): void {
    this.idt(vector, {
      selector: isLong(this.mode) ? Sel.CODE64 : Sel.CODE32,
      offset: At.HANDLERS + HANDLER_BYTES * vector,
      type: Type.INTERRUPT_GATE,
      ...changes,
    });
  }

  /** Map a 4 KiB page of the first 2 MiB (IA-32e and PAE) or 4 MiB (32-bit paging). */
  page(linear: number, entry: bigint): void {
    if (this.mode === "paged32" || this.mode === "v86")
      this.u32(At.PT32 + 4 * (linear >>> 12), Number(entry));
    else this.u64(At.PT + 8 * (linear >>> 12), entry);
  }

  /** Fill memory for `mode`. */
  fill(): void {
    this.memory.fill(gpa(0), CLEARED_BYTES);
    this.#gdt();
    this.#handlers();
    this.#tss();
    this.#pageTables();
  }

  #gdt(): void {
    this.descriptor(Sel.CODE64, { type: Type.CODE_READABLE, long: true });
    this.descriptor(Sel.DATA, { type: Type.DATA_WRITABLE, db: true });
    this.descriptor(Sel.CODE32, { type: Type.CODE_READABLE, db: true });
    this.descriptor(Sel.CODE16, { type: Type.CODE_READABLE, base: At.CODE, limit: 0xffff });
    this.descriptor(Sel.DATA16, { type: Type.DATA_WRITABLE, limit: 0xffff });
    this.descriptor(Sel.USER_CODE32, { type: Type.CODE_READABLE, db: true, dpl: 3 });
    this.descriptor(Sel.USER_DATA, { type: Type.DATA_WRITABLE, db: true, dpl: 3 });
    this.descriptor(Sel.USER_CODE64, { type: Type.CODE_READABLE, long: true, dpl: 3 });
    this.descriptor(Sel.TSS, { type: Type.TSS_BUSY, base: At.TSS, limit: TSS_LIMIT });
    this.descriptor(Sel.LDT, { type: Type.LDT, base: At.LDT, limit: 0xff });
  }

  #handlers(): void {
    for (let vector = 0; vector < 256; vector++) {
      const at = At.HANDLERS + HANDLER_BYTES * vector;
      const code = [0xe6, FAULT_PORT];
      if (this.mode === "real") {
        this.u16(4 * vector, at);
        this.u16(4 * vector + 2, 0);
        // IRET
        code.push(0xcf);
      } else {
        this.handlerGate(vector);
        if (WITH_ERROR_CODE.has(vector)) {
          // ADD (R)SP, 4 or 8
          code.push(...(isLong(this.mode) ? [0x48, 0x83, 0xc4, 0x08] : [0x83, 0xc4, 0x04]));
        }
        // IRETQ, IRETD
        code.push(...(isLong(this.mode) ? [0x48, 0xcf] : [0xcf]));
      }
      this.write(at, code);
    }
  }

  #tss(): void {
    if (isLong(this.mode)) {
      this.u64(At.TSS + 4, BigInt(At.STACK_TOP));
      this.u64(At.TSS + 36, BigInt(At.IST_TOP));
    } else {
      this.u32(At.TSS + 4, At.STACK_TOP);
      this.u32(At.TSS + 8, Sel.DATA);
    }
    // All ports are allowed: the map is zero, and ends in a byte of ones.
    this.u16(At.TSS + 102, IO_MAP);
    this.u8(At.TSS + TSS_LIMIT, 0xff);
  }

  #pageTables(): void {
    const linked = (table: number) => BigInt(table) | ALL;
    this.u64(At.PML4, linked(At.PDPT));
    this.u64(At.PDPT, linked(At.PD));
    this.u64(At.PD, linked(At.PT));
    for (let i = 0; i < 512; i++) this.u64(At.PT + 8 * i, BigInt(i << 12) | ALL);
    for (let i = 1; i < 512; i++) this.u64(At.PD + 8 * i, BigInt(i * (2 << 20)) | ALL | Pte.PS);
    // PAE: four entries without permissions
    this.u64(At.PDPT_PAE, BigInt(At.PD) | Pte.P);
    this.u32(At.PD32, Number(linked(At.PT32)));
    for (let i = 0; i < 1024; i++) this.u32(At.PT32 + 4 * i, (i << 12) | Number(ALL));
    for (let i = 1; i < 1024; i++) this.u32(At.PD32 + 4 * i, Number(BigInt(i * (4 << 20)) | ALL | Pte.PS));
  }
}

/** Offset of the I/O permission bit map in the TSS, and the limit that covers it. */
export const IO_MAP = 0x68;
export const TSS_LIMIT = IO_MAP + 0x2000;
