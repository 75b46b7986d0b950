/** How a machine ended, and the exit status that the command line makes of it (docs: CLI, "Exit codes"). */

export const EndReason = {
  /** ACPI S5, or KVM_SYSTEM_EVENT_SHUTDOWN. */
  POWEROFF: 1,
  /** The guest asked for a reset: ACPI reset register, port 0xCF9, keyboard controller. */
  REBOOT: 2,
  /** Triple fault, emulation failure, kernel panic. */
  CRASH: 3,
  /** A write to the debug exit port. */
  DEBUG_EXIT: 4,
  /** The time allowed ran out. */
  TIMEOUT: 5,
  /** The user or the program ended it. */
  STOPPED: 6,
  /** A fault of NLKT itself, or of the host. */
  FAILURE: 7,
} as const;
export type EndReason = (typeof EndReason)[keyof typeof EndReason];

export type EndName = "poweroff" | "reboot" | "crash" | "debug-exit" | "timeout" | "stopped" | "failure";

const END_NAMES: Readonly<Record<EndReason, EndName>> = {
  [EndReason.POWEROFF]: "poweroff",
  [EndReason.REBOOT]: "reboot",
  [EndReason.CRASH]: "crash",
  [EndReason.DEBUG_EXIT]: "debug-exit",
  [EndReason.TIMEOUT]: "timeout",
  [EndReason.STOPPED]: "stopped",
  [EndReason.FAILURE]: "failure",
};

export function endName(reason: EndReason): EndName {
  return END_NAMES[reason];
}

/** Exit statuses of the command line. */
export const ExitCode = {
  OK: 0,
  FAILED: 1,
  USAGE: 2,
  TIMEOUT: 124,
} as const;

/** What `Machine.wait` resolves to. */
export interface ExitStatus {
  readonly reason: EndName;
  /**
   * 0 for a power-off, reboot or stop, the command's own status where one was run in the guest, (V << 1) | 1 for a
   * debug exit, 124 for a time-out, else 1.
   */
  readonly code: number;
  /** One line; for "crash", "timeout" and "failure". */
  readonly message?: string;
  /** More lines: registers, stack. */
  readonly detail?: string;
}

/** How a machine ended, as its lifecycle holds it. */
export interface End {
  readonly reason: EndReason;
  /** DEBUG_EXIT: the exit status it makes. */
  readonly value?: number;
  /** One line. */
  readonly message?: string;
  readonly detail?: string;
}

export interface EndContext {
  /** Whether the guest was to run a command, and the status it reported, if it did. */
  readonly command: boolean;
  readonly commandStatus: number | undefined;
  /** What the guest's kernel panicked of, if it printed that. */
  readonly panic: string | undefined;
}

/** The status of a machine that ended with `end`. */
export function exitStatus(end: End, { command, commandStatus, panic }: EndContext): ExitStatus {
  const reason = endName(end.reason);
  const text = {
    ...(end.message === undefined ? {} : { message: end.message }),
    ...(end.detail === undefined ? {} : { detail: end.detail }),
  };
  switch (end.reason) {
    case EndReason.POWEROFF:
    case EndReason.REBOOT:
      if (panic !== undefined) {
        return { reason: "crash", code: ExitCode.FAILED, message: `the guest's kernel panicked: ${panic}` };
      }
      if (!command) return { reason, code: ExitCode.OK };
      if (commandStatus !== undefined) return { reason, code: commandStatus };
      return { reason, code: ExitCode.FAILED, message: "the guest ended before its command did" };
    case EndReason.DEBUG_EXIT:
      return { reason, code: end.value ?? ExitCode.FAILED };
    case EndReason.TIMEOUT:
      return { reason, code: ExitCode.TIMEOUT, ...text };
    case EndReason.STOPPED:
      return { reason, code: ExitCode.OK };
    case EndReason.CRASH:
    case EndReason.FAILURE:
      return { reason, code: ExitCode.FAILED, ...text };
  }
}
