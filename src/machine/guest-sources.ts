/** From options to what is to be loaded: the kernel's and the initial RAM disk's bytes, the command line. */
import type { DiskSpec } from "../backends/disk/open-disk.js";
import { concatArchives } from "../boot/cpio.js";
import { fetchInitramfs, fetchKernel, type Progress } from "../boot/default-guest.js";
import { type DiskBoot, planDiskBoot } from "../boot/disk-boot.js";
import { guestCommandArchive } from "../boot/guest-command.js";
import { readImageFile } from "../boot/kernel-image.js";
import { ConfigError, type ConsoleKind, type ConsolePortConfig, type VsockConfig } from "./config.js";
import { given } from "./given.js";

export type { Progress } from "../boot/default-guest.js";

export interface GuestOptions {
  readonly kernel?: string;
  readonly initrd?: string;
  readonly defaultInitrd?: boolean;
  readonly params?: string;
  readonly command?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  readonly terminal?: { rows: number; columns: number };
  readonly nodefaults?: boolean;
  /** The guest's disks, in their order. */
  readonly disks?: readonly DiskSpec[];
  /** Its other virtio devices. */
  readonly console?: ConsoleKind;
  readonly consolePorts?: readonly ConsolePortConfig[];
  readonly balloon?: boolean;
  readonly vsock?: VsockConfig;
}

export interface GuestSources {
  /** For messages. */
  readonly kernelName: string;
  readonly kernel: Uint8Array;
  readonly initrd?: Uint8Array;
  readonly initrdName?: string;
  /** What the user wants on the command line. */
  readonly params: string;
  /** Whether NLKT's own parameters go before it. */
  readonly defaultParams: boolean;
  /** Whether Linux is to print warnings and errors only. */
  readonly quiet: boolean;
  readonly command?: readonly string[];
}

/** Get everything that `options` name or imply. Throws an error of one line. */
export async function resolveGuest(
  options: GuestOptions,
  progress: Progress = () => {},
  warn: (text: string) => void = () => {},
): Promise<GuestSources> {
  const { command, nodefaults = false } = options;
  if (options.kernel === undefined && nodefaults) {
    throw new ConfigError("no kernel: with --nodefaults, --kernel has to name one");
  }
  if (command !== undefined && command.length === 0) throw new ConfigError("the command is empty");
  const kernelFile = options.kernel ?? (await fetchKernel({}, progress)).vmlinuz;
  const kernel = await readImageFile(kernelFile, "kernel");
  const params = options.params ?? "";
  const fromDisk = await planDiskBoot({
    kernelName: kernelFile,
    kernel,
    // Who names an initial RAM disk has what is needed in it.
    disks: nodefaults || options.initrd !== undefined ? [] : (options.disks ?? []),
    deviceModules: nodefaults || options.initrd !== undefined ? [] : deviceModules(options),
    params,
    mayBoot: command === undefined,
    progress,
    warn,
  });
  const initrd = await resolveInitrd(options, fromDisk, progress);
  return {
    kernelName: kernelFile,
    kernel,
    ...initrd,
    params: [params, fromDisk.params].filter((text) => text !== "").join(" "),
    defaultParams: !nodefaults,
    // Who names a kernel wants to see it boot; who names none wants to use a guest.
    quiet: options.kernel === undefined || command !== undefined,
    ...given({ command }),
  };
}

/** Linux's drivers of the virtio devices that are no disks; the one for random numbers is not worth the wait. */
function deviceModules({ console, consolePorts = [], balloon, vsock }: GuestOptions): string[] {
  return [
    ...(console === "virtio" || consolePorts.length > 0 ? ["virtio_console"] : []),
    ...(balloon === true ? ["virtio_balloon"] : []),
    ...(vsock === undefined ? [] : ["vmw_vsock_virtio_transport"]),
  ];
}

async function resolveInitrd(options: GuestOptions, fromDisk: DiskBoot, progress: Progress) {
  const { command, kernel, initrd } = options;
  if (initrd !== undefined) {
    if (command !== undefined) throw new ConfigError("--initrd and a command exclude each other");
    return { initrdName: initrd, initrd: await readImageFile(initrd, "initrd") };
  }
  const wanted = fromDisk.root
    ? fromDisk.archive !== undefined
    : command !== undefined || (options.defaultInitrd ?? kernel === undefined);
  if (!wanted) return undefined;
  const file = await fetchInitramfs(progress);
  const extra = guestCommandArchive({
    ...given({ argv: command, environment: options.environment, terminal: options.terminal }),
  });
  const base = await readImageFile(file, "initrd");
  return {
    initrdName: file,
    initrd: concatArchives([base, extra, ...(fromDisk.archive === undefined ? [] : [fromDisk.archive])]),
  };
}
