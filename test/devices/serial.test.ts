/** From the PC16550D data sheet, June 1995 ("DS"). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import { COM_PORTS, Uart } from "../../src/devices/serial.js";
import { ModemLine } from "../../src/devices/serial-registers.js";
import { ByteRing } from "../../src/memory/byte-ring.js";
import type { SharedMemory } from "../../src/memory/shared-memory.js";
import { allocatorOver, newMemory, RecordedLine, random, validateLocks } from "./support.js";

validateLocks();

const [DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR] = [0, 1, 2, 3, 4, 5, 6, 7];
const FCR = IIR;
const [DLL, DLM] = [0, 1];
const DLAB = 0x80;
/** DTR, RTS and OUT2: what a driver sets to use the port. */
const OPEN = 0x0b;
const LOOP = 0x10;

class Bench {
  readonly irq = new RecordedLine();
  readonly input: ByteRing;
  readonly output: ByteRing;
  readonly uart: Uart;

  constructor(
    readonly memory: SharedMemory = newMemory(),
    capacity = 64,
  ) {
    const allocator = allocatorOver(memory);
    this.input = ByteRing.allocate(allocator, "in", capacity);
    this.output = ByteRing.allocate(allocator, "out", capacity);
    this.uart = new Uart(allocator, "com1", { irq: this.irq, input: this.input, output: this.output });
  }

  get(register: number): number {
    return this.uart.read(register, 1);
  }

  set(register: number, value: number): void {
    this.uart.write(register, 1, value);
  }

  /** As by another thread that owns the terminal. */
  type(...bytes: number[]): void {
    this.input.write(Uint8Array.from(bytes));
    this.uart.poll();
  }

  sent(): number[] {
    return Array.from(this.output.read());
  }
}

function newBench(): Bench {
  const bench = new Bench();
  bench.uart.reset();
  return bench;
}

/** A UART in use: modem control on, FIFOs on with this trigger (FCR bits 7:6), these interrupts. */
function openBench(ier: number, fcr: number): Bench {
  const bench = newBench();
  bench.set(FCR, fcr);
  bench.set(MCR, OPEN);
  bench.set(IER, ier);
  return bench;
}

const numbers = (count: number, first = 1) => Array.from({ length: count }, (_, i) => first + i);

test("the PC's four ports", () => {
  assert.deepEqual(
    COM_PORTS.map(({ base, irq }) => [base, irq]),
    [
      [0x3f8, 4],
      [0x2f8, 3],
      [0x3e8, 4],
      [0x2e8, 3],
    ],
  );
});

test("registers after reset are those of DS table I", () => {
  const bench = newBench();
  for (let register = 0; register < 8; register++) bench.set(register, 0xff);
  bench.uart.reset();
  assert.equal(bench.get(IER), 0);
  assert.equal(bench.get(IIR), 0x01);
  assert.equal(bench.get(LCR), 0);
  assert.equal(bench.get(MCR), 0);
  assert.equal(bench.get(LSR), 0x60);
  assert.equal(bench.get(MSR), 0xb0);
  assert.equal(bench.irq.level, false);
});

test("writable bits: IER 3:0, MCR 4:0, all of LCR and SCR; IIR, LSR and MSR take no writes", () => {
  const bench = newBench();
  bench.set(MCR, 0xff);
  assert.equal(bench.get(MCR), 0x1f);
  bench.set(MCR, 0);
  bench.get(MSR);
  bench.set(SCR, 0xa5);
  assert.equal(bench.get(SCR), 0xa5);
  bench.set(IER, 0xff);
  assert.equal(bench.get(IER), 0x0f);
  bench.set(LCR, 0x7f);
  assert.equal(bench.get(LCR), 0x7f);
  bench.set(LSR, 0);
  bench.set(MSR, 0xff);
  assert.equal(bench.get(LSR), 0x60);
  assert.equal(bench.get(MSR), 0xb0);
});

test("DLAB shows the divisor latch in place of data and IER", () => {
  const bench = newBench();
  bench.set(IER, 0x05);
  bench.set(LCR, DLAB | 3);
  bench.set(DLL, 0x0c);
  bench.set(DLM, 0x01);
  assert.deepEqual([bench.get(DLL), bench.get(DLM)], [0x0c, 0x01]);
  bench.set(LCR, 3);
  assert.equal(bench.get(IER), 0x05);
  assert.deepEqual(bench.sent(), []);
});

test("a written character is sent, and the transmitter is empty again", () => {
  const bench = newBench();
  for (const byte of [0x48, 0x69, 0xff, 0x00]) bench.set(DATA, byte);
  assert.equal(bench.get(LSR), 0x60);
  assert.deepEqual(bench.sent(), [0x48, 0x69, 0xff, 0x00]);
});

test("16450 mode: one character at a time, data available at once (DS table IV)", () => {
  const bench = openBench(0x01, 0);
  bench.type(1, 2, 3);
  assert.equal(bench.irq.level, true);
  assert.equal(bench.get(IIR), 0x04);
  assert.equal(bench.get(LSR), 0x61);
  assert.deepEqual([bench.get(DATA), bench.get(DATA)], [1, 2]);
  assert.equal(bench.irq.level, true);
  assert.equal(bench.get(DATA), 3);
  assert.equal(bench.irq.level, false);
  assert.equal(bench.get(IIR), 0x01);
  assert.equal(bench.get(LSR), 0x60);
});

test("FIFO mode: IIR bits 7:6, data available from the trigger level on, timeout below it (DS 8.6, 8.11)", () => {
  for (const [bits, level] of [
    [0x00, 1],
    [0x40, 4],
    [0x80, 8],
    [0xc0, 14],
  ]) {
    const bench = openBench(0x01, 0x01 | bits);
    assert.equal(bench.get(IIR), 0xc1);
    for (let count = 1; count <= 16; count++) {
      bench.type(count);
      assert.equal(bench.get(IIR), count >= level ? 0xc4 : 0xcc, `${count} of ${level}`);
      assert.equal(bench.irq.level, true);
    }
    for (let count = 16; count > 0; count--) {
      assert.equal(bench.get(IIR), count >= level ? 0xc4 : 0xcc);
      assert.equal(bench.get(DATA), 17 - count);
    }
    assert.equal(bench.get(IIR), 0xc1);
    assert.equal(bench.irq.level, false);
  }
});

test("bytes past the FIFO wait in the ring: nothing is lost and nothing overruns", () => {
  const bench = openBench(0x05, 0xc1);
  bench.type(...numbers(50));
  assert.equal(bench.input.length, 34);
  const read: number[] = [];
  while ((bench.get(LSR) & 1) !== 0) {
    assert.equal(bench.get(LSR) & 0x02, 0);
    read.push(bench.get(DATA));
  }
  assert.deepEqual(read, numbers(50));
});

test("the other side holds its bytes while RTS is off", () => {
  const bench = newBench();
  bench.set(MCR, 0x08);
  bench.set(IER, 0x01);
  bench.type(1, 2);
  assert.equal(bench.get(LSR) & 1, 0);
  bench.set(FCR, 0x07);
  bench.set(MCR, OPEN);
  assert.equal(bench.irq.level, true);
  assert.deepEqual([bench.get(DATA), bench.get(DATA)], [1, 2]);
});

test("a guest that never wrote MCR gets its bytes by polling LSR", () => {
  const bench = newBench();
  bench.type(7, 8);
  assert.equal(bench.get(LSR) & 1, 1);
  assert.equal(bench.get(DATA), 7);
  assert.equal(bench.get(LSR) & 1, 1);
  assert.equal(bench.get(DATA), 8);
  assert.equal(bench.get(LSR) & 1, 0);
});

test("FCR: bits need FCR0, both mode changes and RESET_RX empty the FIFO, RESET_RX is self-clearing (DS 8.5)", () => {
  const bench = openBench(0, 0);
  bench.set(FCR, 0xc6);
  assert.equal(bench.get(IIR), 0x01);
  bench.set(FCR, 0x01);
  bench.type(1, 2);
  bench.set(FCR, 0x03);
  assert.equal(bench.get(LSR) & 1, 0);
  bench.type(3);
  bench.set(FCR, 0x01);
  assert.equal(bench.get(LSR) & 1, 1);
  bench.set(FCR, 0x00);
  assert.equal(bench.get(LSR) & 1, 0);
  bench.type(4);
  bench.set(FCR, 0x01);
  assert.equal(bench.get(LSR) & 1, 0);
});

test("enabling the THR-empty interrupt raises it; reading IIR as its source resets it, writing THR renews it", () => {
  const bench = openBench(0, 0x01);
  bench.set(IER, 0x02);
  assert.equal(bench.irq.level, true);
  assert.equal(bench.get(IIR), 0xc2);
  assert.equal(bench.irq.level, false);
  assert.equal(bench.get(IIR), 0xc1);
  bench.set(IER, 0x02);
  assert.equal(bench.irq.level, false, "it was enabled before");
  bench.set(IER, 0x00);
  bench.set(IER, 0x02);
  assert.equal(bench.get(IIR), 0xc2);
  bench.set(DATA, 0x41);
  assert.equal(bench.irq.level, true);
  assert.equal(bench.get(IIR), 0xc2);
});

test("reading IIR for another source leaves the THR-empty interrupt pending", () => {
  const bench = openBench(0x03, 0x01);
  bench.type(1);
  assert.equal(bench.get(IIR), 0xc4);
  bench.get(DATA);
  assert.equal(bench.get(IIR), 0xc2);
});

test("each written character gives an edge, for edge-triggered interrupt controllers", () => {
  const bench = openBench(0x02, 0x01);
  const before = bench.irq.rises;
  bench.set(DATA, 1);
  bench.set(DATA, 2);
  assert.equal(bench.irq.rises - before, 2);
  assert.equal(bench.irq.level, true);
});

test("changing FCR0 raises the THR-empty interrupt where it is enabled (DS 8.11)", () => {
  const bench = openBench(0x02, 0x00);
  bench.get(IIR);
  assert.equal(bench.irq.level, false);
  bench.set(FCR, 0x01);
  assert.equal(bench.get(IIR), 0xc2);
});

test("priorities of IIR: line status, received data, THR empty, modem status (DS table IV)", () => {
  const bench = openBench(0x0f, 0x01);
  bench.uart.receiveBreak();
  bench.uart.setModemLines(0);
  assert.equal(bench.get(IIR), 0xc6);
  assert.equal(bench.get(LSR), 0xf1);
  assert.equal(bench.get(IIR), 0xc4);
  assert.equal(bench.get(DATA), 0);
  assert.equal(bench.get(IIR), 0xc2);
  assert.equal(bench.get(IIR), 0xc0);
  assert.equal(bench.get(MSR), 0x0b);
  assert.equal(bench.get(IIR), 0xc1);
  assert.equal(bench.irq.level, false);
});

test("OUT2 gates the interrupt", () => {
  const bench = openBench(0x01, 0x01);
  bench.type(1);
  bench.set(MCR, OPEN & ~0x08);
  assert.equal(bench.irq.level, false);
  assert.equal(bench.get(IIR), 0xc4);
  bench.set(MCR, OPEN);
  assert.equal(bench.irq.level, true);
});

test("a break is a zero character with BI, in its place among the bytes, revealed at the top of the FIFO (DS 8.4)", () => {
  const bench = openBench(0x04, 0x01);
  bench.type(1);
  bench.uart.receiveBreak();
  bench.type(2);
  assert.equal(bench.irq.level, false);
  assert.equal(bench.get(LSR), 0xe1, "error in the FIFO, none at the top");
  assert.equal(bench.get(DATA), 1);
  assert.equal(bench.irq.level, true);
  assert.equal(bench.get(LSR), 0xf1);
  assert.equal(bench.get(LSR), 0x61, "reset by the read");
  assert.equal(bench.get(DATA), 0);
  assert.equal(bench.get(DATA), 2);
});

test("an error leaves with its character", () => {
  const bench = openBench(0x04, 0x01);
  bench.uart.receiveBreak();
  assert.equal(bench.get(DATA), 0);
  assert.equal(bench.irq.level, false);
  assert.equal(bench.get(LSR), 0x60);
});

test("a break behind bytes that still wait keeps its place", () => {
  const bench = newBench();
  bench.set(FCR, 0x01);
  bench.set(MCR, 0x08);
  bench.type(...numbers(20));
  bench.uart.receiveBreak();
  bench.type(99);
  bench.set(MCR, OPEN);
  const seen: [number, number][] = [];
  for (let status = bench.get(LSR); (status & 1) !== 0; status = bench.get(LSR)) {
    seen.push([bench.get(DATA), status & 0x10]);
  }
  assert.deepEqual(seen, [...numbers(20).map((byte) => [byte, 0]), [0, 0x10], [99, 0]]);
});

test("loopback wires the outputs to the inputs and cuts the line off (DS 8.8)", () => {
  const bench = newBench();
  for (const [mcr, lines] of [
    [0x01, ModemLine.DSR],
    [0x02, ModemLine.CTS],
    [0x04, ModemLine.RI],
    [0x08, ModemLine.DCD],
    // The test by which Linux knows a UART.
    [0x0a, ModemLine.DCD | ModemLine.CTS],
  ]) {
    bench.set(MCR, LOOP | mcr);
    assert.equal(bench.get(MSR) & 0xf0, lines);
  }
  bench.type(9);
  bench.set(DATA, 0x55);
  assert.equal(bench.get(LSR), 0x61);
  assert.equal(bench.get(DATA), 0x55);
  assert.equal(bench.get(LSR), 0x60);
  assert.deepEqual(bench.sent(), []);
  bench.set(MCR, OPEN);
  assert.equal(bench.get(MSR) & 0xf0, 0xb0);
  assert.equal(bench.get(DATA), 9);
});

test("loopback has its interrupts", () => {
  const bench = openBench(0x09, 0x01);
  bench.set(MCR, LOOP | 0x08);
  bench.get(MSR);
  assert.equal(bench.irq.level, false);
  bench.set(DATA, 0x41);
  assert.equal(bench.irq.level, true);
  assert.equal(bench.get(DATA), 0x41);
  assert.equal(bench.irq.level, false);
  bench.set(MCR, LOOP | 0x0a);
  assert.equal(bench.get(IIR), 0xc0);
});

test("overrun: the FIFO keeps its 16 characters and loses the next; a lone RBR is overwritten (DS 8.4, OE)", () => {
  const bench = openBench(0x04, 0x01);
  bench.set(MCR, LOOP | OPEN);
  for (const byte of numbers(17)) bench.set(DATA, byte);
  assert.equal(bench.get(IIR), 0xc6);
  assert.equal(bench.get(LSR), 0x63);
  assert.equal(bench.get(LSR), 0x61, "reset by the read");
  assert.deepEqual(
    numbers(16).map(() => bench.get(DATA)),
    numbers(16),
  );
  assert.equal(bench.get(LSR), 0x60);
  bench.set(FCR, 0x00);
  bench.set(DATA, 1);
  bench.set(DATA, 2);
  assert.equal(bench.get(LSR), 0x63);
  assert.equal(bench.get(DATA), 2);
  assert.equal(bench.get(LSR), 0x60);
});

test("MSR deltas: any change of CTS, DSR and DCD, only the trailing edge of RI, reset by the read (DS 8.9)", () => {
  const bench = openBench(0x08, 0x01);
  bench.get(MSR);
  bench.uart.setModemLines(ModemLine.RI);
  assert.equal(bench.get(MSR), 0x40 | 0x0b);
  assert.equal(bench.get(MSR), 0x40);
  bench.uart.setModemLines(0);
  assert.equal(bench.irq.level, true);
  assert.equal(bench.get(MSR), 0x04);
  assert.equal(bench.irq.level, false);
  bench.uart.setModemLines(ModemLine.CTS);
  bench.uart.setModemLines(0);
  assert.equal(bench.get(MSR), 0x01, "there and back is a change too");
});

test("a full output ring keeps the guest waiting, with no lock held, until somebody reads", async () => {
  const bench = new Bench(newMemory(), 4);
  bench.uart.reset();
  const url = (path: string) => JSON.stringify(new URL(path, import.meta.url).href);
  const worker = new Worker(
    `const { parentPort, workerData } = require("node:worker_threads");
     (async () => {
       const { ByteRing } = await import(${url("../../src/memory/byte-ring.js")});
       const { SharedMemory } = await import(${url("../../src/memory/shared-memory.js")});
       const { allocatorOver } = await import(${url("./support.js")});
       const allocator = allocatorOver(new SharedMemory(workerData));
       ByteRing.allocate(allocator, "in", 4);
       const ring = ByteRing.allocate(allocator, "out", 4);
       parentPort.postMessage("ready");
       const read = [];
       while (read.length < 100) {
         await new Promise((resolve) => setTimeout(resolve, 1));
         read.push(...ring.read());
       }
       parentPort.postMessage(read);
     })();`,
    { eval: true, workerData: bench.memory.memory },
  );
  const message = () =>
    new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
  // Its modules load only while this thread is not blocked.
  assert.equal(await message(), "ready");
  const answer = message();
  for (const byte of numbers(100)) bench.set(DATA, byte);
  assert.deepEqual(await answer, numbers(100));
});

test("a full output ring that was closed drops what is written", () => {
  const bench = new Bench(newMemory(), 4);
  bench.uart.reset();
  for (const byte of numbers(4)) bench.set(DATA, byte);
  bench.output.close();
  bench.set(DATA, 5);
  assert.equal(bench.get(LSR), 0x60);
  assert.deepEqual(bench.sent(), numbers(4));
});

test("a UART with nothing behind it works", () => {
  const uart = new Uart(allocatorOver(newMemory()), "com2", { irq: new RecordedLine() });
  uart.reset(0);
  uart.write(MCR, 1, OPEN);
  uart.write(DATA, 1, 0x41);
  uart.poll();
  uart.receiveBreak();
  assert.equal(uart.read(LSR, 1), 0x71);
  assert.equal(uart.read(MSR, 1), 0);
});

test("two threads' objects over one state are one UART", () => {
  const here = new Bench();
  const there = new Bench(here.memory);
  here.uart.reset();
  here.set(FCR, 0x01);
  here.set(MCR, OPEN);
  here.set(IER, 0x01);
  there.type(0x31);
  assert.equal(there.irq.level, true);
  assert.equal(here.get(IIR), 0xc4);
  assert.equal(here.get(DATA), 0x31);
  assert.equal(here.irq.level, false);
  here.set(DATA, 0x32);
  assert.deepEqual(there.sent(), [0x32]);
  there.set(SCR, 5);
  assert.equal(here.get(SCR), 5);
});

test("reset takes the interrupt line down and leaves the rings alone", () => {
  const bench = openBench(0x01, 0x01);
  bench.type(...numbers(20));
  assert.equal(bench.irq.level, true);
  bench.uart.reset();
  assert.equal(bench.irq.level, false);
  assert.equal(bench.input.length, 4);
});

test("random register accesses: values stay bytes, fixed bits stay fixed, the wire follows IIR", () => {
  const bench = newBench();
  const next = random(3);
  for (let i = 0; i < 100000; i++) {
    const register = next() & 7;
    if ((next() & 3) === 0) bench.type(next() & 0xff);
    if ((next() & 31) === 0) bench.uart.receiveBreak();
    if ((next() & 31) === 0) bench.uart.setModemLines(next());
    if ((next() & 1) === 0) bench.set(register, next());
    else {
      const value = bench.get(register);
      assert.ok(Number.isInteger(value) && value >= 0 && value <= 0xff);
      if (register === LSR) assert.equal(value & 0x60, 0x60);
      if (register === MCR) assert.equal(value & 0xe0, 0);
      if (register === IIR) {
        assert.ok([0x00, 0x01, 0x02, 0x04, 0x06, 0x0c].includes(value & 0x3f));
        assert.ok((value & 0xc0) === 0xc0 || (value & 0xc0) === 0);
      }
    }
    if (bench.output.length > 32) bench.sent();
  }
  const pending = (bench.get(IIR) & 1) === 0;
  if (!pending || (bench.get(MCR) & 0x08) === 0) assert.equal(bench.irq.level, false);
  bench.uart.write(0xffffffff, 4, 0xffffffff);
  assert.ok(bench.uart.read(-1, 4) <= 0xff);
});

test("a drained receiver gets more only later, so that the interrupt has an edge for each filling", () => {
  const memory = newMemory();
  const allocator = allocatorOver(memory);
  const input = ByteRing.allocate(allocator, "in", 64);
  const irq = new RecordedLine();
  let asked = 0;
  const uart = new Uart(allocator, "com1", {
    irq,
    input,
    pollLater: () => {
      asked++;
    },
  });
  uart.reset();
  uart.write(FCR, 1, 0x01);
  uart.write(MCR, 1, OPEN);
  uart.write(IER, 1, 0x01);
  input.write(Uint8Array.from(numbers(40)));
  uart.poll();
  const got: number[] = [];
  for (const [filling, count] of [16, 16, 8].entries()) {
    assert.equal(irq.level, true);
    // As a driver's interrupt handler does: until there is nothing.
    let read = 0;
    for (; (uart.read(LSR, 1) & 1) !== 0; read++) got.push(uart.read(DATA, 1));
    assert.equal(read, count);
    assert.equal(irq.level, false);
    // It is asked for once, and not for nothing.
    assert.equal(asked, Math.min(filling + 1, 2));
    uart.poll();
  }
  assert.deepEqual(got, numbers(40));
  assert.equal(irq.level, false);
});
