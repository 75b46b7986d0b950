/** A machine as its control socket sees it. */
import type { ControlTarget } from "../machine/control/connection.js";
import type { InstanceStats } from "../machine/control/protocol.js";
import type { Machine } from "./machine.js";

export function controlTarget(machine: Machine): ControlTarget {
  return {
    info: () => machine.info(),
    stats: () => statsWithBalloon(machine),
    pause: () => machine.pause(),
    resume: () => machine.resume(),
    stop: () => machine.stop(),
    dump: () => machine.dump(),
    locks: () => machine.locks(),
    nmi: (cpu) => machine.nmi(cpu),
    sysrq: (key) => machine.sysrq(key),
    inflateBalloon: (change) => machine.inflateBalloon(change),
    tapConsole: (onOutput) => ({
      write: (bytes, done) => void machine.console.write(bytes, () => done()),
      close: machine.console.tap(onOutput),
    }),
  };
}

async function statsWithBalloon(machine: Machine): Promise<InstanceStats> {
  const stats = machine.stats();
  if (!machine.hasBalloon) return stats;
  const { wanted, actual, stats: guest } = await machine.balloonStats();
  const balloon = { wantedBytes: wanted, actualBytes: actual, guest };
  return { ...stats, memory: { ...stats.memory, balloon } };
}
