/** When the Workers for devices may be at a request. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { machineParts } from "./busy-machine.js";

test("nothing is served but while the machine runs", () => {
  const { lifecycle, threads } = machineParts();
  let served = 0;
  const serve = () => {
    served++;
    return true;
  };
  assert.equal(threads.whileRunning(lifecycle, serve), false);
  lifecycle.setRunning(true);
  assert.equal(threads.whileRunning(lifecycle, serve), true);
  lifecycle.setRunning(false);
  assert.equal(threads.whileRunning(lifecycle, serve), false);
  assert.equal(served, 1);
});

test("a pause waits for the request that is being served", async () => {
  const { memory, lifecycle, threads, words, word } = machineParts();
  lifecycle.setRunning(true);
  const workerData = { memory: memory.memory, busy: word, leave: word + 1 };
  const worker = new Worker(new URL("./busy-worker.js", import.meta.url), { workerData });
  const exited = once(worker, "exit");
  const atIt = Atomics.waitAsync(words, word, 0);
  if (atIt.async) await atIt.value;
  lifecycle.setRunning(false);
  let isQuiet = false;
  const quiet = threads.waitUntilQuiet(lifecycle).then(() => {
    isQuiet = true;
  });
  await sleep(20);
  assert.equal(isQuiet, false);
  Atomics.store(words, word + 1, 1);
  Atomics.notify(words, word + 1);
  await quiet;
  await exited;
});

test("an error leaves no Worker behind as busy", async () => {
  const { lifecycle, threads } = machineParts();
  lifecycle.setRunning(true);
  assert.throws(() =>
    threads.whileRunning(lifecycle, () => {
      throw new Error("a disk broke");
    }),
  );
  await threads.waitUntilQuiet(lifecycle);
});
