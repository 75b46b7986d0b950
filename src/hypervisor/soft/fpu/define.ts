/** Emitters of 128-bit integer arithmetic that the soft float functions use. */
import { I32, I64 } from "../wasm/expr.js";
import type { FunctionBuilder, Local } from "../wasm/module.js";

export const i32 = I32.const;
export const i64 = I64.const;

/** The 128-bit number hi·2^64 + lo, in two locals. */
export interface Wide {
  readonly hi: Local<"i64">;
  readonly lo: Local<"i64">;
}

export function wide(f: FunctionBuilder): Wide {
  return { hi: f.local("i64"), lo: f.local("i64") };
}

/** w = w >> n, n ≥ 0 of any size; bits that fall out are ORed into the lowest bit ("sticky"). */
export function shiftRightSticky(f: FunctionBuilder, w: Wide, n: I32): void {
  const { hi, lo } = w;
  f.if(n.ne(0), () => {
    const count = f.let(n.toI64U());
    f.if(
      n.ltU(64),
      () => {
        const lost = lo.get.shl(i64(0).sub(count)).ne(0).toI64U();
        f.set(
          lo,
          lo.get
            .shrU(count)
            .or(hi.get.shl(i64(0).sub(count)))
            .or(lost),
        );
        f.set(hi, hi.get.shrU(count));
      },
      () => {
        f.if(
          n.ltU(128),
          () => {
            // hi << (128 - n) is what hi loses; for n = 64 nothing (the shift count is taken modulo 64).
            const lostHi = hi.get.shl(i64(0).sub(count)).ne(0).and(n.ne(64));
            f.set(lo, hi.get.shrU(count).or(lo.get.ne(0).or(lostHi).toI64U()));
          },
          () => f.set(lo, hi.get.or(lo.get).ne(0).toI64U()),
        );
        f.set(hi, i64(0));
      },
    );
  });
}

/** Shift w (not zero) left until its top bit is set; gives the count. */
export function normalize(f: FunctionBuilder, w: Wide): I32 {
  const { hi, lo } = w;
  const shift = f.local("i32");
  f.set(shift, i32(0));
  f.if(hi.get.eqz(), () => {
    f.set(hi, lo.get);
    f.set(lo, i64(0));
    f.set(shift, i32(64));
  });
  const n = f.let(hi.get.clz());
  f.if(n.ne(0), () => {
    f.set(hi, hi.get.shl(n).or(lo.get.shrU(i64(64).sub(n))));
    f.set(lo, lo.get.shl(n));
    f.set(shift, shift.get.add(n.toI32()));
  });
  return shift.get;
}

/** w = a · b. */
export function multiply64(f: FunctionBuilder, w: Wide, a: I64, b: I64): void {
  const low = i64(0xffffffff);
  const aL = f.let(a.and(low));
  const aH = f.let(a.shrU(32));
  const bL = f.let(b.and(low));
  const bH = f.let(b.shrU(32));
  const ll = f.let(aL.mul(bL));
  const middle = f.let(aH.mul(bL).add(ll.shrU(32)));
  const middle2 = f.let(aL.mul(bH).add(middle.and(low)));
  f.set(w.hi, aH.mul(bH).add(middle.shrU(32)).add(middle2.shrU(32)));
  f.set(w.lo, middle2.shl(32).or(ll.and(low)));
}
