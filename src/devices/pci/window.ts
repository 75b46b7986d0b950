/**
 * The windows through which the host bridge forwards memory and port accesses to the regions of functions, wherever
 * software put them (PCI Local Bus Specification 3.0, 6.2.5). Where they are is shared state; each thread keeps a map of
 * it, which it makes again when the bridge's decode generation changes.
 */
import type { AccessSize, BusDevice } from "../bus.js";
import type { ConfigSpace } from "./config-space.js";

/** A region of a function and what answers there. */
export interface Region {
  readonly bar: number;
  readonly kind: "io" | "memory";
  readonly size: number;
  readonly device: BusDevice;
}

/** A function with regions. */
export interface RegionOwner {
  readonly config: ConfigSpace;
  readonly regions: readonly Region[];
}

interface Placed {
  readonly start: number;
  readonly end: number;
  readonly device: BusDevice;
}

export class PciWindow implements BusDevice {
  readonly #owners: RegionOwner[] = [];
  #map: Placed[] = [];
  #seen = -1;

  /** `base`: address of the window's first byte; `generation` changes whenever a region may have moved. */
  constructor(
    readonly kind: "io" | "memory",
    readonly base: number,
    readonly generation: () => number,
  ) {}

  add(owner: RegionOwner): void {
    this.#owners.push(owner);
  }

  #find(address: number): Placed | undefined {
    const generation = this.generation();
    if (generation !== this.#seen) {
      this.#seen = generation;
      this.#map = this.#owners.flatMap(({ config, regions }) =>
        regions.flatMap(({ bar, kind, size, device }) => {
          const start = kind === this.kind ? config.regionAddress(bar) : undefined;
          return start === undefined ? [] : [{ start, end: start + size, device }];
        }),
      );
    }
    for (const placed of this.#map) if (address >= placed.start && address < placed.end) return placed;
    return undefined;
  }

  decodes(offset: number): boolean {
    return this.#find(this.base + offset) !== undefined;
  }

  /** All ones where no function decodes the address. */
  read(offset: number, size: AccessSize): number {
    const address = this.base + offset;
    const found = this.#find(address);
    if (found === undefined || address + size > found.end) return 0xffffffff;
    return found.device.read(address - found.start, size);
  }

  write(offset: number, size: AccessSize, value: number): void {
    const address = this.base + offset;
    const found = this.#find(address);
    if (found === undefined || address + size > found.end) return;
    found.device.write(address - found.start, size, value);
  }
}
