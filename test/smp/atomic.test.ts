/** Atomicity of LOCK operations between vCPUs, as a guest (test/smp/guest/atomic.c). */
import { test } from "node:test";
import { noCompiler } from "./support/program.js";
import { runProgram } from "./support/smp-machine.js";

const rounds = Number(process.env.NLKT_ATOMIC_ROUNDS ?? 4000);

for (const [tier, cpus] of [
  ["auto", 4],
  ["auto", 2],
  ["cold", 4],
  ["hot", 4],
] as const) {
  test(`${tier}, ${cpus} vCPUs: no LOCK operation is lost or torn`, { skip: noCompiler() }, async () => {
    await runProgram({ program: "atomic", cpus, tier, rounds, seconds: 100 });
  });
}
