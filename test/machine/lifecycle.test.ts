/** The lifecycle record: who ends the machine, and what is told of it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { EndReason, exitStatus } from "../../src/machine/exit-status.js";
import { Lifecycle, Phase } from "../../src/machine/lifecycle.js";
import { PanicWatch } from "../../src/machine/panic-watch.js";
import { SharedMemory } from "../../src/memory/shared-memory.js";
import { StateAllocator } from "../../src/memory/state-allocator.js";

/** Two views of one record, as two threads have them. */
function twoViews(): [Lifecycle, Lifecycle] {
  const memory = SharedMemory.create(4 * 65536);
  const view = () => new Lifecycle(memory, new StateAllocator(memory, 4096, memory.size));
  return [view(), view()];
}

test("the first end stands, in every view", async () => {
  const [a, b] = twoViews();
  assert.equal(a.end({ reason: EndReason.CRASH, message: "täst", detail: "one\ntwo" }), true);
  assert.equal(b.end({ reason: EndReason.POWEROFF }), false);
  await b.waitForEnd();
  assert.deepEqual(b.result, { reason: EndReason.CRASH, value: 0, message: "täst", detail: "one\ntwo" });
});

test("a text that is too long is cut, not refused", () => {
  const [a] = twoViews();
  a.end({ reason: EndReason.FAILURE, message: "ä".repeat(50_000), detail: "x".repeat(100_000) });
  const { message, detail } = a.result;
  assert.match(message!, /^ä+$/);
  assert.match(detail!, /^x+$/);
});

test("an unexpected error is one line", () => {
  const [a] = twoViews();
  a.fail("vcpu-0", new Error("first\nsecond"));
  assert.equal(a.result.message, "vcpu-0: first");
  const [b] = twoViews();
  b.fail("timer", "just text");
  assert.equal(b.result.message, "timer: just text");
});

test("phases: nothing runs after the end", async () => {
  const [a, b] = twoViews();
  assert.equal(a.phase, Phase.STARTING);
  assert.equal(a.setRunning(true), true);
  assert.equal(b.phase, Phase.RUNNING);
  assert.equal(b.setRunning(false), true);
  const end = a.waitForEnd();
  b.end({ reason: EndReason.STOPPED });
  await end;
  assert.equal(a.setRunning(true), false);
  assert.equal(a.phase, Phase.ENDED);
  // Threads that wait to run are let go.
  a.waitUntilRunning();
});

test("the status of a command in the guest", () => {
  const status = (end: EndReason, commandStatus?: number, panic?: string) =>
    exitStatus({ reason: end }, { command: true, commandStatus, panic });
  assert.equal(status(EndReason.POWEROFF, 0).code, 0);
  assert.equal(status(EndReason.POWEROFF, 143).code, 143);
  assert.equal(status(EndReason.POWEROFF, undefined).code, 1);
  assert.equal(status(EndReason.POWEROFF, undefined).message, "the guest ended before its command did");
  assert.equal(status(EndReason.REBOOT, undefined, "oops").message, "the guest's kernel panicked: oops");
  assert.equal(status(EndReason.TIMEOUT, 0).code, 124);
});

test("a panic is recognized wherever reads cut it", () => {
  const text =
    "boot\r\n[    2.5] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\r\nmore\r\n";
  for (let cut = 0; cut <= text.length; cut++) {
    const watch = new PanicWatch();
    watch.feed(Buffer.from(text.slice(0, cut)));
    watch.feed(Buffer.from(text.slice(cut)));
    assert.equal(watch.message, "Attempted to kill init! exitcode=0x00000100");
  }
  const quiet = new PanicWatch();
  quiet.feed(Buffer.from(`Kernel panic\n${"x".repeat(100_000)}Kernel panic - not`));
  assert.equal(quiet.message, undefined);
});
