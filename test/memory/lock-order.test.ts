import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { afterEach, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { ByteRing } from "../../src/memory/byte-ring.js";
import { createLockOrderTable, LockOrder, LockOrderError } from "../../src/memory/lock-order.js";
import { Mutex, observeLocks } from "../../src/memory/mutex.js";
import { SharedMemory } from "../../src/memory/shared-memory.js";
import { StateAllocator } from "../../src/memory/state-allocator.js";

afterEach(() => observeLocks(undefined));

function locks(...classes: string[]): Mutex[] {
  const memory = SharedMemory.create(65536);
  return classes.map((name, i) => new Mutex(name, memory, 64 * (i + 1)));
}

function nest(outer: Mutex, inner: Mutex): void {
  outer.with(() => inner.with(() => undefined));
}

test("locks taken in one order are no violation", () => {
  observeLocks(new LockOrder());
  const [a, b, c] = locks("a", "b", "c");
  for (let i = 0; i < 3; i++) {
    nest(a, b);
    nest(b, c);
    nest(a, c);
  }
});

test("a planted inversion is reported with both chains, and the lock is not taken", () => {
  const order = new LockOrder();
  observeLocks(order);
  const [a, b] = locks("uart", "irqchip");
  nest(a, b);
  assert.throws(
    () => nest(b, a),
    (error: Error) => {
      assert.ok(error instanceof LockOrderError);
      assert.match(error.message, /now irqchip -> uart/);
      assert.match(error.message, /before uart -> irqchip/);
      return true;
    },
  );
  assert.equal(order.depth, 0);
  a.with(() => undefined);
});

test("an inversion through a third class is found", () => {
  observeLocks(new LockOrder());
  const [a, b, c] = locks("a", "b", "c");
  nest(a, b);
  nest(b, c);
  assert.throws(() => nest(c, a), /between "c" and "a": now c -> a .*; before a -> b .*, b -> c/);
});

test("a lock taken twice, and two locks of one class, are reported", () => {
  observeLocks(new LockOrder());
  const [a, b] = locks("uart", "uart");
  assert.throws(() => nest(a, a), /taken twice/);
  assert.throws(() => nest(a, b), /two locks of class "uart"/);
});

test("a release without the lock is reported", () => {
  observeLocks(new LockOrder());
  const [a] = locks("a");
  assert.throws(() => a.unlock(), /released by a thread that does not hold it/);
});

test("a lock held across a wait is reported", () => {
  observeLocks(new LockOrder());
  const memory = SharedMemory.create(65536);
  const ring = ByteRing.allocate(new StateAllocator(memory, 1024, 65536), "ring", 4);
  const lock = new Mutex("device", memory, 64);
  ring.write(new Uint8Array(4));
  assert.throws(() => lock.with(() => ring.waitForSpace(1)), /waiting for byte ring with locks held: device/);
  assert.throws(() => lock.with(() => ring.writeAll(new Uint8Array(1))), /with locks held/);
  ring.waitForSpace(1);
});

test("an inversion between two threads is found through a shared table", async () => {
  const table = createLockOrderTable();
  const module = new URL("../../src/memory/", import.meta.url).href;
  const worker = new Worker(
    `const { workerData } = require("node:worker_threads");
     (async () => {
       const { LockOrder } = await import("${module}lock-order.js");
       const { Mutex, observeLocks } = await import("${module}mutex.js");
       const { SharedMemory } = await import("${module}shared-memory.js");
       observeLocks(new LockOrder(workerData));
       const memory = SharedMemory.create(65536);
       const inner = new Mutex("inner", memory, 64);
       new Mutex("outer", memory, 128).with(() => inner.with(() => undefined));
     })();`,
    { eval: true, workerData: table },
  );
  await new Promise<void>((resolve, reject) => worker.on("exit", resolve).on("error", reject));
  observeLocks(new LockOrder(table));
  const [inner, outer] = locks("inner", "outer");
  assert.throws(() => nest(inner, outer), /now inner -> outer .*; before outer -> inner \(thread [1-9]/);
});

test("NLKT_LOCKDEP=1 turns validation on, and nothing else does", () => {
  const module = (name: string) => fileURLToPath(new URL(`../../src/memory/${name}.js`, import.meta.url));
  const program = `
    import { validateLocksIfAsked } from ${JSON.stringify(module("lock-order"))};
    import { Mutex } from ${JSON.stringify(module("mutex"))};
    import { SharedMemory } from ${JSON.stringify(module("shared-memory"))};
    validateLocksIfAsked();
    const memory = SharedMemory.create(65536);
    const [a, b] = [new Mutex("a", memory, 64), new Mutex("b", memory, 128)];
    a.with(() => b.with(() => undefined));
    try { b.with(() => a.with(() => undefined)); console.log("silent"); } catch (error) { console.log(error.message); }`;
  const run = (value: string) =>
    execFileSync(process.execPath, ["--input-type=module", "-e", program], {
      // Without the hook of `npm test`, which validates whatever the variable says.
      env: { ...process.env, NODE_OPTIONS: "", NLKT_LOCKDEP: value },
      encoding: "utf8",
    });
  assert.match(run("1"), /lock order inversion/);
  assert.match(run("0"), /silent/);
});
