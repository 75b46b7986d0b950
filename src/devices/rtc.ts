/**
 * The PC's real-time clock and CMOS RAM: Motorola, "MC146818A Real-Time Clock Plus RAM" data sheet ("DS" below), behind port 0x70
 * (index; bit 7 masks NMI) and 0x71 (data), interrupt on IRQ8.
 *
 * | index | |
 * | --- | --- |
 * | 0x00, 0x02, 0x04 | seconds, minutes, hours |
 * | 0x01, 0x03, 0x05 | their alarms; 0xC0 and up matches all |
 * | 0x06–0x09 | day of week (1 is Sunday), day, month, year |
 * | 0x0A–0x0D | registers A to D |
 * | 0x0E–0x7F | RAM; 0x32 is the century, as ACPI's FADT says |
 *
 * While the clock runs, the time bytes are computed from the machine's clock when they are read; while it is stopped
 * (SET, or the divider chain not running) they are plain bytes, and the clock goes on from them. Interrupt flags are worked out when somebody
 * looks: every change of a register first accounts for the time since the last.
 */
import type { Clock } from "../memory/clock.js";
import { array, Layout, type ViewOf } from "../memory/layout.js";
import { Mutex } from "../memory/mutex.js";
import type { StateAllocator } from "../memory/state-allocator.js";
import type { Timer, Timers } from "../memory/timers.js";
import type { AccessSize, BusDevice } from "./bus.js";
import type { InterruptLine } from "./interrupt-line.js";
import {
  decode,
  decodeHour,
  encode,
  encodeHour,
  Format,
  fromCalendar,
  modulo,
  nextAlarm,
  toCalendar,
} from "./rtc-calendar.js";
import { type CmosMemorySizes, fillCmosRam } from "./rtc-cmos.js";

export const RTC_PORT = 0x70;
export const RTC_SIZE = 2;
export const RTC_IRQ = 8;
/** Where the century is, for the FADT. */
export const RTC_CENTURY = 0x32;

const CMOS_SIZE = 128;

const Index = {
  SECONDS: 0x00,
  SECONDS_ALARM: 0x01,
  MINUTES: 0x02,
  MINUTES_ALARM: 0x03,
  HOURS: 0x04,
  HOURS_ALARM: 0x05,
  WEEKDAY: 0x06,
  DAY: 0x07,
  MONTH: 0x08,
  YEAR: 0x09,
  A: 0x0a,
  B: 0x0b,
  C: 0x0c,
  D: 0x0d,
} as const;

/** Register A. */
const UIP = 0x80;
const DIVIDER = 0x70;
/** The 32.768 kHz crystal that a PC has. With other settings the chain does not run. */
const DIVIDER_32K = 0x20;
const RATE = 0x0f;

/** Register B; its flags' enables are the same bits as register C's flags. */
const RegB = { SET: 0x80, ENABLES: 0x70, UPDATE: 0x10 } as const;

/** Register C. */
const RegC = { IRQ: 0x80, PERIODIC: 0x40, ALARM: 0x20, UPDATE: 0x10 } as const;

/** Register D: the battery is good. */
const VALID_RAM = 0x80;

const ALARM_DONT_CARE = 0xc0;

const SECOND = 1e6;
/** DS table 6, 32.768 kHz: UIP rises 244 µs before an update cycle, which takes 1984 µs. */
const UPDATE_TIME = 244 + 1984;
/** DS: the first update comes half a second after the divider chain is let go. */
const FIRST_UPDATE = SECOND / 2;

const RTC = new Layout("rtc", {
  lock: "u32",
  index: "u8",
  interrupt: "u8",
  /** Days that the guest's day of week is ahead of the calendar's. */
  weekdayShift: "u8",
  cmos: array("u8", CMOS_SIZE),
  /** Microseconds to add to the machine's clock to get the divider chain's time; updates are at its whole seconds. */
  phase: "f64",
  /** Seconds to add to the divider chain's to get the calendar's, since 1970. */
  offset: "f64",
  /** Up to when the interrupt flags are accounted for, in the machine's microseconds. */
  accounted: "f64",
});

export interface RtcOptions {
  readonly irq: InterruptLine;
  readonly timers: Timers;
}

export interface RtcResetOptions extends CmosMemorySizes {
  /** The time to show, in milliseconds since 1970, UTC. Default: the host's. */
  readonly time?: number;
}

export class Rtc implements BusDevice {
  readonly #state: ViewOf<typeof RTC>;
  readonly #cmos: Uint8Array;
  readonly #lock: Mutex;
  readonly #irq: InterruptLine;
  readonly #clock: Clock;
  readonly #timer: Timer;

  constructor(allocator: StateAllocator, options: RtcOptions) {
    this.#state = allocator.alloc(RTC, "rtc");
    this.#cmos = this.#state.cmos;
    this.#lock = new Mutex("rtc", allocator.memory, this.#state.address + RTC.offset.lock);
    this.#irq = options.irq;
    this.#clock = options.timers.clock;
    this.#timer = options.timers.create(() => this.#expired());
  }

  /** First values: the clock runs, in BCD and 24 hours, with no interrupt enabled. */
  reset(options: RtcResetOptions): void {
    const now = this.#now();
    const time = (options.time ?? Date.now()) * 1000;
    this.#lock.lock();
    const state = this.#state;
    state.index = 0;
    state.weekdayShift = 0;
    this.#cmos.fill(0);
    fillCmosRam(this.#cmos, options);
    // DS table 5: rate 6 is 1024 Hz, what PC firmware sets.
    this.#cmos[Index.A] = DIVIDER_32K | 6;
    this.#cmos[Index.B] = Format.HOUR_24;
    this.#cmos[Index.D] = VALID_RAM;
    state.phase = modulo(time, SECOND) - modulo(now, SECOND);
    state.offset = Math.floor(time / SECOND) - this.#update(now);
    state.accounted = now;
    this.#updateInterrupt(now);
    this.#lock.unlock();
  }

  read(offset: number, _size: AccessSize): number {
    // The index register is write-only on the PC (Intel ICH data sheets, "RTC I/O registers").
    if ((offset & 1) === 0) return 0xff;
    this.#lock.lock();
    const now = this.#now();
    const index = this.#state.index & (CMOS_SIZE - 1);
    let value = this.#cmos[index];
    if (index === Index.A) value |= this.#updateInProgress(now) ? UIP : 0;
    else if (index === Index.C) value = this.#takeFlags(now);
    else if (isTime(index) && this.#ticking()) value = this.#timeByte(index, now);
    this.#lock.unlock();
    return value;
  }

  write(offset: number, _size: AccessSize, value: number): void {
    this.#lock.lock();
    if ((offset & 1) === 0) this.#state.index = value & 0xff;
    else this.#writeData(this.#state.index & (CMOS_SIZE - 1), value & 0xff);
    this.#lock.unlock();
  }

  #writeData(index: number, value: number): void {
    const now = this.#now();
    // C and D are read-only.
    if (index === Index.C || index === Index.D) return;
    this.#account(now);
    const wasTicking = this.#ticking();
    if (index === Index.A || index === Index.B) {
      if (wasTicking) this.#storeTime(now);
      if (index === Index.A) this.#writeA(value, now);
      // DS, register B: SET going high clears the update-ended interrupt enable.
      else this.#cmos[Index.B] = (value & RegB.SET) !== 0 ? value & ~RegB.UPDATE : value;
      if (!wasTicking && this.#ticking()) this.#loadTime(now);
    } else if (isTime(index) && wasTicking) {
      this.#storeTime(now);
      this.#cmos[index] = value;
      this.#loadTime(now);
    } else this.#cmos[index] = value;
    this.#updateInterrupt(now);
  }

  #writeA(value: number, now: number): void {
    const ran = this.#dividerRuns();
    this.#cmos[Index.A] = value & ~UIP;
    if (!ran && this.#dividerRuns()) this.#state.phase = FIRST_UPDATE - now;
  }

  /** The machine's time in microseconds. */
  #now(): number {
    return this.#clock.now() / 1000;
  }

  #dividerRuns(): boolean {
    return (this.#cmos[Index.A] & DIVIDER) === DIVIDER_32K;
  }

  /** Whether updates happen. */
  #ticking(): boolean {
    return this.#dividerRuns() && (this.#cmos[Index.B] & RegB.SET) === 0;
  }

  /** Which update cycle was the last, counted in the divider chain's seconds. */
  #update(now: number): number {
    return Math.floor((now + this.#state.phase) / SECOND);
  }

  #updateInProgress(now: number): boolean {
    return this.#ticking() && modulo(now + this.#state.phase, SECOND) >= SECOND - UPDATE_TIME;
  }

  /** Put the running time into its bytes. */
  #storeTime(now: number): void {
    for (let index = 0; index < CMOS_SIZE; index++) {
      if (isTime(index)) this.#cmos[index] = this.#timeByte(index, now);
    }
  }

  /** Let the clock run from what its bytes say. */
  #loadTime(now: number): void {
    const cmos = this.#cmos;
    const format = cmos[Index.B];
    const field = (index: number) => decode(cmos[index], format);
    const seconds = fromCalendar({
      year: field(RTC_CENTURY) * 100 + field(Index.YEAR),
      month: field(Index.MONTH),
      day: field(Index.DAY),
      weekday: 0,
      hour: decodeHour(cmos[Index.HOURS], format),
      minute: field(Index.MINUTES),
      second: field(Index.SECONDS),
    });
    this.#state.offset = seconds - this.#update(now);
    this.#state.weekdayShift = modulo(field(Index.WEEKDAY) - toCalendar(seconds).weekday, 7);
  }

  #timeByte(index: number, now: number): number {
    const format = this.#cmos[Index.B];
    const time = toCalendar(this.#update(now) + this.#state.offset);
    switch (index) {
      case Index.SECONDS:
        return encode(time.second, format);
      case Index.MINUTES:
        return encode(time.minute, format);
      case Index.HOURS:
        return encodeHour(time.hour, format);
      case Index.WEEKDAY:
        return encode(((time.weekday - 1 + this.#state.weekdayShift) % 7) + 1, format);
      case Index.DAY:
        return encode(time.day, format);
      case Index.MONTH:
        return encode(time.month, format);
      case Index.YEAR:
        return encode(modulo(time.year, 100), format);
      default:
        return encode(modulo(Math.floor(time.year / 100), 100), format);
    }
  }

  /** The periodic interrupt's period in microseconds, or Infinity (DS table 5, 32.768 kHz). */
  #period(): number {
    const rate = this.#cmos[Index.A] & RATE;
    if (rate === 0 || !this.#dividerRuns()) return Number.POSITIVE_INFINITY;
    // Rates 1 and 2 are the same as 8 and 9: the chain has no faster tap for them.
    const hertz = 32768 >>> ((rate <= 2 ? rate + 7 : rate) - 1);
    return SECOND / hertz;
  }

  #nextAlarm(after: number): number {
    const format = this.#cmos[Index.B];
    const field = (index: number, value: number, again: number) =>
      // The chip compares bytes: a byte that the time never has matches never.
      this.#cmos[index] >= ALARM_DONT_CARE ? undefined : this.#cmos[index] === again ? value : 255;
    const hour = decodeHour(this.#cmos[Index.HOURS_ALARM], format);
    const minute = decode(this.#cmos[Index.MINUTES_ALARM], format);
    const second = decode(this.#cmos[Index.SECONDS_ALARM], format);
    return nextAlarm(after, {
      hour: field(Index.HOURS_ALARM, hour, encodeHour(hour, format)),
      minute: field(Index.MINUTES_ALARM, minute, encode(minute, format)),
      second: field(Index.SECONDS_ALARM, second, encode(second, format)),
    });
  }

  /** Set the flags of what happened since the last time. */
  #account(now: number): void {
    const { accounted, phase, offset } = this.#state;
    if (now <= accounted) return;
    this.#state.accounted = now;
    let flags = 0;
    const period = this.#period();
    if (Math.floor((now + phase) / period) > Math.floor((accounted + phase) / period)) flags |= RegC.PERIODIC;
    const [before, last] = [this.#update(accounted), this.#update(now)];
    if (this.#ticking() && last > before) {
      flags |= RegC.UPDATE;
      if (this.#nextAlarm(before + offset) <= last + offset) flags |= RegC.ALARM;
    }
    this.#cmos[Index.C] |= flags;
  }

  /** Register C: reading it clears it. */
  #takeFlags(now: number): number {
    this.#account(now);
    const value = this.#cmos[Index.C] | (this.#requested() ? RegC.IRQ : 0);
    this.#cmos[Index.C] = 0;
    this.#updateInterrupt(now);
    return value;
  }

  #requested(): boolean {
    return (this.#cmos[Index.B] & this.#cmos[Index.C] & RegB.ENABLES) !== 0;
  }

  #updateInterrupt(now: number): void {
    const level = this.#requested() ? 1 : 0;
    if (level !== this.#state.interrupt) {
      this.#state.interrupt = level;
      this.#irq.set(level !== 0);
    }
    // With the line up nothing more can happen to it until the guest reads C.
    const deadline = level !== 0 ? Number.POSITIVE_INFINITY : this.#nextInterrupt(now);
    if (deadline !== this.#timer.deadline) this.#timer.arm(deadline);
  }

  /** When the next enabled flag will be set, in the machine's nanoseconds, or Infinity. */
  #nextInterrupt(now: number): number {
    const { phase, offset } = this.#state;
    const enabled = this.#cmos[Index.B];
    // In the divider chain's microseconds.
    let next = Number.POSITIVE_INFINITY;
    const period = this.#period();
    if ((enabled & RegC.PERIODIC) !== 0 && period < next) {
      next = (Math.floor((now + phase) / period) + 1) * period;
    }
    if (this.#ticking()) {
      const update = this.#update(now);
      if ((enabled & RegC.UPDATE) !== 0) next = Math.min(next, (update + 1) * SECOND);
      if ((enabled & RegC.ALARM) !== 0) {
        next = Math.min(next, (this.#nextAlarm(update + offset) - offset) * SECOND);
      }
    }
    // A microsecond later, so that rounding cannot bring the timer here before its time.
    return (next - phase + 1) * 1000;
  }

  #expired(): void {
    this.#lock.lock();
    const now = this.#now();
    this.#account(now);
    this.#updateInterrupt(now);
    this.#lock.unlock();
  }
}

/** Whether the byte is part of the running time. Alarms are not: they stay what was written. */
function isTime(index: number): boolean {
  return (
    index === Index.SECONDS ||
    index === Index.MINUTES ||
    (index >= Index.HOURS && index <= Index.YEAR && index !== Index.HOURS_ALARM) ||
    index === RTC_CENTURY
  );
}
