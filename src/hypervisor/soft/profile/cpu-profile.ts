/**
 * Where the time of one vCPU goes (`nlkt run --profile-cpu`). The vCPU's loop says what it turns to, and the time until it turns to
 * the next thing is that one's; what guest code is made of is sampled. Only a vCPU that is profiled has such an object.
 */
import type { ProfileRow, VcpuProfile, VmExit } from "../../seam.js";
import type { CodeCache } from "../decode/code-cache.js";
import type { HotTier } from "../hot/hot-tier.js";
import { SYSTEM_OPERATION_NAMES } from "../system/operation-names.js";
import { Counter, Leave, type VcpuState } from "../vcpu-state.js";
import { guestCode } from "./guest-code.js";
import { Sampler } from "./sampler.js";

/** What a vCPU's thread is at. */
export const Activity = {
  guestCode: "guest code",
  loop: "the loop around guest code",
  halted: "halted, waiting for an interrupt",
  decoding: "decoding",
  translating: "hot tier: translating and compiling",
  exceptions: "exceptions",
  interrupts: "interrupts",
  stepping: "instructions run one at a time",
  operations: "operations in TypeScript",
  interruptControllers: "accesses to the interrupt controllers",
  codeWritten: "writes to pages of code",
  devices: "devices",
} as const;
export type Activity = (typeof Activity)[keyof typeof Activity];

/** Why guest code was left, in words. */
const LEAVE_NAMES: readonly (readonly [name: string, leave: Leave])[] = [
  ["exception", Leave.FAULT],
  ["code that is not decoded, or not in the fetch TLB", Leave.DECODE],
  ["interrupt or request", Leave.POLL],
  ["instruction done in TypeScript", Leave.SYSTEM],
  ["instruction that crosses into another page", Leave.CROSS],
  ["access that the machine serves", Leave.MMIO],
  ["code became hot", Leave.HOT],
  ["interrupt or request within a string instruction", Leave.REPEAT],
  ["indirect branch that was guessed wrong too often", Leave.WRONG_GUESS],
  ["write to a page of code", Leave.ALONE],
];
/** Milliseconds between two samples of RIP at least, and after which V8's samples are taken. */
const RIP_INTERVAL = 2;
const COLLECT_INTERVAL = 20_000;
/** Rows of the long lists. */
const TOP = 30;
/** Addresses that count as one place: a power of two. */
const RIP_GRAIN = 64n;

class Tally {
  count = 0;
  milliseconds = 0;
}

type Tallies<K> = Map<K, Tally>;

function tally<K>(map: Tallies<K>, key: K): Tally {
  let found = map.get(key);
  if (found === undefined) {
    found = new Tally();
    map.set(key, found);
  }
  return found;
}

export class CpuProfile {
  readonly #sampler = new Sampler();
  readonly #activities: Tallies<Activity> = new Map();
  /** By number of the operation. */
  readonly #operations: Tallies<number> = new Map();
  /** Ports, and MMIO addresses negated (less one). */
  readonly #accesses: Tallies<number> = new Map();
  readonly #rips = new Map<bigint, number>();
  /** What the time since `#since` is to be added to. */
  #current: Tally;
  #detail: Tally | undefined;
  readonly #started: number;
  #since: number;
  #ripTaken: number;
  #collected: number;

  /** `parts`: whose own counters go into the report. */
  constructor(
    readonly state: VcpuState,
    readonly parts: { readonly cache: CodeCache; readonly hot: HotTier | undefined },
    /** Asks for a leave with POLL at the next jump, soon. */
    readonly interrupt: () => void,
  ) {
    this.#started = performance.now();
    this.#since = this.#started;
    this.#ripTaken = this.#started;
    this.#collected = this.#started;
    this.#current = tally(this.#activities, Activity.loop);
  }

  /** From now on, the vCPU is at `activity`; what it was at before. */
  turn(activity: Activity, detail?: Tally): Activity {
    const now = performance.now();
    const elapsed = now - this.#since;
    this.#current.milliseconds += elapsed;
    if (this.#detail !== undefined) this.#detail.milliseconds += elapsed;
    this.#since = now;
    const before = this.#activity;
    this.#activity = activity;
    this.#current = tally(this.#activities, activity);
    this.#current.count++;
    this.#detail = detail;
    if (detail !== undefined) detail.count++;
    if (activity === Activity.guestCode && !this.#ripAsked) {
      this.#ripAsked = true;
      this.interrupt();
    }
    return before;
  }
  #activity: Activity = Activity.loop;

  /** The vCPU turns to `activity` for as long as `work` takes, in the midst of what it is at. */
  within<T>(activity: Activity, work: () => T): T {
    const detail = this.#detail;
    const before = this.turn(activity);
    try {
      return work();
    } finally {
      this.turn(before, detail);
      // That was no new beginning.
      this.#current.count--;
      if (detail !== undefined) detail.count--;
    }
  }

  /** Guest code was left, for `state.leave`. */
  left(): void {
    const { leave, leaveDetail, rip } = this.state;
    switch (leave) {
      case Leave.FAULT:
        this.turn(Activity.exceptions);
        break;
      case Leave.DECODE:
      case Leave.CROSS:
        this.turn(Activity.decoding);
        break;
      case Leave.SYSTEM:
        this.turn(Activity.operations, tally(this.#operations, leaveDetail & 0xff));
        break;
      case Leave.HOT:
        this.turn(Activity.translating);
        break;
      case Leave.POLL:
        this.turn(Activity.loop);
        if (this.#since - this.#ripTaken >= RIP_INTERVAL) this.#takeRip(rip);
        break;
      default:
        this.turn(Activity.loop);
    }
  }

  #ripAsked = false;

  #takeRip(rip: bigint): void {
    this.#ripAsked = false;
    this.#ripTaken = this.#since;
    const place = rip & ~(RIP_GRAIN - 1n);
    this.#rips.set(place, (this.#rips.get(place) ?? 0) + 1);
  }

  /** `run` returns with `exit`, an access that the machine is to serve. */
  exited(exit: VmExit, isPort: boolean): void {
    this.turn(Activity.devices, tally(this.#accesses, isPort ? exit.port : -1 - exit.address));
    if (this.#since - this.#collected < COLLECT_INTERVAL) return;
    this.#collected = this.#since;
    this.#sampler.collect();
  }

  /** The end; `vcpu`: its number. */
  report(vcpu: number): VcpuProfile {
    this.turn(Activity.loop);
    const seconds = (this.#since - this.#started) / 1000;
    const { tiers, cold, script } = guestCode(this.#sampler.finish());
    const { cache, hot } = this.parts;
    const { counters } = this.state;
    const count = (name: string, value: number | bigint): ProfileRow => ({ name, count: Number(value) });
    const hotCounters = hot?.counters;
    return {
      vcpu,
      seconds,
      sections: [
        { name: "time", rows: rows(this.#activities, (activity) => activity) },
        { name: "guest code, sampled", rows: tiers },
        {
          name: "exits from guest code",
          rows: LEAVE_NAMES.map(([name, leave]) => count(name, counters[Counter.LEAVE + leave])).filter(
            (row) => row.count !== 0,
          ),
        },
        { name: "operations in TypeScript", rows: rows(this.#operations, (n) => SYSTEM_OPERATION_NAMES[n]) },
        {
          name: "devices",
          rows: rows(this.#accesses, accessName).map((row) => {
            const key = [...this.#accesses.keys()].find((candidate) => accessName(candidate) === row.name)!;
            return { ...row, access: accessOf(key) };
          }),
        },
        {
          name: "cold tier",
          rows: [
            count("instructions decoded", cache.decoded),
            count("bytes of decoded code", cache.bytesUsed),
            count("pages of code that were written", cache.invalidations),
            count("times that all decoded code was dropped", cache.flushes),
          ],
        },
        {
          name: "hot tier",
          rows: Object.entries(hotCounters ?? {}).map(([name, value]) => count(name, Math.round(value))),
        },
        {
          name: "memory",
          rows: [
            count("page walks", counters[Counter.WALK]),
            count("loads on the slow path", counters[Counter.SLOW_LOAD]),
            count("stores on the slow path", counters[Counter.SLOW_STORE]),
            count("read-modify-writes on the slow path", counters[Counter.SLOW_RMW]),
            count("TLB flushes", counters[Counter.FLUSH]),
          ],
        },
        { name: "instructions of the cold tier, sampled", rows: cold.slice(0, TOP) },
        { name: "JavaScript, sampled", rows: script.slice(0, TOP) },
        { name: "guest addresses, sampled at jumps", rows: this.#topRips() },
      ],
    };
  }

  #topRips(): ProfileRow[] {
    return [...this.#rips]
      .sort(([, a], [, b]) => b - a)
      .slice(0, TOP)
      .map(([rip, count]) => ({ name: `0x${rip.toString(16)}`, count }));
  }
}

function accessOf(key: number) {
  return key >= 0
    ? ({ space: "port", address: key } as const)
    : ({ space: "MMIO", address: -1 - key } as const);
}

function accessName(key: number): string {
  const { space, address } = accessOf(key);
  return `${space} 0x${address.toString(16)}`;
}

function rows<K>(map: Tallies<K>, name: (key: K) => string): ProfileRow[] {
  return [...map]
    .map(([key, { count, milliseconds }]) => ({ name: name(key), count, seconds: milliseconds / 1000 }))
    .sort((a, b) => b.seconds - a.seconds);
}
