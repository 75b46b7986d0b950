/** Data transfer (SDM vol. 1, 7.3.1). */
import { O, Vector } from "../vcpu-state.js";
import { choose, I32, I64, type Int } from "../wasm/expr.js";
import type { Definition, OperandSize } from "./context.js";
import { resize, signed, truncate } from "./flags.js";

export const mov: Definition = (x) => x.write(0, x.read(1));

export const movzx: Definition = (x) => {
  const to = x.operands[0].size as OperandSize;
  x.write(0, resize(x.read(1), to));
};

export const movsx: Definition = (x) => {
  const [to, from] = x.operands.map((operand) => operand.size as OperandSize);
  const value = signed(x.read(1), from);
  x.write(0, to === 8 ? value.toI64S() : truncate(value.toI32(), to));
};

export const xchg: Definition = (x) => {
  const b = x.read(1);
  if (x.operands[0].kind === "reg") {
    const a = x.read(0);
    x.write(0, b);
    x.write(1, a);
    return;
  }
  const [old] = x.update(0, () => b);
  x.write(1, old);
};

export const lea: Definition = (x) => {
  const address = x.address(1);
  x.write(0, x.size === 8 ? address : truncate(address.toI32(), x.size));
};

export const bswap: Definition = (x) => {
  if (x.size === 2) {
    // Undefined in the SDM; processors give zero.
    x.write(0, I32.const(0));
    return;
  }
  const swap32 = (v: Int): Int => v.and(0xff00ff).rotr(8).or(v.rotr(24).and(0xff00ff));
  if (x.size === 4) {
    x.write(0, swap32(x.read(0)));
    return;
  }
  const value = x.read(0) as I64;
  const low = x.f.let(swap32(x.f.let(value.toI32())).toI64U());
  const high = x.f.let(swap32(x.f.let(value.shrU(32).toI32())).toI64U());
  x.write(0, low.shl(32).or(high));
};

export const movbe: Definition = (x) => {
  const value = x.read(1);
  const byte = (v: Int, from: number, to: number): Int =>
    v
      .shrU(8 * from)
      .and(0xff)
      .shl(8 * to);
  let result = byte(value, 0, x.size - 1);
  for (let i = 1; i < x.size; i++) result = result.or(byte(value, i, x.size - 1 - i));
  x.write(0, result);
};

export const cmov: Definition = (x) => {
  const source = x.read(1);
  const old = x.read(0);
  x.write(0, choose(x.condition(x.args[0]), source, old));
};

export const setcc: Definition = (x) => x.write(0, x.condition(x.args[0]));

export const push: Definition = (x) => {
  const value = x.read(0);
  const { size } = x.operands[0];
  // An 8-bit immediate is sign-extended, a segment register zero-extended, to the operand size.
  const kind = x.operands[0].kind;
  const wide = kind === "imm" || size === x.size ? value : resize(value, x.size);
  x.push(x.size, wide);
};

/** PUSH of a segment register, whose number is the row's argument. */
export const pushSegment: Definition = (x) => {
  const selector = x.field32(O.segSelector + 4 * x.args[0]);
  x.push(x.size, x.size === 8 ? selector.toI64U() : selector);
};

export const pop: Definition = (x) => {
  const value = x.peek(x.size);
  if (x.operands[0].kind === "reg") {
    // RSP is changed before the destination, which may be RSP itself.
    x.addSp(x.size);
    x.write(0, value);
    return;
  }
  // An address that uses RSP uses it as it is after the pop: the decoder has added the operand size to the displacement.
  x.write(0, value);
  x.addSp(x.size);
};

export const pusha: Definition = (x) => {
  x.push(x.size, ...[0, 1, 2, 3, 4, 5, 6, 7].map((n) => x.gpr(n, x.size)));
};

export const popa: Definition = (x) => {
  const order = [7, 6, 5, 4, 3, 2, 1, 0];
  const values = order.map((_, i) => x.peek(x.size, i));
  order.forEach((n, i) => {
    if (n !== 4) x.setGpr(n, values[i], x.size);
  });
  x.addSp(8 * x.size);
};

export const leave: Definition = (x) => {
  const { f } = x;
  const sp = x.gpr(4) as I64;
  const bp = x.gpr(5) as I64;
  const mask = x.field64(O.spMask);
  // RSP is set before the pop, in the stack's width; a fault puts it back.
  const moved = x.long ? bp : f.let(sp.and(mask.not()).or(bp.and(mask)));
  const value = x.loadAtStackTop(x.size, moved);
  x.setGpr(4, moved);
  x.addSp(x.size);
  x.setGpr(5, value, x.size);
};

export const pushf: Definition = (x) => {
  const flags = x.flagsWord();
  // VM and RF are cleared in the image (SDM vol. 2, PUSHF).
  const image = flags.and(~((1 << 17) | (1 << 16)));
  const eflags = x.field32(O.eflags);
  if (!x.long) x.faultIf(virtualWithoutIopl3(eflags), Vector.GP, 0);
  x.push(x.size, x.size === 8 ? image.toI64U() : truncate(image, x.size));
};

export const popf: Definition = (x) => {
  const { f } = x;
  const old = x.field32(O.eflags);
  if (!x.long) x.faultIf(virtualWithoutIopl3(old), Vector.GP, 0);
  const value = x.peek(x.size).toI32();
  const cpl = x.field32(O.cpl);
  const iopl = old.shrU(12).and(3);
  // What may be changed: all but RF, VM, VIF and VIP; IOPL at CPL 0 only, IF where CPL <= IOPL (SDM vol. 2, POPF).
  const always = (1 << 8) | (1 << 10) | (1 << 14) | (1 << 18) | (1 << 21);
  const mask = f.let(
    I32.const(always)
      .or(I32.const(0x200).select(cpl.leU(iopl), 0))
      .or(I32.const(0x3000).select(cpl.eqz(), 0))
      .and(x.size === 2 ? 0xffff : -1),
  );
  const next = f.let(
    old
      .and(mask.not())
      .or(value.and(mask))
      .and(~(1 << 16)),
  );
  x.addSp(x.size);
  x.setFlagsWord(value);
  x.setField32(O.eflags, next);
  x.afterFlagsChange(old, next);
};

/** Virtual-8086 mode with IOPL below 3: PUSHF, POPF, CLI, STI and others raise #GP (SDM vol. 3B, 20.2.8.1; no VME). */
export function virtualWithoutIopl3(eflags: I32): I32 {
  return eflags
    .and(1 << 17)
    .ne(0)
    .and(eflags.shrU(12).and(3).ne(3));
}

export const lahf: Definition = (x) => {
  x.field32(O.eflags);
  x.setGpr(0, x.gpr(0, 2).and(0xff).or(x.flagsWord().and(0xff).shl(8)), 2);
};

export const sahf: Definition = (x) => {
  const overflow = x.flag("of");
  x.setFlagsWord(x.gpr(0, 2).toI32().shrU(8).and(0xff));
  x.setFlags({ of: overflow });
};

export const clc: Definition = (x) => x.setFlags({ cf: I32.const(0) });
export const stc: Definition = (x) => x.setFlags({ cf: I32.const(1) });
export const cmc: Definition = (x) => x.setFlags({ cf: x.flag("cf").xor(1) });
export const cld: Definition = (x) => x.setField32(O.eflags, x.field32(O.eflags).and(~(1 << 10)));
export const std: Definition = (x) => x.setField32(O.eflags, x.field32(O.eflags).or(1 << 10));

export const salc: Definition = (x) => x.setGpr(0, x.flag("cf").neg().and(0xff), 1);

/** MOV to or from a memory operand at an absolute displacement is plain MOV; XLAT reads DS:[rBX + AL]. */
export const xlat: Definition = (x) => {
  const size = x.addressSize;
  const base = x.gpr(3, size).toI64U().add(x.gpr(0, 1).toI64U());
  const offset = size === 8 ? base : base.and(I64.const(size === 4 ? 0xffffffff : 0xffff));
  x.setGpr(0, x.load(1, x.linearDataSegment(offset, 1)), 1);
};

/** MOV r/m, Sreg: a register gets the selector zero-extended, memory 16 bits of it. Operand 1 is the segment's number. */
export const movFromSegment: Definition = (x) => {
  const selector = x.selector(1);
  x.write(0, x.operands[0].size === 8 ? selector.toI64U() : selector);
};

export const nop: Definition = () => {};
