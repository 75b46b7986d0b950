/** System instructions (SDM vol. 3A, 2.8): what they check and hand over; the rest is in system/. */
import { Cr0, Cr4, O, Vector } from "../vcpu-state.js";
import { I32, I64 } from "../wasm/expr.js";
import type { Definition, InstrContext } from "./context.js";
import { truncate } from "./flags.js";
import { virtualWithoutIopl3 } from "./transfer.js";

/** An operation done in TypeScript with the values of the given operands. */
export const systemOperation =
  (name: string, ...operands: number[]): Definition =>
  (x) =>
    x.system(name, ...operands.map((i) => x.read(i)));

/** The same, for CPL 0 only. */
export const privileged =
  (name: string, ...operands: number[]): Definition =>
  (x) => {
    requireCpl0(x);
    x.system(name, ...operands.map((i) => x.read(i)));
  };

export const requireCpl0 = (x: InstrContext) => x.faultIf(x.field32(O.cpl), Vector.GP, 0);

/** With the linear address of memory operand 0. */
export const privilegedAddress =
  (name: string): Definition =>
  (x) => {
    requireCpl0(x);
    x.system(name, x.address(0));
  };

/** With the record's immediate as it stands, and the row's arguments. */
export const systemImmediate =
  (name: string): Definition =>
  (x) =>
    x.system(name, x.immediate(), ...x.args.map((arg) => I32.const(arg)));

/** MOV to and from control and debug registers: the register numbers are operands. */
export const movFromCr: Definition = (x) => {
  requireCpl0(x);
  x.system("movFromCr", x.number(1));
};
export const movToCr: Definition = (x) => {
  requireCpl0(x);
  x.system("movToCr", x.number(0), x.read(1));
};
export const movFromDr: Definition = (x) => {
  requireCpl0(x);
  x.system("movFromDr", x.number(1));
};
export const movToDr: Definition = (x) => {
  requireCpl0(x);
  x.system("movToDr", x.number(0), x.read(1));
};

export const clts: Definition = (x) => {
  requireCpl0(x);
  // Nothing to leave for where TS is clear already, as it is with eager FPU switching.
  x.f.if(x.field32(O.cr0).and(Cr0.TS), () => x.system("clts"));
};

/** UMIP: SGDT, SIDT, SLDT, SMSW and STR only at CPL 0 (SDM vol. 3A, 2.5, CR4.UMIP). */
const requireUmip = (x: InstrContext) =>
  x.faultIf(x.field32(O.cr4).and(Cr4.UMIP).ne(0).and(x.field32(O.cpl).ne(0)), Vector.GP, 0);

/** #UD in real and virtual-8086 mode. */
const requireProtected = (x: InstrContext) => {
  if (x.long) return;
  const real = x.field32(O.cr0).and(Cr0.PE).eqz();
  const virtual = x
    .field32(O.eflags)
    .and(1 << 17)
    .ne(0);
  x.faultIf(real.or(virtual), Vector.UD);
};

/** SLDT, STR: the selector of the segment that the row names. */
export const storeSelector: Definition = (x) => {
  requireProtected(x);
  requireUmip(x);
  const selector = x.field32(O.segSelector + 4 * x.args[0]);
  if (x.operands[0].kind === "mem") x.store(2, x.address(0), selector);
  else x.write(0, x.size === 8 ? selector.toI64U() : selector);
};

export const smsw: Definition = (x) => {
  requireUmip(x);
  if (x.operands[0].kind === "mem") x.store(2, x.address(0), x.field32(O.cr0));
  else x.write(0, x.size === 8 ? x.field64(O.cr0) : truncate(x.field32(O.cr0), x.size));
};

export const lmsw: Definition = (x) => {
  requireCpl0(x);
  x.system("lmsw", x.read(0));
};

/** SGDT, SIDT. */
const storeTable =
  (base: number, limit: number): Definition =>
  (x) => {
    requireUmip(x);
    const address = x.address(0);
    x.probeWrite(address, x.long ? 10 : 6);
    x.store(2, address, x.field32(limit));
    if (x.long) x.store(8, address.add(2), x.field64(base));
    else x.store(4, address.add(2), x.field32(base));
  };
export const sgdt = storeTable(O.gdtrBase, O.gdtrLimit);
export const sidt = storeTable(O.idtrBase, O.idtrLimit);

/** LGDT, LIDT: limit and base; 24 bits of base with a 16-bit operand size. */
const loadTable =
  (name: string): Definition =>
  (x) => {
    requireCpl0(x);
    const address = x.address(0);
    const limit = x.load(2, address);
    const base = x.load(x.long ? 8 : 4, address.add(2)).toI64U();
    x.system(name, limit, x.size === 2 ? base.and(0xffffff) : base);
  };
export const lgdt = loadTable("lgdt");
export const lidt = loadTable("lidt");

/** LLDT, LTR. */
export const loadSystemSegment =
  (name: string): Definition =>
  (x) => {
    requireProtected(x);
    requireCpl0(x);
    x.system(name, x.read(0));
  };

/** LAR, LSL, VERR, VERW. */
export const probeSelector =
  (name: string, operand: number): Definition =>
  (x) => {
    requireProtected(x);
    x.system(name, x.read(operand));
  };

/** INT n: unlike INT3 and INTO, it looks at IOPL in virtual-8086 mode (SDM vol. 2, INT n). */
export const interrupt: Definition = (x) => {
  if (!x.long) x.faultIf(virtualWithoutIopl3(x.field32(O.eflags)), Vector.GP, 0);
  x.system("interrupt", x.read(0));
};

/** MOV Sreg, r/m16. */
export const movToSegment: Definition = (x) => x.system("loadSegment", x.read(1), x.number(0));

/** POP Sreg: the segment is the row's argument. */
export const popSegment: Definition = (x) => {
  x.system("popSegment", x.peek(x.size).and(0xffff), I32.const(x.args[0]));
};

/** Offset and selector from memory operand `i`. */
function farPointer(x: InstrContext, i: number): [offset: I64, selector: I32] {
  const address = x.address(i);
  const offset = x.load(x.size, address).toI64U();
  return [offset, x.load(2, address.add(x.size)).toI32()];
}

export const loadFarPointer: Definition = (x) =>
  x.system("loadFarPointer", ...farPointer(x, 1), I32.const(x.args[0]));

export const farIndirect =
  (name: string): Definition =>
  (x) =>
    x.system(name, ...farPointer(x, 0));

/** JMP and CALL ptr16:16/32: the immediate holds the offset, and the selector from bit 32 on. */
export const farDirect =
  (name: string): Definition =>
  (x) => {
    const pointer = x.immediate();
    x.system(name, pointer.and(I64.const(0xffffffff)), pointer.shrU(32).and(0xffff));
  };

export const farReturn: Definition = (x) =>
  x.system("farReturn", x.operands.length > 0 ? x.read(0) : I32.const(0));

export const bound: Definition = (x) => {
  const address = x.address(1);
  x.system("bound", x.read(0), x.load(x.size, address), x.load(x.size, address.add(x.size)));
};

export const arpl: Definition = (x) => {
  requireProtected(x);
  const source = x.read(1);
  const old = x.read(0);
  const adjusted = x.f.let(old.and(3).ltU(source.and(3)));
  // Memory that need not change may be read-only, as on processors.
  x.f.if(adjusted, () => x.write(0, old.and(~3).or(source.and(3))));
  x.setFlags({ zero: adjusted.eqz().toI64U() });
};

export const syscall: Definition = (x) => x.system("syscall");

/** RDRAND, RDSEED: operand 0 gets the number. */
export const random =
  (name: string): Definition =>
  (x) =>
    x.system(name);

/** IN, OUT: the port is an operand. */
export const portIn: Definition = (x) => x.system("in", x.read(1));
export const portOut: Definition = (x) => x.system("out", x.read(0));

export const invpcid: Definition = (x) => {
  requireCpl0(x);
  const address = x.address(1);
  const descriptor = x.load(8, address);
  x.system("invpcid", x.read(0), descriptor, x.load(8, address.add(8)));
};
