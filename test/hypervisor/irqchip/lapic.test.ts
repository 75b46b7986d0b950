// Written from SDM vol. 3A, chapter 11.
import assert from "node:assert/strict";
import test from "node:test";
import { LapicReg } from "../../../src/hypervisor/soft/irqchip/lapic-registers.js";
import { Fixture, LAPIC_PAGE } from "./fixture.js";

const APIC_BASE = 0x1b;
const SELF = 1 << 18;

test("power-up state (11.4.7.1)", () => {
  const f = new Fixture(2);
  assert.equal(f.chip.readMsr(0, APIC_BASE), 0xfee00900n);
  assert.equal(f.chip.readMsr(1, APIC_BASE), 0xfee00800n);
  assert.equal(f.read(1, LapicReg.ID), 0x01000000);
  assert.equal(f.read(0, LapicReg.VERSION) & 0xff00ff, 0x050014);
  assert.equal(f.read(0, LapicReg.SVR), 0xff);
  assert.equal(f.read(0, LapicReg.DFR), 0xffffffff);
  for (const offset of [LapicReg.TPR, LapicReg.PPR, LapicReg.LDR, LapicReg.ESR, LapicReg.ICR, 0x380, 0x390]) {
    assert.equal(f.read(0, offset), 0, `register 0x${offset.toString(16)}`);
  }
  for (let offset = LapicReg.ISR; offset < LapicReg.ESR; offset += 16) assert.equal(f.read(0, offset), 0);
  for (let offset = LapicReg.LVT_TIMER; offset <= LapicReg.LVT_ERROR; offset += 16) {
    assert.equal(f.read(1, offset), 0x10000);
  }
  // The bootstrap processor is in virtual wire mode.
  assert.equal(f.read(0, LapicReg.LVT_LINT0), 0x700);
});

test("only the bits that the manual gives to software can be written", () => {
  const f = new Fixture();
  f.enableAll();
  const expected: [number, number][] = [
    [LapicReg.ID, 0xff000000],
    [LapicReg.TPR, 0xff],
    [LapicReg.LDR, 0xff000000],
    [LapicReg.SVR, 0x13ff],
    [LapicReg.ICR_HIGH, 0xff000000],
    [LapicReg.LVT_TIMER, 0x700ff],
    [LapicReg.LVT_THERMAL, 0x107ff],
    [LapicReg.LVT_PMC, 0x107ff],
    [LapicReg.LVT_LINT0, 0x1a7ff],
    [LapicReg.LVT_LINT1, 0x1a7ff],
    [LapicReg.LVT_ERROR, 0x100ff],
    [LapicReg.TIMER_DIVIDE, 0xb],
  ];
  for (const [offset, value] of expected) {
    f.write(0, offset, 0xffffffff);
    assert.equal(f.read(0, offset), value, `register 0x${offset.toString(16)}`);
  }
  f.write(0, LapicReg.DFR, 0);
  assert.equal(f.read(0, LapicReg.DFR), 0x0fffffff);
});

test("registers answer 32-bit accesses on 16-byte boundaries", () => {
  const f = new Fixture();
  f.write(0, LapicReg.ID, 0xab000000);
  assert.equal(f.chip.readMmio(0, LAPIC_PAGE + 0x23, 1), 0xab);
  assert.equal(f.chip.readMmio(0, LAPIC_PAGE + 0x22, 2), 0xab00);
  assert.equal(f.chip.readMmio(0, LAPIC_PAGE + 0x24, 4), 0);
  assert.equal(f.chip.readMmio(0, LAPIC_PAGE + 0x22, 4), 0);
  f.chip.writeMmio(0, LAPIC_PAGE + 0x80, 1, 0x55);
  f.chip.writeMmio(0, LAPIC_PAGE + 0x81, 4, 0x55);
  assert.equal(f.read(0, LapicReg.TPR), 0);
});

test("software disable masks the LVT and accepts no fixed interrupt; what is pending stays (11.4.7.2)", () => {
  const f = new Fixture(2);
  f.enableAll();
  f.write(0, LapicReg.LVT_LINT1, 0x400);
  f.write(0, LapicReg.ICR, SELF | 0x40);
  f.write(0, LapicReg.SVR, 0xff);
  assert.equal(f.read(0, LapicReg.LVT_LINT1), 0x10400);
  f.write(0, LapicReg.LVT_LINT1, 0x400);
  assert.equal(f.read(0, LapicReg.LVT_LINT1), 0x10400, "the mask bit stays set");
  f.write(1, LapicReg.ICR, 0x41);
  assert.equal(f.chip.acknowledge(0), 0x40);
  f.chip.lapics[0].eoi();
  assert.equal(f.chip.acknowledge(0), -1);
  // NMI, INIT and SIPI are still taken, and it can still send.
  f.take();
  f.write(1, LapicReg.ICR, 0x400);
  f.write(1, LapicReg.ICR, 0x4500);
  f.write(0, LapicReg.ICR_HIGH, 1 << 24);
  f.write(0, LapicReg.ICR, 0x42);
  assert.deepEqual(f.take(), ["nmi 0", "init 0", "interrupt 1"]);
});

test("IRR, ISR, PPR: highest first, nested by class (11.8.3, 11.8.4)", () => {
  const f = new Fixture();
  f.enableAll();
  for (const vector of [0x31, 0x52, 0x5f, 0xe0]) f.write(0, LapicReg.ICR, SELF | vector);
  assert.equal(f.read(0, LapicReg.IRR + 0x10), 1 << (0x31 - 0x20));
  assert.equal(f.read(0, LapicReg.IRR + 0x20), ((1 << (0x52 - 0x40)) | (1 << (0x5f - 0x40))) >>> 0);
  assert.equal(f.chip.acknowledge(0), 0xe0);
  assert.equal(f.read(0, LapicReg.ISR + 0x70), 1);
  assert.equal(f.read(0, LapicReg.IRR + 0x70), 0);
  assert.equal(f.read(0, LapicReg.PPR), 0xe0);
  assert.equal(f.chip.hasInterrupt(0), false);
  f.write(0, LapicReg.EOI, 0);
  assert.equal(f.chip.acknowledge(0), 0x5f);
  // 0x52 is of the same class as 0x5f.
  assert.equal(f.chip.acknowledge(0), -1);
  f.write(0, LapicReg.ICR, SELF | 0x60);
  assert.equal(f.chip.acknowledge(0), 0x60);
  f.write(0, LapicReg.EOI, 0);
  assert.equal(f.read(0, LapicReg.PPR), 0x50);
  f.write(0, LapicReg.EOI, 0);
  assert.deepEqual(f.drain(0), [0x52, 0x31]);
  f.write(0, LapicReg.EOI, 0);
  assert.equal(f.read(0, LapicReg.PPR), 0);
});

test("TPR and CR8 hold back classes up to theirs (11.8.3.1, 11.8.6)", () => {
  const f = new Fixture();
  f.enableAll();
  f.write(0, LapicReg.TPR, 0x45);
  assert.equal(f.chip.getCr8(0), 4);
  assert.equal(f.read(0, LapicReg.PPR), 0x45);
  f.write(0, LapicReg.ICR, SELF | 0x4f);
  assert.equal(f.chip.hasInterrupt(0), false);
  f.take();
  f.chip.setCr8(0, 3);
  assert.equal(f.read(0, LapicReg.TPR), 0x30);
  assert.deepEqual(f.take(), ["interrupt 0"], "lowering the TPR signals the vCPU");
  assert.equal(f.chip.acknowledge(0), 0x4f);
  assert.equal(f.read(0, LapicReg.PPR), 0x40);
  f.write(0, LapicReg.TPR, 0x47);
  assert.equal(f.read(0, LapicReg.PPR), 0x47);
  f.chip.setCr8(0, 15);
  f.write(0, LapicReg.ICR, SELF | 0xff);
  assert.equal(f.chip.hasInterrupt(0), false);
});

test("an EOI with nothing in service does nothing; one with more pending signals the vCPU", () => {
  const f = new Fixture();
  f.enableAll();
  f.write(0, LapicReg.EOI, 0);
  f.write(0, LapicReg.ICR, SELF | 0x80);
  assert.equal(f.chip.acknowledge(0), 0x80);
  f.write(0, LapicReg.ICR, SELF | 0x81);
  f.take();
  f.write(0, LapicReg.EOI, 0);
  assert.deepEqual(f.take(), ["interrupt 0"]);
});

test("a vector can be in IRR and ISR at once: two interrupts are kept, not three (11.8.4)", () => {
  const f = new Fixture();
  f.enableAll();
  f.write(0, LapicReg.ICR, SELF | 0x90);
  assert.equal(f.chip.acknowledge(0), 0x90);
  f.write(0, LapicReg.ICR, SELF | 0x90);
  f.write(0, LapicReg.ICR, SELF | 0x90);
  f.write(0, LapicReg.EOI, 0);
  assert.deepEqual(f.drain(0), [0x90]);
});

test("errors: illegal vectors and registers, readable after a write of the ESR (11.5.3)", () => {
  const f = new Fixture(2);
  f.enableAll();
  f.write(0, LapicReg.LVT_ERROR, 0xfe);
  f.write(0, LapicReg.ICR, SELF | 0x0f);
  assert.deepEqual(f.drain(0), [0xfe]);
  assert.equal(f.read(0, LapicReg.ESR), 0);
  f.write(0, LapicReg.ESR, 0);
  assert.equal(f.read(0, LapicReg.ESR), 1 << 5);
  // Received: an MSI with vector 3.
  f.chip.routing.signalMsi({ address: 0xfee01000n, data: 3 });
  f.write(1, LapicReg.ESR, 0);
  assert.equal(f.read(1, LapicReg.ESR), 1 << 6);
  f.read(0, 0x40);
  f.write(0, 0x3f0, 1);
  f.write(0, LapicReg.ESR, 0);
  assert.equal(f.read(0, LapicReg.ESR), 1 << 7);
  f.write(0, LapicReg.ESR, 0);
  assert.equal(f.read(0, LapicReg.ESR), 0);
  // A write to a read-only register is no error.
  f.write(0, LapicReg.VERSION, 0);
  f.write(0, LapicReg.ESR, 0);
  assert.equal(f.read(0, LapicReg.ESR), 0);
});

test("an error entry with an illegal vector does not recurse", () => {
  const f = new Fixture();
  f.enableAll();
  f.write(0, LapicReg.LVT_ERROR, 0x05);
  f.write(0, LapicReg.ICR, SELF | 0x01);
  f.write(0, LapicReg.ESR, 0);
  assert.equal(f.read(0, LapicReg.ESR), 1 << 5);
});

test("IA32_APIC_BASE: the legal transitions of 11.12.5 and no others", () => {
  const EN = 0x800n;
  const EXTD = 0x400n;
  const page = 0xfee00000n;
  const states = { disabled: 0n, xapic: EN, x2apic: EN | EXTD } as const;
  const legal: Record<string, string[]> = {
    disabled: ["disabled", "xapic"],
    xapic: ["disabled", "xapic", "x2apic"],
    x2apic: ["disabled", "x2apic"],
  };
  const reach: Record<string, bigint[]> = {
    disabled: [page],
    xapic: [],
    x2apic: [page | EN | EXTD],
  };
  for (const from of ["disabled", "xapic", "x2apic"] as const) {
    for (const to of ["disabled", "xapic", "x2apic"] as const) {
      const f = new Fixture();
      for (const value of reach[from]) assert.ok(f.chip.writeMsr(0, APIC_BASE, value));
      const before = f.chip.readMsr(0, APIC_BASE);
      const ok = legal[from].includes(to);
      assert.equal(f.chip.writeMsr(0, APIC_BASE, page | states[to]), ok, `${from} to ${to}`);
      assert.equal(f.chip.readMsr(0, APIC_BASE), ok ? page | states[to] : before);
    }
    const f = new Fixture();
    for (const value of reach[from]) f.chip.writeMsr(0, APIC_BASE, value);
    assert.equal(f.chip.writeMsr(0, APIC_BASE, page | EXTD), false, `${from} to the invalid state`);
  }
  const f = new Fixture();
  for (const bit of [0n, 1n, 7n, 9n, 40n, 51n, 52n, 63n]) {
    assert.equal(f.chip.writeMsr(0, APIC_BASE, page | EN | (1n << bit)), false, `bit ${bit} is reserved`);
  }
});

test("the host may set any valid IA32_APIC_BASE (KVM_SET_SREGS)", () => {
  const f = new Fixture();
  assert.ok(f.chip.setApicBase(0, 0xfee00000n));
  assert.ok(f.chip.setApicBase(0, 0xfee00d00n));
  assert.equal(f.chip.getApicBase(0), 0xfee00d00n);
  assert.ok(f.chip.setApicBase(0, 0xfee00900n));
  assert.equal(f.chip.setApicBase(0, 0xfee00400n), false);
  assert.equal(f.chip.setApicBase(0, 1n << 45n), false);
  assert.equal(f.chip.getApicBase(0), 0xfee00900n);
});

test("the page can be moved, and answers in xAPIC mode only", () => {
  const f = new Fixture();
  assert.ok(f.chip.writeMsr(0, APIC_BASE, 0xfed40900n));
  assert.equal(f.chip.claimsMmio(0, LAPIC_PAGE), false);
  assert.equal(f.chip.readMmio(0, 0xfed40000 + LapicReg.VERSION, 4) & 0xff, 0x14);
  assert.ok(f.chip.writeMsr(0, APIC_BASE, 0x12_fed40900n));
  assert.ok(f.chip.claimsMmio(0, 0x12_fed40fff));
  f.enableX2apic(0);
  assert.equal(f.chip.claimsMmio(0, 0x12_fed40000), false);
  assert.ok(f.chip.writeMsr(0, APIC_BASE, 0xfee00000n));
  assert.equal(f.chip.claimsMmio(0, LAPIC_PAGE), false);
});

test("disabling resets the registers and the ID; CR8 keeps working", () => {
  const f = new Fixture(2);
  f.enableAll();
  f.write(1, LapicReg.ID, 0x42000000);
  f.write(1, LapicReg.LDR, 0x02000000);
  f.write(1, LapicReg.ICR, SELF | 0x70);
  f.chip.setCr8(1, 6);
  assert.ok(f.chip.writeMsr(1, APIC_BASE, 0xfee00000n));
  assert.equal(f.chip.getCr8(1), 6);
  assert.equal(f.chip.lapics[1].enabled, false);
  assert.equal(f.chip.hasInterrupt(1), false);
  f.chip.setCr8(1, 9);
  assert.equal(f.chip.getCr8(1), 9);
  assert.equal(f.chip.readMsr(1, 0x802), undefined);
  assert.ok(f.chip.writeMsr(1, APIC_BASE, 0xfee00800n));
  assert.equal(f.read(1, LapicReg.ID), 0x01000000);
  assert.equal(f.read(1, LapicReg.LDR), 0);
  assert.equal(f.read(1, LapicReg.SVR), 0xff);
});

test("INIT keeps ID and mode, and resets the rest (11.4.7.3)", () => {
  const f = new Fixture(2);
  f.enableAll();
  f.write(1, LapicReg.ID, 0x05000000);
  f.write(1, LapicReg.TPR, 0x33);
  f.write(1, LapicReg.ICR, SELF | 0x70);
  f.chip.resetVcpu(1);
  assert.equal(f.read(1, LapicReg.ID), 0x05000000);
  assert.equal(f.read(1, LapicReg.TPR), 0);
  assert.equal(f.read(1, LapicReg.SVR), 0xff);
  assert.equal(f.chip.hasInterrupt(1), false);
  const g = new Fixture(20);
  g.enableX2apic(18);
  g.chip.resetVcpu(18);
  assert.equal(g.readX2(18, LapicReg.ID), 18n);
  assert.equal(g.readX2(18, LapicReg.LDR), 0x10004n);
});

test("LINT pins: NMI, fixed, ExtINT, masked (11.5.1)", () => {
  const f = new Fixture();
  f.enableAll();
  const lapic = f.chip.lapics[0];
  f.write(0, LapicReg.LVT_LINT1, 0x400);
  f.take();
  lapic.pulseLint(1);
  assert.deepEqual(f.take(), ["nmi 0"]);
  f.write(0, LapicReg.LVT_LINT1, 0x10400);
  lapic.pulseLint(1);
  assert.deepEqual(f.take(), []);
  f.write(0, LapicReg.LVT_LINT1, 0x66);
  lapic.pulseLint(1);
  assert.deepEqual(f.drain(0), [0x66]);
});

test("the register page of KVM_GET_LAPIC carries the state over", () => {
  const f = new Fixture(2);
  f.enableAll();
  f.write(1, LapicReg.TPR, 0x20);
  f.write(1, LapicReg.LDR, 0x02000000);
  f.write(1, LapicReg.LVT_TIMER, 0x200e0);
  f.write(1, LapicReg.TIMER_DIVIDE, 3);
  f.write(1, LapicReg.TIMER_INITIAL, 1000);
  f.clock.time += 4000;
  f.chip.routing.signalMsi({ address: 0xfee01000n, data: 0xc055 });
  assert.equal(f.chip.acknowledge(1), 0x55);
  f.write(1, LapicReg.ICR, SELF | 0x91);
  const page = f.chip.getLapic(1);
  assert.equal(page.length, 1024);
  assert.equal(new DataView(page.buffer).getUint32(LapicReg.ID, true), 0x01000000);
  assert.equal(new DataView(page.buffer).getUint32(LapicReg.TIMER_CURRENT, true), 750);

  const g = new Fixture(2);
  g.chip.setLapic(1, page);
  assert.deepEqual(g.take(), ["interrupt 1"]);
  assert.deepEqual(g.chip.getLapic(1), page);
  assert.equal(g.chip.acknowledge(1), 0x91);
  g.advance(750 * 16);
  g.write(1, LapicReg.EOI, 0);
  assert.equal(g.chip.acknowledge(1), 0xe0);
  assert.throws(() => g.chip.setLapic(1, page.subarray(1)), RangeError);

  // The reset state of the bootstrap processor too, although its LINT0 is open while software-disabled.
  const reset = new Fixture().chip.getLapic(0);
  const h = new Fixture();
  h.write(0, LapicReg.LVT_LINT0, 0x10000);
  h.chip.setLapic(0, reset);
  assert.deepEqual(h.chip.getLapic(0), reset);
});

test("two threads' objects over one state see each other's interrupts", () => {
  const f = new Fixture(2);
  f.enableAll();
  const other = new Fixture(2, f);
  other.chip.routing.signalMsi({ address: 0xfee01000n, data: 0x77 });
  assert.deepEqual(other.take(), ["interrupt 1"]);
  assert.equal(f.chip.acknowledge(1), 0x77);
});
