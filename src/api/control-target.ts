/** A machine as its control socket sees it. */
import type { ControlTarget } from "../machine/control/connection.js";
import type { Machine } from "./machine.js";

export function controlTarget(machine: Machine): ControlTarget {
  return {
    info: () => machine.info(),
    stats: () => machine.stats(),
    pause: () => machine.pause(),
    resume: () => machine.resume(),
    stop: () => machine.stop(),
    dump: () => machine.dump(),
    locks: () => machine.locks(),
    nmi: (cpu) => machine.nmi(cpu),
    sysrq: (key) => machine.sysrq(key),
    tapConsole: (onOutput) => ({
      write: (bytes, done) => void machine.console.write(bytes, () => done()),
      close: machine.console.tap(onOutput),
    }),
  };
}
