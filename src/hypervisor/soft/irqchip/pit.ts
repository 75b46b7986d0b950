/**
 * The 8254 interval timer and port 0x61: Intel 8254 data sheet (order 231164); port 0x61 ("NMI status and control") as
 * in the PIIX3 data sheet, 2.5.
 *
 *     port       write                                  read
 *     0x40–0x42  count of counter 0, 1, 2               latched status, latched count or count
 *     0x43       control word; latch and read-back      -
 *     0x61       bit 0 GATE of counter 2,               bits 3:0 as written, bit 4 toggles with the DRAM
 *                bit 1 speaker, bits 3:2 NMI masks      refresh, bit 5 OUT of counter 2
 *
 * Counter 0's OUT is GSI 0. When the host cannot follow, ticks are merged: no backlog is kept.
 */
import { Layout, type ViewOf } from "../../../memory/layout.js";
import { Mutex } from "../../../memory/mutex.js";
import type { SharedMemory } from "../../../memory/shared-memory.js";
import type { StateAllocator } from "../../../memory/state-allocator.js";
import type { Timer, Timers } from "../../../memory/timers.js";
import type { NanosecondClock } from "./cpu-signals.js";
import { Access, PIT_COUNTER_STATE, PitCounter } from "./pit-counter.js";

export const PIT_HZ = 1193182;
export const PIT_GSI = 0;

export const PitPort = { COUNTER_0: 0x40, COUNTER_2: 0x42, CONTROL: 0x43, SYSTEM_CONTROL: 0x61 } as const;

/** Control word bits 7:6: the counter, or the read-back command. */
const READ_BACK = 3;
/** Read-back command: these bits are active low. */
const ReadBack = { NO_COUNT: 0x20, NO_STATUS: 0x10 } as const;

const SystemControl = { GATE_2: 0x01, REFRESH: 0x10, OUT_2: 0x20 } as const;
const SYSTEM_CONTROL_WRITABLE = 0x0f;
/** Counter 1 asks for a DRAM refresh every 18 ticks. */
const REFRESH_TICKS = 18;

/** The timer thread is woken no more often than this. */
const MIN_HOST_PERIOD_NS = 100_000;

const PIT_STATE = new Layout("i8254", {
  lock: "u32",
  /** Port 0x61, bits 3:0. */
  control: "u32",
  /** Tick of counter 0's next rising OUT, or Infinity. */
  rise: "f64",
});

export class Pit {
  readonly #state: ViewOf<typeof PIT_STATE>;
  readonly #counters: readonly PitCounter[];
  readonly #lock: Mutex;
  readonly #clock: NanosecondClock;
  readonly #timer: Timer;
  readonly #line: (level: boolean) => void;

  /** `line`: the level of GSI 0; called without the lock. */
  constructor(
    memory: SharedMemory,
    allocator: StateAllocator,
    timers: Timers,
    clock: NanosecondClock,
    line: (level: boolean) => void,
  ) {
    this.#state = allocator.alloc(PIT_STATE, "pit");
    this.#counters = [0, 1, 2].map(
      (index) => new PitCounter(allocator.alloc(PIT_COUNTER_STATE, `pit.counter${index}`)),
    );
    this.#lock = new Mutex("pit", memory, this.#state.address + PIT_STATE.offset.lock);
    this.#clock = clock;
    this.#timer = timers.create(() => this.#expire());
    this.#line = line;
  }

  reset(): void {
    for (const [index, counter] of this.#counters.entries()) counter.reset(index !== 2);
    this.#state.control = 0;
    this.#state.rise = Number.POSITIVE_INFINITY;
    this.#timer.cancel();
  }

  #tick(): number {
    return tickAt(this.#clock.now());
  }

  readPort(port: number): number {
    return this.#lock.with(() => {
      const tick = this.#tick();
      if (port === PitPort.SYSTEM_CONTROL) {
        const refresh = Math.floor(tick / REFRESH_TICKS) % 2 === 1 ? SystemControl.REFRESH : 0;
        return this.#state.control | refresh | (this.#counters[2].out(tick) ? SystemControl.OUT_2 : 0);
      }
      // The control word register cannot be read; the bus floats.
      if (port === PitPort.CONTROL) return 0xff;
      return this.#counters[port - PitPort.COUNTER_0].readByte(tick);
    });
  }

  writePort(port: number, value: number): void {
    this.#lock.lock();
    const tick = this.#tick();
    const counter0 = this.#counters[0];
    const due = tick >= this.#state.rise;
    const before = counter0.out(tick);
    switch (port) {
      case PitPort.SYSTEM_CONTROL:
        this.#state.control = value & SYSTEM_CONTROL_WRITABLE;
        this.#counters[2].setGate((value & SystemControl.GATE_2) !== 0, tick);
        break;
      case PitPort.CONTROL:
        this.#writeControl(value, tick);
        break;
      default:
        this.#counters[port - PitPort.COUNTER_0].writeByte(value, tick);
    }
    const after = counter0.out(tick);
    this.#arm(tick);
    this.#lock.unlock();
    // A rise that is due and that the timer thread has not come to yet is not lost by reprogramming.
    if (due || (after && !before)) this.#pulse();
    if (!after && before) this.#line(false);
  }

  #writeControl(word: number, tick: number): void {
    const select = word >>> 6;
    if (select === READ_BACK) {
      for (const [index, counter] of this.#counters.entries()) {
        if ((word & (2 << index)) === 0) continue;
        if ((word & ReadBack.NO_COUNT) === 0) counter.latchCount(tick);
        if ((word & ReadBack.NO_STATUS) === 0) counter.latchStatus(tick);
      }
    } else if (((word >>> 4) & 3) === Access.LATCH) this.#counters[select].latchCount(tick);
    else this.#counters[select].writeControl(word);
  }

  /** Find counter 0's next rise and have the timer thread woken for it. */
  #arm(tick: number): void {
    const rise = this.#counters[0].nextRise(tick);
    if (rise === this.#state.rise) return;
    this.#state.rise = rise;
    this.#timer.arm(rise === Number.POSITIVE_INFINITY ? rise : timeOfTick(rise));
  }

  #expire(): void {
    this.#lock.lock();
    const now = this.#clock.now();
    const tick = tickAt(now);
    const due = tick >= this.#state.rise;
    const rise = due ? this.#counters[0].nextRise(tick) : this.#state.rise;
    this.#state.rise = rise;
    if (rise !== Number.POSITIVE_INFINITY) {
      this.#timer.arm(Math.max(timeOfTick(rise), due ? now + MIN_HOST_PERIOD_NS : 0));
    }
    this.#lock.unlock();
    if (due) this.#pulse();
  }

  /** A rising edge. Where the line was before is of no interest: the fall between two edges may not have been shown. */
  #pulse(): void {
    this.#line(false);
    this.#line(true);
  }
}

const SECOND = 1e9;

/** Ticks of the 8254's clock since the machine was made. Whole seconds apart: all products stay exact. */
export function tickAt(now: number): number {
  const seconds = Math.floor(now / SECOND);
  return seconds * PIT_HZ + Math.floor(((now - seconds * SECOND) * PIT_HZ) / SECOND);
}

/** The first clock nanosecond of `tick`. */
export function timeOfTick(tick: number): number {
  const seconds = Math.floor(tick / PIT_HZ);
  return seconds * SECOND + Math.ceil(((tick - seconds * PIT_HZ) * SECOND) / PIT_HZ);
}
