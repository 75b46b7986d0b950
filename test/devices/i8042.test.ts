/** From IBM's "Personal System/2 Hardware Interface Technical Reference" and "Mouse Technical Reference". */
import assert from "node:assert/strict";
import { test } from "node:test";
import { I8042 } from "../../src/devices/i8042.js";
import { sysrqKeys, translate, translateKeys } from "../../src/devices/scancodes.js";
import { SystemControlPort } from "../../src/devices/system-control.js";
import type { SharedMemory } from "../../src/memory/shared-memory.js";
import { allocatorOver, newMemory, RecordedLine, random, validateLocks } from "./support.js";

validateLocks();

const DATA = 0;
const COMMAND = 4;
const [OUTPUT_FULL, SYSTEM, LAST_WAS_COMMAND, NOT_INHIBITED, AUX] = [0x01, 0x04, 0x08, 0x10, 0x20];
const [KEYBOARD_INTERRUPT, AUX_INTERRUPT, KEYBOARD_OFF, AUX_OFF, TRANSLATE] = [0x01, 0x02, 0x10, 0x20, 0x40];
const ACK = 0xfa;
const RESEND = 0xfe;

class Bench {
  readonly keyboardIrq = new RecordedLine();
  readonly mouseIrq = new RecordedLine();
  resets = 0;
  readonly controller: I8042;

  constructor(readonly memory: SharedMemory = newMemory()) {
    this.controller = new I8042(allocatorOver(memory), {
      keyboardIrq: this.keyboardIrq,
      mouseIrq: this.mouseIrq,
      onReset: () => this.resets++,
    });
  }

  status(): number {
    return this.controller.read(COMMAND, 1);
  }

  command(...bytes: number[]): void {
    const [command, ...data] = bytes;
    this.controller.write(COMMAND, 1, command);
    for (const byte of data) this.controller.write(DATA, 1, byte);
  }

  data(byte: number): void {
    this.controller.write(DATA, 1, byte);
  }

  /** All bytes that are there to be read; with `aux`, each has to be the mouse's. */
  read(aux = false): number[] {
    const bytes: number[] = [];
    while ((this.status() & OUTPUT_FULL) !== 0) {
      assert.equal((this.status() & AUX) !== 0, aux);
      bytes.push(this.controller.read(DATA, 1));
      assert.ok(bytes.length < 1000);
    }
    return bytes;
  }

  keyboard(...bytes: number[]): number[] {
    for (const byte of bytes) this.data(byte);
    return this.read();
  }

  mouse(...bytes: number[]): number[] {
    const answers: number[] = [];
    for (const byte of bytes) {
      this.command(0xd4, byte);
      answers.push(...this.read(true));
    }
    return answers;
  }

  setCommandByte(value: number): void {
    this.command(0x60, value);
  }
}

function newBench(): Bench {
  const bench = new Bench();
  bench.controller.reset();
  return bench;
}

/** No translation, both devices on, no interrupts. */
function plainBench(): Bench {
  const bench = newBench();
  bench.setCommandByte(SYSTEM);
  return bench;
}

test("status after reset: tested, not inhibited, nothing to read", () => {
  const bench = newBench();
  assert.equal(bench.status(), SYSTEM | NOT_INHIBITED);
  assert.equal(bench.keyboardIrq.level || bench.mouseIrq.level, false);
});

test("status shows whether the last write was a command", () => {
  const bench = newBench();
  bench.command(0xae);
  assert.equal(bench.status() & LAST_WAS_COMMAND, LAST_WAS_COMMAND);
  bench.data(0xee);
  assert.equal(bench.status() & LAST_WAS_COMMAND, 0);
});

test("self-test, interface tests, password, ports", () => {
  const bench = newBench();
  for (const [command, answer] of [
    [0xaa, 0x55],
    [0xab, 0x00],
    [0xa9, 0x00],
    [0xa4, 0xf1],
    [0xc0, 0x80],
    [0xd0, 0xc3],
    [0xe0, 0x03],
  ]) {
    bench.command(command);
    assert.deepEqual(bench.read(), [answer], `command ${command.toString(16)}`);
  }
});

test("commands that the controller does not have give nothing to read", () => {
  const bench = newBench();
  for (const command of [0x00, 0x1f, 0x40, 0x5f, 0x80, 0xa0, 0xb5, 0xcf, 0xef]) bench.command(command);
  assert.deepEqual(bench.read(), []);
  assert.equal(bench.resets, 0);
});

test("the command byte and the rest of the controller's RAM are read as written", () => {
  const bench = newBench();
  bench.command(0x20);
  assert.deepEqual(bench.read(), [0x65]);
  bench.setCommandByte(0xff);
  bench.command(0x20);
  assert.deepEqual(bench.read(), [0x7f], "bit 7 is reserved");
  for (let i = 1; i < 32; i++) bench.command(0x60 + i, i * 5);
  for (let i = 1; i < 32; i++) {
    bench.command(0x20 + i);
    assert.deepEqual(bench.read(), [i * 5]);
  }
});

test("enabling and disabling the interfaces shows in the command byte", () => {
  const bench = newBench();
  for (const [command, mask, value] of [
    [0xad, KEYBOARD_OFF, KEYBOARD_OFF],
    [0xae, KEYBOARD_OFF, 0],
    [0xa7, AUX_OFF, AUX_OFF],
    [0xa8, AUX_OFF, 0],
  ]) {
    bench.command(command);
    bench.command(0x20);
    assert.equal(bench.read()[0] & mask, value);
  }
});

test("a disabled keyboard keeps its bytes until it is enabled; writing to it enables it", () => {
  const bench = plainBench();
  bench.command(0xad);
  assert.equal(bench.controller.keyboard.press([0x1c]), true);
  assert.deepEqual(bench.read(), []);
  bench.command(0xae);
  assert.deepEqual(bench.read(), [0x1c]);
  bench.command(0xad);
  assert.deepEqual(bench.keyboard(0xee), [0xee]);
});

test("output port: A20 by command, by port write and by the short commands; buffer bits", () => {
  const bench = newBench();
  const outputPort = () => {
    bench.command(0xd0);
    return bench.read()[0];
  };
  bench.command(0xd1, 0xdd);
  assert.equal(outputPort() & 2, 0);
  bench.command(0xd1, 0xdf);
  assert.equal(outputPort() & 2, 2);
  bench.command(0xdd);
  assert.equal(outputPort() & 2, 0);
  bench.command(0xdf);
  assert.equal(outputPort() & 2, 2);
  bench.command(0xd2, 0x11);
  assert.equal(bench.status() & OUTPUT_FULL, OUTPUT_FULL);
  bench.command(0xd0);
  assert.equal(bench.controller.read(DATA, 1) & 0x30, 0x10);
  bench.command(0xd3, 0x11);
  bench.command(0xd0);
  assert.equal(bench.controller.read(DATA, 1) & 0x30, 0x20);
  assert.equal(bench.resets, 0);
});

test("the reset line: pulsed by 0xF0–0xFE with bit 0 clear, and by the output port", () => {
  const bench = newBench();
  bench.command(0xfe);
  assert.equal(bench.resets, 1);
  bench.command(0xff);
  bench.command(0xf1);
  assert.equal(bench.resets, 1);
  bench.command(0xf0);
  assert.equal(bench.resets, 2);
  bench.command(0xd1, 0x02);
  assert.equal(bench.resets, 3);
});

test("0xD2 and 0xD3 put a byte into the output buffer as if from keyboard and mouse, with their interrupts", () => {
  const bench = newBench();
  bench.setCommandByte(KEYBOARD_INTERRUPT | AUX_INTERRUPT | SYSTEM);
  bench.command(0xd2, 0x5a);
  assert.equal(bench.keyboardIrq.level, true);
  assert.deepEqual(bench.read(), [0x5a]);
  bench.command(0xd3, 0xa5);
  assert.deepEqual([bench.keyboardIrq.level, bench.mouseIrq.level], [false, true]);
  assert.deepEqual(bench.read(true), [0xa5]);
  assert.equal(bench.mouseIrq.level, false);
});

test("interrupts follow the output buffer and the command byte, with an edge a byte", () => {
  const bench = newBench();
  bench.setCommandByte(KEYBOARD_INTERRUPT | SYSTEM);
  bench.data(0xf2);
  assert.equal(bench.keyboardIrq.level, true);
  assert.deepEqual(bench.read(), [ACK, 0xab, 0x83]);
  assert.equal(bench.keyboardIrq.rises, 3);
  assert.equal(bench.keyboardIrq.level, false);
  bench.setCommandByte(SYSTEM);
  bench.data(0xee);
  assert.equal(bench.keyboardIrq.level, false);
  bench.setCommandByte(KEYBOARD_INTERRUPT | SYSTEM);
  assert.equal(bench.keyboardIrq.level, true);
});

test("keyboard: echo, identity, reset, defaults, enable, disable, unknown", () => {
  const bench = plainBench();
  assert.deepEqual(bench.keyboard(0xee), [0xee]);
  assert.deepEqual(bench.keyboard(0xf2), [ACK, 0xab, 0x83]);
  assert.deepEqual(bench.keyboard(0xff), [ACK, 0xaa]);
  assert.deepEqual(bench.keyboard(0xf6), [ACK]);
  assert.deepEqual(bench.keyboard(0xf5), [ACK]);
  assert.equal(bench.controller.keyboard.press([0x1c]), false);
  assert.deepEqual(bench.keyboard(0xf4), [ACK]);
  assert.equal(bench.controller.keyboard.press([0x1c]), true);
  bench.read();
  for (const byte of [0x00, 0xec, 0xef, 0xf1]) assert.deepEqual(bench.keyboard(byte), [RESEND]);
});

test("keyboard: commands with an argument", () => {
  const bench = plainBench();
  assert.deepEqual(bench.keyboard(0xed, 0x07), [ACK, ACK]);
  assert.deepEqual(bench.keyboard(0xf3, 0x20), [ACK, ACK]);
  assert.deepEqual(bench.keyboard(0xf0, 0x00), [ACK, ACK, 2]);
  assert.deepEqual(bench.keyboard(0xf0, 0x01), [ACK, ACK]);
  assert.deepEqual(bench.keyboard(0xf0, 0x00), [ACK, ACK, 1]);
  assert.deepEqual(bench.keyboard(0xf0, 0x03), [ACK, RESEND]);
  assert.deepEqual(bench.keyboard(0xf8), [ACK]);
  // Set key type: codes until the next command.
  assert.deepEqual(bench.keyboard(0xfc, 0x1c, 0x32, 0xee), [ACK, ACK, ACK, 0xee]);
});

test("keyboard: resend gives the last byte again", () => {
  const bench = plainBench();
  assert.deepEqual(bench.keyboard(0xf2), [ACK, 0xab, 0x83]);
  assert.deepEqual(bench.keyboard(0xfe), [0x83]);
});

test("keys come in set 2, translated to set 1 by the controller, and in set 1 from the keyboard", () => {
  const keys = [0x1c, 0xf0, 0x1c, 0xe0, 0x75, 0xe0, 0xf0, 0x75];
  const translated = [0x1e, 0x9e, 0xe0, 0x48, 0xe0, 0xc8];
  const bench = plainBench();
  bench.controller.keyboard.press(keys);
  assert.deepEqual(bench.read(), keys);
  bench.keyboard(0xf0, 0x01);
  bench.controller.keyboard.press(keys);
  assert.deepEqual(bench.read(), translated);
  bench.keyboard(0xf0, 0x02);
  bench.setCommandByte(TRANSLATE | SYSTEM);
  bench.controller.keyboard.press(keys);
  assert.deepEqual(bench.read(), translated);
  assert.deepEqual(bench.keyboard(0xf2), [ACK, 0xab, 0x41], "answers are translated too");
});

test("keys that nobody fetches are refused as a whole, and commands still get their answers", () => {
  const bench = plainBench();
  let pressed = 0;
  while (bench.controller.keyboard.press([0x1c, 0xf0, 0x1c])) pressed++;
  assert.ok(pressed >= 5 && pressed < 10);
  bench.data(0xed);
  bench.data(0x02);
  assert.deepEqual(bench.read().slice(-2), [ACK, ACK]);
  assert.equal(bench.controller.keyboard.press([0x1c]), true);
});

test("scan codes: the translation maps no two keys to one code, and SysRq is what Linux looks for", () => {
  const seen = new Set<number>();
  for (let code = 1; code < 0x80; code++) seen.add(translate(code));
  seen.add(translate(0x83));
  seen.add(translate(0x84));
  // 0x41 and 0x54 also have a set 2 code that no keyboard sends.
  assert.equal(seen.size, 127);
  assert.ok(!seen.has(0xff) && [...seen].every((code) => code < 0x80));
  assert.deepEqual(translateKeys(sysrqKeys("b")!), [0x38, 0x54, 0x30, 0xb0, 0xd4, 0xb8]);
  assert.deepEqual(translateKeys(sysrqKeys("9")!), [0x38, 0x54, 0x0a, 0x8a, 0xd4, 0xb8]);
  for (const key of ["", "ab", "é", "toString", "__proto__"]) assert.equal(sysrqKeys(key), undefined);
});

test("a SysRq combination fits the keyboard's buffer", () => {
  const bench = newBench();
  assert.equal(bench.controller.keyboard.press(sysrqKeys("h")!), true);
  assert.deepEqual(bench.read(), [0x38, 0x54, 0x23, 0xa3, 0xd4, 0xb8]);
});

test("mouse: reset, identity, defaults", () => {
  const bench = plainBench();
  assert.deepEqual(bench.mouse(0xff), [ACK, 0xaa, 0x00]);
  assert.deepEqual(bench.mouse(0xf2), [ACK, 0x00]);
  assert.deepEqual(bench.mouse(0xe9), [ACK, 0x00, 2, 100]);
  assert.deepEqual(bench.mouse(0xeb), [ACK, 0x08, 0, 0]);
});

test("mouse: status shows mode, scaling, reporting, resolution and rate; defaults undo them", () => {
  const bench = plainBench();
  assert.deepEqual(bench.mouse(0xf4, 0xe7, 0xe8, 3, 0xf3, 200, 0xf0), Array(7).fill(ACK));
  assert.deepEqual(bench.mouse(0xe9), [ACK, 0x70, 3, 200]);
  assert.deepEqual(bench.mouse(0xf5, 0xe6, 0xea), [ACK, ACK, ACK]);
  assert.deepEqual(bench.mouse(0xe9), [ACK, 0x00, 3, 200]);
  assert.deepEqual(bench.mouse(0xf6), [ACK]);
  assert.deepEqual(bench.mouse(0xe9), [ACK, 0x00, 2, 100]);
});

test("mouse: bad bytes are asked for again, then answered with an error", () => {
  const bench = plainBench();
  assert.deepEqual(bench.mouse(0xf3, 99), [ACK, RESEND]);
  assert.deepEqual(bench.mouse(0xe8, 4), [ACK, RESEND]);
  assert.deepEqual(bench.mouse(0x11), [0xfc]);
  assert.deepEqual(bench.mouse(0xf4, 0x11), [ACK, RESEND]);
});

test("mouse: wrap mode echoes all but reset and reset-wrap-mode", () => {
  const bench = plainBench();
  assert.deepEqual(bench.mouse(0xee, 0xf2, 0x12, 0xec, 0xf2), [ACK, 0xf2, 0x12, ACK, ACK, 0x00]);
  assert.deepEqual(bench.mouse(0xee, 0xff), [ACK, ACK, 0xaa, 0x00]);
});

test("mouse answers raise IRQ12 and carry the AUX bit; the keyboard goes first", () => {
  const bench = newBench();
  bench.setCommandByte(AUX_INTERRUPT | SYSTEM);
  bench.command(0xd4, 0xf2);
  assert.equal(bench.mouseIrq.level, true);
  assert.equal(bench.controller.keyboard.press([0x1c]), true);
  assert.equal(bench.controller.read(DATA, 1), ACK);
  assert.equal(bench.status() & AUX, 0);
  assert.equal(bench.controller.read(DATA, 1), 0x1c);
  assert.deepEqual(bench.read(true), [0x00]);
  assert.equal(bench.mouseIrq.rises, 2);
});

test("two threads' objects over one state are one controller", () => {
  const here = new Bench();
  const there = new Bench(here.memory);
  here.controller.reset();
  here.setCommandByte(KEYBOARD_INTERRUPT | SYSTEM);
  here.command(0x60);
  there.data(SYSTEM | KEYBOARD_INTERRUPT);
  assert.equal(there.controller.keyboard.press([0x1c]), true);
  assert.equal(there.keyboardIrq.level, true);
  assert.deepEqual(here.read(), [0x1c]);
  assert.equal(here.keyboardIrq.level, false);
});

test("reset takes the lines down and empties the buffers", () => {
  const bench = newBench();
  bench.setCommandByte(KEYBOARD_INTERRUPT | SYSTEM);
  bench.data(0xf2);
  bench.command(0xd4);
  bench.controller.reset();
  assert.equal(bench.keyboardIrq.level, false);
  bench.data(0xee);
  assert.deepEqual(bench.read(), [0xee]);
});

test("random accesses: bytes stay bytes, fixed status bits stay fixed, wires follow the buffer", () => {
  const bench = newBench();
  const next = random(8);
  for (let i = 0; i < 100000; i++) {
    const offset = (next() & 1) === 0 ? DATA : COMMAND;
    if ((next() & 7) === 0)
      bench.controller.keyboard.press(Array.from({ length: next() % 6 }, () => next() & 0xff));
    if ((next() & 1) === 0) bench.controller.write(offset, 1, next());
    else {
      const value = bench.controller.read(offset, 1);
      assert.ok(Number.isInteger(value) && value >= 0 && value <= 0xff);
    }
    const status = bench.status();
    assert.equal(status & 0xd2, NOT_INHIBITED);
    if ((status & OUTPUT_FULL) === 0) assert.equal(status & AUX, 0);
    assert.ok(!bench.keyboardIrq.level || (status & (OUTPUT_FULL | AUX)) === OUTPUT_FULL);
    assert.ok(!bench.mouseIrq.level || (status & AUX) !== 0);
  }
  bench.controller.write(-1, 4, -1);
  bench.controller.read(0xffffffff, 4);
});

test("system control port A: A20 is stored, the reset bit acts on its rising edge", () => {
  let resets = 0;
  const port = new SystemControlPort(allocatorOver(newMemory()), () => resets++);
  port.reset();
  assert.equal(port.read(0, 1), 0x02);
  port.write(0, 1, 0xfc);
  assert.equal(port.read(0, 1), 0x00);
  port.write(0, 1, 0x03);
  port.write(0, 1, 0x03);
  assert.equal(resets, 1);
  port.write(0, 1, 0x02);
  port.write(0, 1, 0x01);
  assert.equal(resets, 2);
});
