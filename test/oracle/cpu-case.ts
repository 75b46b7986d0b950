/**
 * One experiment on a processor: machine code, the registers and memory it starts with, and what it ends with. The
 * same case runs on the host's own CPU (native-cpu) and on the software CPU (soft-cpu), both in user mode, at the
 * same linear addresses.
 */

export const PAGE = 0x1000;

/** Code pages: readable, executable, filled with INT3. What surrounds them is not mapped. */
export const CODE_BASE = 0x60000000;
export const CODE_SIZE = 4 * PAGE;
/** Data pages: two that can be written, then one that cannot; none executable. What surrounds them is not mapped. */
export const DATA_BASE = 0x60100000;
export const DATA_WRITABLE = 2 * PAGE;
export const DATA_SIZE = 3 * PAGE;
export const DATA_END = DATA_BASE + DATA_SIZE;
/** Pages that 16-bit addresses reach, writable; only where the host lets a program map them (`NativeCpu.lowMemory`). */
export const LOW_BASE = 0x8000;
export const LOW_SIZE = 2 * PAGE;

/** Base of GS in 64-bit mode. (FS is the host thread's own.) */
export const GS_BASE = 0x123450n;

export const INT3 = 0xcc;
/** Vector of INT3: how a case that met no exception ends. */
export const BREAKPOINT = 3;
/** Not a vector: the watchdog ended the case. */
export const TIMED_OUT = 0x100;

/** Size of the FXSAVE image (SDM vol. 1, 10.5.1) and places in it. */
export const FX_SIZE = 512;
export const Fx = {
  FCW: 0,
  FSW: 2,
  FTW: 4,
  FOP: 6,
  FIP: 8,
  FDP: 16,
  MXCSR: 24,
  MXCSR_MASK: 28,
  ST: 32,
  XMM: 160,
  END: 416,
} as const;

/**
 * Selectors that 64-bit Linux gives a user program (arch/x86/include/asm/segment.h), so that both CPUs agree; and the first
 * place in the LDT, for a 16-bit code segment with base CODE_BASE.
 */
export const Selector = { CODE64: 0x33, CODE32: 0x23, CODE16: 0x07, DATA: 0x2b } as const;

/** What kind of code segment the code runs in: 64-bit mode, or compatibility mode with 32- or 16-bit defaults. */
export type Bitness = 64 | 32 | 16;

export const codeSelector: Record<Bitness, number> = {
  64: Selector.CODE64,
  32: Selector.CODE32,
  16: Selector.CODE16,
};

/** What the host lets a program have beside the ordinary. */
export interface Facilities {
  /** Memory at LOW_BASE. */
  readonly lowMemory: boolean;
  /** A 16-bit code segment. */
  readonly code16: boolean;
}

export interface MemoryPatch {
  /** Linear address in the data pages, or the low ones. */
  readonly address: number;
  readonly bytes: Uint8Array;
}

/** Where a case starts. */
export interface CpuCase {
  /** What is tested, for the report. */
  readonly title: string;
  readonly bitness: Bitness;
  /** Linear address of `code`, in the code pages. */
  readonly entry: number;
  readonly code: Uint8Array;
  /** By number in encodings: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8–R15. */
  readonly gpr: BigUint64Array;
  readonly rflags: number;
  /** FXSAVE image to start with, or undefined where the code uses no x87, MMX or SSE. */
  readonly fx: Uint8Array | undefined;
  /** Changes to what memory holds at first (`dataTemplate`, `lowTemplate`). */
  readonly patches: readonly MemoryPatch[];
  /** Whether the case may reach the low pages. */
  readonly usesLow: boolean;
  /** Linear address of the memory operand, where there is one. */
  readonly operand: bigint | undefined;
  /** Whether the case may change segment registers. */
  readonly segments: boolean;
}

/** RIP at which a case starts: an offset in its code segment. */
export function entryRip(test: { readonly entry: number; readonly bitness: Bitness }): number {
  return test.bitness === 16 ? test.entry - CODE_BASE : test.entry;
}

/** How a case ended. The object and its arrays are reused by the next run of the same CPU. */
export interface Outcome {
  /** The exception that ended it; BREAKPOINT where it came to an end as it should. */
  vector: number;
  errorCode: number;
  /** Page faults only, else 0. */
  cr2: bigint;
  /** Of the instruction that faulted, or of the INT3. */
  rip: bigint;
  rflags: number;
  readonly gpr: BigUint64Array;
  /** FXSAVE image; stale where the case has none. */
  readonly fx: Uint8Array;
  /** The data pages. */
  readonly data: Uint8Array;
  /** Selectors in ES, CS, SS, DS. */
  readonly selectors: Uint16Array;
  /** The low pages; stale where the case does not use them. */
  readonly low: Uint8Array;
}

/** A processor that runs cases. */
export interface OracleCpu {
  /** Between `begin` and `end` cases run; nothing else may (signal handlers are replaced). */
  begin(): void;
  run(test: CpuCase): Outcome;
  end(): void;
}

export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0 || 1;
  }

  /** 32 random bits (xorshift32, Marsaglia 2003, with a multiplicative finish). */
  u32(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return Math.imul(this.#state, 0x9e3779b1) >>> 0;
  }

  u64(): bigint {
    return (BigInt(this.u32()) << 32n) | BigInt(this.u32());
  }

  /** 0 ≤ result < `limit`. */
  below(limit: number): number {
    return Math.floor((this.u32() / 0x1_0000_0000) * limit);
  }

  chance(probability: number): boolean {
    return this.u32() < probability * 0x1_0000_0000;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)];
  }

  bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.u32() & 0xff);
  }
}

/** Runs of equal bytes and of random ones, the same in every run. */
function template(size: number, seed: number): Uint8Array {
  const random = new Random(seed);
  const data = new Uint8Array(size);
  for (let at = 0; at < size; ) {
    const length = 1 + random.below(48);
    const kind = random.below(4);
    const value = random.u32();
    for (let i = 0; i < length && at < size; i++) data[at++] = kind < 2 ? random.u32() : value;
  }
  return data;
}

/** What the data pages and the low pages hold before a case's patches. */
export const dataTemplate = template(DATA_SIZE, 0x6e6c6b74);
export const lowTemplate = template(LOW_SIZE, 0x10f);

/** A valid FXSAVE image of a processor after FNINIT with default MXCSR. */
export function initialFx(): Uint8Array {
  const fx = new Uint8Array(FX_SIZE);
  const view = new DataView(fx.buffer);
  view.setUint16(Fx.FCW, 0x37f, true);
  view.setUint32(Fx.MXCSR, 0x1f80, true);
  return fx;
}
