/** The boot of an installed Debian: systemd, from the root file system on a qcow2 disk to the login prompt. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { concatArchives } from "../src/boot/cpio.js";
import { planDiskBoot } from "../src/boot/disk-boot.js";
import { debianDisks, whyNot } from "../test/disk-boot/debian-disk.js";
import { type Guests, Unavailable } from "./guests.js";
import type { Row } from "./rows.js";

const NAME = "boot of a Debian disk to login";
const PARAMS = "root=/dev/vda ro systemd.show_status=0";
const PROMPT = "login: ";

export const DEBIAN_DISK_ROW: Row = {
  name: NAME,
  lines: [{ name: NAME, unit: "s", reach: { ratio: 1.5 } }],
  hasPeer: true,
  async measure(start, guests) {
    const problem = await whyNot();
    if (problem !== undefined) throw new Unavailable(problem);
    const { root } = await debianDisks(() => {});
    const directory = mkdtempSync("/var/tmp/nlkt-bench-debian-");
    try {
      const kernel = await guests.kernel61();
      const initrd = path.join(directory, "initrd");
      writeFileSync(initrd, await rootInitrd(guests, kernel, root));
      const disk = { file: root, format: "qcow2", temporary: true } as const;
      const guest = start({ kernel, initrd, disk, params: PARAMS });
      const value = await guest.printed(PROMPT);
      guest.kill();
      await guest.ended;
      return [{ name: NAME, value }];
    } finally {
      rmSync(directory, { recursive: true });
    }
  },
};

/** What `nlkt run` gives a guest whose root is on a disk, for every side the same. */
async function rootInitrd(guests: Guests, kernelName: string, file: string): Promise<Uint8Array> {
  const plan = await planDiskBoot({
    kernelName,
    kernel: readFileSync(kernelName),
    disks: [{ file, readOnly: true }],
    deviceModules: [],
    params: PARAMS,
    mayBoot: true,
    progress: () => {},
    warn: (text) => {
      throw new Unavailable(text);
    },
  });
  const shell = readFileSync(await guests.shell());
  return plan.archive === undefined ? shell : concatArchives([shell, plan.archive]);
}
