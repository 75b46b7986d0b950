/** The value of `--disk`: FILE[,ro][,cow[=FILE]][,format=raw|qcow2][,serial=S]; a comma in a name is written twice. */
import { InvalidArgumentError } from "commander";
import type { DiskOptions } from "../api/index.js";
import { DISK_FORMATS, type DiskFormat } from "../backends/disk/open-disk.js";

const SERIAL_LENGTH = 20;

/** Splits at single commas; `,,` stands for a comma. */
export function splitCommas(text: string): string[] {
  const words = [""];
  for (const part of text.split(/(,,|,)/)) {
    if (part === ",") words.push("");
    else words[words.length - 1] += part === ",," ? "," : part;
  }
  return words;
}

export function parseDisk(text: string): DiskOptions {
  const [file, ...words] = splitCommas(text);
  if (file === "") throw new InvalidArgumentError("No file is named.");
  let disk: DiskOptions = { file };
  const seen = new Set<string>();
  for (const word of words) {
    const equals = word.indexOf("=");
    const key = equals < 0 ? word : word.slice(0, equals);
    const value = equals < 0 ? undefined : word.slice(equals + 1);
    if (seen.has(key)) throw new InvalidArgumentError(`\`${key}\` is said twice.`);
    seen.add(key);
    disk = { ...disk, ...setting(key, value) };
  }
  if (disk.readOnly && disk.cow) throw new InvalidArgumentError("`ro` and `cow` exclude each other.");
  return disk;
}

function setting(key: string, value: string | undefined): Partial<DiskOptions> {
  if (key === "ro" && value === undefined) return { readOnly: true };
  if (key === "cow" && value !== "") return { cow: value === undefined ? true : { file: value } };
  if (key === "format" && isFormat(value)) return { format: value };
  if (key === "serial" && value !== undefined) {
    if (!/^[\x20-\x7e]+$/.test(value) || value.length > SERIAL_LENGTH) {
      throw new InvalidArgumentError(`A serial number has 1 to ${SERIAL_LENGTH} ASCII characters.`);
    }
    return { serial: value };
  }
  throw new InvalidArgumentError(
    `\`${value === undefined ? key : `${key}=${value}`}\` is none of ro, cow, cow=FILE, format=raw, format=qcow2, serial=S.`,
  );
}

function isFormat(value: string | undefined): value is DiskFormat {
  return (DISK_FORMATS as readonly (string | undefined)[]).includes(value);
}
