/** The software CPU as a provider for guests, in one thread, with a second thread that watches over it. */
import { Worker } from "node:worker_threads";
import { createSoftVm, type SoftVm, softArenaBytes } from "../../../src/hypervisor/soft/provider.js";
import { Poll, Request, VCPU_STATE } from "../../../src/hypervisor/soft/vcpu-state.js";
import { Clock } from "../../../src/memory/clock.js";
import { GuestMemory, gpa } from "../../../src/memory/guest-memory.js";
import { SharedMemory } from "../../../src/memory/shared-memory.js";
import { StateAllocator } from "../../../src/memory/state-allocator.js";
import { Timers } from "../../../src/memory/timers.js";
import { RAM_BYTES } from "./environment.js";
import type { Provider } from "./machine.js";

/** A guest that runs longer than this hangs: many times what any takes on a busy host. */
const LIMIT_MILLISECONDS = 20_000;

/** NLKT_TEST_TIER: the tier that tests run on where they do not choose one. */
const TIERS = ["auto", "hot", "cold"] as const;
const defaultTier = TIERS.find((name) => name === process.env.NLKT_TEST_TIER) ?? "auto";

/** Words of the watchdog's own memory. */
const Watch = { BEATS: 0, RUNNING: 1, STOP: 2 } as const;

/**
 * The watchdog's thread. It kicks as SoftVm.request does, from a thread that has no machine: sets the request and the poll
 * word, and wakes a halted vCPU.
 */
const WATCHDOG = `
const { workerData: w } = require("node:worker_threads");
const words = new Int32Array(w.words);
const memory = new Int32Array(w.memory.buffer);
for (;;) {
  const seen = Atomics.load(words, 0);
  const how = Atomics.wait(words, 0, seen, w.limit);
  if (Atomics.load(words, 2) !== 0) break;
  if (how === "timed-out" && Atomics.load(words, 0) === seen && Atomics.load(words, 1) !== 0) {
    for (const vcpu of w.vcpus) {
      Atomics.or(memory, vcpu.requests >>> 2, w.kick);
      Atomics.or(memory, vcpu.poll >>> 2, w.request);
      Atomics.notify(memory, vcpu.poll >>> 2);
    }
  }
}
`;

export interface SoftProvider extends Provider {
  readonly vm: SoftVm;
  readonly timers: Timers;
  close(): void;
}

export function softProvider(cpus = 1, tier: (typeof TIERS)[number] = defaultTier): SoftProvider {
  const arena = softArenaBytes(cpus) + (1 << 20);
  const ramAt = Math.ceil(arena / 0x10000) * 0x10000;
  const shared = SharedMemory.create(ramAt + RAM_BYTES);
  const allocator = new StateAllocator(shared, 64, ramAt);
  const clock = Clock.start();
  const timers = new Timers(shared, allocator, clock);
  timers.reset();
  const slot = {
    slot: 0,
    guestPhysical: gpa(0),
    size: RAM_BYTES,
    offset: ramAt,
    readonly: false,
    logDirty: false,
  };
  const memory = new GuestMemory(shared, [slot]);
  const vm = createSoftVm(shared, allocator, memory, timers, clock, { cpus, create: true, tier });
  vm.setMemorySlot(slot);
  const words = new Int32Array(new SharedArrayBuffer(12));
  const worker = new Worker(WATCHDOG, {
    eval: true,
    workerData: {
      words: words.buffer,
      memory: shared.memory,
      limit: LIMIT_MILLISECONDS,
      vcpus: vm.places.map(({ state }) => ({
        requests: state.address + VCPU_STATE.offset.requests,
        poll: state.address + VCPU_STATE.offset.poll,
      })),
      kick: Request.KICK,
      request: Poll.REQUEST,
    },
  });
  worker.unref();
  return {
    name: "soft",
    vm,
    memory,
    timers,
    vcpu: vm.vcpu(0),
    watched(run) {
      Atomics.add(words, Watch.BEATS, 1);
      Atomics.store(words, Watch.RUNNING, 1);
      try {
        return run();
      } finally {
        Atomics.store(words, Watch.RUNNING, 0);
      }
    },
    close() {
      Atomics.store(words, Watch.STOP, 1);
      Atomics.add(words, Watch.BEATS, 1);
      Atomics.notify(words, Watch.BEATS);
      void worker.terminate();
    },
  };
}
