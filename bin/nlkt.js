#!/usr/bin/env node
import { existsSync } from "node:fs";

const program = new URL("../dist/src/cli/program.js", import.meta.url);

if (existsSync(program)) {
  const { main } = await import(program.href);
  // Messages that nobody can read any more are no reason to end a machine.
  process.stderr.on("error", () => {});
  process.on("uncaughtException", (error) => {
    process.stderr.write(`nlkt: internal error: ${error.stack}\n`);
    process.exit(1);
  });
  process.exit(await main(process.argv.slice(2)));
} else {
  process.stderr.write("nlkt: not built yet: run `npm start` or `npm run build` in the checkout first\n");
  process.exit(1);
}
