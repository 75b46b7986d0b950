/** A machine connected to the terminal, from its start to its end. */
import type { ExitStatus, Machine } from "../api/index.js";
import { ESCAPE_HELP, RUN_KEYS } from "./escape-keys.js";
import { say, sayDetail } from "./messages.js";
import { copyConsole, TerminalInput } from "./terminal.js";

/** Signals that end the machine, and NLKT with 128 + their number (POSIX <signal.h>). */
const SIGNALS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;
const SIGNAL_BASE = 128;

const LINE_FEED = 0x0a;

/** How long the last output may take to be read where somebody wants the machine to end now. */
const FLUSH_MILLISECONDS = 1000;

/** Start `machine` and see it through; resolves to the exit code. `debug`: show what is behind failures. */
export async function attach(machine: Machine, debug: boolean): Promise<number> {
  let signalled: number | undefined;
  const listeners = Object.entries(SIGNALS).map(([name, number]) => {
    const listener = () => {
      signalled ??= SIGNAL_BASE + number;
      void machine.stop();
    };
    process.on(name, listener);
    return () => process.off(name, listener);
  });
  const input = new TerminalInput({
    keys: RUN_KEYS,
    onInput: (bytes, done) => machine.console.write(bytes, done),
    onAction: (action) => {
      if (action === "quit") void machine.stop();
      else for (const line of ESCAPE_HELP) sayDetail(line);
    },
  });
  const resized = () => {
    const { columns, rows } = process.stdout;
    if (columns !== undefined && rows !== undefined) machine.resize({ columns, rows });
  };
  process.stdout.on("resize", resized);
  let column = 0;
  machine.console.on("data", (chunk: Buffer) => {
    column = chunk.at(-1) === LINE_FEED ? 0 : 1;
  });
  const copied = copyConsole(machine.console, process.stdout);
  try {
    await machine.start();
    const status = await machine.wait();
    const hurry = status.reason === "stopped" || status.reason === "timeout";
    await (hurry ? Promise.race([copied, delay(FLUSH_MILLISECONDS)]) : copied);
    input.close();
    // What comes next at a terminal starts on a line of its own.
    if (process.stdout.isTTY && column > 0) process.stdout.write("\n");
    report(status, debug);
    return signalled ?? status.code & 0xff;
  } finally {
    input.close();
    process.stdout.off("resize", resized);
    for (const remove of listeners) remove();
  }
}

function report({ reason, message, detail }: ExitStatus, debug: boolean): void {
  if (message === undefined) return;
  say("error", message);
  if (detail !== undefined && (reason === "crash" || debug)) sayDetail(detail);
}

function delay(milliseconds: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, milliseconds).unref();
  });
}
