// Interprocessor interrupts between four vCPUs, written from SDM vol. 3A, 11.6.
import assert from "node:assert/strict";
import test from "node:test";
import { LapicReg } from "../../../src/hypervisor/soft/irqchip/lapic-registers.js";
import { Fixture } from "./fixture.js";

const LOGICAL = 0x800;
const LOWEST = 0x100;

function four(): Fixture {
  const f = new Fixture(4);
  f.enableAll();
  f.take();
  return f;
}

function send(f: Fixture, from: number, low: number, destination = 0): void {
  f.write(from, LapicReg.ICR_HIGH, destination << 24);
  f.write(from, LapicReg.ICR, low);
}

/** Who has `vector`; everybody is drained. */
function got(f: Fixture, vector: number): number[] {
  return [0, 1, 2, 3].filter((vcpu) => f.drain(vcpu).includes(vector));
}

test("physical destination: by ID; 0xFF is everybody", () => {
  const f = four();
  send(f, 0, 0x50, 2);
  assert.deepEqual(f.take(), ["interrupt 2"]);
  assert.deepEqual(got(f, 0x50), [2]);
  send(f, 0, 0x50, 0);
  assert.deepEqual(got(f, 0x50), [0]);
  send(f, 3, 0x51, 0xff);
  assert.deepEqual(got(f, 0x51), [0, 1, 2, 3]);
  send(f, 0, 0x52, 9);
  assert.deepEqual(got(f, 0x52), []);
});

test("the ID that software wrote counts", () => {
  const f = four();
  f.write(2, LapicReg.ID, 0x09000000);
  send(f, 0, 0x50, 2);
  assert.deepEqual(got(f, 0x50), []);
  send(f, 0, 0x50, 9);
  assert.deepEqual(got(f, 0x50), [2]);
});

test("shorthands: self, all, all but self (table 11-3)", () => {
  const f = four();
  send(f, 1, 0x40 | (1 << 18), 3);
  assert.deepEqual(got(f, 0x40), [1]);
  send(f, 1, 0x41 | (2 << 18), 3);
  assert.deepEqual(got(f, 0x41), [0, 1, 2, 3]);
  send(f, 1, 0x42 | (3 << 18), 3);
  assert.deepEqual(got(f, 0x42), [0, 2, 3]);
  f.take();
  send(f, 2, 0x400 | (3 << 18));
  assert.deepEqual(f.take(), ["nmi 0", "nmi 1", "nmi 3"]);
});

test("logical destination, flat model: a bit an APIC (11.6.2.2)", () => {
  const f = four();
  for (let vcpu = 0; vcpu < 4; vcpu++) f.write(vcpu, LapicReg.LDR, (1 << (24 + vcpu)) >>> 0);
  send(f, 0, 0x60 | LOGICAL, 0b1010);
  assert.deepEqual(got(f, 0x60), [1, 3]);
  send(f, 0, 0x60 | LOGICAL, 0xff);
  assert.deepEqual(got(f, 0x60), [0, 1, 2, 3]);
  send(f, 0, 0x60 | LOGICAL, 0xf0);
  assert.deepEqual(got(f, 0x60), []);
});

test("logical destination, cluster model: cluster and members (11.6.2.2)", () => {
  const f = four();
  const ldr = [0x11, 0x12, 0x21, 0x28];
  for (let vcpu = 0; vcpu < 4; vcpu++) {
    f.write(vcpu, LapicReg.DFR, 0x0fffffff);
    f.write(vcpu, LapicReg.LDR, ldr[vcpu] << 24);
  }
  send(f, 0, 0x60 | LOGICAL, 0x13);
  assert.deepEqual(got(f, 0x60), [0, 1]);
  send(f, 0, 0x60 | LOGICAL, 0x29);
  assert.deepEqual(got(f, 0x60), [2, 3]);
  send(f, 0, 0x60 | LOGICAL, 0x22);
  assert.deepEqual(got(f, 0x60), []);
  // Cluster 15 is every cluster.
  send(f, 0, 0x60 | LOGICAL, 0xf1);
  assert.deepEqual(got(f, 0x60), [0, 2]);
  send(f, 0, 0x60 | LOGICAL, 0xff);
  assert.deepEqual(got(f, 0x60), [0, 1, 2, 3]);
});

test("lowest priority: the one with the lowest processor priority, in turn among equals (11.6.2.4)", () => {
  const f = four();
  for (let vcpu = 0; vcpu < 4; vcpu++) f.write(vcpu, LapicReg.LDR, (1 << (24 + vcpu)) >>> 0);
  for (const [vcpu, tpr] of [0x40, 0x30, 0x10, 0x20].entries()) f.write(vcpu, LapicReg.TPR, tpr);
  for (let i = 0; i < 5; i++) {
    send(f, 0, 0x70 | LOWEST | LOGICAL, 0x0f);
    assert.deepEqual(got(f, 0x70), [2]);
  }
  send(f, 0, 0x70 | LOWEST | LOGICAL, 0b1011);
  assert.deepEqual(got(f, 0x70), [3]);
  // An interrupt in service raises the priority.
  send(f, 0, 0x90, 3);
  assert.equal(f.chip.acknowledge(3), 0x90);
  send(f, 0, 0x71 | LOWEST | LOGICAL, 0b1011);
  f.write(3, LapicReg.EOI, 0);
  assert.deepEqual(got(f, 0x71), [1]);
  // Software-disabled ones take no part.
  f.write(1, LapicReg.SVR, 0xff);
  f.write(3, LapicReg.SVR, 0xff);
  send(f, 0, 0x70 | LOWEST | LOGICAL, 0b1010);
  assert.deepEqual(got(f, 0x70), []);

  const g = four();
  const seen = new Set<number>();
  for (let i = 0; i < 8; i++) {
    send(g, 0, 0x70 | LOWEST, 0xff);
    const one = got(g, 0x70);
    assert.equal(one.length, 1);
    seen.add(one[0]);
  }
  assert.equal(seen.size, 4);
});

test("INIT and start-up; INIT level de-assert is ignored", () => {
  const f = four();
  send(f, 0, 0x4500, 1);
  assert.deepEqual(f.take(), ["init 1"]);
  // INIT, level, assert, then the de-assert that MultiProcessor Specification 1.4, B.4 sends to all.
  send(f, 0, 0xc500, 1);
  send(f, 0, 0x8500 | (2 << 18), 1);
  assert.deepEqual(f.take(), ["init 1"]);
  send(f, 0, 0x469a, 1);
  assert.deepEqual(f.take(), ["sipi 1 0x9a"]);
  send(f, 0, 0x4608 | (3 << 18));
  assert.deepEqual(f.take(), ["sipi 1 0x8", "sipi 2 0x8", "sipi 3 0x8"]);
});

test("a globally disabled APIC gets nothing", () => {
  const f = four();
  f.chip.writeMsr(1, 0x1b, 0xfee00000n);
  f.take();
  send(f, 0, 0x4500, 1);
  send(f, 0, 0x400 | (3 << 18));
  send(f, 0, 0x50 | (3 << 18));
  assert.deepEqual(f.take(), ["nmi 2", "nmi 3", "interrupt 2", "interrupt 3"]);
});

test("SMI, reserved and ExtINT delivery modes deliver nothing; delivery status reads idle", () => {
  const f = four();
  for (const mode of [2, 3, 7]) send(f, 0, (mode << 8) | 0x50, 1);
  assert.deepEqual(f.take(), []);
  assert.equal(f.read(0, LapicReg.ICR), 0x750);
  send(f, 0, 0x1050, 1);
  assert.equal(f.read(0, LapicReg.ICR), 0x50);
});

test("IPIs are edges whatever the ICR's trigger mode says", () => {
  const f = four();
  send(f, 0, 0xc058, 1);
  assert.equal(f.read(1, LapicReg.TMR + 0x20), 0);
  assert.deepEqual(got(f, 0x58), [1]);
});

test("xAPIC and x2APIC side by side", () => {
  const f = four();
  f.enableX2apic(2);
  send(f, 0, 0x50, 2);
  assert.deepEqual(got(f, 0x50), [2]);
  f.write(1, LapicReg.LDR, 0x02000000);
  // vCPU 2's logical ID in x2APIC mode is cluster 0, bit 2.
  send(f, 0, 0x51 | LOGICAL, 0b0110);
  assert.deepEqual(got(f, 0x51), [1, 2]);
  f.writeX2(2, LapicReg.ICR, (0x101n << 32n) | 0x52n);
  assert.deepEqual(got(f, 0x52), []);
  f.writeX2(2, LapicReg.ICR, (3n << 32n) | 0x53n);
  assert.deepEqual(got(f, 0x53), [3]);
});
