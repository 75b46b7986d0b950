/**
 * The registers of a type 0 configuration space header, as a table: PCI Local Bus Specification 3.0, 6.1
 * (figure 6-1) and 6.2, with what PCI Express Base 4.0, 7.5.1 made read-only zero (latency timer, fast
 * back-to-back …).
 */

/** Bytes of a function's configuration space, the PCI Express extended part included (PCIe Base 4.0, 7.2). */
export const CONFIG_SPACE_SIZE = 4096;
/** Bytes of it that configuration mechanism #1 reaches. */
export const COMPATIBLE_SPACE_SIZE = 256;

/** Offset of each register of the header. */
export const ConfigOffset = {
  VENDOR_ID: 0x00,
  DEVICE_ID: 0x02,
  COMMAND: 0x04,
  STATUS: 0x06,
  REVISION_ID: 0x08,
  CLASS_CODE: 0x09,
  CACHE_LINE_SIZE: 0x0c,
  LATENCY_TIMER: 0x0d,
  HEADER_TYPE: 0x0e,
  BIST: 0x0f,
  BAR0: 0x10,
  CARDBUS_CIS: 0x28,
  SUBSYSTEM_VENDOR_ID: 0x2c,
  SUBSYSTEM_ID: 0x2e,
  EXPANSION_ROM: 0x30,
  CAPABILITIES_POINTER: 0x34,
  INTERRUPT_LINE: 0x3c,
  INTERRUPT_PIN: 0x3d,
  /** First byte after the header: where capabilities may start. */
  DEVICE_SPECIFIC: 0x40,
  /** First extended capability (PCIe Base 4.0, 7.6). */
  EXTENDED: 0x100,
} as const;

/** Command register, PCI 3.0, 6.2.2. */
export const Command = {
  IO_SPACE: 1 << 0,
  MEMORY_SPACE: 1 << 1,
  BUS_MASTER: 1 << 2,
  PARITY_ERROR_RESPONSE: 1 << 6,
  SERR_ENABLE: 1 << 8,
  INTERRUPT_DISABLE: 1 << 10,
} as const;

/** Status register, PCI 3.0, 6.2.3. */
export const Status = {
  CAPABILITIES_LIST: 1 << 4,
  /** Master data parity error, signaled and received aborts, system and parity errors: write 1 to clear. */
  ERRORS: 0xf900,
} as const;

/** Header type, PCI 3.0, 6.2.1: bit 7 of function 0 says that the device has further functions. */
export const MULTIFUNCTION = 0x80;

/**
 * A register that software may write: which bits take what is written, and which are cleared by writing 1.
 */
export interface WritableRegister {
  readonly offset: number;
  readonly size: 1 | 2 | 4;
  readonly writable: number;
  readonly writeOneToClear: number;
}

/** What is writable in each type 0 header. Everything else is read-only, base address registers apart. */
export const TYPE0_WRITABLE: readonly WritableRegister[] = [
  {
    offset: ConfigOffset.COMMAND,
    size: 2,
    // The enable bits of address spaces that a function does not decode stay read-only zero (6.2.2): see
    // ConfigSpace.
    writable: Command.BUS_MASTER | Command.PARITY_ERROR_RESPONSE | Command.SERR_ENABLE,
    writeOneToClear: 0,
  },
  { offset: ConfigOffset.STATUS, size: 2, writable: 0, writeOneToClear: Status.ERRORS },
  { offset: ConfigOffset.CACHE_LINE_SIZE, size: 1, writable: 0xff, writeOneToClear: 0 },
  { offset: ConfigOffset.INTERRUPT_LINE, size: 1, writable: 0xff, writeOneToClear: 0 },
];
