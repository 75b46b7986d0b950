/**
 * A small assembler for guests: emits bytes in the code width of its `bits`, resolves labels, and takes everything that it
 * has no method for as hexadecimal text. Encodings are those of SDM vol. 2.
 */

export type Bits = 16 | 32 | 64;

const REGISTERS = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"] as const;
export type Register = (typeof REGISTERS)[number];
const number = (register: Register) => REGISTERS.indexOf(register);

/** Condition codes (SDM vol. 1, appendix B). */
const CONDITIONS = {
  o: 0,
  no: 1,
  c: 2,
  nc: 3,
  z: 4,
  nz: 5,
  be: 6,
  a: 7,
  s: 8,
  ns: 9,
  l: 12,
  ge: 13,
} as const;
export type Condition = keyof typeof CONDITIONS;

interface Fixup {
  readonly at: number;
  readonly bytes: number;
  readonly label: string;
  /** Relative to the end of the field, or the label's own value. */
  readonly relative: boolean;
}

/** Ports that the test machine listens to (see machine.ts). */
export const DONE_PORT = 0xf4;
export const FAULT_PORT = 0xe0;

export class Asm {
  readonly #bytes: number[] = [];
  readonly #labels = new Map<string, number>();
  readonly #fixups: Fixup[] = [];

  constructor(
    public bits: Bits,
    /** Offset of the first byte in its code segment. */
    readonly origin = 0,
  ) {}

  get here(): number {
    return this.origin + this.#bytes.length;
  }

  get length(): number {
    return this.#bytes.length;
  }

  /** From here on, code of another width. */
  use(bits: Bits): this {
    this.bits = bits;
    return this;
  }

  label(name: string): this {
    if (this.#labels.has(name)) throw new Error(`label ${name} is there twice`);
    this.#labels.set(name, this.here);
    return this;
  }

  /** Offset of a label in its code segment. */
  at(name: string): number {
    const at = this.#labels.get(name);
    if (at === undefined) throw new Error(`there is no label ${name}`);
    return at;
  }

  db(...bytes: number[]): this {
    for (const byte of bytes) this.#bytes.push(byte & 0xff);
    return this;
  }

  /** Bytes as hexadecimal text, blanks ignored. */
  hex(text: string): this {
    const digits = text.replace(/\s+/g, "");
    if (!/^([0-9a-fA-F]{2})*$/.test(digits)) throw new Error(`no hexadecimal bytes: ${text}`);
    for (let i = 0; i < digits.length; i += 2) this.#bytes.push(Number.parseInt(digits.slice(i, i + 2), 16));
    return this;
  }

  /** `bytes` little-endian bytes of `value`. */
  value(value: number | bigint, bytes: number): this {
    const wide = BigInt.asUintN(8 * bytes, BigInt(value));
    for (let i = 0; i < bytes; i++) this.#bytes.push(Number((wide >> BigInt(8 * i)) & 0xffn));
    return this;
  }

  /** Fill with `byte` up to `offset` in the code segment. */
  padTo(offset: number, byte = 0x90): this {
    if (offset < this.here) throw new Error(`already past 0x${offset.toString(16)}`);
    while (this.here < offset) this.#bytes.push(byte);
    return this;
  }

  #fixup(label: string, bytes: number, relative: boolean): this {
    this.#fixups.push({ at: this.#bytes.length, bytes, label, relative });
    return this.value(0, bytes);
  }

  /** The value of a label as data. */
  address(label: string, bytes: number): this {
    return this.#fixup(label, bytes, false);
  }

  get #near(): number {
    return this.bits === 16 ? 2 : 4;
  }

  // --- control transfer ---

  jmp(label: string): this {
    return this.db(0xe9).#fixup(label, this.#near, true);
  }
  jcc(condition: Condition, label: string): this {
    return this.db(0x0f, 0x80 | CONDITIONS[condition]).#fixup(label, this.#near, true);
  }
  call(label: string): this {
    return this.db(0xe8).#fixup(label, this.#near, true);
  }
  /** JMP ptr16:16 or ptr16:32, by the code width; `operand` to override it. */
  jmpFar(selector: number, label: string, operand: 16 | 32 = this.bits === 16 ? 16 : 32): this {
    if (operand !== this.bits) this.db(0x66);
    return this.db(0xea)
      .#fixup(label, operand / 8, false)
      .value(selector, 2);
  }
  callFar(selector: number, offset: number): this {
    return this.db(0x9a).value(offset, this.#near).value(selector, 2);
  }
  /** The test is done. */
  done(): this {
    return this.db(0xe6, DONE_PORT);
  }
  hlt(): this {
    return this.db(0xf4);
  }
  nop(count = 1): this {
    for (let i = 0; i < count; i++) this.db(0x90);
    return this;
  }

  // --- moves, at the width of the code ---

  #rexW(): this {
    return this.bits === 64 ? this.db(0x48) : this;
  }

  /** MOV register, immediate: the full register, with the shortest encoding. */
  mov(register: Register, value: number | bigint): this {
    const wide = BigInt.asUintN(this.bits, BigInt(value));
    if (this.bits === 64 && wide > 0xffff_ffffn) {
      return this.db(0x48, 0xb8 | number(register)).value(wide, 8);
    }
    return this.db(0xb8 | number(register)).value(wide, this.#near);
  }
  /** MOV register, label: its offset. */
  movLabel(register: Register, label: string): this {
    return this.db(0xb8 | number(register)).#fixup(label, this.#near, false);
  }
  /** 32-bit immediate to a 32-bit register, whatever the code width. */
  mov32(register: Register, value: number | bigint): this {
    if (this.bits === 16) this.db(0x66);
    return this.db(0xb8 | number(register)).value(value, 4);
  }
  /** ModRM and displacement of an absolute address. */
  #absolute(reg: number, address: number): this {
    if (this.bits === 16) return this.db((reg << 3) | 6).value(address, 2);
    if (this.bits === 32) return this.db((reg << 3) | 5).value(address, 4);
    return this.db((reg << 3) | 4, 0x25).value(address, 4);
  }
  /** MOV register, [address] at the code width. */
  load(register: Register, address: number): this {
    return this.#rexW().db(0x8b).#absolute(number(register), address);
  }
  /** MOV [address], register at the code width. */
  store(address: number, register: Register): this {
    return this.#rexW().db(0x89).#absolute(number(register), address);
  }
  /** Any instruction with the ModRM byte of an absolute address: opcode bytes, reg field. */
  op(opcode: string, reg: number, address: number): this {
    return this.hex(opcode).#absolute(reg, address);
  }
  /** MOV DWORD [address], immediate. */
  store32(address: number, value: number | bigint): this {
    if (this.bits === 16) this.db(0x66);
    return this.db(0xc7).#absolute(0, address).value(value, 4);
  }
  store8(address: number, value: number): this {
    return this.db(0xc6).#absolute(0, address).db(value);
  }
  push(register: Register): this {
    return this.db(0x50 | number(register));
  }
  pop(register: Register): this {
    return this.db(0x58 | number(register));
  }
  /** PUSH imm32 (imm16 in 16-bit code). */
  pushImm(value: number | bigint): this {
    return this.db(0x68).value(value, this.#near);
  }

  // --- system registers ---

  readCr(n: number, register: Register): this {
    return this.db(0x0f, 0x20, 0xc0 | (n << 3) | number(register));
  }
  writeCr(n: number, register: Register): this {
    return this.db(0x0f, 0x22, 0xc0 | (n << 3) | number(register));
  }
  readDr(n: number, register: Register): this {
    return this.db(0x0f, 0x21, 0xc0 | (n << 3) | number(register));
  }
  writeDr(n: number, register: Register): this {
    return this.db(0x0f, 0x23, 0xc0 | (n << 3) | number(register));
  }
  /** MOV CRn, value through AX. */
  setCr(n: number, value: number | bigint): this {
    return (this.bits === 64 ? this.mov("ax", value) : this.mov32("ax", value)).writeCr(n, "ax");
  }
  setDr(n: number, value: number | bigint): this {
    return (this.bits === 64 ? this.mov("ax", value) : this.mov32("ax", value)).writeDr(n, "ax");
  }
  /** CRn |= bits through AX. */
  orCr(n: number, bits: number): this {
    this.readCr(n, "ax");
    if (this.bits === 16) this.db(0x66);
    return this.db(0x0d).value(bits, 4).writeCr(n, "ax");
  }
  wrmsr(index: number, value: number | bigint): this {
    const wide = BigInt.asUintN(64, BigInt(value));
    return this.mov32("cx", index)
      .mov32("ax", wide & 0xffff_ffffn)
      .mov32("dx", wide >> 32n)
      .db(0x0f, 0x30);
  }
  rdmsr(index: number): this {
    return this.mov32("cx", index).db(0x0f, 0x32);
  }
  /** MOV AX, selector; MOV segment register, AX. */
  setSegment(segment: keyof typeof SEGMENTS, selector: number): this {
    return this.mov("ax", selector).db(0x8e, 0xc0 | (SEGMENTS[segment] << 3));
  }
  out(port: number): this {
    return this.db(0xe6, port);
  }

  bytes(): Uint8Array {
    const bytes = Uint8Array.from(this.#bytes);
    for (const { at, bytes: size, label, relative } of this.#fixups) {
      const target = this.at(label) - (relative ? this.origin + at + size : 0);
      for (let i = 0; i < size; i++) bytes[at + i] = Number((BigInt(target) >> BigInt(8 * i)) & 0xffn);
    }
    return bytes;
  }
}

const SEGMENTS = { es: 0, cs: 1, ss: 2, ds: 3, fs: 4, gs: 5 } as const;
