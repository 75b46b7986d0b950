/** Code that one vCPU changes and others run, as a guest (test/smp/guest/code.c). */
import { test } from "node:test";
import { noCompiler } from "./support/program.js";
import { runProgram } from "./support/smp-machine.js";

const rounds = Number(process.env.NLKT_CODE_ROUNDS ?? 300);

for (const [tier, cpus] of [
  ["auto", 4],
  ["auto", 2],
  ["cold", 2],
  ["hot", 2],
  ["hot", 4],
] as const) {
  test(`${tier}, ${cpus} vCPUs: changed code is the code that runs`, { skip: noCompiler() }, async () => {
    await runProgram({ program: "code", cpus, tier, rounds, seconds: 100 });
  });
}
