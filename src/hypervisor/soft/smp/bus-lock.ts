/**
 * LOCK operations that no single atomic instruction of the host can do: across 8-byte boundaries, cache lines and pages, and
 * 16 bytes wide. As on the processor's bus (SDM vol. 3A, 9.1.2), such an operation keeps every other LOCK operation out.
 *
 * The rule is Dekker's. Who does an aligned one says so (`inLocked`), then looks at the bus lock's word; who wants the bus
 * sets the word, then waits for each vCPU that says so. Both stores are followed by a full fence, so at least one sees
 * the other. An aligned operation pays for it with one store more, and nothing where there is one vCPU.
 */
import { array, Layout } from "../../../memory/layout.js";
import type { SharedFunction } from "../isa/context.js";
import { MAX_VCPUS, O } from "../vcpu-state.js";
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
  /** FREE, HELD, or HELD_WITH_SLEEPERS. */
  word: "u32",
  /** vCPUs, and the addresses of their states. */
  count: "u32",
  /** vCPUs that are not halted, and how many of them the host has cores for: see pause.ts. */
  running: "i32",
  cores: "i32",
  vcpus: array("u32", MAX_VCPUS),
});

const FREE = 0;
const HELD = 1;
const HELD_WITH_SLEEPERS = 2;

/** Looks at a word before the thread sleeps: whoever holds the bus is done within a microsecond, if it has a core. */
const SPINS = 500;
/** A thread that lost its core at the wrong moment is waited for in naps. */
const NAP_NANOSECONDS = 50_000;
const SLEEP_NANOSECONDS = 1_000_000;
const EVERYBODY = -1;

/** Come back when the u32 at `address` is zero: spin, then call `sleep` between looks. */
function waitForZero(f: FunctionBuilder, address: I32, sleep: () => void): void {
  const left = f.local("i32");
  f.set(left, I32.const(SPINS));
  f.block((done) => {
    f.loop((again) => {
      f.brIf(done, (atomicLoad(4, address) as I32).eqz());
      f.set(left, left.get.sub(1));
      f.brIf(again, left.get.gtS(0));
      sleep();
      f.br(again);
    });
  });
}

/** Sleep until the bus is let go, or for a while. */
function sleepForBus(f: FunctionBuilder, bus: I32): void {
  const seen = atomicCmpxchg(4, bus, I32.const(HELD), I32.const(HELD_WITH_SLEEPERS));
  f.if(seen as I32, () =>
    f.drop(atomicWait32(bus, I32.const(HELD_WITH_SLEEPERS), I64.const(SLEEP_NANOSECONDS))),
  );
}

/** (cpu): take the bus. Nothing where there is one vCPU. */
export const lockBus: SharedFunction<readonly ["i32"], undefined> = {
  name: "lockBus",
  params: ["i32"],
  result: undefined,
  body: (f) => {
    const cpu = f.params[0].get as I32;
    const bus = f.let(load32(cpu, O.busLock));
    f.if(bus.eqz(), () => f.return());
    f.loop((again) => {
      f.if(atomicCmpxchg(4, bus, I32.const(FREE), I32.const(HELD)) as I32, () => {
        waitForZero(f, bus, () => sleepForBus(f, bus));
        f.br(again);
      });
    });
    const entry = f.local("i32");
    f.set(entry, bus.add(BUS_LOCK.offset.vcpus));
    const end = f.let(entry.get.add(load32(bus, BUS_LOCK.offset.count).shl(2)));
    f.loop((next) => {
      const other = f.let(load32(entry.get));
      f.if(other.ne(cpu), () => {
        const word = f.let(other.add(O.inLocked));
        waitForZero(f, word, () => f.drop(atomicWait32(word, I32.const(1), I64.const(NAP_NANOSECONDS))));
      });
      f.set(entry, entry.get.add(4));
      f.brIf(next, entry.get.ne(end));
    });
  },
};

/** (cpu): let the bus go. */
export const unlockBus: SharedFunction<readonly ["i32"], undefined> = {
  name: "unlockBus",
  params: ["i32"],
  result: undefined,
  body: (f) => {
    const cpu = f.params[0].get as I32;
    const bus = f.let(load32(cpu, O.busLock));
    f.if(bus.eqz(), () => f.return());
    const before = atomicRmw("xchg", 4, bus, I32.const(FREE)) as I32;
    f.if(before.eq(HELD_WITH_SLEEPERS), () => f.drop(atomicNotify(bus, I32.const(EVERYBODY))));
  },
};

/** (cpu): the bus was found taken at the start of an aligned operation; begin again when it is free. */
const waitForBus: SharedFunction<readonly ["i32"], undefined> = {
  name: "waitForBus",
  params: ["i32"],
  result: undefined,
  body: (f) => {
    const cpu = f.params[0].get as I32;
    const bus = f.let(load32(cpu, O.busLock));
    f.loop((again) => {
      f.emit(atomicStore(4, cpu, I32.const(0), O.inLocked));
      waitForZero(f, bus, () => sleepForBus(f, bus));
      f.emit(atomicStore(4, cpu, I32.const(1), O.inLocked));
      f.brIf(again, (atomicLoad(4, bus) as I32).ne(FREE));
    });
  },
};

/** Emit `body`, an operation that is one atomic instruction of the host, so that it keeps clear of those that take the bus. */
export function alignedLocked(
  f: FunctionBuilder,
  cpu: I32,
  use: (g: typeof waitForBus) => Parameters<FunctionBuilder["callVoid"]>[0],
  body: () => void,
): void {
  const bus = f.let(load32(cpu, O.busLock));
  f.if(bus, () => {
    f.emit(atomicStore(4, cpu, I32.const(1), O.inLocked));
    f.if(load32(bus), () => f.callVoid(use(waitForBus) as never, cpu as never));
  });
  body();
  f.if(bus, () => f.store32(cpu, I32.const(0), O.inLocked));
}
