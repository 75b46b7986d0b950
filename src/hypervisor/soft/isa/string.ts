/** String instructions (SDM vol. 1, 7.3.9), with the REP prefixes of SDM vol. 2, REP. */
import { Eflags, O, Seg } from "../vcpu-state.js";
import { I32, type I64, type Int } from "../wasm/expr.js";
import type { Definition, InstrContext } from "./context.js";
import { constant, flagsSub, truncate } from "./flags.js";

const RSI = 6;
const RDI = 7;
const RCX = 1;

const pointer = (x: InstrContext, n: number): I64 => x.f.let(x.gpr(n, x.addressSize).toI64U());
const source = (x: InstrContext): I64 => x.linearDataSegment(pointer(x, RSI), x.size);
const destination = (x: InstrContext, write: boolean): I64 =>
  x.linear(Seg.ES, pointer(x, RDI), x.size, write);

/** Move the index registers on by one element. */
function advance(x: InstrContext, ...registers: number[]): void {
  const down = x.field32(O.eflags).and(Eflags.DF);
  const delta = x.f.let(I32.const(-x.size).select(down, x.size).toI64S());
  for (const n of registers) {
    const next = x.gpr(n, x.addressSize).toI64U().add(delta);
    x.setGpr(n, x.addressSize === 8 ? next : next.toI32(), x.addressSize);
  }
}

function countDown(x: InstrContext): Int {
  const count = x.f.let(truncate(x.gpr(RCX, x.addressSize).sub(constant(x.addressSize, 1)), x.addressSize));
  x.setGpr(RCX, count, x.addressSize);
  return count;
}

/**
 * `element` does one element. `bulk`, where given, may do many at once: it gives how many it did (i64, 0 for none) and
 * has moved the index registers.
 */
function repeated(
  element: (x: InstrContext) => void,
  options: { compares?: boolean; bulk?: (x: InstrContext, count: I64) => I64 } = {},
): Definition {
  return (x) => {
    const { f } = x;
    if (x.rep === "none") {
      element(x);
      return;
    }
    if (options.compares === true) x.settleFlags();
    f.block((done) => {
      f.brIf(done, x.gpr(RCX, x.addressSize).eqz());
      f.loop((again) => {
        const { bulk } = options;
        if (bulk !== undefined) {
          const count = f.let(x.gpr(RCX, x.addressSize).toI64U());
          const did = f.let(bulk(x, count));
          f.if(did.ne(0), () => {
            const rest = f.let(count.sub(did));
            x.setGpr(RCX, x.addressSize === 8 ? rest : rest.toI32(), x.addressSize);
            f.brIf(done, rest.eqz());
            f.if(x.field32(O.poll), () => x.pollAndRepeat());
            f.br(again);
          });
        }
        element(x);
        f.brIf(done, countDown(x).eqz());
        if (options.compares === true) {
          f.brIf(done, x.rep === "rep" ? x.flag("zf").eqz() : x.flag("zf"));
        }
        f.if(x.field32(O.poll), () => x.pollAndRepeat());
        f.br(again);
      });
    });
  };
}

export const movs = repeated(
  (x) => {
    const value = x.load(x.size, source(x));
    x.store(x.size, destination(x, true), value);
    advance(x, RSI, RDI);
  },
  { bulk: (x, count) => x.bulkCopy(pointer(x, RSI), pointer(x, RDI), count) },
);

export const stos = repeated(
  (x) => {
    x.store(x.size, destination(x, true), x.gpr(0, x.size));
    advance(x, RDI);
  },
  { bulk: (x, count) => x.bulkFill(pointer(x, RDI), count) },
);

export const lods = repeated((x) => {
  x.setGpr(0, x.load(x.size, source(x)), x.size);
  advance(x, RSI);
});

export const scas = repeated(
  (x) => {
    const a = x.gpr(0, x.size);
    const b = x.load(x.size, destination(x, false));
    advance(x, RDI);
    flagsSub(x, a, b, x.f.let(truncate(a.sub(b), x.size)));
  },
  { compares: true },
);

export const cmps = repeated(
  (x) => {
    const a = x.load(x.size, source(x));
    const b = x.load(x.size, destination(x, false));
    advance(x, RSI, RDI);
    flagsSub(x, a, b, x.f.let(truncate(a.sub(b), x.size)));
  },
  { compares: true },
);
