/**
 * What a machine is made of. A plain object that can be posted to a Worker: every thread of the machine builds its
 * objects from the same configuration (DESIGN, 2).
 */
import type { DiskSpec } from "../backends/disk/open-disk.js";
import { formatMiB, MAX_KVM_RAM_BYTES, MAX_RAM_BYTES, MIN_RAM_BYTES } from "./memory-map.js";

const MIB = 2 ** 20;

export const DEFAULT_RAM_BYTES = 512 * MIB;
export const DEFAULT_CPUS = 1;
export const DEFAULT_KVM_DEVICE = "/dev/kvm";

/** vCPUs that the soft provider can run. */
export const MAX_SOFT_CPUS = 8;
/** And KVM: APIC IDs of 8 bits, without the one that means all. The host may have less. */
export const MAX_KVM_CPUS = 255;

export const LOG_LEVELS = ["error", "warning", "info", "debug"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export const CONSOLES = ["serial", "virtio", "none"] as const;
export type ConsoleKind = (typeof CONSOLES)[number];

export const ACCELS = ["auto", "kvm", "soft"] as const;
export type Accel = (typeof ACCELS)[number];

export const TIERS = ["auto", "hot", "cold"] as const;
export type Tier = (typeof TIERS)[number];

export const ON_REBOOT = ["exit", "restart"] as const;
export type OnReboot = (typeof ON_REBOOT)[number];

export const VIRTIO_TRANSPORTS = ["pci", "pci-legacy", "pci-transitional", "mmio"] as const;
export type VirtioTransport = (typeof VIRTIO_TRANSPORTS)[number];

export const VIRTIO_RINGS = ["packed", "split"] as const;
/** `packed`: both kinds are offered. */
export type VirtioRing = (typeof VIRTIO_RINGS)[number];

/** A virtio disk. */
export interface DiskConfig {
  readonly spec: DiskSpec;
  /** What the guest sees as the disk's serial number, up to 20 characters. */
  readonly serial: string;
}

/** A further port of the virtio console, `/dev/virtio-ports/NAME` in the guest, and the Unix socket of the host that it is. */
export interface ConsolePortConfig {
  readonly name: string;
  readonly uds: string;
}

/** The virtio socket device. */
export interface VsockConfig {
  /** The guest's context ID. */
  readonly cid: number;
  /** Unix socket for streams of the host to the guest; those of the guest to port N go to the one with `_N` behind it. */
  readonly uds?: string;
}

/** Context IDs up to 2 mean the hypervisor, this host and others; the last one means any (VIRTIO 5.10.4). */
export const MIN_CID = 3;
export const MAX_CID = 0xfffffffe;

/** Serial ports: COM1 is 0. */
export const SERIAL_PORTS = 4;

export interface DebugFlags {
  /** Trace port accesses on standard error. */
  readonly ioport: boolean;
  /** Trace MMIO accesses on standard error. */
  readonly mmio: boolean;
  /** Run instruction by instruction and trace each on standard error. */
  readonly singleStep: boolean;
}

export interface MachineConfig {
  readonly name: string;
  /** Guest RAM in bytes, holes not counted. */
  readonly ramBytes: number;
  readonly cpus: number;
  readonly accel: Accel;
  /** KVM's device node. */
  readonly dev: string;
  readonly tier: Tier;
  /** File for where the vCPUs' time went, written at the machine's end. */
  readonly profileCpu?: string;
  /** Module (URL) that exports another provider, `Provider` of provider.ts; for tests and experiments. */
  readonly providerModule?: string;
  /** What the guest's console is: COM1, port 0 of a virtio console, or nothing. */
  readonly console: ConsoleKind;
  /** The port 0xf4 debug exit. */
  readonly isaDebugExit: boolean;
  readonly onReboot: OnReboot;
  readonly debug: DebugFlags;
  /** How virtio devices are reached. */
  readonly virtioTransport: VirtioTransport;
  readonly virtioRing: VirtioRing;
  /** The first is /dev/vda. */
  readonly disks: readonly DiskConfig[];
  readonly rng: boolean;
  readonly balloon: boolean;
  readonly vsock?: VsockConfig;
  readonly consolePorts: readonly ConsolePortConfig[];
  /** Numbers of the serial ports that have a pseudo-terminal each. */
  readonly ttys: readonly number[];
}

/** A configuration that cannot be run, in one line that names the option. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
}

/** Environment variable that names `MachineConfig.providerModule` where the options do not: for tests. */
const PROVIDER_VARIABLE = "NLKT_PROVIDER_MODULE";

let machines = 0;

/** Names of running instances are unique: the second machine of a process has a number more. */
function defaultName(): string {
  machines++;
  return machines === 1 ? `guest-${process.pid}` : `guest-${process.pid}-${machines}`;
}

export function defaultConfig(): MachineConfig {
  const providerModule = process.env[PROVIDER_VARIABLE];
  return {
    name: defaultName(),
    ramBytes: DEFAULT_RAM_BYTES,
    cpus: DEFAULT_CPUS,
    accel: "auto",
    dev: DEFAULT_KVM_DEVICE,
    tier: "auto",
    console: "serial",
    isaDebugExit: false,
    onReboot: "exit",
    debug: { ioport: false, mmio: false, singleStep: false },
    virtioTransport: "pci",
    virtioRing: "packed",
    disks: [],
    rng: true,
    balloon: false,
    consolePorts: [],
    ttys: [],
    ...(providerModule === undefined ? {} : { providerModule }),
  };
}

/** Throws `ConfigError` for what no machine can be made of. `--accel auto` is decided by then. */
export function checkConfig(config: MachineConfig, hostArchitecture: string = process.arch): void {
  const { ramBytes, cpus } = config;
  if (!Number.isInteger(ramBytes)) throw new ConfigError(`--mem: ${ramBytes} is no whole number of bytes`);
  if (ramBytes < MIN_RAM_BYTES) {
    throw new ConfigError(`--mem: ${formatMiB(ramBytes)} is too small: at least ${formatMiB(MIN_RAM_BYTES)}`);
  }
  const soft = config.accel === "soft" && config.providerModule === undefined;
  const most = soft || config.providerModule !== undefined ? MAX_RAM_BYTES : MAX_KVM_RAM_BYTES;
  if (ramBytes > most) {
    const who = soft ? "the software CPU takes " : "";
    throw new ConfigError(`--mem: ${formatMiB(ramBytes)} is too large: ${who}at most ${formatMiB(most)}`);
  }
  if (config.profileCpu !== undefined && config.accel === "kvm") {
    throw new ConfigError("--profile-cpu: only the software CPU has a profile (--accel soft)");
  }
  checkDevices(config);
  if (!Number.isInteger(cpus) || cpus < 1) throw new ConfigError(`--cpus: ${cpus} is no number of vCPUs`);
  if (cpus > MAX_KVM_CPUS) {
    throw new ConfigError(`--cpus: ${cpus} is too many: at most ${MAX_KVM_CPUS}`);
  }
  if (soft) {
    if (cpus > MAX_SOFT_CPUS) {
      throw new ConfigError(`--cpus: ${cpus} is too many: the software CPU runs at most ${MAX_SOFT_CPUS}`);
    }
    // Plain accesses of the guest are plain accesses of the host: they rely on its memory order.
    if (cpus > 1 && hostArchitecture !== "x64") {
      throw new ConfigError(
        `--cpus: ${cpus} vCPUs of the software CPU need a host with the memory order of x86, not ${hostArchitecture}`,
      );
    }
  }
}

const MAX_VIRTIO_DEVICES = 31;
/** Of a virtio console, the console itself not counted. */
const MAX_NAMED_PORTS = 15;

function checkDevices(config: MachineConfig): void {
  const { disks, vsock, consolePorts, ttys, console } = config;
  if (vsock !== undefined) {
    const { cid } = vsock;
    if (!Number.isInteger(cid) || cid < MIN_CID || cid > MAX_CID) {
      throw new ConfigError(`--vsock: ${cid} is no context ID of a guest: ${MIN_CID} to ${MAX_CID}`);
    }
  }
  for (const tty of ttys) {
    if (!Number.isInteger(tty) || tty < 0 || tty >= SERIAL_PORTS) {
      throw new ConfigError(`--tty: there is no serial port ${tty}: 0 to ${SERIAL_PORTS - 1}`);
    }
  }
  if (consolePorts.length > MAX_NAMED_PORTS) {
    throw new ConfigError(`--virtio-port: ${consolePorts.length} are too many: at most ${MAX_NAMED_PORTS}`);
  }
  const others = [
    config.rng,
    config.balloon,
    vsock !== undefined,
    console === "virtio" || consolePorts.length > 0,
  ];
  const count = disks.length + others.filter(Boolean).length;
  if (count > MAX_VIRTIO_DEVICES) {
    throw new ConfigError(`${count} virtio devices are too many: at most ${MAX_VIRTIO_DEVICES} (--disk)`);
  }
}
