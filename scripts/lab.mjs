/**
 * `npm run lab`: install, build, start the KVM lab (lab/machine.mjs) and run the tests of the KVM provider in it.
 * `npm run lab -- WORD...` runs the test files whose path contains a WORD, `npm run lab -- --run COMMAND` a shell command
 * in the project's directory. `--short`: what .ci/run has the time for. Without QEMU it says so in one line and ends with 0.
 */
import { spawnSync } from "node:child_process";
import path from "node:path";
import { build, install, ROOT } from "./lib/prepare.mjs";

const QEMU = "qemu-system-x86_64";

function skipped(why) {
  console.log(`KVM lab skipped: ${why}`);
  process.exit(0);
}

if (process.arch !== "x64" || process.platform !== "linux") skipped("it needs x86-64 Linux");
if (spawnSync(QEMU, ["--version"]).status !== 0) skipped(`no ${QEMU} (Debian's package qemu-system-x86)`);

install();
await build();

const { runInLab } = await import("./lab/machine.mjs");
const boot = path.join(ROOT, "dist/src/boot");
const { fetchInitramfs, fetchKernel } = await import(path.join(boot, "default-guest.js"));

const progress = (text) => console.error(`lab: ${text}`);
try {
  // There is no network in the lab: what its tests boot has to be here.
  await fetchKernel({ suite: "bookworm", package: "linux-image-cloud-amd64" }, progress);
  await fetchInitramfs(progress);
} catch (error) {
  skipped(`no kernel to boot in it: ${error.message}`);
}

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const args = process.argv.slice(2);
const isCommand = args[0] === "--run";
const SHORT = "--short";
const words = args.filter((arg) => arg !== SHORT);
/**
 * What runs in a machine of its own. Long runs on busy hosts have brought QEMU's machine to a halt, its processors busy with nothing, for
 * a reason that is not known: so the guests get one, and the rest another.
 */
const parts = isCommand
  ? [args.slice(1).join(" ")]
  : (words.length > 0 || args.includes(SHORT)
      ? [args]
      : [["guests/"], ["hypervisor/", "lab/", "oracle/"]]
    ).map((part) =>
      [process.execPath, path.join(ROOT, "scripts/lab/tests.mjs"), ...part].map(quote).join(" "),
    );
/** A machine that came to a halt is started once more. */
const ATTEMPTS = isCommand ? 1 : 2;
const SILENT_SECONDS = isCommand ? undefined : 180;
const environment = ["HOME", "PATH", "XDG_CACHE_HOME", "NLKT_FUZZ_CASES", "NLKT_FUZZ_SEED", "NLKT_TEST_KILLS"]
  .filter((name) => process.env[name] !== undefined)
  .map((name) => `export ${name}=${quote(process.env[name])}`);
const started = performance.now();
let failed = 0;
for (const part of parts) {
  let status;
  for (let attempt = 0; attempt < ATTEMPTS && status === undefined; attempt++) {
    const command = [...environment, `cd ${quote(ROOT)}`, part].join("\n");
    status = await runInLab(command, { progress, silentSeconds: SILENT_SECONDS });
    if (status === undefined) progress("it ended before the command did");
  }
  failed ||= status ?? 1;
}
console.log(`lab: ${((performance.now() - started) / 1000).toFixed(0)} s from its start to its end`);
process.exit(failed);
