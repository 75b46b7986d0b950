/**
 * Scan codes of PC keyboards: set 2, which keyboards send, and its translation to set 1 by the keyboard controller (IBM, "Personal
 * System/2 Hardware Interface Technical Reference", Keyboards (101- and 102-key), scan code tables; A. Brouwer, "Keyboard
 * scancodes", 10.3, for the translation of codes that no key has).
 */

/** Set 2: the next code is a key's release. */
export const RELEASE = 0xf0;
/** Set 1: a key's release is its code with this bit. */
const SET_1_RELEASE = 0x80;

/** The set 1 code of each set 2 code below 0x80. */
const TRANSLATION = Uint8Array.from(
  [
    "ff 43 41 3f 3d 3b 3c 58 64 44 42 40 3e 0f 29 59",
    "65 38 2a 70 1d 10 02 5a 66 71 2c 1f 1e 11 03 5b",
    "67 2e 2d 20 12 05 04 5c 68 39 2f 21 14 13 06 5d",
    "69 31 30 23 22 15 07 5e 6a 72 32 24 16 08 09 5f",
    "6b 33 25 17 18 0b 0a 60 6c 34 35 26 27 19 0c 61",
    "6d 73 28 74 1a 0d 62 6e 3a 36 1c 1b 75 2b 63 76",
    "55 56 77 78 79 7a 0e 7b 7c 4f 7d 4b 47 7e 7f 6f",
    "52 53 50 4c 4d 48 01 45 57 4e 51 4a 37 49 46 54",
  ]
    .join(" ")
    .split(" "),
  (code) => Number.parseInt(code, 16),
);

/** The two codes past the table that are translated: F7, and Alt with Print Screen (SysRq). */
const F7 = 0x83;
const SYSRQ = 0x84;

/** What the controller makes of a byte from the keyboard, and the keyboard itself of a key's code in set 1. */
export function translate(code: number): number {
  if (code < TRANSLATION.length) return TRANSLATION[code];
  if (code === F7) return 0x41;
  return code === SYSRQ ? 0x54 : code;
}

/** Set 2 codes, with their release prefixes, as set 1 codes. */
export function translateKeys(codes: readonly number[]): number[] {
  const result: number[] = [];
  let release = 0;
  for (const code of codes) {
    if (code === RELEASE) release = SET_1_RELEASE;
    else {
      result.push(translate(code) | release);
      release = 0;
    }
  }
  return result;
}

/** Set 2 codes of the keys that SysRq combines with, by what is printed on them. */
const KEYS: Readonly<Record<string, number>> = {
  a: 0x1c,
  b: 0x32,
  c: 0x21,
  d: 0x23,
  e: 0x24,
  f: 0x2b,
  g: 0x34,
  h: 0x33,
  i: 0x43,
  j: 0x3b,
  k: 0x42,
  l: 0x4b,
  m: 0x3a,
  n: 0x31,
  o: 0x44,
  p: 0x4d,
  q: 0x15,
  r: 0x2d,
  s: 0x1b,
  t: 0x2c,
  u: 0x3c,
  v: 0x2a,
  w: 0x1d,
  x: 0x22,
  y: 0x35,
  z: 0x1a,
  "0": 0x45,
  "1": 0x16,
  "2": 0x1e,
  "3": 0x26,
  "4": 0x25,
  "5": 0x2e,
  "6": 0x36,
  "7": 0x3d,
  "8": 0x3e,
  "9": 0x46,
  " ": 0x29,
};
const LEFT_ALT = 0x11;

/** The set 2 codes of Alt-SysRq-`key` pressed and let go, or undefined where there is no such key. */
export function sysrqKeys(key: string): number[] | undefined {
  const code = Object.hasOwn(KEYS, key) ? KEYS[key] : undefined;
  if (code === undefined) return undefined;
  return [LEFT_ALT, SYSRQ, code, RELEASE, code, RELEASE, SYSRQ, RELEASE, LEFT_ALT];
}
