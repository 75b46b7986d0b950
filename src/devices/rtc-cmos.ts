/**
 * What PC firmware leaves in the CMOS RAM (IBM PC/AT Technical Reference, "CMOS RAM memory map"; the bytes for memory above
 * 16 MiB and 4 GiB are those of later PC firmware).
 */

export interface CmosMemorySizes {
  /** Bytes of RAM below 4 GiB. */
  readonly lowRam: number;
  /** Bytes of RAM from 4 GiB on. */
  readonly highRam: number;
}

const KIB = 1024;
const MIB = 1024 * KIB;

/** Equipment byte: a coprocessor is there. */
const EQUIPMENT_FPU = 0x02;

const Byte = {
  EQUIPMENT: 0x14,
  /** 640 at most, in KiB, two bytes. */
  BASE_MEMORY: 0x15,
  /** From 1 MiB on, in KiB, two bytes; set by set-up and found by the power-on test. */
  EXTENDED_MEMORY: 0x17,
  CHECKSUM: 0x2e,
  EXTENDED_MEMORY_FOUND: 0x30,
  /** From 16 MiB to 4 GiB, in 64 KiB, two bytes. */
  ABOVE_16M: 0x34,
  /** From 4 GiB on, in 64 KiB, three bytes. */
  ABOVE_4G: 0x5b,
} as const;

const CHECKSUM_FIRST = 0x10;
const CHECKSUM_LAST = 0x2d;

/** Write the bytes that tell a machine of these sizes. */
export function fillCmosRam(cmos: Uint8Array, { lowRam, highRam }: CmosMemorySizes): void {
  cmos[Byte.EQUIPMENT] = EQUIPMENT_FPU;
  store(cmos, Byte.BASE_MEMORY, 2, Math.min(lowRam, 640 * KIB) / KIB);
  const extended = (lowRam - MIB) / KIB;
  store(cmos, Byte.EXTENDED_MEMORY, 2, extended);
  store(cmos, Byte.EXTENDED_MEMORY_FOUND, 2, extended);
  store(cmos, Byte.ABOVE_16M, 2, (lowRam - 16 * MIB) / (64 * KIB));
  store(cmos, Byte.ABOVE_4G, 3, highRam / (64 * KIB));
  let sum = 0;
  for (let i = CHECKSUM_FIRST; i <= CHECKSUM_LAST; i++) sum += cmos[i];
  // The checksum is the one number here with its high byte first.
  cmos[Byte.CHECKSUM] = sum >>> 8;
  cmos[Byte.CHECKSUM + 1] = sum;
}

/** Little-endian, held within what the bytes can say. */
function store(cmos: Uint8Array, at: number, bytes: number, value: number): void {
  const held = Math.min(Math.max(Math.floor(value), 0), 2 ** (8 * bytes) - 1);
  for (let i = 0; i < bytes; i++) cmos[at + i] = held >>> (8 * i);
}
