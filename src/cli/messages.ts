/** What NLKT says to its user: on standard error, one line each, colours only on a terminal that wants them. */
import type { LogLevel } from "../machine/config.js";

const RED = "\x1b[31m";
const YELLOW = "\x1b[33m";
const DIM = "\x1b[2m";
const RESET = "\x1b[0m";
const ERASE_LINE = "\r\x1b[K";

const COLOURS: Readonly<Record<LogLevel, string>> = { error: RED, warning: YELLOW, info: "", debug: DIM };

/** https://no-color.org: any value but an empty one. */
export function useColour(stream: { isTTY?: boolean }): boolean {
  return stream.isTTY === true && (process.env.NO_COLOR ?? "") === "";
}

let progressShown = false;

function write(text: string): void {
  const erase = progressShown ? ERASE_LINE : "";
  progressShown = false;
  process.stderr.write(`${erase}${text}\n`);
}

/** `nlkt: text`. */
export function say(level: LogLevel, text: string): void {
  const colour = useColour(process.stderr) ? COLOURS[level] : "";
  write(colour === "" ? `nlkt: ${text}` : `${colour}nlkt: ${text}${RESET}`);
}

/** Lines that follow a message, as they are. */
export function sayDetail(text: string): void {
  write(text);
}

const MIB = 2 ** 20;
let lastMessage = "";

/** Progress of something slow: a line that changes in place on a terminal, else a line a step. */
export function showProgress(message: string, done?: number, total?: number): void {
  if (!process.stderr.isTTY) {
    if (message !== lastMessage) write(`nlkt: ${message}`);
    lastMessage = message;
    return;
  }
  const amount =
    done === undefined
      ? ""
      : total === undefined || total === 0
        ? ` ${(done / MIB).toFixed(1)} MiB`
        : ` ${Math.floor((100 * done) / total)}% of ${(total / MIB).toFixed(1)} MiB`;
  process.stderr.write(`${ERASE_LINE}nlkt: ${message}${amount}`);
  progressShown = true;
}

/** Take the progress line away. */
export function endProgress(): void {
  if (progressShown) process.stderr.write(ERASE_LINE);
  progressShown = false;
}
