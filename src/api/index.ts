/** The library: what programs that run virtual machines import from `nlkt`. Described in docs/library.md. */

export type {
  Accel,
  ConsoleKind,
  ConsolePortConfig,
  DebugFlags,
  LogLevel,
  OnReboot,
  Tier,
  VirtioRing,
  VirtioTransport,
  VsockConfig,
} from "../machine/config.js";
export type {
  BalloonInfo,
  InstanceInfo,
  InstanceState,
  InstanceStats,
  VcpuStats,
} from "../machine/control/protocol.js";
export type { EndName, ExitStatus } from "../machine/exit-status.js";
export type { LockState } from "../memory/lock-report.js";
export type { GuestConsole } from "./console.js";
export { instances, RunningInstance, type UnresponsiveInstance } from "./instances.js";
export { type DiskOptions, Machine, type MachineOptions } from "./machine.js";
