// Written from SDM vol. 3A, 11.5.4; the bus clock and the TSC are 1 GHz.
import assert from "node:assert/strict";
import test from "node:test";
import { LapicReg } from "../../../src/hypervisor/soft/irqchip/lapic-registers.js";
import { Fixture } from "./fixture.js";

const TSC_DEADLINE = 0x6e0;
const ONE_SHOT = 0xe0;
const PERIODIC = 0x200e0;
const DEADLINE = 0x400e0;
const DIVIDE_BY_1 = 0xb;

function fixture(lvt: number, divide = DIVIDE_BY_1): Fixture {
  const f = new Fixture(2);
  f.enableAll();
  f.write(0, LapicReg.LVT_TIMER, lvt);
  f.write(0, LapicReg.TIMER_DIVIDE, divide);
  f.clock.time = 1_000_000;
  return f;
}

test("the divide configuration's eight values (figure 11-10)", () => {
  const divisors = new Map([
    [0b0000, 2],
    [0b0001, 4],
    [0b0010, 8],
    [0b0011, 16],
    [0b1000, 32],
    [0b1001, 64],
    [0b1010, 128],
    [0b1011, 1],
  ]);
  for (const [dcr, divisor] of divisors) {
    const f = fixture(ONE_SHOT, dcr);
    f.write(0, LapicReg.TIMER_INITIAL, 100);
    f.advance(30 * divisor);
    assert.equal(f.read(0, LapicReg.TIMER_CURRENT), 70);
    f.advance(70 * divisor - 1);
    assert.equal(f.chip.hasInterrupt(0), false);
    assert.equal(f.read(0, LapicReg.TIMER_CURRENT), 1);
    f.advance(1);
    assert.equal(f.chip.hasInterrupt(0), true, `divisor ${divisor}`);
  }
});

test("one-shot: once, and the count stays at zero", () => {
  const f = fixture(ONE_SHOT);
  f.write(0, LapicReg.TIMER_INITIAL, 0x10000);
  assert.equal(f.read(0, LapicReg.TIMER_CURRENT), 0x10000);
  f.take();
  f.advance(0x10000);
  assert.deepEqual(f.take(), ["interrupt 0"]);
  assert.deepEqual(f.drain(0), [0xe0]);
  assert.equal(f.read(0, LapicReg.TIMER_CURRENT), 0);
  assert.equal(f.read(0, LapicReg.TIMER_INITIAL), 0x10000);
  f.advance(1e9);
  assert.deepEqual(f.drain(0), []);
});

test("writing the initial count restarts, writing 0 stops", () => {
  const f = fixture(ONE_SHOT);
  f.write(0, LapicReg.TIMER_INITIAL, 1000);
  f.advance(900);
  f.write(0, LapicReg.TIMER_INITIAL, 1000);
  f.advance(900);
  assert.deepEqual(f.drain(0), []);
  f.write(0, LapicReg.TIMER_INITIAL, 0);
  f.advance(10_000);
  assert.deepEqual(f.drain(0), []);
  assert.equal(f.read(0, LapicReg.TIMER_CURRENT), 0);
});

test("a count of 2^32 - 1 at divisor 128", () => {
  const f = fixture(ONE_SHOT, 0b1010);
  f.write(0, LapicReg.TIMER_INITIAL, 0xffffffff);
  f.advance(0xffffffff * 128 - 1);
  assert.equal(f.read(0, LapicReg.TIMER_CURRENT), 1);
  f.advance(1);
  assert.deepEqual(f.drain(0), [0xe0]);
});

test("periodic: reloads, keeps its phase, merges what is not taken", () => {
  const f = fixture(PERIODIC);
  f.write(0, LapicReg.TIMER_INITIAL, 1_000_000);
  for (let i = 0; i < 5; i++) {
    f.advance(999_999);
    assert.deepEqual(f.drain(0), []);
    f.advance(1);
    assert.deepEqual(f.drain(0), [0xe0]);
    assert.equal(f.read(0, LapicReg.TIMER_CURRENT), 1_000_000);
  }
  // The host stalls for three and a half periods.
  f.clock.time += 3_500_000;
  assert.equal(f.read(0, LapicReg.TIMER_CURRENT), 500_000);
  f.timers.expire();
  assert.deepEqual(f.drain(0), [0xe0]);
  f.advance(499_999);
  assert.deepEqual(f.drain(0), []);
  f.advance(1);
  assert.deepEqual(f.drain(0), [0xe0]);
});

test("a periodic timer of a nanosecond does not keep the timer thread busy", () => {
  const f = fixture(PERIODIC);
  f.write(0, LapicReg.TIMER_INITIAL, 1);
  let wakes = 0;
  const end = f.clock.time + 10_000_000;
  while (f.clock.time < end) {
    f.clock.time = Math.max(f.clock.time + 1, f.timers.expire());
    wakes++;
  }
  assert.ok(wakes <= 101, `${wakes} wake-ups in 10 ms`);
  assert.deepEqual(f.drain(0), [0xe0]);
});

test("masked: the count goes on, no interrupt", () => {
  const f = fixture(ONE_SHOT | 0x10000);
  f.write(0, LapicReg.TIMER_INITIAL, 100);
  f.advance(50);
  assert.equal(f.read(0, LapicReg.TIMER_CURRENT), 50);
  f.advance(100);
  assert.equal(f.read(0, LapicReg.TIMER_CURRENT), 0);
  f.write(0, LapicReg.LVT_TIMER, ONE_SHOT);
  assert.deepEqual(f.drain(0), []);
});

test("changing between one-shot and periodic leaves the count alone", () => {
  const f = fixture(ONE_SHOT);
  f.write(0, LapicReg.TIMER_INITIAL, 1_000_000);
  f.advance(600_000);
  f.write(0, LapicReg.LVT_TIMER, PERIODIC);
  assert.equal(f.read(0, LapicReg.TIMER_CURRENT), 400_000);
  f.advance(400_000);
  assert.deepEqual(f.drain(0), [0xe0]);
  assert.equal(f.read(0, LapicReg.TIMER_CURRENT), 1_000_000);
  f.advance(100_000);
  f.write(0, LapicReg.LVT_TIMER, ONE_SHOT);
  assert.equal(f.read(0, LapicReg.TIMER_CURRENT), 900_000);
  f.advance(900_000);
  assert.deepEqual(f.drain(0), [0xe0]);
  f.write(0, LapicReg.LVT_TIMER, PERIODIC);
  assert.equal(f.read(0, LapicReg.TIMER_CURRENT), 0);
  f.advance(5_000_000);
  assert.deepEqual(f.drain(0), []);
});

test("changing the divisor: what is left goes on at the new rate", () => {
  const f = fixture(ONE_SHOT);
  f.write(0, LapicReg.TIMER_INITIAL, 1000);
  f.advance(400);
  f.write(0, LapicReg.TIMER_DIVIDE, 0b0001);
  assert.equal(f.read(0, LapicReg.TIMER_CURRENT), 600);
  f.advance(2399);
  assert.deepEqual(f.drain(0), []);
  f.advance(1);
  assert.deepEqual(f.drain(0), [0xe0]);
});

test("TSC deadline: at that TSC, once, then the MSR reads 0", () => {
  const f = fixture(DEADLINE);
  f.tscOffsets[0] = 5_000_000_000n;
  const now = 5_000_000_000n + BigInt(f.clock.time);
  assert.ok(f.chip.writeMsr(0, TSC_DEADLINE, now + 1234n));
  assert.equal(f.chip.readMsr(0, TSC_DEADLINE), now + 1234n);
  assert.equal(f.chip.timerDeadline(0), f.clock.time + 1234);
  f.advance(1233);
  assert.deepEqual(f.drain(0), []);
  f.advance(1);
  assert.deepEqual(f.drain(0), [0xe0]);
  assert.equal(f.chip.readMsr(0, TSC_DEADLINE), 0n);
  assert.equal(f.chip.timerDeadline(0), Number.POSITIVE_INFINITY);
});

test("TSC deadline: a time that has passed expires at once, 0 disarms, 2^64 - 1 never comes", () => {
  const f = fixture(DEADLINE);
  f.chip.writeMsr(0, TSC_DEADLINE, BigInt(f.clock.time));
  assert.equal(f.chip.readMsr(0, TSC_DEADLINE), 0n);
  assert.deepEqual(f.drain(0), [0xe0]);
  f.chip.writeMsr(0, TSC_DEADLINE, 1n);
  assert.deepEqual(f.drain(0), [0xe0]);
  f.chip.writeMsr(0, TSC_DEADLINE, BigInt(f.clock.time + 100));
  f.chip.writeMsr(0, TSC_DEADLINE, 0n);
  f.advance(1000);
  assert.deepEqual(f.drain(0), []);
  f.chip.writeMsr(0, TSC_DEADLINE, 0xffffffff_ffffffffn);
  f.advance(1e12);
  assert.deepEqual(f.drain(0), []);
  assert.equal(f.chip.readMsr(0, TSC_DEADLINE), 0xffffffff_ffffffffn);
});

test("TSC deadline: the MSR and the initial count each work in their own mode only", () => {
  const f = fixture(ONE_SHOT);
  f.chip.writeMsr(0, TSC_DEADLINE, 1n);
  assert.equal(f.chip.readMsr(0, TSC_DEADLINE), 0n);
  assert.deepEqual(f.drain(0), []);
  f.write(0, LapicReg.TIMER_INITIAL, 100);
  f.write(0, LapicReg.LVT_TIMER, DEADLINE);
  f.advance(1000);
  assert.deepEqual(f.drain(0), [], "changing the mode disarms");
  f.write(0, LapicReg.TIMER_INITIAL, 100);
  assert.equal(f.read(0, LapicReg.TIMER_INITIAL), 0);
  assert.equal(f.read(0, LapicReg.TIMER_CURRENT), 0);
  f.chip.writeMsr(0, TSC_DEADLINE, BigInt(f.clock.time + 100));
  f.write(0, LapicReg.LVT_TIMER, PERIODIC);
  f.write(0, LapicReg.LVT_TIMER, DEADLINE);
  assert.equal(f.chip.readMsr(0, TSC_DEADLINE), 0n);
  f.advance(1000);
  assert.deepEqual(f.drain(0), []);
});

test("TSC deadline: a change of the TSC moves it", () => {
  const f = fixture(DEADLINE);
  f.chip.writeMsr(0, TSC_DEADLINE, BigInt(f.clock.time + 1000));
  f.tscOffsets[0] = -5000n;
  f.chip.tscChanged(0);
  f.advance(5999);
  assert.deepEqual(f.drain(0), []);
  f.advance(1);
  assert.deepEqual(f.drain(0), [0xe0]);
  f.chip.writeMsr(0, TSC_DEADLINE, BigInt(f.clock.time));
  f.tscOffsets[0] = 0n;
  f.chip.tscChanged(0);
  assert.deepEqual(f.drain(0), [0xe0]);
});

test("the vCPU need not wait for the timer thread", () => {
  const f = fixture(ONE_SHOT);
  f.write(0, LapicReg.TIMER_INITIAL, 500);
  assert.equal(f.chip.timerDeadline(0), f.clock.time + 500);
  f.clock.time += 499;
  f.chip.expireTimer(0);
  assert.equal(f.chip.hasInterrupt(0), false);
  f.clock.time += 1;
  f.chip.expireTimer(0);
  assert.deepEqual(f.drain(0), [0xe0]);
  // The timer thread finds nothing left to do.
  f.timers.expire();
  assert.deepEqual(f.drain(0), []);
});

test("disabling the APIC, or an INIT, stops the timer", () => {
  for (const stop of [
    (f: Fixture) => f.chip.resetVcpu(0),
    (f: Fixture) => f.chip.writeMsr(0, 0x1b, 0xfee00100n),
  ]) {
    const f = fixture(ONE_SHOT);
    f.write(0, LapicReg.TIMER_INITIAL, 500);
    stop(f);
    assert.equal(f.chip.timerDeadline(0), Number.POSITIVE_INFINITY);
    f.advance(1000);
    assert.deepEqual(f.drain(0), []);
  }
});

test("each vCPU has its own timer", () => {
  const f = fixture(ONE_SHOT);
  f.write(1, LapicReg.LVT_TIMER, 0x55);
  f.write(1, LapicReg.TIMER_DIVIDE, DIVIDE_BY_1);
  f.write(0, LapicReg.TIMER_INITIAL, 200);
  f.write(1, LapicReg.TIMER_INITIAL, 100);
  f.take();
  f.advance(150);
  assert.deepEqual(f.take(), ["interrupt 1"]);
  f.advance(50);
  assert.deepEqual(f.drain(0), [0xe0]);
  assert.deepEqual(f.drain(1), [0x55]);
});
