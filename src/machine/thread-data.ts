/** What a Worker of the machine is given, and what it does first. */
import { writeFileSync } from "node:fs";
import { Clock } from "../memory/clock.js";
import { validateLocksIfAsked } from "../memory/lock-order.js";
import { SharedMemory } from "../memory/shared-memory.js";
import { Board } from "./board.js";
import type { MachineConfig } from "./config.js";
import { loadProvider } from "./provider.js";

export interface ThreadData {
  readonly config: MachineConfig;
  readonly memory: WebAssembly.Memory;
  /** `BoardOptions.further`. */
  readonly further: readonly WebAssembly.Memory[];
  /** `Clock.epoch`. */
  readonly epoch: bigint;
  /** Of the lock-order validator (memory/lock-order.ts), where it runs. */
  readonly lockOrder: SharedArrayBuffer | undefined;
  /** Number of the vCPU or of the disk Worker; unused by the other threads. */
  readonly id: number;
}

/** Posted to the main thread when vCPU 0 is about to run its first instruction. */
export const RUNNING = "running";

/** For `top -H` and debuggers (proc(5), /proc/pid/comm). Elsewhere than on Linux threads stay nameless. */
function nameThread(name: string): void {
  try {
    writeFileSync("/proc/thread-self/comm", name);
  } catch {}
}

/**
 * Build this thread's objects over the machine's memory and run `body` on them. What goes wrong before the board exists
 * reaches the main thread as the Worker's `error` event, what goes wrong later through the lifecycle.
 */
export async function enterThread(
  name: string,
  data: ThreadData,
  body: (board: Board) => void | Promise<void>,
): Promise<void> {
  nameThread(name);
  validateLocksIfAsked(data.lockOrder);
  const provider = await loadProvider(data.config);
  const board = new Board({
    config: data.config,
    provider,
    memory: new SharedMemory(data.memory),
    further: data.further.map((memory) => new SharedMemory(memory)),
    clock: new Clock(data.epoch),
    create: false,
  });
  board.lockThreads.enter(name);
  try {
    await body(board);
  } catch (error) {
    board.lifecycle.fail(name, error);
  }
  // Handles that a provider left open would keep the Worker alive.
  process.exit(0);
}
