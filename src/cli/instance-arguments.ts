/** How commands name the instances that they are about: NAME, or with the original tool's -n and -a. */
import type { Command } from "commander";
import { instances, type RunningInstance } from "../api/index.js";
import { parseName } from "./arguments.js";
import { say } from "./messages.js";

export interface InstanceOptions {
  name?: string;
  all?: boolean;
}

/** `command` with an argument NAME and the options `-n NAME`, and `-a` where it can be about `all`. */
export function addInstanceArguments(command: Command, all: boolean): Command {
  command.argument("[NAME]", "the instance: `nlkt list` shows them", parseName);
  command.option("-n, --name <NAME>", "the same", parseName);
  return all ? command.option("-a, --all", "all running instances") : command;
}

/** The instances meant; wrong usage ends the command. */
async function namedInstances(
  argument: string | undefined,
  { name, all }: InstanceOptions,
  self: Command,
): Promise<RunningInstance[]> {
  const named = [argument, name].filter((given) => given !== undefined);
  if (named.length + (all === true ? 1 : 0) !== 1) {
    const offersAll = self.options.some((option) => option.long === "--all");
    self.error(`error: name one instance${offersAll ? ", or give --all" : ""}`);
  }
  if (all !== true) return named.map((one) => instances.get(one));
  return (await instances.list()).map((one) => instances.get(one.name));
}

/**
 * Do `work` with each instance meant. Where it fails for one, that is said and the others have their turn. Resolves to whether it
 * went well for all.
 */
export async function forInstances(
  argument: string | undefined,
  options: InstanceOptions,
  self: Command,
  work: (instance: RunningInstance) => Promise<void>,
): Promise<boolean> {
  let well = true;
  for (const instance of await namedInstances(argument, options, self)) {
    try {
      await work(instance);
    } catch (error) {
      well = false;
      say("error", (error as Error).message);
    }
  }
  return well;
}
