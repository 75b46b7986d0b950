/** The software CPU under test. */
import { createSoftVm, softArenaBytes } from "../../src/hypervisor/soft/provider.js";
import type { SoftVcpu } from "../../src/hypervisor/soft/vcpu.js";
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

/**
 * cold; hot: every instruction from its first execution on; warm: what has run twice is hot, and translated at once, so that code
 * becomes hot in the middle of a case, and regions hold only what was run until then.
 */
export const TIERS = ["cold", "hot", "warm"] as const;
export type Tier = (typeof TIERS)[number];
const WARM_COUNT = 2;

function softMachine(tier: Tier): SeamMachine {
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
  const vm = createSoftVm(shared, allocator, memory, timers, clock, {
    cpus: 1,
    create: true,
    tier: tier === "warm" ? "auto" : tier,
  });
  vm.setMemorySlot(slot);
  const vcpu = vm.vcpu(0) as SoftVcpu;
  if (tier === "warm") {
    const { cache, hot } = vcpu.code;
    vm.places[0].state.hotThreshold = WARM_COUNT;
    cache.hotBranches = WARM_COUNT;
    if (hot !== undefined) hot.request = (place) => hot.translate(place);
  }
  return { name: "the software CPU", vcpu, memory };
}

export class SoftCpu extends SeamCpu {
  constructor(
    facilities: Facilities,
    readonly tier: Tier = TIERS.find((name) => name === process.env.NLKT_TEST_TIER) ?? "cold",
  ) {
    super(facilities, softMachine(tier));
  }

  /** Regions of code that the hot tier has translated. */
  get regions(): number {
    return (this.vcpu as SoftVcpu).code.hot?.counters.regions ?? 0;
  }
}
