/** What the ACPI tables have to describe: the machine as it is put together. */

/** A 16550A serial port. */
export interface SerialPort {
  readonly port: number;
  readonly irq: number;
}

/** The four serial ports of a PC, as COM1 to COM4. */
export const PC_SERIAL_PORTS: readonly SerialPort[] = [
  { port: 0x3f8, irq: 4 },
  { port: 0x2f8, irq: 3 },
  { port: 0x3e8, irq: 4 },
  { port: 0x2e8, irq: 3 },
];

/** A virtio-mmio device: its registers and its level-triggered interrupt. */
export interface VirtioMmioPlace {
  readonly base: number;
  readonly size: number;
  readonly gsi: number;
}

export interface AcpiOptions {
  /** Processors; number i has local APIC ID i and ACPI processor UID i. */
  readonly cpus: number;
  /** Default: the four of a PC. */
  readonly serialPorts?: readonly SerialPort[];
  /** CMOS RTC at ports 0x70–0x71; default true. */
  readonly rtc?: boolean;
  /** i8042 with keyboard and mouse; default true. */
  readonly i8042?: boolean;
  /** PCI host bridge with ECAM; default true. */
  readonly pci?: boolean;
  /** virtio devices over MMIO; default none. */
  readonly virtioMmio?: readonly VirtioMmioPlace[];
  /**
   * Where 64-bit memory regions of PCI functions may go: above RAM, within the processor's physical
   * addresses.
   */
  readonly pciHighWindow?: { readonly base: number; readonly size: number };
}

export type Platform = Required<Omit<AcpiOptions, "pciHighWindow">> & Pick<AcpiOptions, "pciHighWindow">;

/** 4096 names C000 to CFFF in the DSDT. */
const MAX_CPUS = 4096;

/** `options` with the defaults filled in. Throws `RangeError` for an impossible count of processors. */
export function platform(options: AcpiOptions): Platform {
  const { cpus } = options;
  if (!(Number.isInteger(cpus) && cpus >= 1 && cpus <= MAX_CPUS))
    throw new RangeError(`ACPI tables for ${cpus} CPUs`);
  return { serialPorts: PC_SERIAL_PORTS, rtc: true, i8042: true, pci: true, virtioMmio: [], ...options };
}
