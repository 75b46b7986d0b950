/**
 * Decoded code of one vCPU: for each guest-physical page that was run, and each CodeMode it was run in, a code page (an index
 * from byte offset to record) and runs of records. A write to bytes that were decoded makes the page's records stale.
 */
import type { SharedMemory } from "../../../memory/shared-memory.js";
import { Special } from "../cold/special-handlers.js";
import {
  AccessKind,
  CODE_MAP_ENTRIES,
  CodeMapEntry,
  CodeMode,
  CodePage,
  O,
  RECORD_SIZE,
  Rec,
  Seg,
} from "../vcpu-state.js";
import { DecodeStatus, type InstructionDecoder } from "./instruction.js";

const PAGE = 4096;
/** Instructions decoded at a time. */
const RUN_LENGTH = 48;
/** An address record and an instruction's own, for each; and what ends the run. */
const RUN_BYTES = (2 * RUN_LENGTH + 1) * RECORD_SIZE;
/** Decoded bytes are remembered in units of 64. */
const CHUNK_SHIFT = 6;

/** Who sees to it that the cache hears of writes to pages by guest-physical number (smp/page-sharing). */
export interface PageWatcher {
  /** The page is about to get its first decoded code. When this returns, no write goes unnoticed any more. */
  own(page: number): void;
  /** It holds none any more. */
  disown(page: number): void;
}

interface PageCode {
  /** Code page by CodeMode, 0: none. */
  readonly codePages: [number, number, number];
  /** Runs: address and bytes, one after the other. */
  readonly runs: number[];
  /** CROSS records of the page before that go on to records which use bytes of this page. */
  readonly crossings: number[];
  /** By chunk: whether any of its bytes were decoded. */
  readonly chunks: Uint8Array;
}

export class CodeCache {
  readonly #pages = new Map<number, PageCode>();
  #next: number;
  /** How often a linked branch is taken until its target is hot; 0: never. */
  hotBranches = 0;
  /** Told of a page whose records went stale. */
  onInvalidate: (page: number) => void = () => {};
  /** Instructions decoded since the start. */
  decoded = 0;
  /** Times that all was thrown away because the arena was full. */
  flushes = 0;
  /** Pages whose code was dropped because it was written. */
  invalidations = 0;

  /**
   * `start` to `end`: the part of linear memory that holds it all. `onFlush` is called when every code page is gone.
   */
  constructor(
    readonly memory: SharedMemory,
    readonly decoder: InstructionDecoder,
    readonly start: number,
    readonly end: number,
    readonly physMap: number,
    /** Address of the map that the fetch TLB is refilled from. */
    readonly codeMap: number,
    readonly onFlush: () => void,
    readonly watcher: PageWatcher,
  ) {
    this.#next = start;
  }

  /** Forget everything. */
  flush(): void {
    for (const page of this.#pages.keys()) this.watcher.disown(page);
    this.#pages.clear();
    this.#next = this.start;
    this.memory.u8.fill(0, this.codeMap, this.codeMap + CODE_MAP_ENTRIES * CodeMapEntry.size);
    this.flushes++;
    this.onFlush();
  }

  #mapIndex(page: number): number {
    return (this.physMap >>> 2) + page;
  }

  /** Before bytes of the page are decoded: from now on writes to it are told to `written`. */
  #watch(page: number, code: PageCode): void {
    if (code.runs.length === 0) this.watcher.own(page);
  }

  #allocate(bytes: number): number {
    const at = this.#next;
    this.#next += bytes;
    return at;
  }

  /** The code page of guest-physical page `page` in `mode`, made if it is new. Its linear-memory address. */
  codePage(page: number, mode: number): number {
    if (this.#next + CodePage.size > this.end) this.flush();
    let code = this.#pages.get(page);
    if (code === undefined) {
      code = { codePages: [0, 0, 0], runs: [], crossings: [], chunks: new Uint8Array(PAGE >> CHUNK_SHIFT) };
      this.#pages.set(page, code);
    }
    this.#watch(page, code);
    let at = code.codePages[mode];
    if (at === 0) {
      at = this.#allocate(CodePage.size);
      this.memory.u8.fill(0, at, at + CodePage.size);
      code.codePages[mode] = at;
    }
    const entry = this.codeMap + (page & (CODE_MAP_ENTRIES - 1)) * CodeMapEntry.size;
    this.memory.u32[(entry + CodeMapEntry.key) >>> 2] = ((page << 2) | mode) + 1;
    this.memory.u32[(entry + CodeMapEntry.codePage) >>> 2] = at;
    return at;
  }

  /**
   * Decode from byte `offset` of guest-physical page `page` on. The caller has made the code page; false where the arena
   * was full: everything is gone then, and the caller starts over.
   */
  decodeRun(page: number, offset: number, mode: number): boolean {
    if (this.#next + RUN_BYTES > this.end) {
      this.flush();
      return false;
    }
    const { u8, u32 } = this.memory;
    const code = this.#pages.get(page) as PageCode;
    this.#watch(page, code);
    const index = (code.codePages[mode] + CodePage.index) >>> 2;
    const linear = (u32[this.#mapIndex(page)] & ~0xfff) >>> 0;
    const start = this.#next;
    let at = start;
    let count = 0;
    const first = offset;
    for (;;) {
      if (offset >= PAGE) {
        at = this.#special(at, Special.CONTINUE, PAGE);
        break;
      }
      const known = u32[index + offset];
      if (known !== 0 || count === RUN_LENGTH) {
        if (known !== 0) {
          this.#clear(at, offset);
          u32[(at + Rec.handler) >>> 2] = Special.GOTO;
          u32[(at + Rec.link) >>> 2] = known;
          at += RECORD_SIZE;
        } else at = this.#special(at, Special.CONTINUE, offset);
        break;
      }
      const status = this.decoder.decode(u8, linear + offset, linear + PAGE, mode);
      u32[index + offset] = at;
      count++;
      if (status === DecodeStatus.NEEDS_MORE) {
        at = this.#special(at, Special.CROSS, offset);
        offset = PAGE;
        break;
      }
      if (status === DecodeStatus.TOO_LONG) {
        at = this.#special(at, Special.TOO_LONG, offset);
        offset += 15;
        break;
      }
      at = this.writeRecords(at, offset, mode);
      offset += this.decoder.length;
      if (status === DecodeStatus.UNDEFINED || this.decoder.row.ends === true) break;
    }
    this.#next = at;
    this.decoded += count;
    code.runs.push(start, at - start);
    const last = Math.min(offset, PAGE) - 1;
    for (let chunk = first >> CHUNK_SHIFT; chunk <= last >> CHUNK_SHIFT; chunk++) code.chunks[chunk] = 1;
    return true;
  }

  #clear(at: number, offset: number): void {
    const { u32 } = this.memory;
    const i = at >>> 2;
    for (let k = 0; k < RECORD_SIZE >>> 2; k++) u32[i + k] = 0;
    u32[i + (Rec.pageOffset >>> 2)] = offset;
  }

  /** Write the record that ends a single-stepped instruction. */
  stepEnd(at: number, offset: number): void {
    this.#special(at, Special.STEP_END, offset);
  }

  /** A record of handler `handler` that stands for byte `offset` of the page; the address after it. */
  #special(at: number, handler: number, offset: number): number {
    this.#clear(at, offset);
    this.memory.u32[(at + Rec.handler) >>> 2] = handler;
    return at + RECORD_SIZE;
  }

  /** Records of the instruction that the decoder holds, at byte `offset` of its page; the address after them. */
  writeRecords(at: number, offset: number, mode: number): number {
    const { decoder } = this;
    const { u8, u16, u32, i32 } = this.memory;
    if (decoder.handler === Special.UNDEFINED) return this.#special(at, Special.UNDEFINED, offset);
    let base = decoder.base;
    let displacement = decoder.displacement;
    if (decoder.hasMemory) {
      const plain =
        mode === CodeMode.LONG64 &&
        decoder.row.bitOffset !== true &&
        decoder.addressSize === 8 &&
        decoder.index === O.zero &&
        (decoder.segment < Seg.FS || decoder.row.noSegment === true) &&
        !decoder.wideDisplacement;
      if (plain && decoder.ripRelative) {
        base = O.pageRip;
        displacement += offset + decoder.length;
      }
      if (!plain || displacement !== (displacement | 0)) {
        at = this.#addressRecord(at, offset, mode);
        base = O.ea;
        displacement = 0;
      }
    }
    this.#clear(at, offset);
    const i = at >>> 2;
    u32[i] = decoder.handler;
    const h = at >>> 1;
    u16[h + (Rec.r0 >>> 1)] = decoder.registers[0];
    u16[h + (Rec.r1 >>> 1)] = decoder.registers[1];
    u16[h + (Rec.r2 >>> 1)] = decoder.registers[2];
    if (decoder.hasMemory) {
      i32[i + (Rec.disp >>> 2)] = displacement;
      u16[h + (Rec.base >>> 1)] = base;
    }
    u8[at + Rec.length] = decoder.length;
    if (decoder.relative) {
      u32[i + (Rec.disp >>> 2)] = this.hotBranches;
      u32[i + (Rec.notTaken >>> 2)] = 0;
      // Relative to pageRip: what follows the instruction, plus the displacement.
      const target = offset + decoder.length + decoder.immLow;
      i32[i + (Rec.imm >>> 2)] = target | 0;
      i32[i + (Rec.imm >>> 2) + 1] = Math.floor(target / 2 ** 32);
    } else {
      i32[i + (Rec.imm >>> 2)] = decoder.immLow;
      i32[i + (Rec.imm >>> 2) + 1] = decoder.immHigh;
    }
    if (decoder.hasMemory && decoder.stackSegment && mode === CodeMode.LONG64) u8[at + Rec.extra] = 1;
    return at + RECORD_SIZE;
  }

  #addressRecord(at: number, offset: number, mode: number): number {
    const { decoder } = this;
    const { u16, u32, i32 } = this.memory;
    this.#clear(at, offset);
    const i = at >>> 2;
    const h = at >>> 1;
    const { addressSize, row } = decoder;
    let displacement = decoder.displacement;
    u16[h + (Rec.base >>> 1)] = decoder.base;
    if (decoder.ripRelative) {
      u16[h + (Rec.base >>> 1)] = O.pageRip;
      displacement += offset + decoder.length;
    }
    u16[h + (Rec.r0 >>> 1)] = decoder.index;
    u32[i + (Rec.disp >>> 2)] = decoder.shift;
    if (decoder.wideDisplacement) {
      i32[i + (Rec.imm >>> 2)] = decoder.immLow;
      i32[i + (Rec.imm >>> 2) + 1] = decoder.immHigh;
    } else {
      i32[i + (Rec.imm >>> 2)] = displacement | 0;
      i32[i + (Rec.imm >>> 2) + 1] = Math.floor(displacement / 2 ** 32);
    }
    const flat = mode === CodeMode.LONG64 || row.noSegment === true;
    if (flat) {
      u32[i] = addressSize === 8 ? Special.EA64 : addressSize === 4 ? Special.EA32 : Special.EA16;
      const based = row.noSegment !== true && decoder.segment >= Seg.FS;
      u16[h + (Rec.r1 >>> 1)] = based ? O.segBase + 8 * decoder.segment : O.zero;
    } else {
      u32[i] = addressSize === 4 ? Special.EA_SEGMENT32 : Special.EA_SEGMENT16;
      u16[h + (Rec.r1 >>> 1)] = decoder.segment;
      u16[h + (Rec.r2 >>> 1)] =
        Math.min(Math.max(decoder.memoryBytes, 1), 255) | (decoder.writesMemory ? AccessKind.WRITE << 8 : 0);
    }
    if (row.bitOffset === true) {
      u32[i] = flat ? Special.EA_BITS : Special.EA_SEGMENT_BITS;
      u32[i + (Rec.link >>> 2)] = decoder.registers[1] | (decoder.memoryBytes << 16) | (addressSize << 24);
    }
    return at + RECORD_SIZE;
  }

  /** First record of the instruction at byte `offset` of a page in `mode`; decoded now if it was not. 0: cannot be had. */
  recordAt(page: number, offset: number, mode: number): number {
    const code = this.#pages.get(page);
    if (code === undefined || code.codePages[mode] === 0) return 0;
    const slot = (code.codePages[mode] + CodePage.index + 4 * offset) >>> 2;
    if (this.memory.u32[slot] === 0 && this.#next + RUN_BYTES <= this.end) this.decodeRun(page, offset, mode);
    return this.memory.u32[slot];
  }

  /**
   * Records of the instruction that the decoder holds, which starts at byte `offset` of `page` and ends in `nextPage`, both
   * run in `mode`: in place of the CROSS record. False where the arena is full.
   */
  writeCrossing(page: number, offset: number, nextPage: number, mode: number): boolean {
    const first = this.#pages.get(page);
    const second = this.#pages.get(nextPage);
    if (first === undefined || second === undefined || this.#next + 4 * RECORD_SIZE > this.end) return false;
    const { u32 } = this.memory;
    const record = this.knownRecord(page, offset, mode);
    if (record === 0) return false;
    const { length } = this.decoder;
    const start = this.#next;
    let at = this.#special(start, Special.CROSS_GUARD, offset);
    u32[(start + Rec.link) >>> 2] = second.codePages[mode];
    at = this.writeRecords(at, offset, mode);
    at = this.#special(at, Special.CONTINUE, offset + length);
    this.#next = at;
    for (const code of [first, second]) code.runs.push(start, at - start);
    second.crossings.push(record);
    const last = (offset + length - 1 - PAGE) >> CHUNK_SHIFT;
    for (let chunk = 0; chunk <= last; chunk++) second.chunks[chunk] = 1;
    u32[(record + Rec.handler) >>> 2] = Special.GOTO;
    u32[(record + Rec.link) >>> 2] = start;
    return true;
  }

  /** As `recordAt`, of what is decoded already. */
  knownRecord(page: number, offset: number, mode: number): number {
    const codePage = this.#pages.get(page)?.codePages[mode] ?? 0;
    return codePage === 0 ? 0 : this.memory.u32[(codePage + CodePage.index + 4 * offset) >>> 2];
  }

  /** The code page of guest-physical page `page` in `mode`, 0 where there is none. */
  knownCodePage(page: number, mode: number): number {
    return this.#pages.get(page)?.codePages[mode] ?? 0;
  }

  /** Byte offset in linear memory of guest-physical page `page`. */
  linearPage(page: number): number {
    return (this.memory.u32[this.#mapIndex(page)] & ~0xfff) >>> 0;
  }

  /** `length` bytes at `offset` of guest-physical page `page` were written; true where decoded code went stale. */
  written(page: number, offset: number, length: number): boolean {
    const code = this.#pages.get(page);
    if (code === undefined) return false;
    const last = Math.min(offset + length, PAGE) - 1;
    for (let chunk = offset >> CHUNK_SHIFT; chunk <= last >> CHUNK_SHIFT; chunk++) {
      if (code.chunks[chunk] !== 0) {
        this.#invalidate(page, code);
        this.onInvalidate(page);
        return true;
      }
    }
    return false;
  }

  /** The page is watched no longer, until code is decoded there again: else what once held code would be slow for ever. */
  #invalidate(page: number, code: PageCode): void {
    const { u8, u32 } = this.memory;
    this.invalidations++;
    for (let k = 0; k < code.runs.length; k += 2) {
      const end = code.runs[k] + code.runs[k + 1];
      for (let at = code.runs[k]; at < end; at += RECORD_SIZE) u32[(at + Rec.handler) >>> 2] = Special.STALE;
    }
    code.runs.length = 0;
    for (const record of code.crossings) u32[(record + Rec.handler) >>> 2] = Special.CROSS;
    code.crossings.length = 0;
    code.chunks.fill(0);
    for (const at of code.codePages) if (at !== 0) u8.fill(0, at, at + CodePage.size);
    // The code pages stay in the fetch TLB, empty.
    this.watcher.disown(page);
  }

  get bytesUsed(): number {
    return this.#next - this.start;
  }
}
