/**
 * The port and MMIO buses: which device answers which address.
 *
 * Every thread of the machine builds the same buses. Their map is fixed from then on: what a guest can move (PCI base address
 * registers) is decoded behind a fixed window by the device that owns the window, from shared state.
 *
 * Reads that nobody claims give all ones and such writes are dropped, as on ISA and PCI (PCI Local Bus 3.0, 6.1:
 * a master abort reads as ones).
 */
import type { VmExit } from "../hypervisor/seam.js";

export type AccessSize = 1 | 2 | 4;

/**
 * What a device shows to a bus. `offset` counts bytes from the range's first address; `size` is never more than the range's
 * `maxSize`, the address is a multiple of it, and the access does not leave the range. Neither call may throw.
 */
export interface BusDevice {
  /** The value in the low `size` bytes; the rest is ignored. */
  read(offset: number, size: AccessSize): number;
  /** `value` is unsigned. */
  write(offset: number, size: AccessSize, value: number): void;
  /** For traces: whether anything answers at `offset`. Left out: always. */
  decodes?(offset: number): boolean;
}

export interface BusRange {
  /** For messages and traces. */
  readonly owner: string;
  readonly start: number;
  /** Bytes. */
  readonly size: number;
  readonly device: BusDevice;
  /** The widest access the device takes; wider ones arrive in parts, lowest address first. */
  readonly maxSize: AccessSize;
  /** The device's offset of the range's first byte, for devices with several ranges. Default 0. */
  readonly deviceOffset?: number;
}

/** Told of every access as a device gets it, after it was made. `owner` is undefined where nobody claims the address. */
export type BusTrace = (
  owner: string | undefined,
  address: number,
  size: AccessSize,
  value: number,
  isWrite: boolean,
) => void;

/** A range as the look-up finds it. */
class Claim {
  readonly start: number;
  readonly end: number;
  readonly owner: string;
  readonly device: BusDevice;
  readonly maxSize: AccessSize;
  /** What to add to an address to get the device's offset. */
  readonly delta: number;

  constructor(range: BusRange) {
    this.start = range.start;
    this.end = range.start + range.size;
    this.owner = range.owner;
    this.device = range.device;
    this.maxSize = range.maxSize;
    this.delta = (range.deviceOffset ?? 0) - range.start;
  }
}

abstract class Bus {
  /** Sorted by address. */
  protected readonly claims: Claim[] = [];
  #trace: BusTrace | undefined;

  constructor(
    readonly name: "port" | "MMIO",
    /** The first address past the bus. */
    readonly limit: number,
  ) {}

  protected abstract find(address: number): Claim | undefined;

  /** Give a range of addresses to a device. Throws `RangeError` where it is taken or no range. */
  register(range: BusRange): void {
    const claim = new Claim(range);
    const { start, end } = claim;
    if (!(Number.isSafeInteger(start) && Number.isSafeInteger(end) && start >= 0 && end > start)) {
      throw new RangeError(
        `${this.name} range of ${range.owner}: bad start or size: ${start}, ${range.size}`,
      );
    }
    if (end > this.limit) throw new RangeError(`${this.name} range ${describe(claim)} does not fit the bus`);
    const taken = this.claims.find((other) => start < other.end && other.start < end);
    if (taken !== undefined) {
      throw new RangeError(`${this.name} range ${describe(claim)} overlaps ${describe(taken)}`);
    }
    const at = this.claims.findIndex((other) => other.start > start);
    this.claims.splice(at < 0 ? this.claims.length : at, 0, claim);
  }

  /** Report every access of this thread to `trace`; `undefined` ends it. */
  set trace(trace: BusTrace | undefined) {
    this.#trace = trace;
  }

  /** The registered ranges, lowest first: for a machine's description. */
  get ranges(): readonly { readonly owner: string; readonly start: number; readonly end: number }[] {
    return this.claims;
  }

  /** Make one guest access of `length` bytes at `address`; its bytes are in `data` from `at` on. */
  protected transfer(address: number, length: number, data: Uint8Array, at: number, isWrite: boolean): void {
    while (length > 0) {
      const claim = this.find(address);
      const size =
        claim === undefined ? this.#unclaimedSize(address, length) : claimedSize(claim, address, length);
      let value: number;
      if (isWrite) {
        value = load(data, at, size);
        claim?.device.write(address + claim.delta, size, value);
      } else {
        value = claim === undefined ? 0xffffffff : claim.device.read(address + claim.delta, size);
        store(data, at, size, value);
      }
      if (this.#trace !== undefined) {
        const shown = size === 4 ? value >>> 0 : value & (size === 2 ? 0xffff : 0xff);
        const answers = claim?.device.decodes?.(address + claim.delta) !== false;
        this.#trace(answers ? claim?.owner : undefined, address, size, shown, isWrite);
      }
      address += size;
      at += size;
      length -= size;
    }
  }

  /** How much of an access that starts outside of all ranges can be made at once without entering one. */
  #unclaimedSize(address: number, length: number): AccessSize {
    let size = naturalSize(address, length, 4);
    for (let i = 1; i < size; i++) if (this.find(address + i) !== undefined) size = 1;
    return size;
  }
}

const TABLE_PORTS = 0x10000;

/** The 64 Ki I/O ports. */
export class PortBus extends Bus {
  /** A port's claim: 1 + its number in `#order`, or 0. */
  readonly #table = new Uint16Array(TABLE_PORTS);
  readonly #order: (Claim | undefined)[] = [undefined];

  constructor() {
    super("port", TABLE_PORTS);
  }

  override register(range: BusRange): void {
    super.register(range);
    const claim = this.claims.find((each) => each.start === range.start)!;
    this.#table.fill(this.#order.length, claim.start, claim.end);
    this.#order.push(claim);
  }

  /** Past the last port, nobody answers: an access that runs over the end is not wrapped. */
  protected override find(port: number): Claim | undefined {
    return port < TABLE_PORTS ? this.#order[this.#table[port]] : undefined;
  }

  /** Serve an IO exit: all of its units, in order. */
  serveIo(exit: VmExit): void {
    const { port, size, data, isWrite } = exit;
    const end = size > 0 ? Math.min(exit.count * size, data.length) : -1;
    for (let at = 0; at + size <= end; at += size) this.transfer(port, size, data, at, isWrite);
  }
}

/** Guest-physical addresses that are no RAM. */
export class MmioBus extends Bus {
  #last: Claim | undefined;

  constructor() {
    // MAXPHYADDR is 52 at most (SDM vol. 3A, 4.1.4).
    super("MMIO", 2 ** 52);
  }

  protected override find(address: number): Claim | undefined {
    const last = this.#last;
    if (last !== undefined && address >= last.start && address < last.end) return last;
    const claims = this.claims;
    let low = 0;
    let high = claims.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (claims[middle].end <= address) low = middle + 1;
      else high = middle;
    }
    const claim = claims[low];
    if (claim === undefined || address < claim.start) return undefined;
    this.#last = claim;
    return claim;
  }

  /** Serve an MMIO exit. */
  serveMmio(exit: VmExit): void {
    const { data } = exit;
    this.transfer(exit.address, Math.min(exit.size, data.length), data, 0, exit.isWrite);
  }
}

function claimedSize(claim: Claim, address: number, length: number): AccessSize {
  return naturalSize(address, Math.min(length, claim.end - address), claim.maxSize);
}

/** The largest power of two that fits `length`, is at most `max` and divides `address`. */
function naturalSize(address: number, length: number, max: AccessSize): AccessSize {
  if (length >= 4 && max === 4 && address % 4 === 0) return 4;
  return length >= 2 && max >= 2 && address % 2 === 0 ? 2 : 1;
}

function load(data: Uint8Array, at: number, size: AccessSize): number {
  if (size === 1) return data[at];
  if (size === 2) return data[at] | (data[at + 1] << 8);
  return (data[at] | (data[at + 1] << 8) | (data[at + 2] << 16) | (data[at + 3] << 24)) >>> 0;
}

function store(data: Uint8Array, at: number, size: AccessSize, value: number): void {
  data[at] = value;
  if (size === 1) return;
  data[at + 1] = value >>> 8;
  if (size === 2) return;
  data[at + 2] = value >>> 16;
  data[at + 3] = value >>> 24;
}

function describe(claim: Claim): string {
  return `0x${claim.start.toString(16)}-0x${(claim.end - 1).toString(16)} of ${claim.owner}`;
}
