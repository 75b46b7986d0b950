/** Values of options, checked. Throws commander's `InvalidArgumentError`, which names the option and exits 2. */
import { InvalidArgumentError } from "commander";
import { isInstanceName, NAME_SYNTAX } from "../machine/control/instance-name.js";
import { isSysrqKey } from "../machine/control/protocol.js";

const UNIT: Readonly<Record<string, number>> = { "": 2 ** 20, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };

/** `512` (MiB), `64M`, `2G`, `65536K`: bytes. */
export function parseSize(text: string): number {
  const match = /^(\d{1,9})([KMG]?)$/i.exec(text);
  if (match === null) throw new InvalidArgumentError("Not a size in MiB, or with a suffix K, M or G.");
  return Number(match[1]) * UNIT[match[2].toUpperCase()];
}

export function parseCount(text: string): number {
  if (!/^\d{1,6}$/.test(text) || Number(text) === 0)
    throw new InvalidArgumentError("Not a whole number from 1.");
  return Number(text);
}

/** Some 23 days: the timers of Node end at 2^31 ms. */
const MAX_SECONDS = 2_000_000;

export function parseSeconds(text: string): number {
  const seconds = /^\d{1,9}(\.\d{1,9})?$/.test(text) ? Number(text) : Number.NaN;
  if (!(seconds > 0 && seconds <= MAX_SECONDS)) {
    throw new InvalidArgumentError(`Not a number of seconds up to ${MAX_SECONDS}.`);
  }
  return seconds;
}

export function parseName(text: string): string {
  if (!isInstanceName(text)) throw new InvalidArgumentError(`Not a name: ${NAME_SYNTAX}.`);
  return text;
}

export function parseCpu(text: string): number {
  if (!/^\d{1,5}$/.test(text)) throw new InvalidArgumentError("Not the number of a vCPU.");
  return Number(text);
}

export function parseMiB(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError("Not a whole number of MiB.");
  return Number(text);
}

export function parseSysrqKey(text: string): string {
  if (!isSysrqKey(text)) throw new InvalidArgumentError("Not one letter or digit.");
  return text;
}
