/**
 * LOCK operations that no single atomic instruction of the host can do: across 8-byte boundaries, cache lines and pages. As
 * the processor's LOCK# does (SDM vol. 3A, 9.1.4), such an operation keeps every other access out: whoever has the bus waits until no
 * other vCPU is in guest code, and none comes back there before the bus is let go.
 *
 * The rule is Dekker's. Who enters guest code says so (`guestEpoch` becomes odd) and then looks at the bus's word; who wants
 * the bus sets the word, and then looks at the other vCPUs' epochs. Both stores are full fences, so at least one sees the other. A
 * vCPU that is itself waiting for the bus is in guest code, but between two accesses (`busWaiting`).
 */
import { array, Layout } from "../../../memory/layout.js";
import { sharedFunction } from "../isa/shared-function.js";
import { MAX_VCPUS, O, Poll } from "../vcpu-state.js";
import {
  atomicCmpxchg,
  atomicLoad,
  atomicNotify,
  atomicRmw,
  atomicStore,
  atomicWait32,
  I32,
  I64,
  load32,
} from "../wasm/expr.js";
import type { FunctionBuilder } from "../wasm/module.js";

export const BUS_LOCK = new Layout("soft-bus-lock", {
  /** `Bus`. */
  word: "u32",
  /** vCPUs, and the addresses of their states. */
  count: "u32",
  /** vCPUs that are not halted, and how many of them the host has cores for: see pause.ts. */
  running: "i32",
  cores: "i32",
  vcpus: array("u32", MAX_VCPUS),
});

export const Bus = { FREE: 0, HELD: 1, HELD_WITH_SLEEPERS: 2 } as const;

/** Looks at a word before the thread sleeps: a vCPU that has a core is out of guest code within a few microseconds. */
const SPINS = 500;
/** A thread that lost its core is waited for in naps. */
const NAP_NANOSECONDS = 50_000;
const SLEEP_NANOSECONDS = 1_000_000;
const EVERYBODY = -1;

/** Come back when `done`: spin, then call `sleep` between looks. */
function waitUntil(f: FunctionBuilder, done: () => I32, sleep: () => void): void {
  const left = f.local("i32");
  f.set(left, I32.const(SPINS));
  f.block((end) => {
    f.loop((again) => {
      f.brIf(end, done());
      f.set(left, left.get.sub(1));
      f.brIf(again, left.get.gtS(0));
      sleep();
      f.br(again);
    });
  });
}

/** Sleep until the bus is let go, or for a while. */
function sleepForBus(f: FunctionBuilder, bus: I32): void {
  const seen = atomicCmpxchg(4, bus, I32.const(Bus.HELD), I32.const(Bus.HELD_WITH_SLEEPERS));
  f.if(seen as I32, () =>
    f.drop(atomicWait32(bus, I32.const(Bus.HELD_WITH_SLEEPERS), I64.const(SLEEP_NANOSECONDS))),
  );
}

/** (vCPU): make it leave guest code, and come back when it has, or is between two accesses. */
const stopOther = sharedFunction("stopOther", ["i32"], undefined, (f, _use, other) => {
  const epoch = () => atomicLoad(4, other, O.guestEpoch) as I32;
  const outside = () =>
    epoch()
      .and(1)
      .eqz()
      .or(atomicLoad(4, other, O.busWaiting) as I32);
  f.if(outside(), () => f.return());
  f.drop(atomicRmw("or", 4, other, I32.const(Poll.BUS), O.poll) as I32);
  // It may take a nap (pause.ts).
  f.drop(atomicNotify(other.add(O.poll), I32.const(EVERYBODY)));
  waitUntil(f, outside, () => {
    const seen = f.let(epoch());
    f.if(seen.and(1), () => f.drop(atomicWait32(other.add(O.guestEpoch), seen, I64.const(NAP_NANOSECONDS))));
  });
});

/** (cpu), in guest code between two accesses: take the bus. Nothing where there is one vCPU. */
export const lockBus = sharedFunction("lockBus", ["i32"], undefined, (f, use, cpu) => {
  const bus = f.let(load32(cpu, O.busLock));
  f.if(bus.eqz(), () => f.return());
  f.emit(atomicStore(4, cpu, I32.const(1), O.busWaiting));
  f.loop((again) => {
    f.if(atomicCmpxchg(4, bus, I32.const(Bus.FREE), I32.const(Bus.HELD)) as I32, () => {
      waitUntil(
        f,
        () => (atomicLoad(4, bus) as I32).eqz(),
        () => sleepForBus(f, bus),
      );
      f.br(again);
    });
  });
  f.emit(atomicStore(4, cpu, I32.const(0), O.busWaiting));
  const entry = f.local("i32");
  f.set(entry, bus.add(BUS_LOCK.offset.vcpus));
  const end = f.let(entry.get.add(load32(bus, BUS_LOCK.offset.count).shl(2)));
  f.loop((next) => {
    const other = f.let(load32(entry.get));
    f.if(other.ne(cpu), () => f.callVoid(use(stopOther), other));
    f.set(entry, entry.get.add(4));
    f.brIf(next, entry.get.ne(end));
  });
});

/** (cpu): let the bus go. */
export const unlockBus = sharedFunction("unlockBus", ["i32"], undefined, (f, _use, cpu) => {
  const bus = f.let(load32(cpu, O.busLock));
  f.if(bus.eqz(), () => f.return());
  const before = atomicRmw("xchg", 4, bus, I32.const(Bus.FREE)) as I32;
  f.if(before.eq(Bus.HELD_WITH_SLEEPERS), () => f.drop(atomicNotify(bus, I32.const(EVERYBODY))));
});
