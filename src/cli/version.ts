/** nlkt version. */
import { readFileSync } from "node:fs";
import { Command } from "commander";

/** From package.json; this file runs as dist/src/cli/version.js. */
export function packageVersion(): string {
  const file = new URL("../../../package.json", import.meta.url);
  return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
}

export function versionCommand(): Command {
  return new Command("version").description("print the version of NLKT and of Node").action(() => {
    process.stdout.write(`nlkt ${packageVersion()} (Node ${process.versions.node})\n`);
  });
}
