/** Debian's kernel as a running instance: paused, looked into, prodded, attached to. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { instances } from "../../src/api/index.js";
import { ended, NLKT, printed } from "../cli/nlkt.js";
import { guestFiles, TIMEOUT_SECONDS } from "./guests.js";

const runtime = mkdtempSync(path.join(tmpdir(), "nlkt-test-"));
after(() => rmSync(runtime, { recursive: true, force: true }));
process.env.XDG_RUNTIME_DIR = runtime;

/** Resolves once `text` came through the console, after what is there already was let go. */
function shown(stream: NodeJS.ReadableStream, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let seen = "";
    stream.on("data", (chunk: Buffer) => {
      seen += chunk.toString("latin1");
      if (seen.includes(text)) resolve(seen);
    });
    stream.on("close", () => reject(new Error(`closed without ${text}: ${seen}`)));
  });
}

describe("Debian's kernel as an instance", () => {
  test("its balloon", async (t) => {
    const files = await guestFiles();
    if (typeof files === "string") return t.skip(files);
    const child = spawn(process.execPath, [
      ...[NLKT, "run", "--name", "balloon", "-m", "192", "--balloon", "--timeout", `${TIMEOUT_SECONDS}`],
    ]);
    t.after(() => child.kill("SIGKILL"));
    await printed(child, "# ");
    const guest = instances.get("balloon");
    const MIB = 2 ** 20;
    const until = async (actualMiB: number) => {
      for (;;) {
        const { balloon } = (await guest.stats()).memory;
        assert.equal(balloon!.wantedBytes, actualMiB * MIB);
        if (balloon!.actualBytes === actualMiB * MIB) return balloon!;
        await sleep(50);
      }
    };
    await guest.inflateBalloon(32);
    const { guest: told } = await until(32);
    assert.ok(told.totalMemory > 0 && told.totalMemory < 192 * MIB);
    await guest.inflateBalloon(-24);
    await until(8);
    await assert.rejects(guest.inflateBalloon(-9), /balloon: a balloon of -1 MiB: 0 to 192 MiB are possible/);
    await guest.stop();
  });

  test("from its start to its stop", async (t) => {
    const files = await guestFiles();
    if (typeof files === "string") return t.skip(files);
    const args = ["-m", "128", "-k", files.kernel, "-i", files.initrd, "-p", "panic=-1"];
    const child: ChildProcess = spawn(process.execPath, [
      ...[NLKT, "run", "--name", "debian", "--timeout", `${TIMEOUT_SECONDS}`],
      ...args,
    ]);
    t.after(() => child.kill("SIGKILL"));
    await printed(child, "# ");
    const debian = instances.get("debian");
    const info = await debian.info();
    assert.deepEqual(
      [info.name, info.pid, info.state, info.kernel],
      ["debian", child.pid, "running", files.kernel],
    );

    // A busy guest stands still at once, and its console with it.
    const busy = printed(child, "busy 20\r");
    child.stdin!.write("i=0; while :; do i=$((i+1)); echo busy $i; done\n");
    await busy;
    await debian.pause();
    const before = await debian.stats();
    assert.equal(before.state, "paused");
    const [dump] = await debian.dump();
    assert.match(dump, /^vCPU 0:\nRAX /);
    assert.match(dump, /^CR0 {2}[0-9a-f]{16} /m);
    assert.match(dump, /^ {2}PML4E \[[0-9a-f]{3}\] at /m);
    await sleep(100);
    assert.deepEqual((await debian.stats()).vcpus, before.vcpus);
    const goesOn = printed(child, "busy ");
    await debian.resume();
    await goesOn;
    assert.ok((await debian.stats()).vcpus[0].exits.io > before.vcpus[0].exits.io);

    // The console, attached: Ctrl-c ends the loop.
    const console = await debian.console();
    const answer = shown(console, "six 7");
    console.write("\u0003\necho six $((3+4))\n");
    await answer;

    // Linux, Documentation/admin-guide/sysrq.rst: h prints the keys there are. Debian's kernels take a break on ttyS0.
    console.write("echo 1 >/proc/sys/kernel/sysrq; dmesg -n 8\n");
    const help = shown(console, "sysrq: HELP :");
    await debian.sysrq("h");
    await help;

    // Linux counts NMIs in /proc/interrupts.
    const counted = shown(console, "NMI:          1");
    await debian.nmi(0);
    console.write("grep NMI: /proc/interrupts\n");
    await counted;

    const { memory } = await debian.stats();
    assert.equal(memory.totalBytes, 128 * 2 ** 20);
    assert.ok(memory.residentBytes! > 16 * 2 ** 20 && memory.residentBytes! <= memory.totalBytes);
    // A look may meet a lock that is held for a microsecond; a machine that stands holds none.
    await debian.pause();
    while ((await debian.locks()).length > 0);

    const over = ended(child);
    await debian.stop();
    assert.deepEqual(await instances.list(), []);
    assert.deepEqual(await over, { code: 0, signal: null });
  });
});
