/**
 * The default guest: Debian's kernels and a busybox initramfs, fetched on first use and kept in the user's cache
 * directory:
 *
 *   kernels/SUITE/PACKAGE/     vmlinuz, config, kernel.json, and the package itself (for its modules)
 *   busybox/SUITE/             busybox, applets
 *   initramfs/SUITE/HASH.cpio  made from busybox and /init; HASH covers both
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { chmod, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { BootError } from "./boot-error.js";
import {
  cacheDirectory,
  exists,
  makeCacheDirectory,
  makeOnce,
  refusedByCache,
  TEMPORARY,
} from "./cache-directory.js";
import { CpioArchive } from "./cpio.js";
import {
  type Architecture,
  checkNames,
  defaultSuite,
  extractPackage,
  PackageSource,
  type Progress,
} from "./debian-package.js";
import { GUEST_STATUS_PROGRAM } from "./guest-command.js";
import { GUEST_INIT, GUEST_PROFILE } from "./guest-init.js";
import { statusProgram } from "./guest-status-program.js";

export type { Progress } from "./debian-package.js";

/** The kernel package of the default guest. */
export const DEFAULT_KERNEL_PACKAGE = "linux-image-cloud-amd64";
const BUSYBOX_PACKAGE = "busybox-static";

/** Major and minor number (Linux, Documentation/admin-guide/devices.txt). */
const DEV_CONSOLE = [5, 1] as const;

/** A kernel in the cache. */
export interface CachedKernel {
  suite: string;
  /** The package asked for, `linux-image-cloud-amd64`. */
  package: string;
  /** The package that holds the kernel, `linux-image-6.1.0-56-cloud-amd64`, and its version. */
  image: string;
  version: string;
  /** What `uname -r` prints in the guest. */
  release: string;
  directory: string;
  /** The bzImage. */
  vmlinuz: string;
  /** The image's package file. */
  deb: string;
}

export interface KernelRequest {
  package?: string;
  /** `bookworm`, `bookworm-backports`, …; default: the host's Debian release, or bookworm. */
  suite?: string;
  /** Default: amd64. The names of Debian's kernel packages tell architectures apart, so the cache need not. */
  architecture?: Architecture;
}

/** A Debian kernel, from the cache or fetched into it. Throws `BootError`. */
export async function fetchKernel(
  request: KernelRequest = {},
  progress: Progress = () => {},
): Promise<CachedKernel> {
  const suite = request.suite ?? (await defaultSuite());
  const name = request.package ?? DEFAULT_KERNEL_PACKAGE;
  checkNames(suite, name);
  if (!name.startsWith("linux-image-")) throw new BootError(`not a kernel package: ${name}`);
  const target = path.join(cacheDirectory(), "kernels", suite, name);
  await makeOnce(target, async (temporary) => {
    const fill = async (source: PackageSource) => {
      const meta = await source.get(name);
      const image = meta.depends.find((dependency) => /^linux-image-\d/.test(dependency)) ?? name;
      const record = await source.get(image);
      const deb = await source.download(record, temporary);
      progress(`unpacking ${image}`);
      await extractPackage(deb, temporary, ["./boot/vmlinuz-*", "./boot/config-*"]);
      const boot = path.join(temporary, "boot");
      const vmlinuz = (await readdir(boot)).find((file) => file.startsWith("vmlinuz-"));
      if (vmlinuz === undefined) throw new BootError(`package ${image} has no kernel in /boot`);
      const release = vmlinuz.slice("vmlinuz-".length);
      await rename(path.join(boot, vmlinuz), path.join(temporary, "vmlinuz"));
      await rename(path.join(boot, `config-${release}`), path.join(temporary, "config"));
      await rename(deb, path.join(temporary, "package.deb"));
      await rm(boot, { recursive: true });
      await rm(path.dirname(deb), { recursive: true });
      const facts = { suite, package: name, image, version: record.version, release };
      await writeFile(path.join(temporary, "kernel.json"), `${JSON.stringify(facts, null, 2)}\n`);
    };
    await PackageSource.use(suite, name, progress, fill, request.architecture);
  });
  const kernel = await readKernel(target);
  if (!(await exists(kernel.vmlinuz))) throw new BootError(`the cached kernel is broken; remove ${target}`);
  return kernel;
}

async function readKernel(directory: string): Promise<CachedKernel> {
  const file = path.join(directory, "kernel.json");
  try {
    const facts = JSON.parse(await readFile(file, "utf8")) as Omit<
      CachedKernel,
      "directory" | "vmlinuz" | "deb"
    >;
    return {
      ...facts,
      directory,
      vmlinuz: path.join(directory, "vmlinuz"),
      deb: path.join(directory, "package.deb"),
    };
  } catch (error) {
    throw new BootError(`the cached kernel is broken; remove ${directory} (${(error as Error).message})`);
  }
}

/** The kernels in the cache. */
export async function listKernels(): Promise<CachedKernel[]> {
  const root = path.join(cacheDirectory(), "kernels");
  const kernels: CachedKernel[] = [];
  for (const suite of await readdir(root).catch(() => [])) {
    for (const name of await readdir(path.join(root, suite)).catch(() => [])) {
      const directory = path.join(root, suite, name);
      if (name.includes(TEMPORARY)) continue;
      if (await exists(path.join(directory, "kernel.json"))) kernels.push(await readKernel(directory));
    }
  }
  return kernels;
}

/** Removes a kernel from the cache. */
export async function removeKernel(kernel: CachedKernel): Promise<void> {
  await rm(kernel.directory, { recursive: true, force: true });
}

/** Debian's static busybox, from the cache or fetched into it: its path, and the paths of its applets (`bin/ls`). */
export async function fetchBusybox(progress: Progress = () => {}, suite?: string) {
  suite ??= await defaultSuite();
  const directory = path.join(cacheDirectory(), "busybox", suite);
  await makeOnce(directory, async (temporary) => {
    await PackageSource.use(suite, BUSYBOX_PACKAGE, progress, async (source) => {
      const deb = await source.download(await source.get(BUSYBOX_PACKAGE), temporary);
      // In /bin, or in /usr/bin where Debian has merged the two.
      await extractPackage(deb, temporary, ["*/bin/busybox"]);
      await rm(path.dirname(deb), { recursive: true });
      const files = await readdir(temporary, { recursive: true });
      const program = files.find((file) => path.basename(file) === "busybox");
      if (program === undefined) throw new BootError(`package ${BUSYBOX_PACKAGE} has no busybox`);
      const file = path.join(temporary, "busybox");
      await rename(path.join(temporary, program), `${file}.new`);
      await rm(path.join(temporary, program.split(path.sep)[0]), { recursive: true });
      await rename(`${file}.new`, file);
      await chmod(file, 0o755);
      await writeFile(path.join(temporary, "applets"), await listApplets(file));
    });
  });
  const applets = (await readFile(path.join(directory, "applets"), "utf8")).split("\n").filter(Boolean);
  return { busybox: path.join(directory, "busybox"), applets };
}

/** Busybox's own list; empty on a host that cannot run it, where /init installs the applets instead. */
async function listApplets(busybox: string): Promise<string> {
  try {
    return (await promisify(execFile)(busybox, ["--list-full"])).stdout;
  } catch {
    return "";
  }
}

/** The archive of the default initramfs: busybox with a link for each applet, and /init. */
export function defaultInitramfs(busybox: Uint8Array, applets: readonly string[]): CpioArchive {
  const archive = new CpioArchive();
  for (const directory of ["bin", "dev", "proc", "root", "sbin", "sys", "usr/bin", "usr/sbin"]) {
    archive.directory(directory);
  }
  archive.directory("tmp", 0o1777);
  // The kernel opens /dev/console for /init before anything is mounted.
  archive.device("dev/console", "character", ...DEV_CONSOLE);
  archive.file("bin/busybox", busybox, 0o755);
  archive.symlink("bin/sh", "/bin/busybox");
  for (const applet of applets) {
    if (applet !== "bin/busybox" && applet !== "linuxrc") archive.symlink(applet, "/bin/busybox");
  }
  archive.file("etc/passwd", "root::0:0:root:/root:/bin/sh\n");
  archive.file("etc/group", "root:x:0:\n");
  archive.file("etc/hosts", "127.0.0.1 localhost nlkt\n");
  archive.file("etc/profile", GUEST_PROFILE);
  archive.file(GUEST_STATUS_PROGRAM, statusProgram(), 0o755);
  archive.file("init", GUEST_INIT, 0o755);
  return archive;
}

/**
 * The default initramfs as a file in the cache. It is not compressed: unpacking would cost the guest's CPU more than
 * reading it costs the host.
 */
export async function fetchInitramfs(progress: Progress = () => {}): Promise<string> {
  const suite = await defaultSuite();
  const { busybox, applets } = await fetchBusybox(progress, suite);
  const bytes = defaultInitramfs(await readFile(busybox), applets).toBytes();
  const hash = createHash("sha256").update(bytes).digest("hex").slice(0, 16);
  const directory = path.join(cacheDirectory(), "initramfs", suite);
  const file = path.join(directory, `${hash}.cpio`);
  if (!(await exists(file))) {
    await makeCacheDirectory(directory);
    const temporary = `${file}.tmp-${process.pid}`;
    try {
      await writeFile(temporary, bytes);
      await rename(temporary, file);
    } catch (error) {
      await rm(temporary, { force: true });
      refusedByCache(directory, error as NodeJS.ErrnoException);
    }
  }
  return file;
}

/** Paths of the default guest's kernel and initramfs, fetched on first use. */
export async function fetchDefaultGuest(
  progress: Progress = () => {},
): Promise<{ kernel: string; initrd: string }> {
  const kernel = await fetchKernel({}, progress);
  return { kernel: kernel.vmlinuz, initrd: await fetchInitramfs(progress) };
}
