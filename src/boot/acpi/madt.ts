/** The Multiple APIC Description Table: ACPI 6.5, 5.2.12. */
import { SCI_GSI } from "../../devices/acpi-pm.js";
import { TableWriter, table } from "./table-writer.js";

const MADT_REVISION = 6;

export const LOCAL_APIC_BASE = 0xfee00000;
export const IO_APIC_BASE = 0xfec00000;
/** As its ID register reads after reset. */
const IO_APIC_ID = 0;
const IO_APIC_GSI_BASE = 0;

/** MADT flags: there are two 8259s too. */
const PCAT_COMPAT = 1;

/** Interrupt controller structure types, table 5.21, and their lengths. */
const Entry = {
  LOCAL_APIC: [0, 8],
  IO_APIC: [1, 12],
  INTERRUPT_SOURCE_OVERRIDE: [2, 10],
  LOCAL_APIC_NMI: [4, 6],
  LOCAL_X2APIC: [9, 16],
  LOCAL_X2APIC_NMI: [10, 12],
} as const;

const APIC_ENABLED = 1;
/** From this APIC ID on, a processor needs the x2APIC structure; below, it must use the other (5.2.12.12). */
const FIRST_X2APIC_ID = 255;
const ALL_PROCESSORS_8 = 0xff;
const ALL_PROCESSORS_32 = 0xffffffff;
/** LINT1 is where a PC has its NMI. */
const NMI_LINT = 1;

/** MPS INTI flags, table 5.26: polarity in bits 0–1, trigger mode in bits 2–3. 0: as the bus has it. */
const BUS_DEFAULT = 0;
const LEVEL_ACTIVE_HIGH = 0b11_01;
const ISA_BUS = 0;

/** ISA interrupts that are not the GSI of their number, or not edge-triggered and active high. */
const OVERRIDES = [
  // The PIT is wired to input 2 of the I/O APIC; input 0 is the 8259s' output.
  { irq: 0, gsi: 2, flags: BUS_DEFAULT },
  { irq: SCI_GSI, gsi: SCI_GSI, flags: LEVEL_ACTIVE_HIGH },
] as const;

/** Processor i has local APIC ID and processor UID i. */
export function madt(cpus: number): Uint8Array {
  const body = new TableWriter().u32(LOCAL_APIC_BASE, PCAT_COMPAT);
  for (let id = 0; id < cpus; id++) {
    if (id < FIRST_X2APIC_ID) {
      body
        .u8(...Entry.LOCAL_APIC)
        .u8(id, id)
        .u32(APIC_ENABLED);
    } else {
      body
        .u8(...Entry.LOCAL_X2APIC)
        .u16(0)
        .u32(id, APIC_ENABLED, id);
    }
  }
  body
    .u8(...Entry.IO_APIC)
    .u8(IO_APIC_ID, 0)
    .u32(IO_APIC_BASE, IO_APIC_GSI_BASE);
  for (const { irq, gsi, flags } of OVERRIDES) {
    body
      .u8(...Entry.INTERRUPT_SOURCE_OVERRIDE)
      .u8(ISA_BUS, irq)
      .u32(gsi)
      .u16(flags);
  }
  body
    .u8(...Entry.LOCAL_APIC_NMI)
    .u8(ALL_PROCESSORS_8)
    .u16(BUS_DEFAULT)
    .u8(NMI_LINT);
  if (cpus > FIRST_X2APIC_ID) {
    body
      .u8(...Entry.LOCAL_X2APIC_NMI)
      .u16(BUS_DEFAULT)
      .u32(ALL_PROCESSORS_32)
      .u8(NMI_LINT, 0, 0, 0);
  }
  return table("APIC", MADT_REVISION, body.bytes());
}
