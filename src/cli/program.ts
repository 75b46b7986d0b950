/** The command line as a whole: which commands there are, and what becomes of errors. */
import { Command, CommanderError } from "commander";
import { ExitCode } from "../machine/exit-status.js";
import { balloonCommand } from "./balloon.js";
import { consoleCommand } from "./console.js";
import { debugCommand } from "./debug.js";
import { imageCommand } from "./image.js";
import { kernelCommand } from "./kernel.js";
import { lifeCommands } from "./life-commands.js";
import { listCommand } from "./list.js";
import { endProgress, say } from "./messages.js";
import { runCommand } from "./run.js";
import { statCommand } from "./stat.js";
import { packageVersion, versionCommand } from "./version.js";

const DESCRIPTION = "Boots a Linux kernel in a virtual machine, with one command.";

const EXAMPLES = `
Examples:
  nlkt run                        the default guest, with a shell
  nlkt run -- uname -a            one command in the default guest
  nlkt run -k bzImage -i initrd.gz -m 1G -p "panic=-1"
  nlkt run --help                 all options of a command`;

/** Run the command line `args` (without node and script). Resolves to the exit code. */
export async function main(args: readonly string[]): Promise<number> {
  // Commander takes a `--` away: what follows is the guest's command and stays as it is.
  const split = args.indexOf("--");
  const own = split < 0 ? args : args.slice(0, split);
  const guestCommand = split < 0 ? undefined : args.slice(split + 1);
  let code: number = ExitCode.OK;
  const program = new Command("nlkt")
    .description(DESCRIPTION)
    .version(packageVersion(), "-V, --version", "print the version")
    .helpCommand("help [command]", "help for a command")
    .addHelpText("after", EXAMPLES)
    .configureHelp({ showGlobalOptions: false })
    .exitOverride();
  const finish = (status: number) => {
    code = status;
  };
  program.addCommand(runCommand(guestCommand, finish));
  program.addCommand(listCommand());
  program.addCommand(statCommand(finish));
  for (const command of lifeCommands(finish)) program.addCommand(command);
  program.addCommand(balloonCommand(finish));
  program.addCommand(debugCommand(finish));
  program.addCommand(consoleCommand(finish));
  program.addCommand(imageCommand(finish));
  program.addCommand(kernelCommand());
  program.addCommand(versionCommand());
  for (const command of allCommands(program)) {
    command
      .exitOverride()
      .showHelpAfterError("(--help shows the options)")
      .configureOutput({
        outputError: (text, write) => write(text.replace(/^error: /, "nlkt: ")),
      });
  }
  try {
    if (guestCommand !== undefined && own[0] !== "run") {
      program.error("error: only `nlkt run` takes a command after `--`");
    }
    if (own.length === 0) program.help({ error: true });
    // Commander's own answer is the list of commands and no word of what is wrong.
    const asked = own[0] === "help" ? own[1] : undefined;
    if (
      asked !== undefined &&
      /^[a-z]/.test(asked) &&
      asked !== "help" &&
      !program.commands.some((command) => command.name() === asked)
    ) {
      program.error(`error: unknown command '${asked}'`);
    }
    await program.parseAsync(own, { from: "user" });
  } catch (error) {
    endProgress();
    if (error instanceof CommanderError) return error.exitCode === 0 ? ExitCode.OK : ExitCode.USAGE;
    say("error", (error as Error).message);
    if (process.env.NLKT_DEBUG === "1") process.stderr.write(`${(error as Error).stack}\n`);
    return ExitCode.FAILED;
  }
  return code;
}

function allCommands(command: Command): Command[] {
  return [command, ...command.commands.flatMap(allCommands)];
}
