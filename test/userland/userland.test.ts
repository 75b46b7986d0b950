/**
 * Programs of a Debian userland give in the guest what they give on the host's own CPU. The longer ones are in
 * scripts/test-userland.mjs.
 */
import assert from "node:assert/strict";
import { before, test } from "node:test";
import { fetchKernel } from "../../src/boot/default-guest.js";
import { builtPrograms } from "./builds.js";
import { runOnHost } from "./host-run.js";
import { GROUPS } from "./jobs.js";
import { rootTree } from "./root-tree.js";
import { runGroup } from "./run-group.js";
import { USERLANDS } from "./userlands.js";

/** Many times what it takes on a slow host. */
const TIMEOUT_SECONDS = 540;

/** NLKT_TEST_TIER: `--tier` of all guests. */
const { NLKT_TEST_TIER: tier } = process.env;
const options = tier === undefined ? [] : ["--tier", tier];

let missing: string | undefined;

before(async () => {
  try {
    await fetchKernel();
    const { root } = await rootTree(USERLANDS.tools);
    await runOnHost([], root);
  } catch (error) {
    missing = (error as Error).message.split("\n")[0];
  }
});

for (const group of GROUPS.filter(({ quick }) => quick)) {
  test(group.name, async (t) => {
    if (missing !== undefined) return t.skip(missing);
    try {
      await rootTree(USERLANDS[group.userland]);
      await builtPrograms(group.builds ?? []);
    } catch (error) {
      return t.skip((error as Error).message.split("\n")[0]);
    }
    const verdicts = await runGroup(group, { timeoutSeconds: TIMEOUT_SECONDS, options });
    const wrong = verdicts.filter(({ problem }) => problem !== undefined);
    assert.deepEqual(wrong, []);
  });
}
