/** Base address registers: PCI Local Bus Specification 3.0, 6.2.5.1. */
import { ConfigOffset } from "./registers.js";

export const BAR_COUNT = 6;

/** Low bits of a base address register that say what it maps. */
const BarType = { MEMORY32: 0b000, IO: 0b001, MEMORY64: 0b100, PREFETCHABLE: 0b1000 } as const;
const MEMORY_ADDRESS_MASK = 0xfffffff0;
const IO_ADDRESS_MASK = 0xfffffffc;
const TWO_32 = 2 ** 32;

export interface BarDefinition {
  /** 0 to 5; a 64-bit register takes the next one too. */
  readonly index: number;
  readonly kind: "io" | "memory32" | "memory64";
  /** Bytes, a power of two; memory at least 16, I/O 4 to 256. */
  readonly size: number;
  /** Memory only: reads have no side effects. */
  readonly prefetchable?: boolean;
}

/** A dword of configuration space as a base address register makes it. */
export interface BarRegister {
  readonly offset: number;
  /** The read-only low bits. */
  readonly initial: number;
  /** The address bits that software can set: all of those that a region aligned to its size needs. */
  readonly writable: number;
}

export function barOffset(index: number): number {
  return ConfigOffset.BAR0 + 4 * index;
}

/** The one or two registers of `bar`. Throws `RangeError` for a region that no register can describe. */
export function barRegisters(bar: BarDefinition): BarRegister[] {
  const { index, kind, size } = bar;
  const offset = barOffset(index);
  const last = kind === "memory64" ? index + 1 : index;
  if (!(Number.isInteger(index) && index >= 0 && last < BAR_COUNT)) throw new RangeError(`no BAR ${index}`);
  const [least, most] =
    kind === "io" ? [4, 256] : kind === "memory32" ? [16, TWO_32 / 2] : [16, Number.MAX_SAFE_INTEGER];
  if (!(size >= least && size <= most && Number.isInteger(Math.log2(size)))) {
    throw new RangeError(`BAR ${index}: ${size} is no size of a ${kind} region`);
  }
  const addressMask = kind === "io" ? IO_ADDRESS_MASK : MEMORY_ADDRESS_MASK;
  const low = size >= TWO_32 ? 0 : (-size & addressMask) >>> 0;
  const type =
    kind === "io"
      ? BarType.IO
      : (kind === "memory64" ? BarType.MEMORY64 : BarType.MEMORY32) |
        (bar.prefetchable ? BarType.PREFETCHABLE : 0);
  const registers: BarRegister[] = [{ offset, initial: type, writable: low }];
  if (kind === "memory64") {
    const high = size > TWO_32 ? -(size / TWO_32) >>> 0 : 0xffffffff;
    registers.push({ offset: offset + 4, initial: 0, writable: high });
  }
  return registers;
}

/** The address that the register values `low` and (64-bit only) `high` hold. */
export function barAddress(bar: BarDefinition, low: number, high: number): number {
  if (bar.kind === "io") return (low & IO_ADDRESS_MASK) >>> 0;
  const base = (low & MEMORY_ADDRESS_MASK) >>> 0;
  return bar.kind === "memory64" ? high * TWO_32 + base : base;
}
