/** The port at which the default guest reports what its command ended with: boot/guest-command.ts. */
import type { AccessSize, BusDevice } from "../devices/bus.js";

export class GuestStatusPort implements BusDevice {
  /** `onStatus` gets the byte written, on any vCPU's thread. */
  constructor(readonly onStatus: (status: number) => void) {}

  read(_offset: number, _size: AccessSize): number {
    return 0xff;
  }

  write(_offset: number, _size: AccessSize, value: number): void {
    this.onStatus(value & 0xff);
  }
}
