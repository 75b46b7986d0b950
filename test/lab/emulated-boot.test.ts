/**
 * Debian's cloud kernel to its shell on a KVM without hardware virtualization, where KVM's instruction emulator and the software CPU
 * run it by turns (src/hypervisor/kvm/emulation-step.ts).
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { hardwareVirtualization } from "../../src/hypervisor/kvm/host-cpu.js";
import { NLKT } from "../cli/nlkt.js";
import { guestFiles, startGuest } from "../guest/guests.js";
import { noKvm } from "./support.js";

const hardware = hardwareVirtualization();
const skip =
  noKvm !== false
    ? noKvm
    : hardware !== undefined && `the CPU has ${hardware}: KVM runs the guest's kernel on it`;

/** The command's status, which NLKT ends with. */
const STATUS = 67;
const SCRIPT = `
echo "tick $(awk '/LOC:/ { print $2 }' /proc/interrupts)"
i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; echo "counted $i"
dmesg | grep "Hypervisor detected"
read line; exit ${STATUS}
`;

test("Debian's kernel reaches its shell", { skip }, async (t) => {
  const files = await guestFiles();
  if (typeof files === "string") return t.skip(files);
  const name = `test-emulated-${process.pid}`;
  const from = performance.now();
  const child = startGuest([
    ...["--accel", "kvm", "--name", name, "-m", "256", "-p", "quiet", "-k", files.kernel],
    ...["--", "sh", "-c", SCRIPT],
  ]);
  t.after(() => child.kill());
  let stdout = "";
  const ended = new Promise((resolve) => child.on("close", resolve));
  await new Promise<void>((resolve, reject) => {
    child.on("close", () => reject(new Error(`it ended: ${stdout}`)));
    child.stdout!.on("data", (chunk: Buffer) => {
      stdout += chunk.toString("latin1");
      if (stdout.includes("Hypervisor detected: KVM")) resolve();
    });
  });
  t.diagnostic(`the shell after ${((performance.now() - from) / 1000).toFixed(1)} s`);
  assert.match(stdout, /^tick [1-9]/m);
  assert.match(stdout, /^counted 2000/m);
  const stat = spawnSync(process.execPath, [NLKT, "stat", name, "--json"], { encoding: "utf8" });
  const { vcpus } = JSON.parse(stat.stdout) as { vcpus: { counters: Record<string, number> }[] };
  const { emulationSteps, emulationBatches } = vcpus[0].counters;
  t.diagnostic(`${emulationSteps} steps and ${emulationBatches} batches of the software CPU`);
  assert.ok(emulationBatches > 0, stat.stdout);
  child.stdin!.write("\n");
  assert.equal(await ended, STATUS);
});
