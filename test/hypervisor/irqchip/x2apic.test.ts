// Written from SDM vol. 3A, 11.12.
import assert from "node:assert/strict";
import test from "node:test";
import { LapicReg } from "../../../src/hypervisor/soft/irqchip/lapic-registers.js";
import { Fixture } from "./fixture.js";

function x2apic(vcpus = 1): Fixture {
  const f = new Fixture(vcpus);
  for (let vcpu = 0; vcpu < vcpus; vcpu++) f.enableX2apic(vcpu);
  f.enableAll();
  return f;
}

test("MSRs raise #GP outside of x2APIC mode", () => {
  const f = new Fixture();
  for (let index = 0x800; index <= 0x8ff; index++) {
    assert.ok(f.chip.claimsMsr(index));
    assert.equal(f.chip.readMsr(0, index), undefined);
    assert.equal(f.chip.writeMsr(0, index, 0n), false);
  }
});

test("which MSRs can be read and written (table 11-6)", () => {
  const readable = new Set([
    0x802, 0x803, 0x808, 0x80a, 0x80d, 0x80f, 0x828, 0x830, 0x832, 0x833, 0x834, 0x835, 0x836, 0x837, 0x838,
    0x839, 0x83e,
  ]);
  for (let index = 0x810; index < 0x828; index++) readable.add(index);
  const writable = new Set([
    0x808, 0x80b, 0x80f, 0x828, 0x830, 0x832, 0x833, 0x834, 0x835, 0x836, 0x837, 0x838, 0x83e, 0x83f,
  ]);
  const f = x2apic();
  for (let index = 0x800; index <= 0x8ff; index++) {
    const name = `MSR 0x${index.toString(16)}`;
    assert.equal(f.chip.readMsr(0, index) !== undefined, readable.has(index), `read of ${name}`);
    assert.equal(f.chip.writeMsr(0, index, 0n), writable.has(index), `write of ${name}`);
  }
});

test("reserved bits raise #GP", () => {
  const legal: [number, bigint][] = [
    [LapicReg.TPR, 0xffn],
    [LapicReg.EOI, 0n],
    [LapicReg.SVR, 0x13ffn],
    [LapicReg.ESR, 0n],
    [LapicReg.ICR, 0xffffffff_000cdfffn],
    [LapicReg.LVT_TIMER, 0x710ffn],
    [LapicReg.LVT_THERMAL, 0x117ffn],
    [LapicReg.LVT_PMC, 0x117ffn],
    [LapicReg.LVT_LINT0, 0x1f7ffn],
    [LapicReg.LVT_LINT1, 0x1f7ffn],
    [LapicReg.LVT_ERROR, 0x110ffn],
    [LapicReg.TIMER_INITIAL, 0xffffffffn],
    [LapicReg.TIMER_DIVIDE, 0xbn],
    [LapicReg.SELF_IPI, 0xffn],
  ];
  for (const [offset, bits] of legal) {
    for (let bit = 0n; bit < 64n; bit++) {
      const f = x2apic();
      const ok = ((bits >> bit) & 1n) === 1n;
      assert.equal(f.writeX2(0, offset, 1n << bit), ok, `bit ${bit} of 0x${offset.toString(16)}`);
    }
  }
});

test("ID is 32 bits and LDR is derived from it (11.12.10.2)", () => {
  const f = x2apic(40);
  assert.equal(f.readX2(37, LapicReg.ID), 37n);
  assert.equal(f.readX2(37, LapicReg.LDR), (2n << 16n) | (1n << 5n));
});

test("the ICR is one 64-bit register, and reads back", () => {
  const f = x2apic(4);
  assert.ok(f.writeX2(0, LapicReg.ICR, (3n << 32n) | 0x4088n));
  assert.equal(f.readX2(0, LapicReg.ICR), (3n << 32n) | 0x4088n);
  assert.deepEqual(f.drain(3), [0x88]);
  assert.deepEqual(f.drain(1), []);
});

test("0xFF is an ordinary ID in x2APIC mode, all ones is the broadcast", () => {
  const f = x2apic(3);
  f.writeX2(0, LapicReg.ICR, (0xffn << 32n) | 0x50n);
  f.writeX2(0, LapicReg.ICR, (0xffffffffn << 32n) | 0x51n);
  for (let vcpu = 0; vcpu < 3; vcpu++) assert.deepEqual(f.drain(vcpu), [0x51]);
});

test("logical destinations name a cluster and its members", () => {
  const f = x2apic(36);
  // Cluster 1, members 0 and 15.
  f.writeX2(2, LapicReg.ICR, (0x18001n << 32n) | 0x860n);
  for (let vcpu = 0; vcpu < 36; vcpu++) {
    assert.deepEqual(f.drain(vcpu), vcpu === 16 || vcpu === 31 ? [0x60] : [], `vCPU ${vcpu}`);
  }
});

test("self IPI; vectors below 16 are an error", () => {
  const f = x2apic(2);
  assert.ok(f.writeX2(1, LapicReg.SELF_IPI, 0x33n));
  assert.deepEqual(f.drain(1), [0x33]);
  assert.deepEqual(f.drain(0), []);
  assert.ok(f.writeX2(1, LapicReg.SELF_IPI, 0x0fn));
  assert.ok(f.writeX2(1, LapicReg.ESR, 0n));
  assert.equal(f.readX2(1, LapicReg.ESR), 1n << 5n);
});

test("EOI by MSR", () => {
  const f = x2apic();
  f.writeX2(0, LapicReg.SELF_IPI, 0x44n);
  assert.equal(f.chip.acknowledge(0), 0x44);
  assert.equal(f.readX2(0, LapicReg.ISR + 0x20), 1n << 4n);
  assert.ok(f.writeX2(0, LapicReg.EOI, 0n));
  assert.equal(f.readX2(0, LapicReg.ISR + 0x20), 0n);
});

test("going into x2APIC mode keeps what is pending", () => {
  const f = new Fixture();
  f.enableAll();
  f.write(0, LapicReg.ICR, (1 << 18) | 0x99);
  f.enableX2apic(0);
  assert.deepEqual(f.drain(0), [0x99]);
  assert.equal(f.readX2(0, LapicReg.SVR), 0x1ffn);
});

test("the register page in x2APIC mode has the 32-bit ID and the whole ICR", () => {
  const f = x2apic(3);
  f.writeX2(2, LapicReg.ICR, (0x12345678n << 32n) | 0x40n);
  const page = f.chip.getLapic(2);
  const data = new DataView(page.buffer);
  assert.equal(data.getUint32(LapicReg.ID, true), 2);
  assert.equal(data.getUint32(LapicReg.ICR_HIGH, true), 0x12345678);
  const g = x2apic(3);
  g.chip.setLapic(2, page);
  assert.equal(g.readX2(2, LapicReg.ICR), (0x12345678n << 32n) | 0x40n);
});
