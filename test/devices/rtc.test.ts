/** From the MC146818A data sheet ("DS"). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Rtc, type RtcResetOptions } from "../../src/devices/rtc.js";
import type { SharedMemory } from "../../src/memory/shared-memory.js";
import { Timers } from "../../src/memory/timers.js";
import { allocatorOver, ManualClock, newMemory, RecordedLine, random, validateLocks } from "./support.js";

validateLocks();

const [SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM] = [0, 1, 2, 3, 4, 5];
const [WEEKDAY, DAY, MONTH, YEAR, A, B, C, D] = [6, 7, 8, 9, 10, 11, 12, 13];
const CENTURY = 0x32;
const SET = 0x80;
const [PIE, AIE, UIE] = [0x40, 0x20, 0x10];
const [IRQF, PF, AF, UF] = [0x80, 0x40, 0x20, 0x10];
const BINARY = 0x04;
const HOUR_24 = 0x02;
const DIVIDER_RESET = 0x70;
const DONT_CARE = 0xc0;

const MIB = 1024 * 1024;
const SIZES = { lowRam: 512 * MIB, highRam: 0 };
const MILLISECOND = 1e6;
const SECOND = 1e9;
/** 2024-02-29 23:59:58.250, a Thursday. */
const LEAP_DAY = Date.UTC(2024, 1, 29, 23, 59, 58, 250);

class Bench {
  readonly irq = new RecordedLine();
  readonly timers: Timers;
  readonly rtc: Rtc;

  constructor(
    readonly memory: SharedMemory = newMemory(),
    readonly clock = new ManualClock(),
  ) {
    const allocator = allocatorOver(memory);
    this.timers = new Timers(memory, allocator, clock);
    this.rtc = new Rtc(allocator, { irq: this.irq, timers: this.timers });
  }

  get(index: number): number {
    this.rtc.write(0, 1, index);
    return this.rtc.read(1, 1);
  }

  set(index: number, value: number): void {
    this.rtc.write(0, 1, index);
    this.rtc.write(1, 1, value);
  }

  /** Let time pass; the timer thread wakes at each deadline on the way. */
  pass(nanoseconds: number): void {
    const end = this.clock.nanoseconds + nanoseconds;
    for (;;) {
      const next = this.timers.expire();
      if (next > end) break;
      this.clock.nanoseconds = Math.max(next, this.clock.nanoseconds);
    }
    this.clock.nanoseconds = end;
  }

  time(): number[] {
    return [CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS].map((index) => this.get(index));
  }
}

function newBench(options: Partial<RtcResetOptions> = {}): Bench {
  const bench = new Bench();
  bench.clock.nanoseconds = 123456789;
  bench.timers.reset();
  bench.rtc.reset({ ...SIZES, time: LEAP_DAY, ...options });
  return bench;
}

test("registers after reset: 32.768 kHz, 1024 Hz, BCD, 24 hours, valid RAM", () => {
  const bench = newBench();
  assert.deepEqual([bench.get(A), bench.get(B), bench.get(C), bench.get(D)], [0x26, 0x02, 0x00, 0x80]);
});

test("the index port is write-only, and its bit 7 is no part of the index", () => {
  const bench = newBench();
  bench.set(0x40, 0x5a);
  assert.equal(bench.rtc.read(0, 1), 0xff);
  assert.equal(bench.get(0x80 | 0x40), 0x5a);
});

test("the time is the host's, in BCD, and goes on over the leap day", () => {
  const bench = newBench();
  assert.deepEqual(bench.time(), [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x59, 0x58]);
  bench.pass(749 * MILLISECOND);
  assert.equal(bench.get(SECONDS), 0x58);
  bench.pass(1 * MILLISECOND);
  assert.equal(bench.get(SECONDS), 0x59);
  bench.pass(SECOND);
  assert.deepEqual(bench.time(), [0x20, 0x24, 0x03, 0x01, 6, 0x00, 0x00, 0x00]);
});

test("without a time given, the host's clock is shown", () => {
  const bench = new Bench();
  bench.timers.reset();
  const before = new Date();
  bench.rtc.reset(SIZES);
  const year = bench.get(CENTURY) * 256 + bench.get(YEAR);
  const years = [before, new Date()].map((date) => Number.parseInt(`${date.getUTCFullYear()}`, 16));
  assert.ok(years.includes(year));
});

test("register B chooses the format", () => {
  const bench = newBench();
  bench.set(B, HOUR_24 | BINARY);
  assert.deepEqual(bench.time(), [20, 24, 2, 29, 5, 23, 59, 58]);
  bench.set(B, BINARY);
  assert.equal(bench.get(HOURS), 0x8b);
  bench.set(B, 0);
  assert.equal(bench.get(HOURS), 0x91);
});

test("UIP is up for 2228 µs before the time changes, and never while SET is", () => {
  const bench = newBench();
  bench.pass(750 * MILLISECOND - 2229e3);
  assert.equal(bench.get(A), 0x26);
  bench.pass(2e3);
  assert.equal(bench.get(A), 0xa6);
  assert.equal(bench.get(SECONDS), 0x58);
  bench.set(B, HOUR_24 | SET);
  assert.equal(bench.get(A), 0x26);
  bench.set(B, HOUR_24);
  bench.pass(2227e3);
  assert.equal(bench.get(A), 0x26);
  assert.equal(bench.get(SECONDS), 0x59);
});

test("UIP is read-only", () => {
  const bench = newBench();
  bench.set(A, 0xa6);
  assert.equal(bench.get(A), 0x26);
});

test("SET stops the time; what is written then is where it goes on, at the chain's next second", () => {
  const bench = newBench();
  bench.set(B, HOUR_24 | SET);
  bench.pass(10 * SECOND);
  assert.equal(bench.get(SECONDS), 0x58);
  for (const [index, value] of [
    [CENTURY, 0x19],
    [YEAR, 0x99],
    [MONTH, 0x12],
    [DAY, 0x31],
    [WEEKDAY, 6],
    [HOURS, 0x23],
    [MINUTES, 0x59],
    [SECONDS, 0x59],
  ]) {
    bench.set(index, value);
    assert.equal(bench.get(index), value);
  }
  bench.set(B, HOUR_24);
  bench.pass(749 * MILLISECOND);
  assert.deepEqual(bench.time(), [0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x59]);
  bench.pass(MILLISECOND);
  assert.deepEqual(bench.time(), [0x20, 0x00, 0x01, 0x01, 7, 0x00, 0x00, 0x00]);
});

test("Linux's sequence: SET, divider reset, write, SET off, divider on: the first update is half a second later", () => {
  const bench = newBench();
  bench.set(B, HOUR_24 | SET);
  bench.set(A, 0x26 | DIVIDER_RESET);
  bench.set(SECONDS, 0x10);
  bench.set(B, HOUR_24);
  bench.pass(5 * SECOND);
  assert.equal(bench.get(SECONDS), 0x10);
  bench.set(A, 0x26);
  bench.pass(499 * MILLISECOND);
  assert.equal(bench.get(SECONDS), 0x10);
  bench.pass(1 * MILLISECOND);
  assert.equal(bench.get(SECONDS), 0x11);
  bench.pass(SECOND);
  assert.equal(bench.get(SECONDS), 0x12);
});

test("a byte of time written while the clock runs changes that byte", () => {
  const bench = newBench();
  bench.set(MINUTES, 0x30);
  assert.deepEqual(bench.time(), [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x30, 0x58]);
});

test("the day of week counts on its own", () => {
  const bench = newBench();
  bench.set(WEEKDAY, 7);
  assert.equal(bench.get(WEEKDAY), 7);
  bench.pass(2 * SECOND);
  assert.equal(bench.get(WEEKDAY), 1);
});

test("the update-ended interrupt comes with every second; reading C clears it and tells why", () => {
  const bench = newBench();
  bench.set(B, HOUR_24 | UIE);
  bench.pass(749 * MILLISECOND);
  assert.equal(bench.irq.level, false);
  bench.pass(2 * MILLISECOND);
  assert.equal(bench.irq.level, true);
  assert.equal(bench.get(C) & ~PF, IRQF | UF);
  assert.equal(bench.irq.level, false);
  assert.equal(bench.get(C), 0x00);
  bench.pass(3 * SECOND);
  assert.equal(bench.irq.rises, 2, "no further edge before C is read");
});

test("flags are set without their interrupts, and enabling then raises the line (DS, register C)", () => {
  const bench = newBench();
  bench.pass(SECOND);
  bench.set(B, HOUR_24 | UIE);
  assert.equal(bench.irq.level, true);
  assert.equal(bench.get(C), IRQF | PF | UF);
});

test("SET going high clears UIE (DS, register B)", () => {
  const bench = newBench();
  bench.set(B, HOUR_24 | UIE | AIE);
  bench.set(B, HOUR_24 | UIE | AIE | SET);
  assert.equal(bench.get(B), HOUR_24 | AIE | SET);
});

test("the alarm comes at its time, and don't-care codes match everything", () => {
  for (const [hour, minute, second, delay] of [
    [0x00, 0x00, 0x05, 7],
    [0x00, 0x01, 0x00, 62],
    [DONT_CARE, DONT_CARE, DONT_CARE, 1],
    [0xff, 0xff, 0x00, 2],
    [0xff, 0x30, 0x15, 2 + 1800 + 15],
    [0x23, 0x59, 0x58, 86400],
  ]) {
    const bench = newBench();
    bench.set(HOURS_ALARM, hour);
    bench.set(MINUTES_ALARM, minute);
    bench.set(SECONDS_ALARM, second);
    bench.set(B, HOUR_24 | AIE);
    bench.pass(delay * SECOND - 251 * MILLISECOND);
    assert.equal(bench.irq.level, false);
    bench.pass(2 * MILLISECOND);
    assert.equal(bench.irq.level, true);
    assert.equal(bench.get(C), IRQF | PF | AF | UF);
  }
});

test("an alarm in 12-hour format, and one that matches no time", () => {
  const bench = newBench();
  bench.set(B, AIE);
  bench.set(HOURS_ALARM, 0x12);
  bench.set(MINUTES_ALARM, 0x00);
  bench.set(SECONDS_ALARM, 0x03);
  bench.pass(5 * SECOND);
  assert.equal(bench.get(C) & AF, AF);
  // 0x1A is no BCD number, so no minute ever equals it.
  bench.set(MINUTES_ALARM, 0x1a);
  bench.set(HOURS_ALARM, DONT_CARE);
  bench.set(SECONDS_ALARM, DONT_CARE);
  bench.pass(90000 * SECOND);
  assert.equal(bench.get(C) & AF, 0);
});

test("the periodic interrupt has the rates of DS table 5", () => {
  for (const [rate, hertz] of [
    [1, 256],
    [2, 128],
    [3, 8192],
    [6, 1024],
    [13, 8],
    [15, 2],
  ]) {
    const bench = newBench();
    bench.set(A, 0x20 | rate);
    bench.get(C);
    bench.set(B, HOUR_24 | PIE);
    // Off the ticks, so that none falls on either end.
    bench.clock.nanoseconds += 50e3;
    bench.get(C);
    const end = bench.clock.nanoseconds + 2 * SECOND;
    let count = 0;
    for (let next = bench.timers.expire(); next <= end; next = bench.timers.expire()) {
      bench.clock.nanoseconds = next;
      bench.timers.expire();
      assert.equal(bench.get(C) & (IRQF | PF), IRQF | PF);
      count++;
    }
    assert.equal(count, 2 * hertz, `rate ${rate}`);
  }
});

test("rate 0 has no periodic interrupt, nor has a chain that stands still", () => {
  for (const a of [0x20, 0x76, 0x06, 0x66]) {
    const bench = newBench();
    bench.set(A, a);
    bench.get(C);
    bench.set(B, HOUR_24 | PIE | UIE | AIE);
    bench.pass(0.7 * SECOND);
    assert.equal(bench.irq.level, false);
  }
});

test("no deadline is kept while the line is up or nothing is enabled", () => {
  const bench = newBench();
  assert.equal(bench.timers.expire(), Number.POSITIVE_INFINITY);
  bench.set(B, HOUR_24 | PIE);
  bench.pass(SECOND);
  assert.equal(bench.irq.level, true);
  assert.equal(bench.timers.expire(), Number.POSITIVE_INFINITY);
  bench.get(C);
  assert.notEqual(bench.timers.expire(), Number.POSITIVE_INFINITY);
});

test("C and D are read-only; RAM holds what is written, all 128 bytes of it", () => {
  const bench = newBench();
  bench.set(C, 0xff);
  bench.set(D, 0x00);
  assert.deepEqual([bench.get(C), bench.get(D)], [0, 0x80]);
  for (let index = 0x0e; index < 0x80; index++) if (index !== CENTURY) bench.set(index, index ^ 0xa5);
  for (let index = 0x0e; index < 0x80; index++) {
    if (index !== CENTURY) assert.equal(bench.get(index), index ^ 0xa5);
  }
});

test("memory sizes as PC firmware leaves them", () => {
  const sizes = (lowRam: number, highRam = 0) => {
    const bench = newBench({ lowRam, highRam });
    const word = (at: number) => bench.get(at) + 256 * bench.get(at + 1);
    let sum = 0;
    for (let i = 0x10; i <= 0x2d; i++) sum += bench.get(i);
    assert.equal(bench.get(0x2e) * 256 + bench.get(0x2f), sum);
    assert.equal(word(0x17), word(0x30));
    return [word(0x15), word(0x30), word(0x34), word(0x5b) + 65536 * bench.get(0x5d)];
  };
  assert.deepEqual(sizes(8 * MIB), [640, 7168, 0, 0]);
  assert.deepEqual(sizes(512 * MIB), [640, 65535, (496 * MIB) / 65536, 0]);
  assert.deepEqual(sizes(3072 * MIB, 2 ** 40), [640, 65535, (3056 * MIB) / 65536, 2 ** 24 - 1]);
});

test("two threads' objects over one state are one clock", () => {
  const here = newBench();
  const there = new Bench(here.memory, here.clock);
  here.set(B, HOUR_24 | UIE);
  here.set(MINUTES, 0x15);
  assert.equal(there.get(MINUTES), 0x15);
  // The timer thread is the other one.
  there.pass(SECOND);
  assert.equal(there.irq.level, true);
  assert.equal(here.get(C) & UF, UF);
  assert.equal(here.irq.level, false);
});

test("reset takes the interrupt line down", () => {
  const bench = newBench();
  bench.set(B, HOUR_24 | UIE);
  bench.pass(SECOND);
  bench.rtc.reset(SIZES);
  assert.equal(bench.irq.level, false);
  assert.equal(bench.get(B), HOUR_24);
});

test("random accesses: bytes stay bytes, the time stays a time, timers do not run away", () => {
  const bench = newBench();
  const next = random(5);
  for (let i = 0; i < 30000; i++) {
    const index = next() % 3 === 0 ? next() & 0xff : next() & 0x0f;
    if ((next() & 1) === 0) bench.set(index, next());
    else {
      const value = bench.get(index);
      assert.ok(Number.isInteger(value) && value >= 0 && value <= 0xff, `index ${index}: ${value}`);
    }
    bench.clock.nanoseconds += next() % (2 * SECOND);
    bench.timers.expire();
  }
  bench.set(A, 0x26);
  bench.set(B, HOUR_24 | BINARY);
  const [century, year, month, day, weekday, hour, minute, second] = bench.time();
  assert.ok(century <= 99 && year <= 99 && month >= 1 && month <= 12 && day >= 1 && day <= 31);
  assert.ok(weekday >= 1 && weekday <= 7 && hour <= 23 && minute <= 59 && second <= 59);
  bench.rtc.write(-1, 4, -1);
  assert.ok(bench.rtc.read(0xffffffff, 4) <= 0xff);
});
