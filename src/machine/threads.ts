/** The machine's Workers, as the main thread sees them. */
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import type { VcpuProfile } from "../hypervisor/seam.js";
import { EndReason } from "./exit-status.js";
import type { Lifecycle } from "./lifecycle.js";
import { RUNNING, type ThreadData } from "./thread-data.js";

const VCPU_THREAD = new URL("./vcpu-thread.js", import.meta.url);
const TIMER_THREAD = new URL("./timer-thread.js", import.meta.url);

/** How long a thread may take to end by itself before it is terminated. */
const GRACE_MILLISECONDS = 1000;

export class Threads {
  readonly #workers: Worker[] = [];

  /** What the vCPUs have told of their time; complete when they have ended. */
  readonly profiles: VcpuProfile[] = [];

  /**
   * Start a thread for each vCPU and one for the timers. They wait until the lifecycle lets them run. `onRunning`: the
   * guest's first instruction ran, at `Lifecycle.firstRun`.
   */
  constructor(data: Omit<ThreadData, "id">, lifecycle: Lifecycle, onRunning: () => void) {
    for (let id = 0; id < data.config.cpus; id++)
      this.#add(`vcpu-${id}`, VCPU_THREAD, { ...data, id }, lifecycle);
    this.#add("timer", TIMER_THREAD, { ...data, id: 0 }, lifecycle);
    for (const worker of this.#workers) {
      worker.on("message", (message: typeof RUNNING | { profile: VcpuProfile }) => {
        if (message === RUNNING) onRunning();
        else this.profiles.push(message.profile);
      });
    }
  }

  #add(name: string, file: URL, workerData: ThreadData, lifecycle: Lifecycle): void {
    const worker = new Worker(file, { name, workerData, stdin: false });
    worker.on("error", (error) => lifecycle.fail(name, error));
    worker.on("exit", (code) => {
      // After the machine's end this changes nothing: the first reason stands.
      lifecycle.end({ reason: EndReason.FAILURE, message: `thread ${name} ended with status ${code}` });
    });
    this.#workers.push(worker);
  }

  /** Wait for the threads to end, now that the lifecycle has ended, and terminate those that do not. */
  async stop(): Promise<void> {
    await Promise.all(
      this.#workers.map(async (worker) => {
        if (worker.threadId === -1) return;
        const exited = once(worker, "exit");
        const timer = setTimeout(() => void worker.terminate(), GRACE_MILLISECONDS);
        await exited.catch(() => {});
        clearTimeout(timer);
      }),
    );
  }
}
