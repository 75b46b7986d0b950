/**
 * HLT: the vCPU's thread sleeps until another thread sets a bit of `poll`, or until a deadline.
 *
 * To put a thread to sleep and to wake it costs tens of microseconds, more than what two vCPUs that work hand in hand have to wait for
 * each other. So where the last halts were that short, and the host has a core for it, the thread looks for a moment whether the
 * wake-up comes at once; and where it did not, no longer (KVM does the same: Linux, Documentation/virt/kvm/halt-polling.rst). A vCPU that
 * is idle always sleeps at once.
 */
import { aboutToWait } from "../../../memory/mutex.js";

/** Nanoseconds: the longest look, and the first. */
const LONGEST = 50_000;
const FIRST = 10_000;
/** Looks between two readings of the clock: about a microsecond. */
const LOOKS = 50;
/** A thread that was away for so long had lost its core: the host has other work. It is not looked for so long then. */
const LOST_CORE = 50_000;
const BACK_OFF = 50_000_000;

export class Halt {
  /** How long the next halt looks before it sleeps, in nanoseconds. */
  #look = 0;
  /** Until then the host is taken to have no core to spare. */
  #busyUntil = 0;

  /** `now`: nanoseconds. */
  constructor(
    readonly i32: Int32Array,
    /** Index of the `poll` word. */
    readonly poll: number,
    readonly now: () => number,
    /** Whether the host has a core for a thread that only looks. */
    readonly coreFree: () => boolean,
    /** Called before the thread sleeps (−1) and after it (1). */
    readonly countRunning: (change: 1 | -1) => void,
  ) {}

  /** Come back when `poll` is not zero, or soon after `milliseconds`. */
  wait(milliseconds: number): void {
    const began = this.now();
    if (this.#look > 0 && began >= this.#busyUntil && this.coreFree()) {
      const end = began + Math.min(this.#look, milliseconds * 1e6);
      for (let now = began, last = began; now < end; last = now) {
        for (let i = 0; i < LOOKS; i++) if (Atomics.load(this.i32, this.poll) !== 0) return;
        now = this.now();
        if (now - last > LOST_CORE) this.#busyUntil = now + BACK_OFF;
      }
    }
    aboutToWait("halted vCPU");
    this.countRunning(-1);
    Atomics.wait(this.i32, this.poll, 0, milliseconds - (this.now() - began) / 1e6);
    this.countRunning(1);
    this.#look = this.now() - began > LONGEST ? 0 : Math.min(Math.max(2 * this.#look, FIRST), LONGEST);
  }
}
