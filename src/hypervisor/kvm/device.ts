/** /dev/kvm itself: whether it can be used, and what it can do (Linux, Documentation/virt/kvm/api.rst, 4.1–4.4). */
import { Cap, KVM_API_VERSION } from "./abi/constants.js";
import { Ioctl } from "./abi/ioctls.js";
import { close, Errno, HostError, ioctl, openDevice } from "./host.js";

/** KVM cannot be used, in one line that says what to do. */
export class KvmUnavailable extends Error {
  override readonly name = "KvmUnavailable";
}

/** Everything that this provider cannot do without, by its purpose. */
const REQUIRED = [
  "KVM_CAP_USER_MEMORY",
  "KVM_CAP_READONLY_MEM",
  "KVM_CAP_IRQCHIP",
  "KVM_CAP_PIT2",
  "KVM_CAP_IRQ_ROUTING",
  "KVM_CAP_IRQFD",
  "KVM_CAP_IOEVENTFD",
  "KVM_CAP_SIGNAL_MSI",
  "KVM_CAP_SET_TSS_ADDR",
  "KVM_CAP_SET_IDENTITY_MAP_ADDR",
  "KVM_CAP_EXT_CPUID",
  "KVM_CAP_MP_STATE",
  "KVM_CAP_VCPU_EVENTS",
  "KVM_CAP_DEBUGREGS",
  "KVM_CAP_SET_GUEST_DEBUG",
  "KVM_CAP_USER_NMI",
  "KVM_CAP_XSAVE",
  "KVM_CAP_XCRS",
  "KVM_CAP_ADJUST_CLOCK",
  "KVM_CAP_GET_TSC_KHZ",
  "KVM_CAP_IMMEDIATE_EXIT",
] as const satisfies readonly (keyof typeof Cap)[];

const SOFT_HINT = "use --accel soft";

export class KvmDevice {
  private constructor(
    readonly path: string,
    readonly fd: number,
  ) {}

  /** Throws `KvmUnavailable`. */
  static open(path: string): KvmDevice {
    const device = new KvmDevice(path, openNode(path));
    try {
      device.#check();
    } catch (error) {
      device.close();
      throw error;
    }
    return device;
  }

  /** The device opened before, in another thread. */
  static attach(path: string, fd: number): KvmDevice {
    return new KvmDevice(path, fd);
  }

  #check(): void {
    const { path, fd } = this;
    let version: number;
    try {
      version = ioctl(fd, Ioctl.KVM_GET_API_VERSION, 0, "KVM_GET_API_VERSION");
    } catch (error) {
      if ((error as HostError).errno !== Errno.ENOTTY) throw error;
      throw new KvmUnavailable(`${path}: not the KVM device; name it with --dev, or ${SOFT_HINT}`);
    }
    const problem = abiProblem(path, version, (cap) => this.capability(cap));
    if (problem !== undefined) throw new KvmUnavailable(problem);
  }

  /** KVM_CHECK_EXTENSION: 0 where KVM has not got it. */
  capability(cap: number): number {
    return ioctl(this.fd, Ioctl.KVM_CHECK_EXTENSION, cap, "KVM_CHECK_EXTENSION");
  }

  /** Throws `KvmUnavailable` where KVM cannot have so many vCPUs. */
  checkCpus(cpus: number): void {
    const most = Math.max(this.capability(Cap.KVM_CAP_MAX_VCPUS), this.capability(Cap.KVM_CAP_NR_VCPUS));
    if (cpus > most)
      throw new KvmUnavailable(`--cpus: ${cpus} is too many: the host's KVM runs at most ${most}`);
  }

  close(): void {
    close(this.fd);
  }
}

/** What this provider needs and a KVM of that version and with these capabilities has not got, in a line, or undefined. */
export function abiProblem(
  path: string,
  version: number,
  capability: (cap: number) => number,
): string | undefined {
  if (version !== KVM_API_VERSION) {
    return `${path}: KVM API version ${version} instead of ${KVM_API_VERSION}: the host's kernel is too old; ${SOFT_HINT}`;
  }
  const missing = REQUIRED.filter((name) => capability(Cap[name]) <= 0);
  return missing.length === 0
    ? undefined
    : `${path}: the host's KVM lacks ${missing.join(", ")}; ${SOFT_HINT}`;
}

function openNode(path: string): number {
  try {
    return openDevice(path);
  } catch (error) {
    throw error instanceof HostError ? new KvmUnavailable(openMessage(path, error)) : error;
  }
}

export function openMessage(path: string, { errno, message }: HostError): string {
  switch (errno) {
    case Errno.ENOENT:
    case Errno.ENODEV:
    case Errno.ENXIO:
      return `${path}: no such device: load the module kvm_intel or kvm_amd (virtualization enabled in the firmware), or ${SOFT_HINT}`;
    case Errno.EACCES:
    case Errno.EPERM:
      return `${path}: permission denied: join the group kvm, or ${SOFT_HINT}`;
    default:
      return `${message}: ${SOFT_HINT}`;
  }
}
