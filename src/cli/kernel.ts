/** nlkt kernel list, pull and rm: the cached kernels of the default guest. */
import { Command } from "commander";
import {
  type CachedKernel,
  DEFAULT_KERNEL_PACKAGE,
  fetchInitramfs,
  fetchKernel,
  listKernels,
  removeKernel,
} from "../boot/default-guest.js";
import { endProgress, showProgress } from "./messages.js";

const EXAMPLES = `
Examples:
  nlkt kernel pull
  nlkt kernel pull linux-image-amd64 --suite bookworm-backports
  nlkt kernel list --json
  nlkt kernel rm linux-image-amd64`;

export function kernelCommand(): Command {
  const command = new Command("kernel")
    .description("the cached kernels of the default guest")
    .addHelpText("after", EXAMPLES);
  command
    .command("list")
    .description("list the cached kernels")
    .option("--json", "as JSON")
    .action(async ({ json }: { json?: boolean }) => {
      const kernels = await listKernels();
      process.stdout.write(json ? `${JSON.stringify(kernels, null, 2)}\n` : table(kernels));
    });
  command
    .command("pull")
    .description("fetch a kernel of Debian, and the default initramfs")
    .argument("[PACKAGE]", "the kernel's package", DEFAULT_KERNEL_PACKAGE)
    .option("--suite <NAME>", "the Debian release, such as bookworm or bookworm-backports")
    .action(async (name: string, { suite }: { suite?: string }) => {
      const request = { package: name, ...(suite === undefined ? {} : { suite }) };
      const kernel = await fetchKernel(request, showProgress);
      await fetchInitramfs(showProgress);
      endProgress();
      process.stdout.write(`${kernel.vmlinuz}\n`);
    });
  command
    .command("rm")
    .description("remove a kernel from the cache")
    .argument("[PACKAGE]", "the kernel's package")
    .option("--suite <NAME>", "only of this Debian release")
    .option("--all", "remove all")
    .action(async (name: string | undefined, options: { suite?: string; all?: boolean }, self: Command) => {
      if ((name === undefined) !== (options.all === true)) self.error("error: name a PACKAGE, or give --all");
      const found = (await listKernels()).filter(
        (kernel) =>
          (name === undefined || kernel.package === name || kernel.image === name) &&
          (options.suite === undefined || kernel.suite === options.suite),
      );
      if (name !== undefined && found.length === 0) throw new Error(`no kernel ${name} in the cache`);
      for (const kernel of found) await removeKernel(kernel);
    });
  return command;
}

function table(kernels: readonly CachedKernel[]): string {
  const rows = kernels.map((kernel) => [kernel.package, kernel.suite, kernel.release, kernel.vmlinuz]);
  const all = [["PACKAGE", "SUITE", "RELEASE", "FILE"], ...rows];
  const widths = all[0].map((_, column) => Math.max(...all.map((row) => row[column].length)));
  return all
    .map(
      (row) =>
        `${row
          .map((cell, column) => cell.padEnd(widths[column]))
          .join("  ")
          .trimEnd()}\n`,
    )
    .join("");
}
