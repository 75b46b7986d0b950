/**
 * One life of a machine, from its making to its end, as the main thread sees it. A machine that restarts after a reboot
 * gets a new instance.
 */
import { Clock } from "../memory/clock.js";
import { createLockOrderTable, LOCKDEP_VARIABLE, validateLocksIfAsked } from "../memory/lock-order.js";
import { SharedMemory } from "../memory/shared-memory.js";
import { chooseAccel } from "./accel.js";
import { Board } from "./board.js";
import { ConfigError, checkConfig, type MachineConfig } from "./config.js";
import type { InstanceInfo, InstanceStats } from "./control/protocol.js";
import { tryCpuProfile, writeCpuProfile } from "./cpu-profile.js";
import type { End } from "./exit-status.js";
import { given } from "./given.js";
import type { GuestSources } from "./guest-sources.js";
import { loadGuest } from "./load-guest.js";
import type { LogSink } from "./log.js";
import { arenaRoom, formatMiB, planLinearMemory } from "./memory-map.js";
import { loadProvider } from "./provider.js";
import { residentRam } from "./resident-memory.js";
import { Threads } from "./threads.js";

type MachineStats = Omit<InstanceStats, keyof InstanceInfo>;

/**
 * How long a vCPU's thread may take until it gives a dump: it may be in the middle of an exit, or still be making its
 * processor. Less than a client of the control socket waits (control/connection.ts).
 */
const DUMP_MILLISECONDS = 6000;

export class Instance {
  readonly #threads: Threads;
  readonly #log: LogSink;
  /** Resolves when the machine has ended; its threads may still be at it. */
  readonly ending: Promise<void>;
  /** Resolves when the machine has ended and none of its threads runs any more. */
  readonly ended: Promise<End>;

  private constructor(
    readonly config: MachineConfig,
    readonly board: Board,
    log: LogSink,
    lockOrder: SharedArrayBuffer | undefined,
  ) {
    this.#log = log;
    this.#threads = new Threads(
      {
        config,
        memory: board.memory.memory,
        further: board.further.map(({ memory }) => memory),
        epoch: board.clock.epoch,
        lockOrder,
      },
      board.lifecycle,
      board.ioThreads,
      () => log("debug", firstInstruction(board)),
    );
    this.ending = board.lifecycle.waitForEnd();
    this.ended = this.#takeDown();
  }

  /** Make the machine; it does not run yet. Throws `ConfigError`. */
  static async create(asked: MachineConfig, log: LogSink): Promise<Instance> {
    const config = await decideAccel(asked, log);
    checkConfig(config);
    if (config.profileCpu !== undefined) await tryCpuProfile(config.profileCpu);
    const lockOrder = lockOrderTable();
    validateLocksIfAsked(lockOrder);
    const provider = await loadProvider(config);
    const { ramBytes, cpus } = config;
    const { total, further: sizes } = planLinearMemory(
      ramBytes,
      provider.arenaBytes(cpus, arenaRoom(ramBytes)),
    );
    let memories: SharedMemory[];
    try {
      memories = [total, ...sizes].map((size) => SharedMemory.create(size));
    } catch {
      throw new ConfigError(`--mem: the host cannot give ${formatMiB(config.ramBytes)} of memory`);
    }
    const [memory, ...further] = memories;
    const board = new Board({ config, provider, memory, further, clock: Clock.start(), create: true });
    board.reset();
    return new Instance(config, board, log, lockOrder);
  }

  /** Put the guest's kernel into memory and its registers into vCPU 0. Throws an error of one line. */
  async load(guest: GuestSources): Promise<void> {
    const started = performance.now();
    for (const disk of await this.#threads.disks) this.board.virtio.disks[disk.index].describe(disk);
    const description = await loadGuest(this.board, this.config, guest);
    this.#log("debug", `${description}, in ${(performance.now() - started).toFixed(0)} ms`);
  }

  /** Let the vCPUs run, for the first time or after `pause`. */
  start(): void {
    this.board.lifecycle.setRunning(true);
    this.board.ioThreads.phaseChanged();
  }

  /**
   * Stop the vCPUs between two instructions and the devices between two requests; resolves once they stand. The guest's clocks
   * go on.
   */
  async pause(): Promise<void> {
    const { lifecycle, ioThreads } = this.board;
    if (!lifecycle.setRunning(false)) return;
    this.#kick();
    await lifecycle.waitUntilParked(this.config.cpus);
    await ioThreads.waitUntilQuiet(lifecycle);
  }

  /**
   * Registers, code and page-table walks of all vCPUs, a text each. Those that run go on right after theirs; stop them
   * with `pause` to have all of the same moment.
   */
  dump(): Promise<string[]> {
    const result = this.#dumping.then(() => this.#dump());
    this.#dumping = result.then(
      () => {},
      () => {},
    );
    return result;
  }
  /** The last dump, which the next has to wait for. */
  #dumping: Promise<void> = Promise.resolve();

  #dump(): Promise<string[]> {
    const { lifecycle, monitors, vm } = this.board;
    for (const [id, monitor] of monitors.entries()) {
      monitor.ask();
      vm.vcpu(id).kick();
    }
    lifecycle.callAttention();
    return Promise.all(
      monitors.map(
        async (monitor, id) =>
          (await monitor.dump(DUMP_MILLISECONDS)) ?? `vCPU ${id}: does not answer: its thread hangs`,
      ),
    );
  }

  /** What the vCPUs did so far, and the memory. */
  stats(): MachineStats {
    const { config, board } = this;
    return {
      ...(config.accel === "soft" ? { tier: config.tier } : {}),
      vcpus: board.monitors.map(({ exits }, id) => ({
        id,
        exits,
        counters: board.vm.vcpu(id).getStats(),
      })),
      memory: { totalBytes: config.ramBytes, ...given({ residentBytes: residentRam(board) }) },
    };
  }

  /** Queue an NMI on vCPU `id`. */
  nmi(id: number): void {
    if (!Number.isInteger(id) || id < 0 || id >= this.config.cpus) {
      throw new RangeError(`there is no vCPU ${id}: the machine has 0 to ${this.config.cpus - 1}`);
    }
    this.board.vm.vcpu(id).nmi();
  }

  /** End the machine, for the reason given unless it has one already. */
  end(end: End): void {
    this.board.lifecycle.end(end);
  }

  #kick(): void {
    for (let id = 0; id < this.config.cpus; id++) this.board.vm.vcpu(id).kick();
  }

  async #takeDown(): Promise<End> {
    const { lifecycle, timers, vm, ioThreads } = this.board;
    await this.ending;
    timers.stop();
    ioThreads.ringAll();
    this.#kick();
    await this.#threads.stop();
    this.#log(
      "debug",
      `the vCPUs stopped ${lifecycle.stopMilliseconds.toFixed(1)} ms after the machine's end`,
    );
    vm.close();
    const { profileCpu } = this.config;
    if (profileCpu !== undefined) {
      try {
        await writeCpuProfile(profileCpu, this.#threads.profiles, this.config.cpus);
      } catch (error) {
        this.#log("error", `--profile-cpu: ${(error as Error).message}`);
      }
    }
    return lifecycle.result;
  }
}

async function decideAccel(config: MachineConfig, log: LogSink): Promise<MachineConfig> {
  if (config.accel !== "auto" || config.providerModule !== undefined) return config;
  const { accel, why, missed } = await chooseAccel(config.dev);
  log(missed ? "warning" : "debug", `--accel auto takes ${accel}: ${why}`);
  return { ...config, accel };
}

/** Both clocks are CLOCK_MONOTONIC; this thread's starts with the process. */
function firstInstruction({ clock, lifecycle }: Board): string {
  const milliseconds = performance.now() - (clock.now() - lifecycle.firstRun) / 1e6;
  return `first guest instruction ${milliseconds.toFixed(0)} ms after the start of the process`;
}

/** One table for all threads, so that an inversion between two of them is found. */
function lockOrderTable(): SharedArrayBuffer | undefined {
  return process.env[LOCKDEP_VARIABLE] === "1" ? createLockOrderTable() : undefined;
}
