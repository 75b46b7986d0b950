/**
 * Whole runs of string instructions in 64-bit mode: as much of REP MOVS and REP STOS, upwards, as lies in one page on
 * either side and hits the TLB.
 */
import type { SharedFunction } from "../isa/context.js";
import { dataTlbEntry } from "../mmu/tlb-entry.js";
import { Dtlb, type DtlbHalf, Eflags, gprOffset, O } from "../vcpu-state.js";
import { I32, I64, load32, load64 } from "../wasm/expr.js";
import type { FunctionBuilder } from "../wasm/module.js";

const PAGE = 4096;

function probe(f: FunctionBuilder, cpu: I32, va: I64, { tag, addend }: DtlbHalf, miss: () => void): I32 {
  const entry = f.let(dataTlbEntry(load32(cpu, O.dtlb), va));
  f.if(load64(entry, tag).ne(va.and(~0xfff)), miss);
  return f.let(va.toI32().add(load32(entry, addend)));
}

const roomInPage = (va: I64): I32 => I32.const(PAGE).sub(va.toI32().and(PAGE - 1));

/** Elements to do: `count`, or what fits into `room` bytes. */
function elements(f: FunctionBuilder, count: I64, room: I32, log2: number): I64 {
  const fit = f.let(room.shrU(log2).toI64U());
  return f.let(fit.select(count.gtU(fit), count));
}

function add(f: FunctionBuilder, cpu: I32, n: number, bytes: I64): void {
  f.store64(cpu, load64(cpu, gprOffset(n)).add(bytes), gprOffset(n));
}

/** (cpu, linear source, linear destination, count) → elements copied; RSI and RDI moved. */
export function bulkCopyFunction(size: number): SharedFunction<readonly ["i32", "i64", "i64", "i64"], "i64"> {
  return {
    name: `bulkCopy${size}`,
    params: ["i32", "i64", "i64", "i64"],
    result: "i64",
    body: (f) => {
      const cpu = f.params[0].get as I32;
      const [from, to, count] = [1, 2, 3].map((i) => f.params[i].get as I64);
      const none = () => f.return(I64.const(0));
      // Single-stepping, and whoever waits for the vCPU, want one element at a time.
      f.if(load32(cpu, O.eflags).and(Eflags.DF).or(load32(cpu, O.poll)), none);
      const source = probe(f, cpu, from, Dtlb.read, none);
      const target = probe(f, cpu, to, Dtlb.write, none);
      const room = f.let(roomInPage(from));
      const roomTo = f.let(roomInPage(to));
      const n = elements(f, count, f.let(room.select(room.ltU(roomTo), roomTo)), Math.log2(size));
      f.if(n.eqz(), none);
      const bytes = f.let(n.toI32().shl(Math.log2(size)));
      // A destination inside the source repeats what was just copied: element by element.
      f.if(target.sub(source).ltU(bytes).and(target.ne(source)), none);
      f.copy(target, source, bytes);
      for (const register of [6, 7]) add(f, cpu, register, bytes.toI64U());
      f.return(n);
    },
  };
}

/** (cpu, linear destination, count) → elements stored; RDI moved. */
export function bulkFillFunction(size: number): SharedFunction<readonly ["i32", "i64", "i64"], "i64"> {
  return {
    name: `bulkFill${size}`,
    params: ["i32", "i64", "i64"],
    result: "i64",
    body: (f) => {
      const cpu = f.params[0].get as I32;
      const [to, count] = [1, 2].map((i) => f.params[i].get as I64);
      const none = () => f.return(I64.const(0));
      // Single-stepping, and whoever waits for the vCPU, want one element at a time.
      f.if(load32(cpu, O.eflags).and(Eflags.DF).or(load32(cpu, O.poll)), none);
      const value = f.let(load64(cpu, gprOffset(0)));
      // Only where all bytes of the element are the same can memory.fill do it.
      const unit = f.let(value.and(I64.const(size === 8 ? -1n : (1n << BigInt(8 * size)) - 1n)));
      const byte = f.let(value.and(0xff));
      const repeated = byte.mul(I64.const(0x0101010101010101n >> BigInt(64 - 8 * size)));
      f.if(unit.ne(repeated), none);
      const target = probe(f, cpu, to, Dtlb.write, none);
      const n = elements(f, count, roomInPage(to), Math.log2(size));
      f.if(n.eqz(), none);
      const bytes = f.let(n.toI32().shl(Math.log2(size)));
      f.fill(target, byte.toI32(), bytes);
      add(f, cpu, 7, bytes.toI64U());
      f.return(n);
    },
  };
}
