// Written from the 82093AA data sheet.
import assert from "node:assert/strict";
import test from "node:test";
import { LapicReg } from "../../../src/hypervisor/soft/irqchip/lapic-registers.js";
import { Fixture, IOAPIC_PAGE } from "./fixture.js";

const LEVEL = 1 << 15;
const MASKED = 1 << 16;
const REMOTE_IRR = 1 << 14;
/** A GSI that is IOAPIC pin 17 and nothing else. */
const PIN = 17;

function fixture(vcpus = 1): Fixture {
  const f = new Fixture(vcpus);
  f.enableAll();
  f.take();
  return f;
}

test("registers after reset, and their writable bits (3.2)", () => {
  const f = fixture();
  assert.equal(f.readIoapic(0), 0);
  assert.equal(f.readIoapic(1), 0x00170020);
  for (let pin = 0; pin < 24; pin++) {
    assert.equal(f.readIoapic(0x10 + 2 * pin), MASKED);
    assert.equal(f.readIoapic(0x11 + 2 * pin), 0);
  }
  f.writeIoapic(0, 0xffffffff);
  assert.equal(f.readIoapic(0), 0x0f000000);
  assert.equal(f.readIoapic(2), 0x0f000000);
  f.writeIoapic(1, 0);
  assert.equal(f.readIoapic(1), 0x00170020);
  f.writeIoapic(0x3e, 0xffffffff);
  assert.equal(f.readIoapic(0x3e), 0x1afff);
  f.writeIoapic(0x3f, 0xffffffff);
  assert.equal(f.readIoapic(0x3f), 0xff000000);
  for (const index of [3, 0x0f, 0x40, 0xff]) {
    f.writeIoapic(index, 0xffffffff);
    assert.equal(f.readIoapic(index), 0);
  }
});

test("the window is selected by IOREGSEL's low byte (3.1)", () => {
  const f = fixture();
  f.chip.writeMmio(0, IOAPIC_PAGE, 1, 1);
  assert.equal(f.chip.readMmio(0, IOAPIC_PAGE, 4), 1);
  assert.equal(f.chip.readMmio(0, IOAPIC_PAGE + 0x10, 4), 0x00170020);
  assert.equal(f.chip.readMmio(0, IOAPIC_PAGE + 0x10, 1), 0x20);
  assert.equal(f.chip.readMmio(0, IOAPIC_PAGE + 0x20, 4), 0);
  assert.ok(f.chip.claimsMmio(0, IOAPIC_PAGE + 0xfff));
  assert.ok(!f.chip.claimsMmio(0, IOAPIC_PAGE + 0x1000));
});

test("edge: an interrupt for each rising edge", () => {
  const f = fixture();
  f.redirect(PIN, 0x77);
  f.chip.routing.setIrqLine(PIN, true);
  assert.deepEqual(f.take(), ["interrupt 0"]);
  f.chip.routing.setIrqLine(PIN, true);
  assert.deepEqual(f.take(), []);
  assert.deepEqual(f.drain(0), [0x77]);
  f.chip.routing.setIrqLine(PIN, false);
  f.chip.routing.setIrqLine(PIN, true);
  assert.deepEqual(f.drain(0), [0x77]);
});

test("edge: one on a masked pin is lost (3.2.4, Interrupt Mask)", () => {
  const f = fixture();
  f.redirect(PIN, 0x77 | MASKED);
  f.chip.routing.setIrqLine(PIN, true);
  f.redirect(PIN, 0x77);
  assert.deepEqual(f.drain(0), []);
  f.chip.routing.setIrqLine(PIN, false);
  f.chip.routing.setIrqLine(PIN, true);
  assert.deepEqual(f.drain(0), [0x77]);
});

test("level: remote IRR until the EOI, and again while the line stays asserted", () => {
  const f = fixture();
  f.redirect(PIN, 0x84 | LEVEL);
  f.chip.routing.setIrqLine(PIN, true);
  assert.equal(f.readIoapic(0x10 + 2 * PIN), 0x84 | LEVEL | REMOTE_IRR);
  assert.equal(f.read(0, LapicReg.TMR + 0x40), 1 << 4);
  assert.equal(f.chip.acknowledge(0), 0x84);
  f.chip.routing.setIrqLine(PIN, true);
  assert.equal(f.chip.hasInterrupt(0), false);
  f.take();
  f.write(0, LapicReg.EOI, 0);
  assert.ok(f.take().includes("interrupt 0"));
  assert.equal(f.chip.acknowledge(0), 0x84);
  f.chip.routing.setIrqLine(PIN, false);
  f.write(0, LapicReg.EOI, 0);
  assert.equal(f.readIoapic(0x10 + 2 * PIN), 0x84 | LEVEL);
  assert.equal(f.chip.acknowledge(0), -1);
});

test("level: an asserted line interrupts when the mask goes; masking holds it", () => {
  const f = fixture();
  f.redirect(PIN, 0x84 | LEVEL | MASKED);
  f.chip.routing.setIrqLine(PIN, true);
  assert.deepEqual(f.take(), []);
  f.writeIoapic(0x10 + 2 * PIN, 0x84 | LEVEL);
  assert.equal(f.chip.acknowledge(0), 0x84);
  f.writeIoapic(0x10 + 2 * PIN, 0x84 | LEVEL | MASKED);
  f.write(0, LapicReg.EOI, 0);
  assert.equal(f.chip.acknowledge(0), -1);
  assert.equal(f.readIoapic(0x10 + 2 * PIN), 0x84 | LEVEL | MASKED);
  f.writeIoapic(0x10 + 2 * PIN, 0x84 | LEVEL);
  assert.equal(f.chip.acknowledge(0), 0x84);
});

test("level: two pins with one vector both end with one EOI", () => {
  const f = fixture();
  f.redirect(17, 0x90 | LEVEL);
  f.redirect(18, 0x90 | LEVEL);
  f.chip.routing.setIrqLine(17, true);
  f.chip.routing.setIrqLine(18, true);
  assert.equal(f.chip.acknowledge(0), 0x90);
  f.chip.routing.setIrqLine(17, false);
  f.write(0, LapicReg.EOI, 0);
  assert.equal(f.readIoapic(0x10 + 34) & REMOTE_IRR, 0);
  assert.equal(f.readIoapic(0x10 + 36) & REMOTE_IRR, REMOTE_IRR);
  assert.equal(f.chip.acknowledge(0), 0x90);
});

test("going through edge clears the remote IRR; unmasking as level then interrupts again", () => {
  const f = fixture();
  f.redirect(PIN, 0x84 | LEVEL);
  f.chip.routing.setIrqLine(PIN, true);
  assert.equal(f.chip.acknowledge(0), 0x84);
  f.writeIoapic(0x10 + 2 * PIN, 0x84 | MASKED);
  f.writeIoapic(0x10 + 2 * PIN, 0x84 | LEVEL | MASKED);
  assert.equal(f.readIoapic(0x10 + 2 * PIN), 0x84 | LEVEL | MASKED);
  f.writeIoapic(0x10 + 2 * PIN, 0x84 | LEVEL);
  f.write(0, LapicReg.EOI, 0);
  assert.equal(f.chip.acknowledge(0), 0x84);
});

test("the EOI register, with broadcasts suppressed by the SVR", () => {
  const f = fixture();
  f.write(0, LapicReg.SVR, 0x11ff);
  f.redirect(PIN, 0x84 | LEVEL);
  f.chip.routing.setIrqLine(PIN, true);
  assert.equal(f.chip.acknowledge(0), 0x84);
  f.write(0, LapicReg.EOI, 0);
  assert.equal(f.readIoapic(0x10 + 2 * PIN) & REMOTE_IRR, REMOTE_IRR);
  assert.equal(f.chip.acknowledge(0), -1);
  f.chip.writeMmio(0, IOAPIC_PAGE + 0x40, 4, 0x85);
  assert.equal(f.readIoapic(0x10 + 2 * PIN) & REMOTE_IRR, REMOTE_IRR);
  f.chip.writeMmio(0, IOAPIC_PAGE + 0x40, 4, 0x84);
  assert.equal(f.chip.acknowledge(0), 0x84);
});

test("a level that nobody accepts leaves no remote IRR behind", () => {
  const f = fixture();
  f.redirect(PIN, 0x84 | LEVEL, 5);
  f.chip.routing.setIrqLine(PIN, true);
  assert.equal(f.readIoapic(0x10 + 2 * PIN), 0x84 | LEVEL);
  f.redirect(PIN, 0x84 | LEVEL, 0);
  assert.deepEqual(f.chip.acknowledge(0), 0x84);
});

test("polarity is stored and has no effect: lines are asserted or not", () => {
  const f = fixture();
  f.redirect(PIN, 0x84 | LEVEL | (1 << 13));
  assert.deepEqual(f.take(), []);
  f.chip.routing.setIrqLine(PIN, true);
  assert.deepEqual(f.take(), ["interrupt 0"]);
});

test("destinations and delivery modes", () => {
  const f = fixture(4);
  f.redirect(PIN, 0x50, 3);
  f.chip.routing.setIrqLine(PIN, true);
  assert.deepEqual(f.take(), ["interrupt 3"]);
  f.chip.routing.setIrqLine(PIN, false);
  for (let vcpu = 0; vcpu < 4; vcpu++) f.write(vcpu, LapicReg.LDR, (1 << (24 + vcpu)) >>> 0);
  for (const [mode, signals] of [
    [0x800, ["interrupt 1", "interrupt 2"]],
    [0xc00, ["nmi 1", "nmi 2"]],
    [0xd00, ["init 1", "init 2"]],
    [0xe00, []],
    [0xf00, []],
    [0xa00, []],
  ] as const) {
    f.redirect(PIN, 0x50 | mode, 0b0110);
    f.chip.routing.setIrqLine(PIN, true);
    f.chip.routing.setIrqLine(PIN, false);
    assert.deepEqual(f.take(), signals, `mode 0x${mode.toString(16)}`);
  }
  f.redirect(PIN, 0x50 | 0x900, 0b1111);
  f.chip.routing.setIrqLine(PIN, true);
  assert.equal(f.take().length, 1);
});

test("EOI of a level-triggered MSI or an edge leaves the IOAPIC alone", () => {
  const f = fixture();
  f.redirect(PIN, 0x84 | LEVEL);
  f.chip.routing.setIrqLine(PIN, true);
  assert.equal(f.chip.acknowledge(0), 0x84);
  // An edge with a higher vector comes between: its EOI is first and is for itself.
  f.write(0, LapicReg.ICR, (1 << 18) | 0xa0);
  assert.equal(f.chip.acknowledge(0), 0xa0);
  f.write(0, LapicReg.EOI, 0);
  assert.equal(f.readIoapic(0x10 + 2 * PIN) & REMOTE_IRR, REMOTE_IRR);
});
