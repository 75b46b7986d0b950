/**
 * PAUSE: the vCPU waits for another in a loop. Where more vCPUs run than the host has cores, the one it waits for may well
 * be without a core, so that after some turns this one gives its core away: it sleeps for a moment, or until something is
 * asked of it. Where there are cores enough it does so only after many more: others than this guest may use them.
 */
import type { SharedFunction } from "../isa/context.js";
import { O } from "../vcpu-state.js";
import { atomicLoad, atomicWait32, I32, I64, load32 } from "../wasm/expr.js";
import { BUS_LOCK } from "./bus-lock.js";

/** PAUSEs until the core is given away: some microseconds of waiting, more than most locks are held for. */
const PATIENCE_WITHOUT_CORES = 300;
/** A few hundred microseconds: whoever is waited for has lost its core. */
const PATIENCE = 20_000;
const NAP_NANOSECONDS = 20_000;

/** (cpu) */
export const pauseFunction: SharedFunction<readonly ["i32"], undefined> = {
  name: "pause",
  params: ["i32"],
  result: undefined,
  body: (f) => {
    const cpu = f.params[0].get as I32;
    const bus = f.let(load32(cpu, O.busLock));
    f.if(bus.eqz(), () => f.return());
    const count = f.let(load32(cpu, O.pauses).add(1));
    f.store32(cpu, count, O.pauses);
    f.if(count.ltU(PATIENCE_WITHOUT_CORES), () => f.return());
    f.if(count.ltU(PATIENCE), () => {
      const running = atomicLoad(4, bus, BUS_LOCK.offset.running) as I32;
      f.if(running.leS(load32(bus, BUS_LOCK.offset.cores)), () => f.return());
    });
    f.store32(cpu, I32.const(0), O.pauses);
    f.drop(atomicWait32(cpu.add(O.poll), I32.const(0), I64.const(NAP_NANOSECONDS)));
  },
};
