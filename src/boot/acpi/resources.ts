/** Resource descriptors, the contents of _CRS: ACPI 6.5, 6.4. */

/** Small resource items: tag and length in one byte (6.4.2). */
const SMALL_IRQ_2 = 0x22;
const SMALL_IRQ_3 = 0x23;
const SMALL_IO = 0x47;
/** Large resource items (6.4.3). */
const LARGE_MEMORY32_FIXED = 0x86;
const LARGE_EXTENDED_INTERRUPT = 0x89;

/** Address space descriptors, 6.4.3.5: tag and bytes an address. */
const ADDRESS_SPACE = {
  word: { tag: 0x88, width: 2 },
  dword: { tag: 0x87, width: 4 },
  qword: { tag: 0x8a, width: 8 },
} as const;

/** Resource type of an address space descriptor. */
const SpaceType = { MEMORY: 0, IO: 1, BUS_NUMBER: 2 } as const;
/**
 * General flags: _MIF and _MAF, both ends of the range are fixed; the device is a producer; positive decode.
 */
const RANGE_FIXED = (1 << 2) | (1 << 3);
/** Type-specific flags: read-write and non-cacheable memory (6.4.3.5.5); the entire I/O range (6.4.3.5.6). */
const MEMORY_READ_WRITE = 1;
const IO_ENTIRE_RANGE = 3;

const IRQ_EDGE = 1 << 0;
const IRQ_SHARED = 1 << 4;
/** Extended interrupt descriptor flags (6.4.3.6): consumer, level, active high, shared. */
const INTERRUPT_CONSUMER = 1 << 0;
const INTERRUPT_SHARED = 1 << 3;

function descriptor(size: number, fill: (view: DataView) => void): Uint8Array {
  const result = new Uint8Array(size);
  fill(new DataView(result.buffer));
  return result;
}

/** IO (Decode16, base, base, 1, length). */
export function io(base: number, length: number): Uint8Array {
  return descriptor(8, (view) => {
    view.setUint8(0, SMALL_IO);
    view.setUint8(1, 1);
    view.setUint16(2, base, true);
    view.setUint16(4, base, true);
    view.setUint8(6, 1);
    view.setUint8(7, length);
  });
}

/** IRQNoFlags () {irq}: edge-triggered, active high, not shared (6.4.2.1). */
export function irq(line: number): Uint8Array {
  return descriptor(3, (view) => {
    view.setUint8(0, SMALL_IRQ_2);
    view.setUint16(1, 1 << line, true);
  });
}

/** IRQ (Edge, ActiveHigh, Shared) {irq}. */
export function irqShared(line: number): Uint8Array {
  return descriptor(4, (view) => {
    view.setUint8(0, SMALL_IRQ_3);
    view.setUint16(1, 1 << line, true);
    view.setUint8(3, IRQ_EDGE | IRQ_SHARED);
  });
}

/** Interrupt (ResourceConsumer, Level, ActiveHigh, Shared) {gsi}. */
export function interruptLevel(gsi: number): Uint8Array {
  return descriptor(9, (view) => {
    view.setUint8(0, LARGE_EXTENDED_INTERRUPT);
    view.setUint16(1, 6, true);
    view.setUint8(3, INTERRUPT_CONSUMER | INTERRUPT_SHARED);
    view.setUint8(4, 1);
    view.setUint32(5, gsi, true);
  });
}

/** Memory32Fixed (ReadWrite, base, length). */
export function memory32Fixed(base: number, length: number): Uint8Array {
  return descriptor(12, (view) => {
    view.setUint8(0, LARGE_MEMORY32_FIXED);
    view.setUint16(1, 9, true);
    view.setUint8(3, 1);
    view.setUint32(4, base, true);
    view.setUint32(8, length, true);
  });
}

type AddressWidth = keyof typeof ADDRESS_SPACE;

function addressSpace(
  width: AddressWidth,
  type: number,
  typeFlags: number,
  base: number,
  length: number,
): Uint8Array {
  const { tag, width: unit } = ADDRESS_SPACE[width];
  const size = 6 + 5 * unit;
  return descriptor(size, (view) => {
    view.setUint8(0, tag);
    view.setUint16(1, size - 3, true);
    view.setUint8(3, type);
    view.setUint8(4, RANGE_FIXED);
    view.setUint8(5, typeFlags);
    const granularity = 0;
    const translation = 0;
    [granularity, base, base + length - 1, translation, length].forEach((value, i) => {
      const at = 6 + i * unit;
      if (unit === 2) view.setUint16(at, value, true);
      else if (unit === 4) view.setUint32(at, value, true);
      else view.setBigUint64(at, BigInt(value), true);
    });
  });
}

/** WordBusNumber: the buses from `first` on that a host bridge forwards to. */
export function busNumbers(first: number, count: number): Uint8Array {
  return addressSpace("word", SpaceType.BUS_NUMBER, 0, first, count);
}

/** WordIO: a window of ports. */
export function ioWindow(base: number, length: number): Uint8Array {
  return addressSpace("word", SpaceType.IO, IO_ENTIRE_RANGE, base, length);
}

/** DWordMemory, or QWordMemory where it does not lie below 4 GiB: a window of memory. */
export function memoryWindow(base: number, length: number): Uint8Array {
  const width = base + length <= 2 ** 32 ? "dword" : "qword";
  return addressSpace(width, SpaceType.MEMORY, MEMORY_READ_WRITE, base, length);
}
