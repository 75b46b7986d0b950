/**
 * The contents of the DSDT: the machine's devices as AML. ACPI 6.5, chapters 5, 6 and 8; PCI Firmware
 * Specification 3.2, chapter 4 (host bridges, _OSC, how ECAM is reported).
 *
 * The power button is a fixed-feature button (ACPI 6.5, 4.8.2.2.1.1): the FADT declares it, so it has no
 * device here.
 */
import { SLEEP_TYPE_S5 } from "../../devices/acpi-pm.js";
import {
  ECAM_BASE,
  ECAM_BUSES,
  ECAM_SIZE,
  intxGsi,
  PCI_CONFIG_PORT,
  PCI_CONFIG_PORT_COUNT,
  PCI_MMIO_BASE,
  PCI_MMIO_SIZE,
} from "../../devices/pci/host-bridge.js";
import {
  type Aml,
  arg,
  concat,
  createDwordField,
  device,
  eisaId,
  equal,
  method,
  name,
  not,
  or,
  otherwise,
  path,
  pkg,
  resourceTemplate,
  returns,
  scope,
  uuid,
  when,
} from "./aml.js";
import type { Platform, SerialPort, VirtioMmioPlace } from "./platform.js";
import {
  busNumbers,
  interruptLevel,
  io,
  ioWindow,
  irq,
  irqShared,
  memory32Fixed,
  memoryWindow,
} from "./resources.js";

/** _STA: present, enabled, shown in the user interface, functioning (6.3.7). */
const STATUS_PRESENT = 0b1111;

const PCI_DEVICES_PER_BUS = 32;
const PCI_PINS = 4;
/** _PRT address of all functions of a device (6.2.13). */
const PCI_ALL_FUNCTIONS = 0xffff;

/** _OSC of PCI host bridges: PCI Firmware 3.2, 4.5.1; status bits in the first dword: ACPI 6.5, 6.2.11. */
const OSC_PCI_UUID = "33DB4D5B-1FF7-401C-9657-7441C03DD766";
const OscStatus = { UNRECOGNIZED_UUID: 1 << 2, UNRECOGNIZED_REVISION: 1 << 3 } as const;
const OSC_PCI_REVISION = 1;

/** Definition block terms of the whole DSDT, without the table header. */
export function dsdt(machine: Platform): Aml {
  return concat(
    name("\\_S5", pkg(SLEEP_TYPE_S5, 0, 0, 0)),
    scope(
      "\\_SB",
      ...(machine.pci ? [pciHostBridge(machine), ecamReservation()] : []),
      ...(machine.rtc ? [rtc()] : []),
      ...(machine.i8042 ? [keyboard(), mouse()] : []),
      ...machine.serialPorts.map((serial, i) => serialPort(serial, i, machine.serialPorts)),
      ...machine.virtioMmio.map(virtioMmio),
      ...processors(machine.cpus),
    ),
  );
}

function pciHostBridge({ pciHighWindow }: Platform): Aml {
  const ports = 0x10000;
  const configEnd = PCI_CONFIG_PORT + PCI_CONFIG_PORT_COUNT;
  return device(
    "PCI0",
    name("_HID", eisaId("PNP0A08")),
    name("_CID", eisaId("PNP0A03")),
    name("_SEG", 0),
    name("_BBN", 0),
    name("_UID", 0),
    name(
      "_CRS",
      resourceTemplate(
        busNumbers(0, ECAM_BUSES),
        io(PCI_CONFIG_PORT, PCI_CONFIG_PORT_COUNT),
        ioWindow(0, PCI_CONFIG_PORT),
        ioWindow(configEnd, ports - configEnd),
        memoryWindow(PCI_MMIO_BASE, PCI_MMIO_SIZE),
        ...(pciHighWindow === undefined ? [] : [memoryWindow(pciHighWindow.base, pciHighWindow.size)]),
      ),
    ),
    pciOsc(),
    pciRouting(),
  );
}

/**
 * _OSC: the guest may have every PCI Express feature that it asks for, as there is no firmware that would use
 * it. Arguments: UUID, revision, count of dwords, buffer of dwords (status, support, control).
 */
function pciOsc(): Aml {
  return method(
    "_OSC",
    { args: 4, serialized: true },
    createDwordField(arg(3), 0, "CDW1"),
    when(
      equal(arg(0), uuid(OSC_PCI_UUID)),
      when(
        not(equal(arg(1), OSC_PCI_REVISION)),
        or(path("CDW1"), OscStatus.UNRECOGNIZED_REVISION, path("CDW1")),
      ),
    ),
    otherwise(or(path("CDW1"), OscStatus.UNRECOGNIZED_UUID, path("CDW1"))),
    returns(arg(3)),
  );
}

/**
 * _PRT: the four pins of each device go straight to I/O APIC inputs. They are not wired to the 8259s, so
 * there is one routing for every interrupt model and no need for \_PIC.
 */
function pciRouting(): Aml {
  const routes: Aml[] = [];
  for (let slot = 0; slot < PCI_DEVICES_PER_BUS; slot++) {
    for (let pin = 0; pin < PCI_PINS; pin++) {
      routes.push(pkg(slot * 0x10000 + PCI_ALL_FUNCTIONS, pin, 0, intxGsi(slot, pin)));
    }
  }
  return name("_PRT", pkg(...routes));
}

/** The ECAM window is a motherboard resource and not one of the host bridge (PCI Firmware 3.2, 4.1.2). */
function ecamReservation(): Aml {
  return device(
    "MBRD",
    name("_HID", eisaId("PNP0C02")),
    name("_UID", 0),
    name("_CRS", resourceTemplate(memory32Fixed(ECAM_BASE, ECAM_SIZE))),
  );
}

function rtc(): Aml {
  return device("RTC", name("_HID", eisaId("PNP0B00")), name("_CRS", resourceTemplate(io(0x70, 2), irq(8))));
}

function keyboard(): Aml {
  return device(
    "KBD",
    name("_HID", eisaId("PNP0303")),
    name("_STA", STATUS_PRESENT),
    name("_CRS", resourceTemplate(io(0x60, 1), io(0x64, 1), irq(1))),
  );
}

function mouse(): Aml {
  return device(
    "MOU",
    name("_HID", eisaId("PNP0F13")),
    name("_STA", STATUS_PRESENT),
    name("_CRS", resourceTemplate(irq(12))),
  );
}

function serialPort({ port, irq: line }: SerialPort, index: number, all: readonly SerialPort[]): Aml {
  const shared = all.some((other, i) => i !== index && other.irq === line);
  return device(
    `COM${index + 1}`,
    name("_HID", eisaId("PNP0501")),
    name("_UID", index + 1),
    name("_STA", STATUS_PRESENT),
    name("_CRS", resourceTemplate(io(port, 8), shared ? irqShared(line) : irq(line))),
  );
}

/** A virtio-mmio device, by the ID that Linux's and other systems' drivers look for (Linux, drivers/virtio/virtio_mmio.c). */
function virtioMmio({ base, size, gsi }: VirtioMmioPlace, index: number): Aml {
  return device(
    `VR${index.toString(16).toUpperCase().padStart(2, "0")}`,
    name("_HID", "LNRO0005"),
    name("_UID", index),
    // Coherent memory access (6.2.17).
    name("_CCA", 1),
    name("_STA", STATUS_PRESENT),
    name("_CRS", resourceTemplate(memory32Fixed(base, size), interruptLevel(gsi))),
  );
}

/** Processor devices (8.4); _UID is what ties each to its entry in the MADT. */
function processors(count: number): Aml[] {
  return Array.from({ length: count }, (_, i) =>
    device(
      `C${i.toString(16).toUpperCase().padStart(3, "0")}`,
      name("_HID", "ACPI0007"),
      name("_UID", i),
      name("_STA", STATUS_PRESENT),
    ),
  );
}
