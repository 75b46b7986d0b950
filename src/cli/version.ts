/** nlkt version. */
import { readFileSync } from "node:fs";
import { Command } from "commander";
import { chooseAccel } from "../machine/accel.js";
import { DEFAULT_KVM_DEVICE } from "../machine/config.js";

/** From package.json; this file runs as dist/src/cli/version.js. */
export function packageVersion(): string {
  const file = new URL("../../../package.json", import.meta.url);
  return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
}

export function versionCommand(): Command {
  return new Command("version")
    .description("print the versions of NLKT and Node, and what would run a guest here")
    .option("--dev <FILE>", "KVM's device node", DEFAULT_KVM_DEVICE)
    .action(async ({ dev }: { dev: string }) => {
      const { accel, why } = await chooseAccel(dev);
      process.stdout.write(
        `nlkt ${packageVersion()} (Node ${process.versions.node})\n--accel auto takes ${accel}: ${why}\n`,
      );
    });
}
