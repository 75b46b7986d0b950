/** Wires between devices and the interrupt controllers. */
import type { Vm } from "../hypervisor/seam.js";
import { Layout, type ViewOf } from "../memory/layout.js";
import { Mutex } from "../memory/mutex.js";
import type { StateAllocator } from "../memory/state-allocator.js";

/** A level-signalled wire. Devices call `set` with their own lock held, so that levels arrive in their order. */
export interface InterruptLine {
  set(level: boolean): void;
}

/** A wire that leads nowhere. */
export const UNCONNECTED: InterruptLine = { set: () => undefined };

/** The wire that leads to a GSI of the machine. */
export function gsiLine(vm: Pick<Vm, "setIrqLine">, gsi: number): InterruptLine {
  return { set: (level) => vm.setIrqLine(gsi, level) };
}

const WIRED_OR = new Layout("wired-or", {
  lock: "u32",
  /** A bit an input: the ones that are high. */
  high: "u32",
});

const MAX_INPUTS = 32;

/**
 * An interrupt line that several devices share, such as IRQ4 of COM1 and COM3: it is high while any input is.
 * Each thread makes the same inputs in the same order.
 */
export class WiredOr {
  readonly #state: ViewOf<typeof WIRED_OR>;
  readonly #lock: Mutex;
  #inputs = 0;

  constructor(
    allocator: StateAllocator,
    readonly name: string,
    readonly output: InterruptLine,
  ) {
    this.#state = allocator.alloc(WIRED_OR, name);
    this.#lock = new Mutex("irq-line", allocator.memory, this.#state.address + WIRED_OR.offset.lock);
  }

  /** First values: all inputs low. The output is low by the reset of what is behind it. */
  reset(): void {
    this.#state.high = 0;
  }

  /** A further input. */
  input(): InterruptLine {
    if (this.#inputs === MAX_INPUTS) throw new RangeError(`${this.name}: more than ${MAX_INPUTS} inputs`);
    const bit = 1 << this.#inputs++;
    return { set: (level) => this.#set(bit, level) };
  }

  #set(bit: number, level: boolean): void {
    this.#lock.lock();
    const before = this.#state.high;
    const after = level ? before | bit : before & ~bit;
    this.#state.high = after;
    // Under the lock: otherwise two threads' levels could reach the output in the wrong order.
    if ((before !== 0) !== (after !== 0)) this.output.set(after !== 0);
    this.#lock.unlock();
  }
}
