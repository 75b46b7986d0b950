/**
 * `npm run test:userland [-- WORD...]`: programs of a Debian userland in the guest, the quick ones of `npm test` and the
 * longer ones; with WORDs, the groups whose names contain one. NLKT_USERLAND_OPTIONS: more options for `nlkt run`.
 */
import { build, install } from "./lib/prepare.mjs";

/** A group that is not done by then hangs. */
const TIMEOUT_SECONDS = 3600;

install();
await build();

const { GROUPS } = await import("../dist/test/userland/jobs.js");
const { runGroup } = await import("../dist/test/userland/run-group.js");

const words = process.argv.slice(2);
const groups = GROUPS.filter(({ name }) => words.length === 0 || words.some((word) => name.includes(word)));
if (groups.length === 0) {
  console.error(`no such group; there are: ${GROUPS.map(({ name }) => name).join("; ")}`);
  process.exit(2);
}
const options = (process.env.NLKT_USERLAND_OPTIONS ?? "").split(" ").filter(Boolean);
let failed = 0;
for (const group of groups) {
  console.log(`${group.name}:`);
  const started = performance.now();
  const onVerdict = ({ name, seconds, problem }) => {
    console.log(`${problem === undefined ? "  ok  " : "  FAIL"}  ${name}  ${seconds.toFixed(1)} s`);
    if (problem !== undefined) {
      failed++;
      console.log(problem);
    }
  };
  try {
    await runGroup(group, { timeoutSeconds: TIMEOUT_SECONDS, options, onVerdict });
  } catch (error) {
    failed++;
    console.log(`  FAIL  ${error.message}`);
  }
  console.log(`  ${((performance.now() - started) / 1000).toFixed(0)} s in all`);
}
process.exit(failed === 0 ? 0 : 1);
