/** Guests whose root file system is on a disk: with modules from an initramfs that NLKT builds, and without. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  closeSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { convertImage } from "../../src/backends/disk/convert.js";
import { fetchBusybox } from "../../src/boot/default-guest.js";
import { hasTool } from "../boot/tools.js";
import { DEBIAN_KERNELS, guestFiles, runGuest } from "./guests.js";

const skip = hasTool("mke2fs") ? false : "needs mke2fs (package e2fsprogs)";

const DISK_MIB = 32;
/** Where a first partition mostly is, and what is before it on a disk without one. */
const PARTITION_OFFSET = 2 ** 20;
const SECTOR = 512;
/** Partition type of Linux file systems. */
const MBR_LINUX = 0x83;

/** A qcow2 image of one file system, on the disk or its first partition: busybox, and an init that says what it sees. */
async function rootDisk(t: TestContext, init: string | undefined, partition = false): Promise<string> {
  const directory = mkdtempSync(path.join(tmpdir(), "nlkt-root-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const root = path.join(directory, "root");
  for (const name of ["bin", "dev", "proc", "sbin", "sys"])
    mkdirSync(path.join(root, name), { recursive: true });
  if (init !== undefined) {
    copyFileSync((await fetchBusybox()).busybox, path.join(root, "bin/busybox"));
    chmodSync(path.join(root, "bin/busybox"), 0o755);
    symlinkSync("busybox", path.join(root, "bin/sh"));
    writeFileSync(path.join(root, "sbin/start"), init, { mode: 0o755 });
    // As Debian's: a link, and an absolute one.
    symlinkSync("/sbin/start", path.join(root, "sbin/init"));
  }
  const raw = path.join(directory, "raw");
  writeFileSync(raw, "");
  const offset = partition ? PARTITION_OFFSET : 0;
  truncateSync(raw, offset + DISK_MIB * 2 ** 20);
  const place = ["-E", `offset=${offset}`, raw, `${DISK_MIB}M`];
  execFileSync("mke2fs", ["-q", "-t", "ext4", "-L", "the-root", "-d", root, ...place]);
  if (partition) writePartitionTable(raw);
  const image = path.join(directory, "image.qcow2");
  await convertImage({ source: raw, target: image, format: "qcow2", options: {} });
  return image;
}

/** A master boot record with one partition (UEFI 2.10, 5.2.1). */
function writePartitionTable(raw: string): void {
  const entry = Buffer.alloc(16);
  entry[4] = MBR_LINUX;
  entry.writeUInt32LE(PARTITION_OFFSET / SECTOR, 8);
  entry.writeUInt32LE((DISK_MIB * 2 ** 20) / SECTOR, 12);
  const file = openSync(raw, "r+");
  writeSync(file, entry, 0, entry.length, 446);
  writeSync(file, Buffer.from([0x55, 0xaa]), 0, 2, 510);
  closeSync(file);
}

const INIT = `#!/bin/sh
echo "init of the disk: $0 [$*] process $$"
/bin/busybox mount | /bin/busybox grep ' / '
/bin/busybox ls /
/bin/busybox poweroff -f
`;

test("a kernel whose disk driver and file system are modules", { skip }, async (t) => {
  const files = await guestFiles(DEBIAN_KERNELS[1]);
  if (typeof files === "string") return t.skip(files);
  const image = await rootDisk(t, INIT, true);
  const args = ["-k", files.kernel, "-d", image, "-p", "root=/dev/vda1 quiet single"];
  const { code, stdout, stderr } = await runGuest(args);
  assert.match(stdout, /init of the disk: \/sbin\/init \[single\] process 1\r?\n/);
  assert.match(stdout, /\/dev\/vda1 on \/ type ext4 \(ro/);
  assert.ok(!stdout.includes("nlkt:") && !stderr.includes("nlkt:"), stdout + stderr);
  assert.equal(code, 0);
});

test("the default kernel boots from the first disk by itself", { skip }, async (t) => {
  const files = await guestFiles(DEBIAN_KERNELS[0]);
  if (typeof files === "string") return t.skip(files);
  const image = await rootDisk(t, INIT);
  const { code, stdout } = await runGuest(["-d", `${image},cow`]);
  assert.match(stdout, /init of the disk: \/sbin\/init \[\] process 1/);
  assert.match(stdout, /\/dev\/vda on \/ type ext4 \(rw/);
  assert.equal(code, 0);
});

const REBOOTING_INIT = `#!/bin/sh
if [ -e /seen ]; then
  echo "the second time"
  /bin/busybox poweroff -f
fi
echo "the first time"
echo >/seen
/bin/busybox sync
/bin/busybox reboot -f
`;

test("what is written to a copy-on-write disk is there after a reboot, and not in the image", {
  skip,
}, async (t) => {
  const files = await guestFiles(DEBIAN_KERNELS[0]);
  if (typeof files === "string") return t.skip(files);
  const image = await rootDisk(t, REBOOTING_INIT);
  const before = readFileSync(image);
  const { code, stdout } = await runGuest(["-d", `${image},cow`, "--on-reboot", "restart"]);
  assert.match(stdout, /the first time.*the second time/s);
  assert.equal(code, 0);
  assert.ok(readFileSync(image).equals(before));
});

test("a disk of data is there in the default guest", { skip }, async (t) => {
  const files = await guestFiles(DEBIAN_KERNELS[0]);
  if (typeof files === "string") return t.skip(files);
  const image = await rootDisk(t, undefined);
  const script =
    "mkdir /d && mount /dev/vda /d && echo text >/d/file && sync && ls /d && cat /proc/partitions";
  const { code, stdout } = await runGuest(["-d", image, "--", "sh", "-c", script]);
  assert.match(stdout, /file/);
  assert.match(stdout, /32768 vda/);
  assert.equal(code, 0);
});

test("a root that is not there", { skip }, async (t) => {
  const files = await guestFiles(DEBIAN_KERNELS[0]);
  if (typeof files === "string") return t.skip(files);
  const image = await rootDisk(t, undefined);
  const { code, stdout, stderr } = await runGuest([
    "-k",
    files.kernel,
    "-d",
    image,
    "-p",
    "root=LABEL=none quiet",
  ]);
  assert.match(stderr, /root=LABEL=none: there is no such disk or partition/);
  assert.match(stdout, /the root device LABEL=none does not appear/);
  assert.equal(code, 1);
});
