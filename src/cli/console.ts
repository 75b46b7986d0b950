/** nlkt console: a second terminal on an instance's console. */
import { once } from "node:events";
import { Command } from "commander";
import { instances } from "../api/index.js";
import { CONSOLE_HELP, CONSOLE_HINT, CONSOLE_KEYS } from "./escape-keys.js";
import { addInstanceArguments, forInstances, type InstanceOptions } from "./instance-arguments.js";
import { say, sayDetail } from "./messages.js";
import { copyConsole, TerminalInput } from "./terminal.js";

const HELP = `
At a terminal, ${CONSOLE_HINT}. The console stays with \`nlkt run\`, too: both
see all output, and both can type. What was printed before is not shown again.

Examples:
  nlkt console web
  echo poweroff | nlkt console web`;

const SIGNALS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;
const SIGNAL_BASE = 128;

export function consoleCommand(finish: (code: number) => void): Command {
  const command = new Command("console").description("attach to an instance's console");
  return addInstanceArguments(command, false)
    .addHelpText("after", HELP)
    .action(async (name: string | undefined, options: InstanceOptions, self: Command) => {
      let code = 0;
      const well = await forInstances(name, options, self, async (instance) => {
        code = await attachTo(instance.name);
      });
      finish(well ? code : 1);
    });
}

/** Resolves to the exit code, when the user detached or the instance ended. */
async function attachTo(name: string): Promise<number> {
  const guest = await instances.get(name).console();
  let code = 0;
  let detached = false;
  const detach = () => {
    detached = true;
    guest.destroy();
  };
  const listeners = Object.entries(SIGNALS).map(([signal, number]) => {
    const listener = () => {
      code = SIGNAL_BASE + number;
      detach();
    };
    process.on(signal, listener);
    return () => process.off(signal, listener);
  });
  if (process.stdin.isTTY) say("info", CONSOLE_HINT);
  const input = new TerminalInput({
    keys: CONSOLE_KEYS,
    onInput: (bytes, done) => {
      if (guest.writable) guest.write(bytes, () => done());
    },
    onAction: (action) => {
      if (action === "detach") detach();
      else for (const line of CONSOLE_HELP) sayDetail(line);
    },
  });
  try {
    const copied = copyConsole(guest, process.stdout);
    const closed = once(guest, "close").catch(() => {});
    // A destroyed stream has no end.
    await Promise.race([copied, closed]);
    input.close();
    if (process.stdin.isTTY) {
      process.stdout.write("\n");
      say("info", detached ? `detached from ${name}` : `${name} has ended`);
    }
    return code;
  } finally {
    input.close();
    guest.destroy();
    for (const remove of listeners) remove();
  }
}
