/**
 * The MC146818A's calendar: seconds since 1970 to and from the ten bytes of time, in its formats
 * (Motorola, "MC146818A Real-Time Clock Plus RAM", table 3: address map of time, calendar and alarm data).
 */

/** Register B bits that choose the format. */
export const Format = { HOUR_24: 0x02, BINARY: 0x04 } as const;

const PM = 0x80;
const SECONDS_A_DAY = 86400;
const DAYS_A_WEEK = 7;
/** 1970-01-01 was a Thursday, day 5 of a week that starts with Sunday as day 1. */
const EPOCH_WEEKDAY = 4;

/** Date and time of day; `weekday` is 1 for Sunday. */
export interface CalendarTime {
  year: number;
  month: number;
  day: number;
  weekday: number;
  hour: number;
  minute: number;
  second: number;
}

/** The proleptic Gregorian date and time of day `seconds` after 1970-01-01. */
export function toCalendar(seconds: number): CalendarTime {
  const days = Math.floor(seconds / SECONDS_A_DAY);
  const time = seconds - days * SECONDS_A_DAY;
  // Years counted from March put the leap day last; 400 years are 146097 days.
  const fromMarch = days + 719468;
  const era = Math.floor(fromMarch / 146097);
  const dayOfEra = fromMarch - era * 146097;
  const yearOfEra = Math.floor(
    (dayOfEra - Math.floor(dayOfEra / 1460) + Math.floor(dayOfEra / 36524) - Math.floor(dayOfEra / 146096)) /
      365,
  );
  const dayOfYear = dayOfEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100));
  const monthFromMarch = Math.floor((5 * dayOfYear + 2) / 153);
  const month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9;
  return {
    year: yearOfEra + era * 400 + (month <= 2 ? 1 : 0),
    month,
    day: dayOfYear - Math.floor((153 * monthFromMarch + 2) / 5) + 1,
    weekday: modulo(days + EPOCH_WEEKDAY, DAYS_A_WEEK) + 1,
    hour: Math.floor(time / 3600),
    minute: Math.floor(time / 60) % 60,
    second: time % 60,
  };
}

/** The inverse of `toCalendar`; fields past their range carry over, `weekday` is not looked at. */
export function fromCalendar(time: CalendarTime): number {
  const months = time.year * 12 + time.month - 1;
  const month = modulo(months, 12) + 1;
  const year = Math.floor(months / 12) - (month <= 2 ? 1 : 0);
  const era = Math.floor(year / 400);
  const yearOfEra = year - era * 400;
  const dayOfYear = Math.floor((153 * (month + (month > 2 ? -3 : 9)) + 2) / 5);
  const dayOfEra = yearOfEra * 365 + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100) + dayOfYear;
  const days = era * 146097 + dayOfEra - 719468 + time.day - 1;
  return days * SECONDS_A_DAY + time.hour * 3600 + time.minute * 60 + time.second;
}

/** A number below 100 as the chip shows it under register B `format`. */
export function encode(value: number, format: number): number {
  return (format & Format.BINARY) !== 0 ? value : Math.floor(value / 10) * 16 + (value % 10);
}

/** The inverse of `encode`. Bytes that are no BCD number give what the sum of their digits' values gives. */
export function decode(byte: number, format: number): number {
  return (format & Format.BINARY) !== 0 ? byte : (byte >>> 4) * 10 + (byte & 0xf);
}

/** Hours: in 12-hour format 12, 1 … 11 with the top bit for the afternoon. */
export function encodeHour(hour: number, format: number): number {
  if ((format & Format.HOUR_24) !== 0) return encode(hour, format);
  return encode(hour % 12 === 0 ? 12 : hour % 12, format) | (hour >= 12 ? PM : 0);
}

export function decodeHour(byte: number, format: number): number {
  if ((format & Format.HOUR_24) !== 0) return decode(byte, format);
  return (decode(byte & ~PM, format) % 12) + ((byte & PM) !== 0 ? 12 : 0);
}

/** What the three alarm bytes match; undefined matches everything. */
export interface Alarm {
  hour: number | undefined;
  minute: number | undefined;
  second: number | undefined;
}

/**
 * The first second after `seconds` that the alarm matches, or Infinity for an alarm that no time of day matches (fields out of
 * their range).
 */
export function nextAlarm(seconds: number, alarm: Alarm): number {
  const { hour, minute, second } = alarm;
  if ((hour ?? 0) > 23 || (minute ?? 0) > 59 || (second ?? 0) > 59) return Number.POSITIVE_INFINITY;
  let at = seconds + 1;
  // Each step moves to the next second, minute or hour that may match: at most 24 + 60 + 60 of them.
  for (;;) {
    const time = modulo(at, SECONDS_A_DAY);
    if (hour !== undefined && Math.floor(time / 3600) !== hour) at += 3600 - (time % 3600);
    else if (minute !== undefined && Math.floor(time / 60) % 60 !== minute) at += 60 - (time % 60);
    else if (second !== undefined && time % 60 !== second) at += 1;
    else return at;
  }
}

/** The remainder that is never negative. */
export function modulo(value: number, divisor: number): number {
  return value - Math.floor(value / divisor) * divisor;
}
