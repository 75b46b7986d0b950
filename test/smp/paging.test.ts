/** Page tables that one vCPU changes and others use, as a guest (test/smp/guest/paging.c); start-up (startup.c). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { noCompiler } from "./support/program.js";
import { runProgram } from "./support/smp-machine.js";

const rounds = Number(process.env.NLKT_PAGING_ROUNDS ?? 300);

for (const [tier, cpus] of [
  ["auto", 4],
  ["cold", 2],
  ["hot", 2],
] as const) {
  test(`${tier}, ${cpus} vCPUs: no old translation after a shootdown, no lost bit`, {
    skip: noCompiler(),
  }, async () => {
    await runProgram({ program: "paging", cpus, tier, rounds, seconds: 100 });
  });
}

test("vCPUs are started and stopped by INIT and start-up IPIs", { skip: noCompiler() }, async () => {
  const { values } = await runProgram({ program: "startup", cpus: 4, started: 1, rounds: 20, seconds: 100 });
  assert.deepEqual(values, [0, 42, 42, 42]);
});
