// Written from the 8259A data sheet (order 231468) and the PIIX3's ELCR.
import assert from "node:assert/strict";
import test from "node:test";
import { Fixture } from "./fixture.js";

/** As PC firmware and DOS have it: vectors 0x08 and 0x70, edge-triggered, cascade on input 2. */
function dos(): Fixture {
  const f = new Fixture();
  f.out(0x20, 0x11);
  f.out(0x21, 0x08, 0x04, 0x01);
  f.out(0xa0, 0x11);
  f.out(0xa1, 0x70, 0x02, 0x01);
  return f;
}

function raise(f: Fixture, ...irqs: number[]): void {
  for (const irq of irqs) f.chip.pic.setIrq(irq, true);
}

function pulse(f: Fixture, ...irqs: number[]): void {
  for (const irq of irqs) {
    f.chip.pic.setIrq(irq, true);
    f.chip.pic.setIrq(irq, false);
  }
}

const irr = (f: Fixture, port = 0x20) => {
  f.out(port, 0x0a);
  return f.in(port);
};
const isr = (f: Fixture, port = 0x20) => {
  f.out(port, 0x0b);
  return f.in(port);
};

test("initialization: masks cleared, IRR read, vector bases", () => {
  const f = dos();
  assert.equal(f.in(0x21), 0);
  assert.equal(f.in(0xa1), 0);
  pulse(f, 3);
  assert.equal(f.in(0x20), 8, "IRR is read after ICW1");
  assert.equal(f.chip.acknowledge(0), 0x0b);
  f.out(0x20, 0x20);
  pulse(f, 9);
  assert.equal(f.chip.acknowledge(0), 0x71);
  assert.equal(isr(f), 4);
  assert.equal(isr(f, 0xa0), 2);
});

test("Linux's init_8259A: mask all, ICWs, vectors 0x30 and 0x38, restore masks", () => {
  const f = new Fixture();
  f.out(0x21, 0xff);
  f.out(0xa1, 0xff);
  f.out(0x20, 0x11);
  f.out(0x21, 0x30, 0x04, 0x01);
  f.out(0xa0, 0x11);
  f.out(0xa1, 0x38, 0x02, 0x01);
  f.out(0x21, 0xfb);
  f.out(0xa1, 0xff);
  assert.equal(f.in(0x21), 0xfb);
  // Its probe of the chip: what is written to the mask reads back.
  f.out(0x21, 0xf0);
  assert.equal(f.in(0x21), 0xf0);
  f.out(0x21, 0xfb & ~0x10);
  f.out(0xa1, 0xff & ~0x01);
  pulse(f, 1, 4, 8);
  assert.equal(f.chip.acknowledge(0), 0x38);
  // mask_and_ack: mask, then specific EOIs to the slave and of the cascade to the master.
  f.out(0xa1, 0xff);
  f.out(0xa0, 0x60);
  f.out(0x20, 0x62);
  assert.equal(f.chip.acknowledge(0), 0x34);
  f.out(0x20, 0x64);
  assert.equal(f.chip.hasInterrupt(0), false);
});

test("ICW1 without ICW4 and single mode take fewer words", () => {
  const f = new Fixture();
  // ICW1 with SNGL and no ICW4: only ICW2 follows.
  f.out(0x20, 0x12);
  f.out(0x21, 0x40);
  f.out(0x21, 0xa5);
  assert.equal(f.in(0x21), 0xa5);
  f.out(0x21, 0);
  pulse(f, 5);
  assert.equal(f.chip.acknowledge(0), 0x45);
  // With IC4 but SNGL: ICW2 and ICW4.
  f.out(0x20, 0x13);
  f.out(0x21, 0x50, 0x03);
  f.out(0x21, 0x5a);
  assert.equal(f.in(0x21), 0x5a);
  f.out(0x21, 0);
  pulse(f, 5);
  assert.equal(f.chip.acknowledge(0), 0x55);
  assert.equal(isr(f), 0, "ICW4 said automatic EOI");
});

test("only bits 7:3 of ICW2 count", () => {
  const f = new Fixture();
  f.out(0x20, 0x11);
  f.out(0x21, 0x47, 0x04, 0x01);
  pulse(f, 1);
  assert.equal(f.chip.acknowledge(0), 0x41);
});

test("fully nested: higher priorities interrupt lower ones, not the other way", () => {
  const f = dos();
  pulse(f, 4);
  assert.equal(f.chip.acknowledge(0), 0x0c);
  pulse(f, 4, 5);
  assert.equal(f.chip.hasInterrupt(0), false);
  pulse(f, 1);
  assert.equal(f.chip.acknowledge(0), 0x09);
  assert.equal(isr(f), 0x12);
  f.out(0x20, 0x20);
  assert.equal(isr(f), 0x10, "a non-specific EOI ends the highest in service");
  f.out(0x20, 0x20);
  assert.equal(f.chip.acknowledge(0), 0x0c);
  f.out(0x20, 0x20);
  assert.equal(f.chip.acknowledge(0), 0x0d);
});

test("the slave's inputs rank as IRQ 2", () => {
  const f = dos();
  raise(f, 3, 12, 9, 1);
  const vectors = [];
  while (f.chip.hasInterrupt(0)) {
    vectors.push(f.chip.acknowledge(0));
    f.out(0xa0, 0x20);
    f.out(0x20, 0x20);
  }
  assert.deepEqual(vectors, [0x09, 0x71, 0x74, 0x0b]);
});

test("masks: a masked input is latched and waits", () => {
  const f = dos();
  f.out(0x21, 0x10);
  pulse(f, 4);
  assert.equal(f.chip.hasInterrupt(0), false);
  assert.equal(irr(f), 0x10);
  f.out(0x21, 0);
  assert.equal(f.chip.acknowledge(0), 0x0c);
  assert.equal(irr(f), 0);
});

test("specific EOI ends the level that it names", () => {
  const f = dos();
  pulse(f, 5);
  f.chip.acknowledge(0);
  pulse(f, 2, 3);
  f.chip.acknowledge(0);
  assert.equal(isr(f), 0x28);
  f.out(0x20, 0x65);
  assert.equal(isr(f), 0x08);
  f.out(0x20, 0x40);
  assert.equal(isr(f), 0x08, "OCW2 010 is no operation");
});

test("rotation on non-specific and specific EOI, and set priority", () => {
  const f = dos();
  const order = () => {
    raise(f, 0, 1, 3, 4, 5, 6, 7);
    const seen = [];
    while (f.chip.hasInterrupt(0)) {
      seen.push(f.chip.acknowledge(0) & 7);
      f.out(0x20, 0x60 | seen[seen.length - 1]);
    }
    for (const irq of [0, 1, 3, 4, 5, 6, 7]) f.chip.pic.setIrq(irq, false);
    return seen;
  };
  assert.deepEqual(order(), [0, 1, 3, 4, 5, 6, 7]);
  f.out(0x20, 0xc4);
  assert.deepEqual(order(), [5, 6, 7, 0, 1, 3, 4]);
  pulse(f, 6);
  f.chip.acknowledge(0);
  f.out(0x20, 0xa0);
  assert.equal(isr(f), 0);
  assert.deepEqual(order(), [7, 0, 1, 3, 4, 5, 6]);
  pulse(f, 1);
  f.chip.acknowledge(0);
  f.out(0x20, 0xe1);
  assert.equal(isr(f), 0);
  assert.deepEqual(order(), [3, 4, 5, 6, 7, 0, 1]);
});

test("automatic EOI, with and without rotation", () => {
  const f = new Fixture();
  f.out(0x20, 0x11);
  f.out(0x21, 0x08, 0x04, 0x03);
  pulse(f, 0, 1);
  f.take();
  assert.equal(f.chip.acknowledge(0), 8);
  assert.deepEqual(f.take(), ["interrupt 0"], "the next request is there at once");
  assert.equal(isr(f), 0);
  assert.equal(f.chip.acknowledge(0), 9);
  f.out(0x20, 0x80);
  pulse(f, 0, 1);
  assert.equal(f.chip.acknowledge(0), 8);
  pulse(f, 0);
  assert.equal(f.chip.acknowledge(0), 9);
  assert.equal(f.chip.acknowledge(0), 8);
  f.out(0x20, 0x00);
  // 0 stays the lowest, but no more rotation.
  pulse(f, 0, 1);
  assert.equal(f.chip.acknowledge(0), 9);
  pulse(f, 1);
  assert.equal(f.chip.acknowledge(0), 9);
});

test("special mask mode: a masked level in service holds nothing back", () => {
  const f = dos();
  pulse(f, 3);
  f.chip.acknowledge(0);
  pulse(f, 5);
  assert.equal(f.chip.hasInterrupt(0), false);
  f.out(0x21, 0x08);
  f.out(0x20, 0x68);
  assert.equal(f.chip.acknowledge(0), 0x0d);
  f.out(0x20, 0x20);
  assert.equal(isr(f), 0x08, "a non-specific EOI passes over the masked level");
  f.out(0x20, 0x48);
  f.out(0x20, 0x20);
  assert.equal(isr(f), 0);
});

test("special fully nested mode: the slave may interrupt again while in service", () => {
  for (const nested of [false, true]) {
    const f = new Fixture();
    f.out(0x20, 0x11);
    f.out(0x21, 0x08, 0x04, nested ? 0x11 : 0x01);
    f.out(0xa0, 0x11);
    f.out(0xa1, 0x70, 0x02, 0x01);
    pulse(f, 12);
    assert.equal(f.chip.acknowledge(0), 0x74);
    pulse(f, 3, 13, 10);
    assert.equal(f.chip.hasInterrupt(0), nested);
    if (nested) assert.equal(f.chip.acknowledge(0), 0x72);
    assert.equal(f.chip.hasInterrupt(0), false, "IRQ 3 and 13 are below what is in service");
    pulse(f, 0);
    assert.equal(f.chip.acknowledge(0), 8);
    pulse(f, 8);
    assert.equal(f.chip.hasInterrupt(0), false, "the slave waits for a higher level in service");
  }
});

test("poll: the next read is the INTA and gives the request", () => {
  const f = dos();
  f.out(0x20, 0x0c);
  assert.equal(f.in(0x20), 0);
  pulse(f, 6);
  f.out(0x20, 0x0c);
  assert.equal(f.in(0x20), 0x86);
  assert.equal(isr(f), 0x40);
  assert.equal(f.chip.hasInterrupt(0), false);
  assert.equal(f.in(0x20), 0x40, "one poll word a poll command");
  f.out(0x20, 0x20);
  // A poll of the slave is the slave's business only, and reads of either port answer it.
  pulse(f, 11);
  f.out(0xa0, 0x0c);
  assert.equal(f.in(0xa1), 0x83);
  assert.equal(isr(f, 0xa0), 8);
  assert.equal(isr(f), 0);
  assert.equal(f.chip.hasInterrupt(0), false);
});

test("spurious: vectors of inputs 7, nothing in service", () => {
  const f = dos();
  f.out(0x4d0, 0x20);
  raise(f, 5);
  assert.equal(f.chip.hasInterrupt(0), true);
  f.chip.pic.setIrq(5, false);
  assert.equal(f.chip.hasInterrupt(0), false);
  assert.equal(f.chip.pic.acknowledge(), 0x0f);
  assert.equal(isr(f), 0);
});

test("ELCR: level-triggered inputs follow their line, and interrupt again after the EOI", () => {
  const f = dos();
  f.out(0x4d0, 0xff);
  f.out(0x4d1, 0xff);
  assert.equal(f.in(0x4d0), 0xf8);
  assert.equal(f.in(0x4d1), 0xde);
  raise(f, 11);
  assert.equal(f.chip.acknowledge(0), 0x73);
  f.out(0xa0, 0x20);
  f.out(0x20, 0x20);
  assert.equal(f.chip.acknowledge(0), 0x73);
  f.chip.pic.setIrq(11, false);
  f.out(0xa0, 0x20);
  f.out(0x20, 0x20);
  assert.equal(f.chip.hasInterrupt(0), false);
  assert.equal(irr(f, 0xa0), 0);
});

test("edge-triggered: a line that stays high interrupts once, and ICW1 wants a new edge", () => {
  const f = dos();
  raise(f, 4);
  assert.equal(f.chip.acknowledge(0), 0x0c);
  f.out(0x20, 0x20);
  assert.equal(f.chip.hasInterrupt(0), false);
  raise(f, 4);
  assert.equal(f.chip.hasInterrupt(0), false);
  pulse(f, 6);
  f.out(0x20, 0x11);
  f.out(0x21, 0x08, 0x04, 0x01);
  assert.equal(irr(f), 0);
  f.chip.pic.setIrq(4, false);
  raise(f, 4);
  assert.equal(f.chip.acknowledge(0), 0x0c);
});

test("INTR reaches the CPU through LINT0 in ExtINT mode, or past a disabled APIC", () => {
  const f = dos();
  f.take();
  pulse(f, 1);
  assert.deepEqual(f.take(), ["interrupt 0"]);
  f.chip.writeMmio(0, 0xfee00350, 4, 0x10700);
  assert.equal(f.chip.hasInterrupt(0), false);
  assert.equal(f.chip.acknowledge(0), -1);
  f.chip.writeMmio(0, 0xfee000f0, 4, 0x1ff);
  f.chip.writeMmio(0, 0xfee00350, 4, 0x700);
  assert.deepEqual(f.take(), ["interrupt 0"], "opening LINT0 signals");
  assert.equal(f.chip.hasInterrupt(0), true);
  f.chip.writeMmio(0, 0xfee00350, 4, 0x10700);
  f.chip.writeMsr(0, 0x1b, 0xfee00000n);
  assert.equal(f.chip.acknowledge(0), 9);
});

test("LINT0 in Fixed and NMI modes takes INTR's rising edge", () => {
  const f = dos();
  f.enableAll();
  f.chip.writeMmio(0, 0xfee00350, 4, 0x35);
  pulse(f, 1);
  pulse(f, 0);
  assert.deepEqual(f.drain(0), [0x35]);
  assert.equal(f.chip.acknowledge(0), -1);
  f.out(0x20, 0x0c);
  f.in(0x20);
  f.out(0x20, 0x20);
  f.out(0x20, 0x0c);
  f.in(0x20);
  f.out(0x20, 0x20);
  f.chip.writeMmio(0, 0xfee00350, 4, 0x400);
  f.take();
  pulse(f, 3);
  assert.deepEqual(f.take(), ["nmi 0"]);
});

test("the 8259s' interrupt comes before the local APIC's", () => {
  const f = dos();
  f.enableAll();
  f.chip.writeMmio(0, 0xfee00350, 4, 0x700);
  f.chip.writeMmio(0, 0xfee00300, 4, 0x400f0);
  pulse(f, 1);
  assert.equal(f.chip.acknowledge(0), 9);
  assert.equal(f.chip.acknowledge(0), 0xf0);
});

test("wide port accesses reach both registers", () => {
  const f = dos();
  f.chip.writePort(0x4d0, 2, 0x0820);
  assert.equal(f.chip.readPort(0x4d0, 2), 0x0820);
  assert.equal(f.chip.readPort(0x4d1, 2), 0xff08);
  for (const port of [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x61]) {
    assert.ok(f.chip.claimsPort(port));
  }
  for (const port of [0x1f, 0x22, 0x3f, 0x44, 0x60, 0x62, 0x9f, 0xa2, 0x4cf, 0x4d2]) {
    assert.ok(!f.chip.claimsPort(port));
  }
});
