/** The Fixed ACPI Description Table and the Firmware ACPI Control Structure: ACPI 6.5, 5.2.9 and 5.2.10. */
import { ACPI_PM_PORT, PmBlock, SCI_GSI } from "../../devices/acpi-pm.js";
import { RESET_CONTROL_PORT, ResetControl } from "../../devices/pci/host-bridge.js";
import type { Platform } from "./platform.js";
import { AccessWidth, type GenericAddress, TableWriter, table } from "./table-writer.js";

const FADT_REVISION = 6;
/** Minor version: ACPI 6.5, no errata. */
const FADT_MINOR = 5;

/** IA-PC boot architecture flags, 5.2.9.3. */
const BootFlag = {
  LEGACY_DEVICES: 1 << 0,
  I8042: 1 << 1,
  VGA_NOT_PRESENT: 1 << 2,
  CMOS_RTC_NOT_PRESENT: 1 << 5,
} as const;

/** Fixed feature flags, table 5.10. A clear PWR_BUTTON says that the power button is a fixed feature. */
const Feature = {
  WBINVD: 1 << 0,
  PROC_C1: 1 << 2,
  /** There is no sleep button as fixed feature. */
  SLP_BUTTON: 1 << 5,
  /** RTC alarms do not wake through the fixed registers. */
  FIX_RTC: 1 << 6,
  /** The PM timer has 32 bits. */
  TMR_VAL_EXT: 1 << 8,
  RESET_REG_SUP: 1 << 10,
} as const;

/** Latencies above 100 and 1000 microseconds say that there is no C2 and no C3 state. */
const NO_C2 = 101;
const NO_C3 = 1001;

/** RTC RAM index of the century, as the CMOS RTC has it. */
const RTC_CENTURY = 0x32;

const RESET_VALUE = ResetControl.SYSTEM | ResetControl.CPU;

const FACS_SIZE = 64;
const FACS_VERSION = 2;

function block({ offset, length }: { offset: number; length: number }, accessWidth: number): GenericAddress {
  return { port: ACPI_PM_PORT + offset, length, accessWidth };
}

/** `facs` and `dsdt` are the guest-physical addresses of those tables. */
export function fadt(machine: Platform, facs: number, dsdt: number): Uint8Array {
  const event = block(PmBlock.PM1_EVENT, AccessWidth.WORD);
  const control = block(PmBlock.PM1_CONTROL, AccessWidth.WORD);
  const timer = block(PmBlock.TIMER, AccessWidth.DWORD);
  const reset: GenericAddress = { port: RESET_CONTROL_PORT, length: 1, accessWidth: AccessWidth.BYTE };
  const bootFlags =
    (machine.serialPorts.length > 0 || machine.i8042 ? BootFlag.LEGACY_DEVICES : 0) |
    (machine.i8042 ? BootFlag.I8042 : 0) |
    BootFlag.VGA_NOT_PRESENT |
    (machine.rtc ? 0 : BootFlag.CMOS_RTC_NOT_PRESENT);
  const features =
    Feature.WBINVD |
    Feature.PROC_C1 |
    Feature.SLP_BUTTON |
    Feature.FIX_RTC |
    Feature.TMR_VAL_EXT |
    (machine.pci ? Feature.RESET_REG_SUP : 0);
  const body = new TableWriter()
    .u32(facs, dsdt)
    .u8(0, 0) // reserved, Preferred_PM_Profile: unspecified
    .u16(SCI_GSI)
    .u32(0) // SMI_CMD: always in ACPI mode
    .u8(0, 0, 0, 0) // ACPI_ENABLE, ACPI_DISABLE, S4BIOS_REQ, PSTATE_CNT
    .u32(event.port, 0, control.port, 0) // PM1a and PM1b event and control blocks
    .u32(0, timer.port, 0, 0) // PM2_CNT_BLK, PM_TMR_BLK, GPE0_BLK, GPE1_BLK
    .u8(event.length, control.length, 0, timer.length) // PM1_EVT_LEN, PM1_CNT_LEN, PM2_CNT_LEN, PM_TMR_LEN
    .u8(0, 0, 0, 0) // GPE0_BLK_LEN, GPE1_BLK_LEN, GPE1_BASE, CST_CNT
    .u16(NO_C2, NO_C3, 0, 0) // P_LVL2_LAT, P_LVL3_LAT, FLUSH_SIZE, FLUSH_STRIDE
    .u8(0, 0, 0, 0, machine.rtc ? RTC_CENTURY : 0) // DUTY_OFFSET, DUTY_WIDTH, DAY_ALRM, MON_ALRM, CENTURY
    .u16(bootFlags)
    .u8(0)
    .u32(features)
    .genericAddress(machine.pci ? reset : undefined)
    .u8(machine.pci ? RESET_VALUE : 0)
    .u16(0) // ARM_BOOT_ARCH
    .u8(FADT_MINOR)
    .u64(0, dsdt) // X_FIRMWARE_CTRL: only one of the two FACS addresses may be set (5.2.9)
    .genericAddress(event)
    .genericAddress() // X_PM1b_EVT_BLK
    .genericAddress(control)
    .genericAddress() // X_PM1b_CNT_BLK
    .genericAddress() // X_PM2_CNT_BLK
    .genericAddress(timer)
    .genericAddress() // X_GPE0_BLK
    .genericAddress() // X_GPE1_BLK
    .genericAddress() // SLEEP_CONTROL_REG
    .genericAddress() // SLEEP_STATUS_REG
    .text("NLKT", 8); // hypervisor vendor identity
  return table("FACP", FADT_REVISION, body.bytes());
}

/**
 * The FACS has no common header and no checksum. It must lie on a 64-byte boundary, in memory that OSPM can
 * write.
 */
export function facs(): Uint8Array {
  return new TableWriter()
    .text("FACS", 4)
    .u32(FACS_SIZE)
    .zeros(24) // hardware signature, waking vector, global lock, flags, 64-bit waking vector
    .u8(FACS_VERSION)
    .zeros(31)
    .bytes();
}
