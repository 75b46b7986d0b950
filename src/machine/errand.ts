/**
 * Something that the main thread wants done to a device and waits for. The timer thread does it: the main thread takes no
 * device's lock, so that it stays able to end the machine whatever became of the thread that holds one.
 */
import { Layout } from "../memory/layout.js";
import type { SharedMemory } from "../memory/shared-memory.js";
import type { StateAllocator } from "../memory/state-allocator.js";
import type { Timer, Timers } from "../memory/timers.js";

const ERRAND = new Layout("errand", {
  /** Times that it was done. */
  done: "u32",
});

export class Errand {
  readonly #words: Int32Array;
  readonly #done: number;
  readonly #timer: Timer;

  constructor(
    memory: SharedMemory,
    allocator: StateAllocator,
    timers: Timers,
    readonly name: string,
    work: () => void,
  ) {
    this.#words = memory.i32;
    this.#done = (allocator.alloc(ERRAND, name).address + ERRAND.offset.done) >>> 2;
    this.#timer = timers.create(() => {
      work();
      Atomics.add(this.#words, this.#done, 1);
      Atomics.notify(this.#words, this.#done);
    });
  }

  /** Resolves when it is done, one errand of this kind at a time. Rejects where that takes longer than `milliseconds`. */
  async run(milliseconds: number): Promise<void> {
    const before = Atomics.load(this.#words, this.#done);
    this.#timer.arm(0);
    const result = Atomics.waitAsync(this.#words, this.#done, before, milliseconds);
    if (result.async && (await result.value) === "timed-out") {
      throw new Error(`${this.name}: the machine does not get to it`);
    }
  }
}
