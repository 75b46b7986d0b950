/** Handlers that are no instructions: effective addresses, ends of runs and pages, records gone stale. */
import { fetchTlbEntry } from "../mmu/tlb-entry.js";
import { Ftlb, Leave, O, RECORD_SIZE, Rec, Vector } from "../vcpu-state.js";
import { I32, I64, load16U, load32, load64 } from "../wasm/expr.js";
import type { FuncRef, FunctionBuilder } from "../wasm/module.js";
import { type Runtime, recordRip } from "./runtime.js";

/** Their places in the handler table. */
export const Special = {
  /** The record's page was written: decode again. */
  STALE: 0,
  /** #UD. */
  UNDEFINED: 1,
  /** An instruction of more than 15 bytes: #GP (SDM vol. 3A, 6.15, interrupt 13). */
  TOO_LONG: 2,
  /** Go on at the record's offset, found anew: the end of a run or of a page. */
  CONTINUE: 3,
  /** An instruction that reaches into the next page. */
  CROSS: 4,
  /** Go on at the record in `link`. */
  GOTO: 5,
  /** After an instruction that was run alone. */
  STEP_END: 6,
  /** base + (index << shift) + imm + segment base; `r0` index, `r1` segment base, `disp` shift. */
  EA64: 7,
  /** The same, the offset cut to 32 bits. */
  EA32: 8,
  /** The same, cut to 16 bits. */
  EA16: 9,
  /** Segmented: `r1` segment number, `r2` bytes and kind of access as segmentLinear takes them. */
  EA_SEGMENT32: 10,
  EA_SEGMENT16: 11,
  /** BT and its kin: as EA64 and EA_SEGMENT32, plus what a register counts in bits; see BitOffset. */
  EA_BITS: 12,
  EA_SEGMENT_BITS: 13,
  /** Before an instruction of two pages: goes on where the next page still is the code page in `link`, else as CROSS. */
  CROSS_GUARD: 14,
  COUNT: 15,
} as const;

/** `link` of a bit offset's record: offset of the register in the state, operand size and address size in bytes. */
const BitOffset = { register: 0xffff, size: 16, addressSize: 24 } as const;

export function defineSpecialHandlers(runtime: Runtime): FuncRef[] {
  const { module } = runtime;
  const handler = (name: string, body: (f: FunctionBuilder, cpu: I32, rec: I32) => void): FuncRef =>
    module.func(name, ["i32", "i32"], undefined, body) as unknown as FuncRef;
  const leave =
    (reason: number) =>
    (f: FunctionBuilder, cpu: I32, rec: I32): void => {
      f.store64(cpu, recordRip(cpu, rec), O.rip);
      f.store32(cpu, rec, O.rec);
      f.store32(cpu, I32.const(reason), O.leave);
    };
  const fault = (vector: number, code: number) => (f: FunctionBuilder, cpu: I32, rec: I32) =>
    f.returnCall(runtime.fault, cpu, rec, I32.const(vector), I32.const(code));
  const next = (f: FunctionBuilder, cpu: I32, rec: I32) =>
    f.returnCallIndirect(
      runtime.handlerType,
      load32(rec, RECORD_SIZE + Rec.handler),
      cpu,
      rec.add(RECORD_SIZE),
    );
  const offset = (cpu: I32, rec: I32): I64 =>
    load64(cpu.add(load16U(rec, Rec.base)))
      .add(load64(cpu.add(load16U(rec, Rec.r0))).shl(load32(rec, Rec.disp).toI64U()))
      .add(load64(rec, Rec.imm));
  const flat = (mask: bigint | undefined) => (f: FunctionBuilder, cpu: I32, rec: I32) => {
    const at = offset(cpu, rec);
    const masked = mask === undefined ? at : at.and(I64.const(mask));
    f.store64(cpu, masked.add(load64(cpu.add(load16U(rec, Rec.r1)))), O.ea);
    next(f, cpu, rec);
  };
  const segmented = (mask: bigint) => (f: FunctionBuilder, cpu: I32, rec: I32) => {
    const at = offset(cpu, rec).and(I64.const(mask));
    const linear = f.call(runtime.segmentLinear, cpu, rec, load16U(rec, Rec.r1), at, load16U(rec, Rec.r2));
    f.store64(cpu, linear, O.ea);
    f.if(load32(cpu, O.leave), () => f.return());
    next(f, cpu, rec);
  };
  /** Whole operands up or down from the register's bit number, and the sum cut to the address size (SDM vol. 2, BT). */
  const bitOffset = (f: FunctionBuilder, cpu: I32, rec: I32): I64 => {
    const link = f.let(load32(rec, Rec.link));
    const size = f.let(link.shrU(BitOffset.size).and(0xff).toI64U());
    const unused = f.let(I64.const(64).sub(size.shl(3)));
    const index = load64(cpu.add(link.and(BitOffset.register)))
      .shl(unused)
      .shrS(unused);
    const bytes = index.shrS(3).and(size.neg());
    const addressBits = link.shrU(BitOffset.addressSize).shl(3).toI64U();
    // 64 − addressBits: a shift count below 64 in every case.
    const cut = f.let(I64.const(64).sub(addressBits));
    return f.let(offset(cpu, rec).add(bytes).shl(cut).shrU(cut));
  };
  const handlers: Record<Exclude<keyof typeof Special, "COUNT">, FuncRef> = {
    STALE: handler("stale", leave(Leave.DECODE)),
    UNDEFINED: handler("undefinedOpcode", fault(Vector.UD, -1)),
    TOO_LONG: handler("tooLong", fault(Vector.GP, 0)),
    CONTINUE: handler("continue", (f, cpu, rec) => f.returnCall(runtime.jump, cpu, recordRip(cpu, rec))),
    CROSS: handler("cross", leave(Leave.CROSS)),
    CROSS_GUARD: handler("crossGuard", (f, cpu, rec) => {
      const page = f.let(load64(cpu, O.pageRip).add(4096));
      const entry = f.let(fetchTlbEntry(load32(cpu, O.ftlb), page));
      const same = load64(entry, Ftlb.tag)
        .eq(page)
        .and(load32(entry, Ftlb.codePage).eq(load32(rec, Rec.link)));
      f.if(same, () => next(f, cpu, rec));
      leave(Leave.CROSS)(f, cpu, rec);
    }),
    GOTO: handler("goto", (f, cpu, rec) => {
      const link = f.let(load32(rec, Rec.link));
      f.returnCallIndirect(runtime.handlerType, load32(link, Rec.handler), cpu, link);
    }),
    STEP_END: handler("stepEnd", leave(Leave.STEP)),
    EA64: handler("ea64", flat(undefined)),
    EA32: handler("ea32", flat(0xffffffffn)),
    EA16: handler("ea16", flat(0xffffn)),
    EA_SEGMENT32: handler("eaSegment32", segmented(0xffffffffn)),
    EA_SEGMENT16: handler("eaSegment16", segmented(0xffffn)),
    EA_BITS: handler("eaBits", (f, cpu, rec) => {
      const at = bitOffset(f, cpu, rec);
      f.store64(cpu, at.add(load64(cpu.add(load16U(rec, Rec.r1)))), O.ea);
      next(f, cpu, rec);
    }),
    EA_SEGMENT_BITS: handler("eaSegmentBits", (f, cpu, rec) => {
      const at = bitOffset(f, cpu, rec);
      const linear = f.call(runtime.segmentLinear, cpu, rec, load16U(rec, Rec.r1), at, load16U(rec, Rec.r2));
      f.store64(cpu, linear, O.ea);
      f.if(load32(cpu, O.leave), () => f.return());
      next(f, cpu, rec);
    }),
  };
  const table: FuncRef[] = [];
  for (const [name, f] of Object.entries(handlers)) table[Special[name as keyof typeof Special]] = f;
  return table;
}
