/**
 * How the default guest is told what to run, and how it tells the machine what became of it.
 *
 * In: the host appends a second cpio archive to the initramfs (`guestCommandArchive`) with
 *   /nlkt/environment   shell assignments that /init reads: TERM, the size of the terminal
 *   /nlkt/command       a shell script, run instead of the interactive shell
 *
 * Out: when the command has ended, /init writes its status, one byte, to I/O port `GUEST_STATUS_PORT` and powers the machine off. The status is a shell's: the command's own, or 128 + N if signal N ended it. The port is
 * written only by /init, so no output of the command can be mistaken for a status. The machine keeps the last byte
 * written; a machine that ended with none written did not get to the end of its command.
 */
import { CpioArchive } from "./cpio.js";

/**
 * Write only, one byte. In no range that PC hardware decodes, below the PCI window at 0x1000, and clear of
 * NLKT's and QEMU's devices, so that the guest can be tried under either.
 */
export const GUEST_STATUS_PORT = 0x0580;

/** Takes a status as its argument and writes it to the port: guest-status-program.ts. */
export const GUEST_STATUS_PROGRAM = "/nlkt/report-status";
export const GUEST_COMMAND_FILE = "/nlkt/command";
export const GUEST_ENVIRONMENT_FILE = "/nlkt/environment";

export interface GuestCommandOptions {
  /** Program and arguments; without them the guest runs an interactive shell. */
  argv?: readonly string[];
  /** Variables for the shell or command. */
  environment?: Readonly<Record<string, string>>;
  /**
   * The host's terminal, if the console is one. Without it a command's output comes as it is (no CR before LF), and
   * its standard input is empty.
   */
  terminal?: { rows: number; columns: number };
}

const VARIABLE_NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;

/** The archive to append to the default initramfs (`concatArchives`). */
export function guestCommandArchive(options: GuestCommandOptions): Uint8Array {
  const { argv = [], environment = {}, terminal } = options;
  const archive = new CpioArchive();
  const lines = Object.entries(environment)
    .filter(([name]) => VARIABLE_NAME.test(name))
    .map(([name, value]) => `export ${name}=${shellQuote(value)}`);
  if (terminal !== undefined) {
    lines.push(`NLKT_ROWS=${Math.trunc(terminal.rows)}`, `NLKT_COLUMNS=${Math.trunc(terminal.columns)}`);
  }
  archive.file(GUEST_ENVIRONMENT_FILE, lines.map((line) => `${line}\n`).join(""));
  if (argv.length > 0) {
    const command = argv.map(shellQuote).join(" ");
    archive.file(GUEST_COMMAND_FILE, `#!/bin/sh\nexec ${command}\n`, 0o755);
  }
  return archive.toBytes();
}

/** `text` as one word of the POSIX shell (Shell Command Language, 2.2.2). */
export function shellQuote(text: string): string {
  return `'${text.replaceAll("\0", "").replaceAll("'", "'\\''")}'`;
}
