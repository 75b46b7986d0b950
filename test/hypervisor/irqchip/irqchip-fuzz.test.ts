// Random accesses from four vCPUs: nothing throws, nothing hangs, and the rules that hold for any program hold.
import assert from "node:assert/strict";
import test from "node:test";
import { LapicReg } from "../../../src/hypervisor/soft/irqchip/lapic-registers.js";
import { type LockObserver, observeLocks } from "../../../src/memory/mutex.js";
import { Fixture, IOAPIC_PAGE, LAPIC_PAGE } from "./fixture.js";

const VCPUS = 4;
const STEPS = 60_000;
const PORTS = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x61];

/** Numerical Recipes' linear congruential generator; the upper bits are used. */
function prng(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** No lock is held twice, none while the vCPUs are signalled, and each is released. */
class HeldLocks implements LockObserver {
  readonly held: string[] = [];
  acquiring(lockClass: string): void {
    const outer = this.held[this.held.length - 1];
    const allowed = outer === undefined || ((outer === "pit" || outer === "lapic") && lockClass === "timers");
    assert.ok(allowed, `${lockClass} taken inside ${outer}`);
  }
  acquired(lockClass: string): void {
    this.held.push(lockClass);
  }
  released(lockClass: string): void {
    assert.equal(this.held.pop(), lockClass);
  }
  waiting(what: string): void {
    assert.deepEqual(this.held, [], `waiting for ${what} with locks held`);
  }
}

for (const seed of [1, 2, 3]) {
  test(`random accesses, seed ${seed}`, () => {
    const random = prng(seed);
    const f = new Fixture(VCPUS);
    const locks = new HeldLocks();
    const word = () => {
      switch (random(4)) {
        case 0:
          return random(256);
        case 1:
          return 1 << random(32);
        case 2:
          return random(2 ** 20);
        default:
          return random(2 ** 32);
      }
    };
    const signalled = new Set<number>();
    const noteSignals = () => {
      for (const signal of f.take()) {
        const [kind, vcpu] = signal.split(" ");
        if (kind === "interrupt") signalled.add(Number(vcpu));
      }
    };
    observeLocks(locks);
    try {
      for (let step = 0; step < STEPS; step++) {
        const vcpu = random(VCPUS);
        const lapic = f.chip.lapics[vcpu];
        switch (random(12)) {
          case 0:
            f.chip.writeMmio(vcpu, LAPIC_PAGE + random(0x40) * 16, 4, word() >>> 0);
            break;
          case 1:
            f.chip.writeMmio(vcpu, LAPIC_PAGE + random(0x1000), 1 << random(4), word() >>> 0);
            break;
          case 2: {
            const value = f.chip.readMmio(vcpu, LAPIC_PAGE + random(0x1000), 1 << random(4));
            assert.ok(Number.isInteger(value) && value >= 0 && value < 2 ** 32);
            break;
          }
          case 3: {
            const index = [0x1b, 0x6e0, 0x800 + random(0x41)][random(3)];
            f.chip.writeMsr(vcpu, index, (BigInt(word() >>> 0) << BigInt(random(33))) & 0xffffffffffffffffn);
            break;
          }
          case 4:
            f.chip.readMsr(vcpu, [0x1b, 0x6e0, 0x800 + random(0x41)][random(3)]);
            break;
          case 5:
            f.chip.writeMmio(vcpu, IOAPIC_PAGE + [0, 0x10, 0x40, random(0x1000)][random(4)], 4, word() >>> 0);
            break;
          case 6:
            f.chip.readMmio(vcpu, IOAPIC_PAGE + random(0x20), 1 << random(4));
            break;
          case 7:
            f.chip.writePort(PORTS[random(PORTS.length)], 1 << random(3), word() >>> 0);
            break;
          case 8: {
            const size = 1 << random(3);
            const value = f.chip.readPort(PORTS[random(PORTS.length)], size);
            assert.ok(Number.isInteger(value) && value >= 0 && value < 2 ** (8 * size));
            break;
          }
          case 9:
            f.chip.routing.setIrqLine(random(26), random(2) === 1);
            f.chip.routing.signalMsi({ address: 0xfee00000n | BigInt(random(2 ** 20)), data: word() >>> 0 });
            break;
          case 10:
            f.clock.time += random(2_000_000);
            f.timers.expire();
            break;
          default:
            if (random(20) === 0) f.chip.resetVcpu(vcpu);
            if (random(50) === 0) f.chip.writeMsr(vcpu, 0x1b, 0xfee00800n);
            if (random(20) === 0) f.enableAll();
            if (random(3) === 0) lapic.eoi();
        }
        noteSignals();
        if (f.chip.hasInterrupt(vcpu)) {
          // Nothing becomes deliverable without a signal.
          assert.ok(signalled.has(vcpu), `vCPU ${vcpu} was not told, step ${step}`);
          const ppr = lapic.ppr();
          const external = f.chip.pic.output && lapic.acceptsExtInt;
          const vector = f.chip.acknowledge(vcpu);
          assert.ok(vector >= 0 && vector < 256);
          if (!external) {
            assert.ok(vector >= 16 && vector >>> 4 > ppr >>> 4, "the processor priority let it through");
            assert.equal(lapic.ppr() >>> 4, vector >>> 4);
          }
        } else {
          if (!f.chip.pic.output || !lapic.acceptsExtInt) assert.equal(f.chip.acknowledge(vcpu), -1);
          signalled.delete(vcpu);
        }
        noteSignals();
        assert.deepEqual(locks.held, []);
      }
    } finally {
      observeLocks(undefined);
    }
  });
}

test("signals come with no lock held", () => {
  const f = new Fixture(2);
  const locks = new HeldLocks();
  const push = f.signals.push.bind(f.signals);
  const check = (signal: string) => {
    assert.deepEqual(locks.held, []);
    return push(signal);
  };
  f.signals.push = check;
  observeLocks(locks);
  try {
    f.enableAll();
    f.redirect(17, 0x8040);
    f.chip.routing.setIrqLine(17, true);
    f.chip.acknowledge(0);
    f.write(0, LapicReg.EOI, 0);
    f.write(0, LapicReg.LVT_TIMER, 0x50);
    f.write(0, LapicReg.TIMER_INITIAL, 10);
    f.out(0x20, 0x11);
    f.out(0x21, 0x20, 0x04, 0x01);
    f.out(0x43, 0x34);
    f.out(0x40, 100, 0);
    f.advance(1_000_000);
    assert.ok(f.signals.length >= 4);
  } finally {
    observeLocks(undefined);
  }
});

test("loading any register page leaves a working APIC", () => {
  const random = prng(7);
  const f = new Fixture(1);
  const page = new Uint8Array(1024);
  for (let i = 0; i < 300; i++) {
    for (let at = 0; at < page.length; at++) page[at] = random(256);
    f.chip.setLapic(0, page);
    f.chip.getLapic(0);
    f.clock.time += 1000;
    f.timers.expire();
    for (let n = 0; f.chip.hasInterrupt(0) && n < 300; n++) {
      f.chip.acknowledge(0);
      f.chip.lapics[0].eoi();
    }
    // Whatever was in service can be ended.
    for (let n = 0; n < 256; n++) f.chip.lapics[0].eoi();
    f.write(0, LapicReg.TPR, 0);
    assert.equal(f.read(0, LapicReg.PPR), 0);
  }
});
