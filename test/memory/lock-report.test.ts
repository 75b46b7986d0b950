/** Who holds which lock and who waits for it, as another thread reads it from shared memory. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { LockThreads } from "../../src/memory/lock-report.js";
import { Mutex } from "../../src/memory/mutex.js";
import { SharedMemory } from "../../src/memory/shared-memory.js";
import { StateAllocator } from "../../src/memory/state-allocator.js";

const A = 1024;
const B = 1028;
const COUNTER = 1032;
const GATE = 1036;

interface Order {
  readonly memory: WebAssembly.Memory;
  readonly name: string;
  readonly body: keyof typeof BODIES;
}

/** The same objects as every thread of these tests has. */
function attach(memory: SharedMemory) {
  const threads = new LockThreads(memory, new StateAllocator(memory, 4096, memory.size));
  return { memory, threads, a: new Mutex("a", memory, A), b: new Mutex("b", memory, B) };
}
type Attached = ReturnType<typeof attach>;

const ROUNDS = 20_000;

const BODIES = {
  /** Holds `a` until the gate opens. */
  hold({ memory, a }: Attached) {
    a.lock();
    parentPort!.postMessage("holds");
    Atomics.wait(memory.i32, GATE >>> 2, 0);
    a.unlock();
  },
  waitFor({ a }: Attached) {
    parentPort!.postMessage("waits");
    a.lock();
    a.unlock();
  },
  /** Increments a plain word under `a`. */
  count({ memory, a }: Attached) {
    for (let i = 0; i < ROUNDS; i++) {
      a.lock();
      memory.i32[COUNTER >>> 2]++;
      a.unlock();
    }
  },
} as const;

function startThread(memory: SharedMemory, name: string, body: keyof typeof BODIES): Worker {
  const order: Order = { memory: memory.memory, name, body };
  return new Worker(new URL(import.meta.url), { workerData: order });
}

/** Look until what is seen is right: a thread that waits takes a moment to get there. */
async function until(seen: () => unknown, expected: unknown): Promise<void> {
  for (let i = 0; i < 500; i++) {
    if (JSON.stringify(seen()) === JSON.stringify(expected)) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.deepEqual(seen(), expected);
}

if (isMainThread) {
  test("no lock is held", () => {
    const { threads } = attach(SharedMemory.create(4 * 65536));
    assert.deepEqual(threads.locks, []);
  });

  test("the main thread's own locks", () => {
    const { threads, b } = attach(SharedMemory.create(4 * 65536));
    b.lock();
    assert.deepEqual(threads.locks, [{ lockClass: "b", address: B, holder: "main", waiters: [] }]);
    b.unlock();
    assert.deepEqual(threads.locks, []);
  });

  test("the holder and two that wait, by name", async () => {
    const { memory, threads } = attach(SharedMemory.create(4 * 65536));
    const holder = startThread(memory, "vcpu-0", "hold");
    await once(holder, "message");
    const waiters = ["vcpu-1", "timer"].map((name) => startThread(memory, name, "waitFor"));
    const look = () => threads.locks.map((lock) => ({ ...lock, waiters: lock.waiters.toSorted() }));
    await until(look, [{ lockClass: "a", address: A, holder: "vcpu-0", waiters: ["timer", "vcpu-1"] }]);
    Atomics.store(memory.i32, GATE >>> 2, 1);
    Atomics.notify(memory.i32, GATE >>> 2);
    await Promise.all([holder, ...waiters].map((thread) => once(thread, "exit")));
    assert.deepEqual(threads.locks, []);
  });

  test("mutual exclusion, and nobody is left asleep", async () => {
    const { memory, threads } = attach(SharedMemory.create(4 * 65536));
    const workers = Array.from({ length: 4 }, (_, i) => startThread(memory, `t${i}`, "count"));
    await Promise.all(workers.map((thread) => once(thread, "exit")));
    assert.equal(memory.i32[COUNTER >>> 2], 4 * ROUNDS);
    assert.deepEqual(threads.locks, []);
  });
} else {
  const { memory, name, body } = workerData as Order;
  const attached = attach(new SharedMemory(memory));
  attached.threads.enter(name);
  BODIES[body](attached);
}
