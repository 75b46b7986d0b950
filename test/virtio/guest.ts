/** Real guests for tests of virtio: Debian's cloud kernels with their virtio modules, and a script to run. */
import { execFile } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { makeOnce } from "../../src/boot/cache-directory.js";
import { CpioArchive, concatArchives } from "../../src/boot/cpio.js";
import { extractPackage } from "../../src/boot/debian-package.js";
import { type CachedKernel, fetchInitramfs, fetchKernel } from "../../src/boot/default-guest.js";

/** In an order in which each finds what it needs. */
const MODULES = [
  "failover",
  "virtio_ring",
  "virtio",
  "virtio_pci_legacy_dev",
  "virtio_pci_modern_dev",
  "virtio_pci",
  "virtio_mmio",
  "virtio_blk",
  "virtio-rng",
  "virtio_console",
  "virtio_balloon",
  "vsock",
  "vmw_vsock_virtio_transport_common",
  "vmw_vsock_virtio_transport",
];

export interface GuestFiles {
  readonly kernel: string;
  /** The archive's bytes. */
  readonly initrd: Uint8Array;
}

/** The kernel of a suite and an initial RAM disk that loads the modules, runs `script` and powers off. */
export async function virtioGuest(
  suite: "bookworm" | "bookworm-backports",
  script: string,
  programs: Readonly<Record<string, Uint8Array>> = {},
): Promise<GuestFiles> {
  const kernel = await fetchKernel({ suite });
  const archive = new CpioArchive();
  const loads: string[] = [];
  for (const [name, bytes] of Object.entries(programs)) archive.file(`bin/${name}`, bytes, 0o755);
  for (const [name, bytes] of await modules(kernel)) {
    archive.file(`modules/${name}.ko`, bytes);
    loads.push(`insmod /modules/${name}.ko || echo "insmod ${name} failed"`);
  }
  archive.file(
    "init",
    [
      "#!/bin/sh",
      "export PATH=/usr/sbin:/usr/bin:/sbin:/bin",
      "mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev",
      ...loads,
      // A console that is virtio's was not there when the kernel opened it.
      "exec </dev/console >/dev/console 2>&1",
      "mkdir -p /mnt",
      "sleep 0.3",
      script,
      "poweroff -f",
      "",
    ].join("\n"),
    0o755,
  );
  const base = await readFile(await fetchInitramfs());
  return { kernel: kernel.vmlinuz, initrd: concatArchives([base, archive.toBytes()]) };
}

/** The modules of a kernel that there are, unpacked. */
async function modules(kernel: CachedKernel): Promise<[name: string, bytes: Uint8Array][]> {
  const directory = path.join(tmpdir(), "nlkt-test-modules", kernel.release);
  await makeOnce(directory, async (temporary) => {
    await extractPackage(
      kernel.deb,
      temporary,
      MODULES.map((name) => `*/${name}.ko*`),
    );
    const files = (await readdir(temporary, { recursive: true })).filter((file) => file.endsWith(".ko.xz"));
    for (const file of files) await promisify(execFile)("xz", ["-d", path.join(temporary, file)]);
  });
  const files = (await readdir(directory, { recursive: true })).filter((file) => file.endsWith(".ko"));
  const found: [string, Uint8Array][] = [];
  for (const name of MODULES) {
    const file = files.find((each) => path.basename(each) === `${name}.ko`);
    if (file !== undefined) found.push([name, await readFile(path.join(directory, file))]);
  }
  return found;
}
