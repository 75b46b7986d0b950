/** Litmus tests of the memory order, as a guest (test/smp/guest/litmus.c). NLKT_LITMUS_ROUNDS: rounds of each. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { noCompiler } from "./support/program.js";
import { runProgram } from "./support/smp-machine.js";

const NAMES = [
  "SB",
  "SB with MFENCE",
  "SB with a locked operation between",
  "SB with XCHG as store",
  "MP",
  "MP with XCHG",
  "LB",
  "S",
  "R",
  "R with MFENCE",
  "2+2W",
  "CoRR",
  "n5",
  "store forwarding",
  "WRC",
  "RWC with MFENCE",
  "IRIW",
  "IRIW with XCHG",
];

const ROUNDS = { auto: 1_000_000, cold: 100_000, hot: 100_000 };

for (const tier of ["auto", "cold", "hot"] as const) {
  const rounds = Number(process.env.NLKT_LITMUS_ROUNDS ?? ROUNDS[tier]);
  test(`${tier}: nothing that x86-TSO forbids`, { skip: noCompiler() }, async (t) => {
    const { result } = await runProgram({ program: "litmus", cpus: 4, tier, rounds, seconds: 1200 });
    NAMES.forEach((name, i) => {
      assert.ok(result(4 * i) >= BigInt(rounds), `${name}: ${result(4 * i)} rounds`);
      assert.equal(result(4 * i + 1), 0n, name);
      if (result(4 * i + 2) > 0n) t.diagnostic(`${name}: a store buffer seen ${result(4 * i + 2)} times`);
    });
  });
}
