/** nlkt balloon: have a guest do without a part of its memory, and give it back. */
import { Command } from "commander";
import { parseMiB } from "./arguments.js";
import { addInstanceArguments, forInstances, type InstanceOptions } from "./instance-arguments.js";

const EXAMPLES = `
The instance needs a balloon: \`nlkt run --balloon\`. Its guest takes its time, and may not follow; \`nlkt stat -m\`
shows how far it got.

Examples:
  nlkt balloon web --inflate 128
  nlkt balloon web --deflate 64`;

interface BalloonOptions extends InstanceOptions {
  inflate?: number;
  deflate?: number;
}

export function balloonCommand(finish: (code: number) => void): Command {
  const command = new Command("balloon").description("take memory from a guest, or give it back");
  return addInstanceArguments(command, false)
    .option("-i, --inflate <MiB>", "have the guest do without so much more", parseMiB)
    .option("-d, --deflate <MiB>", "give so much back", parseMiB)
    .addHelpText("after", EXAMPLES)
    .action(async (name: string | undefined, options: BalloonOptions, self: Command) => {
      const { inflate, deflate } = options;
      if ((inflate === undefined) === (deflate === undefined)) {
        self.error("error: give one of --inflate and --deflate");
      }
      const change = inflate ?? -deflate!;
      finish(
        (await forInstances(name, options, self, (instance) => instance.inflateBalloon(change))) ? 0 : 1,
      );
    });
}
