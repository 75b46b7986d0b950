/** A case in the making: what set-ups (hints) may change before it is encoded. */
import { operandBytes } from "../../src/hypervisor/soft/isa/opcode-table.js";
import { dataAddress, lowAddress } from "./addressing.js";
import {
  DATA_BASE,
  DATA_END,
  DATA_WRITABLE,
  dataTemplate,
  GS_BASE,
  LOW_BASE,
  LOW_SIZE,
  lowTemplate,
  type MemoryPatch,
  PAGE,
  type Random,
} from "./cpu-case.js";
import type { Form } from "./forms.js";
import { integer } from "./values.js";

const RSP = 4;
/** RFLAGS bits (SDM vol. 1, 3.4.3). CR0.AM is set on both CPUs, so AC has its effect. */
const TF = 0x100;
const DF = 0x400;
const AC = 0x40000;

export class Draft {
  readonly gpr = new BigUint64Array(16);
  readonly patches: MemoryPatch[] = [];
  rflags: number;
  fx: Uint8Array | undefined;
  /** Numbers for ModRM.reg, ModRM.rm (register form) and the opcode's register. */
  reg: number;
  rm: number;
  opcodeRegister: number;
  /** Immediate operands, by operand index. */
  readonly immediates = new Map<number, bigint>();
  /** Linear address of the memory operand, and how many bytes it has. */
  target: bigint;
  targetBytes: number;
  /** What the instruction adds to the address itself (bit tests): subtracted from the encoded one. */
  bias = 0n;
  /** Whether the memory operand goes through GS. */
  gs: boolean;
  /** Registers that may not be used to address memory. */
  readonly keep = new Set<number>();
  /** Registers that address the memory operand, once it is encoded. */
  addressing: ReadonlySet<number> = new Set();
  /** Whether the instruction has a REX prefix, once the operands are chosen. */
  rex = false;
  /** Where an indirect branch goes. */
  branch = 0n;
  rexW = false;
  /** No prefixes but those that the form asks for. */
  plain = false;

  constructor(
    readonly form: Form,
    readonly random: Random,
    readonly entry: number,
    /** Whether there is memory that 16-bit addresses reach. */
    readonly lowMemory: boolean,
  ) {
    const registers = form.bitness === 64 ? 16 : 8;
    for (let i = 0; i < 16; i++) this.gpr[i] = integer(random);
    this.reg = random.below(registers);
    this.rm = random.below(registers);
    this.opcodeRegister = random.below(registers);
    this.rflags = 0x202 | (random.u32() & 0x8d5);
    if (random.chance(0.3)) this.rflags |= DF;
    if (random.chance(0.03)) this.rflags |= AC;
    // What loads SS holds the trap back, and then INT3 has two to answer for (SDM vol. 3A, 6.8.3).
    const loadsStack =
      /^(MOV|POP|LSS|POPF|IRET)$/.test(form.row.mnemonic) && form.row.operands[0]?.method !== "E";
    if (random.chance(0.03) && !loadsStack) this.rflags |= TF;
    const { row } = form;
    const hasMemory = form.mod === "mem" || row.operands.some((o) => o.method === "X" || o.method === "O");
    const implicit = /^MASKMOV/.test(row.mnemonic);
    this.gs = form.bitness === 64 && row.noSegment !== true && (hasMemory || implicit) && random.chance(0.06);
    this.targetBytes = this.#memoryBytes();
    const nonCanonical = form.bitness === 64 && form.addressSize === 8;
    this.target =
      form.addressSize === 2
        ? lowAddress(random, this.targetBytes)
        : dataAddress(random, this.targetBytes, nonCanonical);
    this.gpr[RSP] = BigInt(DATA_BASE + 0x800 + 8 * random.below((DATA_WRITABLE - 0x1000) / 8));
    if (random.chance(0.1)) this.gpr[RSP] += BigInt(random.below(8));
  }

  /** What the segment adds to an effective address. */
  get segmentBase(): bigint {
    return this.gs ? GS_BASE : 0n;
  }

  dataAddress(bytes: number, allowNonCanonical: boolean): bigint {
    return dataAddress(this.random, bytes, allowNonCanonical);
  }

  /** Whether an implicit pointer leads to writable memory altogether. */
  isWritable(pointer: bigint, bytes: number): boolean {
    const { addressSize, bitness } = this.form;
    const cut =
      addressSize === 8 && bitness === 64 ? pointer : pointer & (addressSize === 2 ? 0xffffn : 0xffffffffn);
    const inside = (start: number, size: number) =>
      cut >= BigInt(start) && cut + BigInt(bytes) <= BigInt(start + size);
    return inside(DATA_BASE, DATA_WRITABLE) || (this.lowMemory && inside(LOW_BASE, LOW_SIZE));
  }

  /** A pointer as an implicit operand takes it, in the address size, with garbage above where it is ignored. */
  pointer(bytes: number): bigint {
    const { bitness, addressSize } = this.form;
    // 16-bit addresses ignore the upper half.
    if (addressSize === 2) {
      return lowAddress(this.random, bytes) | (BigInt(this.random.below(0x10000)) << 16n);
    }
    const address = dataAddress(this.random, bytes, bitness === 64 && addressSize === 8);
    return bitness === 64 && addressSize === 4 ? address | (this.random.u64() & ~0xffffffffn) : address;
  }

  /** Change what memory holds at `address`; what does not lie in the data pages is left out. */
  patch(address: bigint | number, bytes: Uint8Array): void {
    const from = Number(address);
    const low = from < DATA_BASE - PAGE;
    if (low && !this.lowMemory) return;
    const start = Math.max(from, low ? LOW_BASE : DATA_BASE);
    const end = Math.min(from + bytes.length, low ? LOW_BASE + LOW_SIZE : DATA_END);
    if (start < end) this.patches.push({ address: start, bytes: bytes.subarray(start - from, end - from) });
  }

  patchInteger(address: bigint | number, value: bigint, size: number): void {
    this.patch(
      address,
      Uint8Array.from({ length: size }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn)),
    );
  }

  /** What the memory will hold, zero outside of the data pages. */
  peek(address: bigint | number, size: number): bigint {
    const base = Number(address) < DATA_BASE - PAGE ? LOW_BASE : DATA_BASE;
    const data = (base === LOW_BASE ? lowTemplate : dataTemplate).slice();
    for (const patch of this.patches) {
      if (patch.address >= DATA_BASE === (base === DATA_BASE)) data.set(patch.bytes, patch.address - base);
    }
    const at = Number(address) - base;
    let value = 0n;
    for (let i = size - 1; i >= 0; i--) value = (value << 8n) | BigInt(data[at + i] ?? 0);
    return value;
  }

  #memoryBytes(): number {
    const { row, size } = this.form;
    const operand = row.operands.find((o) => "EMWQO".includes(o.method));
    if (operand === undefined) return size;
    if (operand.type === "") return STRUCTURE_BYTES[row.mnemonic] ?? size;
    return operandBytes(operand, size);
  }
}

/** Bytes of memory operands that have no type code. */
const STRUCTURE_BYTES: Record<string, number> = {
  // Far pointers, at most.
  CALL: 10,
  JMP: 10,
  LES: 6,
  LDS: 6,
  LSS: 6,
  BOUND: 8,
};
