/**
 * The debug-exit port that test suites for virtual machines end themselves with (kvm-unit-tests, many kernels' own
 * tests). Interface: QEMU's `isa-debug-exit`: a write of V, of any size, ends the machine with status (V << 1) | 1, so that no
 * test can end with 0 by accident; reads give 0.
 */
import type { AccessSize, BusDevice } from "./bus.js";

export const DEBUG_EXIT_PORT = 0xf4;
export const DEBUG_EXIT_SIZE = 4;

export class DebugExit implements BusDevice {
  /** `onExit` gets the machine's exit status: (V << 1) | 1, of which an exit status holds 8 bits. Any vCPU's thread. */
  constructor(readonly onExit: (status: number) => void) {}

  read(_offset: number, _size: AccessSize): number {
    return 0;
  }

  write(_offset: number, _size: AccessSize, value: number): void {
    this.onExit(((value << 1) | 1) & 0xff);
  }
}
