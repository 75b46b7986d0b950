/**
 * Memory operands: chooses the address that a case touches, then a random addressing form and the register values that
 * lead there. Addresses are never left to chance: the host's own memory is all around.
 */
import {
  type Bitness,
  CODE_BASE,
  DATA_BASE,
  DATA_END,
  DATA_WRITABLE,
  LOW_BASE,
  LOW_SIZE,
  PAGE,
  type Random,
} from "./cpu-case.js";
import type { Size } from "./forms.js";

const MASK: Record<Size, bigint> = { 2: 0xffffn, 4: 0xffffffffn, 8: 0xffffffffffffffffn };
const RSP = 4;
const RBP = 5;
/** How far RSP may be from the address where it is the base: PUSH and CALL use it as their own pointer too. */
const NEAR = 0x8000;

/**
 * Addresses that are canonical neither with four nor with five levels of paging (SDM vol. 1, 3.3.7.1). Where they are cut
 * to 32 bits, they lead to where nothing is.
 */
function nonCanonical(random: Random): bigint {
  return (BigInt(1 + random.below(62)) << 57n) | BigInt(DATA_END + random.below(0x10000));
}

/** A linear address for an access of `bytes`: mostly in the data pages, else across one of their edges or beyond. */
export function dataAddress(random: Random, bytes: number, allowNonCanonical: boolean): bigint {
  const near = (edge: number) => BigInt(edge - 1 - random.below(Math.max(1, bytes - 1)));
  const kind = random.below(100);
  if (kind < 50) return BigInt(DATA_BASE + 0x400 + 16 * random.below((DATA_WRITABLE - 0x800) / 16));
  if (kind < 75) return BigInt(DATA_BASE + 0x400 + random.below(DATA_WRITABLE - 0x800));
  if (kind < 83) return near(DATA_BASE + PAGE);
  if (kind < 87) return BigInt(DATA_BASE + DATA_WRITABLE + random.below(PAGE - bytes));
  if (kind < 90) return near(DATA_BASE + DATA_WRITABLE);
  if (kind < 93) return near(DATA_END);
  if (kind < 95) return BigInt(DATA_END + random.below(PAGE));
  if (kind < 97) return near(DATA_BASE);
  if (kind < 98 && allowNonCanonical) return nonCanonical(random);
  return BigInt(DATA_BASE + 8 * random.below((DATA_WRITABLE - bytes) >> 3));
}

/** The same for 16-bit addresses. */
export function lowAddress(random: Random, bytes: number): bigint {
  const near = (edge: number) => BigInt(edge - 1 - random.below(Math.max(1, bytes - 1)));
  const kind = random.below(100);
  if (kind < 80) return BigInt(LOW_BASE + 0x100 + random.below(LOW_SIZE - 0x400));
  if (kind < 88) return near(LOW_BASE + PAGE);
  if (kind < 91) return near(LOW_BASE);
  if (kind < 94) return near(LOW_BASE + LOW_SIZE);
  return BigInt(random.below(0x10000));
}

/** Where a branch may go: INT3s in the code pages, or an address that faults. Never into the instruction itself. */
export function codeAddress(random: Random, entry: number, length: number, long: boolean): bigint {
  const kind = random.below(100);
  if (kind < 80) {
    const away = 16 + random.below(0x600);
    return BigInt(random.chance(0.5) && entry - away >= CODE_BASE ? entry - away : entry + length + away);
  }
  if (kind < 86) return BigInt(DATA_BASE + random.below(DATA_WRITABLE));
  if (kind < 92) return BigInt(DATA_END + random.below(PAGE));
  if (kind < 96 && long) return nonCanonical(random);
  return BigInt(entry + length + 16 + random.below(0x100));
}

export interface EncodedOperand {
  /** ModRM (reg field empty), SIB and displacement. */
  readonly bytes: number[];
  readonly rexX: boolean;
  readonly rexB: boolean;
  /** Displacement relative to the end of the instruction: its last four bytes are to be filled in. */
  readonly ripRelative: boolean;
}

export interface OperandOptions {
  readonly random: Random;
  readonly bitness: Bitness;
  readonly addressSize: Size;
  /** The effective address to reach. */
  readonly target: bigint;
  /** Base registers to choose from, with the value of each free to choose; all where left out. */
  readonly gpr: BigUint64Array;
  /** Registers that must keep the values they have. */
  readonly keep: ReadonlySet<number>;
}

const signed = (value: bigint, bits: number) => BigInt.asIntN(bits, value);

function displacementBytes(value: bigint, size: number): number[] {
  return Array.from({ length: size }, (_, i) => Number((BigInt.asUintN(64, value) >> BigInt(8 * i)) & 0xffn));
}

/** Encode a memory operand that reaches `target`, and set the registers it takes. Gives which ones it set. */
export function encodeMemory(options: OperandOptions): { operand: EncodedOperand; used: Set<number> } {
  return options.addressSize === 2 ? encode16(options) : encode32(options);
}

/** Set the address bits of a register, and leave garbage above them where the address size allows. */
function setAddress(options: OperandOptions, register: number, value: bigint): void {
  const { gpr, random, addressSize, bitness } = options;
  const mask = MASK[addressSize];
  const garbage = bitness === 64 && addressSize === 4 && random.chance(0.5) ? random.u64() & ~mask : 0n;
  const kept = bitness !== 64 && addressSize === 2 ? gpr[register] & 0xffff0000n : 0n;
  gpr[register] = (value & mask) | garbage | kept;
}

/** 32- and 64-bit forms (SDM vol. 2, tables 2-2 and 2-3). */
function encode32(options: OperandOptions): { operand: EncodedOperand; used: Set<number> } {
  const { random, bitness, target, gpr, keep } = options;
  const mask = MASK[options.addressSize];
  const bits = options.addressSize * 8;
  const registers = bitness === 64 ? 16 : 8;
  const used = new Set<number>();
  const fitsAbsolute = signed(target & mask, bits) === signed(target & 0xffffffffn, 32);

  const style = random.below(100);
  if (style < 6 && fitsAbsolute) {
    // No register: [disp32], with a SIB byte in 64-bit mode, where the short form is RIP-relative.
    if (bitness !== 64) {
      const bytes = [0x05, ...displacementBytes(target, 4)];
      return { operand: { bytes, rexX: false, rexB: false, ripRelative: false }, used };
    }
    const bytes = [0x04, 0x25, ...displacementBytes(target, 4)];
    return { operand: { bytes, rexX: false, rexB: random.chance(0.2), ripRelative: false }, used };
  }
  if (style < 14 && bitness === 64 && target < 0x80000000n) {
    const bytes = [0x05, 0, 0, 0, 0];
    return { operand: { bytes, rexX: false, rexB: random.chance(0.2), ripRelative: true }, used };
  }

  const free = (register: number) => !keep.has(register);
  const choose = () => {
    for (let i = 0; i < 64; i++) {
      const register = random.below(registers);
      if (free(register)) return register;
    }
    return -1;
  };
  const base = style < 22 ? -1 : choose();
  const withIndex = base === -1 || random.chance(0.35);
  let index = withIndex ? choose() : -1;
  if (index === RSP) index = base === -1 ? RBP : -1;
  if (index !== -1 && !free(index)) index = -1;
  if (base === -1 && index === -1) {
    // Nothing is free: the absolute form, which such targets allow.
    const head = bitness === 64 ? [0x04, 0x25] : [0x05];
    const bytes = [...head, ...displacementBytes(target, 4)];
    return { operand: { bytes, rexX: false, rexB: false, ripRelative: false }, used };
  }

  const scale = random.below(4);
  const stayNear = base === RSP;
  let dispSize: 0 | 1 | 4 = base === -1 ? 4 : random.pick([0, 1, 1, 4] as const);
  if (dispSize === 0 && (base & 7) === RBP) dispSize = 1;
  let disp = 0n;
  if (dispSize === 1) disp = signed(random.u64(), 8);
  if (dispSize === 4) {
    disp = stayNear || random.chance(0.5) ? BigInt(random.below(2 * NEAR) - NEAR) : signed(random.u64(), 32);
  }
  if (base === -1) {
    disp &= ~7n;
    // disp + (index << scale) = target: the index takes what is a multiple of the scale, the displacement the rest.
    const value = ((target - disp) & mask) >> BigInt(scale);
    const rest = signed((target - (value << BigInt(scale))) & mask, bits);
    setAddress(options, index, value);
    disp = rest;
    used.add(index);
  } else if (index === base) {
    const factor = 1n + (1n << BigInt(scale));
    dispSize = 4;
    disp = BigInt(random.below(2 * NEAR) - NEAR);
    const value = ((target & mask) - disp) / factor;
    disp = signed((target - value * factor) & mask, bits);
    setAddress(options, base, value);
    used.add(base);
  } else {
    let offset = 0n;
    if (index !== -1) {
      setAddress(options, index, stayNear ? BigInt(random.below(NEAR) - NEAR / 2) : gpr[index]);
      offset = gpr[index] << BigInt(scale);
      used.add(index);
    }
    setAddress(options, base, target - offset - disp);
    used.add(base);
  }

  const mod = base === -1 ? 0 : dispSize === 0 ? 0 : dispSize === 1 ? 1 : 2;
  const dispBytes = displacementBytes(disp, base === -1 ? 4 : dispSize);
  const rexX = index >= 8;
  const rexB = base >= 8;
  const needsSib = index !== -1 || base === -1 || (base & 7) === RSP || random.chance(0.05);
  const bytes = [];
  if (needsSib) {
    const indexField = index === -1 ? RSP : index & 7;
    const baseField = base === -1 ? RBP : base & 7;
    bytes.push((mod << 6) | 4, (scale << 6) | (indexField << 3) | baseField, ...dispBytes);
  } else {
    bytes.push((mod << 6) | (base & 7), ...dispBytes);
  }
  return { operand: { bytes, rexX, rexB, ripRelative: false }, used };
}

/** Base and index by ModRM.rm (SDM vol. 2, table 2-1). */
const PAIRS_16: readonly (readonly number[])[] = [[3, 6], [3, 7], [5, 6], [5, 7], [6], [7], [5], [3]];

/** 16-bit forms. The target is below 64 KiB. */
function encode16(options: OperandOptions): { operand: EncodedOperand; used: Set<number> } {
  const { random, target, keep, gpr } = options;
  const rm = random.below(8);
  const registers = PAIRS_16[rm];
  const absolute = {
    bytes: [0x06, ...displacementBytes(target, 2)],
    rexX: false,
    rexB: false,
    ripRelative: false,
  };
  if (random.chance(0.1) || registers.some((r) => keep.has(r))) {
    return { operand: absolute, used: new Set() };
  }
  let mod = random.below(3);
  if (mod === 0 && rm === 6) mod = 1;
  const disp = mod === 0 ? 0n : mod === 1 ? signed(random.u64(), 8) : signed(random.u64(), 16);
  const other = registers.length === 2 ? gpr[registers[1]] : 0n;
  setAddress(options, registers[0], target - disp - other);
  return {
    operand: {
      // The displacement has as many bytes as mod says.
      bytes: [(mod << 6) | rm, ...displacementBytes(disp, mod)],
      rexX: false,
      rexB: false,
      ripRelative: false,
    },
    used: new Set(registers),
  };
}

/** An operand at `target` through a base register whose value stays as it is, or relative to RIP. */
export function encodeThroughBase(
  random: Random,
  bitness: Bitness,
  base: number,
  target: bigint,
  baseValue: bigint,
): EncodedOperand {
  if (bitness === 64 && random.chance(0.1)) {
    return { bytes: [0x05, 0, 0, 0, 0], rexX: false, rexB: false, ripRelative: true };
  }
  const disp = target - baseValue;
  const short = disp >= -128n && disp < 128n;
  const sib = (base & 7) === RSP ? [0x24] : [];
  const mod = short ? 0x40 : 0x80;
  const bytes = [mod | (base & 7), ...sib, ...displacementBytes(disp, short ? 1 : 4)];
  return { bytes, rexX: false, rexB: base >= 8, ripRelative: false };
}
