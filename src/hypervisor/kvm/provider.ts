/** The provider `kvm`: a VM of the Linux kernel. Meets src/hypervisor/seam.ts. */
import type { Clock } from "../../memory/clock.js";
import type { GuestMemory, MemorySlot } from "../../memory/guest-memory.js";
import { Mutex } from "../../memory/mutex.js";
import type { SharedMemory } from "../../memory/shared-memory.js";
import type { StateAllocator } from "../../memory/state-allocator.js";
import type { Timers } from "../../memory/timers.js";
import type { CpuidEntry, Doorbell, IrqRoute, Msi, Vm } from "../seam.js";
import { Cap, Kvm } from "./abi/constants.js";
import { Ioctl } from "./abi/ioctls.js";
import { encodeList } from "./abi/struct.js";
import * as abi from "./abi/structs.js";
import { machineCpuid } from "./cpuid.js";
import { DEFAULT_DEVICE, KvmDevice, KvmUnavailable } from "./device.js";
import { DirtyPages } from "./dirty-pages.js";
import { addressOf, close, Errno, HostError, ioctl, ioctlPointer, mapShared, unmap } from "./host.js";
import { msiAddress, routeTo } from "./registers.js";
import { KVM_STATE, KVM_VCPU, type KvmState, type KvmVcpuState, MAX_SLOTS } from "./state.js";
import { KvmVcpu, readCpuid } from "./vcpu.js";
