/**
 * The kernel command line: NLKT's own parameters, then the user's (`-p`), which therefore win.
 *
 * Document: Linux, Documentation/admin-guide/kernel-parameters.txt. Only parameters that every kernel since 4.x knows:
 * Linux complains of others and hands them to /init.
 */

interface Parameter {
  readonly text: string;
  /** Why it is there. Each must be harmless: it may skip work, but hide nothing and disable nothing that a user has. */
  readonly why: string;
}

const DEFAULT_PARAMETERS: readonly Parameter[] = [
  {
    text: "panic=-1",
    why: "a panic resets the machine at once, which ends it, where the default is to hang for ever",
  },
  {
    text: "tsc=reliable",
    why: "the TSC is invariant and in step on all vCPUs, so the kernel need not watch it with another clock",
  },
  {
    text: "no_timer_check",
    why: "the timer interrupt does arrive through the IOAPIC; the test of it waits for ten ticks",
  },
  {
    text: "pci=lastbus=0",
    why: "all buses are found from the host bridge; the search of 255 others for a second one is 16000 port accesses",
  },
  {
    text: "cryptomgr.notests",
    why: "Debian's kernels test their cryptographic code at every boot, which takes a sixth of it",
  },
];

/** What one-shot commands want to see is their output: no kernel messages below an error. */
const QUIET = "quiet";

export interface CommandLineOptions {
  /** The kernel's console, `ttyS0` or `hvc0`; none if left out. */
  console?: string;
  /** Without NLKT's own parameters, the console's excepted (`--nodefaults`). */
  bare?: boolean;
  quiet?: boolean;
  /** The user's, added last. */
  params?: readonly string[];
}

/** Puts the command line together. Its length is checked when the kernel is loaded, which knows its limit. */
export function kernelCommandLine(options: CommandLineOptions): string {
  const words: string[] = [];
  if (options.console !== undefined) words.push(`console=${options.console}`);
  if (!options.bare) words.push(...DEFAULT_PARAMETERS.map(({ text }) => text));
  if (options.quiet) words.push(QUIET);
  words.push(...(options.params ?? []).map((text) => text.trim()).filter((text) => text !== ""));
  return words.join(" ");
}
