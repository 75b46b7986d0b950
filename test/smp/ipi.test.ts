/** Interprocessor interrupts on real threads, as a guest (test/smp/guest/ipi.c). */
import { test } from "node:test";
import { noCompiler } from "./support/program.js";
import { runProgram } from "./support/smp-machine.js";

const rounds = Number(process.env.NLKT_IPI_ROUNDS ?? 100);
const XAPIC = 1;

for (const [mode, what, cpus, tier] of [
  ["x2APIC", 0, 2, "auto"],
  ["x2APIC", 0, 4, "auto"],
  ["xAPIC", XAPIC, 4, "auto"],
  ["x2APIC", 0, 8, "cold"],
  ["x2APIC", 0, 2, "hot"],
] as const) {
  const title = `${mode}, ${cpus} vCPUs, ${tier}: IPIs of every kind arrive once, awake and in HLT; time stamps in step`;
  test(title, { skip: noCompiler() }, async () => {
    await runProgram({ program: "ipi", cpus, tier, what, rounds, seconds: 100 });
  });
}
