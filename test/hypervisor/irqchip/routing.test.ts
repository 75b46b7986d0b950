// Written from Linux's Documentation/virt/kvm/api.rst (KVM_SET_GSI_ROUTING, KVM_IRQ_LINE, KVM_SIGNAL_MSI) and SDM vol.
// 3A, 11.11.
import assert from "node:assert/strict";
import test from "node:test";
import { LapicReg } from "../../../src/hypervisor/soft/irqchip/lapic-registers.js";
import { MAX_ROUTES } from "../../../src/hypervisor/soft/irqchip/routing.js";
import { Fixture } from "./fixture.js";

function fixture(vcpus = 4): Fixture {
  const f = new Fixture(vcpus);
  f.enableAll();
  f.take();
  return f;
}

test("default routes: ISA interrupts to both, GSI 0 to pin 2, 16 to 23 to the IOAPIC", () => {
  const f = fixture();
  for (let pin = 0; pin < 24; pin++) f.redirect(pin, 0x40 + pin, 1);
  for (let gsi = 0; gsi < 26; gsi++) {
    if (gsi === 2) continue;
    f.chip.routing.setIrqLine(gsi, true);
    assert.deepEqual(f.drain(1), gsi > 23 ? [] : [0x40 + (gsi === 0 ? 2 : gsi)], `GSI ${gsi}`);
    // The 8259s are not initialized: IRQ n of the master shows in its IRR all the same.
    f.out(0x20, 0x0a);
    f.out(0xa0, 0x0a);
    const irr = f.in(0x20) | (f.in(0xa0) << 8);
    if (gsi < 16) assert.equal((irr >> gsi) & 1, 1, `IRQ ${gsi}`);
    f.chip.routing.setIrqLine(gsi, false);
  }
});

test("routes can be replaced, on all threads; bad ones are refused as a whole", () => {
  const f = fixture();
  const other = new Fixture(4, f);
  f.redirect(5, 0x55, 2);
  other.chip.routing.setIrqLine(5, true);
  other.chip.routing.setIrqLine(5, false);
  assert.deepEqual(f.drain(2), [0x55]);
  f.chip.routing.setRoutes([
    { gsi: 30, type: "irqchip", chip: "ioapic", pin: 5 },
    { gsi: 40, type: "msi", address: 0xfee03000n, data: 0x66 },
    { gsi: 40, type: "msi", address: 0xfee01000n, data: 0x67 },
  ]);
  other.chip.routing.setIrqLine(5, true);
  assert.deepEqual(f.drain(2), []);
  other.chip.routing.setIrqLine(30, true);
  assert.deepEqual(f.drain(2), [0x55]);
  other.chip.routing.setIrqLine(40, true);
  other.chip.routing.setIrqLine(40, false);
  assert.deepEqual(f.drain(3), [0x66]);
  assert.deepEqual(f.drain(1), [0x67]);

  for (const bad of [
    [{ gsi: 4096, type: "msi", address: 0n, data: 0 }],
    [{ gsi: -1, type: "msi", address: 0n, data: 0 }],
    [{ gsi: 1, type: "irqchip", chip: "ioapic", pin: 24 }],
    [{ gsi: 1, type: "irqchip", chip: "pic-slave", pin: 8 }],
    [{ gsi: 1.5, type: "irqchip", chip: "pic-master", pin: 1 }],
  ] as const) {
    assert.throws(() => f.chip.routing.setRoutes([...bad]), RangeError);
  }
  const many = Array.from({ length: MAX_ROUTES + 1 }, (_, gsi) => ({
    gsi,
    type: "msi" as const,
    address: 0n,
    data: 0,
  }));
  assert.throws(() => f.chip.routing.setRoutes(many), /1024/);
  f.chip.routing.setRoutes(many.slice(1));
  f.take();
  f.chip.routing.setIrqLine(40, true);
  assert.deepEqual(f.take(), []);
});

test("MSI: physical, broadcast, vector and delivery mode", () => {
  const f = fixture();
  assert.equal(f.chip.routing.signalMsi({ address: 0xfee02000n, data: 0x4041 }), 1);
  assert.deepEqual(f.take(), ["interrupt 2"]);
  assert.deepEqual(f.drain(2), [0x41]);
  assert.equal(f.chip.routing.signalMsi({ address: 0xfeeff000n, data: 0x42 }), 4);
  f.take();
  assert.equal(f.chip.routing.signalMsi({ address: 0xfee01000n, data: 0x400 }), 1);
  assert.deepEqual(f.take(), ["nmi 1"]);
  for (const mode of [2, 3, 6, 7]) {
    assert.equal(f.chip.routing.signalMsi({ address: 0xfee01000n, data: 0x41 | (mode << 8) }), 0);
  }
  assert.deepEqual(f.take(), []);
});

test("MSI: logical, lowest priority, redirection hint", () => {
  const f = fixture();
  for (let vcpu = 0; vcpu < 4; vcpu++) {
    f.write(vcpu, LapicReg.LDR, (1 << (24 + vcpu)) >>> 0);
    f.write(vcpu, LapicReg.TPR, 0x40 - 0x10 * vcpu);
  }
  f.take();
  assert.equal(f.chip.routing.signalMsi({ address: 0xfee0a004n, data: 0x61 }), 2);
  assert.deepEqual(f.take(), ["interrupt 1", "interrupt 3"]);
  assert.equal(f.chip.routing.signalMsi({ address: 0xfee07004n, data: 0x161 }), 1);
  assert.deepEqual(f.take(), ["interrupt 2"]);
  assert.equal(f.chip.routing.signalMsi({ address: 0xfee0300cn, data: 0x61 }), 1);
  assert.deepEqual(f.take(), ["interrupt 1"]);
});

test("MSI: level-triggered ones set the TMR; a de-assert is no interrupt", () => {
  const f = fixture();
  assert.equal(f.chip.routing.signalMsi({ address: 0xfee00000n, data: 0x8061 }), 0);
  assert.equal(f.chip.routing.signalMsi({ address: 0xfee00000n, data: 0xc061 }), 1);
  assert.equal(f.read(0, LapicReg.TMR + 0x30), 2);
  assert.deepEqual(f.drain(0), [0x61]);
  assert.equal(f.chip.routing.signalMsi({ address: 0xfee00000n, data: 0x61 }), 1);
  assert.equal(f.read(0, LapicReg.TMR + 0x30), 0);
});

test("MSI: more destination bits in the address's bits 11:5 and upper half", () => {
  const f = new Fixture(260);
  for (const vcpu of [1, 255, 257]) f.enableX2apic(vcpu);
  f.enableAll();
  f.take();
  f.chip.routing.signalMsi({ address: 0xfee01020n, data: 0x50 });
  assert.deepEqual(f.take(), ["interrupt 257"]);
  f.chip.routing.signalMsi({ address: 0x100_fee01000n, data: 0x50 });
  assert.deepEqual(f.take(), ["interrupt 257"]);
  assert.equal(f.chip.routing.signalMsi({ address: 0xffffff00_fee01000n, data: 0x50 }), 0);
});

test("MSI: an address outside of 0xFEExxxxx is no interrupt message", () => {
  const f = fixture();
  assert.equal(f.chip.routing.signalMsi({ address: 0xfed00000n, data: 0x50 }), 0);
  assert.equal(f.chip.routing.signalMsi({ address: 0n, data: 0x50 }), 0);
  assert.deepEqual(f.take(), []);
});
