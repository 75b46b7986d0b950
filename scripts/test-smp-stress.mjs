/**
 * `npm run test:smp-stress [-- OPTIONS]`: a Debian guest whose processors are kept busy with each other (processes, futexes,
 * signals, mappings, hotplug ...: test/smp/linux/stress.c), and whose kernel must not complain.
 *
 *   --seconds N        how long (default 600)
 *   --cpus N           vCPUs (default 4)
 *   --kernel NAME      6.1 or 6.12 (default 6.1)
 *   --tier NAME        as `nlkt run --tier`
 */
import { parseArgs } from "node:util";
import { build, install } from "./lib/prepare.mjs";

const SUITES = { 6.1: "bookworm", 6.12: "bookworm-backports" };
/** For the boot, and for jobs that end late. */
const EXTRA_SECONDS = 300;

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "600" },
    cpus: { type: "string", default: "4" },
    kernel: { type: "string", default: "6.1" },
    tier: { type: "string", default: "auto" },
    "no-build": { type: "boolean", default: false },
  },
});
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => process.exit(1));
if (!values["no-build"]) {
  install();
  await build();
}
const { fetchKernel } = await import("../dist/src/boot/default-guest.js");
const { boot } = await import("../dist/test/smp/boot-run.js");
const { STRESS_OK, stressImage } = await import("../dist/test/smp/stress-image.js");

const { vmlinuz } = await fetchKernel({ suite: SUITES[values.kernel] });
const result = await boot({
  kernel: vmlinuz,
  cpus: Number(values.cpus),
  timeoutSeconds: Number(values.seconds) + EXTRA_SECONDS,
  initrd: { file: await stressImage(Number(values.seconds)), prints: STRESS_OK },
  options: ["--tier", values.tier],
  onOutput: (text) => process.stdout.write(text),
});
for (const problem of result.problems) console.error(problem);
console.log(`${result.problems.length === 0 ? "ok" : "FAILED"} after ${result.seconds.toFixed(0)} s`);
process.exit(result.problems.length === 0 ? 0 : 1);
