/** Real guests for tests of virtio: Debian's cloud kernels with their virtio modules, and a script to run. */
import { readFile } from "node:fs/promises";
import { CpioArchive, concatArchives } from "../../src/boot/cpio.js";
import { fetchInitramfs, fetchKernel } from "../../src/boot/default-guest.js";
import { findModules } from "../../src/boot/find-modules.js";

const MODULES = [
  "virtio_pci",
  "virtio_mmio",
  "virtio_blk",
  "virtio-rng",
  "virtio_console",
  "virtio_balloon",
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
  const tree = await findModules(kernel.vmlinuz, kernel.release, () => {});
  for (const { name, bytes } of (await tree?.load(MODULES)) ?? []) {
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
