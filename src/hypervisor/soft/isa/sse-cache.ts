/** Cache control and ordering, the masked byte stores, and MXCSR (SDM vol. 1, 10.4.6, 10.2.3 and 11.6.6). */
import { MXCSR_WRITABLE } from "../fpu/x87-environment.js";
import { Gpr, O, Vector } from "../vcpu-state.js";
import { atomicFence, I32, type V128 } from "../wasm/expr.js";
import { lane, test, v } from "../wasm/simd.js";
import type { Definition, InstrContext } from "./context.js";
import { enterMmx, readMmx, requireMmx } from "./mmx.js";

export const ldmxcsr: Definition = (x) => {
  x.requireSse();
  const value = x.read(0) as I32;
  x.faultIf(value.and(~MXCSR_WRITABLE), Vector.GP, 0);
  x.setField32(O.mxcsr, value);
};
export const stmxcsr: Definition = (x) => {
  x.requireSse();
  x.write(0, x.field32(O.mxcsr));
};

/** CLFLUSH: nothing to write back, but it faults as a load of a byte does. */
export const clflush: Definition = (x) => {
  x.read(0);
};

/** MFENCE, LFENCE, SFENCE. */
export const fence: Definition = (x) => x.f.emit(atomicFence);

/** Store the bytes of `value` whose mask byte has its sign bit set at DS:rDI. */
function storeMasked(x: InstrContext, value: V128, mask: V128, count: 8 | 16): void {
  const { f } = x;
  const bits = f.let(test("i8x16.bitmask", mask).and((1 << count) - 1));
  const rdi = x.gpr(Gpr.RDI, x.addressSize);
  const address = f.let(x.linearDataSegment(rdi.toI64U(), count, true));
  f.if(bits, () => {
    // The first and the last byte are in all pages that are written: if one faults, nothing is stored.
    x.probeWrite(f.let(address.add(bits.ctz().toI64U())), 1);
    x.probeWrite(f.let(address.add(I32.const(31).sub(bits.clz()).toI64U())), 1);
    const rest = f.local("i32");
    f.set(rest, bits);
    f.loop((again) => {
      const index = f.let(rest.get.ctz());
      const moved = v("i8x16.swizzle", value, v("i8x16.splat", index));
      x.store(1, address.add(index.toI64U()), lane("i8x16", moved, 0));
      f.set(rest, rest.get.and(rest.get.sub(1)));
      f.brIf(again, rest.get);
    });
  });
}

export const maskedStore: Definition = (x) => {
  x.requireSse();
  storeMasked(x, x.readVector(0), x.readVector(1), 16);
};
export const mmxMaskedStore: Definition = (x) => {
  requireMmx(x);
  storeMasked(x, readMmx(x, 0), readMmx(x, 1), 8);
  enterMmx(x);
};
