/**
 * V8's threads, which compile what the vCPUs run, and the vCPUs share the host's cores. On a small host the compilers, four
 * by default, would take them from the guest, which runs meanwhile on code that is compiled a little worse.
 */
import { readdirSync } from "node:fs";
import { setPriority } from "node:os";

/** Above a thread's usual 0: about a third of its share where cores are short. */
const COMPILER_NICE = 5;

/** Call before Workers are started: all threads but this one are V8's then. Only Linux has priorities of threads (sched(7)). */
export function lowerCompilerPriority(): void {
  if (process.platform !== "linux") return;
  try {
    for (const thread of readdirSync("/proc/self/task"))
      if (Number(thread) !== process.pid) setPriority(Number(thread), COMPILER_NICE);
  } catch {
    // Then they compete.
  }
}
