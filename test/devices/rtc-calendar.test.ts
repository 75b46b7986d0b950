import assert from "node:assert/strict";
import { test } from "node:test";
import {
  decode,
  decodeHour,
  encode,
  encodeHour,
  Format,
  fromCalendar,
  nextAlarm,
  toCalendar,
} from "../../src/devices/rtc-calendar.js";
import { random } from "./support.js";

test("dates agree with the host's own calendar, years 0 to 9999", () => {
  const next = random(11);
  const seconds = [0, -1, 86399, 86400, 951782400, 951868800, 4107542399, -62167219200, 253402300799];
  for (let i = 0; i < 20000; i++)
    seconds.push((next() % 315569520000) - 62167219200 + (next() % 75) * 2 ** 32);
  for (const each of seconds) {
    if (each < -62167219200 || each > 253402300799) continue;
    const date = new Date(each * 1000);
    const time = toCalendar(each);
    assert.deepEqual(time, {
      year: date.getUTCFullYear(),
      month: date.getUTCMonth() + 1,
      day: date.getUTCDate(),
      weekday: date.getUTCDay() + 1,
      hour: date.getUTCHours(),
      minute: date.getUTCMinutes(),
      second: date.getUTCSeconds(),
    });
    assert.equal(fromCalendar(time), each);
  }
});

test("fields past their range carry over", () => {
  const base = { year: 2024, month: 1, day: 1, weekday: 1, hour: 0, minute: 0, second: 0 };
  const at = (change: Partial<typeof base>) => toCalendar(fromCalendar({ ...base, ...change }));
  assert.deepEqual([at({ month: 0 }).year, at({ month: 0 }).month], [2023, 12]);
  assert.deepEqual([at({ month: 14 }).year, at({ month: 14 }).month], [2025, 2]);
  assert.deepEqual([at({ day: 0 }).month, at({ day: 0 }).day], [12, 31]);
  assert.deepEqual([at({ hour: 165, second: 165 }).day, at({ hour: 165, second: 165 }).second], [7, 45]);
});

test("formats: binary and BCD, 24 and 12 hours", () => {
  const bcd24 = Format.HOUR_24;
  const binary24 = Format.HOUR_24 | Format.BINARY;
  assert.equal(encode(59, bcd24), 0x59);
  assert.equal(encode(59, binary24), 59);
  const shown = (format: number) => [0, 1, 11, 12, 13, 23].map((hour) => encodeHour(hour, format));
  assert.deepEqual(shown(bcd24), [0x00, 0x01, 0x11, 0x12, 0x13, 0x23]);
  assert.deepEqual(shown(0), [0x12, 0x01, 0x11, 0x92, 0x81, 0x91]);
  assert.deepEqual(shown(Format.BINARY), [12, 1, 11, 0x8c, 0x81, 0x8b]);
  for (const format of [0, Format.BINARY, bcd24, binary24]) {
    for (let value = 0; value < 100; value++) assert.equal(decode(encode(value, format), format), value);
    for (let hour = 0; hour < 24; hour++) assert.equal(decodeHour(encodeHour(hour, format), format), hour);
  }
});

test("the next alarm is the first matching second, as found by trying all of them", () => {
  const next = random(12);
  const pick = (limit: number) => (next() % 3 === 0 ? undefined : next() % limit);
  for (let i = 0; i < 60; i++) {
    const alarm = { hour: pick(24), minute: pick(60), second: pick(60) };
    const start = next() % 200000;
    let expected = start + 1;
    const matches = (at: number) => {
      const { hour, minute, second } = toCalendar(at);
      return (
        (alarm.hour ?? hour) === hour &&
        (alarm.minute ?? minute) === minute &&
        (alarm.second ?? second) === second
      );
    };
    while (!matches(expected)) expected++;
    assert.equal(nextAlarm(start, alarm), expected);
  }
  for (const alarm of [{ hour: 24 }, { minute: 60 }, { second: 255 }]) {
    assert.equal(
      nextAlarm(0, { hour: undefined, minute: undefined, second: undefined, ...alarm }),
      Number.POSITIVE_INFINITY,
    );
  }
});
