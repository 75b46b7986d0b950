/** The library over a scripted vCPU: how machines start, talk and end. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { instances, Machine, type MachineOptions } from "../../src/api/index.js";
import { FAKE_PROVIDER, POWER_OFF, RESET, scriptKernel } from "../machine/script-kernel.js";

function create(options: MachineOptions, ...script: string[]): Promise<Machine> {
  return Machine.create({
    kernel: scriptKernel(...script),
    memoryMiB: 64,
    providerModule: FAKE_PROVIDER,
    ...options,
  });
}

/** Start a machine and see it to its end: its status and all that it printed. */
async function play(options: MachineOptions, ...script: string[]) {
  const machine = await create(options, ...script);
  const output = text(machine.console);
  await machine.start();
  return { status: await machine.wait(), output: await output };
}

test("what the guest prints arrives whole before the machine's end", async () => {
  const lines = Array.from({ length: 200 }, (_, i) => `print line ${i} ${"x".repeat(i)}`);
  const { status, output } = await play({}, ...lines, POWER_OFF);
  assert.equal(output, lines.map((line) => `${line.slice("print ".length)}\r\n`).join(""));
  assert.deepEqual(status, { reason: "poweroff", code: 0 });
});

test("a reset ends the machine with 0", async () => {
  const { status } = await play({}, RESET);
  assert.deepEqual(status, { reason: "reboot", code: 0 });
});

test("the keyboard controller's reset line and port 0x92 reset, too", async () => {
  assert.equal((await play({}, "out 0x64 1 0xfe")).status.reason, "reboot");
  assert.equal((await play({}, "out 0x92 1 0x01")).status.reason, "reboot");
});

test("a debug exit has the status (V << 1) | 1", async () => {
  const { status } = await play({ isaDebugExit: true }, "out 0xf4 4 0x10");
  assert.deepEqual(status, { reason: "debug-exit", code: 0x21 });
});

test("without --isa-debug-exit the port is nobody's", async () => {
  const { status, output } = await play({}, "out 0xf4 4 0x10", "in 0xf4 4", POWER_OFF);
  assert.equal(output, "ffffffff\r\n");
  assert.equal(status.reason, "poweroff");
});

test("a triple fault is a crash, with registers, code and page tables", async () => {
  const { status } = await play({}, "exit 8");
  assert.equal(status.reason, "crash");
  assert.equal(status.code, 1);
  assert.equal(status.message, "vCPU 0: triple fault");
  assert.match(status.detail!, /RAX +0000000000000011/);
  // The script's first byte is at RIP.
  assert.match(status.detail!, /Code .*<65> 78 69 74/);
  assert.match(status.detail!, /paging is off/);
});

test("system events and internal errors", async () => {
  assert.equal((await play({}, "exit 24 1")).status.reason, "poweroff");
  assert.equal((await play({}, "exit 24 2")).status.reason, "reboot");
  assert.match((await play({}, "exit 24 3")).status.message!, /system event 3/);
  assert.match((await play({}, "exit 17 1")).status.message!, /could not be emulated/);
  assert.match((await play({}, "exit 9 5")).status.message!, /reason 0x5/);
});

test("an error in a vCPU's thread ends the machine with one line", async () => {
  const { status } = await play({}, "throw the bus is on fire");
  assert.equal(status.reason, "failure");
  assert.equal(status.code, 1);
  assert.equal(status.message, "vcpu-0: the bus is on fire");
});

test("a panic on the console makes a reboot a crash", async () => {
  const panic = "[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs";
  const { status } = await play({}, `print ${panic}`, RESET);
  assert.deepEqual(status, {
    reason: "crash",
    code: 1,
    message: "the guest's kernel panicked: VFS: Unable to mount root fs",
  });
});

test("a machine that does not end is stopped by the timeout, even one that heeds nothing", async () => {
  const { status, output } = await play({ timeoutSeconds: 2 }, "print up", "spin");
  assert.equal(status.reason, "timeout");
  assert.equal(status.code, 124);
  assert.equal(output, "up\r\n");
});

test("stop ends a waiting machine, before and after start", async () => {
  const running = await create({}, "wait");
  running.console.resume();
  await running.start();
  assert.deepEqual(await running.stop(), { reason: "stopped", code: 0 });
  const idle = await create({}, "wait");
  idle.console.resume();
  assert.deepEqual(await idle.stop(), { reason: "stopped", code: 0 });
});

test("console input reaches the guest unchanged, more of it than the rings hold", async () => {
  const machine = await create({}, "echo 0x04", POWER_OFF);
  const sent = Buffer.from(Array.from({ length: 100_000 }, (_, i) => (i * 7) % 251 || 1)).map((byte) =>
    byte === 4 ? 5 : byte,
  );
  const chunks: Buffer[] = [];
  machine.console.on("data", (chunk: Buffer) => chunks.push(chunk));
  await machine.start();
  machine.console.write(sent);
  machine.console.write(Uint8Array.of(4));
  assert.equal((await machine.wait()).reason, "poweroff");
  assert.deepEqual(Buffer.concat(chunks), Buffer.from(sent));
});

test("a console that nobody reads does not keep a machine from ending", async () => {
  const machine = await create({}, `print-times 3000 ${"y".repeat(80)}`, POWER_OFF);
  await machine.start();
  setTimeout(() => void machine.stop(), 300);
  assert.equal((await machine.wait()).reason, "stopped");
});

test("on-reboot restart starts anew, until the guest powers off", async () => {
  // The machine is made of new memory each time, so only the host can tell the lives apart.
  let lives = 0;
  const machine = await create(
    {
      onReboot: "restart",
      log: (_level, line) => {
        if (line.endsWith(": reboots")) lives++;
        if (lives === 3) void machine.stop();
      },
    },
    "print hello",
    RESET,
  );
  const output = text(machine.console);
  await machine.start();
  assert.equal((await machine.wait()).reason, "stopped");
  assert.match(await output, /^(hello\r\n){3}$/);
});

test("pause holds all vCPUs, resume lets them go on", async () => {
  const machine = await create({ cpus: 4 }, "echo 0x04", POWER_OFF);
  const output = text(machine.console);
  await machine.start();
  await machine.pause();
  machine.console.write("typed while paused\u0004");
  // The machine stands: it cannot have echoed, let alone powered off.
  assert.equal(machine.console.readableLength, 0);
  await machine.resume();
  assert.equal((await machine.wait()).reason, "poweroff");
  assert.equal(await output, "typed while paused");
});

test("a machine that is paused can be stopped", async () => {
  const machine = await create({ cpus: 2 }, "wait");
  machine.console.resume();
  await machine.start();
  await machine.pause();
  assert.equal((await machine.stop()).reason, "stopped");
});

test("a machine paused before its start does not start", async () => {
  const machine = await create({}, "print early", "wait");
  const output = text(machine.console);
  await machine.pause();
  await machine.start();
  await machine.pause();
  await machine.stop();
  assert.equal(await output, "");
});

test("port accesses: string exits, unclaimed ports, PCI configuration mechanism #1", async () => {
  const { output } = await play(
    {},
    "out 0x3f8 1 0x41 0x42 0x43",
    "in 0x1234 2 2",
    "out 0xcf8 4 0x80000000",
    "in 0xcfc 4",
    POWER_OFF,
  );
  assert.equal(output, "ABCffffffff\r\n86805" + "70d\r\n");
});

test("the power button sets PWRBTN_STS", async () => {
  // ACPI 6.5, table 4.11: bit 8 of PM1_STS.
  const machine = await create({}, "print up", "until 0x600 2 0x100", POWER_OFF);
  machine.console.once("data", () => machine.powerButton());
  await machine.start();
  assert.equal((await machine.wait()).reason, "poweroff");
});

test("the RTC shows this year", async () => {
  const { output } = await play({}, "out 0x70 1 0x32", "in 0x71 1", POWER_OFF);
  assert.equal(output, "20\r\n");
});

test("MMIO: unclaimed reads are ones, ECAM shows the host bridge", async () => {
  const { output } = await play({}, "mmio-read 0xd0000000 8", "mmio-read 0xe0000000 4", POWER_OFF);
  assert.equal(output, "ffffffffffffffff\r\n8680570d\r\n");
});

test("a configuration that cannot be is refused in one line that names the option", async () => {
  const refused = async (options: MachineOptions, message: RegExp) =>
    await assert.rejects(Machine.create({ kernel: scriptKernel("wait"), ...options }), (error: Error) => {
      assert.match(error.message, message);
      assert.ok(!error.message.includes("\n"));
      return true;
    });
  await refused({ memoryMiB: 1 }, /^--mem: 1 MiB is too small: at least 4 MiB$/);
  await refused({ memoryMiB: 4096 }, /^--mem: 4096 MiB is too large: the software CPU takes at most /);
  await refused({ cpus: 0 }, /^--cpus: /);
  await refused({ cpus: 1000 }, /^--cpus: 1000 is too many/);
  await refused({ kernel: "/nonexistent" }, /^kernel \/nonexistent: no such file$/);
  await refused({ kernel: "/" }, /^kernel \/: is a directory$/);
  await refused({ kernel: "/dev/zero" }, /^kernel \/dev\/zero: is not a regular file$/);
  await refused({ initrd: "/nonexistent" }, /^initrd \/nonexistent: no such file$/);
});

test("machines of one process have names of their own, as instances too", async (t) => {
  const runtime = mkdtempSync(path.join(tmpdir(), "nlkt-test-"));
  const before = process.env.XDG_RUNTIME_DIR;
  process.env.XDG_RUNTIME_DIR = runtime;
  t.after(() => {
    rmSync(runtime, { recursive: true });
    if (before === undefined) delete process.env.XDG_RUNTIME_DIR;
    else process.env.XDG_RUNTIME_DIR = before;
  });
  const machines = [await create({ control: true }, "wait"), await create({ control: true }, "wait")];
  const names = machines.map(({ name }) => name);
  assert.equal(new Set(names).size, 2);
  const listed = await instances.list();
  assert.deepEqual(
    listed.map(({ name, state }) => [name, state]).sort(),
    names.map((name) => [name, "starting"]).sort(),
  );
  await assert.rejects(
    create({ control: true, name: names[0] }, "wait"),
    /^NameTakenError: --name: there is a running instance/,
  );
  // Paused before its start, it stays so.
  await instances.get(names[0]).pause();
  await machines[0].start();
  assert.equal(machines[0].info().state, "paused");
  // Its vCPU has not run, and gives a dump all the same.
  assert.match((await machines[0].dump())[0], /^vCPU 0:\nRAX /);
  for (const machine of machines) await machine.stop();
  assert.deepEqual(await instances.list(), []);
});
