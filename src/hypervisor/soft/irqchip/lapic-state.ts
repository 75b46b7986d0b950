/** The shared state of one local APIC (DESIGN, law 2). Who may write what is said at each group. */
import { array, Layout, type ViewOf } from "../../../memory/layout.js";
import { LVT_ENTRIES, VECTOR_WORDS } from "./lapic-registers.js";

/** Values of `mode`: what IA32_APIC_BASE's EN and EXTD say. */
export const ApicMode = { DISABLED: 0, XAPIC: 1, X2APIC: 2 } as const;

export const LAPIC_STATE = new Layout("lapic", {
  /** Guards the timer fields: the vCPU's thread and the timer thread both write them. */
  lock: "u32",

  // Written by any thread, with Atomics.
  irr: array("u32", VECTOR_WORDS),
  /** Bit w: word w of `irr` may have bits set. */
  irrSummary: "u32",
  tmr: array("u32", VECTOR_WORDS),
  /** Errors since the last write of the ESR. */
  esrPending: "u32",

  // Written by the vCPU's own thread only.
  isr: array("u32", VECTOR_WORDS),
  isrSummary: "u32",
  mode: "u32",
  bsp: "u32",
  /** xAPIC: 8 bits; x2APIC: 32 bits. */
  id: "u32",
  tpr: "u32",
  ldr: "u32",
  /** The model only: bits 31:28 of the register. */
  dfr: "u32",
  svr: "u32",
  esr: "u32",
  icrLow: "u32",
  icrHigh: "u32",
  lvt: array("u32", LVT_ENTRIES.length),

  timerInitial: "u32",
  timerDivide: "u32",
  /** Guest-physical address of the xAPIC page. */
  page: "f64",
  /** When the timer reaches zero, in clock nanoseconds; Infinity: stopped. */
  timerDeadline: "f64",
  /** IA32_TSC_DEADLINE; 0: not armed. */
  tscDeadline: "u64",
});

export type LapicState = ViewOf<typeof LAPIC_STATE>;
