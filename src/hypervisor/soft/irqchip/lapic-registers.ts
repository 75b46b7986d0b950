/**
 * The local APIC's registers (SDM vol. 3A, table 11-1 "Local APIC Register Address Map" and table 11-6 "Local APIC
 * Register Address Map Supported by x2APIC"; chapter 10 in editions before 2023).
 *
 *     offset  x2APIC MSR  register                       xAPIC  x2APIC
 *     0x020   0x802       ID                             rw     ro (32 bits)
 *     0x030   0x803       version                        ro     ro
 *     0x080   0x808       TPR                            rw     rw
 *     0x090   -           APR                            ro     -
 *     0x0A0   0x80A       PPR                            ro     ro
 *     0x0B0   0x80B       EOI                            wo     wo (0 only)
 *     0x0C0   -           RRD                            ro     -
 *     0x0D0   0x80D       LDR                            rw     ro (derived from the ID)
 *     0x0E0   -           DFR                            rw     -
 *     0x0F0   0x80F       SVR                            rw     rw
 *     0x100   0x810       ISR, 8 registers               ro     ro
 *     0x180   0x818       TMR, 8 registers               ro     ro
 *     0x200   0x820       IRR, 8 registers               ro     ro
 *     0x280   0x828       ESR                            rw     rw (0 only)
 *     0x300   0x830       ICR, 0x310 its upper half      rw     rw (64 bits)
 *     0x320   0x832       LVT timer                      rw     rw
 *     0x330   0x833       LVT thermal sensor             rw     rw
 *     0x340   0x834       LVT performance monitoring     rw     rw
 *     0x350   0x835       LVT LINT0                      rw     rw
 *     0x360   0x836       LVT LINT1                      rw     rw
 *     0x370   0x837       LVT error                      rw     rw
 *     0x380   0x838       timer initial count            rw     rw
 *     0x390   0x839       timer current count            ro     ro
 *     0x3E0   0x83E       timer divide configuration     rw     rw
 *     -       0x83F       self IPI                       -      wo
 */

/** Register offsets in the xAPIC page. The x2APIC MSR of a register is 0x800 + offset / 16. */
export const LapicReg = {
  ID: 0x020,
  VERSION: 0x030,
  TPR: 0x080,
  APR: 0x090,
  PPR: 0x0a0,
  EOI: 0x0b0,
  RRD: 0x0c0,
  LDR: 0x0d0,
  DFR: 0x0e0,
  SVR: 0x0f0,
  ISR: 0x100,
  TMR: 0x180,
  IRR: 0x200,
  ESR: 0x280,
  ICR: 0x300,
  ICR_HIGH: 0x310,
  LVT_TIMER: 0x320,
  LVT_THERMAL: 0x330,
  LVT_PMC: 0x340,
  LVT_LINT0: 0x350,
  LVT_LINT1: 0x360,
  LVT_ERROR: 0x370,
  TIMER_INITIAL: 0x380,
  TIMER_CURRENT: 0x390,
  TIMER_DIVIDE: 0x3e0,
  SELF_IPI: 0x3f0,
} as const;

/** Each of ISR, TMR and IRR is 256 bits in eight registers. */
export const VECTOR_WORDS = 8;

export const X2APIC_MSR_FIRST = 0x800;
/** SDM vol. 3A, 11.12.1.2: MSRs 0x800 to 0x8FF belong to the x2APIC; the rest of them is reserved. */
export const X2APIC_MSR_LAST = 0x8ff;
export const MSR_APIC_BASE = 0x1b;
export const MSR_TSC_DEADLINE = 0x6e0;

/** IA32_APIC_BASE (SDM vol. 3A, 11.4.4 and 11.12.1). */
export const ApicBase = {
  BSP: 1 << 8,
  /** EXTD: x2APIC mode. */
  X2APIC: 1 << 10,
  /** EN: the global enable. */
  ENABLE: 1 << 11,
  DEFAULT_ADDRESS: 0xfee00000,
} as const;
/** Bits 7:0 and 9. */
export const APIC_BASE_RESERVED = 0x2ffn;

/**
 * Version 0x14 (an integrated APIC), a highest LVT entry of 5 (no CMCI), and the ability to suppress EOI broadcasts
 * (SDM vol. 3A, 11.4.8).
 */
export const LAPIC_VERSION = 0x14 | (5 << 16) | (1 << 24);

/** Spurious-interrupt vector register (SDM vol. 3A, 11.9). */
export const Svr = {
  VECTOR: 0xff,
  ENABLE: 1 << 8,
  FOCUS_DISABLE: 1 << 9,
  SUPPRESS_EOI_BROADCAST: 1 << 12,
  /** After reset: disabled by software, vector 0xFF. */
  RESET: 0xff,
} as const;
export const SVR_WRITABLE = Svr.VECTOR | Svr.ENABLE | Svr.FOCUS_DISABLE | Svr.SUPPRESS_EOI_BROADCAST;

/** Destination format register: bits 31:28 are the model, the others read as ones (SDM vol. 3A, 11.6.2.2). */
export const DFR_FIXED_BITS = 0x0fffffff;
export const DFR_FLAT = 0xf;
export const DFR_CLUSTER = 0x0;

/** Error status register (SDM vol. 3A, 11.5.3). */
export const Esr = {
  SEND_ILLEGAL_VECTOR: 1 << 5,
  RECEIVE_ILLEGAL_VECTOR: 1 << 6,
  ILLEGAL_REGISTER: 1 << 7,
} as const;

/** Fields that the LVT entries share (SDM vol. 3A, figure 11-8). */
export const Lvt = {
  VECTOR: 0xff,
  DELIVERY_MODE: 7 << 8,
  DELIVERY_STATUS: 1 << 12,
  POLARITY: 1 << 13,
  REMOTE_IRR: 1 << 14,
  LEVEL: 1 << 15,
  MASKED: 1 << 16,
  TIMER_MODE: 3 << 17,
} as const;

export const TimerMode = {
  ONE_SHOT: 0,
  PERIODIC: 1,
  TSC_DEADLINE: 2,
} as const;
export const TIMER_MODE_SHIFT = 17;

/** An LVT entry: its register, the bits software may set, and the bits that are there but read-only. */
export interface LvtEntry {
  readonly offset: number;
  readonly writable: number;
  readonly readonly: number;
}

const LVT_LINT = Lvt.VECTOR | Lvt.DELIVERY_MODE | Lvt.POLARITY | Lvt.LEVEL | Lvt.MASKED;
const LVT_LINT_READONLY = Lvt.DELIVERY_STATUS | Lvt.REMOTE_IRR;
const LVT_SENSOR = Lvt.VECTOR | Lvt.DELIVERY_MODE | Lvt.MASKED;

/** In register order: entry i is at 0x320 + 16 i. */
export const LVT_ENTRIES: readonly LvtEntry[] = [
  {
    offset: LapicReg.LVT_TIMER,
    writable: Lvt.VECTOR | Lvt.MASKED | Lvt.TIMER_MODE,
    readonly: Lvt.DELIVERY_STATUS,
  },
  { offset: LapicReg.LVT_THERMAL, writable: LVT_SENSOR, readonly: Lvt.DELIVERY_STATUS },
  { offset: LapicReg.LVT_PMC, writable: LVT_SENSOR, readonly: Lvt.DELIVERY_STATUS },
  { offset: LapicReg.LVT_LINT0, writable: LVT_LINT, readonly: LVT_LINT_READONLY },
  { offset: LapicReg.LVT_LINT1, writable: LVT_LINT, readonly: LVT_LINT_READONLY },
  { offset: LapicReg.LVT_ERROR, writable: Lvt.VECTOR | Lvt.MASKED, readonly: Lvt.DELIVERY_STATUS },
];

/** Interrupt command register, low half (SDM vol. 3A, 11.6.1). */
export const Icr = {
  VECTOR: 0xff,
  DELIVERY_MODE_SHIFT: 8,
  LOGICAL: 1 << 11,
  DELIVERY_STATUS: 1 << 12,
  ASSERT: 1 << 14,
  LEVEL: 1 << 15,
  SHORTHAND_SHIFT: 18,
} as const;
export const ICR_WRITABLE =
  0xff | (7 << 8) | Icr.LOGICAL | Icr.ASSERT | Icr.LEVEL | (3 << Icr.SHORTHAND_SHIFT);

/** Divide configuration register: bits 0, 1 and 3 (SDM vol. 3A, figure 11-10). */
export const DCR_WRITABLE = 0xb;

/** log2 of the divisor: 000 is 2, 001 is 4, … 110 is 128 and 111 is 1. */
export function timerDivideShift(dcr: number): number {
  return (((dcr & 3) | ((dcr >> 1) & 4)) + 1) & 7;
}

/** Vectors below 16 are reserved and illegal in interrupt messages (SDM vol. 3A, 11.5.2). */
export const FIRST_LEGAL_VECTOR = 16;

/** LDR in x2APIC mode: cluster in the upper half, one bit of 16 in the lower (SDM vol. 3A, 11.12.10.2). */
export function x2apicLogicalId(id: number): number {
  return (((id >>> 4) << 16) | (1 << (id & 0xf))) >>> 0;
}

/** What a RDMSR and a WRMSR of an x2APIC register may do: anything else is #GP (SDM vol. 3A, 11.12.1.3). */
export interface X2apicAccess {
  readonly read: boolean;
  /** The bits that a write may have set, or undefined where the register is read-only. */
  readonly write?: bigint;
}

const READ_ONLY: X2apicAccess = { read: true };
const vectorBitmap = (offset: number): [number, X2apicAccess][] =>
  Array.from({ length: VECTOR_WORDS }, (_, word) => [offset + 16 * word, READ_ONLY]);

/** x2APIC registers by xAPIC offset. */
export const X2APIC_ACCESS: ReadonlyMap<number, X2apicAccess> = new Map<number, X2apicAccess>([
  [LapicReg.ID, READ_ONLY],
  [LapicReg.VERSION, READ_ONLY],
  [LapicReg.TPR, { read: true, write: 0xffn }],
  [LapicReg.PPR, READ_ONLY],
  [LapicReg.EOI, { read: false, write: 0n }],
  [LapicReg.LDR, READ_ONLY],
  [LapicReg.SVR, { read: true, write: BigInt(SVR_WRITABLE) }],
  ...vectorBitmap(LapicReg.ISR),
  ...vectorBitmap(LapicReg.TMR),
  ...vectorBitmap(LapicReg.IRR),
  [LapicReg.ESR, { read: true, write: 0n }],
  // The delivery status bit is gone in x2APIC mode, but processors ignore it when written.
  [LapicReg.ICR, { read: true, write: 0xffffffff_00000000n | BigInt(ICR_WRITABLE | Icr.DELIVERY_STATUS) }],
  ...LVT_ENTRIES.map((entry): [number, X2apicAccess] => [
    entry.offset,
    { read: true, write: BigInt(entry.writable | entry.readonly) },
  ]),
  [LapicReg.TIMER_INITIAL, { read: true, write: 0xffffffffn }],
  [LapicReg.TIMER_CURRENT, READ_ONLY],
  [LapicReg.TIMER_DIVIDE, { read: true, write: BigInt(DCR_WRITABLE) }],
  [LapicReg.SELF_IPI, { read: false, write: 0xffn }],
]);
