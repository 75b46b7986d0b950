/** nlkt pause, resume and stop. */
import { Command } from "commander";
import type { RunningInstance } from "../api/index.js";
import { addInstanceArguments, forInstances, type InstanceOptions } from "./instance-arguments.js";

const COMMANDS: Readonly<
  Record<string, { description: string; help: string; work: (instance: RunningInstance) => Promise<void> }>
> = {
  pause: {
    description: "stop an instance's vCPUs, until `nlkt resume`",
    help: "When the command returns, the guest stands still. Its clocks go on.",
    work: (instance) => instance.pause(),
  },
  resume: {
    description: "let a paused instance go on",
    help: "To resume an instance that runs changes nothing.",
    work: (instance) => instance.resume(),
  },
  stop: {
    description: "end an instance at once, as if by pulling the plug",
    help: `The guest is not asked, as with \`lkvm stop\` and Ctrl-a x: what it has not written to its disks is lost. To shut
a guest down, run \`poweroff\` in it. When the command returns, the instance is gone; its
\`nlkt run\` exits with 0.`,
    work: (instance) => instance.stop(),
  },
};

/** `finish` gets the exit code. */
export function lifeCommands(finish: (code: number) => void): Command[] {
  return Object.entries(COMMANDS).map(([name, { description, help, work }]) =>
    addInstanceArguments(new Command(name).description(description), true)
      .addHelpText("after", `\n${help}\n\nExamples:\n  nlkt ${name} web\n  nlkt ${name} --all`)
      .action(async (instance: string | undefined, options: InstanceOptions, self: Command) => {
        finish((await forInstances(instance, options, self, work)) ? 0 : 1);
      }),
  );
}
