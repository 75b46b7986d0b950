/** The machine's Workers, as the main thread sees them. */
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import type { VcpuProfile } from "../hypervisor/seam.js";
import { ConfigError } from "./config.js";
import type { DisksOpened, OpenedDisk } from "./disk-thread.js";
import { EndReason } from "./exit-status.js";
import { IO_THREAD, type IoThreads } from "./io-threads.js";
import type { Lifecycle } from "./lifecycle.js";
import { RUNNING, type ThreadData } from "./thread-data.js";

const VCPU_THREAD = new URL("./vcpu-thread.js", import.meta.url);
const TIMER_THREAD = new URL("./timer-thread.js", import.meta.url);
const DISK_THREAD = new URL("./disk-thread.js", import.meta.url);
const IO_WORKER = new URL("./io-thread.js", import.meta.url);

/** How long a thread may take to end by itself before it is terminated. */
const GRACE_MILLISECONDS = 1000;
/** One that puts its profile together. */
const PROFILE_GRACE_MILLISECONDS = 60_000;
/** And one that has to write what a guest left in the caches of its disks. */
const DISK_GRACE_MILLISECONDS = 60_000;

export class Threads {
  readonly #workers: { readonly worker: Worker; readonly grace: number }[] = [];
  /** What the disk Workers opened; rejects with `ConfigError`. */
  readonly disks: Promise<OpenedDisk[]>;

  /** What the vCPUs have told of their time; complete when they have ended. */
  readonly profiles: VcpuProfile[] = [];

  /**
   * Start a thread for each vCPU and one for the timers. They wait until the lifecycle lets them run. `onRunning`: the
   * guest's first instruction ran, at `Lifecycle.firstRun`.
   */
  constructor(
    data: Omit<ThreadData, "id">,
    lifecycle: Lifecycle,
    ioThreads: IoThreads,
    onRunning: () => void,
  ) {
    const { cpus, profileCpu } = data.config;
    const grace = profileCpu === undefined ? GRACE_MILLISECONDS : PROFILE_GRACE_MILLISECONDS;
    for (let id = 0; id < cpus; id++) this.#add(`vcpu-${id}`, VCPU_THREAD, { ...data, id }, lifecycle, grace);
    this.#add("timer", TIMER_THREAD, { ...data, id: 0 }, lifecycle);
    for (const { worker } of this.#workers) {
      worker.on("message", (message: typeof RUNNING | { profile: VcpuProfile }) => {
        if (message === RUNNING) onRunning();
        else this.profiles.push(message.profile);
      });
    }
    const opening = ioThreads.diskThreads.map((id) =>
      disksOf(this.#add(`disk-${id}`, DISK_THREAD, { ...data, id }, lifecycle, DISK_GRACE_MILLISECONDS)),
    );
    this.disks = Promise.all(opening).then((lists) => lists.flat());
    // Who asks for the disks hears of what went wrong with them.
    this.disks.catch(() => {});
    void this.#startIoWhenNeeded({ ...data, id: IO_THREAD }, lifecycle, ioThreads);
  }

  /**
   * The first doorbell starts the Worker, which guests without drivers for its devices never ring; what listens for programs
   * of the host is there from the start.
   */
  async #startIoWhenNeeded(data: ThreadData, lifecycle: Lifecycle, ioThreads: IoThreads): Promise<void> {
    if (data.config.vsock?.uds === undefined && data.config.consolePorts.length === 0) {
      await ioThreads.waitAsync(IO_THREAD, 0);
    }
    if (!lifecycle.ended) this.#add("io", IO_WORKER, data, lifecycle);
  }

  #add(
    name: string,
    file: URL,
    workerData: ThreadData,
    lifecycle: Lifecycle,
    grace = GRACE_MILLISECONDS,
  ): Worker {
    const worker = new Worker(file, { name, workerData, stdin: false });
    worker.on("error", (error) => lifecycle.fail(name, error));
    worker.on("exit", (code) => {
      // After the machine's end this changes nothing: the first reason stands.
      lifecycle.end({ reason: EndReason.FAILURE, message: `thread ${name} ended with status ${code}` });
    });
    this.#workers.push({ worker, grace });
    return worker;
  }

  /** Wait for the threads to end, now that the lifecycle has ended, and terminate those that do not. */
  async stop(): Promise<void> {
    await Promise.all(
      this.#workers.map(async ({ worker, grace }) => {
        if (worker.threadId === -1) return;
        const exited = once(worker, "exit");
        const timer = setTimeout(() => void worker.terminate(), grace);
        await exited.catch(() => {});
        clearTimeout(timer);
      }),
    );
  }
}

/** The disks that a disk Worker says it opened. */
async function disksOf(worker: Worker): Promise<OpenedDisk[]> {
  const gone = once(worker, "exit").then(() => ({ problem: "the disk's thread ended" }));
  const [message] = (await Promise.race([once(worker, "message"), gone.then((problem) => [problem])])) as [
    DisksOpened,
  ];
  if ("problem" in message) throw new ConfigError(`--disk: ${message.problem}`);
  return [...message.disks];
}
