/**
 * The local APIC's timer: one-shot, periodic and TSC-deadline (SDM vol. 3A, 11.5.4), with a bus clock of 1 GHz.
 *
 * Nothing ticks: the time at which the count reaches zero is kept, and counts are computed from it. Expiry runs on
 * whichever thread notices first: the timer thread, or the vCPU's own when it reads a timer register or calls `expire`.
 */
import type { Mutex } from "../../../memory/mutex.js";
import type { Timer, Timers } from "../../../memory/timers.js";
import { type NanosecondClock, type TscOffsets, tscAt } from "./cpu-signals.js";
import { DCR_WRITABLE, Lvt, TIMER_MODE_SHIFT, TimerMode, timerDivideShift } from "./lapic-registers.js";
import type { LapicState } from "./lapic-state.js";

/** Index of the timer's entry in the LVT. */
const LVT_TIMER = 0;

/** The host's timer thread is woken for a periodic timer no more often than this; the guest sees interrupts merged. */
const MIN_HOST_PERIOD_NS = 100_000;

export class LapicTimer {
  readonly #timer: Timer;

  /** `fire`: the timer interrupt of the LVT has to be delivered; called with no lock held. */
  constructor(
    readonly vcpu: number,
    readonly state: LapicState,
    readonly lock: Mutex,
    timers: Timers,
    readonly clock: NanosecondClock,
    readonly tsc: TscOffsets,
    readonly fire: () => void,
  ) {
    this.#timer = timers.create(() => this.expire());
  }

  /** Clock nanoseconds at which the timer expires next, or Infinity. */
  get deadline(): number {
    return this.state.timerDeadline;
  }

  get #mode(): number {
    return (this.state.lvt[LVT_TIMER] & Lvt.TIMER_MODE) >>> TIMER_MODE_SHIFT;
  }

  /** Nanoseconds a count. */
  get #tick(): number {
    return 1 << timerDivideShift(this.state.timerDivide);
  }

  get #period(): number {
    return this.state.timerInitial * this.#tick;
  }

  // Whole nanoseconds keep all arithmetic on deadlines exact.
  #now(): number {
    return Math.floor(this.clock.now());
  }

  #setDeadline(deadline: number): void {
    this.state.timerDeadline = deadline;
    this.#timer.arm(deadline);
  }

  /** Count down from `count`; 0 stops the timer. Ignored in TSC-deadline mode. */
  writeInitialCount(count: number): void {
    this.lock.with(() => {
      if (this.#mode === TimerMode.TSC_DEADLINE) return;
      this.state.timerInitial = count;
      this.#setDeadline(count === 0 ? Number.POSITIVE_INFINITY : this.#now() + this.#period);
    });
  }

  /** Go on with `count` left of the initial count already in the state: for restored state. */
  resume(count: number): void {
    this.lock.with(() => {
      if (this.#mode === TimerMode.TSC_DEADLINE) this.#armTscDeadline();
      else if (count === 0 || this.state.timerInitial === 0) this.#setDeadline(Number.POSITIVE_INFINITY);
      else this.#setDeadline(this.#now() + Math.min(count, this.state.timerInitial) * this.#tick);
    });
    this.expire();
  }

  currentCount(): number {
    this.expire();
    return this.lock.with(() => {
      const { timerDeadline, timerInitial } = this.state;
      if (this.#mode === TimerMode.TSC_DEADLINE || timerDeadline === Number.POSITIVE_INFINITY) return 0;
      const remaining = Math.max(0, timerDeadline - this.#now());
      return Math.min(timerInitial, Math.ceil(remaining / this.#tick));
    });
  }

  /** What is left of the count goes on at the new rate. */
  writeDivide(value: number): void {
    this.expire();
    this.lock.with(() => {
      const before = this.#tick;
      this.state.timerDivide = value & DCR_WRITABLE;
      const after = this.#tick;
      const { timerDeadline } = this.state;
      if (this.#mode === TimerMode.TSC_DEADLINE || timerDeadline === Number.POSITIVE_INFINITY) return;
      const now = this.#now();
      this.#setDeadline(now + Math.ceil((Math.max(0, timerDeadline - now) / before) * after));
    });
  }

  /** Store the LVT entry. Going into or out of TSC-deadline mode disarms the timer (SDM vol. 3A, 11.5.4.1). */
  writeLvt(value: number): void {
    this.expire();
    this.lock.with(() => {
      const before = this.#mode;
      this.state.lvt[LVT_TIMER] = value;
      const after = this.#mode;
      if (before !== after && (before === TimerMode.TSC_DEADLINE || after === TimerMode.TSC_DEADLINE)) {
        this.#stop();
      }
    });
  }

  #stop(): void {
    this.state.timerInitial = 0;
    this.state.tscDeadline = 0n;
    this.#setDeadline(Number.POSITIVE_INFINITY);
  }

  /** Disarm and forget the counts. */
  stop(): void {
    this.lock.with(() => this.#stop());
  }

  /** IA32_TSC_DEADLINE: 0 when not armed, and in the other modes. */
  readTscDeadline(): bigint {
    this.expire();
    return this.lock.with(() => this.state.tscDeadline);
  }

  /** Ignored in the other modes; 0 disarms; a time that has passed expires at once. */
  writeTscDeadline(value: bigint): void {
    this.lock.with(() => {
      if (this.#mode !== TimerMode.TSC_DEADLINE) return;
      this.state.tscDeadline = value;
      this.#armTscDeadline();
    });
    this.expire();
  }

  /** The vCPU's TSC was written: an armed deadline is a different time now. */
  tscChanged(): void {
    this.lock.with(() => {
      if (this.#mode === TimerMode.TSC_DEADLINE) this.#armTscDeadline();
    });
    this.expire();
  }

  #armTscDeadline(): void {
    const { tscDeadline } = this.state;
    if (tscDeadline === 0n) {
      this.#setDeadline(Number.POSITIVE_INFINITY);
      return;
    }
    const now = this.#now();
    const tsc = tscAt(this.tsc, this.vcpu, now);
    // An expired one is left to the caller's `expire`: no need to wake the timer thread for it.
    if (tscDeadline <= tsc) this.state.timerDeadline = now;
    else this.#setDeadline(now + Number(tscDeadline - tsc));
  }

  /** Deliver the interrupt if the timer is due. Any thread; cheap when it is not. */
  expire(): void {
    if (!(this.state.timerDeadline <= this.clock.now())) return;
    let due = false;
    this.lock.with(() => {
      const now = this.#now();
      const { timerDeadline } = this.state;
      if (!(timerDeadline <= now)) return;
      due = true;
      const period = this.#period;
      if (this.#mode === TimerMode.PERIODIC && period > 0) {
        const next = timerDeadline + period * (Math.floor((now - timerDeadline) / period) + 1);
        this.state.timerDeadline = next;
        this.#timer.arm(Math.max(next, now + MIN_HOST_PERIOD_NS));
      } else {
        this.state.tscDeadline = 0n;
        this.#setDeadline(Number.POSITIVE_INFINITY);
      }
    });
    if (due) this.fire();
  }
}
