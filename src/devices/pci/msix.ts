/** MSI-X: PCI Local Bus Specification 3.0, 6.8.2. Table and pending bits lie in one memory region of the function. */
import type { Vm } from "../../hypervisor/seam.js";
import { array, Layout, type ViewOf } from "../../memory/layout.js";
import { Mutex } from "../../memory/mutex.js";
import type { StateAllocator } from "../../memory/state-allocator.js";
import type { AccessSize, BusDevice } from "../bus.js";
import { type CapabilityDefinition, CapabilityId } from "./capabilities.js";
import type { ConfigSpace } from "./config-space.js";

const ENTRY_WORDS = 4;
/** Words of a table entry (6.8.2.6 to 6.8.2.9). */
const Entry = { ADDRESS: 0, ADDRESS_HIGH: 1, DATA: 2, CONTROL: 3 } as const;
const CONTROL_MASKED = 1;
/** The low two bits of the address are zero (6.8.2.7). */
const ADDRESS_MASK = 0xfffffffc;

/** Message control (6.8.2.3), in the upper half of the capability's first dword. */
const MessageControl = { FUNCTION_MASK: 1 << 14, ENABLE: 1 << 15 } as const;
const MESSAGE_CONTROL = 2;

/** Where table and pending bits are in the region. */
const TABLE_OFFSET = 0;
const PENDING_OFFSET = 0x800;
export const MSIX_REGION_SIZE = 0x1000;
const MAX_VECTORS = (PENDING_OFFSET - TABLE_OFFSET) / (4 * ENTRY_WORDS);

/** The capability of a function with `vectors` vectors whose table is in the region of base address register `bar`. */
export function msixCapability(vectors: number, bar: number): CapabilityDefinition {
  const body = new Uint8Array(10);
  const view = new DataView(body.buffer);
  view.setUint16(0, vectors - 1, true);
  view.setUint32(2, TABLE_OFFSET | bar, true);
  view.setUint32(6, PENDING_OFFSET | bar, true);
  const writable = new Uint8Array(10);
  writable[1] = (MessageControl.FUNCTION_MASK | MessageControl.ENABLE) >>> 8;
  return { id: CapabilityId.MSI_X, body, writable };
}

function msixLayout(vectors: number) {
  return new Layout("msix", {
    lock: "u32",
    table: array("u32", ENTRY_WORDS * vectors),
    /** A bit a vector. */
    pending: array("u32", Math.ceil(vectors / 32)),
  });
}

export class Msix implements BusDevice {
  readonly #state: ViewOf<ReturnType<typeof msixLayout>>;
  readonly #table: Uint32Array;
  readonly #pending: Uint32Array;
  readonly #lock: Mutex;

  /** `config` is the function's; `capability` the offset of its MSI-X capability there. */
  constructor(
    allocator: StateAllocator,
    name: string,
    readonly vectors: number,
    readonly vm: Pick<Vm, "signalMsi">,
    readonly config: ConfigSpace,
    readonly capability: number,
  ) {
    if (vectors > MAX_VECTORS) throw new RangeError(`${name}: ${vectors} MSI-X vectors`);
    const layout = msixLayout(vectors);
    this.#state = allocator.alloc(layout, name);
    this.#table = this.#state.table;
    this.#pending = this.#state.pending;
    this.#lock = new Mutex("msix", allocator.memory, this.#state.address + layout.offset.lock);
  }

  /** First values: every vector masked (6.8.2.9). */
  reset(): void {
    this.#lock.with(() => {
      this.#table.fill(0);
      this.#pending.fill(0);
      for (let i = 0; i < this.vectors; i++) this.#table[ENTRY_WORDS * i + Entry.CONTROL] = CONTROL_MASKED;
    });
  }

  get #control(): number {
    return this.config.readConfig(this.capability + MESSAGE_CONTROL, 2);
  }

  get enabled(): boolean {
    return (this.#control & MessageControl.ENABLE) !== 0;
  }

  /** Send the message of `vector`, or hold it while it is masked. Any thread. */
  trigger(vector: number): void {
    if (vector >= this.vectors) return;
    this.#lock.with(() => {
      this.#pending[vector >>> 5] |= 1 << (vector & 31);
      this.#send(vector);
    });
  }

  /** The function's message control was written, or its command register. */
  controlChanged(): void {
    this.#lock.with(() => {
      for (let vector = 0; vector < this.vectors; vector++) this.#send(vector);
    });
  }

  /** Send what is pending, if nothing masks it. Lock held. */
  #send(vector: number): void {
    const bit = 1 << (vector & 31);
    if ((this.#pending[vector >>> 5] & bit) === 0) return;
    const at = ENTRY_WORDS * vector;
    if ((this.#table[at + Entry.CONTROL] & CONTROL_MASKED) !== 0) return;
    // A message is a memory write: it waits until the function may make one (6.2.2).
    if (!this.config.isBusMaster) return;
    const { ENABLE, FUNCTION_MASK } = MessageControl;
    if ((this.#control & (ENABLE | FUNCTION_MASK)) !== ENABLE) return;
    this.#pending[vector >>> 5] &= ~bit;
    const high = BigInt(this.#table[at + Entry.ADDRESS_HIGH]);
    const address = (high << 32n) | BigInt(this.#table[at + Entry.ADDRESS]);
    try {
      this.vm.signalMsi({ address, data: this.#table[at + Entry.DATA] });
    } catch {
      // KVM refuses addresses that are no MSI's. On a PC such a message is a write to nowhere.
    }
  }

  // --- the region ---

  read(offset: number, size: AccessSize): number {
    const word = this.#lock.with(() => this.#word(offset >>> 2));
    const value = word >>> (8 * (offset & 3));
    return size === 4 ? value >>> 0 : value & (size === 2 ? 0xffff : 0xff);
  }

  #word(index: number): number {
    if (index < this.#table.length) return this.#table[index];
    return this.#pending[index - PENDING_OFFSET / 4] ?? 0;
  }

  /** Only aligned dwords and quadwords are defined (6.8.2); what is narrower is dropped. */
  write(offset: number, size: AccessSize, value: number): void {
    const index = offset >>> 2;
    if (size !== 4 || index >= this.#table.length) return;
    this.#lock.with(() => {
      const field = index % ENTRY_WORDS;
      if (field === Entry.ADDRESS) this.#table[index] = value & ADDRESS_MASK;
      else if (field === Entry.CONTROL) this.#table[index] = value & CONTROL_MASKED;
      else this.#table[index] = value;
      this.#send(Math.floor(index / ENTRY_WORDS));
    });
  }
}
