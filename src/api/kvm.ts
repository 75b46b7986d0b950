/**
 * `nlkt/kvm`: Linux's KVM for programs. The ABI of <linux/kvm.h> on x86-64 as tables (numbers, structures, constants), and the
 * system calls that a program needs to use it. docs/kvm.md has an example.
 */
export * from "../hypervisor/kvm/abi/index.js";
export { KvmDevice, KvmUnavailable } from "../hypervisor/kvm/device.js";
export {
  addressOf,
  close,
  eventfd,
  HostError,
  ioctl,
  ioctlPointer,
  mapShared,
  memoryAt,
  openDevice,
  readEventfd,
  signalEventfd,
  unmap,
} from "../hypervisor/kvm/host.js";
