/** Values of the options that name virtio devices and terminals. */
import { InvalidArgumentError } from "commander";
import {
  type ConsolePortConfig,
  MAX_CID,
  MIN_CID,
  SERIAL_PORTS,
  type VsockConfig,
} from "../machine/config.js";
import { splitCommas } from "./disk-option.js";

const UDS = "uds=";

/** `CID[,uds=PATH]` */
export function parseVsock(text: string): VsockConfig {
  const [cid, ...words] = splitCommas(text);
  const number = /^\d{1,10}$/.test(cid) ? Number(cid) : Number.NaN;
  if (!(number >= MIN_CID && number <= MAX_CID)) {
    throw new InvalidArgumentError(`Not a context ID of a guest: ${MIN_CID} to ${MAX_CID}.`);
  }
  if (words.length === 0) return { cid: number };
  return { cid: number, uds: socketPath(words) };
}

/** `NAME,uds=PATH` */
export function parsePort(text: string): ConsolePortConfig {
  const [name, ...words] = splitCommas(text);
  if (!/^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/.test(name)) {
    throw new InvalidArgumentError("Not a name: letters, digits, `_`, `.` and `-`, at most 64.");
  }
  return { name, uds: socketPath(words) };
}

/** sun_path has 108 bytes, with a zero at the end (Linux, unix(7)); `_` and a port number may follow. */
const MAX_PATH = 96;

function socketPath(words: readonly string[]): string {
  const [word = ""] = words;
  if (words.length !== 1 || !word.startsWith(UDS) || word === UDS) {
    throw new InvalidArgumentError("Behind the comma goes uds=PATH.");
  }
  const path = word.slice(UDS.length);
  if (Buffer.byteLength(path) > MAX_PATH)
    throw new InvalidArgumentError(`A socket's path has ${MAX_PATH} bytes at most.`);
  return path;
}

export function parseTty(text: string): number {
  if (!/^\d$/.test(text) || Number(text) >= SERIAL_PORTS) {
    throw new InvalidArgumentError(`Not a serial port: 0 to ${SERIAL_PORTS - 1}.`);
  }
  return Number(text);
}
