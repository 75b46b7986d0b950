/**
 * `npm start`: from a fresh checkout to a shell in the default guest. Without a terminal, one command runs in the guest.
 * Arguments after `npm start --` are options of `nlkt run`.
 */
import { build, install } from "./lib/prepare.mjs";

install();
await build();

const GREETING = "echo 'Hello from a virtual machine.'; uname -a";
const options = process.argv.slice(2);
const args = process.stdin.isTTY ? ["run", ...options] : ["run", ...options, "--", "sh", "-c", GREETING];

const { main } = await import("../dist/src/cli/program.js");
process.exit(await main(args));
