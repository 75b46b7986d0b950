/** A virtual machine, for programs: the class that the command line, too, is built on. */

import type { DiskSpec } from "../backends/disk/open-disk.js";
import type { BalloonStats } from "../devices/virtio/balloon.js";
import {
  type Accel,
  type ConsoleKind,
  type ConsolePortConfig,
  checkConfig,
  type DebugFlags,
  defaultConfig,
  type MachineConfig,
  type OnReboot,
  type Tier,
  type VirtioRing,
  type VirtioTransport,
  type VsockConfig,
} from "../machine/config.js";
import type { InstanceInfo, InstanceState, InstanceStats } from "../machine/control/protocol.js";
import { NameTakenError, Registration } from "../machine/control/registration.js";
import { type End, EndReason, type ExitStatus, exitStatus } from "../machine/exit-status.js";
import { given } from "../machine/given.js";
import { type GuestSources, type Progress, resolveGuest } from "../machine/guest-sources.js";
import { Instance } from "../machine/instance.js";
import { KeptOverlays } from "../machine/kept-overlays.js";
import { Phase } from "../machine/lifecycle.js";
import type { LogSink } from "../machine/log.js";
import { formatMiB } from "../machine/memory-map.js";
import { PanicWatch } from "../machine/panic-watch.js";
import type { LockState } from "../memory/lock-report.js";
import { GuestConsole } from "./console.js";
import { controlTarget } from "./control-target.js";
import { TtyPorts } from "./tty-ports.js";

const MIB = 2 ** 20;

/** How long a guest may take to answer with its statistics. */
const STATS_MILLISECONDS = 1000;

export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}
/** How long the timer thread may take to put a break on the serial line. */
const BREAK_MILLISECONDS = 2000;

/** A disk: its file and how it is used. */
export interface DiskOptions extends DiskSpec {
  /** Its serial number for the guest, up to 20 characters. */
  serial?: string;
}

/** What a machine is to be. Everything may be left out. */
export interface MachineOptions {
  /** File with a bzImage, an ELF vmlinux (PVH) or a multiboot image; default: Debian's cloud kernel, fetched on first use. */
  kernel?: string;
  /** File with the initial RAM disk; default: the default guest's with the default guest's kernel, else none. */
  initrd?: string;
  /** Use the default guest's initial RAM disk although `kernel` names a kernel. */
  defaultInitrd?: boolean;
  /** Added to the kernel's command line. */
  params?: string;
  /** Program and arguments to run in the default guest; its status becomes the machine's exit code. */
  command?: readonly string[];
  /** Environment variables for the default guest's shell or command. */
  environment?: Readonly<Record<string, string>>;
  /** Size of the terminal that the console is shown on. */
  terminal?: { rows: number; columns: number };
  /** No default guest, no default command line: only what is named here. */
  nodefaults?: boolean;

  /** Instance name, default `guest-PID`, then `guest-PID-2` and so on. */
  name?: string;
  /**
   * Be one of the user's running instances, with the name for itself: `nlkt list` shows the machine, and the other commands and
   * `instances` reach it (docs/control.md). Default false.
   */
  control?: boolean;
  /** Guest RAM in MiB, default 512. */
  memoryMiB?: number;
  /** vCPUs, default 1. */
  cpus?: number;
  accel?: Accel;
  /** KVM's device node, default /dev/kvm. */
  dev?: string;
  tier?: Tier;
  /** File for a profile of the software CPU, written at the end: JSON where the name ends in .json, else text. */
  profileCpu?: string;
  /** "none": the guest's output goes nowhere. */
  console?: ConsoleKind;
  /** A write of V to port 0xf4 ends the machine with code (V << 1) | 1. */
  isaDebugExit?: boolean;
  /** "restart": a reboot by the guest starts the machine anew. */
  onReboot?: OnReboot;
  /** End the machine after so many seconds, counted from `start`. */
  timeoutSeconds?: number;
  debug?: Partial<DebugFlags>;
  /** virtio disks; the first is /dev/vda. */
  disks?: readonly DiskOptions[];
  /** How virtio devices are reached; default: PCI. */
  virtioTransport?: VirtioTransport;
  /** Kinds of virtqueue that are offered: "packed", the default, means both. */
  virtioRing?: VirtioRing;
  /** A virtio source of random numbers; default true, and false with `nodefaults`. */
  rng?: boolean;
  /** A virtio balloon. */
  balloon?: boolean;
  /** A virtio socket device. */
  vsock?: VsockConfig;
  /** Further ports of a virtio console. */
  consolePorts?: readonly ConsolePortConfig[];
  /** Serial ports (COM1 is 0) that become pseudo-terminals of the host; their names are in `Machine.ttys`. */
  ttys?: readonly number[];
  /** Module (URL) of another provider of the CPU; for tests and experiments. */
  providerModule?: string;

  /** Told of what happens in the machine. */
  log?: LogSink;
  /** Told of the fetching of the default guest. */
  progress?: Progress;
}

const PHASE_NAMES: Readonly<Record<Phase, InstanceState>> = {
  [Phase.STARTING]: "starting",
  [Phase.RUNNING]: "running",
  [Phase.PAUSED]: "paused",
  [Phase.ENDED]: "ended",
};

export class Machine {
  readonly name: string;
  /** What the guest prints, and what is typed to it. */
  readonly console: GuestConsole;
  /** Names of the pseudo-terminals (`/dev/pts/3`) that serial ports are, by the port's number. */
  readonly ttys: ReadonlyMap<number, string>;
  readonly #ttyPorts: TtyPorts;
  readonly #overlays: KeptOverlays;
  readonly #config: MachineConfig;
  readonly #guest: GuestSources;
  readonly #options: MachineOptions;
  readonly #finished: Promise<ExitStatus>;
  #finish!: (status: ExitStatus) => void;
  #instance: Instance;
  #panic = new PanicWatch();
  #started = false;
  #paused = false;
  #timer: NodeJS.Timeout | undefined;
  #startedAt: number | undefined;
  #registration: Registration | undefined;

  private constructor(
    options: MachineOptions,
    config: MachineConfig,
    guest: GuestSources,
    first: Instance,
    ttyPorts: TtyPorts,
    overlays: KeptOverlays,
  ) {
    this.#ttyPorts = ttyPorts;
    this.#overlays = overlays;
    this.ttys = ttyPorts.names;
    this.#options = options;
    this.#config = config;
    this.#guest = guest;
    this.#instance = first;
    this.name = config.name;
    this.console = new GuestConsole((bytes) => this.#panic.feed(bytes));
    this.#finished = new Promise((resolve) => {
      this.#finish = resolve;
    });
    void this.#live();
  }

  /**
   * Make a machine: its memory, its devices, the kernel loaded. Rejects with an `Error` whose message is one line for the
   * user, where the options, the host or the files do not allow it.
   */
  static async create(options: MachineOptions = {}): Promise<Machine> {
    const wanted = configOf(options);
    checkConfig(wanted);
    const { name, cpus, ramBytes } = wanted;
    options.log?.("info", `${name}: ${formatMiB(ramBytes)} of memory, ${cpus} vCPU${cpus === 1 ? "" : "s"}`);
    const guest = await resolveGuest(options, options.progress, (text) => options.log?.("warning", text));
    const overlays = new KeptOverlays(wanted);
    const { config } = overlays;
    const ttyPorts = new TtyPorts(config.ttys);
    let machine: Machine;
    try {
      const instance = await makeInstance(config, guest, options.log, options.terminal);
      machine = new Machine(options, config, guest, instance, ttyPorts, overlays);
    } catch (error) {
      ttyPorts.close();
      overlays.close();
      throw error;
    }
    if (options.control === true) await machine.#register();
    return machine;
  }

  /** Throws `NameTakenError` and takes the machine down where the name is not to be had. */
  async #register(): Promise<void> {
    try {
      this.#registration = await Registration.claim(this.name, controlTarget(this));
    } catch (error) {
      if (error instanceof NameTakenError) {
        await this.stop();
        throw error;
      }
      this.#options.log?.("warning", `no control socket: ${(error as Error).message}`);
    }
  }

  /** Let the guest run. */
  async start(): Promise<void> {
    if (this.#started) return;
    this.#started = true;
    this.#startedAt = performance.now();
    const { timeoutSeconds } = this.#options;
    if (timeoutSeconds !== undefined) {
      this.#timer = setTimeout(
        () => this.#end({ reason: EndReason.TIMEOUT, message: `timed out after ${timeoutSeconds} s` }),
        timeoutSeconds * 1000,
      );
    }
    if (!this.#paused) this.#instance.start();
  }

  /** Resolves when the machine has ended, and how. */
  wait(): Promise<ExitStatus> {
    return this.#finished;
  }

  /** End the machine at once, as if by pulling the plug. */
  stop(): Promise<ExitStatus> {
    this.#end({ reason: EndReason.STOPPED });
    return this.#finished;
  }

  /** Stop the vCPUs and the devices' work for them: memory and disk images stay as they are. The guest's clocks go on. */
  async pause(): Promise<void> {
    this.#paused = true;
    await this.#instance.pause();
  }

  async resume(): Promise<void> {
    this.#paused = false;
    if (this.#started) this.#instance.start();
  }

  /** The terminal that shows the console has another size; a virtio console tells its guest. */
  resize({ columns, rows }: TerminalSize): void {
    this.#terminal = { columns, rows };
    this.#instance.board.consoleResized(columns, rows);
  }
  #terminal: TerminalSize | undefined;

  /** Ask the guest to have `MiB` of its memory in the balloon, that is, to do without them. */
  setBalloon(mebibytes: number): void {
    const { type, device } = this.#balloon;
    if (!(mebibytes >= 0 && mebibytes * MIB <= this.#config.ramBytes)) {
      throw new Error(`a balloon of ${mebibytes} MiB: 0 to ${formatMiB(this.#config.ramBytes)} are possible`);
    }
    type.want(mebibytes * MIB);
    device.io.ring();
  }

  /** As `setBalloon`, by so much more than now; less where `change` is negative. */
  inflateBalloon(change: number): void {
    this.setBalloon(this.#balloon.type.size.wanted / MIB + change);
  }

  get hasBalloon(): boolean {
    return this.#instance.board.virtio.balloon !== undefined;
  }

  /** The balloon's size, and what the guest's driver tells of its memory; waits a second for it at most. Sizes in bytes. */
  async balloonStats(): Promise<{ wanted: number; actual: number; stats: BalloonStats }> {
    const { type, device } = this.#balloon;
    const version = type.statsVersion;
    type.askForStats();
    device.io.ring();
    await type.newStats(version, STATS_MILLISECONDS);
    return { ...type.size, stats: type.stats };
  }

  get #balloon() {
    const { balloon } = this.#instance.board.virtio;
    if (balloon === undefined) throw new Error("the machine has no balloon: --balloon");
    return balloon;
  }

  /** Press the power button, which a guest takes as the wish that it shut down. */
  powerButton(): void {
    this.#instance.board.pressPowerButton();
  }

  /** What it is, and what it is at. */
  info(): InstanceInfo {
    const { config, board } = this.#instance;
    return {
      name: this.name,
      pid: process.pid,
      state: PHASE_NAMES[board.lifecycle.phase],
      accel: config.accel,
      cpus: config.cpus,
      memoryBytes: config.ramBytes,
      uptimeSeconds: this.#startedAt === undefined ? 0 : (performance.now() - this.#startedAt) / 1000,
      kernel: this.#guest.kernelName,
    };
  }

  /** What it did so far; counted anew after a reboot. */
  stats(): InstanceStats {
    return { ...this.info(), ...this.#instance.stats() };
  }

  /**
   * Registers, code and page-table walks of all vCPUs, a text each. Those that run go on right after theirs; stop them
   * with `pause` to have all of the same moment.
   */
  dump(): Promise<string[]> {
    return this.#instance.dump();
  }

  /** The locks of the machine's threads that are held or waited for right now. */
  locks(): LockState[] {
    return this.#instance.board.lockThreads.locks;
  }

  /** Queue a non-maskable interrupt on vCPU `cpu`. */
  nmi(cpu: number): void {
    this.#instance.nmi(cpu);
  }

  /**
   * Send a break and `key` on the serial console, which Linux takes for the magic SysRq
   * (Documentation/admin-guide/sysrq.rst).
   */
  async sysrq(key: string): Promise<void> {
    if (this.#config.console !== "serial") throw new Error("the machine has no serial console");
    await this.console.sendBreak(new TextEncoder().encode(key));
  }

  #end(end: End): void {
    this.#stopping = true;
    this.#instance.end(end);
  }
  #stopping = false;

  /** One instance after the other, until the machine ends for good. */
  async #live(): Promise<void> {
    for (;;) {
      const instance = this.#instance;
      const { output, input } = instance.board.console;
      const carried = this.console.carry(
        {
          output,
          input,
          inputArrived: () => instance.board.inputArrived(),
          sendBreak: () => instance.board.serialBreak.run(BREAK_MILLISECONDS),
        },
        instance.ending,
        instance.ended,
      );
      const ttys = this.#ttyPorts.carry(
        { ttys: instance.board.ttys, inputArrived: () => instance.board.inputArrived() },
        instance.ended,
      );
      const end = await instance.ended;
      await Promise.all([carried, ttys]);
      const status = exitStatus(end, {
        command: this.#guest.command !== undefined,
        commandStatus: instance.board.lifecycle.commandStatus,
        panic: this.#panic.message,
      });
      if (status.reason !== "reboot" || this.#config.onReboot !== "restart" || this.#stopping) {
        this.#over(status);
        return;
      }
      this.#options.log?.("info", `${this.name}: reboots`);
      try {
        this.#panic = new PanicWatch();
        const { log, terminal } = this.#options;
        this.#instance = await makeInstance(this.#config, this.#guest, log, this.#terminal ?? terminal);
        if (this.#stopping) this.#instance.end({ reason: EndReason.STOPPED });
        else if (!this.#paused) this.#instance.start();
      } catch (error) {
        this.#over({ reason: "failure", code: 1, message: (error as Error).message });
        return;
      }
    }
  }

  #over(status: ExitStatus): void {
    this.#options.log?.("info", `${this.name}: ended: ${status.reason}`);
    clearTimeout(this.#timer);
    this.#registration?.release();
    this.#ttyPorts.close();
    this.#overlays.close();
    this.console.finish();
    this.#finish(status);
  }
}

async function makeInstance(
  config: MachineConfig,
  guest: GuestSources,
  log: LogSink = () => {},
  terminal?: TerminalSize,
): Promise<Instance> {
  const instance = await Instance.create(config, log);
  if (terminal !== undefined) instance.board.consoleResized(terminal.columns, terminal.rows);
  try {
    await instance.load(guest);
  } catch (error) {
    instance.end({ reason: EndReason.STOPPED });
    await instance.ended;
    throw error;
  }
  return instance;
}

function configOf(options: MachineOptions): MachineConfig {
  const base = defaultConfig();
  const {
    memoryMiB,
    name,
    cpus,
    accel,
    dev,
    tier,
    profileCpu,
    console,
    isaDebugExit,
    onReboot,
    providerModule,
  } = options;
  const { virtioTransport, virtioRing, disks = [] } = options;
  return {
    ...base,
    ...given({ name, cpus, accel, dev, tier, profileCpu, console, isaDebugExit, onReboot, providerModule }),
    ...given({ virtioTransport, virtioRing }),
    ...given({ balloon: options.balloon, vsock: options.vsock }),
    ...given({ consolePorts: options.consolePorts, ttys: options.ttys }),
    rng: options.rng ?? options.nodefaults !== true,
    disks: disks.map(({ serial, ...spec }, i) => ({ spec, serial: serial ?? `nlkt-disk${i}` })),
    ...(memoryMiB === undefined ? {} : { ramBytes: memoryMiB * MIB }),
    debug: { ...base.debug, ...options.debug },
  };
}
