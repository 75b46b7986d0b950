/**
 * All ACPI tables of the machine, placed where kernels look for the RSDP: 0xE0000 to 0xFFFFF, on a 16-byte
 * boundary (ACPI 6.5, 5.2.5.1). The whole range is to be reported as reserved in the E820 map.
 */
import { ECAM_BASE, ECAM_BUSES } from "../../devices/pci/host-bridge.js";
import { type GuestMemory, gpa } from "../../memory/guest-memory.js";
import { alignUp } from "../../memory/layout.js";
import { dsdt } from "./dsdt.js";
import { facs, fadt } from "./fadt.js";
import { madt } from "./madt.js";
import { type AcpiOptions, platform } from "./platform.js";
import { checksum, OEM_ID, TableWriter, table } from "./table-writer.js";

export const ACPI_TABLES_BASE = 0xe0000;
export const ACPI_TABLES_END = 0x100000;

const DSDT_REVISION = 2;
const MCFG_REVISION = 1;
const RSDT_REVISION = 1;
const XSDT_REVISION = 1;

const RSDP_REVISION = 2;
const RSDP_SIZE = 36;
/** The part that ACPI 1.0 had, with a checksum of its own. */
const RSDP_V1_SIZE = 20;
const RSDP_CHECKSUM = 8;
const RSDP_EXTENDED_CHECKSUM = 32;

/** The FACS wants 64 bytes (5.2.10); 16 are customary for the rest. */
const FACS_ALIGN = 64;
const TABLE_ALIGN = 16;

/** Where the tables are, in guest-physical addresses. */
export interface AcpiTables {
  readonly rsdp: number;
  /** First address after the last table. */
  readonly end: number;
}

/**
 * Write all tables to guest memory. Throws `RangeError` where they do not fit below `ACPI_TABLES_END` (above
 * about 2,000 processors) and `GuestMemoryError` where there is no RAM.
 */
export function writeAcpiTables(memory: GuestMemory, options: AcpiOptions): AcpiTables {
  const machine = platform(options);
  let end = ACPI_TABLES_BASE + RSDP_SIZE;
  const place = (bytes: Uint8Array, align = TABLE_ALIGN): number => {
    const at = alignUp(end, align);
    if (at + bytes.length > ACPI_TABLES_END) {
      throw new RangeError(`the ACPI tables for ${options.cpus} CPUs do not fit below 1 MiB`);
    }
    memory.write(gpa(at), bytes);
    end = at + bytes.length;
    return at;
  };
  const facsAt = place(facs(), FACS_ALIGN);
  const dsdtAt = place(table("DSDT", DSDT_REVISION, dsdt(machine)));
  const listed = [place(fadt(machine, facsAt, dsdtAt)), place(madt(machine.cpus))];
  if (machine.pci) listed.push(place(mcfg()));
  const rsdt = place(table("RSDT", RSDT_REVISION, new TableWriter().u32(...listed).bytes()));
  const xsdt = place(table("XSDT", XSDT_REVISION, new TableWriter().u64(...listed).bytes()));
  memory.write(gpa(ACPI_TABLES_BASE), rsdp(rsdt, xsdt));
  return { rsdp: ACPI_TABLES_BASE, end };
}

/** PCI Firmware Specification 3.2, 4.1.2: one segment, all buses. */
function mcfg(): Uint8Array {
  const body = new TableWriter()
    .zeros(8)
    .u64(ECAM_BASE)
    .u16(0)
    .u8(0, ECAM_BUSES - 1)
    .u32(0);
  return table("MCFG", MCFG_REVISION, body.bytes());
}

/** ACPI 6.5, 5.2.5.3. The RSDT is for programs that know ACPI 1.0 only. */
function rsdp(rsdt: number, xsdt: number): Uint8Array {
  const bytes = new TableWriter()
    .text("RSD PTR ", 8)
    .u8(0)
    .text(OEM_ID, 6)
    .u8(RSDP_REVISION)
    .u32(rsdt, RSDP_SIZE)
    .u64(xsdt)
    .zeros(4)
    .bytes();
  bytes[RSDP_CHECKSUM] = checksum(bytes.subarray(0, RSDP_V1_SIZE));
  bytes[RSDP_EXTENDED_CHECKSUM] = checksum(bytes);
  return bytes;
}
