/**
 * Random basic blocks and loops: what single instructions do not show, such as flags carried from one to the next,
 * records that follow each other, branches taken and not, and partial registers.
 *
 * Some registers hold pointers into the data pages all along and nothing writes to them; the rest hold values.
 */
import { type EncodedOperand, encodeThroughBase } from "./addressing.js";
import type { Trial } from "./campaign.js";
import {
  type Bitness,
  BREAKPOINT,
  CODE_BASE,
  type CpuCase,
  DATA_BASE,
  PAGE,
  type Random,
} from "./cpu-case.js";
import { Draft } from "./draft.js";
import { chooseRex, encode } from "./encoder.js";
import type { Form } from "./forms.js";
import { chooseImmediates, chooseRegisters, usesFx } from "./generator.js";
import {
  ARITHMETIC_FLAGS,
  CONDITION_CODES,
  nothingUndefined,
  type Undefined,
  undefinedAfter,
} from "./undefined.js";
import { fxImage, integer } from "./values.js";

/** RBP, RSI, RDI and R12–R15. */
const POINTERS = [5, 6, 7, 12, 13, 14, 15] as const;
/** RAX–RBX and R8–R11. None has AH to BH as its byte register's number. */
const VALUES = [0, 1, 2, 3, 8, 9, 10, 11] as const;

/** Data that blocks use, and the loop counter apart from it. */
export const AREA = DATA_BASE + 0x400;
export const AREA_SIZE = 2 * PAGE - 0x800;
const COUNTER = DATA_BASE + 0x80;

/** What moves the stack or the string pointers, goes elsewhere, or has results that a block cannot mask. */
const UNSUITABLE =
  /^(J.*|CALL|RET|LOOP.*|PUSH.*|POP[AF].*|POP|ENTER|LEAVE|INT.*|BOUND|XLAT|MASKMOV.*|SAHF|UD\d|BSWAP|FNSTSW|FSTSW|FN?SAVE|FRSTOR|FN?STENV|FLDENV|FXSAVE|FXRSTOR|LDMXCSR|FLDCW|EMMS|FN?INIT|FN?CLEX|BT[SRC]?|PREFETCH.*|NOP)$/;
const SEGMENT_OR_FIXED = /[SXYOACDJ]/;
/** What reads a flag, RCL and RCR included. */
const READS_FLAGS = /^(SET|CMOV|FCMOV|ADC|SBB|RC[LR]|LAHF|CMC|SALC|DA[AS]|AA[AS])/;

export function suitsBlocks(form: Form): boolean {
  const { row } = form;
  if (UNSUITABLE.test(row.mnemonic) || row.rep === true || row.ends === true || row.addressed === true)
    return false;
  if (row.operands.some((o) => SEGMENT_OR_FIXED.test(o.method) && o.method.length === 1)) return false;
  if (row.noSegment === true && row.mnemonic !== "LEA") return false;
  // SHLD and SHRD of words by a count above 16 are undefined altogether.
  return !(/^SH[LR]D$/.test(row.mnemonic) && form.size === 2);
}

/** cmp rax, rcx; cmp eax, ecx: sets every arithmetic flag. */
const compare = (bitness: Bitness) => (bitness === 64 ? [0x48, 0x39, 0xc8] : [0x39, 0xc8]);

const isGeneral = (text: string) => /^[EGR]/.test(text);

/** Puts instructions that a block can have one after the other. */
export class BlockBuilder {
  readonly code: number[] = [];
  readonly gpr = new BigUint64Array(16);
  readonly undefined: Undefined = nothingUndefined();
  readonly registers: { pointers: readonly number[]; values: readonly number[] };
  fx = false;

  constructor(
    readonly bitness: Bitness,
    readonly random: Random,
    readonly entry: number,
    pointers: readonly number[] = POINTERS,
  ) {
    const limit = bitness === 64 ? 16 : 8;
    this.registers = {
      pointers: pointers.filter((n) => n < limit),
      values: VALUES.filter((n) => n < limit),
    };
    for (let i = 0; i < limit; i++) this.gpr[i] = integer(random);
    for (const pointer of this.registers.pointers) {
      this.gpr[pointer] = BigInt(AREA + 16 * random.below(AREA_SIZE / 16));
    }
    this.gpr[4] = BigInt(AREA + 0x800);
    if (bitness !== 64) for (let i = 0; i < 16; i++) this.gpr[i] &= 0xffffffffn;
  }

  push(bytes: Iterable<number>): void {
    this.code.push(...bytes);
  }

  /** Set all flags, so that what reads them reads nothing undefined. */
  defineFlags(): void {
    this.push(compare(this.bitness));
    this.undefined.flags = 0;
  }

  needFlags(): void {
    if (this.undefined.flags !== 0) this.defineFlags();
  }

  instruction(form: Form): void {
    const { random, registers } = this;
    if (READS_FLAGS.test(form.row.mnemonic)) this.needFlags();
    const d = new Draft(form, random, this.entry + this.code.length, false);
    d.gs = false;
    d.rexW = this.bitness === 64 && form.size === 8 && form.row.operand64 === undefined;
    d.plain = true;
    chooseRegisters(d);
    chooseImmediates(d);
    for (const { text, method } of form.row.operands) {
      if (method === "G") d.reg = random.pick(registers.values);
      if (isGeneral(text)) d.rm = random.pick(registers.values);
      if (method === "Z") d.opcodeRegister = random.pick(registers.values);
    }
    const memory = form.mod === "mem" ? this.#memory(d) : undefined;
    chooseRex(d, memory);
    const code = encode(d, memory);
    this.push(code);
    this.#mask(form, code);
    this.fx ||= usesFx(form.row);
  }

  /** An operand through a pointer, which keeps its value. */
  #memory(d: Draft): EncodedOperand {
    const { random } = this;
    const base = random.pick(this.registers.pointers);
    d.target = BigInt(AREA + random.below(AREA_SIZE - 64));
    // SSE wants its operands aligned; the faults are the single instructions' business.
    if (usesFx(d.form.row) || random.chance(0.5)) d.target &= ~15n;
    return encodeThroughBase(random, this.bitness, base, d.target, this.gpr[base]);
  }

  #mask(form: Form, code: Uint8Array): void {
    const counts = form.row.operands.some((o) => o.method === "CL");
    const probe: CpuCase = {
      title: "",
      bitness: this.bitness,
      entry: 0,
      code,
      // A count that is not known: any but zero and one, at most the operand's size.
      gpr: new BigUint64Array(16).fill(8n),
      rflags: 0,
      fx: undefined,
      patches: [],
      usesLow: false,
      segments: false,
      operand: undefined,
    };
    const after = undefinedAfter(form, probe);
    this.undefined.flags |= counts && after.flags !== 0 ? ARITHMETIC_FLAGS : after.flags;
    this.undefined.fsw |= after.fsw;
  }
}

/** Whether a single instruction of this form can be in a block, by trying what it would leave undefined. */
export function comparable(form: Form): boolean {
  const after = leftUndefined(form);
  return !after.everything && after.tolerance === "none";
}

/** What an instruction of this form may leave undefined. */
export function leftUndefined(form: Form): Undefined {
  const probe = { gpr: new BigUint64Array(16).fill(8n), code: new Uint8Array(15).fill(8) };
  return undefinedAfter(form, probe as unknown as CpuCase);
}

export class BlockGenerator {
  readonly #forms: Record<Bitness, Form[]> = { 64: [], 32: [], 16: [] };

  /** `only64`: blocks of 64-bit code and no others. */
  constructor(
    forms: readonly Form[],
    readonly random: Random,
    readonly only64 = false,
  ) {
    for (const form of forms) {
      if (suitsBlocks(form) && comparable(form)) this.#forms[form.bitness].push(form);
    }
  }

  get usable(): boolean {
    return this.#forms[64].length > 0 && (this.only64 || this.#forms[32].length > 0);
  }

  /** A block of 5 to 20 instructions; every third is a loop of up to 12 rounds. */
  next(): Trial {
    const { random } = this;
    const bitness: Bitness = random.chance(0.7) || this.only64 ? 64 : 32;
    const entry = CODE_BASE + 0x400 + random.below(PAGE);
    const b = new BlockBuilder(bitness, random, entry);
    const isLoop = random.chance(0.33);
    const length = 5 + random.below(16);
    if (isLoop) b.defineFlags();
    for (let i = 0; i < length; i++) {
      const form = random.pick(this.#forms[bitness]);
      if (random.chance(0.12)) this.#skip(b, form);
      else b.instruction(form);
    }
    if (isLoop) this.#closeLoop(b);
    const patches = [
      { address: AREA, bytes: random.bytes(64) },
      { address: COUNTER, bytes: Uint8Array.of(1 + random.below(12), 0, 0, 0) },
    ];
    const test: CpuCase = {
      title: `block of ${length} instructions${isLoop ? ", a loop" : ""} (${bitness}-bit)`,
      bitness,
      entry,
      code: Uint8Array.from(b.code),
      gpr: b.gpr,
      rflags: 0x202 | (random.u32() & 0x8d5),
      fx: b.fx ? blockFx(random) : undefined,
      patches,
      usesLow: false,
      segments: false,
      operand: undefined,
    };
    // Where it faults, what the last instruction before left undefined is not known here.
    const maskedAtFault = { ...nothingUndefined(), flags: ARITHMETIC_FLAGS, fsw: CONDITION_CODES };
    return { test, masked: (o) => (o.vector === BREAKPOINT ? b.undefined : maskedAtFault) };
  }

  /** A conditional branch over one instruction. */
  #skip(b: BlockBuilder, form: Form): void {
    if (READS_FLAGS.test(form.row.mnemonic)) return;
    b.needFlags();
    const at = b.code.length;
    b.push([0x70 + this.random.below(16), 0]);
    b.instruction(form);
    b.code[at + 1] = b.code.length - at - 2;
  }

  /** dec dword [COUNTER]; jnz start. */
  #closeLoop(b: BlockBuilder): void {
    const counter = [0, 8, 16, 24].map((shift) => (COUNTER >>> shift) & 0xff);
    b.push([0xff, ...(b.bitness === 64 ? [0x0c, 0x25] : [0x0d]), ...counter]);
    const back = -(b.code.length + 6);
    b.push([0x0f, 0x85, ...[0, 8, 16, 24].map((shift) => (back >> shift) & 0xff)]);
  }
}

/** Every exception masked, so that blocks run to their end. */
export function blockFx(random: Random): Uint8Array {
  const fx = fxImage(random);
  const view = new DataView(fx.buffer);
  view.setUint16(0, view.getUint16(0, true) | 0x3f, true);
  view.setUint16(2, view.getUint16(2, true) & 0x7f00, true);
  view.setUint32(24, view.getUint32(24, true) | 0x1f80, true);
  return fx;
}
