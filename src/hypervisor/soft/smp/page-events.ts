/** What other threads have to tell a vCPU about guest-physical pages: a queue in shared memory, emptied by the vCPU's thread. */
import { array, Layout, type ViewOf } from "../../../memory/layout.js";
import { Mutex } from "../../../memory/mutex.js";
import type { SharedMemory } from "../../../memory/shared-memory.js";
import type { StateAllocator } from "../../../memory/state-allocator.js";

const MAX_EVENTS = 128;
/** In the first word of an event, above the page number. */
const DROP_WRITES = 1 << 31;
const PAGE_NUMBER = 0x7fff_ffff;

const PAGE_EVENTS = new Layout("soft-page-events", {
  lock: "u32",
  count: "u32",
  /** There were more events than fit. */
  overflow: "u32",
  /** Two words an event: page and kind; first and last byte in the page. */
  events: array("u32", 2 * MAX_EVENTS),
});

export interface PageEventReader {
  /** `length` bytes at `offset` of the page were written. */
  written(page: number, offset: number, length: number): void;
  /** The page is no longer to be written by way of the TLB. */
  dropWrites(page: number): void;
  /** What happened did not fit: anything may have. */
  everything(): void;
}

export class PageEvents {
  readonly #state: ViewOf<typeof PAGE_EVENTS>;
  readonly #lock: Mutex;

  constructor(memory: SharedMemory, allocator: StateAllocator, name: string) {
    this.#state = allocator.alloc(PAGE_EVENTS, name);
    this.#lock = new Mutex("soft-page-events", memory, this.#state.address + PAGE_EVENTS.offset.lock);
  }

  reset(): void {
    this.#state.count = 0;
    this.#state.overflow = 0;
  }

  postWritten(page: number, offset: number, length: number): void {
    this.#post(page, offset, offset + length - 1);
  }

  postDropWrites(page: number): void {
    this.#post((page | DROP_WRITES) >>> 0, 0, 0);
  }

  #post(what: number, first: number, last: number): void {
    const state = this.#state;
    this.#lock.lock();
    const { count, events } = state;
    const at = 2 * count;
    // Whoever fills a page writes it bit by bit.
    if (count > 0 && events[at - 2] === what) {
      const range = events[at - 1];
      events[at - 1] = Math.min(range & 0xffff, first) | (Math.max(range >>> 16, last) << 16);
    } else if (count < MAX_EVENTS) {
      events[at] = what;
      events[at + 1] = first | (last << 16);
      state.count = count + 1;
    } else state.overflow = 1;
    this.#lock.unlock();
  }

  /** For the vCPU's thread: hand everything over to `reader`, with no lock held. */
  drain(reader: PageEventReader): void {
    const state = this.#state;
    this.#lock.lock();
    const events = state.events.slice(0, 2 * state.count);
    const overflow = state.overflow !== 0;
    this.reset();
    this.#lock.unlock();
    if (overflow) {
      reader.everything();
      return;
    }
    for (let i = 0; i < events.length; i += 2) {
      const page = events[i] & PAGE_NUMBER;
      const first = events[i + 1] & 0xffff;
      if ((events[i] & DROP_WRITES) !== 0) reader.dropWrites(page);
      else reader.written(page, first, (events[i + 1] >>> 16) - first + 1);
    }
  }
}
