/**
 * ACPI fixed hardware: the PM1 event and control register blocks, the power management timer and the
 * fixed-feature power button. ACPI 6.5, 4.8.2 (features) and 4.8.3 (registers).
 *
 * The machine has no system management mode: SMI_CMD in the FADT is 0, hardware is in ACPI mode from the
 * start, and SCI_EN is read-only 1. Of the sleeping states there is S5, soft off. There is no general-purpose
 * event block.
 */
import type { Clock } from "../memory/clock.js";
import { Layout, type ViewOf } from "../memory/layout.js";
import { Mutex } from "../memory/mutex.js";
import type { StateAllocator } from "../memory/state-allocator.js";
import type { Timer, Timers } from "../memory/timers.js";
import type { AccessSize, BusDevice } from "./bus.js";
import type { InterruptLine } from "./interrupt-line.js";

/** First port of the block, and how many ports it has. */
export const ACPI_PM_PORT = 0x600;
export const ACPI_PM_PORT_COUNT = 12;

/**
 * Where each register block is, as offset from `ACPI_PM_PORT`, and its length in bytes: the FADT's fields.
 */
export const PmBlock = {
  PM1_EVENT: { offset: 0, length: 4 },
  PM1_CONTROL: { offset: 4, length: 2 },
  TIMER: { offset: 8, length: 4 },
} as const;

/** Offsets of the registers within the block. */
const STATUS = PmBlock.PM1_EVENT.offset;
const ENABLE = PmBlock.PM1_EVENT.offset + PmBlock.PM1_EVENT.length / 2;
const CONTROL = PmBlock.PM1_CONTROL.offset;
const TIMER_LOW = PmBlock.TIMER.offset;
const TIMER_HIGH = PmBlock.TIMER.offset + 2;

/**
 * The GSI of the system control interrupt, level-triggered and active high (MADT interrupt source override).
 */
export const SCI_GSI = 9;

/** SLP_TYP of S5; `\_S5` in the DSDT names it. No other sleeping state exists. */
export const SLEEP_TYPE_S5 = 5;

/** PM1 status and enable registers: the same bits (ACPI 6.5, tables 4.11 and 4.12). */
export const Pm1Event = {
  TIMER: 1 << 0,
  GLOBAL_LOCK: 1 << 5,
  POWER_BUTTON: 1 << 8,
  RTC: 1 << 10,
} as const;
/**
 * The events that can be enabled. GBL_STS and RTC_STS are never set (there is no firmware that could contend
 * for the global lock, and the FADT's FIX_RTC says that the alarm does not come here), but OSPM enables both
 * and checks that it could.
 */
const EVENT_MASK = Pm1Event.TIMER | Pm1Event.GLOBAL_LOCK | Pm1Event.POWER_BUTTON | Pm1Event.RTC;

/** PM1 control register (ACPI 6.5, table 4.13). */
export const Pm1Control = {
  SCI_ENABLE: 1 << 0,
  BUS_MASTER_RELOAD: 1 << 1,
  SLEEP_TYPE_SHIFT: 10,
  SLEEP_TYPE: 7 << 10,
  /** Write-only: go to the sleeping state of SLP_TYP. */
  SLEEP_ENABLE: 1 << 13,
} as const;
const CONTROL_WRITABLE = Pm1Control.BUS_MASTER_RELOAD | Pm1Control.SLEEP_TYPE;

/** ACPI 6.5, 4.8.2.1. */
export const PM_TIMER_HZ = 3579545;
const TICKS_PER_NANOSECOND = PM_TIMER_HZ / 1e9;
const TIMER_RANGE = 2 ** 32;
/**
 * TMR_STS is set whenever the highest bit of the 32-bit counter changes, which is every 2^31 ticks (10
 * minutes).
 */
const TICKS_PER_CARRY = 2 ** 31;

const ACPI_PM = new Layout("acpi-pm", {
  lock: "u32",
  status: "u16",
  enable: "u16",
  control: "u16",
  /** Level of the SCI line. */
  sci: "u16",
  /** The counter's highest value so far, in ticks since the machine's epoch. */
  ticks: "f64",
  /** How many carries have been turned into TMR_STS. */
  carries: "f64",
});

export class AcpiPm implements BusDevice {
  readonly #state: ViewOf<typeof ACPI_PM>;
  readonly #lock: Mutex;
  readonly #clock: Clock;
  readonly #carryTimer: Timer;
  readonly #sci: InterruptLine;
  readonly #onPowerOff: () => void;

  /** `onPowerOff` is called, with no lock held, when the guest enters S5. */
  constructor(allocator: StateAllocator, timers: Timers, sci: InterruptLine, onPowerOff: () => void) {
    this.#state = allocator.alloc(ACPI_PM, "acpi-pm");
    this.#lock = new Mutex("acpi-pm", allocator.memory, this.#state.address + ACPI_PM.offset.lock);
    this.#clock = timers.clock;
    this.#carryTimer = timers.create(() => this.#lock.with(() => this.#update()));
    this.#sci = sci;
    this.#onPowerOff = onPowerOff;
  }

  /** First values. The timer counts from the machine's epoch and is not reset (4.8.2.1: it runs in S0). */
  reset(): void {
    this.#lock.with(() => {
      this.#state.status = 0;
      this.#state.enable = 0;
      this.#state.control = Pm1Control.SCI_ENABLE;
      this.#state.carries = Math.floor(this.#countTicks() / TICKS_PER_CARRY);
      this.#update();
    });
  }

  /** Press and release the power button. Any thread. */
  pressPowerButton(): void {
    this.#lock.with(() => {
      this.#state.status |= Pm1Event.POWER_BUTTON;
      this.#update();
    });
  }

  /**
   * Registers may be accessed whole or in parts (4.8.3: byte or word); ports between the blocks read as ones.
   */
  read(offset: number, size: AccessSize): number {
    return this.#lock.with(() => {
      this.#update();
      let value = 0;
      for (let i = size - 1; i >= 0; i--) value = (value << 8) | this.#readByte(offset + i);
      return value >>> 0;
    });
  }

  write(offset: number, size: AccessSize, value: number): void {
    const powerOff = this.#lock.with(() => {
      this.#update();
      let off = false;
      for (let i = 0; i < size; i++) off = this.#writeByte(offset + i, (value >>> (8 * i)) & 0xff) || off;
      this.#update();
      return off;
    });
    if (powerOff) this.#onPowerOff();
  }

  #readByte(offset: number): number {
    const { status, enable, control } = this.#state;
    const shift = 8 * (offset & 1);
    switch (offset & ~1) {
      case STATUS:
        return (status >>> shift) & 0xff;
      case ENABLE:
        return (enable >>> shift) & 0xff;
      case CONTROL:
        return (control >>> shift) & 0xff;
      case TIMER_LOW:
      case TIMER_HIGH:
        return ((this.#state.ticks % TIMER_RANGE) >>> (8 * (offset - TIMER_LOW))) & 0xff;
      default:
        return 0xff;
    }
  }

  /** Returns whether the write enters S5. */
  #writeByte(offset: number, byte: number): boolean {
    const shift = 8 * (offset & 1);
    const value = byte << shift;
    const mask = 0xff << shift;
    const state = this.#state;
    switch (offset & ~1) {
      case STATUS:
        state.status &= ~value;
        return false;
      case ENABLE:
        state.enable = (state.enable & ~mask) | (value & EVENT_MASK);
        return false;
      case CONTROL: {
        const writable = CONTROL_WRITABLE & mask;
        state.control = (state.control & ~writable) | (value & writable);
        const type = (state.control & Pm1Control.SLEEP_TYPE) >>> Pm1Control.SLEEP_TYPE_SHIFT;
        return (value & Pm1Control.SLEEP_ENABLE) !== 0 && type === SLEEP_TYPE_S5;
      }
      default:
        return false;
    }
  }

  /**
   * Ticks since the epoch. The clocks of two threads may differ by a few ticks; the counter must not go back.
   */
  #countTicks(): number {
    const ticks = Math.floor(this.#clock.now() * TICKS_PER_NANOSECOND);
    if (ticks > this.#state.ticks) this.#state.ticks = ticks;
    return this.#state.ticks;
  }

  /**
   * With the lock held: bring TMR_STS, its deadline and the SCI line in line with the counter and the
   * registers.
   */
  #update(): void {
    const state = this.#state;
    const carries = Math.floor(this.#countTicks() / TICKS_PER_CARRY);
    if (carries !== state.carries) {
      state.carries = carries;
      state.status |= Pm1Event.TIMER;
    }
    this.#armCarryTimer();
    const level = (state.status & state.enable) !== 0 ? 1 : 0;
    if (level !== state.sci) {
      state.sci = level;
      this.#sci.set(level === 1);
    }
  }

  /** A wake-up is needed only where the next carry raises the SCI; otherwise the next access finds it. */
  #armCarryTimer(): void {
    const { enable, status, carries } = this.#state;
    const wanted = (enable & ~status & Pm1Event.TIMER) !== 0;
    // A microsecond late, so that rounding never wakes the timer thread before the carry.
    const deadline = wanted
      ? ((carries + 1) * TICKS_PER_CARRY) / TICKS_PER_NANOSECOND + 1000
      : Number.POSITIVE_INFINITY;
    if (deadline !== this.#carryTimer.deadline) this.#carryTimer.arm(deadline);
  }
}
