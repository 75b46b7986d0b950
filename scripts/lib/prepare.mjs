/** What `npm start` and `npm test` do first: install the dependencies and build, each only if it is not done yet. */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, rmSync, statSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const MIN_NODE = 20;

/** Run a command to its end; a failure ends this process with the command's status. */
function must(command, args) {
  const { status, error } = spawnSync(command, args, { cwd: ROOT, stdio: "inherit" });
  if (error !== undefined) {
    console.error(`${command}: ${error.message}`);
    process.exit(1);
  }
  if (status !== 0) process.exit(status ?? 1);
}

function modified(file) {
  const full = path.join(ROOT, file);
  return existsSync(full) ? statSync(full).mtimeMs : -1;
}

/** `npm ci`, where node_modules is missing or older than the lock file. */
export function install() {
  if (Number(process.versions.node.split(".")[0]) < MIN_NODE) {
    console.error(`NLKT needs Node ${MIN_NODE} or newer; this is ${process.versions.node}`);
    process.exit(1);
  }
  // npm writes this file at the end of every installation.
  if (modified("node_modules/.package-lock.json") >= modified("package-lock.json")) return;
  console.error("Installing the dependencies ...");
  // No dependency needs its install script: koffi comes with its binaries.
  must("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
}

/** Compile, and take away what was compiled from files that are gone. The compiler does only what has changed. */
export async function build() {
  must(process.execPath, [path.join(ROOT, "node_modules/typescript/bin/tsc"), "-p", ROOT]);
  for (const top of ["src", "test", "bench"]) prune(top);
  // Not at the top: what it stands on is installed by now, and was not before.
  const { bundle } = await import("./bundle.mjs");
  await bundle(ROOT);
}

function prune(directory) {
  const full = path.join(ROOT, "dist", directory);
  if (!existsSync(full)) return;
  for (const entry of readdirSync(full, { withFileTypes: true })) {
    const inside = path.join(directory, entry.name);
    const source = entry.isDirectory() ? inside : inside.replace(/(\.d\.ts|\.js)(\.map)?$/, ".ts");
    if (!existsSync(path.join(ROOT, source))) rmSync(path.join(ROOT, "dist", inside), { recursive: true });
    else if (entry.isDirectory()) prune(inside);
  }
}

export { ROOT };
