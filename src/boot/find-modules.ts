/** Where the modules of a kernel are: beside it, on this machine, or in the package that it came in. */
import { mkdir } from "node:fs/promises";
import path from "node:path";
import { BootError } from "./boot-error.js";
import { exists, makeOnce } from "./cache-directory.js";
import { extractPackage } from "./debian-package.js";
import { type CachedKernel, listKernels, type Progress } from "./default-guest.js";
import { ModuleTree } from "./module-tree.js";

/** Of a kernel's package: the directories that have what may be needed before a root file system is there. */
const KEPT = [
  "modules.*",
  "kernel/arch/x86/crypto/*",
  "kernel/crypto/*",
  "kernel/lib/*",
  "kernel/drivers/virtio/*",
  "kernel/drivers/block/virtio_blk*",
  "kernel/drivers/char/hw_random/virtio*",
  "kernel/drivers/char/hw_random/rng-core*",
  "kernel/drivers/char/virtio_console*",
  "kernel/drivers/net/virtio_net*",
  "kernel/drivers/net/net_failover*",
  "kernel/net/core/failover*",
  "kernel/drivers/scsi/virtio_scsi*",
  "kernel/drivers/scsi/scsi_*",
  "kernel/drivers/scsi/sd_mod*",
  "kernel/net/9p/*",
  "kernel/fs/9p/*",
  "kernel/fs/netfs/*",
  "kernel/fs/fscache/*",
  "kernel/fs/fuse/*",
  "kernel/fs/overlayfs/*",
  "kernel/net/vmw_vsock/*",
  "kernel/fs/*.ko*",
  "kernel/fs/ext4/*",
  "kernel/fs/jbd2/*",
  "kernel/fs/xfs/*",
  "kernel/fs/btrfs/*",
  "kernel/fs/f2fs/*",
  "kernel/fs/erofs/*",
  "kernel/fs/squashfs/*",
  "kernel/fs/isofs/*",
  "kernel/fs/fat/*",
  "kernel/fs/nls/*",
] as const;

/** Where the tree of `release` is looked for. `kernel` is the kernel's file. */
export function moduleDirectories(kernel: string, release: string): string[] {
  const beside = path.dirname(path.resolve(kernel));
  return [
    path.join(beside, "lib/modules", release),
    path.join(beside, "..", "lib/modules", release),
    path.join("/lib/modules", release),
    path.join("/usr/lib/modules", release),
  ].map((directory) => path.normalize(directory));
}

/** The modules of the kernel in file `kernel`, or undefined where they are nowhere. Throws `BootError`. */
export async function findModules(
  kernel: string,
  release: string,
  progress: Progress = () => {},
): Promise<ModuleTree | undefined> {
  for (const directory of moduleDirectories(kernel, release)) {
    if (await exists(directory)) {
      const tree = await ModuleTree.open(directory, release).catch((error: unknown) => {
        // An empty directory, as of a kernel whose modules were removed.
        if (error instanceof BootError) return undefined;
        throw error;
      });
      if (tree !== undefined) return tree;
    }
  }
  const cached = (await listKernels()).find((candidate) => candidate.release === release);
  return cached === undefined ? undefined : await packageModules(cached, progress);
}

/** The modules in a cached kernel's package, unpacked on first use. */
export async function packageModules(
  kernel: CachedKernel,
  progress: Progress = () => {},
): Promise<ModuleTree> {
  const { release, deb } = kernel;
  const target = path.join(kernel.directory, "modules");
  await makeOnce(target, async (temporary) => {
    progress(`unpacking the modules of ${kernel.image}`);
    await mkdir(temporary, { recursive: true });
    const patterns = KEPT.flatMap((kept) => [
      `./lib/modules/${release}/${kept}`,
      `./usr/lib/modules/${release}/${kept}`,
    ]);
    await extractPackage(deb, temporary, patterns, { optional: true });
  });
  for (const lib of ["lib", "usr/lib"]) {
    const directory = path.join(target, lib, "modules", release);
    if (await exists(directory)) return await ModuleTree.open(directory, release);
  }
  throw new BootError(`package ${kernel.image} has no modules of ${release}`);
}
