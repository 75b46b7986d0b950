/**
 * Doorbells of the software CPU: writes that ring a word in shared memory and make no exit. The table is shared; each thread
 * keeps a map of it, which it makes again when the table changed.
 */
import { array, Layout, type ViewOf } from "../../memory/layout.js";
import { Mutex } from "../../memory/mutex.js";
import type { SharedMemory } from "../../memory/shared-memory.js";
import type { StateAllocator } from "../../memory/state-allocator.js";
import type { Doorbell } from "../seam.js";

/** Two for each of the devices that a machine can have. */
const MAX_DOORBELLS = 64;
const TWO_32 = 2 ** 32;

const Space = { PORT: 0, MMIO: 1 } as const;

const DOORBELLS = new Layout("soft-doorbells", {
  lock: "u32",
  /** Incremented at every change. */
  generation: "u32",
  /** Offset of the word to ring; 0: the entry is free. */
  word: array("u32", MAX_DOORBELLS),
  space: array("u32", MAX_DOORBELLS),
  addressLow: array("u32", MAX_DOORBELLS),
  addressHigh: array("u32", MAX_DOORBELLS),
  size: array("u32", MAX_DOORBELLS),
  matches: array("u32", MAX_DOORBELLS),
  datamatch: array("u64", MAX_DOORBELLS),
});

export class SoftDoorbells {
  readonly #state: ViewOf<typeof DOORBELLS>;
  readonly #words: Int32Array;
  readonly #generation: number;
  readonly #lock: Mutex;
  #byAddress = new Map<number, Doorbell[]>();
  #seen = 0;

  constructor(memory: SharedMemory, allocator: StateAllocator) {
    this.#state = allocator.alloc(DOORBELLS, "soft.doorbells");
    this.#words = memory.i32;
    this.#generation = (this.#state.address + DOORBELLS.offset.generation) >>> 2;
    this.#lock = new Mutex("soft-doorbells", memory, this.#state.address + DOORBELLS.offset.lock);
  }

  /** Throws `RangeError` where there are too many. */
  add(bell: Doorbell): void {
    const state = this.#state;
    this.#lock.with(() => {
      const entry = state.word.indexOf(0);
      if (entry < 0) throw new RangeError(`more than ${MAX_DOORBELLS} doorbells`);
      state.space[entry] = bell.space === "port" ? Space.PORT : Space.MMIO;
      state.addressLow[entry] = bell.address % TWO_32;
      state.addressHigh[entry] = Math.floor(bell.address / TWO_32);
      state.size[entry] = bell.size;
      state.matches[entry] = bell.datamatch === undefined ? 0 : 1;
      state.datamatch[entry] = bell.datamatch ?? 0n;
      state.word[entry] = bell.word;
      Atomics.add(this.#words, this.#generation, 1);
    });
  }

  /** Take `bell` away, as it was added. False where there is none such. */
  remove(bell: Doorbell): boolean {
    const state = this.#state;
    return this.#lock.with(() => {
      for (let entry = 0; entry < MAX_DOORBELLS; entry++) {
        if (state.word[entry] !== bell.word || !same(this.#read(entry), bell)) continue;
        state.word[entry] = 0;
        Atomics.add(this.#words, this.#generation, 1);
        return true;
      }
      return false;
    });
  }

  #read(entry: number): Doorbell {
    const { space, addressLow, addressHigh, size, matches, datamatch, word } = this.#state;
    return {
      space: space[entry] === Space.PORT ? "port" : "mmio",
      address: addressHigh[entry] * TWO_32 + addressLow[entry],
      size: size[entry] as Doorbell["size"],
      ...(matches[entry] === 0 ? {} : { datamatch: datamatch[entry] }),
      word: word[entry],
    };
  }

  #refresh(): void {
    this.#lock.with(() => {
      this.#seen = Atomics.load(this.#words, this.#generation);
      this.#byAddress = new Map();
      for (let entry = 0; entry < MAX_DOORBELLS; entry++) {
        if (this.#state.word[entry] === 0) continue;
        const bell = this.#read(entry);
        const others = this.#byAddress.get(bell.address);
        if (others === undefined) this.#byAddress.set(bell.address, [bell]);
        else others.push(bell);
      }
    });
  }

  /** Ring the doorbell of a write, if it has one; true where it was consumed. */
  ring(space: Doorbell["space"], address: number, size: number, value: bigint): boolean {
    if (Atomics.load(this.#words, this.#generation) !== this.#seen) this.#refresh();
    const bells = this.#byAddress.get(address);
    if (bells === undefined) return false;
    for (const bell of bells) {
      if (bell.space !== space) continue;
      if (bell.size !== 0 && bell.size !== size) continue;
      if (bell.datamatch !== undefined && bell.datamatch !== value) continue;
      Atomics.add(this.#words, bell.word >>> 2, 1);
      Atomics.notify(this.#words, bell.word >>> 2);
      return true;
    }
    return false;
  }
}

function same(a: Doorbell, b: Doorbell): boolean {
  return a.space === b.space && a.address === b.address && a.size === b.size && a.datamatch === b.datamatch;
}
