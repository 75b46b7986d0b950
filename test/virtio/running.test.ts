/** A running Debian kernel and the commands about it: its balloon, and a pause in which its disks stand still. */
import assert from "node:assert/strict";
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import type { InstanceStats } from "../../src/api/index.js";
import { createImage } from "../../src/backends/disk/create-image.js";
import { NLKT } from "../cli/nlkt.js";
import { tierOptions } from "../guest/guests.js";
import { virtioGuest } from "./guest.js";

const run = promisify(execFile);
const MIB = 2 ** 20;
const MEMORY_MIB = 256;
const NAME = `test-running-${process.pid}`;
/** Many times what anything here takes. */
const PATIENCE_MILLISECONDS = 120_000;
const ACCEL = process.env.NLKT_GUESTS === "kvm" ? "kvm" : "soft";

/** Writes to both disks without an end, and says so after each round. */
const SCRIPT = `
dd if=/dev/urandom of=/tmp/data bs=64k count=32 2>/dev/null
# So that the memory has something to give.
dd if=/dev/zero of=/tmp/zeros bs=1M count=64 2>/dev/null; rm /tmp/zeros
i=0
while :; do
  for disk in vda vdb; do
    dd if=/tmp/data of=/dev/$disk bs=4k seek=$(((i * 512) % 3584)) conv=notrunc 2>/dev/null
  done
  sync
  i=$((i + 1))
  echo "round $i"
done
`;

let directory = "";
let child: ChildProcess | undefined;
let output = "";
let messages = "";
before(() => {
  directory = mkdtempSync(path.join(tmpdir(), "nlkt-running-"));
});
after(() => {
  child?.kill("SIGKILL");
  rmSync(directory, { recursive: true, force: true });
});

const command = (...words: string[]) => run(process.execPath, [NLKT, ...words]);

async function memory(): Promise<InstanceStats["memory"]> {
  const { stdout } = await command("stat", NAME, "-m", "--json");
  return (JSON.parse(stdout) as Pick<InstanceStats, "memory">).memory;
}

/** Resolves when `holds` does. */
async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const end = performance.now() + PATIENCE_MILLISECONDS;
  while (!(await holds())) {
    if (performance.now() > end || child?.exitCode !== null) {
      throw new Error(`not until ${what}: ${output.slice(-1000)}${messages}`);
    }
    await sleep(50);
  }
}

/** How many rounds the guest has told of. */
const rounds = () => output.split("round ").length - 1;

test("balloon, stat, pause and resume of a guest that writes to its disks", async (t) => {
  let guest: Awaited<ReturnType<typeof virtioGuest>>;
  try {
    guest = await virtioGuest("bookworm", SCRIPT);
  } catch (error) {
    return t.skip(`no guest: ${(error as Error).message}`);
  }
  const file = (name: string) => path.join(directory, name);
  writeFileSync(file("initrd"), guest.initrd);
  writeFileSync(file("raw"), "");
  truncateSync(file("raw"), 16 * MIB);
  await createImage({ file: file("qcow2"), size: 16 * MIB, format: "qcow2" });
  child = spawn(process.execPath, [
    ...[NLKT, "run", "--name", NAME, "--accel", ACCEL, "--balloon", "-m", `${MEMORY_MIB}`, ...tierOptions],
    ...["-k", guest.kernel, "-i", file("initrd"), "-p", "quiet"],
    ...["-d", `${file("raw")},format=raw`, "-d", file("qcow2")],
  ]);
  child.stdout!.setEncoding("latin1").on("data", (text: string) => {
    output += text;
  });
  child.stderr!.setEncoding("latin1").on("data", (text: string) => {
    messages += text;
  });
  await until("the guest writes", () => rounds() > 0);

  await t.test("balloon", async () => {
    const resident = (await memory()).residentBytes!;
    await command("balloon", NAME, "--inflate", "100");
    await until("the balloon is full", async () => (await memory()).balloon?.actualBytes === 100 * MIB);
    const { balloon, residentBytes } = await memory();
    assert.equal(balloon!.wantedBytes, 100 * MIB);
    const { totalMemory, freeMemory } = balloon!.guest;
    assert.ok(totalMemory > (MEMORY_MIB / 2) * MIB && totalMemory < MEMORY_MIB * MIB, `total ${totalMemory}`);
    assert.ok(freeMemory < totalMemory, `free ${freeMemory}`);
    // What the guest had used before is the host's again.
    assert.ok(residentBytes! < resident, `${resident} to ${residentBytes}`);
    const { stdout } = await command("stat", NAME);
    assert.match(stdout, /balloon +100 MiB of 100 MiB/);
    assert.match(stdout, /guest freeMemory +\d+/);
    await command("balloon", NAME, "--deflate", "60");
    await until("the balloon is smaller", async () => (await memory()).balloon?.actualBytes === 40 * MIB);
    await assert.rejects(command("balloon", NAME, "--inflate", "1000"), /a balloon of 1040 MiB: 0 to 256/);
    await assert.rejects(command("balloon", NAME), /give one of --inflate and --deflate/);
  });

  await t.test("pause", async () => {
    const state = () =>
      ["raw", "qcow2"].map((name) =>
        createHash("md5")
          .update(readFileSync(file(name)))
          .digest("hex"),
      );
    for (let turn = 0; turn < 3; turn++) {
      const before = rounds();
      await until("it goes on", () => rounds() > before);
      await command("pause", NAME);
      const paused = state();
      await sleep(200);
      assert.deepEqual(state(), paused, "images change while the machine is paused");
      await command("resume", NAME);
    }
    const before = rounds();
    await until("it goes on", () => rounds() > before + 1);
  });
  await command("stop", NAME);
});
