/**
 * One counter of the 8254 (Intel 8254 data sheet, order 231164, "Mode Definitions"): nothing ticks; the tick at which
 * the counter was loaded is kept, and its count and OUT at any tick follow from it.
 *
 *     mode  OUT at first  counts                      OUT
 *     0     low           from the write              high when the count reaches 0
 *     1     high          from a rising GATE          low from then until the count reaches 0
 *     2     high          N … 2, 1, N …               low for the tick of count 1
 *     3     high          by 2, twice a period        high for the first half of the period
 *     4     high          from the write              low for the tick of count 0
 *     5     high          from a rising GATE          low for the tick of count 0
 *
 * A count that is written, or a trigger, takes effect at the next tick.
 */
import { Layout, type ViewOf } from "../../../memory/layout.js";

export const PIT_COUNTER_STATE = new Layout("i8254-counter", {
  mode: "u32",
  bcd: "u32",
  /** Access: 1 low byte, 2 high byte, 3 low then high. */
  access: "u32",
  gate: "u32",
  /** The initial count in use, 1 to 65536; 0: none since the control word. */
  count: "u32",
  /** A count that waits for the end of the cycle or for a trigger; 0: none. */
  next: "u32",
  /** The next byte written is the high one, after `writeLow`. */
  writeHigh: "u32",
  writeLow: "u32",
  /** The next byte read is the high one. */
  readHigh: "u32",
  latched: "u32",
  latch: "u32",
  statusLatched: "u32",
  status: "u32",
  /** Tick at which `count` was loaded; Infinity: waiting for a trigger. */
  loaded: "f64",
  /** Tick at which `next` is loaded. */
  nextAt: "f64",
  /** Ticks counted when counting was held up, or -1 while it goes on. */
  held: "f64",
});

export const Access = { LATCH: 0, LOW: 1, HIGH: 2, BOTH: 3 } as const;

/** Status byte of the read-back command. */
const Status = { OUT: 0x80, NULL_COUNT: 0x40 } as const;

const NEVER = Number.POSITIVE_INFINITY;
const BINARY_RANGE = 0x10000;
const BCD_RANGE = 10000;

export class PitCounter {
  constructor(readonly state: ViewOf<typeof PIT_COUNTER_STATE>) {}

  /** The data sheet leaves power-up undefined; this is mode 3 without a count: OUT high and nothing counts. */
  reset(gate: boolean): void {
    const { state } = this;
    state.gate = gate ? 1 : 0;
    this.#program(3, Access.BOTH, false);
  }

  /** A control word for this counter that is no latch command. Modes 6 and 7 are 2 and 3. */
  writeControl(word: number): void {
    const mode = (word >>> 1) & 7;
    this.#program(mode > 5 ? mode - 4 : mode, (word >>> 4) & 3, (word & 1) !== 0);
  }

  #program(mode: number, access: number, bcd: boolean): void {
    const { state } = this;
    state.mode = mode;
    state.access = access;
    state.bcd = bcd ? 1 : 0;
    state.count = 0;
    state.next = 0;
    state.writeHigh = 0;
    state.readHigh = 0;
    state.latched = 0;
    state.statusLatched = 0;
    state.loaded = NEVER;
    state.nextAt = NEVER;
    state.held = -1;
  }

  /** A byte written to the counter's port. */
  writeByte(value: number, tick: number): void {
    const { state } = this;
    this.#sync(tick);
    switch (state.access) {
      case Access.LOW:
        this.#writeCount(value, tick);
        break;
      case Access.HIGH:
        this.#writeCount(value << 8, tick);
        break;
      default:
        if (state.writeHigh === 0) {
          state.writeLow = value;
          state.writeHigh = 1;
          // Mode 0: the first byte disables counting, and OUT goes low.
          if (state.mode === 0) this.#hold(tick);
        } else {
          state.writeHigh = 0;
          this.#writeCount((value << 8) | state.writeLow, tick);
        }
    }
  }

  #writeCount(raw: number, tick: number): void {
    const { state } = this;
    const count = this.#decode(raw);
    switch (state.mode) {
      case 0:
      case 4:
        this.#load(count, tick + 1);
        break;
      case 2:
      case 3:
        if (state.count === 0) this.#load(count, tick + 1);
        else {
          state.next = count;
          state.nextAt = this.#endOfCycle(tick);
        }
        break;
      default:
        // Modes 1 and 5: for the next trigger; a cycle in progress goes on with the old count.
        state.next = count;
        state.nextAt = NEVER;
    }
  }

  #load(count: number, tick: number): void {
    const { state } = this;
    state.count = count;
    state.next = 0;
    state.nextAt = NEVER;
    state.loaded = tick;
    state.held = state.gate !== 0 || state.mode === 1 || state.mode === 5 ? -1 : 0;
  }

  #decode(raw: number): number {
    if (this.state.bcd === 0) return raw === 0 ? BINARY_RANGE : raw;
    const value =
      (raw & 0xf) + ((raw >>> 4) & 0xf) * 10 + ((raw >>> 8) & 0xf) * 100 + ((raw >>> 12) & 0xf) * 1000;
    return value === 0 ? BCD_RANGE : value;
  }

  /** When a new count is loaded: at the end of the period in mode 2, of the half period in mode 3. */
  #endOfCycle(tick: number): number {
    const { mode, count, loaded, held } = this.state;
    if (held >= 0) return NEVER;
    if (tick < loaded) return loaded;
    const start = loaded + Math.floor((tick - loaded) / count) * count;
    const half = start + highTicks(count);
    return mode === 3 && tick < half ? half : start + count;
  }

  /** Load the count that waited, if its time has come. */
  #sync(tick: number): void {
    const { state } = this;
    if (state.next === 0 || tick < state.nextAt) return;
    const { next, nextAt, mode, count, loaded } = state;
    // At the end of a high half of mode 3 the low half of the new count begins.
    const inPeriod = (nextAt - loaded) % count;
    const shift = mode === 3 && inPeriod !== 0 ? highTicks(next) : 0;
    this.#load(next, nextAt - shift);
  }

  #hold(tick: number): void {
    const { state } = this;
    if (state.held < 0 && state.count !== 0) state.held = Math.max(0, tick - state.loaded);
  }

  setGate(level: boolean, tick: number): void {
    const { state } = this;
    this.#sync(tick);
    if ((state.gate !== 0) === level) return;
    state.gate = level ? 1 : 0;
    switch (state.mode) {
      case 0:
      case 4:
        // A level: counting is disabled and enabled.
        if (!level) this.#hold(tick);
        else if (state.held >= 0 && !(state.mode === 0 && state.writeHigh !== 0)) {
          state.loaded = tick - state.held;
          state.held = -1;
        }
        break;
      case 2:
      case 3:
        // Low disables counting and sets OUT; a rising edge starts a new period.
        if (!level) {
          this.#hold(tick);
          if (state.next !== 0) state.nextAt = NEVER;
        } else if (state.count !== 0) this.#load(state.next || state.count, tick + 1);
        break;
      default:
        if (level && (state.next || state.count) !== 0) this.#load(state.next || state.count, tick + 1);
    }
  }

  #elapsed(tick: number): number {
    const { held, loaded } = this.state;
    return held >= 0 ? held : tick - loaded;
  }

  /** OUT at `tick`. */
  out(tick: number): boolean {
    const { state } = this;
    this.#sync(tick);
    const { mode, count } = state;
    const elapsed = this.#elapsed(tick);
    switch (mode) {
      case 0:
        return count !== 0 && state.writeHigh === 0 && elapsed >= count;
      case 1:
        return count === 0 || elapsed < 0 || elapsed >= count;
      case 2:
        return count === 0 || state.gate === 0 || elapsed < 0 || elapsed % count !== count - 1;
      case 3:
        return count === 0 || state.gate === 0 || elapsed < 0 || elapsed % count < highTicks(count);
      default:
        return count === 0 || elapsed !== count;
    }
  }

  /** The counting element at `tick`, as it is read: binary or BCD. */
  value(tick: number): number {
    const { state } = this;
    this.#sync(tick);
    const { mode, count, bcd } = state;
    if (count === 0) return 0;
    const elapsed = Math.max(0, this.#elapsed(tick));
    const range = bcd !== 0 ? BCD_RANGE : BINARY_RANGE;
    let value: number;
    if (mode === 2) value = count - (elapsed % count);
    else if (mode === 3) value = squareWaveCount(count, elapsed % count);
    else value = count - elapsed;
    value %= range;
    if (value < 0) value += range;
    return bcd !== 0 ? toBcd(value) : value;
  }

  /** The first tick after `tick` at which OUT rises without further writes, or Infinity. GATE is taken as high. */
  nextRise(tick: number): number {
    const { state } = this;
    this.#sync(tick);
    const { mode, count, loaded, held } = state;
    if (count === 0 || held >= 0) return NEVER;
    switch (mode) {
      case 0:
        return state.writeHigh === 0 && loaded + count > tick ? loaded + count : NEVER;
      case 4:
        return loaded + count + 1 > tick ? loaded + count + 1 : NEVER;
      case 2:
      case 3: {
        // A count of 1 is illegal in mode 2 and gives no square wave in mode 3.
        if (state.next !== 0) {
          const low = (state.nextAt - loaded) % count !== 0;
          return low ? state.nextAt + state.next - highTicks(state.next) : state.nextAt;
        }
        if (count === 1) return NEVER;
        return loaded + (Math.floor(Math.max(0, tick - loaded) / count) + 1) * count;
      }
      default:
        return NEVER;
    }
  }

  /** Counter latch command: the count stays readable until it was read; more commands before that do nothing. */
  latchCount(tick: number): void {
    const { state } = this;
    if (state.latched !== 0) return;
    state.latch = this.value(tick);
    state.latched = 1;
  }

  /** Status of the read-back command. */
  latchStatus(tick: number): void {
    const { state } = this;
    if (state.statusLatched !== 0) return;
    const out = this.out(tick) ? Status.OUT : 0;
    const loaded = state.count !== 0 && state.next === 0 && tick >= state.loaded;
    state.status =
      out | (loaded ? 0 : Status.NULL_COUNT) | (state.access << 4) | (state.mode << 1) | state.bcd;
    state.statusLatched = 1;
  }

  /** A byte read from the counter's port: latched status first, then latched or running count. */
  readByte(tick: number): number {
    const { state } = this;
    if (state.statusLatched !== 0) {
      state.statusLatched = 0;
      return state.status;
    }
    const value = state.latched !== 0 ? state.latch : this.value(tick);
    const high = state.access === Access.HIGH || (state.access === Access.BOTH && state.readHigh !== 0);
    if (state.access === Access.BOTH) state.readHigh ^= 1;
    if (high || state.access === Access.LOW) state.latched = 0;
    return high ? value >>> 8 : value & 0xff;
  }
}

/** Ticks of a mode 3 period that OUT is high: an odd count is high for one tick more than low. */
function highTicks(count: number): number {
  return (count + 1) >>> 1;
}

function squareWaveCount(count: number, at: number): number {
  const high = highTicks(count);
  // An odd count is loaded as the even number below it.
  return (count & ~1) - 2 * (at < high ? at : at - high);
}

function toBcd(value: number): number {
  return (
    (value % 10) |
    ((Math.floor(value / 10) % 10) << 4) |
    ((Math.floor(value / 100) % 10) << 8) |
    (Math.floor(value / 1000) << 12)
  );
}
