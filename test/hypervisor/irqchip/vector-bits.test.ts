import assert from "node:assert/strict";
import test from "node:test";
import { VectorBits } from "../../../src/hypervisor/soft/irqchip/vector-bits.js";

const SUMMARY = 8;

function bits(): VectorBits {
  return new VectorBits(new Int32Array(9), 0, SUMMARY);
}

test("every vector can be set, found and cleared", () => {
  const b = bits();
  for (let vector = 0; vector < 256; vector++) {
    assert.ok(b.empty);
    b.set(vector);
    assert.ok(b.has(vector) && !b.empty);
    assert.equal(b.highest(), vector);
    b.clear(vector);
    assert.equal(b.highest(), -1);
  }
  for (const vector of [3, 200, 31, 32, 255]) b.set(vector);
  const seen = [];
  for (let vector = b.highest(); vector >= 0; vector = b.highest()) {
    seen.push(vector);
    b.clear(vector);
  }
  assert.deepEqual(seen, [255, 200, 32, 31, 3]);
});

test("a bit that another thread sets while its word is being emptied is not lost", (t) => {
  const b = bits();
  b.set(0x41);
  const original = Atomics.and.bind(Atomics);
  // The other thread comes between the word's becoming zero and the summary's.
  t.mock.method(Atomics, "and", (words: Int32Array, index: number, value: number) => {
    if (index === SUMMARY) b.set(0x42);
    return original(words, index, value);
  });
  b.clear(0x41);
  assert.equal(b.highest(), 0x42);
});
