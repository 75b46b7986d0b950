/**
 * Random small programs: what a translator of whole regions of code has to get right. Nested loops and forward branches with flags
 * and partial registers alive across them, calls and returns (and returns that go elsewhere), jumps and calls through
 * tables, string instructions, accesses and instructions across pages, stores to the program's own code, and loops that walk
 * into a page fault in some round: the state at the fault has to be exact.
 *
 * RBP counts rounds, RSI and RDI walk through memory; R12 to R15 (EBP in 32-bit code, which counts in memory) hold pointers that do
 * not change; RSP has a stack of its own; the other registers hold values.
 */
import { AREA, AREA_SIZE, BlockBuilder, blockFx, comparable, leftUndefined, suitsBlocks } from "./blocks.js";
import type { Trial } from "./campaign.js";
import {
  type Bitness,
  BREAKPOINT,
  CODE_BASE,
  CODE_SIZE,
  type CpuCase,
  DATA_BASE,
  DATA_END,
  DATA_WRITABLE,
  type MemoryPatch,
  PAGE,
  type Random,
} from "./cpu-case.js";
import type { Form } from "./forms.js";
import { nothingUndefined } from "./undefined.js";

const AF = 0x10;
/** Instructions that read AF, which logical instructions leave undefined. */
const READS_AF = /^(LAHF|AA[AS]|DA[AS])$/;
/** Below the area of random accesses: counters, tables of addresses, the stack. */
const COUNTERS = DATA_BASE + 0x80;
const TABLES = DATA_BASE + 0x100;
const STACK_TOP = DATA_BASE + 0x3f0;
const TABLE_SLOTS = 4;
const MAX_TABLES = 6;
/** Where code may start: so that some of it crosses into the next page. */
const ENTRY_SPREAD = CODE_SIZE - 0x1000;
/** More bytes than a program gets: one that would be longer is thrown away. */
const MAX_BYTES = 0xc00;
/** Rounds of a walk that ends in a fault. */
const LONGEST_WALK = 24;

const RBP = 5;
const RSI = 6;
const RDI = 7;

const dword = (value: number) => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);

class ProgramBuilder extends BlockBuilder {
  readonly patches: MemoryPatch[] = [];
  /** Instruction bytes that may be changed by the program itself: places of immediates. */
  readonly #immediates: number[] = [];
  readonly #writesToCode: number[] = [];
  readonly #functions: number[] = [];
  /** Places of rel32 fields, and the function that is called. */
  readonly #calls: { at: number; callee: number }[] = [];
  readonly #tables: { at: number; places: () => readonly number[] }[] = [];
  #counters = 0;
  #walks = 0;
  #depth = 0;

  constructor(
    bitness: Bitness,
    random: Random,
    entry: number,
    readonly forms: readonly Form[],
  ) {
    super(bitness, random, entry, bitness === 64 ? [12, 13, 14, 15] : [RBP]);
    this.gpr[4] = BigInt(STACK_TOP);
    for (const pointer of [RSI, RDI]) this.gpr[pointer] = BigInt(AREA + 16 * random.below(AREA_SIZE / 32));
    if (bitness === 64) this.gpr[RBP] = BigInt(random.below(5));
  }

  get #long(): boolean {
    return this.bitness === 64;
  }

  /** ModRM and address of [address]. */
  #absolute(reg: number, address: number): number[] {
    return this.#long ? [(reg << 3) | 4, 0x25, ...dword(address)] : [(reg << 3) | 5, ...dword(address)];
  }

  body(longest: number): void {
    for (let i = this.random.below(longest) + 1; i > 0; i--) this.instruction(this.random.pick(this.forms));
  }

  #function(): void {
    const { random } = this;
    this.#functions.push(this.code.length);
    const saved = random.pick(this.registers.values.filter((n) => n < 8));
    const saves = random.chance(0.5);
    if (saves) this.push([0x50 + saved]);
    this.#depth++;
    this.sequence(2);
    this.#depth--;
    if (saves) this.push([0x58 + saved]);
    const way = random.below(4);
    // pop ecx; jmp rcx — or ret
    if (way === 0) this.push([0x59, 0xff, 0xe1]);
    else this.push([0xc3]);
  }

  /** A call of one of the functions to come: a function calls only those after it, so that every program ends. */
  #call(): void {
    const callee = this.#functionsBefore + this.random.below(2);
    this.push([0xe8]);
    this.#calls.push({ at: this.code.length, callee });
    this.push([0, 0, 0, 0]);
  }
  #functionsBefore = 0;

  /** A jump forward over a body, or a choice between two. */
  #branch(): void {
    const { random } = this;
    const long = random.chance(0.3);
    const condition = random.below(16);
    const over = this.#forward(long ? [0x0f, 0x80 + condition] : [0x70 + condition], long);
    this.body(3);
    if (random.chance(0.4)) {
      const end = this.#forward([0xeb], false);
      over();
      this.body(3);
      end();
    } else over();
  }

  /** A jump whose target is where the function that it gives is called. */
  #forward(opcode: readonly number[], long: boolean): () => void {
    this.push(opcode);
    const at = this.code.length;
    this.push(long ? [0, 0, 0, 0] : [0]);
    return () => {
      const distance = this.code.length - at - (long ? 4 : 1);
      if (!long && distance > 127) throw new ProgramTooLong();
      (long ? dword(distance) : [distance]).forEach((byte, i) => {
        this.code[at + i] = byte;
      });
    };
  }

  #jumpBack(condition: number, to: number): void {
    const distance = to - this.code.length - 2;
    if (distance >= -128) this.push([0x70 + condition, distance & 0xff]);
    else this.push([0x0f, 0x80 + condition, ...dword(distance - 4)]);
  }

  /** Rounds counted in memory: with whatever flags the round ended with, kept for the round after it where LEA counts. */
  #loop(): void {
    const { random } = this;
    const rounds = 1 + random.below(this.#depth === 0 ? 9 : 4);
    const counter = COUNTERS + 4 * this.#counters++;
    if (counter >= TABLES) throw new ProgramTooLong();
    this.push([0xc7, ...this.#absolute(0, counter), ...dword(rounds)]);
    const start = this.code.length;
    this.#depth++;
    this.sequence(2);
    this.#depth--;
    // dec dword [counter]
    this.push([0xff, ...this.#absolute(1, counter)]);
    this.#jumpBack(5, start);
  }

  /** Rounds counted in RBP by LEA and JRCXZ's like: flags of the round before live on. */
  #flaglessLoop(): void {
    const { random } = this;
    if (!this.#long || this.#depth > 0) {
      this.#loop();
      return;
    }
    const rounds = 1 + random.below(12);
    // mov ebp, rounds
    this.push([0xbd, ...dword(rounds)]);
    const start = this.code.length;
    this.#depth++;
    this.body(5);
    if (random.chance(0.4)) this.#branch();
    this.#depth--;
    // mov r11, rcx; lea rbp, [rbp - 1]; mov rcx, rbp; jrcxz +5; mov rcx, r11; jmp start; mov rcx, r11
    this.push([0x49, 0x89, 0xcb, 0x48, 0x8d, 0x6d, 0xff, 0x48, 0x89, 0xe9]);
    const out = this.#forward([0xe3], false);
    this.push([0x4c, 0x89, 0xd9]);
    this.push([0xe9, ...dword(start - this.code.length - 5)]);
    out();
    this.push([0x4c, 0x89, 0xd9]);
  }

  /** A choice by the low bits of a value, through a table of addresses: jump or call. */
  #table(): void {
    const { random } = this;
    if (this.#tables.length >= MAX_TABLES) return;
    const table = TABLES + 8 * TABLE_SLOTS * this.#tables.length;
    const index = random.pick(this.registers.values.filter((n) => n < 4));
    // and index, 3
    this.push([0x83, 0xe0 | index, TABLE_SLOTS - 1]);
    const call = random.chance(0.4) && this.#depth < 3;
    const scale = this.#long ? 0xc0 : 0x80;
    this.push([0xff, call ? 0x14 : 0x24, scale | (index << 3) | 5, ...dword(table)]);
    if (call) {
      const first = this.#functionsBefore;
      this.#calls.push({ at: -1, callee: first + 1 });
      const callee = Array.from({ length: TABLE_SLOTS }, () => first + random.below(2));
      this.#tables.push({ at: table, places: () => callee.map((n) => this.#functions[n]) });
      return;
    }
    const places: number[] = [];
    const ends: (() => void)[] = [];
    for (let i = 0; i < TABLE_SLOTS; i++) {
      places.push(this.code.length);
      this.body(2);
      if (i + 1 < TABLE_SLOTS) ends.push(this.#forward([0xeb], false));
    }
    for (const end of ends) end();
    this.#tables.push({ at: table, places: () => places });
  }

  /** A string instruction, repeated or not, of bytes to words of the operand size, up or down. */
  #string(): void {
    const { random } = this;
    const operation = random.pick([0xa4, 0xa6, 0xaa, 0xac, 0xae]);
    const size = random.pick(this.#long ? [0, 1, 2, 3] : [0, 1, 2]);
    const prefix = random.pick([[], [0xf3], [0xf2]]);
    const down = random.chance(0.2);
    const place = () => AREA + 0x200 + random.below(AREA_SIZE - 0x400);
    // Values that only 32 bits hold: mov edi, esi, ecx
    this.push([0xbe, ...dword(place())]);
    this.push([0xbf, ...dword(place())]);
    this.push([0xb9, ...dword(random.below(40))]);
    if (down) this.push([0xfd]);
    this.push(size === 2 ? [0x66] : []);
    this.push(prefix);
    this.push(size === 3 ? [0x48] : []);
    this.push([size === 0 ? operation : operation + 1]);
    if (down) this.push([0xfc]);
  }

  /** A walk through memory by RSI that meets, in some round or never, a page that it may not touch. */
  #walk(): void {
    const { random } = this;
    if (this.#walks++ > 0) return;
    const stride = random.pick([1, 4, 8, 12, 16, 64]);
    const writes = random.chance(0.5);
    const limit = writes ? DATA_BASE + DATA_WRITABLE : DATA_END;
    const start = limit - stride * random.below(LONGEST_WALK) - random.below(8);
    const rounds = 1 + random.below(LONGEST_WALK);
    const counter = COUNTERS + 4 * this.#counters++;
    const value = random.pick(this.registers.values.filter((n) => n < 4));
    this.push([0xbe, ...dword(start)]);
    this.push([0xc7, ...this.#absolute(0, counter), ...dword(rounds)]);
    const at = this.code.length;
    this.body(2);
    // add [rsi], value — add value, [rsi] — push through rsi, a movs — as bytes, words, doublewords or quadwords
    const rex = this.#long && random.chance(0.4) ? [0x48] : [];
    const word = rex.length === 0 && random.chance(0.2) ? [0x66] : [];
    const operation = random.pick(
      writes ? [0x01, 0x29, 0x11, 0x31, 0x89, 0x87] : [0x03, 0x2b, 0x13, 0x33, 0x8b, 0x3b],
    );
    this.push([...word, ...rex, operation, (value << 3) | RSI]);
    this.body(2);
    // lea rsi, [rsi + stride]
    this.push([...(this.#long ? [0x48] : []), 0x8d, 0x76, stride]);
    this.push([0xff, ...this.#absolute(1, counter)]);
    this.#jumpBack(5, at);
  }

  /** An ADD of an immediate that may be changed, and a store to one: the change counts from the next instruction on. */
  #selfModifying(): void {
    const { random } = this;
    const value = random.below(4);
    const first = random.chance(0.5);
    const site = () => {
      // add value, imm32
      this.push([0x81, 0xc0 | value]);
      this.#immediates.push(this.code.length);
      this.push(dword(random.u32() & 0x7fffffff));
    };
    const store = () => {
      // inc byte [site] — or mov byte [site], imm8 — or add dword [site], ecx
      const way = random.below(3);
      if (way === 0) this.push([0xfe]);
      else this.push([way === 1 ? 0xc6 : 0x01]);
      this.push(this.#absolute(way === 2 ? 1 : 0, 0));
      this.#writesToCode.push(this.code.length - 4);
      if (way === 1) this.push([random.u32() & 0xff]);
    };
    if (first) site();
    store();
    if (!first) site();
  }

  /** Some of all that there is, one after the other. */
  sequence(most: number): void {
    const { random } = this;
    for (let i = 1 + random.below(most); i > 0; i--) {
      this.body(3);
      const deep = this.#depth >= 3;
      switch (random.below(9)) {
        case 0:
        case 1:
          if (!deep) this.#loop();
          break;
        case 2:
          this.#flaglessLoop();
          break;
        case 3:
          this.#branch();
          break;
        case 4:
          if (!deep) this.#call();
          break;
        case 5:
          this.#table();
          break;
        case 6:
          this.#string();
          break;
        case 7:
          if (random.chance(0.4)) this.#walk();
          else this.#branch();
          break;
        default:
          if (random.chance(0.5)) this.#selfModifying();
      }
      if (this.code.length > MAX_BYTES) throw new ProgramTooLong();
    }
  }

  program(): void {
    this.sequence(4);
    this.push([0xcc]);
    // What is called has to be there; a function may call the one after it.
    while (this.#functions.length <= Math.max(-1, ...this.#calls.map(({ callee }) => callee))) {
      this.#functionsBefore = this.#functions.length + 1;
      this.#depth = this.#functions.length >= 2 ? 3 : 2;
      this.#function();
      if (this.#functions.length > 6) throw new ProgramTooLong();
    }
    for (const { at, callee } of this.#calls) {
      if (at >= 0) this.#set(at, this.#functions[callee] - at - 4);
    }
    for (const at of this.#writesToCode) this.#set(at, this.entry + this.random.pick(this.#immediates));
    const bytes = this.#long ? 8 : 4;
    for (const { at, places } of this.#tables) {
      const table = new Uint8Array(bytes * TABLE_SLOTS);
      places().forEach((place, i) => {
        table.set(dword(this.entry + place), bytes * i);
      });
      this.patches.push({ address: at, bytes: table });
    }
  }

  #set(at: number, value: number): void {
    dword(value).forEach((byte, i) => {
      this.code[at + i] = byte;
    });
  }
}

class ProgramTooLong extends Error {}

export class ProgramGenerator {
  readonly #forms: Record<Bitness, Form[]> = { 64: [], 32: [], 16: [] };

  constructor(
    forms: readonly Form[],
    readonly random: Random,
    readonly only64 = false,
  ) {
    for (const form of forms) {
      if (!suitsBlocks(form) || !comparable(form) || READS_AF.test(form.row.mnemonic)) continue;
      // Flags go from instruction to instruction wherever control goes: only AF may be undefined.
      const { flags, fsw } = leftUndefined(form);
      if ((flags & ~AF) === 0 && fsw === 0) this.#forms[form.bitness].push(form);
    }
  }

  get usable(): boolean {
    return this.#forms[64].length > 0 && (this.only64 || this.#forms[32].length > 0);
  }

  next(): Trial {
    for (;;) {
      try {
        return this.#program();
      } catch (error) {
        if (!(error instanceof ProgramTooLong)) throw error;
      }
    }
  }

  #program(): Trial {
    const { random } = this;
    const bitness: Bitness = this.only64 || random.chance(0.85) ? 64 : 32;
    const nearEnd = random.chance(0.4) ? PAGE - random.below(0x100) : random.below(PAGE);
    const entry = Math.min(CODE_BASE + nearEnd, CODE_BASE + ENTRY_SPREAD);
    const b = new ProgramBuilder(bitness, random, entry, this.#forms[bitness]);
    b.program();
    const test: CpuCase = {
      title: `program of ${b.code.length} bytes (${bitness}-bit)`,
      bitness,
      entry,
      code: Uint8Array.from(b.code),
      gpr: b.gpr,
      rflags: 0x202 | (random.u32() & 0x8d5),
      fx: b.fx ? blockFx(random) : undefined,
      patches: [{ address: AREA, bytes: random.bytes(64) }, ...b.patches],
      usesLow: false,
      segments: false,
      operand: undefined,
    };
    // An x87 instruction that faults leaves condition codes of the one before.
    const masked = { ...nothingUndefined(), flags: AF };
    const maskedAtFault = { ...masked, faultAddress: false };
    return { test, masked: (o) => (o.vector === BREAKPOINT ? masked : maskedAtFault) };
  }
}
