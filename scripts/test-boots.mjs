/**
 * `npm run test:boots [-- OPTIONS]`: boots Debian's kernels with several vCPUs again and again and looks for hangs, stall
 * warnings and whatever else the kernel complains about. The log of a boot that went wrong is kept.
 *
 *   --times N          boots of each kind (default 50)
 *   --cpus 1,2,4,8     numbers of vCPUs
 *   --kernels NAMES    of 6.1-cloud, 6.1-generic, 6.12-cloud, 6.12-generic (default: all)
 *   --tier NAME        as `nlkt run --tier`
 *   --seconds N        start no further boot after so long
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { build, install } from "./lib/prepare.mjs";

const KERNELS = {
  "6.1-cloud": { suite: "bookworm", package: "linux-image-cloud-amd64" },
  "6.1-generic": { suite: "bookworm", package: "linux-image-amd64" },
  "6.12-cloud": { suite: "bookworm-backports", package: "linux-image-cloud-amd64" },
  "6.12-generic": { suite: "bookworm-backports", package: "linux-image-amd64" },
};
/** A boot that is not done by then hangs. */
const TIMEOUT_SECONDS = 300;

const { values } = parseArgs({
  options: {
    times: { type: "string", default: "50" },
    cpus: { type: "string", default: "1,2,4,8" },
    kernels: { type: "string", default: Object.keys(KERNELS).join() },
    tier: { type: "string", default: "auto" },
    seconds: { type: "string", default: "Infinity" },
    "no-build": { type: "boolean", default: false },
  },
});
if (!values["no-build"]) {
  install();
  await build();
}
const { fetchKernel } = await import("../dist/src/boot/default-guest.js");
const { boot, checkCommand } = await import("../dist/test/smp/boot-run.js");

// The guest goes with this process.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => process.exit(1));

const directory = path.join(tmpdir(), `nlkt-boots-${process.pid}`);
const deadline = performance.now() + Number(values.seconds) * 1000;
let boots = 0;
let failed = 0;
for (let turn = 1; turn <= Number(values.times); turn++) {
  for (const name of values.kernels.split(",")) {
    const { vmlinuz } = await fetchKernel(KERNELS[name]);
    for (const cpus of values.cpus.split(",").map(Number)) {
      if (performance.now() > deadline) break;
      // The whole log: what leads to a complaint is told at other levels.
      const options = ["--tier", values.tier, "-p", "loglevel=7"];
      const result = await boot({
        kernel: vmlinuz,
        cpus,
        timeoutSeconds: TIMEOUT_SECONDS,
        command: checkCommand(cpus),
        options,
      });
      boots++;
      const good = result.problems.length === 0;
      console.log(
        `${good ? "ok  " : "FAIL"}  ${name} -c ${cpus}, boot ${turn}  ${result.seconds.toFixed(1)} s`,
      );
      if (good) continue;
      failed++;
      mkdirSync(directory, { recursive: true });
      const file = path.join(directory, `${name}-c${cpus}-${turn}.log`);
      writeFileSync(file, result.log);
      for (const problem of result.problems.slice(0, 10)) console.log(`      ${problem}`);
      console.log(`      the whole log: ${file}`);
    }
  }
}
console.log(`${boots} boots, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
