#!/usr/bin/env node
import { existsSync, statSync } from "node:fs";

const inDist = (path) => new URL(`../dist/${path}`, import.meta.url);
const modified = (path) => statSync(inDist(path), { throwIfNoEntry: false })?.mtimeMs ?? -1;

// The same program twice: in a few files, which starts sooner, and as it was compiled, where that is newer.
const BUNDLE = "bundle/nlkt";
const isBundled = modified(`${BUNDLE}/stamp`) >= modified(".tsbuildinfo");
const program = inDist(isBundled ? `${BUNDLE}/program.js` : "src/cli/program.js");

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
