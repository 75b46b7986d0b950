/**
 * What other threads see of a vCPU's thread, in shared memory: how often the guest was left and why, and, when they ask
 * for it, its register dump. The vCPU's own thread makes the dump, because only there all of its state is whole.
 */
import { ExitReason } from "../hypervisor/seam.js";
import { array, Layout, type ViewOf } from "../memory/layout.js";
import type { SharedMemory } from "../memory/shared-memory.js";
import type { StateAllocator } from "../memory/state-allocator.js";

/** KVM_EXIT_* go on; what is beyond is counted as the last. */
const EXIT_REASONS = 64;
const MAX_TEXT = 32 * 1024;

const VCPU_MONITOR = new Layout("vcpu-monitor", {
  /** Times that a dump was asked for, and was made. */
  asked: "u32",
  answered: "u32",
  textLength: "u32",
  /** Exits by KVM_EXIT_* number. Written by the vCPU's thread only. */
  exits: array("f64", EXIT_REASONS),
  text: array("u8", MAX_TEXT),
});

/** `io`, `internal-error` …, by number. */
const EXIT_NAMES = new Map<number, string>(
  Object.entries(ExitReason).map(([name, reason]) => [reason, name.toLowerCase().replaceAll("_", "-")]),
);

export class VcpuMonitor {
  readonly #state: ViewOf<typeof VCPU_MONITOR>;
  readonly #exits: Float64Array;
  readonly #words: Int32Array;
  readonly #asked: number;
  readonly #answered: number;

  constructor(memory: SharedMemory, allocator: StateAllocator, id: number) {
    this.#state = allocator.alloc(VCPU_MONITOR, `vcpu-monitor${id}`);
    this.#exits = this.#state.exits;
    this.#words = memory.i32;
    this.#asked = (this.#state.address + VCPU_MONITOR.offset.asked) >>> 2;
    this.#answered = (this.#state.address + VCPU_MONITOR.offset.answered) >>> 2;
  }

  /** An exit happened. By the vCPU's thread. */
  count(reason: ExitReason): void {
    this.#exits[Math.min(reason, EXIT_REASONS - 1)]++;
  }

  /** Exits by cause, those that happened. */
  get exits(): Record<string, number> {
    const result: Record<string, number> = {};
    this.#exits.forEach((count, reason) => {
      if (count > 0) result[EXIT_NAMES.get(reason) ?? `reason-${reason}`] = count;
    });
    return result;
  }

  /** Give whoever asked what `dump` makes. By the vCPU's thread, between two instructions or in the middle of an exit. */
  answer(dump: () => string): void {
    const asked = Atomics.load(this.#words, this.#asked);
    if (Atomics.load(this.#words, this.#answered) === asked) return;
    let text: string;
    try {
      text = dump();
    } catch (error) {
      text = `no registers: ${(error as Error).message}`;
    }
    this.#state.textLength = new TextEncoder().encodeInto(text, this.#state.text).written;
    Atomics.store(this.#words, this.#answered, asked);
    Atomics.notify(this.#words, this.#answered);
  }

  /** Ask for a dump, to be read once `answer` is resolved. One at a time, by the main thread. */
  ask(): void {
    Atomics.add(this.#words, this.#asked, 1);
  }

  /** The dump that was asked for, or undefined where it does not come in `milliseconds`. */
  async dump(milliseconds: number): Promise<string | undefined> {
    const deadline = performance.now() + milliseconds;
    for (;;) {
      const answered = Atomics.load(this.#words, this.#answered);
      if (answered === Atomics.load(this.#words, this.#asked)) break;
      const left = deadline - performance.now();
      if (left <= 0) return undefined;
      const result = Atomics.waitAsync(this.#words, this.#answered, answered, left);
      if (result.async) await result.value;
    }
    // TextDecoder takes no shared memory: copy first.
    return new TextDecoder().decode(this.#state.text.slice(0, this.#state.textLength));
  }
}
