/**
 * Runs cases on a vCPU of either provider through the seam, in user mode under page tables that put code and data at the
 * addresses they have natively.
 *
 * Every IDT gate leads to an OUT to the port of its vector's number, so each case ends in an I/O exit with the interrupted
 * state on the kernel stack; the next case goes back to user mode through IRETQ.
 */

import {
  ExitReason,
  type Fpu,
  MpState,
  type Regs,
  type Segment,
  type Sregs,
  type Vcpu,
} from "../../src/hypervisor/seam.js";
import { type GuestMemory, gpa } from "../../src/memory/guest-memory.js";
import {
  BREAKPOINT,
  CODE_BASE,
  CODE_SIZE,
  type CpuCase,
  codeSelector,
  DATA_BASE,
  DATA_SIZE,
  DATA_WRITABLE,
  dataTemplate,
  entryRip,
  type Facilities,
  FX_SIZE,
  Fx,
  GS_BASE,
  INT3,
  initialFx,
  LOW_BASE,
  LOW_SIZE,
  lowTemplate,
  type OracleCpu,
  type Outcome,
  PAGE,
  Selector,
} from "./cpu-case.js";
import { hasErrorCode } from "./native-cpu.js";

/** Guest-physical layout, all in the first 2 MiB, which the supervisor has at KERNEL. */
const PML4 = 0x1000;
const PDPT = 0x2000;
const PD_LOW = 0x3000;
const PD_USER = 0x4000;
const PT_USER = 0x5000;
const GDT = 0x6000;
const IDT = 0x7000;
const TSS = 0x8000;
const STUBS = 0x9000;
const STUB_SIZE = 4;
const ENTRY_STUB = 0xa000;
const STACK_TOP = 0xc000;
const CODE_PAGES = 0x10000;
const DATA_PAGES = 0x20000;
const LOW_PAGES = 0x30000;
/** RAM that the VM has, from address 0 on. */
export const RAM_SIZE = 0x200000;
const PT_LOW = 0x40000;
const WARM_UP_PAGE = 0x50000;
const LDT = 0x51000;
/** Linear address of code that fills the TLB: apart from what cases use. */
const WARM_UP = 0x60080000;
const KERNEL = 0x40000000;
/** Page-table entry bits (SDM vol. 3A, table 4-20). */
const PTE = { P: 1n, W: 2n, U: 4n, PS: 1n << 7n, NX: 1n << 63n } as const;
const GATE_PRESENT_INTERRUPT = 0x8e00;
const GATE_DPL3 = 0x6000;
const KERNEL_CODE = 0x10;
const KERNEL_DATA = 0x18;
const TSS_SELECTOR = 0x40;
const LDT_SELECTOR = 0x50;
/** A 16-bit code segment: readable, accessed, DPL 3, limit in bytes. */
const CODE16_DESCRIPTOR = 0x0000fb0000000000n;
const GDT_LIMIT = 0x7f;
const IDT_VECTORS = 256;
const TSS_LIMIT = 0x67;
const TSS_IO_MAP = 0x66;
const PF = 14;

/** Descriptors at the places where Linux has them (arch/x86/include/asm/segment.h), so that selectors mean the same. */
const DESCRIPTORS: readonly (readonly [number, bigint])[] = [
  [0x08, 0x00cf9b000000ffffn],
  [0x10, 0x00af9b000000ffffn],
  [0x18, 0x00cf93000000ffffn],
  [0x20, 0x00cffb000000ffffn],
  [0x28, 0x00cff3000000ffffn],
  [0x30, 0x00affb000000ffffn],
];

/** A base below 4 GiB in its places in a descriptor. */
const descriptorBase = (base: number) => (BigInt(base & 0xffffff) << 16n) | (BigInt(base >>> 24) << 56n);

/** PE, MP, ET, NE, WP, AM, PG, as Linux sets them. */
const CR0 = 0x80050033n;
/** PAE, OSFXSR, OSXMMEXCPT. */
const CR4 = 0x620n;
/** SCE, LME, LMA, NXE. */
const EFER = 0xd01n;

const REGISTERS = [
  "rax",
  "rcx",
  "rdx",
  "rbx",
  "rsp",
  "rbp",
  "rsi",
  "rdi",
  "r8",
  "r9",
  "r10",
  "r11",
  "r12",
  "r13",
  "r14",
  "r15",
] as const satisfies readonly (keyof Regs)[];

function segment(selector: number, type: number, dpl: number, l: number): Segment {
  const limit = 0xffffffff;
  return { base: 0n, limit, selector, type, present: 1, dpl, db: 1 - l, s: 1, l, g: 1, avl: 0, unusable: 0 };
}

const dataSegment = () => segment(Selector.DATA, 3, 3, 0);

/** What cases run on: a VM whose memory and registers are theirs alone. */
export interface SeamMachine {
  readonly name: string;
  readonly vcpu: Vcpu;
  readonly memory: GuestMemory;
}

export class SeamCpu implements OracleCpu {
  readonly vcpu: Vcpu;
  readonly #memory: GuestMemory;
  readonly #regs: Regs;
  readonly #fx = initialFx();
  readonly #outcome: Outcome;

  constructor(
    readonly facilities: Facilities,
    readonly machine: SeamMachine,
  ) {
    this.vcpu = machine.vcpu;
    this.#memory = machine.memory;
    this.#buildTables();
    this.#initialState();
    this.#regs = this.vcpu.getRegs();
    this.#outcome = {
      vector: 0,
      errorCode: 0,
      cr2: 0n,
      rip: 0n,
      rflags: 0,
      gpr: new BigUint64Array(16),
      fx: this.#fx,
      data: this.#memory.bytes(gpa(DATA_PAGES), DATA_SIZE),
      selectors: new Uint16Array([Selector.DATA, 0, 0, Selector.DATA]),
      low: this.#memory.bytes(gpa(LOW_PAGES), LOW_SIZE),
    };
  }

  #buildTables(): void {
    const put = (address: number, value: bigint) => this.#memory.writeU64(gpa(address), value);
    const index = (linear: number, level: number) => (Math.floor(linear / 2 ** (12 + 9 * level)) & 0x1ff) * 8;
    const link = PTE.P | PTE.W | PTE.U;
    put(PML4, BigInt(PDPT) | link);
    put(PDPT, BigInt(PD_LOW) | link);
    put(PDPT + index(CODE_BASE, 2), BigInt(PD_USER) | link);
    put(PD_USER + index(KERNEL, 1), PTE.P | PTE.W | PTE.PS);
    put(PD_LOW, BigInt(PT_LOW) | link);
    put(PD_USER + index(CODE_BASE, 1), BigInt(PT_USER) | link);
    const map = (linear: number, physical: number, size: number, bits: bigint, table = PT_USER) => {
      for (let at = 0; at < size; at += PAGE) {
        put(table + index(linear + at, 0), BigInt(physical + at) | PTE.P | PTE.U | bits);
      }
    };
    map(CODE_BASE, CODE_PAGES, CODE_SIZE, PTE.W);
    map(DATA_BASE, DATA_PAGES, DATA_WRITABLE, PTE.W | PTE.NX);
    map(DATA_BASE + DATA_WRITABLE, DATA_PAGES + DATA_WRITABLE, DATA_SIZE - DATA_WRITABLE, PTE.NX);
    if (this.facilities.lowMemory) map(LOW_BASE, LOW_PAGES, LOW_SIZE, PTE.W | PTE.NX, PT_LOW);
    this.#memory.fill(gpa(CODE_PAGES), CODE_SIZE, INT3);
    for (const [selector, descriptor] of DESCRIPTORS) put(GDT + selector, descriptor);
    if (this.facilities.code16)
      put(LDT, CODE16_DESCRIPTOR | descriptorBase(CODE_BASE) | BigInt(CODE_SIZE - 1));
    put(GDT + TSS_SELECTOR, 0x00008b0000000000n | descriptorBase(KERNEL + TSS) | BigInt(TSS_LIMIT));
    put(TSS + 4, BigInt(KERNEL + STACK_TOP));
    // No I/O permission bitmap.
    this.#memory.writeU16(gpa(TSS + TSS_IO_MAP), TSS_LIMIT + 1);
    for (let vector = 0; vector < IDT_VECTORS; vector++) {
      const stub = STUBS + STUB_SIZE * vector;
      const user = vector === 3 || vector === 4 ? GATE_DPL3 : 0;
      const type = BigInt(GATE_PRESENT_INTERRUPT | user);
      const target = KERNEL + stub;
      const offset = BigInt(target & 0xffff) | (BigInt(target >>> 16) << 48n);
      put(IDT + 16 * vector, offset | (BigInt(KERNEL_CODE) << 16n) | (type << 32n));
      // out vector, al; jmp itself, so that decoding ends there
      this.#memory.write(gpa(stub), Uint8Array.of(0xe6, vector, 0xeb, 0xfe));
    }
    map(WARM_UP, WARM_UP_PAGE, PAGE, 0n);
    this.#memory.write(gpa(WARM_UP_PAGE), this.#warmUpCode());
    // iretq
    this.#memory.write(gpa(ENTRY_STUB), Uint8Array.of(0x48, 0xcf));
    this.#memory.write(gpa(DATA_PAGES), dataTemplate);
  }

  /** Reads and, where that is allowed, writes each page that cases may touch. */
  #warmUpCode(): Uint8Array {
    const pages: number[] = [];
    for (let at = 0; at < DATA_SIZE; at += PAGE) pages.push(DATA_BASE + at);
    if (this.facilities.lowMemory) for (let at = 0; at < LOW_SIZE; at += PAGE) pages.push(LOW_BASE + at);
    const code = pages.flatMap((page) => {
      const address = [0, 8, 16, 24].map((shift) => (page >>> shift) & 0xff);
      const writable = page < DATA_BASE + DATA_WRITABLE;
      // mov al, [page]; or byte [page], 0
      const write = writable ? [0x80, 0x0c, 0x25, ...address, 0] : [];
      return [0x8a, 0x04, 0x25, ...address, ...write];
    });
    return Uint8Array.from([...code, INT3]);
  }

  #initialState(): void {
    const data = dataSegment();
    const absent: Segment = { ...segment(0, 0, 0, 0), present: 0, unusable: 1 };
    const sregs = this.vcpu.getSregs();
    const first: Sregs = {
      ...sregs,
      cs: segment(KERNEL_CODE, 11, 0, 1),
      ss: segment(KERNEL_DATA, 3, 0, 0),
      ds: data,
      es: data,
      fs: absent,
      gs: { ...absent, base: GS_BASE },
      tr: {
        ...segment(TSS_SELECTOR, 11, 0, 0),
        s: 0,
        g: 0,
        db: 0,
        base: BigInt(KERNEL + TSS),
        limit: TSS_LIMIT,
      },
      ldt: this.facilities.code16
        ? { ...segment(LDT_SELECTOR, 2, 0, 0), s: 0, g: 0, db: 0, base: BigInt(KERNEL + LDT), limit: 7 }
        : absent,
      gdt: { base: BigInt(KERNEL + GDT), limit: GDT_LIMIT },
      idt: { base: BigInt(KERNEL + IDT), limit: 16 * IDT_VECTORS - 1 },
      cr0: CR0,
      cr3: BigInt(PML4),
      cr4: CR4,
      efer: EFER,
    };
    this.vcpu.setSregs(first);
    this.vcpu.setMpState(MpState.RUNNABLE);
  }

  /** Tell of DS and ES, and set them back. */
  #takeSegments(): void {
    const sregs = this.vcpu.getSregs();
    this.#outcome.selectors[0] = sregs.es.selector;
    this.#outcome.selectors[3] = sregs.ds.selector;
    const data = dataSegment();
    this.vcpu.setSregs({ ...sregs, ds: data, es: data });
  }

  begin(): void {}
  end(): void {}

  /** Go to user mode and run until an exception. */
  #enter(rip: number, cs: number, rflags: number, gpr: BigUint64Array, title: string): void {
    const frame = STACK_TOP - 40;
    const words = [BigInt(rip), BigInt(cs), BigInt(rflags), gpr[4], BigInt(Selector.DATA)];
    words.forEach((value, i) => {
      this.#memory.writeU64(gpa(frame + 8 * i), value);
    });
    const regs = this.#regs;
    REGISTERS.forEach((name, i) => {
      regs[name] = gpr[i];
    });
    regs.rsp = BigInt(KERNEL + frame);
    regs.rip = BigInt(KERNEL + ENTRY_STUB);
    regs.rflags = 2n;
    this.vcpu.setRegs(regs);
    const reason = this.vcpu.run();
    if (reason !== ExitReason.IO || !this.vcpu.exit.isWrite || this.vcpu.exit.port >= IDT_VECTORS) {
      throw new Error(`${this.machine.name} left with exit reason ${reason} in ${title}`);
    }
  }

  run(test: CpuCase): Outcome {
    const at = test.entry - CODE_BASE;
    this.#memory.write(gpa(CODE_PAGES + at), test.code);
    this.#memory.write(gpa(DATA_PAGES), dataTemplate);
    if (test.usesLow) this.#memory.write(gpa(LOW_PAGES), lowTemplate);
    for (const { address, bytes } of test.patches) {
      const at = address >= DATA_BASE ? DATA_PAGES + address - DATA_BASE : LOW_PAGES + address - LOW_BASE;
      this.#memory.write(gpa(at), bytes);
    }
    if (test.fx !== undefined) this.vcpu.setFpu(fpuFromFx(test.fx));
    // Writing code empties the TLB. Half of the cases find it filled, so that both ways to memory are tested.
    if ((test.entry & 1) !== 0) this.#enter(WARM_UP, Selector.CODE64, 2, test.gpr, "the warm-up");
    this.#enter(entryRip(test), codeSelector[test.bitness], test.rflags, test.gpr, test.title);

    const outcome = this.#outcome;
    const after = this.vcpu.getRegs();
    outcome.vector = this.vcpu.exit.port;
    const error = hasErrorCode(outcome.vector);
    const rsp = Number(after.rsp) - KERNEL;
    const saved = (i: number) => this.#memory.readU64(gpa(rsp + 8 * (i + (error ? 1 : 0))));
    outcome.errorCode = error ? Number(this.#memory.readU64(gpa(rsp))) : 0;
    outcome.cr2 = outcome.vector === PF ? this.vcpu.getSregs().cr2 : 0n;
    outcome.rip = saved(0) - (outcome.vector === BREAKPOINT ? 1n : 0n);
    outcome.rflags = Number(saved(2));
    REGISTERS.forEach((name, i) => {
      outcome.gpr[i] = after[name];
    });
    outcome.gpr[4] = saved(3);
    outcome.selectors[1] = Number(saved(1) & 0xffffn);
    outcome.selectors[2] = Number(saved(4) & 0xffffn);
    outcome.selectors[0] = Selector.DATA;
    outcome.selectors[3] = Selector.DATA;
    if (test.segments) this.#takeSegments();
    if (test.bitness !== 64) for (let i = 0; i < 16; i++) outcome.gpr[i] &= 0xffffffffn;
    if (test.fx !== undefined) fxFromFpu(this.vcpu.getFpu(), this.#fx);
    this.#memory.fill(gpa(CODE_PAGES + at), test.code.length, INT3);
    return outcome;
  }
}

/** What the seam's `Fpu` holds, from an FXSAVE image and back. */
function fpuFromFx(fx: Uint8Array): Fpu {
  const view = new DataView(fx.buffer, fx.byteOffset, FX_SIZE);
  return {
    fpr: fx.slice(Fx.ST, Fx.XMM),
    fcw: view.getUint16(Fx.FCW, true),
    fsw: view.getUint16(Fx.FSW, true),
    ftwx: fx[Fx.FTW],
    lastOpcode: 0,
    lastIp: 0n,
    lastDp: 0n,
    xmm: fx.slice(Fx.XMM, Fx.END),
    mxcsr: view.getUint32(Fx.MXCSR, true),
  };
}

function fxFromFpu(fpu: Fpu, fx: Uint8Array): void {
  const view = new DataView(fx.buffer, fx.byteOffset, FX_SIZE);
  view.setUint16(Fx.FCW, fpu.fcw, true);
  view.setUint16(Fx.FSW, fpu.fsw, true);
  fx[Fx.FTW] = fpu.ftwx;
  fx.set(fpu.fpr, Fx.ST);
  fx.set(fpu.xmm, Fx.XMM);
  view.setUint32(Fx.MXCSR, fpu.mxcsr, true);
}
