/** A machine with several vCPUs: what `-c` refuses, what Linux sees, pause, stop, reboot, panic and triple fault on any of them. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Machine } from "../../src/api/index.js";
import { fetchDefaultGuest } from "../../src/boot/default-guest.js";
import { checkConfig, defaultConfig } from "../../src/machine/config.js";
import { multibootKernel } from "../machine/multiboot-kernel.js";

const TIMEOUT_SECONDS = 300;
const CPUS = 4;

const soft = (cpus: number) => ({ ...defaultConfig(), accel: "soft" as const, cpus });

test("the software CPU takes 1 to 8 vCPUs", () => {
  for (const cpus of [1, 2, 8]) checkConfig(soft(cpus), "x64");
  assert.throws(
    () => checkConfig(soft(9), "x64"),
    /^ConfigError: --cpus: 9 is too many: the software CPU runs at most 8$/,
  );
  assert.throws(() => checkConfig(soft(0), "x64"), /--cpus: 0 is no number of vCPUs/);
});

test("a host of another memory order runs one vCPU, and says so", () => {
  checkConfig(soft(1), "arm64");
  assert.throws(
    () => checkConfig(soft(2), "arm64"),
    /^ConfigError: --cpus: 2 vCPUs of the software CPU need a host with the memory order of x86, not arm64$/,
  );
});

let missing: string | undefined;
before(async () => {
  try {
    await fetchDefaultGuest();
  } catch (error) {
    missing = `no default guest: ${(error as Error).message}`;
  }
});

async function machine(command: string) {
  const made = await Machine.create({
    accel: "soft",
    cpus: CPUS,
    timeoutSeconds: TIMEOUT_SECONDS,
    command: ["sh", "-c", command],
  });
  let text = "";
  made.console.on("data", (chunk: Uint8Array) => {
    text += Buffer.from(chunk).toString("latin1");
  });
  return {
    made,
    text: () => text,
    async printed(what: string): Promise<void> {
      while (!text.includes(what)) {
        assert.ok((await Promise.race([made.wait().then(() => "ended"), sleep(50, "")])) === "", text);
      }
    },
  };
}

test("Linux finds all processors, in one package, with time-stamp counters that it trusts", async (t) => {
  if (missing !== undefined) return t.skip(missing);
  const { made, text } = await machine(
    "nproc; cat /sys/devices/system/cpu/online; cat /sys/devices/system/clocksource/*/current_clocksource; " +
      "cat /sys/devices/system/cpu/cpu*/topology/core_id; cat /sys/devices/system/cpu/cpu3/topology/physical_package_id",
  );
  await made.start();
  const { code } = await made.wait();
  assert.equal(code, 0);
  assert.deepEqual(text().trim().split(/\s+/), ["4", "0-3", "tsc", "0", "1", "2", "3", "0"]);
});

const BUSY = "for i in 0 1 2 3 4; do while :; do :; done & done; while :; do echo .; usleep 20000; done";

test("pause stands all busy vCPUs still, and they go on after it; stop ends them", async (t) => {
  if (missing !== undefined) return t.skip(missing);
  const { made, text, printed } = await machine(BUSY);
  await made.start();
  await printed("...".replaceAll(".", ".\n"));
  await made.pause();
  // What was on its way to the console when they stopped.
  await sleep(300);
  const before = text();
  await sleep(500);
  assert.equal(text(), before);
  await made.resume();
  while (text().length < before.length + 20) await sleep(50);
  assert.equal((await made.stop()).reason, "stopped");
});

test("the guest powers off and reboots from any of its processors", async (t) => {
  if (missing !== undefined) return t.skip(missing);
  for (const [command, reason] of [
    ["taskset 4 poweroff -f", "poweroff"],
    ["taskset 8 reboot -f", "reboot"],
  ] as const) {
    const { made } = await machine(command);
    await made.start();
    assert.equal((await made.wait()).reason, reason);
  }
});

test("a kernel that panics on a processor that is not the first ends as one that panics on the first", async (t) => {
  if (missing !== undefined) return t.skip(missing);
  const { made } = await machine(
    "echo 1 >/proc/sys/kernel/sysrq; taskset 4 sh -c 'echo c >/proc/sysrq-trigger'",
  );
  await made.start();
  const status = await made.wait();
  assert.equal(status.code, 1);
  assert.match(status.message ?? "", /panic/);
});

test("a triple fault on any vCPU ends the machine, and says which it was", async () => {
  const directory = mkdtempSync(path.join(tmpdir(), "nlkt-test-"));
  after(() => rmSync(directory, { recursive: true, force: true }));
  // 32-bit code: enable the x2APIC, write at 0x8000 what the others run, INIT and start-up IPI to vCPU 2, HLT.
  const wrmsr = (index: number, high: number, low: number) => [
    ...[0xb9, ...dword(index), 0xba, ...dword(high), 0xb8, ...dword(low), 0x0f, 0x30],
  ];
  const kernel = multibootKernel(directory, [
    ...wrmsr(0x1b, 0, 0xfee00d00),
    ...wrmsr(0x80f, 0, 0x1ff),
    // LIDT [0x8010], whose limit is 0; INT3
    ...[0xc7, 0x05, ...dword(0x8000), 0x0f, 0x01, 0x1e, 0x10],
    ...[0xc7, 0x05, ...dword(0x8004), 0x80, 0xcc, 0xf4, 0xf4],
    ...[0xc7, 0x05, ...dword(0x8010), ...dword(0)],
    ...[0xc7, 0x05, ...dword(0x8014), ...dword(0)],
    ...wrmsr(0x830, 2, 0x4500),
    ...wrmsr(0x830, 2, 0x4608),
    ...[0xfa, 0xf4, 0xeb, 0xfd],
  ]);
  const made = await Machine.create({
    accel: "soft",
    cpus: 3,
    memoryMiB: 8,
    kernel,
    nodefaults: true,
    timeoutSeconds: 60,
  });
  await made.start();
  const { reason, message } = await made.wait();
  assert.equal(reason, "crash");
  assert.match(message ?? "", /vCPU 2: triple fault/);
});

function dword(value: number): number[] {
  return [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];
}
