/** Memory sizes, from what Debian's kernel needs to the largest. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { guestFiles, runGuest } from "./guests.js";

/** Its unpacked code and data, and for each page of 4 KiB a record of 64 bytes. */
const KERNEL_MIB = 50;
const PAGE_RECORDS = 64 / 4096;

/** Files of 1 MiB. */
const MAX_COPIES = 200;

describe("memory sizes", { concurrency: 2 }, () => {
  for (const mib of [80, 3072]) {
    test(`${mib} MiB`, async (t) => {
      const files = await guestFiles();
      if (typeof files === "string") return t.skip(files);
      // Most of a small memory is filled; a large one from its top, as Linux hands it out.
      const script = `
        sed -n 's/^MemTotal: *\\([0-9]*\\) kB/total \\1/p' /proc/meminfo
        free=$(sed -n 's/^MemAvailable: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo)
        mount -t tmpfs -o size=100% tmpfs /tmp
        copies=$((free / 1024 * 7 / 10))
        [ $copies -gt ${MAX_COPIES} ] && copies=${MAX_COPIES}
        head -c 1048576 /dev/urandom >/tmp/0
        for n in $(seq $copies); do cp /tmp/$((n - 1)) /tmp/$n; done
        [ "$(sha256sum </tmp/0)" = "$(sha256sum </tmp/$copies)" ] && echo same`;
      const { code, stdout, stderr } = await runGuest([
        "-m",
        `${mib}`,
        "-k",
        files.kernel,
        "--",
        "sh",
        "-c",
        script,
      ]);
      assert.equal(stderr, "");
      const total = Number(/^total (\d+)$/m.exec(stdout)?.[1]) / 1024;
      assert.ok(total > mib * (1 - PAGE_RECORDS) - KERNEL_MIB && total < mib, `${total} MiB: ${stdout}`);
      assert.match(stdout, /^same$/m);
      assert.equal(code, 0);
    });
  }
});
