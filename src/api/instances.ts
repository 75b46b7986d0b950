/** The user's running instances, reached over their control sockets: `import { instances } from "nlkt"`. */
import type { Duplex } from "node:stream";
import { ask, instanceNames, NoInstanceError, openConsole } from "../machine/control/client.js";
import type { InstanceInfo, InstanceStats } from "../machine/control/protocol.js";
import type { LockState } from "../memory/lock-report.js";

/** An instance whose process is there and does not answer: it is stopped by a signal, or hangs. */
export interface UnresponsiveInstance {
  readonly name: string;
  readonly state: "unresponsive";
}

/** How long `list` waits for each instance. */
const LIST_MILLISECONDS = 2000;
/** How long after `stop` the process may take to let its name go, and how often to look. */
const GONE_MILLISECONDS = 5000;
const GONE_POLL_MILLISECONDS = 20;

/**
 * A running instance, by name. Each method asks it anew; they reject with an `Error` of one line where there is no such instance
 * (any more), where it does not answer, or where it cannot do what it was asked to.
 */
export class RunningInstance {
  constructor(readonly name: string) {}

  async info(): Promise<InstanceInfo> {
    return (await ask(this.name, { command: "info" })) as InstanceInfo;
  }

  async stats(): Promise<InstanceStats> {
    return (await ask(this.name, { command: "stat" })) as InstanceStats;
  }

  /** As `Machine.pause`: its vCPUs stand when this resolves. */
  async pause(): Promise<void> {
    await ask(this.name, { command: "pause" });
  }

  async resume(): Promise<void> {
    await ask(this.name, { command: "resume" });
  }

  /** End it at once, as if by pulling the plug; it is gone when this resolves. */
  async stop(): Promise<void> {
    await ask(this.name, { command: "stop" });
    const until = Date.now() + GONE_MILLISECONDS;
    while (Date.now() < until && (await instanceNames()).includes(this.name)) {
      await new Promise((resolve) => setTimeout(resolve, GONE_POLL_MILLISECONDS));
    }
  }

  /** As `Machine.dump`. */
  async dump(): Promise<string[]> {
    return (await ask(this.name, { command: "dump" })) as string[];
  }

  /** As `Machine.nmi`. */
  async nmi(cpu: number): Promise<void> {
    await ask(this.name, { command: "nmi", cpu });
  }

  /** As `Machine.sysrq`. */
  async sysrq(key: string): Promise<void> {
    await ask(this.name, { command: "sysrq", key });
  }

  /** As `Machine.inflateBalloon`. */
  async inflateBalloon(change: number): Promise<void> {
    await ask(this.name, { command: "balloon", change });
  }

  /** As `Machine.locks`. */
  async locks(): Promise<LockState[]> {
    return (await ask(this.name, { command: "locks" })) as LockState[];
  }

  /** Its console, beside whoever else has it: reading gives what it prints from now on, writing is typing. */
  console(): Promise<Duplex> {
    return openConsole(this.name);
  }
}

export const instances = {
  /** All of them, by name. */
  async list(): Promise<(InstanceInfo | UnresponsiveInstance)[]> {
    const all = await Promise.all((await instanceNames()).map(describe));
    return all.filter((instance) => instance !== undefined);
  },

  /** The one called `name`, whether or not there is one now. */
  get(name: string): RunningInstance {
    return new RunningInstance(name);
  },
} as const;

async function describe(name: string): Promise<InstanceInfo | UnresponsiveInstance | undefined> {
  try {
    return (await ask(name, { command: "info" }, LIST_MILLISECONDS)) as InstanceInfo;
  } catch (error) {
    // It ended while it was asked.
    if (error instanceof NoInstanceError) return undefined;
    return { name, state: "unresponsive" };
  }
}
