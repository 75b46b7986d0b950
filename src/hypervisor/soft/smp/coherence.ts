/**
 * Decoded code and TLBs of several vCPUs over one memory: who has to be told of a write, and how a vCPU is waited for.
 * The rules are in page-sharing.ts.
 */
import { aboutToWait } from "../../../memory/mutex.js";
import type { SharedMemory } from "../../../memory/shared-memory.js";
import type { StateAllocator } from "../../../memory/state-allocator.js";
import { O, Request, type VcpuState } from "../vcpu-state.js";
import { Bus } from "./bus-lock.js";
import { type PageEventReader, PageEvents } from "./page-events.js";
import { PageSharingMap } from "./page-sharing.js";

/** Looks at a vCPU that is about to leave guest code before this thread sleeps. */
const SPINS = 1000;
/** Milliseconds after which it looks again, should it not be woken. */
const SLEEP = 2;

export class Coherence {
  readonly sharing: PageSharingMap;
  readonly #queues: readonly PageEvents[];

  constructor(
    readonly memory: SharedMemory,
    allocator: StateAllocator,
    readonly vcpus: readonly VcpuState[],
    physMap: number,
    /** Address of the bus lock's word. */
    readonly busLock: number,
    /** Set bits of Request for a vCPU and make it leave guest code or sleep. */
    readonly request: (id: number, bits: number) => void,
  ) {
    this.sharing = new PageSharingMap(memory, physMap);
    this.#queues = vcpus.map((_, id) => new PageEvents(memory, allocator, `soft.page-events${id}`));
  }

  reset(): void {
    for (const queue of this.#queues) queue.reset();
  }

  /** Bytes of a page were written other than by way of a TLB: tell all owners but `except`. */
  written(page: number, offset: number, length: number, except = -1): void {
    let owners = this.sharing.ownersAfterStores(page);
    if (except >= 0) owners &= ~(1 << except);
    for (let id = 0; owners !== 0; id++, owners >>>= 1) {
      if ((owners & 1) === 0 || id >= this.#queues.length) continue;
      this.#queues[id].postWritten(page, offset, length);
      this.request(id, Request.PAGE_EVENTS);
    }
  }

  /** vCPU `id`, outside of guest code, is about to decode from `page`: come back when nobody writes to it unseen. */
  own(page: number, id: number): void {
    const writers = this.sharing.own(page, id);
    if (writers === 0) return;
    for (let other = 0; other < this.vcpus.length; other++) {
      if (((writers >>> other) & 1) === 0) continue;
      this.#queues[other].postDropWrites(page);
      this.request(other, Request.PAGE_EVENTS);
    }
    for (let other = 0; other < this.vcpus.length; other++) {
      if (((writers >>> other) & 1) !== 0) this.#waitOutside(other);
    }
    this.sharing.writersGone(page, writers);
  }

  /** Until vCPU `id`, which was asked to look at its queue, is out of guest code, or was since then. */
  #waitOutside(id: number): void {
    const { i32 } = this.memory;
    const { address } = this.vcpus[id];
    const epoch = (address + O.guestEpoch) >>> 2;
    const requests = (address + O.requests) >>> 2;
    const seen = Atomics.load(i32, epoch);
    if ((seen & 1) === 0) return;
    // Without the request, it has looked already, and is back in guest code.
    const waiting = () =>
      Atomics.load(i32, epoch) === seen && (Atomics.load(i32, requests) & Request.PAGE_EVENTS) !== 0;
    for (let i = 0; i < SPINS; i++) if (!waiting()) return;
    aboutToWait("another vCPU");
    while (waiting()) Atomics.wait(i32, epoch, seen, SLEEP);
  }

  /** vCPU `id` is about to run guest code; false where it has to `serve` first. */
  enter(id: number): boolean {
    this.#begin(id);
    if (
      (Atomics.load(this.memory.i32, (this.vcpus[id].address + O.requests) >>> 2) & Request.PAGE_EVENTS) ===
      0
    )
      return true;
    this.left(id);
    return false;
  }

  /** `store`, which writes guest memory for vCPU `id` outside of guest code, while no other vCPU has the bus. */
  storing(id: number, store: () => void): void {
    this.#begin(id);
    try {
      store();
    } finally {
      this.left(id);
    }
  }

  /** The epoch first: who sees it even may count on this vCPU's finding the request, or the bus taken. */
  #begin(id: number): void {
    const { i32 } = this.memory;
    const epoch = (this.vcpus[id].address + O.guestEpoch) >>> 2;
    const bus = this.busLock >>> 2;
    for (;;) {
      Atomics.add(i32, epoch, 1);
      if (Atomics.load(i32, bus) === Bus.FREE) return;
      Atomics.add(i32, epoch, 1);
      Atomics.notify(i32, epoch);
      if (Atomics.compareExchange(i32, bus, Bus.HELD, Bus.HELD_WITH_SLEEPERS) !== Bus.FREE) {
        aboutToWait("the bus");
        Atomics.wait(i32, bus, Bus.HELD_WITH_SLEEPERS, SLEEP);
      }
    }
  }

  /** vCPU `id` does not run guest code any more. */
  left(id: number): void {
    Atomics.add(this.memory.i32, (this.vcpus[id].address + O.guestEpoch) >>> 2, 1);
  }

  /** On vCPU `id`'s thread, outside of guest code: take the events, and wake who waits for that. */
  serve(id: number, reader: PageEventReader): void {
    const { i32 } = this.memory;
    const { address } = this.vcpus[id];
    Atomics.and(i32, (address + O.requests) >>> 2, ~Request.PAGE_EVENTS);
    this.#queues[id].drain(reader);
    Atomics.notify(i32, (address + O.guestEpoch) >>> 2);
  }
}
