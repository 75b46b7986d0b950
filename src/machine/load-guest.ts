/**
 * What a PC's firmware and boot loader leave behind: tables and the kernel in memory, processors in the state in which
 * kernels expect them.
 */
import { writeAcpiTables } from "../boot/acpi/tables.js";
import { kernelCommandLine } from "../boot/command-line.js";
import { e820Map } from "../boot/e820.js";
import { loadKernel } from "../boot/kernel-image.js";
import { findMultibootHeader } from "../boot/multiboot.js";
import type { CpuidEntry, Vm } from "../hypervisor/seam.js";
import type { Board } from "./board.js";
import type { ConsoleKind, MachineConfig } from "./config.js";
import type { GuestSources } from "./guest-sources.js";

/** Put the guest's kernel into memory and the vCPUs into their first state; returns what was loaded, a line. */
export async function loadGuest(board: Board, config: MachineConfig, guest: GuestSources): Promise<string> {
  const { guestMemory, vm } = board;
  const { cpus } = config;
  const acpi = writeAcpiTables(guestMemory, { cpus, virtioMmio: board.virtio.mmioPlaces });
  const state = await loadKernel(guestMemory, {
    kernelPath: guest.kernelName,
    kernel: guest.kernel,
    ...(guest.initrd === undefined ? {} : { initrd: guest.initrd }),
    ...(guest.initrdName === undefined ? {} : { initrdPath: guest.initrdName }),
    commandLine: commandLine(guest, config.console),
    rsdp: acpi.rsdp,
    e820: e820Map(guestMemory),
  });
  for (let id = 0; id < cpus; id++) prepareProcessor(vm, id, cpus);
  const first = vm.vcpu(0);
  first.setSregs(state.sregs);
  first.setRegs(state.regs);
  return state.description;
}

/** NLKT's own parameters are for Linux: other multiboot kernels would take them for arguments. */
function commandLine({ kernel, params, defaultParams, quiet }: GuestSources, console: ConsoleKind): string {
  if (!defaultParams || findMultibootHeader(kernel) !== undefined) return params;
  return kernelCommandLine({
    quiet,
    params: [params],
    ...(console === "none" ? {} : { console: console === "serial" ? "ttyS0" : "hvc0" }),
  });
}

/** IA32_MTRR_DEF_TYPE: MTRRs on, all memory write-back (SDM vol. 3A, 11.11.2.1), as firmware leaves it. */
const MSR_MTRR_DEF_TYPE = 0x2ff;
const MTRR_ENABLE = 1n << 11n;
const MTRR_WRITE_BACK = 6n;

function prepareProcessor(vm: Vm, id: number, cpus: number): void {
  const vcpu = vm.vcpu(id);
  vcpu.setCpuid(vm.supportedCpuid().map((entry) => withTopology(entry, id, cpus)));
  vcpu.setMsrs([{ index: MSR_MTRR_DEF_TYPE, data: MTRR_ENABLE | MTRR_WRITE_BACK }]);
}

const CPUID_FEATURES = 0x1;
const CPUID_TOPOLOGY = 0xb;
const CPUID_TOPOLOGY_V2 = 0x1f;
/** Leaf 1, EDX bit 28: EBX[23:16] counts logical processors. */
const FEATURE_HTT = 1 << 28;

/** `entry` with the numbers that tell processors apart (SDM vol. 2A, CPUID, leaves 01H, 0BH and 1FH). */
function withTopology(entry: CpuidEntry, id: number, cpus: number): CpuidEntry {
  switch (entry.function) {
    case CPUID_FEATURES: {
      const ebx = ((entry.ebx & 0xff00) | (Math.min(cpus, 0xff) << 16) | (Math.min(id, 0xff) << 24)) >>> 0;
      return { ...entry, ebx, edx: (cpus > 1 ? entry.edx | FEATURE_HTT : entry.edx & ~FEATURE_HTT) >>> 0 };
    }
    case CPUID_TOPOLOGY:
    case CPUID_TOPOLOGY_V2:
      return { ...entry, edx: id };
    default:
      return entry;
  }
}
