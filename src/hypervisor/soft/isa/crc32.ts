/** CRC32 (SDM vol. 2). */

import { I32, I64, type Int } from "../wasm/expr.js";
import type { Definition, InstrContext } from "./context.js";
import { sharedFunction } from "./shared-function.js";

/** The polynomial 11EDC6F41H with its bits reflected (SDM vol. 2, CRC32). */
const CRC32C_REFLECTED = 0x82f63b78;

/** (crc, value, bits): the CRC after the low `bits` bits of value, 8 to 64. */
const crc32c = sharedFunction(
  "crc32c",
  ["i32", "i64", "i32"] as const,
  "i32",
  (f, _use, crc, value, bits) => {
    const polynomial = I64.const(CRC32C_REFLECTED);
    const rest = f.local("i64");
    const left = f.local("i32");
    f.set(rest, value.xor(crc.toI64U()));
    f.set(left, bits);
    f.loop((again) => {
      f.set(rest, rest.get.shrU(1).xor(rest.get.and(1).neg().and(polynomial)));
      f.set(left, left.get.sub(1));
      f.brIf(again, left.get);
    });
    f.return(rest.get.toI32());
  },
);

/** CRC32 r32, r/m8 to r/m64. Touches neither flags nor SSE state. */
export const crc32: Definition = (x) => {
  const value = x.read(1).toI64U();
  const crc = x.read(0).toI32();
  const bits = I32.const(8 * x.operands[1].size);
  x.write(0, fromWidth(x, x.f.call(x.shared(crc32c), crc, value, bits)));
};
/** A 32-bit result in the destination's width. */
const fromWidth = (x: InstrContext, value: I32): Int => (x.operands[0].size === 8 ? value.toI64U() : value);
