/**
 * A thread that asks a vCPU to leave guest code, as `SoftVm.request` does, and notes when: `sent`, nanoseconds of the machine's
 * clock. It waits for the word `go` before each, and then for a millisecond or two.
 */
import { Worker, workerData } from "node:worker_threads";
import { Poll, Request } from "../../../src/hypervisor/soft/vcpu-state.js";
import { Clock } from "../../../src/memory/clock.js";

export interface Kicks {
  readonly memory: WebAssembly.Memory;
  readonly epoch: bigint;
  /** Byte offsets of the vCPU's words. */
  readonly poll: number;
  readonly requests: number;
  /** go, stop; then `sent` as a double. */
  readonly words: SharedArrayBuffer;
}

const Word = { GO: 0, STOP: 1 } as const;

export class Kicker {
  readonly #words: Int32Array;
  readonly #sent: Float64Array;
  readonly #worker: Worker;

  constructor(kicks: Omit<Kicks, "words">) {
    const words = new SharedArrayBuffer(16);
    this.#words = new Int32Array(words);
    this.#sent = new Float64Array(words, 8, 1);
    this.#worker = new Worker(new URL(import.meta.url), { workerData: { ...kicks, words } });
    this.#worker.unref();
  }

  /** One kick, soon. */
  go(): void {
    Atomics.store(this.#words, Word.GO, 1);
    Atomics.notify(this.#words, Word.GO);
  }

  /** When the last was sent. */
  get sent(): number {
    return this.#sent[0];
  }

  close(): void {
    Atomics.store(this.#words, Word.STOP, 1);
    this.go();
    void this.#worker.terminate();
  }
}

function run({ memory, epoch, poll, requests, words }: Kicks): void {
  const i32 = new Int32Array(memory.buffer);
  const own = new Int32Array(words);
  const sent = new Float64Array(words, 8, 1);
  const clock = new Clock(epoch);
  const nothing = new Int32Array(new SharedArrayBuffer(4));
  for (let n = 0; ; n++) {
    Atomics.wait(own, Word.GO, 0);
    if (Atomics.load(own, Word.STOP) !== 0) return;
    Atomics.store(own, Word.GO, 0);
    Atomics.wait(nothing, 0, 0, 1 + (n % 7) / 10);
    Atomics.or(i32, requests >>> 2, Request.KICK);
    sent[0] = clock.now();
    Atomics.or(i32, poll >>> 2, Poll.REQUEST);
    Atomics.notify(i32, poll >>> 2);
  }
}

const given = workerData as Partial<Kicks> | null;
if (given?.words !== undefined) run(given as Kicks);
