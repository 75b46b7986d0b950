/**
 * The machine's parts and how they are wired together. Every thread of the machine makes its own board over the same
 * shared memory: the same constructions in the same order give the same addresses (DESIGN, law 2).
 */

import { availableParallelism } from "node:os";
import { GUEST_STATUS_PORT } from "../boot/guest-command.js";
import { ACPI_PM_PORT, ACPI_PM_PORT_COUNT, AcpiPm, SCI_GSI } from "../devices/acpi-pm.js";
import { MmioBus, PortBus } from "../devices/bus.js";
import { printingTrace } from "../devices/bus-trace.js";
import { DEBUG_EXIT_PORT, DEBUG_EXIT_SIZE, DebugExit } from "../devices/debug-exit.js";
import { I8042, I8042_PORTS, KEYBOARD_IRQ, MOUSE_IRQ } from "../devices/i8042.js";
import { gsiLine, WiredOr } from "../devices/interrupt-line.js";
import {
  ECAM_BASE,
  ECAM_SIZE,
  PCI_CONFIG_PORT,
  PCI_CONFIG_PORT_COUNT,
  PCI_IO_BASE,
  PCI_IO_SIZE,
  PCI_MMIO_BASE,
  PCI_MMIO_SIZE,
  PciHostBridge,
} from "../devices/pci/host-bridge.js";
import { PciWindow } from "../devices/pci/window.js";
import { RTC_IRQ, RTC_PORT, RTC_SIZE, Rtc } from "../devices/rtc.js";
import { COM_PORTS, UART_SIZE, Uart } from "../devices/serial.js";
import { SYSTEM_CONTROL_PORT, SystemControlPort } from "../devices/system-control.js";
import type { Vm } from "../hypervisor/seam.js";
import { ByteRing } from "../memory/byte-ring.js";
import type { Clock } from "../memory/clock.js";
import { GuestMemory } from "../memory/guest-memory.js";
import { LockThreads } from "../memory/lock-report.js";
import type { SharedMemory } from "../memory/shared-memory.js";
import { StateAllocator } from "../memory/state-allocator.js";
import { type Timer, Timers } from "../memory/timers.js";
import type { MachineConfig } from "./config.js";
import { Errand } from "./errand.js";
import { EndReason } from "./exit-status.js";
import { GatheredOutput } from "./gathered-output.js";
import { GuestStatusPort } from "./guest-status.js";
import { IO_THREAD, IoThreads } from "./io-threads.js";
import { Lifecycle } from "./lifecycle.js";
import { traceLine } from "./log.js";
import { arenaRoom, LOW_RAM_LIMIT, planLinearMemory, ramSlots } from "./memory-map.js";
import type { Provider } from "./provider.js";
import { VcpuMonitor } from "./vcpu-monitor.js";
import { VirtioDevices } from "./virtio-devices.js";

/** Bytes of console output, and of input, that may wait for their reader. */
const CONSOLE_RING_BYTES = 64 * 1024;

export interface ConsoleRings {
  readonly output: ByteRing;
  readonly input: ByteRing;
}

/** Until a drained receiver gets more of what waits: 16 characters in so long are half a megabit a second. */
const INPUT_FIFO_NANOSECONDS = 250_000;

export interface BoardOptions {
  readonly config: MachineConfig;
  readonly provider: Provider;
  readonly memory: SharedMemory;
  /** As `LinearPlan.further` has them. */
  readonly further: readonly SharedMemory[];
  readonly clock: Clock;
  /** True in the thread that makes the machine. */
  readonly create: boolean;
}

export class Board {
  readonly memory: SharedMemory;
  readonly further: readonly SharedMemory[];
  readonly clock: Clock;
  readonly allocator: StateAllocator;
  readonly timers: Timers;
  readonly lockThreads: LockThreads;
  readonly lifecycle: Lifecycle;
  readonly guestMemory: GuestMemory;
  readonly vm: Vm;
  readonly ports = new PortBus();
  readonly mmio = new MmioBus();
  /** By vCPU. */
  readonly monitors: readonly VcpuMonitor[];
  /** The far ends of the console: COM1's line, or port 0 of the virtio console. */
  readonly console: ConsoleRings;
  /** The far ends of the lines of serial ports that are pseudo-terminals of the host, by their number. */
  readonly ttys: ReadonlyMap<number, ConsoleRings>;
  /** The other side of COM1's line sends a break, behind the bytes that are in `console.input`. */
  readonly serialBreak: Errand;
  readonly ioThreads: IoThreads;
  readonly virtio: VirtioDevices;
  /** COM1's writes, where the provider gathers them. */
  readonly output: GatheredOutput;
  readonly #resets: (() => void)[] = [];
  readonly #inputTimer: Timer;
  readonly #powerButtonTimer: Timer;

  constructor({ config, provider, memory, further, clock, create }: BoardOptions) {
    const arenaBytes = provider.arenaBytes(config.cpus, arenaRoom(config.ramBytes));
    const plan = planLinearMemory(config.ramBytes, arenaBytes);
    this.memory = memory;
    this.further = further;
    this.clock = clock;
    this.allocator = new StateAllocator(memory, plan.stateStart, plan.stateEnd);
    this.lockThreads = new LockThreads(memory, this.allocator);
    this.lifecycle = new Lifecycle(memory, this.allocator);
    this.timers = new Timers(memory, this.allocator, clock);
    this.monitors = Array.from(
      { length: config.cpus },
      (_, id) => new VcpuMonitor(memory, this.allocator, id),
    );
    // Before the provider, which may arm its timers as it is made.
    if (create) this.timers.reset();
    this.guestMemory = new GuestMemory(memory, ramSlots(config.ramBytes, plan), further);
    this.vm = provider.createVm(memory, this.allocator, this.guestMemory, this.timers, clock, {
      cpus: config.cpus,
      tier: config.tier,
      profile: config.profileCpu !== undefined,
      arenaBytes,
      device: config.dev,
      create,
    });
    if (create) for (const slot of this.guestMemory.slots) this.vm.setMemorySlot(slot);

    this.console = this.#rings("console");
    this.ttys = new Map(config.ttys.map((port) => [port, this.#rings(`tty${port}`)]));
    const ports = this.#addSerialPorts(config);
    const [com1] = ports;
    this.output = new GatheredOutput(
      memory,
      this.allocator,
      this.timers,
      clock,
      this.vm,
      COM_PORTS[0].base,
      (sleep) => this.lifecycle.whileStandingStill(sleep),
    );
    this.#inputTimer = this.timers.create(() => {
      for (const port of ports) port.poll();
    });
    this.serialBreak = new Errand(memory, this.allocator, this.timers, "serial break", () =>
      com1.receiveBreak(),
    );
    this.#addRtc(config);
    this.#addKeyboardController();
    const pci = this.#addPciHost();
    const pm = this.#addPowerManagement();
    this.#powerButtonTimer = this.timers.create(() => pm.pressPowerButton());
    this.#addTestPorts(config);
    this.ioThreads = new IoThreads(this.allocator, config.disks.length, availableParallelism() > config.cpus);
    this.virtio = this.#addVirtio(config, pci);

    if (config.debug.ioport) this.ports.trace = printingTrace("ioport", traceLine);
    if (config.debug.mmio) this.mmio.trace = printingTrace("mmio", traceLine);
  }

  #rings(name: string): ConsoleRings {
    return {
      output: ByteRing.allocate(this.allocator, `${name}.output`, CONSOLE_RING_BYTES),
      input: ByteRing.allocate(this.allocator, `${name}.input`, CONSOLE_RING_BYTES),
    };
  }

  #addSerialPorts(config: MachineConfig): Uart[] {
    const lines = new Map(
      [3, 4].map((irq) => {
        const line = new WiredOr(this.allocator, `irq${irq}`, gsiLine(this.vm, irq));
        this.#resets.push(() => line.reset());
        return [irq, line] as const;
      }),
    );
    return COM_PORTS.map(({ name, base, irq }, index) => {
      const console = index === 0 && config.console === "serial" ? this.console : {};
      const uart = new Uart(this.allocator, name, {
        irq: lines.get(irq)!.input(),
        ...(this.ttys.get(index) ?? console),
        whileWaiting: (sleep) => this.lifecycle.whileStandingStill(sleep),
        pollLater: () => this.#inputTimer.arm(this.clock.now() + INPUT_FIFO_NANOSECONDS),
      });
      this.#resets.push(() => uart.reset());
      this.ports.register({ owner: name, start: base, size: UART_SIZE, device: uart, maxSize: 1 });
      return uart;
    });
  }

  #addRtc({ ramBytes }: MachineConfig): void {
    const rtc = new Rtc(this.allocator, { irq: gsiLine(this.vm, RTC_IRQ), timers: this.timers });
    const lowRam = Math.min(ramBytes, LOW_RAM_LIMIT);
    this.#resets.push(() => rtc.reset({ lowRam, highRam: ramBytes - lowRam }));
    this.ports.register({ owner: "rtc", start: RTC_PORT, size: RTC_SIZE, device: rtc, maxSize: 1 });
  }

  #addKeyboardController(): void {
    const onReset = () => this.#reboot();
    const i8042 = new I8042(this.allocator, {
      keyboardIrq: gsiLine(this.vm, KEYBOARD_IRQ),
      mouseIrq: gsiLine(this.vm, MOUSE_IRQ),
      onReset,
    });
    this.#resets.push(() => i8042.reset());
    for (const { port, offset } of I8042_PORTS) {
      const range = { owner: "i8042", start: port, size: 1, device: i8042, maxSize: 1 } as const;
      this.ports.register({ ...range, deviceOffset: offset });
    }
    const control = new SystemControlPort(this.allocator, onReset);
    this.#resets.push(() => control.reset());
    this.ports.register({
      owner: "system-control",
      start: SYSTEM_CONTROL_PORT,
      size: 1,
      device: control,
      maxSize: 1,
    });
  }

  #addPciHost(): PciHostBridge {
    const host = new PciHostBridge(this.allocator, () => this.#reboot());
    this.#resets.push(() => host.reset());
    this.ports.register({
      owner: "pci",
      start: PCI_CONFIG_PORT,
      size: PCI_CONFIG_PORT_COUNT,
      device: host.ports,
      maxSize: 4,
    });
    this.mmio.register({
      owner: "pci-ecam",
      start: ECAM_BASE,
      size: ECAM_SIZE,
      device: host.ecam,
      maxSize: 4,
    });
    return host;
  }

  #addVirtio(config: MachineConfig, pci: PciHostBridge): VirtioDevices {
    const generation = () => pci.decodeGeneration;
    const memory = new PciWindow("memory", PCI_MMIO_BASE, generation);
    const io = new PciWindow("io", PCI_IO_BASE, generation);
    const owner = { owner: "pci", maxSize: 4 } as const;
    this.mmio.register({ ...owner, start: PCI_MMIO_BASE, size: PCI_MMIO_SIZE, device: memory });
    this.ports.register({ ...owner, start: PCI_IO_BASE, size: PCI_IO_SIZE, device: io });
    const virtio = new VirtioDevices({
      config,
      allocator: this.allocator,
      guestMemory: this.guestMemory,
      console: this.console,
      vm: this.vm,
      threads: this.ioThreads,
      mmio: this.mmio,
      pci,
      windows: { memory, io },
    });
    this.#resets.push(() => virtio.reset());
    return virtio;
  }

  #addPowerManagement(): AcpiPm {
    const pm = new AcpiPm(this.allocator, this.timers, gsiLine(this.vm, SCI_GSI), () =>
      this.lifecycle.end({ reason: EndReason.POWEROFF }),
    );
    this.#resets.push(() => pm.reset());
    this.ports.register({
      owner: "acpi-pm",
      start: ACPI_PM_PORT,
      size: ACPI_PM_PORT_COUNT,
      device: pm,
      maxSize: 4,
    });
    return pm;
  }

  #reboot(): void {
    this.lifecycle.end({ reason: EndReason.REBOOT });
  }

  #addTestPorts(config: MachineConfig): void {
    this.ports.register({
      owner: "guest-status",
      start: GUEST_STATUS_PORT,
      size: 1,
      maxSize: 1,
      device: new GuestStatusPort((status) => {
        this.lifecycle.commandStatus = status;
      }),
    });
    if (config.isaDebugExit) {
      this.ports.register({
        owner: "isa-debug-exit",
        start: DEBUG_EXIT_PORT,
        size: DEBUG_EXIT_SIZE,
        maxSize: 4,
        device: new DebugExit((value) => this.lifecycle.end({ reason: EndReason.DEBUG_EXIT, value })),
      });
    }
  }

  /** Power on: first values of all state but the provider's. Once, in the thread that makes the machine. */
  reset(): void {
    for (const reset of this.#resets) reset();
  }

  /** Press the power button; the timer thread does it, as with `inputArrived`. */
  pressPowerButton(): void {
    this.#powerButtonTimer.arm(0);
  }

  /**
   * Have the devices look at the console's input. The timer thread does it: the main thread takes no device's lock, so
   * it stays able to end the machine whatever became of the thread that holds one.
   */
  inputArrived(): void {
    this.#inputTimer.arm(0);
    this.virtio.console?.device.io.ring();
  }

  /** The terminal that shows the console has this size. */
  consoleResized(columns: number, rows: number): void {
    const { console } = this.virtio;
    console?.type.resize(columns, rows);
    // A Worker that does not run yet takes the size when it starts.
    if (this.ioThreads.seen(IO_THREAD) !== 0) console?.device.io.ring();
  }
}
