/**
 * Booting from disks: the modules that a kernel needs before it can see them, and the way to a root file system on one
 * of them, as an archive that goes behind the default initramfs.
 */
import { FILE_SYSTEM_MODULES } from "../backends/disk/file-systems.js";
import type { DiskSpec } from "../backends/disk/open-disk.js";
import { isBzImage, kernelInside } from "./bzimage.js";
import { CpioArchive } from "./cpio.js";
import type { Progress } from "./default-guest.js";
import { findModules, moduleDirectories } from "./find-modules.js";
import { kernelRelease } from "./kernel-release.js";
import { defaultRoot, findRoot, readVolumes, type Volume } from "./root-device.js";
import { MODULE_DIRECTORY, MODULE_ORDER, ROOT_INIT_FILE, rootInitScript } from "./root-init.js";

/** Without these the guest sees no disk. */
const TRANSPORT_MODULES = ["virtio_pci", "virtio_mmio"] as const;
const DISK_MODULES = [...TRANSPORT_MODULES, "virtio_blk"] as const;
/** Of use where there is one; without, nothing is lost that was asked for. */
const OTHER_MODULES = ["virtio_rng"] as const;

export interface DiskBootRequest {
  /** The kernel's file and its contents. */
  readonly kernelName: string;
  readonly kernel: Uint8Array;
  readonly disks: readonly DiskSpec[];
  /** Modules of other virtio devices that the guest has, of use where there are any. */
  readonly deviceModules: readonly string[];
  /** The kernel parameters that the user wants. */
  readonly params: string;
  /** Whether the root may be on a disk though no `root=` says so. */
  readonly mayBoot: boolean;
  readonly progress: Progress;
  /** Told of what will not work, a line. */
  readonly warn: (text: string) => void;
}

export interface DiskBoot {
  /** Parameters to add. */
  readonly params: string;
  /** Goes behind the default initramfs, which is needed with it. */
  readonly archive?: Uint8Array;
  /** The guest's root is on a disk. */
  readonly root: boolean;
}

const NOTHING: DiskBoot = { params: "", root: false };

/** The last `root=`, as in the kernel. */
function rootParameter(params: string): string | undefined {
  return params
    .split(/\s+/)
    .findLast((word) => word.startsWith("root="))
    ?.slice("root=".length);
}

/** Throws `BootError` and `DiskError`. */
export async function planDiskBoot(request: DiskBootRequest): Promise<DiskBoot> {
  const { kernelName, kernel, disks, warn } = request;
  const release = kernelRelease(kernel);
  // No Linux: it knows itself what to do with its disks.
  if (release === undefined) return NOTHING;
  if (disks.length === 0) return await devicesOnly(request, release);
  const volumes = await readVolumes(disks);
  const asked = rootParameter(request.params);
  const volume =
    asked !== undefined ? findRoot(volumes, asked) : request.mayBoot ? defaultRoot(volumes) : undefined;
  const byName = asked !== undefined && !asked.startsWith("/dev/") && /^[A-Z]+=/.test(asked);
  if (asked !== undefined && volume === undefined && !byName && !/^\/dev\/vd[a-z]/.test(asked)) {
    // Something else than our disks.
    return NOTHING;
  }
  const root = asked !== undefined || volume !== undefined;
  if (asked !== undefined && volume === undefined) warn(`root=${asked}: there is no such disk or partition`);
  const params = asked === undefined && volume !== undefined ? `root=${volume.device} rw` : "";

  const wanted = neededModules(request.params, volumes, volume);
  const tree = await findModules(kernelName, release, request.progress);
  if (tree === undefined) {
    const missing = await missingInKernel(request, wanted);
    if (missing.length > 0) {
      warn(
        `the kernel ${release} has no ${missing.join(", ")} built in, and its modules are in none of ` +
          `${moduleDirectories(kernelName, release).join(", ")}: the guest will not get at its disks`,
      );
    }
    // The kernel does it itself, but for names that only programs understand.
    if (!(root && byName && missing.length === 0)) return { params, root };
    return { params, root, archive: buildArchive([], volume ?? {}, false) };
  }
  const missing = wanted.required.filter((name) => !tree.isBuiltin(name) && !tree.has(name));
  if (missing.length > 0)
    warn(`the kernel ${release} has no ${missing.join(", ")}, neither built in nor as a module`);
  const modules = await tree.load([...wanted.required, ...wanted.useful, ...request.deviceModules]);
  const needed = wanted.required.some((name) => !tree.isBuiltin(name));
  if (root && !needed && !byName) return { params, root };
  return {
    params,
    root,
    archive: buildArchive(modules, root ? (volume ?? {}) : undefined, asked === undefined),
  };
}

/** No disks: the modules of the other devices, where there are any. */
async function devicesOnly(request: DiskBootRequest, release: string): Promise<DiskBoot> {
  const { deviceModules, kernelName, progress } = request;
  if (deviceModules.length === 0) return NOTHING;
  const tree = await findModules(kernelName, release, progress);
  if (tree === undefined) return NOTHING;
  const modules = await tree.load([...TRANSPORT_MODULES, ...deviceModules]);
  return { params: "", root: false, archive: buildArchive(modules, undefined, false) };
}

interface Wanted {
  readonly required: readonly string[];
  readonly useful: readonly string[];
}

function neededModules(params: string, volumes: readonly Volume[], root: Volume | undefined): Wanted {
  const type = /(?:^|\s)rootfstype=(\S+)/.exec(params)?.[1] ?? root?.fileSystem?.type;
  const ofRoot = type === undefined ? [] : (FILE_SYSTEM_MODULES[type] ?? [type]);
  const others = new Set(
    volumes.flatMap(({ fileSystem }) => FILE_SYSTEM_MODULES[fileSystem?.type ?? ""] ?? []),
  );
  return {
    required: ["virtio_pci", "virtio_blk", ...ofRoot.slice(0, 1)],
    useful: [...DISK_MODULES, ...OTHER_MODULES, ...ofRoot, ...others],
  };
}

/** Of the required modules those that a kernel, whose modules are not known, has no trace of. */
async function missingInKernel(
  { kernel, kernelName }: DiskBootRequest,
  { required }: Wanted,
): Promise<string[]> {
  const inside = isBzImage(kernel) ? await kernelInside(kernel, kernelName) : kernel;
  if (inside === undefined) return [];
  const bytes = Buffer.from(inside.buffer, inside.byteOffset, inside.byteLength);
  // Drivers and file systems have their names as strings (KBUILD_MODNAME, struct file_system_type).
  return required.filter((name) => {
    const texts = name === "virtio_pci" ? ["virtio-pci"] : [name];
    return !texts.some((text) => bytes.includes(`\0${text}\0`));
  });
}

/** `root`: where it is on a disk; what is known of it. */
function buildArchive(
  modules: readonly { name: string; bytes: Uint8Array }[],
  root: Partial<Volume> | undefined,
  optional: boolean,
): Uint8Array {
  const archive = new CpioArchive();
  for (const { name, bytes } of modules) archive.file(`${MODULE_DIRECTORY}/${name}.ko`, bytes);
  archive.file(MODULE_ORDER, modules.map(({ name }) => `${name}.ko\n`).join(""));
  if (root !== undefined) {
    const { device, fileSystem } = root;
    const script = rootInitScript({
      ...(device === undefined ? {} : { device }),
      ...(fileSystem === undefined ? {} : { type: fileSystem.type }),
      optional,
    });
    archive.file(ROOT_INIT_FILE, script);
  }
  return archive.toBytes();
}
