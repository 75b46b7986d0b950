/**
 * The machine's life in shared memory: whether its vCPUs are to run, and how it ended. Any thread may end the machine;
 * the first to do so says why, and the main thread, which waits here, takes everything down (threads.ts).
 */
import { array, Layout, type ViewOf } from "../memory/layout.js";
import type { SharedMemory } from "../memory/shared-memory.js";
import type { StateAllocator } from "../memory/state-allocator.js";
import { type End, EndReason } from "./exit-status.js";

const MAX_TEXT = 32 * 1024;

/** Order matters: a phase never goes back, but for PAUSED to RUNNING. */
export const Phase = {
  /** The machine is being put together; vCPU threads wait. */
  STARTING: 0,
  RUNNING: 1,
  PAUSED: 2,
  ENDED: 3,
} as const;
export type Phase = (typeof Phase)[keyof typeof Phase];

const LIFECYCLE = new Layout("lifecycle", {
  phase: "u32",
  /** Set by the thread that gets to say why the machine ended. */
  claimed: "u32",
  reason: "u32",
  /** DEBUG_EXIT: the exit status. */
  value: "u32",
  messageLength: "u32",
  detailLength: "u32",
  /** vCPU threads that stand still: because of PAUSED, or because nobody reads the guest's output. */
  parked: "u32",
  /** Incremented and notified when threads that stand still have to look around. */
  attention: "u32",
  /** What the guest's command ended with, plus 1; 0: nothing reported. */
  commandStatus: "u32",
  /** Clock nanoseconds of the first `run` of a vCPU; 0: none yet. */
  firstRun: "f64",
  /** Milliseconds of the host's monotonic clock: when the machine ended, and when the last vCPU until now stopped for it. */
  endedAt: "f64",
  stoppedAt: "f64",
  text: array("u8", MAX_TEXT),
});

/** The same clock in all threads. */
const monotonic = () => Number(process.hrtime.bigint()) / 1e6;

export class Lifecycle {
  readonly #state: ViewOf<typeof LIFECYCLE>;
  readonly #words: Int32Array;
  readonly #phase: number;
  readonly #claimed: number;
  readonly #parked: number;
  readonly #attention: number;
  /** Called on this thread, which is a vCPU's, while it stands still and somebody called `callAttention`. */
  onAttention: () => void = () => {};

  constructor(memory: SharedMemory, allocator: StateAllocator) {
    this.#state = allocator.alloc(LIFECYCLE, "lifecycle");
    this.#words = memory.i32;
    const { address } = this.#state;
    this.#phase = (address + LIFECYCLE.offset.phase) >>> 2;
    this.#claimed = (address + LIFECYCLE.offset.claimed) >>> 2;
    this.#parked = (address + LIFECYCLE.offset.parked) >>> 2;
    this.#attention = (address + LIFECYCLE.offset.attention) >>> 2;
  }

  get phase(): Phase {
    return Atomics.load(this.#words, this.#phase) as Phase;
  }

  get ended(): boolean {
    return this.phase === Phase.ENDED;
  }

  /** Let the vCPUs run, or stop them. False where the machine has ended. */
  setRunning(running: boolean): boolean {
    const next = running ? Phase.RUNNING : Phase.PAUSED;
    for (;;) {
      const now = this.phase;
      if (now === Phase.ENDED) return false;
      if (Atomics.compareExchange(this.#words, this.#phase, now, next) === now) break;
    }
    Atomics.notify(this.#words, this.#phase);
    this.callAttention();
    return true;
  }

  /** End the machine. False where another thread was first; its reason stands. */
  end(end: End): boolean {
    if (Atomics.compareExchange(this.#words, this.#claimed, 0, 1) !== 0) return false;
    this.#state.endedAt = monotonic();
    this.#state.reason = end.reason;
    this.#state.value = end.value ?? 0;
    const encoder = new TextEncoder();
    const message = encoder.encodeInto(end.message ?? "", this.#state.text.subarray(0, MAX_TEXT / 2)).written;
    this.#state.messageLength = message;
    this.#state.detailLength = encoder.encodeInto(
      end.detail ?? "",
      this.#state.text.subarray(message),
    ).written;
    Atomics.store(this.#words, this.#phase, Phase.ENDED);
    Atomics.notify(this.#words, this.#phase);
    this.callAttention();
    return true;
  }

  /** This thread's vCPU does not run any more. */
  vcpuStopped(): void {
    this.#state.stoppedAt = monotonic();
  }

  /** Milliseconds from the machine's end until its vCPUs had all stopped. Once their threads are gone. */
  get stopMilliseconds(): number {
    const { endedAt, stoppedAt } = this.#state;
    return Math.max(stoppedAt - endedAt, 0);
  }

  /** End the machine because of an error that nothing else handled. */
  fail(where: string, error: unknown): void {
    const text = error instanceof Error ? error.message : String(error);
    const detail = error instanceof Error ? error.stack : undefined;
    this.end({
      reason: EndReason.FAILURE,
      message: `${where}: ${text.split("\n", 1)[0]}`,
      ...(detail === undefined ? {} : { detail }),
    });
  }

  /** How the machine ended. Only after `ended`. */
  get result(): End {
    const { messageLength, detailLength, text } = this.#state;
    // TextDecoder takes no shared memory: copy first.
    const decode = (from: number, to: number) => new TextDecoder().decode(text.slice(from, to));
    const message = decode(0, messageLength);
    const detail = decode(messageLength, messageLength + detailLength);
    return {
      reason: this.#state.reason as EndReason,
      value: this.#state.value,
      ...(message === "" ? {} : { message }),
      ...(detail === "" ? {} : { detail }),
    };
  }

  /** Resolves once the machine has ended. For the main thread. */
  async waitForEnd(): Promise<void> {
    for (let phase = this.phase; phase !== Phase.ENDED; phase = this.phase) {
      const result = Atomics.waitAsync(this.#words, this.#phase, phase);
      if (result.async) await result.value;
    }
  }

  /** Block a thread that is no vCPU's until the machine is started or has ended. */
  waitUntilStarted(): void {
    while (this.phase === Phase.STARTING) Atomics.wait(this.#words, this.#phase, Phase.STARTING);
  }

  /** Block a vCPU thread until the machine runs or has ended. */
  waitUntilRunning(): void {
    this.#park();
    this.#standStill();
    Atomics.sub(this.#words, this.#parked, 1);
  }

  /**
   * Let a vCPU thread `sleep` in the middle of an access, for somebody who may never come: meanwhile it counts as standing
   * still, and goes on only if the machine runs.
   */
  whileStandingStill(sleep: () => void): void {
    this.#park();
    sleep();
    this.#standStill();
    Atomics.sub(this.#words, this.#parked, 1);
  }

  #park(): void {
    Atomics.add(this.#words, this.#parked, 1);
    Atomics.notify(this.#words, this.#parked);
  }

  #standStill(): void {
    for (;;) {
      const seen = Atomics.load(this.#words, this.#attention);
      this.onAttention();
      const { phase } = this;
      if (phase === Phase.RUNNING || phase === Phase.ENDED) return;
      Atomics.wait(this.#words, this.#attention, seen);
    }
  }

  /** Have threads that stand still call their `onAttention`. Any thread. */
  callAttention(): void {
    Atomics.add(this.#words, this.#attention, 1);
    Atomics.notify(this.#words, this.#attention);
  }

  /** Resolves once `count` vCPU threads stand still, or the machine has ended. For the main thread. */
  async waitUntilParked(count: number): Promise<void> {
    for (;;) {
      const parked = Atomics.load(this.#words, this.#parked);
      if (parked >= count || this.ended) return;
      // The end of the machine is not notified on this word: look again now and then.
      const result = Atomics.waitAsync(this.#words, this.#parked, parked, 50);
      if (result.async) await result.value;
    }
  }

  /** Block this thread for at most `milliseconds`, or until the phase changes. */
  sleep(milliseconds: number): void {
    Atomics.wait(this.#words, this.#phase, this.phase, milliseconds);
  }

  get commandStatus(): number | undefined {
    const value = this.#state.commandStatus;
    return value === 0 ? undefined : value - 1;
  }

  set commandStatus(status: number) {
    this.#state.commandStatus = status + 1;
  }

  /** Clock nanoseconds when a vCPU first ran, or 0. */
  get firstRun(): number {
    return this.#state.firstRun;
  }

  set firstRun(now: number) {
    this.#state.firstRun = now;
  }
}
