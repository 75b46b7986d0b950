/**
 * The memory balloon: VIRTIO 5.5. Pages that the guest puts into it, or reports as free, go back to the host and read as zeros when
 * the guest touches them again; nothing is kept of which pages these are.
 */
import { array, Layout, type ViewOf } from "../../memory/layout.js";
import type { StateAllocator } from "../../memory/state-allocator.js";
import type { AccessSize } from "../bus.js";
import type { BufferList } from "./buffers.js";
import { readBytes, writeBytes } from "./config-bytes.js";
import { DeviceId } from "./constants.js";
import type { DeviceType, VirtioDevice } from "./device.js";
import type { Queue } from "./queue.js";

export const BalloonFeature = {
  STATS_VQ: 1,
  DEFLATE_ON_OOM: 2,
  FREE_PAGE_HINT: 3,
  PAGE_REPORTING: 5,
} as const;

/** VIRTIO 5.5.2. All the optional queues are offered, so that their numbers are the same however a driver counts. */
const BalloonQueue = { INFLATE: 0, DEFLATE: 1, STATS: 2, FREE_PAGE: 3, REPORTING: 4 } as const;
const QUEUES = 5;
const QUEUE_SIZE = 128;

/** Offsets in the configuration, VIRTIO 5.5.4. */
const Config = { NUM_PAGES: 0, ACTUAL: 4, FREE_PAGE_HINT_ID: 8, POISON: 12 } as const;
const CONFIG_SIZE = 16;

/** Page numbers count pages of this size whatever the guest's are (5.5.6). */
export const BALLOON_PAGE = 4096;
const PAGE_NUMBER_SIZE = 4;
/** Page numbers in one request that are looked at. */
const MAX_PAGE_NUMBERS = 4096;

/** Statistics, VIRTIO 5.5.6.3: { tag u16, value u64 }. */
const STAT_SIZE = 10;
export const BALLOON_STATS = [
  "swapIn",
  "swapOut",
  "majorFaults",
  "minorFaults",
  "freeMemory",
  "totalMemory",
  "availableMemory",
  "diskCaches",
  "hugetlbAllocations",
  "hugetlbFailures",
] as const;
/** Tags are counted on since: these are of later versions, up to 16. */
const STAT_SLOTS = 16;

const BALLOON = new Layout("virtio-balloon", {
  config: array("u8", CONFIG_SIZE),
  /** Pages that the host wants in the balloon. Written by any thread. */
  wanted: "u32",
  /** Incremented by whoever wants fresh statistics, and what of that was asked of the driver. */
  statsWanted: "u32",
  statsAsked: "u32",
  /** The driver's buffer was looked at; it stays on the ring until fresh statistics are wanted (5.5.6.3). */
  statsSeen: "u32",
  /** Incremented when statistics came; notified. */
  statsVersion: "u32",
  /** A bit a tag that the driver gave. */
  statsValid: "u32",
  stats: array("u64", STAT_SLOTS),
});

export type BalloonStats = Partial<Record<(typeof BALLOON_STATS)[number], number>>;

/** Gives memory back to the host: offset in the shared memory and bytes, both multiples of 4096. */
export type ReleasePages = (offset: number, length: number) => void;

export class BalloonDevice implements DeviceType {
  readonly id = DeviceId.BALLOON;
  readonly kind = "balloon";
  readonly legacy = true;
  readonly configSize = CONFIG_SIZE;
  readonly features = Object.values(BalloonFeature);
  readonly queueSizes: readonly number[] = Array.from({ length: QUEUES }, () => QUEUE_SIZE);
  readonly #state: ViewOf<typeof BALLOON>;
  readonly #config: Uint8Array;
  readonly #words: Int32Array;
  readonly #release: ReleasePages;

  constructor(allocator: StateAllocator, name: string, release: ReleasePages) {
    this.#state = allocator.alloc(BALLOON, `${name}.balloon`);
    this.#config = this.#state.config;
    this.#words = allocator.memory.i32;
    this.#release = release;
  }

  #word(field: "wanted" | "statsWanted" | "statsVersion"): number {
    return (this.#state.address + BALLOON.offset[field]) >>> 2;
  }

  // --- the host's side: any thread; ring the device's doorbell after `want` and `askForStats` ---

  /** How large the balloon is to be, in bytes. */
  want(bytes: number): void {
    Atomics.store(this.#words, this.#word("wanted"), Math.floor(bytes / BALLOON_PAGE));
  }

  /** Bytes wanted in the balloon, and bytes that the driver says are in it. */
  get size(): { wanted: number; actual: number } {
    const wanted = Atomics.load(this.#words, this.#word("wanted")) >>> 0;
    return {
      wanted: wanted * BALLOON_PAGE,
      actual: readBytes(this.#config, Config.ACTUAL, 4) * BALLOON_PAGE,
    };
  }

  askForStats(): void {
    Atomics.add(this.#words, this.#word("statsWanted"), 1);
  }

  /** Changes when statistics come. */
  get statsVersion(): number {
    return Atomics.load(this.#words, this.#word("statsVersion"));
  }

  /** Resolves when statistics newer than `version` came, or after `milliseconds`. */
  async newStats(version: number, milliseconds: number): Promise<void> {
    const result = Atomics.waitAsync(this.#words, this.#word("statsVersion"), version, milliseconds);
    if (result.async) await result.value;
  }

  /** What the driver told last; sizes in bytes. */
  get stats(): BalloonStats {
    const { statsValid, stats } = this.#state;
    const known = BALLOON_STATS.map((name, tag) => [name, tag] as const);
    return Object.fromEntries(
      known
        .filter(([, tag]) => (statsValid & (1 << tag)) !== 0)
        .map(([name, tag]) => [name, Number(stats[tag])]),
    );
  }

  // --- the guest's side ---

  readConfig(offset: number, size: AccessSize): number {
    return readBytes(this.#config, offset, size);
  }

  /** 5.5.4: `actual` is the driver's. */
  writeConfig(offset: number, size: AccessSize, value: number): void {
    if (offset >= Config.ACTUAL && offset + size <= Config.FREE_PAGE_HINT_ID) {
      writeBytes(this.#config, offset, size, value);
    }
  }

  reset(): void {
    this.#config.fill(0);
    this.#takeWanted();
    const state = this.#state;
    state.statsSeen = 0;
    state.statsAsked = state.statsWanted;
    state.statsValid = 0;
  }

  #takeWanted(): boolean {
    const wanted = Atomics.load(this.#words, this.#word("wanted")) >>> 0;
    if (readBytes(this.#config, Config.NUM_PAGES, 4) === wanted) return false;
    writeBytes(this.#config, Config.NUM_PAGES, 4, wanted);
    return true;
  }

  poll(device: VirtioDevice): void {
    if (this.#takeWanted()) device.configChanged();
  }

  serve(queue: Queue, index: number): boolean {
    switch (index) {
      case BalloonQueue.INFLATE:
        return queue.each(({ readable }) => {
          this.#inflate(queue.device, readable);
          return 0;
        });
      case BalloonQueue.STATS:
        this.#serveStats(queue);
        return false;
      case BalloonQueue.REPORTING:
        return queue.each(({ writable }) => {
          this.#giveBack(writable);
          return 0;
        });
      default:
        // Deflated pages need nothing: they read as zeros. Free page hints are never asked for.
        return queue.each(() => 0);
    }
  }

  /** 5.5.6: the pages of these numbers are the host's. */
  #inflate(device: VirtioDevice, list: BufferList): void {
    const numbers = new Uint8Array(Math.min(list.length, MAX_PAGE_NUMBERS * PAGE_NUMBER_SIZE));
    list.copyTo(numbers);
    const fields = new DataView(numbers.buffer);
    let start = 0;
    let length = 0;
    const end = () => {
      if (length > 0) this.#release(start, length);
      length = 0;
    };
    for (let at = 0; at + PAGE_NUMBER_SIZE <= numbers.length; at += PAGE_NUMBER_SIZE) {
      const address = fields.getUint32(at, true) * BALLOON_PAGE;
      // A page that is no RAM is the driver's mistake, and nobody's loss.
      if (!device.memory.contains(address, BALLOON_PAGE)) continue;
      const offset = device.memory.offset(
        address as Parameters<typeof device.memory.offset>[0],
        BALLOON_PAGE,
      );
      // Pages come one by one, often downwards; one call for a run of them.
      if (length > 0 && offset === start + length) length += BALLOON_PAGE;
      else if (length > 0 && offset === start - BALLOON_PAGE) {
        start = offset;
        length += BALLOON_PAGE;
      } else {
        end();
        start = offset;
        length = BALLOON_PAGE;
      }
    }
    end();
  }

  /** 5.5.6.7: reported ranges, whole pages of them. */
  #giveBack(ranges: BufferList): void {
    ranges.offsets.forEach((offset, i) => {
      const start = Math.ceil(offset / BALLOON_PAGE) * BALLOON_PAGE;
      const end = Math.floor((offset + ranges.lengths[i]) / BALLOON_PAGE) * BALLOON_PAGE;
      if (end > start) this.#release(start, end - start);
    });
  }

  #serveStats(queue: Queue): void {
    const state = this.#state;
    if (state.statsSeen !== 0) {
      if (state.statsAsked === state.statsWanted) return;
      // Giving the buffer back asks the driver for new ones.
      const held = queue.pop();
      if (held === undefined) return;
      state.statsAsked = state.statsWanted;
      state.statsSeen = 0;
      queue.push(held, 0);
      return;
    }
    const chain = queue.pop();
    if (chain === undefined) return;
    this.#readStats(chain.readable);
    state.statsSeen = 1;
    queue.undoPop(chain);
    Atomics.add(this.#words, this.#word("statsVersion"), 1);
    Atomics.notify(this.#words, this.#word("statsVersion"));
  }

  #readStats(list: BufferList): void {
    const bytes = new Uint8Array(Math.min(list.length, STAT_SIZE * STAT_SLOTS));
    list.copyTo(bytes);
    const fields = new DataView(bytes.buffer);
    const { stats } = this.#state;
    for (let at = 0; at + STAT_SIZE <= bytes.length; at += STAT_SIZE) {
      const tag = fields.getUint16(at, true);
      if (tag >= STAT_SLOTS) continue;
      stats[tag] = fields.getBigUint64(at + 2, true);
      this.#state.statsValid |= 1 << tag;
    }
  }
}
