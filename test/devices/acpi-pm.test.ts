/** ACPI fixed hardware against ACPI 6.5, 4.8.2 and 4.8.3. */
import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";
import { ACPI_PM_PORT_COUNT, AcpiPm, PM_TIMER_HZ } from "../../src/devices/acpi-pm.js";
import type { AccessSize } from "../../src/devices/bus.js";
import type { SharedMemory } from "../../src/memory/shared-memory.js";
import { Timers } from "../../src/memory/timers.js";
import { allocatorOver, ManualClock, newMemory, RecordedLine, random, validateLocks } from "./support.js";

validateLocks();

/** Offsets as the FADT has them. */
const PM1_STS = 0;
const PM1_EN = 2;
const PM1_CNT = 4;
const PM_TMR = 8;

const TMR = 1 << 0;
const BM = 1 << 4;
const GBL = 1 << 5;
const PWRBTN = 1 << 8;
const SLPBTN = 1 << 9;
const RTC = 1 << 10;
const SCI_EN = 1 << 0;
const BM_RLD = 1 << 1;
const SLP_EN = 1 << 13;
const slpTyp = (type: number) => type << 10;
const S5 = 5;

/** Half of the 32-bit counter's period, in nanoseconds: when its highest bit changes. */
const HALF_PERIOD = (2 ** 31 / PM_TIMER_HZ) * 1e9;

interface Side {
  pm: AcpiPm;
  timers: Timers;
}

let memory: SharedMemory;
let clock: ManualClock;
let sci: RecordedLine;
let powerOffs: number;
let pm: AcpiPm;
let timers: Timers;

/** The device as one thread has it. */
function attach(): Side {
  const allocator = allocatorOver(memory);
  const side = new Timers(memory, allocator, clock);
  return { timers: side, pm: new AcpiPm(allocator, side, sci, () => powerOffs++) };
}

beforeEach(() => {
  memory = newMemory();
  clock = new ManualClock();
  sci = new RecordedLine();
  powerOffs = 0;
  ({ pm, timers } = attach());
  timers.reset();
  pm.reset();
});

describe("PM1 registers", () => {
  test("after reset: no event, none enabled, ACPI mode", () => {
    assert.equal(pm.read(PM1_STS, 2), 0);
    assert.equal(pm.read(PM1_EN, 2), 0);
    assert.equal(pm.read(PM1_CNT, 2), SCI_EN);
    assert.equal(sci.level, false);
  });

  test("enable bits of the events that exist can be written, the others stay 0", () => {
    pm.write(PM1_EN, 2, 0xffff);
    assert.equal(pm.read(PM1_EN, 2), TMR | GBL | PWRBTN | RTC);
    assert.equal(pm.read(PM1_EN, 2) & SLPBTN, 0);
  });

  test("status bits cannot be set by writing", () => {
    pm.write(PM1_STS, 2, 0xffff);
    assert.equal(pm.read(PM1_STS, 2), 0);
  });

  test("status is write-1-to-clear, bit by bit", () => {
    pm.pressPowerButton();
    pm.write(PM1_STS, 2, ~PWRBTN & 0xffff);
    assert.equal(pm.read(PM1_STS, 2), PWRBTN);
    pm.write(PM1_STS, 2, 0);
    assert.equal(pm.read(PM1_STS, 2), PWRBTN);
    pm.write(PM1_STS, 2, PWRBTN);
    assert.equal(pm.read(PM1_STS, 2), 0);
  });

  test("byte accesses reach either half of a register, the other half stays", () => {
    pm.write(PM1_EN, 1, TMR | GBL);
    pm.write(PM1_EN + 1, 1, PWRBTN >> 8);
    assert.equal(pm.read(PM1_EN, 2), TMR | GBL | PWRBTN);
    pm.write(PM1_EN, 1, 0);
    assert.equal(pm.read(PM1_EN, 2), PWRBTN);
    assert.equal(pm.read(PM1_EN + 1, 1), PWRBTN >> 8);
    pm.pressPowerButton();
    pm.write(PM1_STS, 1, 0xff);
    assert.equal(pm.read(PM1_STS, 2), PWRBTN);
    pm.write(PM1_STS + 1, 1, PWRBTN >> 8);
    assert.equal(pm.read(PM1_STS, 2), 0);
  });

  test("a dword access covers status and enable", () => {
    pm.write(PM1_STS, 4, PWRBTN << 16);
    pm.pressPowerButton();
    assert.equal(pm.read(PM1_STS, 4), ((PWRBTN << 16) | PWRBTN) >>> 0);
  });

  test("SCI_EN cannot be cleared, BM_RLD and SLP_TYP are kept, SLP_EN and GBL_RLS read 0", () => {
    pm.write(PM1_CNT, 2, 0);
    assert.equal(pm.read(PM1_CNT, 2), SCI_EN);
    pm.write(PM1_CNT, 2, 0xffff);
    assert.equal(pm.read(PM1_CNT, 2), SCI_EN | BM_RLD | slpTyp(7));
    assert.equal(powerOffs, 0);
  });

  test("ports between the blocks read as ones and take nothing", () => {
    pm.write(6, 2, 0x1234);
    assert.equal(pm.read(6, 2), 0xffff);
    assert.equal(pm.read(4, 4), ((0xffff << 16) | SCI_EN) >>> 0);
  });

  test("bus master status is not there", () => {
    pm.write(PM1_STS, 2, BM);
    assert.equal(pm.read(PM1_STS, 2) & BM, 0);
  });
});

describe("SCI", () => {
  test("is high while an enabled event's status is set", () => {
    pm.pressPowerButton();
    assert.equal(sci.level, false);
    pm.write(PM1_EN, 2, PWRBTN);
    assert.equal(sci.level, true);
    pm.write(PM1_EN, 2, 0);
    assert.equal(sci.level, false);
    pm.write(PM1_EN, 2, PWRBTN);
    pm.write(PM1_STS, 2, PWRBTN);
    assert.equal(sci.level, false);
    pm.pressPowerButton();
    assert.equal(sci.level, true);
    assert.equal(sci.rises, 3);
  });

  test("a second press while the first is pending does not pulse the line", () => {
    pm.write(PM1_EN, 2, PWRBTN);
    pm.pressPowerButton();
    pm.pressPowerButton();
    assert.equal(sci.rises, 1);
  });

  test("reset takes the line down", () => {
    pm.write(PM1_EN, 2, PWRBTN);
    pm.pressPowerButton();
    pm.reset();
    assert.equal(sci.level, false);
    assert.equal(pm.read(PM1_STS, 4), 0);
  });

  test("the button pressed on another thread's object raises it here", () => {
    pm.write(PM1_EN, 2, PWRBTN);
    attach().pm.pressPowerButton();
    assert.equal(sci.level, true);
    assert.equal(pm.read(PM1_STS, 2), PWRBTN);
    pm.write(PM1_STS, 2, PWRBTN);
    assert.equal(sci.level, false);
  });
});

describe("sleeping states", () => {
  test("SLP_EN with the type of S5 powers off", () => {
    pm.write(PM1_CNT, 2, slpTyp(S5) | SLP_EN);
    assert.equal(powerOffs, 1);
    assert.equal(pm.read(PM1_CNT, 2) & SLP_EN, 0);
  });

  test("SLP_TYP alone does not; SLP_EN in a later write does, as OSPM does it in two writes", () => {
    pm.write(PM1_CNT, 2, slpTyp(S5));
    assert.equal(powerOffs, 0);
    pm.write(PM1_CNT, 2, slpTyp(S5) | SLP_EN | SCI_EN);
    assert.equal(powerOffs, 1);
  });

  test("a write of the high byte is enough", () => {
    pm.write(PM1_CNT + 1, 1, (slpTyp(S5) | SLP_EN) >> 8);
    assert.equal(powerOffs, 1);
  });

  test("a write of the low byte never sleeps", () => {
    pm.write(PM1_CNT, 2, slpTyp(S5));
    pm.write(PM1_CNT, 1, 0xff);
    assert.equal(powerOffs, 0);
  });

  test("types of states that do not exist are ignored", () => {
    for (let type = 0; type < 8; type++) if (type !== S5) pm.write(PM1_CNT, 2, slpTyp(type) | SLP_EN);
    assert.equal(powerOffs, 0);
  });
});

describe("power management timer", () => {
  test("counts 3.579545 MHz and is read-only", () => {
    assert.equal(pm.read(PM_TMR, 4), 0);
    clock.nanoseconds = 1e9;
    assert.equal(pm.read(PM_TMR, 4), PM_TIMER_HZ);
    pm.write(PM_TMR, 4, 0);
    assert.equal(pm.read(PM_TMR, 4), PM_TIMER_HZ);
  });

  test("can be read in parts", () => {
    clock.nanoseconds = 1000e9;
    const value = pm.read(PM_TMR, 4);
    assert.equal(pm.read(PM_TMR, 2), value & 0xffff);
    assert.equal(pm.read(PM_TMR + 2, 2), value >>> 16);
    for (let i = 0; i < 4; i++) assert.equal(pm.read(PM_TMR + i, 1), (value >>> (8 * i)) & 0xff);
  });

  test("wraps at 32 bits", () => {
    clock.nanoseconds = 2 * HALF_PERIOD + 1e9;
    assert.ok(Math.abs(pm.read(PM_TMR, 4) - PM_TIMER_HZ) <= 1);
  });

  test("never goes back, even where another thread's clock is behind", () => {
    clock.nanoseconds = 5000;
    const before = pm.read(PM_TMR, 4);
    clock.nanoseconds = 4000;
    assert.equal(attach().pm.read(PM_TMR, 4), before);
  });

  test("TMR_STS is set whenever the highest bit changes, in either direction", () => {
    clock.nanoseconds = HALF_PERIOD - 1000;
    assert.equal(pm.read(PM_TMR, 4), 0x7fffffff - 3);
    assert.equal(pm.read(PM1_STS, 2), 0);
    clock.nanoseconds = HALF_PERIOD + 1000;
    assert.equal(pm.read(PM1_STS, 2), TMR);
    assert.equal(pm.read(PM_TMR, 4) >>> 31, 1);
    pm.write(PM1_STS, 2, TMR);
    assert.equal(pm.read(PM1_STS, 2), 0);
    clock.nanoseconds = 2 * HALF_PERIOD + 1000;
    assert.equal(pm.read(PM1_STS, 2), TMR);
    assert.equal(pm.read(PM_TMR, 4) >>> 31, 0);
  });

  test("a carry that came before the status was cleared does not come back", () => {
    clock.nanoseconds = 7 * HALF_PERIOD;
    pm.write(PM1_STS, 2, TMR);
    assert.equal(pm.read(PM1_STS, 2), 0);
  });

  test("no wake-up is asked for while TMR_EN is clear", () => {
    assert.equal(timers.expire(), Number.POSITIVE_INFINITY);
  });

  test("with TMR_EN the timer thread raises the SCI at each carry", () => {
    pm.write(PM1_EN, 2, TMR);
    // The timer thread has its own objects.
    const { timers: sleeper } = attach();
    for (let carry = 1; carry <= 3; carry++) {
      const deadline = sleeper.expire();
      assert.ok(Math.abs(deadline - carry * HALF_PERIOD) < 1e5, `deadline ${deadline}`);
      assert.equal(sci.level, false);
      clock.nanoseconds = deadline;
      assert.equal(sleeper.expire(), Number.POSITIVE_INFINITY, "no further deadline until acknowledged");
      assert.equal(sci.level, true);
      pm.write(PM1_STS, 2, TMR);
      assert.equal(sci.level, false);
    }
    assert.equal(sci.rises, 3);
  });

  test("clearing TMR_EN cancels the wake-up", () => {
    pm.write(PM1_EN, 2, TMR);
    pm.write(PM1_EN, 2, 0);
    assert.equal(timers.expire(), Number.POSITIVE_INFINITY);
  });

  test("a reset does not leave a carry of before behind", () => {
    clock.nanoseconds = 3 * HALF_PERIOD + 5;
    pm.reset();
    assert.equal(pm.read(PM1_STS, 2), 0);
  });
});

test("random accesses keep the registers' rules", () => {
  const next = random(600);
  const sizes: readonly AccessSize[] = [1, 2, 4];
  for (let i = 0; i < 50_000; i++) {
    const size = sizes[next() % 3];
    const offset = (next() % (ACPI_PM_PORT_COUNT / size)) * size;
    clock.nanoseconds += next() % 4 === 0 ? next() * 100 : next() % 1000;
    if (next() % 16 === 0) pm.pressPowerButton();
    if (next() % 16 === 0) timers.expire();
    if (next() % 2 === 0) pm.write(offset, size, next());
    const value = pm.read(offset, size);
    assert.ok(value >= 0 && value < 2 ** (8 * size) && Number.isInteger(value));
    const status = pm.read(PM1_STS, 2);
    const enable = pm.read(PM1_EN, 2);
    assert.equal(status & ~(TMR | PWRBTN), 0);
    assert.equal(enable & ~(TMR | GBL | PWRBTN | RTC), 0);
    assert.equal(pm.read(PM1_CNT, 2) & ~(BM_RLD | slpTyp(7)), SCI_EN);
    assert.equal(sci.level, (status & enable) !== 0);
  }
});
