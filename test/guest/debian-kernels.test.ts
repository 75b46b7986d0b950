/** Debian's kernels boot unmodified to a shell, and have nothing to complain of. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { DEBIAN_KERNELS, guestFiles, linesBetween, runGuest } from "./guests.js";
import { complaints, HARDWARE } from "./kernel-log.js";

/** Quoted in the middle: what the terminal echoes is not what the command prints. */
const COMMANDS = `
echo result $((6 * 7)); uname -r
echo log be''gins; dmesg -r; echo log en''ds
poweroff -f
`;

describe("Debian's kernels", { concurrency: 2 }, () => {
  for (const request of DEBIAN_KERNELS) {
    const name = `${request.package} of ${request.suite}`;

    const boots = async (args: readonly string[]) => {
      const { code, stdout, stderr } = await runGuest(args, COMMANDS);
      assert.match(stdout, /^(.*# )?result 42\r?$/m);
      assert.match(
        stdout,
        request.suite === "bookworm" ? /^6\.1\.[^ ]*-amd64\r?$/m : /^6\.12[^ ]*-amd64\r?$/m,
      );
      const log = linesBetween(stdout, "log begins", "log ends");
      for (const hardware of HARDWARE) {
        assert.ok(
          log.some((line) => hardware.test(line)),
          `no ${hardware} in the log`,
        );
      }
      assert.deepEqual(complaints(log), []);
      assert.equal(stderr, "");
      assert.equal(code, 0);
    };

    test(`${name}: to the shell and back, without a complaint`, async (t) => {
      const files = await guestFiles(request);
      if (typeof files === "string") return t.skip(files);
      await boots(["-k", files.kernel, "-i", files.initrd, "-p", "panic=-1"]);
    });

    test(`${name}: with nothing on its command line but the console`, async (t) => {
      const files = await guestFiles(request);
      if (typeof files === "string") return t.skip(files);
      await boots(["--nodefaults", "-k", files.kernel, "-i", files.initrd, "-p", "console=ttyS0"]);
    });
  }
});

test("a complaint in a log is found", () => {
  const log = [
    "<4>[    0.1] clocksource: timekeeping watchdog on CPU0: Marking clocksource 'tsc' as unstable",
    "<6>[    0.2] [Firmware Bug]: TSC_DEADLINE disabled due to Errata",
    "<30>[    0.3] unchecked MSR access error: RDMSR from 0x345",
    "<6>[    0.4] pci 0000:00:00.0: BAR 0: failed to assign",
  ];
  const fine = [
    "<6>[    0.0] DMI not present or invalid.",
    "<4>[    9.9] hrtimer: interrupt took 5000000 ns",
    "<5>[    0.3] random: crng init done",
  ];
  assert.deepEqual(complaints([...log, ...fine]), log);
});
