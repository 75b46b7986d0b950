/** What a kernel's log must not hold after a run with several vCPUs. */

/** What Linux says of a processor, an interrupt or a clock that is not as it should be. */
const COMPLAINTS: readonly RegExp[] = [
  /\bBUG:/,
  /\bWARNING:/,
  /\bOops\b/,
  /Call Trace:/,
  /Kernel panic/,
  /general protection fault/,
  /soft lockup/i,
  /hard lockup/i,
  /rcu.*(detected|stall|expedited|kthread starved)/i,
  /blocked for more than/,
  /workqueue lockup/,
  /nobody cared/,
  /No irq handler for vector/,
  /Clocksource .*(skewed|wobble)|Marking clocksource .* as unstable|Marking TSC unstable/i,
  /TSC synchronization .*(failed|warp)|Measured .* cycles TSC warp/i,
  /APIC error on CPU/,
  /CPU\d+ failed to report alive state|do_boot_cpu failed|Not responding/i,
  /INFO: task/,
  /list_(add|del) corruption/,
  /refcount_t:/,
  /segfault at/,
  /traps: .* trap/,
];

/** The lines that complain. */
export function complaints(log: string): string[] {
  return log.split(/\r?\n/).filter((line) => COMPLAINTS.some((pattern) => pattern.test(line)));
}
