/** Messages about the machine, from any of its threads. */
import { writeSync } from "node:fs";
import { LOG_LEVELS, type LogLevel } from "./config.js";

/** Told of what happens in the machine; one line, no newline. */
export type LogSink = (level: LogLevel, text: string) => void;

export function levelIncludes(limit: LogLevel, level: LogLevel): boolean {
  return LOG_LEVELS.indexOf(level) <= LOG_LEVELS.indexOf(limit);
}

const STDERR = 2;
const RETRY_MILLISECONDS = 5;
const sleeper = new Int32Array(new SharedArrayBuffer(4));

/**
 * Write a line to standard error now, from any thread. A Worker's own `process.stderr` hands its bytes to the main
 * thread when the Worker next idles, which a vCPU never does.
 */
export function traceLine(text: string): void {
  let rest = Buffer.from(`${text}\n`);
  while (rest.length > 0) {
    try {
      rest = rest.subarray(writeSync(STDERR, rest));
    } catch (error) {
      // A pipe or terminal in non-blocking mode that is full: wait for its reader. Where nobody reads, drop the line.
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") return;
      Atomics.wait(sleeper, 0, 0, RETRY_MILLISECONDS);
    }
  }
}
