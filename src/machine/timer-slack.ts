/** How late the host may wake a thread from a sleep with a deadline. */
import { readlinkSync, writeFileSync } from "node:fs";
import path from "node:path";

/**
 * Have the host wake this thread as soon as its deadlines come. Linux lets threads sleep 50 µs longer, to wake several at once
 * (prctl(2), PR_SET_TIMERSLACK); that would be half of what a timer's interrupt may be late.
 */
export function wakePunctually(): void {
  try {
    // "PID/task/TID". A thread's own directory has no such file, but /proc/TID is there too (proc(5)).
    const thread = path.basename(readlinkSync("/proc/thread-self"));
    writeFileSync(`/proc/${thread}/timerslack_ns`, "1");
  } catch {
    // Before Linux 4.6, or without /proc: a little late.
  }
}
