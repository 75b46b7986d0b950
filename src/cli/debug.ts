/** nlkt debug: look into a running instance, and prod it. */
import { Command } from "commander";
import type { LockState, RunningInstance } from "../api/index.js";
import { parseCpu, parseSysrqKey } from "./arguments.js";
import { addInstanceArguments, forInstances, type InstanceOptions } from "./instance-arguments.js";
import { table } from "./table.js";

const EXAMPLES = `
Without an option it dumps. What is asked for is done in the order above. A dump is taken of each vCPU for
itself, between two instructions; pause the instance first to have all of the same moment.

Examples:
  nlkt debug web --dump
  nlkt debug web --sysrq t        Linux prints its tasks on the console
  nlkt debug web --nmi 0
  nlkt debug web --locks`;

interface DebugOptions extends InstanceOptions {
  dump?: boolean;
  nmi?: number;
  sysrq?: string;
  locks?: boolean;
  json?: boolean;
}

export function debugCommand(finish: (code: number) => void): Command {
  const command = new Command("debug").description(
    "look into an instance: registers, locks; send NMI, SysRq",
  );
  return addInstanceArguments(command, true)
    .option("-s, --sysrq <KEY>", "a break and KEY on the serial console: Linux's magic SysRq", parseSysrqKey)
    .option("-m, --nmi <CPU>", "a non-maskable interrupt to vCPU number CPU", parseCpu)
    .option("-d, --dump", "registers, code bytes and page-table walk of every vCPU")
    .option("--locks", "which of NLKT's own locks are held, by which thread, and who waits")
    .option("--json", "dump and locks as JSON: an object an instance, on a line each")
    .addHelpText("after", EXAMPLES)
    .action(async (name: string | undefined, options: DebugOptions, self: Command) => {
      const asked = [options.sysrq, options.nmi, options.dump, options.locks].some(
        (one) => one !== undefined,
      );
      const wanted = asked ? options : { ...options, dump: true };
      finish((await forInstances(name, options, self, (instance) => debug(instance, wanted))) ? 0 : 1);
    });
}

async function debug(instance: RunningInstance, options: DebugOptions): Promise<void> {
  if (options.sysrq !== undefined) await instance.sysrq(options.sysrq);
  if (options.nmi !== undefined) await instance.nmi(options.nmi);
  const dump = options.dump === true ? await instance.dump() : undefined;
  const locks = options.locks === true ? await instance.locks() : undefined;
  if (dump === undefined && locks === undefined) return;
  if (options.json === true)
    process.stdout.write(`${JSON.stringify({ name: instance.name, dump, locks })}\n`);
  else {
    for (const vcpu of dump ?? []) process.stdout.write(`${vcpu}\n`);
    if (locks !== undefined) process.stdout.write(locksText(locks));
  }
}

function locksText(locks: readonly LockState[]): string {
  if (locks.length === 0) return "no lock is held\n";
  return table(
    ["LOCK", "ADDRESS", "HELD BY", "WAITED FOR BY"],
    locks.map(({ lockClass, address, holder, waiters }) => [
      lockClass,
      `0x${address.toString(16)}`,
      holder ?? "nobody",
      waiters.join(", "),
    ]),
  );
}
