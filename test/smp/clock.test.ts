/** Time-stamp counters and kvmclock across vCPUs, as a guest (test/smp/guest/clock.c). */
import { test } from "node:test";
import { noCompiler } from "./support/program.js";
import { runProgram } from "./support/smp-machine.js";

const rounds = Number(process.env.NLKT_CLOCK_ROUNDS ?? 500);

for (const [tier, cpus] of [
  ["auto", 2],
  ["auto", 4],
  ["hot", 2],
] as const) {
  test(`${tier}, ${cpus} vCPUs: no clock goes back from one vCPU to another`, {
    skip: noCompiler(),
  }, async () => {
    await runProgram({ program: "clock", cpus, tier, rounds, seconds: 100 });
  });
}
