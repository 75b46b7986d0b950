/** The software CPU under test. */
import { createSoftVm, softArenaBytes } from "../../src/hypervisor/soft/provider.js";
import { Clock } from "../../src/memory/clock.js";
import { GuestMemory, gpa } from "../../src/memory/guest-memory.js";
import { alignUp } from "../../src/memory/layout.js";
import { SharedMemory } from "../../src/memory/shared-memory.js";
import { StateAllocator } from "../../src/memory/state-allocator.js";
import { Timers } from "../../src/memory/timers.js";
import type { Facilities } from "./cpu-case.js";
import { RAM_SIZE, SeamCpu, type SeamMachine } from "./seam-cpu.js";

/** The VM's own state, after a first page that nothing uses. */
const STATE_START = 0x10000;
const STATE_SIZE = alignUp(STATE_START + softArenaBytes(1), 0x10000);

function softMachine(tier: "cold" | "hot"): SeamMachine {
  const shared = SharedMemory.create(STATE_SIZE + RAM_SIZE);
  const allocator = new StateAllocator(shared, STATE_START, STATE_SIZE);
  const slot = {
    slot: 0,
    guestPhysical: gpa(0),
    size: RAM_SIZE,
    offset: STATE_SIZE,
    readonly: false,
    logDirty: false,
  };
  const memory = new GuestMemory(shared, [slot]);
  const clock = Clock.start();
  const timers = new Timers(shared, allocator, clock);
  const vm = createSoftVm(shared, allocator, memory, timers, clock, { cpus: 1, create: true, tier });
  vm.setMemorySlot(slot);
  return { name: "the software CPU", vcpu: vm.vcpu(0), memory };
}

export class SoftCpu extends SeamCpu {
  /** `tier`: cold, or hot for every instruction from its first execution on. */
  constructor(
    facilities: Facilities,
    tier: "cold" | "hot" = process.env.NLKT_FUZZ_TIER === "hot" ? "hot" : "cold",
  ) {
    super(facilities, softMachine(tier));
  }
}
