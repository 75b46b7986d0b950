import assert from "node:assert/strict";
import { test } from "node:test";
import { gsiLine, WiredOr } from "../../src/devices/interrupt-line.js";
import { allocatorOver, newMemory, RecordedLine, validateLocks } from "./support.js";

validateLocks();

test("a shared line is high while any input is", () => {
  const output = new RecordedLine();
  const line = new WiredOr(allocatorOver(newMemory()), "irq4", output);
  line.reset();
  const [com1, com3] = [line.input(), line.input()];
  com1.set(true);
  assert.equal(output.level, true);
  com3.set(true);
  com1.set(false);
  assert.equal(output.level, true);
  com1.set(false);
  com3.set(false);
  assert.equal(output.level, false);
  assert.equal(output.calls, 2, "the output is set only when it changes");
});

test("two threads' objects over one state agree on the level", () => {
  const memory = newMemory();
  const output = new RecordedLine();
  const here = new WiredOr(allocatorOver(memory), "irq4", output);
  const there = new WiredOr(allocatorOver(memory), "irq4", output);
  here.reset();
  const [a] = [here.input(), here.input()];
  const [, b] = [there.input(), there.input()];
  a.set(true);
  b.set(true);
  a.set(false);
  assert.equal(output.level, true);
  b.set(false);
  assert.equal(output.level, false);
});

test("a line takes 32 inputs, the last as good as the first", () => {
  const output = new RecordedLine();
  const line = new WiredOr(allocatorOver(newMemory()), "busy", output);
  line.reset();
  const inputs = Array.from({ length: 32 }, () => line.input());
  inputs[31].set(true);
  assert.equal(output.level, true);
  inputs[31].set(false);
  assert.equal(output.level, false);
  assert.throws(() => line.input(), /busy: more than 32 inputs/);
});

test("a GSI's line is the machine's", () => {
  const calls: [number, boolean][] = [];
  gsiLine({ setIrqLine: (gsi, level) => calls.push([gsi, level]) }, 4).set(true);
  assert.deepEqual(calls, [[4, true]]);
});
