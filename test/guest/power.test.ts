/** The ways in which a guest's run ends: power off, reboot, halt, crash, and the power button. */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { Machine } from "../../src/api/index.js";
import { CpioArchive, concatArchives } from "../../src/boot/cpio.js";
import { extractPackage } from "../../src/boot/debian-package.js";
import { guestCommandArchive } from "../../src/boot/guest-command.js";
import { ended, printed } from "../cli/nlkt.js";
import { type Files, guestFiles, runGuest, startGuest } from "./guests.js";

const PRESS_MILLISECONDS = 300;

const directory = mkdtempSync(path.join(tmpdir(), "nlkt-test-"));
after(() => rmSync(directory, { recursive: true, force: true }));

describe("the end of a guest's run", { concurrency: 2 }, () => {
  let files: Files | string;
  before(async () => {
    files = await guestFiles();
  });

  const guest = (name: string, body: (args: readonly string[], files: Files) => Promise<void>) =>
    test(name, async (t) => {
      if (typeof files === "string") return t.skip(files);
      await body(["-m", "128", "-p", "quiet", "-k", files.kernel, "-i", files.initrd], files);
    });

  for (const command of ["poweroff", "exit", "reboot"]) {
    guest(`${command} exits 0`, async (args) => {
      const { code, stderr } = await runGuest(args, `${command}\n`);
      assert.deepEqual({ code, stderr }, { code: 0, stderr: "" });
    });
  }

  // Linux, Documentation/admin-guide/kernel-parameters.txt, "reboot=".
  for (const [how, what] of [
    ["k", "the keyboard controller"],
    ["p", "port 0xCF9"],
  ]) {
    guest(`reboot through ${what} exits 0`, async (args) => {
      const { code, stderr } = await runGuest([...args, "-p", `quiet reboot=${how}`], "reboot\n");
      assert.deepEqual({ code, stderr }, { code: 0, stderr: "" });
    });
  }

  guest("a triple fault exits 1 with registers, code and page tables", async (args) => {
    const { code, stderr } = await runGuest([...args, "-p", "quiet reboot=t"], "reboot\n");
    assert.equal(code, 1);
    assert.match(stderr, /^nlkt: vCPU 0: triple fault\nvCPU 0:\nRAX {4}[0-9a-f]{16} {2}RBX/);
    // int3, with an empty IDT.
    assert.match(stderr, /^IDT {10}base 0000000000000000 {2}limit 0000$/m);
    assert.match(stderr, /^Code {3}.*<cc>/m);
    assert.match(stderr, /^Page tables for RIP \(linear ffffffff[0-9a-f]{8}\):\n {2}PML4E \[1ff\] at /m);
  });

  guest("a crash of the kernel exits 1 and says of what", async (args) => {
    const { code, stderr } = await runGuest(args, "echo c >/proc/sysrq-trigger\n");
    assert.deepEqual(
      { code, stderr },
      { code: 1, stderr: "nlkt: the guest's kernel panicked: sysrq triggered crash\n" },
    );
  });

  guest("--timeout ends a guest that does not", async (args) => {
    const { code, stderr } = await runGuest(["--timeout", "1", ...args]);
    assert.deepEqual({ code, stderr }, { code: 124, stderr: "nlkt: timed out after 1 s\n" });
  });

  guest("a halted guest stays until it is ended from outside", async (args) => {
    const child = startGuest(args);
    const halted = printed(child, "System halted");
    child.stdin!.write("halt -f\n");
    await halted;
    child.kill("SIGTERM");
    assert.deepEqual(await ended(child), { code: 143, signal: null });
  });

  guest("--on-reboot restart starts the machine anew", async (args) => {
    const child = startGuest(["--on-reboot", "restart", ...args]);
    const booted = printed(child, "# ");
    await booted;
    const again = printed(child, "BusyBox");
    child.stdin!.write("touch /first; reboot -f\n");
    await again;
    const answer = printed(child, "nothing left");
    child.stdin!.write("[ -e /first ] || echo nothing le''ft; poweroff -f\n");
    await answer;
    assert.deepEqual(await ended(child), { code: 0, signal: null });
  });

  guest("the power button is a key that Linux sees", async (_args, { kernel, initrd, deb }) => {
    // Debian's kernels have the drivers as modules.
    await extractPackage(deb, directory, ["*/drivers/acpi/button.ko*", "*/drivers/input/evdev.ko*"]);
    const found = readdirSync(directory, { recursive: true }) as string[];
    const modules = new CpioArchive();
    for (const name of ["button.ko", "evdev.ko"]) {
      const file = found.find((entry) => path.basename(entry) === name);
      assert.ok(file !== undefined, `no ${name} in the package`);
      modules.file(name, readFileSync(path.join(directory, file)));
    }
    const script = `
      insmod /button.ko && insmod /evdev.ko && mdev -s
      event=$(grep -A4 'N: Name="Power Button"' /proc/bus/input/devices | grep -o 'event[0-9]*')
      echo ready
      # The last 8 bytes of an event: type, code, value (Linux, Documentation/input/input.rst).
      head -c 24 /dev/input/$event | tail -c 8 | hexdump -e '1/2 "%d " 1/2 "%d " 1/4 "%d\\n"'`;
    const file = path.join(directory, "initrd");
    writeFileSync(
      file,
      concatArchives([
        readFileSync(initrd),
        modules.toBytes(),
        guestCommandArchive({ argv: ["sh", "-c", script] }),
      ]),
    );
    const machine = await Machine.create({
      kernel,
      initrd: file,
      params: "quiet",
      memoryMiB: 128,
      timeoutSeconds: 120,
    });
    let output = "";
    // Pressed until somebody listens: `ready` is printed before the device is opened.
    let press: NodeJS.Timeout | undefined;
    machine.console.setEncoding("utf8").on("data", (text: string) => {
      output += text;
      if (output.includes("ready")) press ??= setInterval(() => machine.powerButton(), PRESS_MILLISECONDS);
    });
    await machine.start();
    const { code } = await machine.wait();
    clearInterval(press);
    assert.equal(code, 0, output);
    // Linux, include/uapi/linux/input-event-codes.h: EV_KEY is 1, KEY_POWER 116.
    assert.match(output, /^1 116 1\r?$/m);
  });
});
