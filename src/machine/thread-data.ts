/** What a Worker of the machine is given, and what it does first. */
import { parentPort } from "node:worker_threads";
import { Clock } from "../memory/clock.js";
import { SharedMemory } from "../memory/shared-memory.js";
import { Board } from "./board.js";
import type { MachineConfig } from "./config.js";
import { loadProvider } from "./provider.js";

export interface ThreadData {
  readonly config: MachineConfig;
  readonly memory: WebAssembly.Memory;
  /** `Clock.epoch`. */
  readonly epoch: bigint;
  /** Number of the vCPU; unused by the timer thread. */
  readonly id: number;
}

/** What threads post to the main thread. */
export type ThreadMessage =
  /** The thread has its objects and waits for the machine to run. */
  | "ready"
  /** vCPU 0 is about to run its first instruction. */
  | "running";

export function post(message: ThreadMessage): void {
  parentPort?.postMessage(message);
}

/**
 * Build this thread's objects over the machine's memory and run `body` on them. What goes wrong before the board exists
 * reaches the main thread as the Worker's `error` event, what goes wrong later through the lifecycle.
 */
export async function enterThread(
  name: string,
  data: ThreadData,
  body: (board: Board) => void,
): Promise<void> {
  const provider = await loadProvider(data.config);
  const board = new Board({
    config: data.config,
    provider,
    memory: new SharedMemory(data.memory),
    clock: new Clock(data.epoch),
    create: false,
  });
  post("ready");
  try {
    board.lifecycle.waitUntilRunning();
    body(board);
  } catch (error) {
    board.lifecycle.fail(name, error);
  }
  // Handles that a provider left open would keep the Worker alive.
  process.exit(0);
}
