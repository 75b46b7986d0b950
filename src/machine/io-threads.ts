/**
 * The Workers that serve virtqueues (DESIGN, 2), as every thread sees them: a word each, which doorbells increment and the Worker sleeps
 * on. Worker 0 has an event loop, for sockets and terminals; each of the others has disks, and blocks in their system calls.
 */
import type { IoThread } from "../devices/virtio/device.js";
import { array, Layout } from "../memory/layout.js";
import type { StateAllocator } from "../memory/state-allocator.js";
import { type Lifecycle, Phase } from "./lifecycle.js";

/** The Worker with the event loop. */
export const IO_THREAD = 0;
/** Disks beyond so many share Workers. */
const MAX_DISK_THREADS = 4;

const IO_THREADS = new Layout("io-threads", {
  doorbells: array("u32", 1 + MAX_DISK_THREADS),
  /** Workers that may be at a request. */
  busy: "u32",
});

/**
 * A guest that waits for each request sends the next one soon after the answer. A Worker that slept meanwhile would have to be
 * woken, which takes longer than most requests: it looks at its doorbell for a while first, where that paid last time and
 * the host has a core for it. (As KVM does it for halted vCPUs: Linux, Documentation/virt/kvm/halt-polling.rst.)
 */
const FIRST_POLL_MICROSECONDS = 25;
const LONGEST_POLL_MICROSECONDS = 200;
/** Looks between two at the clock. */
const LOOKS = 32;

/** The end of the machine is not notified where `waitUntilQuiet` waits: it looks again so often. */
const LOOK_AGAIN_MILLISECONDS = 50;

/** Number of the Worker of disk `index`. */
export function diskThread(index: number): number {
  return 1 + (index % MAX_DISK_THREADS);
}

export class IoThreads {
  readonly #words: Int32Array;
  readonly #first: number;
  readonly #busy: number;

  constructor(
    allocator: StateAllocator,
    /** Disks of the machine. */
    readonly disks: number,
    /** Whether Workers may use a core for looking at their doorbells. */
    private readonly mayPoll = false,
  ) {
    const state = allocator.alloc(IO_THREADS, "io-threads");
    this.#words = allocator.memory.i32;
    this.#first = (state.address + IO_THREADS.offset.doorbells) >>> 2;
    this.#busy = (state.address + IO_THREADS.offset.busy) >>> 2;
  }

  /** Numbers of the Workers for disks. */
  get diskThreads(): number[] {
    return Array.from({ length: Math.min(this.disks, MAX_DISK_THREADS) }, (_, i) => 1 + i);
  }

  thread(number: number): IoThread {
    const index = this.#first + number;
    return {
      word: 4 * index,
      ring: () => {
        Atomics.add(this.#words, index, 1);
        Atomics.notify(this.#words, index);
      },
    };
  }

  ringAll(): void {
    for (let i = 0; i <= MAX_DISK_THREADS; i++) this.thread(i).ring();
  }

  /** Have all Workers look at the machine's phase; the first one only if there is work for it already. */
  phaseChanged(): void {
    if (this.seen(IO_THREAD) !== 0) this.thread(IO_THREAD).ring();
    for (const thread of this.diskThreads) this.thread(thread).ring();
  }

  /** Have a Worker `serve`, if the machine runs; false otherwise. What it does is not visible as half done to `waitUntilQuiet`. */
  whileRunning(lifecycle: Lifecycle, serve: () => boolean): boolean {
    // Before the look at the phase: who changes that and then finds no busy Worker knows that none will be.
    Atomics.add(this.#words, this.#busy, 1);
    try {
      return lifecycle.phase === Phase.RUNNING && serve();
    } finally {
      if (Atomics.sub(this.#words, this.#busy, 1) === 1) Atomics.notify(this.#words, this.#busy);
    }
  }

  /** Resolves once no Worker is at a request of a machine that was paused, or the machine has ended. For the main thread. */
  async waitUntilQuiet(lifecycle: Lifecycle): Promise<void> {
    for (;;) {
      const busy = Atomics.load(this.#words, this.#busy);
      if (busy === 0 || lifecycle.ended) return;
      const result = Atomics.waitAsync(this.#words, this.#busy, busy, LOOK_AGAIN_MILLISECONDS);
      if (result.async) await result.value;
    }
  }

  /** How often the doorbell of Worker `number` rang: to be passed to the waits below. */
  seen(number: number): number {
    return Atomics.load(this.#words, this.#first + number);
  }

  /** Sleep until the doorbell rang more often than `seen`. */
  wait(number: number, seen: number): void {
    const index = this.#first + number;
    if (!this.mayPoll) {
      Atomics.wait(this.#words, index, seen);
      return;
    }
    const from = performance.now();
    const until = from + this.#poll / 1000;
    while (performance.now() < until) {
      for (let i = 0; i < LOOKS; i++) if (Atomics.load(this.#words, index) !== seen) return;
    }
    Atomics.wait(this.#words, index, seen);
    const waited = (performance.now() - from) * 1000;
    this.#poll =
      waited > LONGEST_POLL_MICROSECONDS
        ? 0
        : Math.min(Math.max(2 * this.#poll, FIRST_POLL_MICROSECONDS), LONGEST_POLL_MICROSECONDS);
  }
  /** Microseconds that the next wait begins with looking. */
  #poll = 0;

  async waitAsync(number: number, seen: number): Promise<void> {
    const result = Atomics.waitAsync(this.#words, this.#first + number, seen);
    if (result.async) await result.value;
  }
}
