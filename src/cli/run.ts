/** nlkt run: boot a machine and connect it to the terminal. */
import { Command, Option } from "commander";
import { type DiskOptions, Machine, type MachineOptions } from "../api/index.js";
import {
  ACCELS,
  type Accel,
  CONSOLES,
  type ConsoleKind,
  type ConsolePortConfig,
  DEFAULT_CPUS,
  DEFAULT_KVM_DEVICE,
  LOG_LEVELS,
  type LogLevel,
  ON_REBOOT,
  type OnReboot,
  TIERS,
  type Tier,
  VIRTIO_RINGS,
  VIRTIO_TRANSPORTS,
  type VirtioRing,
  type VirtioTransport,
  type VsockConfig,
} from "../machine/config.js";
import { given } from "../machine/given.js";
import { levelIncludes } from "../machine/log.js";
import { parseCount, parseName, parseSeconds, parseSize } from "./arguments.js";
import { lowerCompilerPriority } from "./compiler-priority.js";
import { parsePort, parseTty, parseVsock } from "./device-options.js";
import { parseDisk } from "./disk-option.js";
import { ESCAPE_HINT } from "./escape-keys.js";
import { findKernel } from "./find-kernel.js";
import { endProgress, say, sayDetail, showProgress } from "./messages.js";
import { attach } from "./session.js";

interface RunOptions {
  kernel?: string;
  initrd?: string;
  params?: string;
  cpus: number;
  mem?: number;
  disk: DiskOptions[];
  rng?: boolean;
  balloon?: boolean;
  vsock?: VsockConfig;
  virtioPort: ConsolePortConfig[];
  tty: number[];
  virtioTransport: VirtioTransport;
  virtioRing: VirtioRing;
  console: ConsoleKind;
  accel: Accel;
  dev: string;
  tier: Tier;
  profileCpu?: string;
  name?: string;
  defaults: boolean;
  nodefaults?: boolean;
  timeout?: number;
  onReboot: OnReboot;
  loglevel: LogLevel;
  isaDebugExit?: boolean;
  debugIoport?: boolean;
  debugMmio?: boolean;
  debugSingleStep?: boolean;
}

const EXAMPLES = `
At a terminal, ${ESCAPE_HINT}.

Exit codes: 0 the guest powered off or rebooted; the command's own status with -- COMMAND;
1 it could not be done, or the guest crashed; 2 wrong usage; 124 --timeout ran out.

Examples:
  nlkt run
  nlkt run -m 256 -- sh -c 'cat /proc/cpuinfo; free'
  nlkt run -k vmlinuz -i initrd.gz -p "panic=-1"
  nlkt run --isa-debug-exit --nodefaults test.elf`;

const MIB = 2 ** 20;

/** `guestCommand`: what followed `--`. `finish` gets the exit code. */
export function runCommand(
  guestCommand: readonly string[] | undefined,
  finish: (code: number) => void,
): Command {
  return new Command("run")
    .description("boot a machine")
    .usage("[options] [KERNEL] [-- COMMAND [ARG...]]")
    .argument("[KERNEL]", "the kernel, as with --kernel")
    .option(
      "-k, --kernel <FILE>",
      "bzImage, vmlinux (ELF, PVH) or multiboot image; default: ./bzImage, ./arch/x86/boot/bzImage, ./vmlinux, " +
        "then Debian's cloud kernel, fetched on first use",
    )
    .option("-i, --initrd <FILE>", "initial RAM disk; default: busybox, unless a kernel is named")
    .option("-p, --params <STRING>", "added to the kernel command line")
    .addOption(new Option("-c, --cpus <N>", "vCPUs").argParser(parseCount).default(DEFAULT_CPUS))
    .option("-m, --mem <SIZE>", "MiB, or with a suffix K, M, G (default: 512)", parseSize)
    .addOption(
      new Option(
        "-d, --disk <FILE>",
        "a disk, repeatable; the first is /dev/vda: FILE[,ro][,cow[=FILE]][,format=raw|qcow2][,serial=S]",
      )
        .argParser((text: string, disks: DiskOptions[]) => [...disks, parseDisk(text)])
        .default([], "none"),
    )
    .option("--rng", "a source of random numbers (default: yes, but with --nodefaults)")
    .option("--no-rng", "no source of random numbers")
    .option("--balloon", "a memory balloon")
    .option(
      "--vsock <CID[,uds=PATH]>",
      "a socket device, and the Unix socket that its streams are",
      parseVsock,
    )
    .addOption(
      new Option("--virtio-port <NAME,uds=PATH>", "a port of a virtio console as a Unix socket, repeatable")
        .argParser((text: string, ports: ConsolePortConfig[]) => [...ports, parsePort(text)])
        .default([], "none"),
    )
    .addOption(
      new Option("--tty <N>", "serial port N (COM1 is 0) as a pseudo-terminal, repeatable")
        .argParser((text: string, ttys: number[]) => [...ttys, parseTty(text)])
        .default([], "none"),
    )
    .addOption(
      new Option("--virtio-transport <KIND>", "how virtio devices are reached")
        .choices(VIRTIO_TRANSPORTS)
        .default("pci"),
    )
    .addOption(
      new Option("--virtio-ring <KIND>", "kinds of virtqueue that are offered; packed: both")
        .choices(VIRTIO_RINGS)
        .default("packed"),
    )
    .addOption(new Option("--console <KIND>", "the guest's console").choices(CONSOLES).default("serial"))
    .addOption(new Option("--accel <NAME>", "what runs the guest's code").choices(ACCELS).default("auto"))
    .option("--dev <FILE>", "KVM's device node", DEFAULT_KVM_DEVICE)
    .addOption(
      new Option("--tier <NAME>", "tiers of the software CPU that run").choices(TIERS).default("auto"),
    )
    .option(
      "--profile-cpu <FILE>",
      "write where the software CPU's time went, at the end; JSON where FILE ends in .json",
    )
    .option("--name <NAME>", "instance name (default: guest-PID)", parseName)
    .option(
      "--nodefaults",
      "only what the command line names: no default guest, no default kernel parameters",
    )
    .option("--timeout <SECONDS>", "end the machine after so long, with exit code 124", parseSeconds)
    .addOption(
      new Option("--on-reboot <ACTION>", "what a reboot by the guest does")
        .choices(ON_REBOOT)
        .default("exit"),
    )
    .addOption(
      new Option("--loglevel <LEVEL>", "what is said on standard error")
        .choices(LOG_LEVELS)
        .default("warning"),
    )
    .option("--isa-debug-exit", "a write of V to port 0xf4 ends the machine with status (V << 1) | 1")
    .option("--debug-ioport", "trace port accesses on standard error")
    .option("--debug-mmio", "trace MMIO accesses on standard error")
    .option("--debug-single-step", "trace every instruction on standard error")
    .addHelpText("after", EXAMPLES)
    .action(async (kernel: string | undefined, options: RunOptions, self: Command) => {
      if (kernel !== undefined && options.kernel !== undefined) {
        self.error("error: KERNEL and --kernel exclude each other");
      }
      if (guestCommand?.length === 0) self.error("error: no COMMAND after `--`");
      if (guestCommand !== undefined && options.initrd !== undefined) {
        self.error("error: --initrd and COMMAND exclude each other: COMMAND runs in the default initrd");
      }
      finish(await run(await machineOptions(kernel ?? options.kernel, options, guestCommand), options));
    });
}

async function machineOptions(
  named: string | undefined,
  options: RunOptions,
  command: readonly string[] | undefined,
): Promise<MachineOptions> {
  const nodefaults = options.nodefaults === true;
  const found = named === undefined && !nodefaults ? await findKernel() : undefined;
  const kernel = named ?? found;
  const { rows, columns } = process.stdout;
  // A serial line as the terminal has no size: 0 by 0.
  const sized = process.stdin.isTTY && process.stdout.isTTY && rows > 0 && columns > 0;
  const terminal = sized ? { rows, columns } : undefined;
  return {
    ...given({
      kernel,
      initrd: options.initrd,
      params: options.params,
      name: options.name,
      command,
      terminal,
    }),
    // A kernel that was found and not named still wants something to boot into.
    defaultInitrd: !nodefaults && named === undefined,
    environment: given({ TERM: terminal === undefined ? undefined : process.env.TERM }),
    nodefaults,
    control: true,
    cpus: options.cpus,
    ...(options.mem === undefined ? {} : { memoryMiB: options.mem / MIB }),
    console: options.console,
    accel: options.accel,
    dev: options.dev,
    tier: options.tier,
    disks: options.disk,
    virtioTransport: options.virtioTransport,
    virtioRing: options.virtioRing,
    ...given({ rng: options.rng, balloon: options.balloon, vsock: options.vsock }),
    consolePorts: options.virtioPort,
    ttys: [...new Set(options.tty)],
    onReboot: options.onReboot,
    isaDebugExit: options.isaDebugExit === true,
    ...given({ timeoutSeconds: options.timeout, profileCpu: options.profileCpu }),
    debug: {
      ioport: options.debugIoport === true,
      mmio: options.debugMmio === true,
      singleStep: options.debugSingleStep === true,
    },
    log: (level, text) => {
      if (levelIncludes(options.loglevel, level)) say(level, text);
    },
    progress: showProgress,
  };
}

async function run(options: MachineOptions, { loglevel }: RunOptions): Promise<number> {
  lowerCompilerPriority();
  const machine = await Machine.create(options);
  endProgress();
  process.title = `nlkt ${machine.name}`;
  for (const [port, name] of machine.ttys) sayDetail(`ttyS${port} is ${name}`);
  if (process.stdin.isTTY && levelIncludes(loglevel, "warning")) say("info", ESCAPE_HINT);
  return await attach(machine, levelIncludes(loglevel, "debug"));
}
