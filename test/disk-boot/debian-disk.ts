/** The Debian disk that the test boots: debootstrap's root file system, in a qcow2 image, kept in NLKT's cache. */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdir, rename, rm, truncate, writeFile } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { convertImage } from "../../src/backends/disk/convert.js";
import { cacheDirectory, makeOnce } from "../../src/boot/cache-directory.js";
import { PackageSource } from "../../src/boot/debian-package.js";

const run = promisify(execFile);

const SUITE = "bookworm";
const MIRROR = "http://deb.debian.org/debian";
/** What makes a minimal Debian one that boots to a login prompt. */
const INCLUDED = ["systemd-sysv", "udev", "login", "e2fsprogs"];
/** What the guest installs from the second disk. */
export const PACKAGES = ["hello", "tree", "libonig5", "libjq1", "jq"];
const IMAGE_BYTES = 1536 * 2 ** 20;

/** Files of the root file system, beside what debootstrap makes. */
const FILES: Readonly<Record<string, string>> = {
  "etc/fstab": "LABEL=debian / ext4 defaults 0 1\n",
  "etc/hostname": "debian\n",
  // A machine that is busy with other things takes longer than systemd waits for the serial port.
  "etc/systemd/system.conf.d/slow.conf":
    "[Manager]\nDefaultDeviceTimeoutSec=900s\nDefaultTimeoutStartSec=900s\n",
};
/** Units that a test has no use for. */
const MASKED = [
  "apt-daily.timer",
  "apt-daily-upgrade.timer",
  "dpkg-db-backup.timer",
  "e2scrub_all.timer",
  "e2scrub_reap.service",
  "fstrim.timer",
  "getty-static.service",
];

/** Where this cannot be made: why. */
export async function whyNot(): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return "debootstrap needs root";
  for (const [tool, name] of [
    ["debootstrap", "debootstrap"],
    ["mke2fs", "e2fsprogs"],
    ["qemu-img", "qemu-utils"],
  ]) {
    const found = await run("sh", ["-c", `command -v ${tool}`]).catch(() => undefined);
    if (found === undefined) return `needs ${tool} (package ${name})`;
  }
  return undefined;
}

export interface DebianDisks {
  /** qcow2: the root file system, on the whole disk, labelled `debian`. */
  readonly root: string;
  /** raw: a file system labelled `packages` with .deb files. */
  readonly packages: string;
}

/** There is no Debian to be had, for want of a network or of rights. */
export class NoDebian extends Error {}

async function debootstrap(root: string): Promise<void> {
  const args = ["--variant=minbase", `--include=${INCLUDED}`, SUITE, root, MIRROR];
  try {
    await run("debootstrap", args, { maxBuffer: 2 ** 26 });
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string };
    const last = `${stdout}\n${stderr}`.trim().split("\n").at(-1);
    throw new NoDebian(`debootstrap: ${last}`);
  }
}

/** The disks, from the cache or made. Rejects with `NoDebian` where debootstrap fails. */
export async function debianDisks(say: (text: string) => void): Promise<DebianDisks> {
  const recipe = JSON.stringify([SUITE, INCLUDED, PACKAGES, IMAGE_BYTES, FILES, MASKED]);
  const hash = createHash("sha256").update(recipe).digest("hex").slice(0, 12);
  const directory = path.join(cacheDirectory(), "disk-boot", hash);
  await makeOnce(directory, async (temporary) => {
    const root = path.join(temporary, "root");
    say("debootstrap");
    await debootstrap(root);
    await run("chroot", [root, "passwd", "-d", "root"]);
    for (const [name, text] of Object.entries(FILES)) {
      await mkdir(path.dirname(path.join(root, name)), { recursive: true });
      await writeFile(path.join(root, name), text);
    }
    await run("chroot", [root, "systemctl", "mask", ...MASKED]);
    for (const waste of [
      "var/cache/apt",
      "var/lib/apt/lists",
      "usr/share/doc",
      "usr/share/locale",
      "usr/share/man",
    ]) {
      await rm(path.join(root, waste), { recursive: true, force: true });
    }
    say("the root file system");
    const raw = path.join(temporary, "raw");
    await makeFileSystem(raw, IMAGE_BYTES, "debian", root);
    await convertImage({
      source: raw,
      target: path.join(temporary, "debian.qcow2"),
      format: "qcow2",
      options: {},
    });
    await rm(raw);
    await rm(root, { recursive: true });

    say("the packages");
    const packages = path.join(temporary, "packages");
    await mkdir(packages);
    for (const name of PACKAGES) {
      const deb = await PackageSource.use(SUITE, name, say, async (source) =>
        source.download(await source.get(name), temporary),
      );
      await rename(deb, path.join(packages, path.basename(deb)));
      await rm(path.dirname(deb), { recursive: true });
    }
    await makeFileSystem(path.join(temporary, "packages.img"), 64 * 2 ** 20, "packages", packages);
    await rm(packages, { recursive: true });
  });
  return { root: path.join(directory, "debian.qcow2"), packages: path.join(directory, "packages.img") };
}

async function makeFileSystem(file: string, size: number, label: string, from: string): Promise<void> {
  await writeFile(file, "");
  await truncate(file, size);
  await run("mke2fs", ["-q", "-t", "ext4", "-L", label, "-d", from, file]);
}

/** The disk's file system, as a raw file. */
export async function rawCopy(image: string, target: string): Promise<void> {
  await run("qemu-img", ["convert", "-f", "qcow2", "-O", "raw", image, target]);
}

/** `e2fsck` on a raw file: its exit status (e2fsck(8), EXIT CODE), and what it said. */
export async function fsck(raw: string, ...args: string[]): Promise<{ status: number; output: string }> {
  try {
    const { stdout, stderr } = await run("e2fsck", [...args, raw]);
    return { status: 0, output: stdout + stderr };
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
    return { status: code, output: stdout + stderr };
  }
}

/** Files in a directory of the file system in a raw file. */
export async function listDirectory(raw: string, directory: string): Promise<string[]> {
  const { stdout } = await run("debugfs", ["-R", `ls -p ${directory}`, raw]);
  return stdout.split("\n").map((line) => line.split("/")[5] ?? "");
}
