// Written from the 8254 data sheet (order 231164): counts and OUT of every mode at every tick.
import assert from "node:assert/strict";
import test from "node:test";
import { PIT_HZ, tickAt, timeOfTick } from "../../../src/hypervisor/soft/irqchip/pit.js";
import { Fixture } from "./fixture.js";

/** Set the clock to the PIT tick `tick`. */
function at(f: Fixture, tick: number): void {
  f.clock.time = timeOfTick(tick);
}

/** A fixture at tick 1000. */
function fixture(): Fixture {
  const f = new Fixture();
  at(f, 1000);
  return f;
}

function program(f: Fixture, counter: number, mode: number, count: number, bcd = 0): void {
  f.out(0x43, (counter << 6) | 0x30 | (mode << 1) | bcd);
  f.out(0x40 + counter, count & 0xff, count >> 8);
}

function count(f: Fixture, counter: number): number {
  f.out(0x43, counter << 6);
  return f.in(0x40 + counter) | (f.in(0x40 + counter) << 8);
}

function status(f: Fixture, counter: number): number {
  f.out(0x43, 0xe0 | (2 << counter));
  return f.in(0x40 + counter);
}

const out = (f: Fixture, counter: number) => status(f, counter) >> 7;
const out2 = (f: Fixture) => (f.in(0x61) >> 5) & 1;
const gate2 = (f: Fixture, level: number) => f.out(0x61, level);

/** [count, OUT] of counter 2 at ticks `first` to `last`. */
function trace(f: Fixture, first: number, last: number): [number, number][] {
  const result: [number, number][] = [];
  for (let tick = first; tick <= last; tick++) {
    at(f, tick);
    result.push([count(f, 2), out2(f)]);
  }
  return result;
}

test("the clock runs at 1193182 Hz", () => {
  assert.equal(PIT_HZ, 1193182);
  assert.equal(tickAt(1e9), 1193182);
  for (const tick of [0, 1, 2, 3, 1193181, 1193182, 123456789012, 1193182 * 86400 * 100]) {
    assert.equal(tickAt(timeOfTick(tick)), tick);
    if (tick > 0) assert.equal(tickAt(timeOfTick(tick) - 1), tick - 1);
  }
});

test("mode 0: OUT low from the control word, high at zero; counting goes on", () => {
  const f = fixture();
  gate2(f, 1);
  f.out(0x43, 0xb0);
  assert.equal(out2(f), 0);
  f.out(0x42, 4, 0);
  assert.deepEqual(trace(f, 1001, 1007), [
    [4, 0],
    [3, 0],
    [2, 0],
    [1, 0],
    [0, 1],
    [0xffff, 1],
    [0xfffe, 1],
  ]);
  // A new count starts over; its first byte stops the count and takes OUT low.
  f.out(0x42, 3);
  assert.deepEqual(trace(f, 1008, 1009), [
    [0xfffe, 0],
    [0xfffe, 0],
  ]);
  f.out(0x42, 0);
  assert.deepEqual(trace(f, 1010, 1013), [
    [3, 0],
    [2, 0],
    [1, 0],
    [0, 1],
  ]);
});

test("mode 0: GATE low holds the count", () => {
  const f = fixture();
  gate2(f, 1);
  program(f, 2, 0, 5);
  at(f, 1003);
  gate2(f, 0);
  assert.deepEqual(trace(f, 1004, 1006), [
    [3, 0],
    [3, 0],
    [3, 0],
  ]);
  gate2(f, 1);
  assert.deepEqual(trace(f, 1006, 1009), [
    [3, 0],
    [2, 0],
    [1, 0],
    [0, 1],
  ]);
  // A count written with GATE low is loaded, and counts from GATE on.
  gate2(f, 0);
  program(f, 2, 0, 2);
  assert.deepEqual(trace(f, 1010, 1011), [
    [2, 0],
    [2, 0],
  ]);
  gate2(f, 1);
  assert.deepEqual(trace(f, 1011, 1013), [
    [2, 0],
    [1, 0],
    [0, 1],
  ]);
});

test("mode 1: a one-shot that a rising GATE triggers, and triggers again", () => {
  const f = fixture();
  program(f, 2, 1, 3);
  assert.equal(out2(f), 1);
  assert.equal(status(f, 2) & 0x40, 0x40, "null count until the trigger");
  at(f, 1010);
  gate2(f, 1);
  assert.equal(out2(f), 1);
  assert.deepEqual(trace(f, 1011, 1015), [
    [3, 0],
    [2, 0],
    [1, 0],
    [0, 1],
    [0xffff, 1],
  ]);
  gate2(f, 0);
  gate2(f, 1);
  assert.deepEqual(trace(f, 1016, 1017), [
    [3, 0],
    [2, 0],
  ]);
  // Again within the pulse: it gets longer. A new count waits for the next trigger.
  f.out(0x42, 9, 0);
  assert.deepEqual(trace(f, 1018, 1018), [[1, 0]]);
  gate2(f, 0);
  gate2(f, 1);
  assert.deepEqual(trace(f, 1019, 1020), [
    [9, 0],
    [8, 0],
  ]);
});

test("mode 2: low for the tick of count 1, then from the start", () => {
  const f = fixture();
  gate2(f, 1);
  program(f, 2, 2, 3);
  assert.equal(out2(f), 1);
  assert.deepEqual(trace(f, 1001, 1007), [
    [3, 1],
    [2, 1],
    [1, 0],
    [3, 1],
    [2, 1],
    [1, 0],
    [3, 1],
  ]);
  // A new count takes effect at the end of the period.
  f.out(0x42, 5, 0);
  assert.equal(status(f, 2) & 0x40, 0x40);
  assert.deepEqual(trace(f, 1008, 1012), [
    [2, 1],
    [1, 0],
    [5, 1],
    [4, 1],
    [3, 1],
  ]);
  assert.equal(status(f, 2) & 0x40, 0);
});

test("mode 2: GATE low takes OUT high at once; a rising GATE starts over", () => {
  const f = fixture();
  gate2(f, 1);
  program(f, 2, 2, 4);
  at(f, 1004);
  assert.equal(out2(f), 0);
  gate2(f, 0);
  assert.equal(out2(f), 1);
  assert.deepEqual(trace(f, 1006, 1006), [[1, 1]]);
  gate2(f, 1);
  assert.deepEqual(trace(f, 1007, 1011), [
    [4, 1],
    [3, 1],
    [2, 1],
    [1, 0],
    [4, 1],
  ]);
});

test("mode 3: square wave of an even count", () => {
  const f = fixture();
  gate2(f, 1);
  program(f, 2, 3, 4);
  assert.deepEqual(trace(f, 1001, 1009), [
    [4, 1],
    [2, 1],
    [4, 0],
    [2, 0],
    [4, 1],
    [2, 1],
    [4, 0],
    [2, 0],
    [4, 1],
  ]);
});

test("mode 3: square wave of an odd count is high for one tick more", () => {
  const f = fixture();
  gate2(f, 1);
  program(f, 2, 3, 5);
  assert.deepEqual(trace(f, 1001, 1011), [
    [4, 1],
    [2, 1],
    [0, 1],
    [4, 0],
    [2, 0],
    [4, 1],
    [2, 1],
    [0, 1],
    [4, 0],
    [2, 0],
    [4, 1],
  ]);
});

test("mode 3: a new count takes effect at the end of the half period", () => {
  const f = fixture();
  gate2(f, 1);
  program(f, 2, 3, 8);
  at(f, 1002);
  f.out(0x42, 4, 0);
  assert.deepEqual(trace(f, 1003, 1009), [
    [4, 1],
    [2, 1],
    [4, 0],
    [2, 0],
    [4, 1],
    [2, 1],
    [4, 0],
  ]);
});

test("mode 4: a strobe of one tick at zero", () => {
  const f = fixture();
  gate2(f, 1);
  program(f, 2, 4, 3);
  assert.equal(out2(f), 1);
  assert.deepEqual(trace(f, 1001, 1006), [
    [3, 1],
    [2, 1],
    [1, 1],
    [0, 0],
    [0xffff, 1],
    [0xfffe, 1],
  ]);
  // A new count is loaded at the next tick.
  f.out(0x42, 2, 0);
  assert.deepEqual(trace(f, 1007, 1010), [
    [2, 1],
    [1, 1],
    [0, 0],
    [0xffff, 1],
  ]);
});

test("mode 5: a strobe that a rising GATE triggers", () => {
  const f = fixture();
  program(f, 2, 5, 3);
  assert.deepEqual(trace(f, 1001, 1002)[1], [0, 1]);
  gate2(f, 1);
  assert.deepEqual(trace(f, 1003, 1007), [
    [3, 1],
    [2, 1],
    [1, 1],
    [0, 0],
    [0xffff, 1],
  ]);
  gate2(f, 0);
  gate2(f, 1);
  assert.deepEqual(trace(f, 1008, 1008), [[3, 1]]);
});

test("modes 6 and 7 are 2 and 3; a count of 0 is 65536", () => {
  const f = fixture();
  gate2(f, 1);
  program(f, 2, 6, 0);
  assert.equal(status(f, 2) & 0x3f, 0x34);
  at(f, 1002);
  assert.equal(count(f, 2), 0xffff);
  at(f, 1001 + 65536);
  assert.equal(count(f, 2), 0);
  program(f, 2, 7, 0);
  assert.equal(status(f, 2) & 0x3f, 0x36);
});

test("BCD counts four decimal digits", () => {
  const f = fixture();
  gate2(f, 1);
  program(f, 2, 0, 0x1000, 1);
  assert.deepEqual(
    trace(f, 1001, 1003).map(([value]) => value),
    [0x1000, 0x0999, 0x0998],
  );
  at(f, 2002);
  assert.equal(count(f, 2), 0x9999);
  program(f, 2, 2, 0, 1);
  at(f, 2004);
  assert.equal(count(f, 2), 0x9999);
  assert.equal(status(f, 2) & 1, 1);
});

test("access modes: low byte, high byte, both in turn", () => {
  const f = fixture();
  gate2(f, 1);
  f.out(0x43, 0x90);
  f.out(0x42, 0x34);
  at(f, 1001);
  assert.deepEqual([f.in(0x42), f.in(0x42)], [0x34, 0x34]);
  f.out(0x43, 0xa0);
  f.out(0x42, 0x12);
  at(f, 1002);
  assert.deepEqual([f.in(0x42), f.in(0x42)], [0x12, 0x12]);
  program(f, 2, 0, 0x1234);
  at(f, 1003);
  assert.deepEqual([f.in(0x42), f.in(0x42), f.in(0x42)], [0x34, 0x12, 0x34]);
});

test("latch: the count stands still until read; a second latch does nothing", () => {
  const f = fixture();
  gate2(f, 1);
  program(f, 2, 0, 0x1234);
  at(f, 1001);
  f.out(0x43, 0x80);
  at(f, 1101);
  f.out(0x43, 0x80);
  assert.equal(f.in(0x42), 0x34);
  assert.equal(f.in(0x42), 0x12);
  assert.equal(f.in(0x42) | (f.in(0x42) << 8), 0x1234 - 100);
});

test("read-back: counts and status of several counters; status is read first", () => {
  const f = fixture();
  gate2(f, 1);
  program(f, 0, 2, 0x1000);
  program(f, 2, 3, 0x2000);
  at(f, 1001);
  f.out(0x43, 0xc0 | 0x0a);
  at(f, 1005);
  assert.deepEqual([f.in(0x40), f.in(0x40), f.in(0x40)], [0xb4, 0x00, 0x10]);
  assert.deepEqual([f.in(0x42), f.in(0x42), f.in(0x42)], [0xb6, 0x00, 0x20]);
  // Counts only.
  f.out(0x43, 0xd0 | 0x02);
  assert.deepEqual([f.in(0x40), f.in(0x40)], [0xfc, 0x0f]);
  // The null count flag: set by the control word, cleared when the count is loaded.
  f.out(0x43, 0xb4);
  assert.equal(status(f, 2), 0xf4);
  f.out(0x42, 0, 1);
  assert.equal(status(f, 2), 0xf4);
  at(f, 1006);
  assert.equal(status(f, 2), 0xb4);
});

test("port 0x61: GATE 2, speaker, refresh toggle, OUT 2", () => {
  const f = fixture();
  f.out(0x61, 0xff);
  assert.equal(f.in(0x61) & 0x0f, 0x0f);
  f.out(0x61, 0x03);
  assert.equal(f.in(0x61) & 0x0f, 0x03);
  const seen = new Set<number>();
  for (let tick = 1000; tick < 1040; tick++) {
    at(f, tick);
    seen.add(f.in(0x61) & 0x10);
  }
  assert.equal(seen.size, 2);
  // Linux's calibration: GATE off, mode 0, count, GATE on, wait for OUT.
  f.out(0x61, 0x00);
  program(f, 2, 0, 59659);
  f.out(0x61, 0x01);
  const start = tickAt(f.clock.time);
  at(f, start + 59658);
  assert.equal(f.in(0x61) & 0x20, 0);
  at(f, start + 59659);
  assert.equal(f.in(0x61) & 0x20, 0x20);
});

test("port 0x43 cannot be read", () => {
  assert.equal(fixture().in(0x43), 0xff);
});

/** IRQ 0 through the 8259s, as edges. */
function irq0(): Fixture {
  const f = fixture();
  f.out(0x20, 0x11);
  f.out(0x21, 0x20, 0x04, 0x03);
  return f;
}

function ticks(f: Fixture, from: number, to: number): number[] {
  const result: number[] = [];
  for (let tick = from; tick <= to; tick++) {
    f.advance(timeOfTick(tick) - f.clock.time);
    f.timers.expire();
    if (f.chip.hasInterrupt(0)) {
      assert.equal(f.chip.acknowledge(0), 0x20);
      result.push(tick);
    }
  }
  return result;
}

test("IRQ 0: modes 2 and 3 at the end of each period, 0 and 4 once", () => {
  let f = irq0();
  program(f, 0, 2, 200);
  assert.deepEqual(ticks(f, 1000, 1700), [1201, 1401, 1601]);
  f = irq0();
  program(f, 0, 3, 201);
  assert.deepEqual(ticks(f, 1000, 1700), [1202, 1403, 1604]);
  f = irq0();
  program(f, 0, 0, 150);
  assert.deepEqual(ticks(f, 1000, 1500), [1151]);
  f = irq0();
  program(f, 0, 4, 150);
  assert.deepEqual(ticks(f, 1000, 1500), [1152]);
  for (const mode of [1, 5]) {
    f = irq0();
    program(f, 0, mode, 150);
    assert.deepEqual(ticks(f, 1000, 1500), []);
  }
});

test("IRQ 0: a new count in modes 2 and 3, and writing mode 0 over a period", () => {
  let f = irq0();
  program(f, 0, 2, 200);
  assert.deepEqual(ticks(f, 1000, 1100), []);
  f.out(0x40, 144, 1);
  assert.deepEqual(ticks(f, 1101, 2100), [1201, 1601, 2001]);
  f = irq0();
  program(f, 0, 3, 200);
  assert.deepEqual(ticks(f, 1000, 1050), []);
  f.out(0x40, 144, 1);
  // The high half ends at 1101, then the new count's low half of 200.
  assert.deepEqual(ticks(f, 1051, 2000), [1301, 1701]);
  f = irq0();
  program(f, 0, 2, 200);
  assert.deepEqual(ticks(f, 1000, 1150), []);
  f.out(0x43, 0x30);
  assert.deepEqual(ticks(f, 1151, 1500), []);
  f.out(0x40, 100, 0);
  assert.deepEqual(ticks(f, 1501, 1800), [1601]);
});

test("IRQ 0: reaches IOAPIC pin 2", () => {
  const f = fixture();
  f.enableAll();
  f.redirect(2, 0x31);
  program(f, 0, 2, 1193);
  f.advance(10_000_000);
  assert.deepEqual(f.drain(0), [0x31]);
});

test("IRQ 0: ticks that the host missed are merged", () => {
  const f = irq0();
  program(f, 0, 2, 1000);
  f.clock.time += 50_000_000;
  f.timers.expire();
  assert.equal(f.chip.acknowledge(0), 0x20);
  assert.equal(f.chip.hasInterrupt(0), false);
});

test("IRQ 0: a tick that is due is not lost by reprogramming before the timer thread came", () => {
  const f = irq0();
  program(f, 0, 2, 1000);
  at(f, 2001);
  program(f, 0, 0, 0);
  assert.equal(f.chip.hasInterrupt(0), true);
});

test("counts of 1 and 2 do not keep the timer thread busy", () => {
  for (const [mode, value] of [
    [2, 1],
    [2, 2],
    [3, 1],
    [3, 2],
    [0, 1],
    [4, 1],
  ]) {
    const f = irq0();
    program(f, 0, mode, value);
    let wakes = 0;
    const end = f.clock.time + 10_000_000;
    while (f.clock.time < end) {
      f.clock.time = Math.min(end, Math.max(f.clock.time + 1, f.timers.expire()));
      wakes++;
    }
    assert.ok(wakes <= 102, `${wakes} wake-ups in 10 ms with mode ${mode}, count ${value}`);
  }
});

test("OUT of counter 0 in its status", () => {
  const f = fixture();
  program(f, 0, 3, 100);
  at(f, 1001 + 49);
  assert.equal(out(f, 0), 1);
  at(f, 1001 + 50);
  assert.equal(out(f, 0), 0);
  at(f, 1001 + 100);
  assert.equal(out(f, 0), 1);
});
