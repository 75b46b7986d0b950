// Threads with their own objects over one state: interrupts sent by several at once all arrive.
import assert from "node:assert/strict";
import test from "node:test";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { SharedMemory } from "../../../src/memory/shared-memory.js";
import { Fixture } from "./fixture.js";

const ROUNDS = 2000;
const SENDERS = 2;
/** Far longer than any wait on a loaded machine. */
const LOST_MS = 20_000;
/** Vectors of sender n: all in one IRR word, so that senders and receiver meet there. */
const VECTORS = [
  [0x41, 0x42, 0x43],
  [0x51, 0x52, 0x53],
];

interface Job {
  memory: WebAssembly.Memory;
  /** Interrupts received, by vector. */
  received: Int32Array;
  sender: number;
}

function send({ memory, received, sender }: Job): void {
  const f = new Fixture(1, new SharedMemory(memory));
  for (let round = 1; round <= ROUNDS; round++) {
    for (const vector of VECTORS[sender]) {
      f.chip.routing.signalMsi({ address: 0xfee00000n, data: vector });
    }
    // An edge that comes before the last one was taken is merged with it: wait.
    for (const vector of VECTORS[sender]) {
      if (Atomics.wait(received, vector, round - 1, LOST_MS) === "timed-out") {
        throw new Error(`vector 0x${vector.toString(16)} was lost in round ${round}`);
      }
    }
  }
}

if (isMainThread) {
  test("no interrupt is lost between threads", async () => {
    const f = new Fixture(1);
    f.enableAll();
    const received = new Int32Array(new SharedArrayBuffer(256 * 4));
    const workers = Array.from(
      { length: SENDERS },
      (_, sender) =>
        new Worker(new URL(import.meta.url), {
          workerData: { memory: f.memory.memory, received, sender } satisfies Job,
        }),
    );
    const done = workers.map(
      (worker) => new Promise((resolve, reject) => worker.on("message", resolve).on("error", reject)),
    );
    let over = false;
    const finished = Promise.all(done).finally(() => {
      over = true;
    });
    while (!over) {
      for (let i = 0; i < 1000; i++) {
        for (const vector of f.drain(0)) {
          Atomics.add(received, vector, 1);
          Atomics.notify(received, vector);
        }
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
    await finished;
    for (const vector of VECTORS.flat()) assert.equal(received[vector], ROUNDS);
    await Promise.all(workers.map((worker) => worker.terminate()));
  });
} else {
  send(workerData as Job);
  parentPort?.postMessage("done");
}
