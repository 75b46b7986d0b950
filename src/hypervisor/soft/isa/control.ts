/** Control transfer (SDM vol. 1, 7.3.8) and instructions about time and interrupts that need no TypeScript. */
import { pauseFunction } from "../smp/pause.js";
import { Eflags, O, Seg, Vector } from "../vcpu-state.js";
import { I32, I64, type Int } from "../wasm/expr.js";
import type { Definition, InstrContext } from "./context.js";
import { constant, truncate } from "./flags.js";
import { virtualWithoutIopl3 } from "./transfer.js";

/** Whether a branch to `target` is #GP: not canonical, or beyond CS's limit (SDM vol. 2, JMP, CALL, RET). */
const isBadTarget = (x: InstrContext, target: I64): I32 =>
  x.long ? target.shl(16).shrS(16).ne(target) : target.gtU(x.field32(O.segLimit + 4 * Seg.CS).toI64U());

/** Where a relative branch leads outside 64-bit mode. */
const relativeTarget = (x: InstrContext): I64 =>
  x
    .field64(O.pageRip)
    .add(x.immediate())
    .and(I64.const(x.size === 2 ? 0xffff : 0xffffffff));

/** #GP at a relative branch that is taken to beyond CS's limit; 64-bit mode has none. */
const checkRelative = (x: InstrContext, condition?: I32) => {
  if (x.long) return;
  const bad = isBadTarget(x, relativeTarget(x));
  x.faultIf(condition === undefined ? bad : bad.and(condition.ne(0)), Vector.GP, 0);
};

/** #GP at a call to where it cannot go, after what its push would raise. */
const checkCall = (x: InstrContext, target: I64) => {
  x.f.if(isBadTarget(x, target), () => {
    const sp = x.f.let((x.gpr(4) as I64).sub(x.size));
    if (x.long) {
      x.faultIf(sp.shl(16).shrS(16).ne(sp), Vector.SS, 0);
      x.probeWrite(sp, x.size);
    } else {
      x.probeWrite(x.linear(Seg.SS, x.f.let(sp.and(x.field64(O.spMask))), x.size, true), x.size);
    }
    x.fault(Vector.GP, 0);
  });
};

export const jmp: Definition = (x) => {
  checkRelative(x);
  x.branch();
};
export const jcc: Definition = (x) => {
  const taken = x.f.let(x.condition(x.args[0]));
  checkRelative(x, taken);
  x.branch(taken);
};

const pushNextRip = (x: InstrContext) => {
  const next = x.nextRip();
  x.push(x.size, x.size === 8 ? next : x.size === 2 ? next.toI32().and(0xffff) : next.toI32());
};

export const call: Definition = (x) => {
  if (!x.long) checkCall(x, relativeTarget(x));
  pushNextRip(x);
  x.branch();
};

const checkTarget = (x: InstrContext, target: I64) => x.faultIf(isBadTarget(x, target), Vector.GP, 0);

export const jmpIndirect: Definition = (x) => {
  const target = x.f.let(x.read(0).toI64U());
  checkTarget(x, target);
  x.jumpIndirect(target);
};

export const callIndirect: Definition = (x) => {
  const target = x.f.let(x.read(0).toI64U());
  checkCall(x, target);
  pushNextRip(x);
  x.jumpIndirect(target);
};

export const ret: Definition = (x) => {
  const target = x.f.let(x.peek(x.size).toI64U());
  checkTarget(x, target);
  if (x.operands.length > 0) x.addSp(x.read(0).toI64U().add(x.size));
  else x.addSp(x.size);
  x.jump(target);
};

const notZero = (v: Int): I32 => v.eqz().eqz();

/** LOOP and its kin: RCX counts down whether the branch is taken or not, but not where it faults. */
const counted =
  (wanted: (x: InstrContext) => I32 | undefined): Definition =>
  (x) => {
    const count = x.f.let(truncate(x.gpr(1, x.addressSize).sub(constant(x.addressSize, 1)), x.addressSize));
    const also = wanted(x);
    const taken = x.f.let(also === undefined ? notZero(count) : notZero(count).and(also));
    checkRelative(x, taken);
    x.setGpr(1, count, x.addressSize);
    x.branch(taken);
  };

export const loop = counted(() => undefined);
export const loope = counted((x) => x.flag("zf"));
export const loopne = counted((x) => x.flag("zf").eqz());
export const jcxz: Definition = (x) => {
  const taken = x.f.let(x.gpr(1, x.addressSize).eqz());
  checkRelative(x, taken);
  x.branch(taken);
};

/** UD0, UD1, UD2 and whatever the tables leave out. */
export const undefinedOpcode: Definition = (x) => x.fault(Vector.UD);

const interruptFlagAllowed = (x: InstrContext, eflags: I32) => {
  if (!x.long) x.faultIf(virtualWithoutIopl3(eflags), Vector.GP, 0);
  const cpl = x.field32(O.cpl);
  const virtual = eflags.and(Eflags.VM).ne(0);
  x.faultIf(cpl.gtU(eflags.shrU(12).and(3)).and(virtual.eqz()), Vector.GP, 0);
};

export const cli: Definition = (x) => {
  const eflags = x.field32(O.eflags);
  interruptFlagAllowed(x, eflags);
  x.setField32(O.eflags, eflags.and(~Eflags.IF));
};

export const sti: Definition = (x) => {
  const eflags = x.field32(O.eflags);
  interruptFlagAllowed(x, eflags);
  x.f.if(eflags.and(Eflags.IF).eqz(), () => {
    x.setField32(O.eflags, eflags.or(Eflags.IF));
    x.setField64(O.stiRip, x.nextRip());
    // An interrupt that waits is taken after the next instruction (SDM vol. 2, STI).
    x.f.if(x.field32(O.irqPending), () => {
      x.setField32(O.shadow, I32.const(1));
      x.nextThroughDispatcher();
    });
  });
};

export const pause: Definition = (x) => x.f.callVoid(x.shared(pauseFunction), x.cpu);

const tscAllowed = (x: InstrContext) => {
  const disabled = x.field32(O.cr4).and(1 << 2);
  x.faultIf(disabled.ne(0).and(x.field32(O.cpl).ne(0)), Vector.GP, 0);
};

const setTsc = (x: InstrContext) => {
  const tsc = x.f.let(x.timestamp());
  x.setGpr(0, tsc.toI32(), 4);
  x.setGpr(2, tsc.shrU(32).toI32(), 4);
};

export const rdtsc: Definition = (x) => {
  tscAllowed(x);
  setTsc(x);
};

export const rdtscp: Definition = (x) => {
  tscAllowed(x);
  setTsc(x);
  x.setGpr(1, x.field32(O.tscAux), 4);
};

export const rdpid: Definition = (x) => x.write(0, x.size === 8 ? x.field64(O.tscAux) : x.field32(O.tscAux));

export const swapgs: Definition = (x) => {
  x.faultIf(x.field32(O.cpl), Vector.GP, 0);
  const base = x.field64(O.segBase + 8 * 5);
  x.setField64(O.segBase + 8 * 5, x.field64(O.kernelGsBase));
  x.setField64(O.kernelGsBase, base);
};

const fsgsbaseEnabled = (x: InstrContext) =>
  x.faultIf(
    x
      .field32(O.cr4)
      .and(1 << 16)
      .eqz(),
    Vector.UD,
  );

/** RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE: the segment's number is the row's argument. */
export const readSegmentBase: Definition = (x) => {
  fsgsbaseEnabled(x);
  const base = x.field64(O.segBase + 8 * x.args[0]);
  x.write(0, x.size === 8 ? base : base.toI32());
};
export const writeSegmentBase: Definition = (x) => {
  fsgsbaseEnabled(x);
  const base = x.f.let(x.read(0).toI64U());
  x.faultIf(base.shl(16).shrS(16).ne(base), Vector.GP, 0);
  x.setField64(O.segBase + 8 * x.args[0], base);
};

/** CLAC, STAC. */
export const clac: Definition = (x) => setAc(x, false);
export const stac: Definition = (x) => setAc(x, true);
function setAc(x: InstrContext, value: boolean): void {
  x.faultIf(x.field32(O.cpl), Vector.UD);
  const old = x.field32(O.eflags);
  const next = x.f.let(value ? old.or(Eflags.AC) : old.and(~Eflags.AC));
  x.setField32(O.eflags, next);
  x.selectSupervisorTlb(next);
}
