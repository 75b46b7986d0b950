/**
 * System control port A, 0x92 (IBM, "Personal System/2 Hardware Interface Technical Reference", System Control Port A): the fast
 * ways to gate A20 and to reset the processor. The CPU has no A20 gate: the bit is stored.
 */
import { Layout, type ViewOf } from "../memory/layout.js";
import type { StateAllocator } from "../memory/state-allocator.js";
import type { AccessSize, BusDevice } from "./bus.js";

export const SYSTEM_CONTROL_PORT = 0x92;

const FAST_RESET = 0x01;
const A20 = 0x02;

const SYSTEM_CONTROL = new Layout("system-control", { value: "u8" });

export class SystemControlPort implements BusDevice {
  readonly #state: ViewOf<typeof SYSTEM_CONTROL>;

  /** `onReset`: the guest asked for a processor reset; called on the vCPU's thread. */
  constructor(
    allocator: StateAllocator,
    readonly onReset: () => void,
  ) {
    this.#state = allocator.alloc(SYSTEM_CONTROL, "system-control");
  }

  /** First values: A20 is on, as firmware leaves it. */
  reset(): void {
    this.#state.value = A20;
  }

  read(_offset: number, _size: AccessSize): number {
    return this.#state.value;
  }

  write(_offset: number, _size: AccessSize, value: number): void {
    const before = this.#state.value;
    this.#state.value = value & (FAST_RESET | A20);
    // The reset is at the bit's rising edge.
    if ((value & ~before & FAST_RESET) !== 0) this.onReset();
  }
}
