/** Breakpoints of the guest, and of the host by way of the seam, on several vCPUs (test/smp/guest/breakpoints.c). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { GuestDebug } from "../../src/hypervisor/seam.js";
import { type GuestMemory, gpa } from "../../src/memory/guest-memory.js";
import { noCompiler } from "./support/program.js";
import { type DuringRun, RESULTS, runProgram } from "./support/smp-machine.js";

const rounds = Number(process.env.NLKT_BREAKPOINT_ROUNDS ?? 100);
const skip = noCompiler();

for (const [tier, cpus] of [
  ["auto", 4],
  ["cold", 2],
  ["hot", 2],
] as const) {
  const title = `${tier}, ${cpus} vCPUs: debug registers are a vCPU's own; INT3 written by another is met`;
  test(title, { skip }, async () => {
    await runProgram({ program: "breakpoints", cpus, tier, rounds, seconds: 100 });
  });
}

const HOST_DEBUGS = 1;
const CPUS = 3;
const NOP = 0x90;
const INT3 = 0xcc;
const VISITS = 50n;
const OFF: GuestDebug = { enable: false, singleStep: false, useSoftwareBreakpoints: false };

/** The program's words for the host. */
const word = (memory: GuestMemory, index: number) => memory.readU64(gpa(RESULTS + 8 * index));
const spot = (memory: GuestMemory) => Number(word(memory, 16));
const slots = (memory: GuestMemory) => word(memory, 17);

/** Until each vCPU has gone round some times more. */
async function visits(memory: GuestMemory): Promise<void> {
  const before = Array.from({ length: CPUS }, (_, id) => word(memory, id));
  while (before.some((count, id) => word(memory, id) < count + VISITS)) await sleep(5);
}

function debugged(tier: "auto" | "cold" | "hot", during: DuringRun) {
  return runProgram({
    program: "breakpoints",
    cpus: CPUS,
    tier,
    what: HOST_DEBUGS,
    seconds: 100,
    async during(vm, memory) {
      await visits(memory);
      await during(vm, memory);
      for (let id = 0; id < CPUS; id++) vm.vcpu(id).setGuestDebug(OFF);
      await visits(memory);
      memory.writeU64(gpa(RESULTS + 8 * 18), 1n);
    },
  });
}

for (const tier of ["auto", "hot"] as const) {
  test(`${tier}: INT3 written by the host is an exit of whichever vCPU comes there`, { skip }, async () => {
    const { debugExits } = await debugged(tier, async (vm, memory) => {
      for (let id = 0; id < CPUS; id++)
        vm.vcpu(id).setGuestDebug({ enable: true, singleStep: false, useSoftwareBreakpoints: true });
      memory.write(gpa(spot(memory)), Uint8Array.of(INT3));
      await visits(memory);
      memory.write(gpa(spot(memory)), Uint8Array.of(NOP));
    });
    for (const exits of debugExits) {
      assert.ok(exits.length > 0);
      for (const { exception } of exits) assert.equal(exception, 3);
    }
  });

  test(`${tier}: the host's hardware breakpoints are those of the vCPU that they were set on`, {
    skip,
  }, async () => {
    let code = 0n;
    let data = 0n;
    const { debugExits } = await debugged(tier, async (vm, memory) => {
      code = BigInt(spot(memory));
      data = slots(memory) + 16n;
      const watch = (dr7: bigint): GuestDebug => ({
        enable: true,
        singleStep: false,
        useSoftwareBreakpoints: false,
        hardware: { addresses: [code, data, 0n, 0n], dr7 },
      });
      // L0: execution. L1: writes of 8 bytes (SDM vol. 3B, 18.2.4).
      vm.vcpu(1).setGuestDebug(watch(1n));
      vm.vcpu(2).setGuestDebug(watch(4n | (1n << 20n) | (2n << 22n)));
      await visits(memory);
    });
    assert.equal(debugExits[0].length, 0);
    assert.ok(debugExits[1].length > 0);
    for (const { exception, pc, dr6 } of debugExits[1])
      assert.deepEqual([exception, pc, dr6 & 0xfn], [1, code, 1n]);
    assert.ok(debugExits[2].length > 0);
    for (const { exception, dr6 } of debugExits[2]) assert.deepEqual([exception, dr6 & 0xfn], [1, 2n]);
  });
}
