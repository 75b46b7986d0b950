/**
 * The console's output on providers that can gather port writes (`Vm.coalesced`): a guest that prints would else make an exit for
 * each character. Gathering is on only while a guest prints, so that an idle one costs nothing.
 *
 * Gathered writes are served before anything else that the guest does (`serve`, after each exit), in their order. A guest that
 * makes no exits is made to, every few milliseconds.
 */
import type { CoalescedWrites, Vm, VmExit } from "../hypervisor/seam.js";
import type { Clock } from "../memory/clock.js";
import { Layout, type ViewOf } from "../memory/layout.js";
import type { SharedMemory } from "../memory/shared-memory.js";
import type { StateAllocator } from "../memory/state-allocator.js";
import type { Timer, Timers } from "../memory/timers.js";

const GATHERED_OUTPUT = new Layout("gathered-output", {
  /** 1 while the port's writes gather. */
  on: "u32",
  /** 1 while a thread serves what has gathered. */
  serving: "u32",
  /** Writes that made exits since `since`, a time of the clock. */
  writes: "u32",
  /** Looks at the ring, one after the other, that found nothing. */
  idle: "u32",
  since: "f64",
});

const MILLISECOND = 1e6;
/** How long a write may wait, in clock nanoseconds. */
const PERIOD = 4 * MILLISECOND;
/** So many writes within a period: the guest prints. */
const BURST = 8;
/** So many periods without a write: it is done. */
const IDLE_PERIODS = 8;
/** A waiting thread looks again so often, for the machine may have ended. */
const WAIT_MILLISECONDS = 20;

export class GatheredOutput {
  readonly #state: ViewOf<typeof GATHERED_OUTPUT>;
  readonly #words: Int32Array;
  readonly #serving: number;
  readonly #on: number;
  readonly #writes: CoalescedWrites | undefined;
  readonly #timer: Timer;

  constructor(
    memory: SharedMemory,
    allocator: StateAllocator,
    timers: Timers,
    readonly clock: Clock,
    readonly vm: Vm,
    /** The port whose writes gather. */
    readonly port: number,
    /** Wraps a sleep of a vCPU's thread until another's writes are served, which may be for ever. */
    readonly whileWaiting: (sleep: () => void) => void,
  ) {
    this.#state = allocator.alloc(GATHERED_OUTPUT, "gathered-output");
    this.#words = memory.i32;
    this.#serving = (this.#state.address + GATHERED_OUTPUT.offset.serving) >>> 2;
    this.#on = (this.#state.address + GATHERED_OUTPUT.offset.on) >>> 2;
    this.#writes = vm.coalesced;
    this.#timer = timers.create(() => this.#look());
  }

  /** Serve what has gathered; to be called on a vCPU's thread after each of its exits, before the exit itself is served. */
  serve(serveIo: (write: VmExit) => void, ended: () => boolean): void {
    const writes = this.#writes;
    if (writes === undefined) return;
    while (writes.pending && !ended()) {
      if (Atomics.compareExchange(this.#words, this.#serving, 0, 1) !== 0) {
        this.whileWaiting(() => Atomics.wait(this.#words, this.#serving, 1, WAIT_MILLISECONDS));
        continue;
      }
      try {
        writes.drain(serveIo);
      } finally {
        Atomics.store(this.#words, this.#serving, 0);
        Atomics.notify(this.#words, this.#serving);
      }
    }
  }

  /** An exit for a write to the port was served. */
  written(): void {
    const state = this.#state;
    if (this.#writes === undefined || state.on !== 0) return;
    const now = this.clock.now();
    if (now - state.since > PERIOD) {
      state.since = now;
      state.writes = 0;
    }
    if (++state.writes < BURST || Atomics.compareExchange(this.#words, this.#on, 0, 1) !== 0) return;
    state.idle = 0;
    this.#writes.setPort(this.port, true);
    this.#timer.arm(now + PERIOD);
  }

  /** On the timer thread, which does not serve writes itself: the UART may make it wait for a reader. */
  #look(): void {
    const state = this.#state;
    if (this.#writes!.pending) {
      state.idle = 0;
      this.vm.vcpu(0).kick();
    } else if (++state.idle >= IDLE_PERIODS) {
      this.#writes!.setPort(this.port, false);
      state.writes = 0;
      Atomics.store(this.#words, this.#on, 0);
      return;
    }
    this.#timer.arm(this.clock.now() + PERIOD);
  }
}
