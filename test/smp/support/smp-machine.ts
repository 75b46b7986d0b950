/** Runs a guest program on several vCPUs, each on a thread of its own. */
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import type { SoftVm } from "../../../src/hypervisor/soft/provider.js";
import { type GuestMemory, gpa } from "../../../src/memory/guest-memory.js";
import { createLockOrderTable } from "../../../src/memory/lock-order.js";
import { observeLocks } from "../../../src/memory/mutex.js";
import { Environment } from "../../guests/support/environment.js";
import { start } from "../../guests/support/machine.js";
import { buildProgram, PROGRAM_START } from "./program.js";
import { createMemory, makeVm, type SharedVmData, type Tier } from "./shared-vm.js";
import type { SmpReport, SmpThreadData } from "./smp-thread.js";

const THREAD = new URL("./smp-thread.js", import.meta.url);
/** Where programs leave results: an array of u64. */
export const RESULTS = 0x100_0000;
/** Top of vCPU 0's stack; the others' are below, `STACK_BYTES` each. */
const STACKS = 0x180_0000;
const STACK_BYTES = 0x1_0000;
const DEFAULT_SECONDS = 120;

export interface SmpProgram {
  /** Name of a source in test/smp/guest. */
  readonly program: string;
  readonly cpus: number;
  readonly tier?: Tier;
  /** For the program: which of its tests, and how often. */
  readonly what?: number;
  readonly rounds?: number;
  /** vCPUs that run from the start; the others wait for INIT and a start-up IPI. All where left out. */
  readonly started?: number;
  readonly seconds?: number;
  /** What the host does while the program runs. */
  readonly during?: DuringRun;
}

export type DuringRun = (vm: SoftVm, memory: GuestMemory) => Promise<void>;

export interface SmpResult {
  readonly memory: GuestMemory;
  /** What each vCPU wrote to DONE_PORT. */
  readonly values: readonly number[];
  /** Each vCPU's exits for the host's breakpoints, the first of them. */
  readonly debugExits: SmpReport["debugExits"][];
  result(index: number): bigint;
}

/** Throws what the first vCPU that fails has to say. */
export async function runProgram(options: SmpProgram): Promise<SmpResult> {
  const { cpus, tier = "auto", what = 0, rounds = 1, started = cpus } = options;
  const { bytes, entry } = buildProgram(options.program);
  const data: SharedVmData = {
    cpus,
    tier,
    memory: createMemory(cpus).memory,
    epoch: process.hrtime.bigint(),
    lockOrder: createLockOrderTable(),
  };
  const { vm, guestMemory, timers } = makeVm(data, true);
  new Environment(guestMemory, "long").fill();
  guestMemory.write(gpa(PROGRAM_START), bytes);
  for (let id = 0; id < started; id++) {
    const regs = {
      rip: BigInt(entry),
      rsp: BigInt(STACKS - id * STACK_BYTES),
      rdi: BigInt(id),
      rsi: BigInt(cpus),
      rdx: BigInt(what),
      rcx: BigInt(rounds),
    };
    start({ vcpu: vm.vcpu(id) }, { mode: "long", regs }, 0);
  }
  const spawn = (role: SmpThreadData["role"]) =>
    new Worker(THREAD, { workerData: { data, role } satisfies SmpThreadData });
  const timerThread = spawn("timers");
  const kick = () => {
    for (let id = 0; id < cpus; id++) vm.vcpu(id).kick();
  };
  const watchdog = setTimeout(kick, (options.seconds ?? DEFAULT_SECONDS) * 1000);
  const threads = Array.from({ length: cpus }, (_, id) => spawn(id));
  try {
    const ended = Promise.all(
      threads.map(async (thread) => {
        const [report] = (await once(thread, "message")) as [SmpReport];
        // The others wait for this one in vain.
        if (report.problem !== undefined) kick();
        return report;
      }),
    );
    // Where a vCPU fails, what waits for it is not waited for.
    await Promise.race([options.during?.(vm, guestMemory), ended]);
    const reports = await ended;
    const problems = reports.flatMap(({ problem }) => problem ?? []);
    if (problems.length > 0) throw new Error(`${options.program}, ${tier} tier: ${problems.join("; ")}`);
    return {
      memory: guestMemory,
      values: reports.map(({ value }) => value),
      debugExits: reports.map(({ debugExits }) => debugExits),
      result: (index) => guestMemory.readU64(gpa(RESULTS + 8 * index)),
    };
  } finally {
    clearTimeout(watchdog);
    timers.stop();
    kick();
    await Promise.all([...threads, timerThread].map((thread) => thread.terminate()));
    observeLocks(undefined);
  }
}
